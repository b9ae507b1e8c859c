//! The gradient of the weights: for every tap, output channels times input channels, summed over the pixels.

use std::ops::Range;

use rayon::prelude::*;

use super::Geometry;
use super::correlate::Sight;
use crate::element::Element;
use crate::product::kernel::{COLS, ROWS};
use crate::product::multiply::{Dense, multiply, multiply_in_parallel};
use crate::product::{Instructions, Lines, Panels, Turned};
use crate::simd::{CHUNK, simd};

/// From so many output pixels on, tasks sum some of them each; a sum is the better the longer it is.
const MANY: usize = 8192;
const SUMMED_BY_TASK: usize = 4096;

/// Elements of all partial sums together, at most.
const PARTIAL: usize = 1 << 22;

/// Pixels that are packed at a time: by one task, a panel of which fits the first cache; or elements by all of them.
const PACKED: usize = 256;
const PACKED_TOGETHER: usize = 1 << 22;

/// Writes all of `dw`, `[c_out, c_in, k_h, k_w]`.
pub(super) fn weight_gradient<T: Element>(
    instructions: Instructions,
    g: &Geometry,
    sight: &Sight<'_, T>,
    grad: &[T],
    dw: &mut [T],
) {
    let (rows, taps, len) = (g.rows(), g.taps(), g.taps() * g.c_out);
    let tasks = if rows >= MANY { (rows / SUMMED_BY_TASK).min(PARTIAL / len.max(1)).max(1) } else { 1 };
    let mut sums = vec![T::zero(); tasks * len];
    let summed_by_task = rows.div_ceil(tasks);
    let sum_pixels = |sum: &mut [T], pixels: Range<usize>, parallel: bool| {
        let (mut panels, mut turned) = (Panels::default(), Turned::default());
        assert_eq!(sum.len(), len);
        let to = Dense { first: sum.as_mut_ptr(), stride: taps };
        let packed = if parallel { (PACKED_TOGETHER / taps.max(g.c_out)).max(PACKED) } else { PACKED };
        for first in pixels.clone().step_by(packed) {
            let pixels = first..(first + packed).min(pixels.end);
            pack_pixels(sight, pixels.clone(), &mut panels, parallel);
            pack_gradient(&grad[pixels.start * g.c_out..pixels.end * g.c_out], g.c_out, &mut turned, parallel);
            // SAFETY: both factors are packed; the sum has `taps` elements for each of the `c_out` channels, and they are initialised.
            unsafe {
                match parallel {
                    true => multiply_in_parallel(instructions, &turned, &panels, &to, true),
                    false => multiply(instructions, &turned, &panels, &to, true),
                }
            }
        }
    };
    if tasks == 1 {
        sum_pixels(&mut sums, 0..rows, true);
    } else {
        sums.par_chunks_mut(len).enumerate().for_each(|(task, sum)| {
            let of_task = |task: usize| (task * summed_by_task).min(rows);
            sum_pixels(sum, of_task(task)..of_task(task + 1), false);
        });
        let (sum, others) = sums.split_at_mut(len);
        sum.par_chunks_mut(CHUNK).enumerate().for_each(|(i, sum)| {
            for other in others.chunks_exact(len) {
                sum.iter_mut().zip(&other[i * CHUNK..]).for_each(|(sum, &other)| *sum += other);
            }
        });
    }
    let area = g.k_h * g.k_w;
    dw.par_chunks_mut(taps).zip(sums.par_chunks(taps)).for_each(|(dw, sum)| {
        for (tap, sum) in sum.chunks_exact(g.c_in).enumerate() {
            sum.iter().zip(dw[tap..].iter_mut().step_by(area)).for_each(|(&sum, dw)| *dw = sum);
        }
    });
}

/// What some output pixels see as a right factor: a line a pixel, columns (tap, channel).
fn pack_pixels<T: Element>(sight: &Sight<'_, T>, pixels: Range<usize>, panels: &mut Panels<T>, parallel: bool) {
    let (map, cols) = (sight.map, sight.taps.len() * sight.map.channels);
    let write = |lines: Range<usize>, memory: Lines<T, COLS>| {
        simd(
            #[inline(always)]
            || {
                for line in lines {
                    let [picture, y, x] = sight.place(pixels.start + line);
                    for (tap, &[down, right]) in sight.taps.iter().enumerate() {
                        let row = (y * sight.step).wrapping_add_signed(down);
                        let col = (x * sight.step).wrapping_add_signed(right);
                        let first = || ((picture * map.h + row) * map.w + col) * map.channels;
                        // What is left of the map has wrapped around to the far right.
                        let seen = match row < map.h && col < map.w {
                            true => &map.pixels[first()..][..map.channels],
                            false => map.outside,
                        };
                        // SAFETY: it is one of this task's lines.
                        unsafe { memory.write(line, tap * map.channels, seen) };
                    }
                    // SAFETY: as above.
                    unsafe { memory.fill(line, cols) };
                }
            },
        );
    };
    // SAFETY: the taps are all columns of a line.
    unsafe { panels.pack(pixels.len(), cols, parallel, write) };
}

/// The gradient of some output pixels as a left factor: a row an output channel.
fn pack_gradient<T: Element>(grad: &[T], channels: usize, turned: &mut Turned<T>, parallel: bool) {
    let write = |lines: Range<usize>, memory: Lines<T, ROWS>| {
        simd(
            #[inline(always)]
            || {
                for line in lines {
                    // SAFETY: it is one of this task's lines, all of it.
                    unsafe {
                        memory.write(line, 0, &grad[line * channels..][..channels]);
                        memory.fill(line, channels);
                    }
                }
            },
        );
    };
    // SAFETY: every line is written.
    unsafe { turned.pack(grad.len() / channels, channels, parallel, write) };
}
