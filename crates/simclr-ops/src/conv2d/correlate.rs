//! Correlation of a map with a bank of kernels as a product whose left factor is the map itself: the row of an output pixel is read
//! from under the kernel, tap by tap. Nothing is unfolded.

use std::ops::Range;

use rayon::prelude::*;

use crate::element::{Element, Stored};
use crate::product::kernel::{COLS, Left, Pointers, ROWS};
use crate::product::multiply::{Dense, LeftFactor, Target};
use crate::product::{Lines, Panels};

/// A batch of NHWC maps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map<'a, T> {
    pub(super) pixels: &'a [T],
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) channels: usize,
    /// What lies outside: as many zeros as there are channels.
    pub(super) outside: &'a [T],
}

/// Pixels of an output, and what they see of a map: the rows of a left factor.
#[derive(Debug)]
pub(super) struct Sight<'a, T> {
    pub(super) map: Map<'a, T>,
    /// Output pixels of each picture: rows and columns, and how many pictures.
    pub(super) size: [usize; 2],
    pub(super) pictures: usize,
    /// Pixels of the map from one output pixel to the next, the same in both directions.
    pub(super) step: usize,
    /// For each tap the pixel of the map that the first output pixel sees through it: row and column, perhaps outside.
    pub(super) taps: Vec<[isize; 2]>,
}

impl<T: Element> Sight<'_, T> {
    /// Picture, row and column of an output pixel.
    pub(super) fn place(&self, pixel: usize) -> [usize; 3] {
        let [h, w] = self.size;
        [pixel / (h * w), pixel / w % h, pixel % w]
    }
}

impl<T: Element> LeftFactor<T> for Sight<'_, T> {
    fn rows(&self) -> usize {
        self.pictures * self.size[0] * self.size[1]
    }

    fn parts(&self) -> (usize, usize) {
        (self.taps.len(), self.map.channels)
    }

    fn point(&self, rows: Range<usize>, table: &mut Vec<Pointers<T>>) {
        let Map { pixels, h, w, channels, outside } = self.map;
        let [mut rows_seen, mut cols_seen, mut first] = [[0; ROWS]; 3];
        let [mut picture, mut y, mut x] = self.place(rows.start);
        for r in 0..ROWS {
            (rows_seen[r], cols_seen[r]) = (y * self.step, x * self.step);
            first[r] = (picture * h + rows_seen[r]) * w + cols_seen[r];
            // Rows that the tile has not are those of its last one again.
            if rows.start + r + 1 < rows.end {
                x += 1;
                if x == self.size[1] {
                    (x, y) = (0, y + 1);
                }
                if y == self.size[0] {
                    (y, picture) = (0, picture + 1);
                }
            }
        }
        for &[down, right] in &self.taps {
            let beyond = (down * w as isize + right) * channels as isize;
            table.push(std::array::from_fn(|r| {
                let row = rows_seen[r].wrapping_add_signed(down);
                let col = cols_seen[r].wrapping_add_signed(right);
                let inside = pixels.as_ptr().wrapping_add(first[r] * channels).wrapping_offset(beyond);
                // What is left of the map has wrapped around to the far right.
                if row < h && col < w { inside } else { outside.as_ptr() }
            }));
        }
    }

    fn left<'a>(
        &self,
        _: usize,
        pointers: &'a [Pointers<T>],
        parts: Range<usize>,
        skip: usize,
        len: usize,
    ) -> Left<'a, T> {
        Left::Rows { parts: &pointers[parts], skip, len }
    }
}

/// Every `step`-th pixel of a map in both directions, as a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lattice<T> {
    /// The whole map; its stride is the number of channels.
    pub(super) map: Dense<T>,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) step: usize,
    /// Row and column of the first pixel.
    pub(super) first: [usize; 2],
}

impl<T> Lattice<T> {
    /// Rows and columns of pixels that it has.
    pub(super) fn size(&self) -> [usize; 2] {
        [(self.h - self.first[0]).div_ceil(self.step), (self.w - self.first[1]).div_ceil(self.step)]
    }
}

impl<T: Element> Target<T> for Lattice<T> {
    fn at(&self, row: usize, col: usize) -> *mut T {
        let [h, w] = self.size();
        let (picture, y, x) = (row / (h * w), row / w % h, row % w);
        let pixel = (picture * self.h + self.first[0] + y * self.step) * self.w + self.first[1] + x * self.step;
        self.map.at(pixel, col)
    }
}

/// Weights as a right factor, rounded as maps are: line (tap, `c_in`), column `c_out`.
pub(super) fn pack_forward<S: Stored>(weight: &[S::Wide], [c_out, c_in, area]: [usize; 3]) -> Panels<S::Wide> {
    let mut panels = Panels::<S::Wide>::default();
    // SAFETY: every panel is written below, every line to its end.
    let memory = unsafe { panels.lines_of(area * c_in, c_out) };
    /// Input channels that are turned at a time: few enough that the lines stay in the first cache.
    const TURNED: usize = 16;
    (0..c_out.div_ceil(COLS)).into_par_iter().for_each(|panel| {
        for first in (0..c_in).step_by(TURNED) {
            for co in panel * COLS..((panel + 1) * COLS).min(c_out) {
                let kernels = &weight[(co * c_in + first) * area..][..TURNED.min(c_in - first) * area];
                for (ci, taps) in kernels.chunks_exact(area).enumerate() {
                    for (tap, &weight) in taps.iter().enumerate() {
                        let to = memory.at(tap * c_in + first + ci, co);
                        // SAFETY: a column of this task's panel.
                        unsafe { to.write(S::narrow(weight).widen()) };
                    }
                }
            }
        }
        if (panel + 1) * COLS > c_out {
            // SAFETY: this task's panel is the last one.
            (0..area * c_in).for_each(|line| unsafe { memory.fill(line, c_out) });
        }
    });
    panels
}

/// Some taps of the weights, rounded as maps are, as the right factor of the gradient of the map: line (tap, `c_out`), column `c_in`.
pub(super) fn pack_backward<S: Stored>(
    weight: &[S::Wide],
    [c_out, c_in, area]: [usize; 3],
    taps: &[usize],
) -> Panels<S::Wide> {
    let mut panels = Panels::default();
    let write = |lines: Range<usize>, memory: Lines<S::Wide, COLS>| {
        for line in lines {
            let (tap, co) = (taps[line / c_out], line % c_out);
            let kernels = &weight[co * c_in * area..][..c_in * area];
            for first in (0..c_in).step_by(COLS) {
                let (to, kernels) = (memory.at(line, first), &kernels[first * area..]);
                for (ci, &weight) in kernels.iter().skip(tap).step_by(area).take(COLS).enumerate() {
                    // SAFETY: a line of this task, at most to the end of a panel.
                    unsafe { to.add(ci).write(S::narrow(weight).widen()) };
                }
            }
            // SAFETY: as above.
            unsafe { memory.fill(line, c_in) };
        }
    };
    // SAFETY: every line is written.
    unsafe { panels.pack(taps.len() * c_out, c_in, true, write) };
    panels
}
