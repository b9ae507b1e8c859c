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
