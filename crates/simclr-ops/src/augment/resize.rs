//! Crop and resize with PIL's bilinear filter: antialiased, two passes of 8-bit fixed point.
//!
//! Every output pixel is a weighted mean of the input pixels under a triangle as wide as the scale (never narrower than one
//! input pixel on each side). Weights are computed in double precision, normalised to sum 1, rounded to 22 bits; the
//! horizontal pass writes bytes, the vertical pass reads them.

use super::{Crop, Picture};

/// Fractional bits of a weight: 32 minus 8 for the pixel and 2 for filters that overshoot (PIL's `PRECISION_BITS`).
const WEIGHT_BITS: u32 = 22;
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// The weights of one axis.
#[derive(Debug, Default)]
struct Weights {
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
    fn set(&mut self, input: usize, output: usize) {
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
            // From left to right, as PIL adds: the order decides the last bit.
            let sum: f64 = self.triangle.iter().fold(0.0, |sum, weight| sum + weight);
            self.values.extend(self.triangle.iter().map(|weight| {
                let normalised = if sum == 0.0 { *weight } else { weight / sum };
                (0.5 + normalised * f64::from(1 << WEIGHT_BITS)) as i32
            }));
            self.spans.push(Span { start, end_of_values: self.values.len() });
        }
    }

    /// For every output position: the first input position and the weights from there.
    fn positions(&self) -> impl Iterator<Item = (usize, &[i32])> {
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
    /// The crop after the horizontal pass.
    narrowed: Vec<u8>,
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
        assert!(
            crop.fits(picture.width(), picture.height()),
            "{crop:?} has no pixel or lies outside of a picture of {} × {}",
            picture.width(),
            picture.height()
        );
        assert!(width > 0 && height > 0, "cannot resize to {width} × {height} pixels");
        out.reshape(width, height);
        let (in_width, in_height) = (crop.width as usize, crop.height as usize);
        let (width, height) = (width as usize, height as usize);

        // Both passes are the identity where the size stays.
        self.narrowed.resize(3 * width * in_height, 0);
        let stride = 3 * picture.width() as usize;
        let first = crop.top as usize * stride + 3 * crop.left as usize;
        let rows = picture.pixels()[first..].chunks(stride).map(|row| &row[..3 * in_width]);
        if in_width == width {
            for (row, narrowed) in rows.zip(self.narrowed.chunks_exact_mut(3 * width)) {
                narrowed.copy_from_slice(row);
            }
        } else {
            self.weights.set(in_width, width);
            for (row, narrowed) in rows.zip(self.narrowed.chunks_exact_mut(3 * width)) {
                narrow(row, &self.weights, narrowed);
            }
        }

        if in_height == height {
            out.pixels_mut().copy_from_slice(&self.narrowed);
        } else {
            self.weights.set(in_height, height);
            self.sums.resize(3 * width, 0);
            for (row, (start, weights)) in out.pixels_mut().chunks_exact_mut(3 * width).zip(self.weights.positions()) {
                self.sums.fill(HALF);
                for (source, &weight) in self.narrowed[3 * width * start..].chunks_exact(3 * width).zip(weights) {
                    for (sum, &byte) in self.sums.iter_mut().zip(source) {
                        *sum += i32::from(byte) * weight;
                    }
                }
                for (byte, &sum) in row.iter_mut().zip(&self.sums) {
                    *byte = clip(sum);
                }
            }
        }
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

/// The horizontal pass of one row.
fn narrow(row: &[u8], weights: &Weights, out: &mut [u8]) {
    let (pixels, _) = row.as_chunks::<3>();
    let (out, _) = out.as_chunks_mut::<3>();
    for (pixel, (start, weights)) in out.iter_mut().zip(weights.positions()) {
        let mut sums = [HALF; 3];
        for (source, &weight) in pixels[start..].iter().zip(weights) {
            for (sum, &byte) in sums.iter_mut().zip(source) {
                *sum += i32::from(byte) * weight;
            }
        }
        *pixel = sums.map(clip);
    }
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
