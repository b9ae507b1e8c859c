//! Crop and resize with PIL's bilinear filter: antialiased, two passes of 8-bit fixed point.
//!
//! Every output pixel is a weighted mean of the input pixels under a triangle as wide as the scale (never narrower than one
//! input pixel on each side). Weights are computed in double precision, normalised to sum 1, rounded to 22 bits; the first
//! pass writes bytes, the second reads them.
//!
//! Which pass is the first decides some last bits. It is the horizontal one, but since Pillow 13
//! (<https://github.com/python-pillow/Pillow/pull/9549>) the vertical one where the height shrinks much more than the width,
//! and so it is here. Views that are at least as large as their crops are the same in all versions.

use super::{Crop, Picture};

/// Fractional bits of a weight: 32 minus 8 for the pixel and 2 for filters that overshoot (PIL's `PRECISION_BITS`).
pub(super) const WEIGHT_BITS: u32 = 22;
pub(super) const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// The weights of one axis.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// For every output position the first input position and where its weights end in `values`.
    spans: Vec<Span>,
    values: Vec<i32>,
    /// Weights of one position before they are normalised.
    triangle: Vec<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    end_of_values: usize,
}

impl Weights {
    /// Fills in the weights that take `input` pixels to `output`.
    pub(super) fn set(&mut self, input: usize, output: usize) {
        self.spans.clear();
        self.values.clear();
        let scale = input as f64 / output as f64;
        let support = scale.max(1.0);
        let steepness = 1.0 / support;
        for position in 0..output {
            let center = (position as f64 + 0.5) * scale;
            // Casts cut towards zero, like C's, and negative starts are 0.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            self.triangle.clear();
            self.triangle.extend((start..end).map(|x| {
                let distance = ((x as f64 - center + 0.5) * steepness).abs();
                if distance < 1.0 { 1.0 - distance } else { 0.0 }
            }));
            let begin = self.values.len();
            // From left to right, as PIL adds: the order decides the last bit.
            let sum: f64 = self.triangle.iter().fold(0.0, |sum, weight| sum + weight);
            self.values.extend(self.triangle.iter().map(|weight| {
                let normalised = if sum == 0.0 { *weight } else { weight / sum };
                (0.5 + normalised * f64::from(1 << WEIGHT_BITS)) as i32
            }));
            // Weights of 0 at either end, as of a pixel just under the foot of the triangle, change no sum.
            while self.values.len() > begin && self.values.last() == Some(&0) {
                self.values.pop();
            }
            let leading = self.values[begin..].iter().take_while(|&&weight| weight == 0).count();
            self.values.drain(begin..begin + leading);
            self.spans.push(Span { start: start + leading, end_of_values: self.values.len() });
        }
    }

    /// For every output position: the first input position and the weights from there.
    pub(super) fn positions(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let mut begin = 0;
        self.spans.iter().map(move |span| {
            let weights = &self.values[begin..span.end_of_values];
            begin = span.end_of_values;
            (span.start, weights)
        })
    }
}

/// Crops and resizes, keeping its buffers from picture to picture.
#[derive(Debug, Default)]
pub struct Resizer {
    weights: Weights,
    /// What the first pass leaves for the second.
    between: Vec<u8>,
    sums: Vec<i32>,
}

impl Resizer {
    /// A resizer with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// [`resized_crop`] into `out`, whose size and bytes are replaced.
    ///
    /// # Panics
    /// As [`resized_crop`].
    pub fn resized_crop(&mut self, picture: &Picture, crop: Crop, width: u32, height: u32, out: &mut Picture) {
        crop.check(picture);
        assert!(width > 0 && height > 0, "cannot resize to {width} × {height} pixels");
        out.reshape(width, height);
        let (width, height) = (width as usize, height as usize);
        let source = Rows::of_crop(picture, crop);
        let vertical_first = vertical_first((source.width, source.height), (width, height));

        let mut between = std::mem::take(&mut self.between);
        if vertical_first {
            between.resize(3 * source.width * height, 0);
            self.vertical(source, height, &mut between);
            self.horizontal(Rows::packed(&between, source.width), width, out.pixels_mut());
        } else {
            between.resize(3 * width * source.height, 0);
            self.horizontal(source, width, &mut between);
            self.vertical(Rows::packed(&between, width), height, out.pixels_mut());
        }
        self.between = between;
    }

    /// Rows of `width` pixels from rows of any width.
    fn horizontal(&mut self, source: Rows<'_>, width: usize, out: &mut [u8]) {
        let rows = source.iter().zip(out.chunks_exact_mut(3 * width));
        if source.width == width {
            // The weights would be 1 and 0.
            rows.for_each(|(row, out)| out.copy_from_slice(row));
            return;
        }
        self.weights.set(source.width, width);
        for (row, out) in rows {
            let ((pixels, _), (out, _)) = (row.as_chunks::<3>(), out.as_chunks_mut::<3>());
            for (pixel, (start, weights)) in out.iter_mut().zip(self.weights.positions()) {
                let mut sums = [HALF; 3];
                for (source, &weight) in pixels[start..].iter().zip(weights) {
                    for (sum, &byte) in sums.iter_mut().zip(source) {
                        *sum += i32::from(byte) * weight;
                    }
                }
                *pixel = sums.map(clip);
            }
        }
    }

    /// `height` rows from any number of rows.
    fn vertical(&mut self, source: Rows<'_>, height: usize, out: &mut [u8]) {
        let row_len = 3 * source.width;
        let rows = out.chunks_exact_mut(row_len);
        if source.height == height {
            rows.zip(source.iter()).for_each(|(out, row)| out.copy_from_slice(row));
            return;
        }
        self.weights.set(source.height, height);
        self.sums.resize(row_len, 0);
        for (out, (start, weights)) in rows.zip(self.weights.positions()) {
            self.sums.fill(HALF);
            for (row, &weight) in source.below(start).iter().zip(weights) {
                for (sum, &byte) in self.sums.iter_mut().zip(row) {
                    *sum += i32::from(byte) * weight;
                }
            }
            for (byte, &sum) in out.iter_mut().zip(&self.sums) {
                *byte = clip(sum);
            }
        }
    }
}

/// Whether Pillow 13 begins with the vertical pass, for sizes as (width, height): where rows go, and more than twice as many
/// as columns.
pub(super) fn vertical_first(from: (usize, usize), to: (usize, usize)) -> bool {
    from.1 > to.1 && 2 * from.0 + to.1 < 2 * to.0 + from.1
}

/// Rows of pixels, one every `stride` bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) stride: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn of_crop(picture: &'a Picture, crop: Crop) -> Self {
        let stride = 3 * picture.width() as usize;
        let first = crop.top as usize * stride + 3 * crop.left as usize;
        let (width, height) = (crop.width as usize, crop.height as usize);
        Self { bytes: &picture.pixels()[first..], stride, width, height }
    }

    pub(super) fn packed(bytes: &'a [u8], width: usize) -> Self {
        Self { bytes, stride: 3 * width, width, height: bytes.len() / (3 * width) }
    }

    /// The rows from `start` on.
    pub(super) fn below(self, start: usize) -> Self {
        Self { bytes: &self.bytes[start * self.stride..], height: self.height - start, ..self }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        self.bytes.chunks(self.stride).take(self.height).map(move |row| &row[..3 * self.width])
    }
}

/// Cuts out `crop` and resizes it to `width` × `height` (torchvision's `resized_crop` with bilinear interpolation on a PIL
/// picture: the crop first, so that pixels beyond its edge play no part).
///
/// # Panics
/// If the crop is empty or reaches beyond the picture, or a side of the result is 0.
pub fn resized_crop(picture: &Picture, crop: Crop, width: u32, height: u32) -> Picture {
    let mut out = Picture::filled(1, 1, [0; 3]);
    Resizer::new().resized_crop(picture, crop, width, height, &mut out);
    out
}

/// A sum of weighted bytes as a byte. Rounded weights can sum to a little more than 1, so 255 may be passed.
fn clip(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: u32, height: u32) -> Picture {
        let bytes =
            (0..height).flat_map(|y| (0..width).flat_map(move |x| [(7 * x) as u8, (5 * y) as u8, (x * y) as u8]));
        Picture::new(width, height, bytes.collect()).unwrap()
    }

    #[test]
    fn the_same_size_is_a_plain_crop() {
        let picture = gradient(9, 7);
        let crop = Crop { left: 2, top: 3, width: 5, height: 4 };
        let cut = resized_crop(&picture, crop, 5, 4);
        for (x, y) in (0..5).flat_map(|x| (0..4).map(move |y| (x, y))) {
            assert_eq!(cut.pixel(x, y), picture.pixel(x + 2, y + 3));
        }
    }

    #[test]
    fn one_pixel_fills_the_view_and_one_colour_stays() {
        let picture = gradient(9, 7);
        let view = resized_crop(&picture, Crop { left: 8, top: 6, width: 1, height: 1 }, 32, 32);
        assert!(view.pixels().as_chunks::<3>().0.iter().all(|&pixel| pixel == picture.pixel(8, 6)));
        for side in 1..=70 {
            let white = Picture::filled(side, side, [255, 1, 128]);
            let view = resized_crop(&white, Crop::whole(side, side), 32, 31);
            assert!(view.pixels().as_chunks::<3>().0.iter().all(|&pixel| pixel == [255, 1, 128]), "side {side}");
        }
    }

    #[test]
    fn halving_averages_under_a_triangle() {
        // Weights 1/8, 3/8, 3/8, 1/8 away from the edge, and 3/7, 3/7, 1/7 at it.
        let row: Vec<u8> = [0, 0, 0, 80, 80, 80, 160, 160].iter().flat_map(|&v| [v; 3]).collect();
        let picture = Picture::new(8, 1, row).unwrap();
        let half = resized_crop(&picture, Crop::whole(8, 1), 4, 1);
        let red: Vec<u8> = half.pixels().iter().step_by(3).copied().collect();
        assert_eq!(red, [0, 40, 90, 149]);
    }

    #[test]
    fn the_vertical_pass_comes_first_where_many_rows_go() {
        assert!(vertical_first((33, 36), (32, 32)) && vertical_first((8, 33), (32, 32)));
        assert!(!vertical_first((33, 34), (32, 32)) && !vertical_first((8, 31), (32, 32)));
        // No crop of a CIFAR picture is taller than its view.
        assert!(!vertical_first((1, 32), (32, 32)));
    }

    #[test]
    fn a_used_resizer_gives_what_a_fresh_one_does() {
        let picture = gradient(47, 61);
        let mut resizer = Resizer::new();
        let mut out = Picture::filled(1, 1, [0; 3]);
        for (left, width, height) in [(0, 47, 61), (40, 3, 2), (10, 32, 50), (0, 47, 1), (46, 1, 61)] {
            let crop = Crop { left, top: 0, width, height };
            resizer.resized_crop(&picture, crop, 32, 32, &mut out);
            assert_eq!(out, resized_crop(&picture, crop, 32, 32));
        }
    }

    #[test]
    #[should_panic(expected = "lies outside of a picture of 9 × 7")]
    fn a_crop_outside_panics() {
        resized_crop(&gradient(9, 7), Crop { left: 5, top: 0, width: 5, height: 1 }, 4, 4);
    }
}
