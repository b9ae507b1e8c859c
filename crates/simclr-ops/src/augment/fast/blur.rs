//! Gaussian blur on planes.

use crate::augment::Planes;
use crate::augment::blur::{check, gaussian_kernel, mirrored};

/// [`crate::augment::gaussian_blur`] with its buffers, kept from picture to picture.
#[derive(Debug, Default)]
pub(in crate::augment) struct Blur {
    /// A row of numbers, mirrored at both ends.
    row: Vec<f32>,
    /// A plane after the horizontal pass.
    across: Vec<f32>,
    sums: Vec<f32>,
}

impl Blur {
    /// See [`crate::augment::gaussian_blur`].
    #[inline(always)]
    pub(in crate::augment) fn apply(&mut self, planes: &mut Planes, radius: u32, sigma: f64) {
        let (width, height) = (planes.width(), planes.height());
        check(width, height, radius, sigma);
        let kernel = gaussian_kernel(radius, sigma);
        let radius = radius as usize;
        self.row.resize(width + 2 * radius, 0.0);
        self.across.resize(width * height, 0.0);
        self.sums.resize(width, 0.0);
        for plane in planes.channels_mut() {
            for (bytes, sums) in plane.chunks_exact(width).zip(self.across.chunks_exact_mut(width)) {
                for (x, number) in self.row[..radius].iter_mut().enumerate() {
                    *number = f32::from(bytes[mirrored(x, radius, width)]);
                }
                for (number, &byte) in self.row[radius..].iter_mut().zip(bytes) {
                    *number = f32::from(byte);
                }
                for (x, number) in self.row[radius + width..].iter_mut().enumerate() {
                    *number = f32::from(bytes[mirrored(radius + width + x, radius, width)]);
                }
                sums.fill(0.0);
                for (k, &weight) in kernel.iter().enumerate() {
                    add_weighted(sums, weight, &self.row[k..]);
                }
            }
            for (y, bytes) in plane.chunks_exact_mut(width).enumerate() {
                self.sums.fill(0.0);
                for (k, &weight) in kernel.iter().enumerate() {
                    add_weighted(&mut self.sums, weight, &self.across[mirrored(y + k, radius, height) * width..]);
                }
                for (byte, &sum) in bytes.iter_mut().zip(&self.sums) {
                    *byte = rounded(sum);
                }
            }
        }
    }
}

#[inline(always)]
fn add_weighted(sums: &mut [f32], weight: f32, numbers: &[f32]) {
    for (sum, &number) in sums.iter_mut().zip(numbers) {
        *sum += weight * number;
    }
}

/// A number from 0 to little more than 255 as a byte, rounded to even.
#[inline(always)]
fn rounded(number: f32) -> u8 {
    /// Adding it rounds to a whole number: no digits are left behind the point.
    const ROUND: f32 = 12_582_912.0;
    super::cut((number + ROUND) - ROUND)
}
