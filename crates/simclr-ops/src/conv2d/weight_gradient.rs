//! The gradient of the weights: for every tap, output channels times input channels, summed over the pixels.

use std::ops::Range;

use rayon::prelude::*;

use super::correlate::Sight;
use crate::element::Element;
use crate::product::kernel::COLS;
use crate::product::multiply::{Dense, multiply};
use crate::product::{Instructions, Lines, Panels, Turned};
use crate::simd::simd;

/// Pixels that are packed at a time: by one task, a panel of which fits the first cache; or elements by all of them.
const PACKED: usize = 192;
const PACKED_TOGETHER: usize = 1 << 22;

/// The gradient of the weights by its definition; its sums are `[c_out, tap, c_in]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Direct {
    pub(super) instructions: Instructions,
    pub(super) c_in: usize,
    pub(super) c_out: usize,
    /// Taps of a kernel.
    pub(super) area: usize,
}

impl Direct {
    /// How many sums there are.
    pub(super) fn sums(&self) -> usize {
        self.c_out * self.area * self.c_in
    }

    /// Adds the products of some pictures to the sums.
    pub(super) fn add_weight_gradient<T: Element>(
        &self,
        sight: &Sight<'_, T>,
        grad: &[T],
        sums: &mut [T],
        parallel: bool,
    ) {
        let (taps, c_out) = (self.area * self.c_in, self.c_out);
        assert_eq!(sums.len(), taps * c_out);
        let to = Dense { first: sums.as_mut_ptr(), stride: taps };
        let (mut panels, mut turned) = (Panels::default(), Turned::default());
        let packed = if parallel { (PACKED_TOGETHER / taps.max(c_out)).max(PACKED) } else { PACKED };
        let rows = grad.len() / c_out;
        for first in (0..rows).step_by(packed) {
            let pixels = first..(first + packed).min(rows);
            pack_pixels(sight, pixels.clone(), &mut panels, parallel);
            turned.pack_lines(&grad[pixels.start * c_out..], pixels.len(), c_out, c_out, parallel);
            // SAFETY: both factors are packed; the sums are `taps` for each of the `c_out` channels, and they are initialised.
            unsafe { multiply(self.instructions, &turned, &panels, &to, true, parallel) };
        }
    }

    /// Writes the gradient, `[c_out, c_in, k_h, k_w]`.
    pub(super) fn weight_gradient<T: Element>(&self, sums: &[T], dw: &mut [T]) {
        let taps = self.area * self.c_in;
        dw.par_chunks_mut(taps).zip(sums.par_chunks(taps)).for_each(|(dw, sums)| {
            for (tap, sums) in sums.chunks_exact(self.c_in).enumerate() {
                sums.iter().zip(dw[tap..].iter_mut().step_by(self.area)).for_each(|(&sum, dw)| *dw = sum);
            }
        });
    }
}

/// What some output pixels see as a right factor: a line a pixel, columns (tap, channel).
fn pack_pixels<T: Element>(sight: &Sight<'_, T>, pixels: Range<usize>, panels: &mut Panels<T>, parallel: bool) {
    let (map, cols, runs) = (sight.map, sight.taps.len() * sight.map.channels, runs(&sight.taps));
    // Channels that fill whole blocks are written where they belong; few channels would be written one by one, so the line of a pixel
    // is put together first.
    let in_blocks = map.channels.is_multiple_of(COLS);
    let write = |lines: Range<usize>, memory: Lines<T, COLS>| {
        let mut together = Vec::with_capacity(cols);
        simd(
            #[inline(always)]
            || {
                for line in lines {
                    let [picture, y, x] = sight.place(pixels.start + line);
                    together.clear();
                    let mut put = |tap: usize, seen: &[T]| match in_blocks {
                        // SAFETY: it is one of this task's lines.
                        true => unsafe { memory.write(line, tap * map.channels, seen) },
                        false => together.extend_from_slice(seen),
                    };
                    for &Run { first, len, at: [down, right] } in &runs {
                        // What is left of the map wraps around to the far right.
                        let row = (y * sight.step).wrapping_add_signed(down);
                        let col = |tap: usize| (x * sight.step).wrapping_add_signed(right).wrapping_add(tap);
                        let seen = |tap: usize, taps: usize| {
                            let pixel = (picture * map.h + row) * map.w + col(tap);
                            &map.pixels[pixel * map.channels..][..taps * map.channels]
                        };
                        if row < map.h && col(0) < map.w && col(len - 1) < map.w {
                            put(first, seen(0, len));
                        } else {
                            for tap in 0..len {
                                let inside = row < map.h && col(tap) < map.w;
                                put(first + tap, if inside { seen(tap, 1) } else { map.outside });
                            }
                        }
                    }
                    // SAFETY: it is one of this task's lines.
                    unsafe {
                        memory.write(line, 0, &together);
                        memory.fill(line, cols);
                    }
                }
            },
        );
    };
    // SAFETY: the taps are all columns of a line.
    unsafe { panels.pack(pixels.len(), cols, parallel, write) };
}

/// Taps that see pixels side by side: those lie together in the map.
struct Run {
    /// The first of them, and how many there are.
    first: usize,
    len: usize,
    /// What the first output pixel sees through the first: row and column.
    at: [isize; 2],
}

fn runs(taps: &[[isize; 2]]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (tap, &[down, right]) in taps.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if run.at[0] == down && run.at[1] + run.len as isize == right => run.len += 1,
            _ => runs.push(Run { first: tap, len: 1, at: [down, right] }),
        }
    }
    runs
}
