//! Winograd's convolution F(2×2, 3×3): 16 products for each 2×2 outputs where the definition takes 36.
//!
//! With a 4×4 tile of the map `d`, a kernel `g` and `⊙` the product of elements, a 2×2 tile of the output is
//! `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`; summed over the input channels, `⊙` becomes a matrix product (tiles × channels) for each of the 16
//! places. The gradient of the map is the convolution of the gradient with the kernel turned; that of the weights is the
//! transpose, `Gᵀ [Σ (A y Aᵀ) ⊙ (Bᵀ d B)] G`, summed over the tiles. Lavin and Gray 2015, arXiv:1509.09308.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::correlate::Map;
use super::transforms::{Blocks, Input, Kernel, KernelGradient, Output, OutputGradient, transform};
use crate::element::Element;
use crate::product::kernel::{COLS, ROWS};
use crate::product::multiply::{Dense, multiply};
use crate::product::{Instructions, Matrix, Panels, Turned};

/// Places of a transformed tile: products of which each is a matrix product.
pub(super) const PLACES: usize = 16;

/// Channels from which on the transforms are worth their time.
const CHANNELS: usize = 16;

/// Elements of a block of transformed tiles that one task works through alone, in its second cache; and of one that all share.
const BLOCK: usize = 1 << 16;
const SHARED_BLOCK: usize = 1 << 22;

/// Elements of the transformed weights from which on all tasks work on the same block: each would pass all of them through its caches.
const LARGE_WEIGHTS: usize = 1 << 19;

/// A convolution with a 3×3 kernel and stride 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Winograd {
    pub(super) instructions: Instructions,
    pub(super) pictures: usize,
    /// Rows and columns of the output.
    pub(super) size: [usize; 2],
    /// Zeros around the map.
    pub(super) padding: [usize; 2],
    pub(super) c_in: usize,
    pub(super) c_out: usize,
}

/// Whether there are channels and pixels enough that the transforms are worth their time.
pub(super) fn pays(kernel: [usize; 2], stride: usize, channels: [usize; 2], size: [usize; 2]) -> bool {
    kernel == [3, 3] && stride == 1 && channels.into_iter().all(|c| c >= CHANNELS) && size.into_iter().all(|s| s >= 2)
}

impl Winograd {
    /// `out = conv(map, weights)`; writes all of `out`. On all threads with `parallel`.
    pub(super) fn correlate<T: Element>(
        &self,
        map: Map<'_, T>,
        weights: &[Panels<T>],
        out: &mut [MaybeUninit<T>],
        parallel: bool,
    ) {
        let [h, w] = self.size;
        assert_eq!(out.len(), self.pictures * h * w * self.c_out);
        let out = Dense { first: out.as_mut_ptr().cast::<T>(), stride: self.c_out };
        let share = parallel && self.sums() >= LARGE_WEIGHTS;
        let tiles_of_block = self.tiles_of_block(if share { SHARED_BLOCK } else { BLOCK });
        let blocks = 0..self.tiles().div_ceil(tiles_of_block);
        let block = |(input, product): &mut (Vec<T>, Vec<T>), block: usize| {
            let tiles = block * tiles_of_block..((block + 1) * tiles_of_block).min(self.tiles());
            self.correlate_block(map, weights, &out, tiles, share, input, product);
        };
        if parallel && !share {
            blocks.into_par_iter().for_each_init(Default::default, block);
        } else {
            let mut memory = Default::default();
            blocks.for_each(|i| block(&mut memory, i));
        }
    }

    /// Transforms some tiles, multiplies them, transforms them back.
    #[allow(clippy::too_many_arguments)] // Two of them are memory that is used again.
    fn correlate_block<T: Element>(
        &self,
        map: Map<'_, T>,
        weights: &[Panels<T>],
        out: &Dense<T>,
        tiles: Range<usize>,
        parallel: bool,
        input: &mut Vec<T>,
        product: &mut Vec<T>,
    ) {
        let (count, Self { c_in, c_out, .. }) = (tiles.len(), *self);
        // Every place of every tile is overwritten each time.
        input.resize(PLACES * count * c_in, T::zero());
        product.resize(PLACES * count * c_out, T::zero());
        let to = Dense { first: input.as_mut_ptr(), stride: c_in };
        each(parallel, tiles.clone(), |tile| {
            let row = |place: usize| to.at_row(place * count + tile - tiles.start);
            // SAFETY: this tile's rows.
            unsafe { transform::<Input, _, 4, 4>(self.input_pixels(map, tile), places(row), Blocks::one(c_in)) };
        });
        let products = Dense { first: product.as_mut_ptr(), stride: c_out };
        let multiply_place = |place: usize| {
            let left = Matrix::new(&input[place * count * c_in..], count, c_in);
            let to = Dense { first: products.at_row(place * count), stride: c_out };
            // SAFETY: every place has `count` rows of its own.
            unsafe { multiply(self.instructions, &left, &weights[place], &to, false, parallel) };
        };
        if parallel {
            (0..PLACES).into_par_iter().for_each(multiply_place);
        } else {
            (0..PLACES).for_each(multiply_place);
        }
        each(parallel, tiles.clone(), |tile| {
            let row = |place: usize| &product[(place * count + tile - tiles.start) * c_out..][..c_out];
            let rows = std::array::from_fn(|y| std::array::from_fn(|x| row(4 * y + x)));
            let pixels = self.output_pixels(tile);
            // What lies beyond the edge is written to the first pixel, and then overwritten.
            let to = pixels.map(|row| row.map(|pixel| out.at_row(pixel.or(pixels[0][0]).unwrap_or_default())));
            // SAFETY: a pixel of the output belongs to one tile, whose first one always exists.
            unsafe { transform::<Output, _, 4, 2>(rows, to, Blocks::one(c_out)) };
        });
    }

    /// How many sums there are, `[place, c_out, c_in]`, of which the gradient of the weights is made.
    pub(super) fn sums(&self) -> usize {
        PLACES * self.c_in * self.c_out
    }

    /// Adds the products of these pictures to the sums; on all threads with `parallel`.
    pub(super) fn add_weight_gradient<T: Element>(
        &self,
        map: Map<'_, T>,
        grad: Map<'_, T>,
        sums: &mut [T],
        parallel: bool,
    ) {
        assert_eq!(sums.len(), self.sums());
        let tiles_of_block = self.tiles_of_block(if parallel { SHARED_BLOCK } else { BLOCK });
        let mut memory = std::array::from_fn(|_| Default::default());
        for first in (0..self.tiles()).step_by(tiles_of_block) {
            let tiles = first..(first + tiles_of_block).min(self.tiles());
            self.sum_block(map, grad, tiles, parallel, &mut memory, sums);
        }
    }

    /// Writes the gradient of the weights, `[c_out, c_in, 3, 3]`.
    pub(super) fn weight_gradient<T: Element>(&self, sums: &[T], dw: &mut [T]) {
        dw.par_chunks_mut(self.c_in * 9).enumerate().for_each_init(Vec::new, |kernels, (co, dw)| {
            kernels.resize(9 * self.c_in, T::zero());
            let row = |place: usize| &sums[(place * self.c_out + co) * self.c_in..][..self.c_in];
            let rows = std::array::from_fn(|y| std::array::from_fn(|x| row(4 * y + x)));
            let taps = Dense { first: kernels.as_mut_ptr(), stride: self.c_in };
            let to = std::array::from_fn(|y| std::array::from_fn(|x| taps.at_row(3 * y + x)));
            // SAFETY: `kernels` has a row for each of the 9 taps.
            unsafe { transform::<KernelGradient, _, 4, 3>(rows, to, Blocks::one(self.c_in)) };
            for (tap, kernels) in kernels.chunks_exact(self.c_in).enumerate() {
                dw[tap..].iter_mut().step_by(9).zip(kernels).for_each(|(dw, &kernel)| *dw = kernel);
            }
        });
    }

    /// Adds the products of some tiles to the sums `[place, c_out, c_in]`.
    fn sum_block<T: Element>(
        &self,
        map: Map<'_, T>,
        grad: Map<'_, T>,
        tiles: Range<usize>,
        parallel: bool,
        memory: &mut [(Panels<T>, Turned<T>); PLACES],
        sums: &mut [T],
    ) {
        let Self { c_in, c_out, .. } = *self;
        // SAFETY: the transforms below write every channel of every tile, and zeros behind the last channel.
        let packed = memory
            .each_mut()
            .map(|(input, output)| unsafe { (input.lines_of(tiles.len(), c_in), output.lines_of(tiles.len(), c_out)) });
        each(parallel, tiles.clone(), |tile| {
            let line = tile - tiles.start;
            let (input, output) =
                (|place: usize| packed[place].0.at(line, 0), |place: usize| packed[place].1.at(line, 0));
            let blocks = (Blocks::packed(packed[0].0, c_in), Blocks::packed(packed[0].1, c_out));
            let pixels = self.output_pixels(tile);
            let pixel = |pixel: usize| &grad.pixels[pixel * c_out..][..c_out];
            let pixels = pixels.map(|row| row.map(|place| place.map_or(grad.outside, pixel)));
            // SAFETY: this tile's lines.
            unsafe {
                transform::<Input, _, 4, 4>(self.input_pixels(map, tile), places(input), blocks.0);
                transform::<OutputGradient, _, 2, 4>(pixels, places(output), blocks.1);
            }
        });
        let sums = Dense { first: sums.as_mut_ptr(), stride: c_in };
        let multiply_place = |(place, (input, output)): (usize, &(Panels<T>, Turned<T>))| {
            let to = Dense { first: sums.at_row(place * c_out), stride: c_in };
            // SAFETY: every place has `c_out` rows of its own, and they are initialised.
            unsafe { multiply(self.instructions, output, input, &to, true, parallel) };
        };
        if parallel {
            memory.par_iter().enumerate().for_each(multiply_place);
        } else {
            memory.iter().enumerate().for_each(multiply_place);
        }
    }

    fn tiles(&self) -> usize {
        self.pictures * self.size[0].div_ceil(2) * self.size[1].div_ceil(2)
    }

    /// Tiles of a block of so many elements: whole tiles of the products, too.
    fn tiles_of_block(&self, elements: usize) -> usize {
        (elements / (PLACES * (self.c_in + self.c_out))).max(1).next_multiple_of(ROWS)
    }

    /// Picture of a tile, row and column of its first output pixel.
    fn place(&self, tile: usize) -> [usize; 3] {
        let [rows, cols] = self.size.map(|size| size.div_ceil(2));
        [tile / (rows * cols), tile / cols % rows * 2, tile % cols * 2]
    }

    /// The channels of the 4×4 pixels under a tile; none outside of the map.
    fn input_pixels<'a, T>(&self, map: Map<'a, T>, tile: usize) -> [[&'a [T]; 4]; 4] {
        let [picture, y, x] = self.place(tile);
        std::array::from_fn(|row| {
            std::array::from_fn(|col| {
                // What is left of the map has wrapped around to the far right.
                let (y, x) = ((y + row).wrapping_sub(self.padding[0]), (x + col).wrapping_sub(self.padding[1]));
                let first = || ((picture * map.h + y) * map.w + x) * map.channels;
                if y < map.h && x < map.w { &map.pixels[first()..][..map.channels] } else { map.outside }
            })
        })
    }

    /// The 2×2 output pixels of a tile, counted over all pictures; none beyond the edge.
    fn output_pixels(&self, tile: usize) -> [[Option<usize>; 2]; 2] {
        let ([picture, y, x], [h, w]) = (self.place(tile), self.size);
        std::array::from_fn(|row| {
            std::array::from_fn(|col| {
                let (y, x) = (y + row, x + col);
                (y < h && x < w).then(|| (picture * h + y) * w + x)
            })
        })
    }
}

/// Transformed weights: `G g Gᵀ` of the kernel that `kernel(c_in, c_out)` gives, as right factors, one for each place.
pub(super) fn transform_weights<T: Element>(
    c_in: usize,
    c_out: usize,
    kernel: impl Fn(usize, usize) -> [[T; 3]; 3] + Sync,
) -> [Panels<T>; PLACES] {
    let mut panels = std::array::from_fn(|_| Panels::default());
    // SAFETY: every line of every panel is written below, from its beginning to its end.
    let lines = panels.each_mut().map(|panels| unsafe { panels.lines_of(c_in, c_out) });
    (0..c_out).into_par_iter().step_by(COLS).for_each(|col| {
        let mut taps = [[T::zero(); COLS]; 9];
        for ci in 0..c_in {
            for (lane, co) in (col..c_out).take(COLS).enumerate() {
                for (taps, weight) in taps.iter_mut().zip(kernel(ci, co).into_iter().flatten()) {
                    taps[lane] = weight;
                }
            }
            let from = std::array::from_fn(|y| std::array::from_fn(|x| &taps[3 * y + x][..]));
            // SAFETY: this task's columns of the line.
            unsafe { transform::<Kernel, _, 3, 4>(from, places(|place| lines[place].at(ci, col)), Blocks::one(COLS)) };
        }
    });
    panels
}

/// The destinations of a transformed tile.
fn places<T>(place: impl Fn(usize) -> *mut T) -> [[*mut T; 4]; 4] {
    std::array::from_fn(|y| std::array::from_fn(|x| place(4 * y + x)))
}

/// Calls `work` for each of `tiles`; on all threads with `parallel`.
fn each(parallel: bool, tiles: Range<usize>, work: impl Fn(usize) + Sync + Send) {
    if parallel { tiles.into_par_iter().with_min_len(8).for_each(work) } else { tiles.for_each(work) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_tiles_however_many_channels_there_are() {
        let of_channels = |c_in, c_out| {
            let (instructions, size, padding) = (Instructions::best(), [4, 4], [1, 1]);
            Winograd { instructions, pictures: 1, size, padding, c_in, c_out }.tiles_of_block(BLOCK)
        };
        assert_eq!(of_channels(1 << 20, 1 << 20), ROWS);
        assert!(of_channels(64, 64) >= 2 * ROWS && of_channels(64, 64).is_multiple_of(ROWS));
    }
}
