//! Crop, resize and flip, from a picture to planes.

use crate::augment::resize::{HALF, Rows, WEIGHT_BITS, Weights, vertical_first};
use crate::augment::{Crop, Picture, Planes};

/// Rows that are turned together: their bytes of one column and channel lie side by side.
const ROWS: usize = 32;
/// Bytes of such a column.
const COLUMN: usize = 3 * ROWS;
/// Bytes whose sums are kept in registers.
const LANES: usize = 32;

/// [`Resizer`](crate::augment::Resizer) with planes as its result, keeping its buffers from picture to picture.
///
/// The vertical pass weighs whole rows. The horizontal one does the same to columns: some rows are turned so that columns lie
/// in memory as rows do, and turn back, channel by channel, as they are written.
#[derive(Debug, Default)]
pub(in crate::augment) struct PlaneResizer {
    across: Weights,
    down: Weights,
    /// Rows of a block, turned: column by column, in each the bytes of red, green and blue.
    turned: Vec<u8>,
    /// What the first pass leaves for the second. After the horizontal one: row by row, in each its red, green and blue.
    between: Vec<u8>,
    row: Vec<u8>,
}

impl PlaneResizer {
    /// Crops and resizes to the size of `out`, and exchanges left and right where `flip` says so.
    #[inline(always)]
    pub(in crate::augment) fn resized_crop(&mut self, picture: &Picture, crop: Crop, flip: bool, out: &mut Planes) {
        let (width, height) = (out.width(), out.height());
        let source = Rows::of_crop(picture, crop);
        if vertical_first((source.width, source.height), (width, height)) {
            self.down.set(source.height, height);
            let row_len = 3 * source.width;
            self.between.resize(row_len * height, 0);
            for (row, (start, weights)) in self.between.chunks_exact_mut(row_len).zip(self.down.positions()) {
                weigh(row, source.below(start).bytes, source.stride, weights);
            }
            let rows = Rows::packed(&self.between, source.width);
            let plane = width * height;
            let bytes = out.bytes_mut();
            across(rows, width, flip, &mut self.across, &mut self.turned, |c, y, x| c * plane + y * width + x, bytes);
            return;
        }
        if source.height == height {
            let plane = width * height;
            let bytes = out.bytes_mut();
            across(source, width, flip, &mut self.across, &mut self.turned, |c, y, x| c * plane + y * width + x, bytes);
            return;
        }
        let row_len = 3 * width;
        self.between.resize(row_len * source.height, 0);
        let place = |c: usize, y: usize, x: usize| y * row_len + c * width + x;
        across(source, width, flip, &mut self.across, &mut self.turned, place, &mut self.between);
        self.down.set(source.height, height);
        self.row.resize(row_len, 0);
        let [red, green, blue] = out.channels_mut();
        let rows = red.chunks_exact_mut(width).zip(green.chunks_exact_mut(width)).zip(blue.chunks_exact_mut(width));
        for (((red, green), blue), (start, weights)) in rows.zip(self.down.positions()) {
            weigh(&mut self.row, &self.between[start * row_len..], row_len, weights);
            red.copy_from_slice(&self.row[..width]);
            green.copy_from_slice(&self.row[width..2 * width]);
            blue.copy_from_slice(&self.row[2 * width..]);
        }
    }
}

/// Rows of `width` pixels from rows of any width; the byte of a channel, row and column goes to `place` in `out`.
#[inline(always)]
fn across(
    source: Rows<'_>,
    width: usize,
    flip: bool,
    weights: &mut Weights,
    turned: &mut Vec<u8>,
    place: impl Fn(usize, usize, usize) -> usize,
    out: &mut [u8],
) {
    let column = |x: usize| if flip { width - 1 - x } else { x };
    if source.width == width {
        // The weights would be 1 and 0.
        for (y, row) in source.iter().enumerate() {
            let (pixels, _) = row.as_chunks::<3>();
            for c in 0..3 {
                let out = &mut out[place(c, y, 0)..][..width];
                if flip {
                    out.iter_mut().zip(pixels.iter().rev()).for_each(|(out, pixel)| *out = pixel[c]);
                } else {
                    out.iter_mut().zip(pixels).for_each(|(out, pixel)| *out = pixel[c]);
                }
            }
        }
        return;
    }
    weights.set(source.width, width);
    turned.resize(COLUMN * source.width, 0);
    let mut bytes = [0; COLUMN];
    for first in (0..source.height).step_by(ROWS) {
        let rows = ROWS.min(source.height - first);
        for (r, row) in source.below(first).iter().take(rows).enumerate() {
            let (pixels, _) = row.as_chunks::<3>();
            for (column, pixel) in turned.as_chunks_mut::<COLUMN>().0.iter_mut().zip(pixels) {
                column[r] = pixel[0];
                column[ROWS + r] = pixel[1];
                column[2 * ROWS + r] = pixel[2];
            }
        }
        for (x, (start, weights)) in weights.positions().enumerate() {
            weigh(&mut bytes, &turned[start * COLUMN..], COLUMN, weights);
            for (c, bytes) in bytes.as_chunks::<ROWS>().0.iter().enumerate() {
                for (r, &byte) in bytes[..rows].iter().enumerate() {
                    out[place(c, first + r, column(x))] = byte;
                }
            }
        }
    }
}

/// A row of bytes out of the first rows of `source`, one every `stride` bytes, each with its weight.
#[inline(always)]
fn weigh(out: &mut [u8], source: &[u8], stride: usize, weights: &[i32]) {
    let len = out.len();
    match *weights {
        // One or two rows are what a row lies between when a picture grows.
        [first] => {
            for (out, &a) in out.iter_mut().zip(source) {
                *out = clip(HALF + i32::from(a) * first);
            }
        }
        [first, second] => {
            for ((out, &a), &b) in out.iter_mut().zip(&source[..len]).zip(&source[stride..][..len]) {
                *out = clip(HALF + i32::from(a) * first + i32::from(b) * second);
            }
        }
        _ => {
            let (whole, tail) = out.as_chunks_mut::<LANES>();
            let of_tail = LANES * whole.len();
            for (chunk, out) in whole.iter_mut().enumerate() {
                let mut sums = [HALF; LANES];
                for (k, &weight) in weights.iter().enumerate() {
                    let (row, _) = source[k * stride + chunk * LANES..].as_chunks::<LANES>();
                    for (sum, &byte) in sums.iter_mut().zip(&row[0]) {
                        *sum += i32::from(byte) * weight;
                    }
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = clip(sum);
                }
            }
            for (lane, out) in tail.iter_mut().enumerate() {
                let bytes = source[of_tail + lane..].iter().step_by(stride).zip(weights);
                *out = clip(bytes.fold(HALF, |sum, (&byte, weight)| sum + i32::from(byte) * weight));
            }
        }
    }
}

/// See [`crate::augment::resize`]: a sum of weighted bytes as a byte.
#[inline(always)]
fn clip(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}
