//! From bytes to the numbers that a network sees.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use simclr_ops::augment::{Picture, Planes};

use crate::{DataError, Pictures};

/// Mean and standard deviation per channel (red, green, blue), of values from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// What is subtracted.
    pub mean: [f32; 3],
    /// What the difference is divided by.
    pub std: [f32; 3],
}

impl Normalization {
    /// The course's, for CIFAR-10.
    pub const CIFAR10: Self = Self { mean: [0.4914, 0.4822, 0.4465], std: [0.2023, 0.1994, 0.2010] };

    /// torchvision's, of all networks that it trained on ImageNet.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// The mean and deviation of `set`, every picture weighing the same, of at most `at_most` pictures evenly spaced over it.
    ///
    /// # Errors
    /// Whatever keeps the set from giving a picture; [`DataError::Range`] if it has none.
    pub fn measured(set: &dyn Pictures, at_most: usize) -> Result<Self, DataError> {
        let (len, count) = (set.len(), set.len().min(at_most));
        if count == 0 {
            return Err(DataError::Range { name: set.name().to_owned(), start: 0, end: 0, len });
        }
        let mut moments = ChannelMoments::default();
        for index in (0..count).map(|i| i * len / count) {
            moments.add(&ChannelMoments::of(&set.picture(index)?));
        }
        Ok(moments.normalization())
    }

    /// # Errors
    /// [`DataError::Setting`] unless all means are finite and all deviations finite and above 0.
    pub fn validate(&self) -> Result<(), DataError> {
        let setting = |field, values: &[f32; 3], expected| {
            Err(DataError::Setting { field, found: format!("{values:?}"), expected })
        };
        if !self.mean.iter().all(|mean| mean.is_finite()) {
            return setting("normalization.mean", &self.mean, "three finite numbers");
        }
        if !self.std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return setting("normalization.std", &self.std, "three finite numbers above 0");
        }
        Ok(())
    }

    /// The value of every byte in every channel.
    pub(crate) fn table(&self) -> NormalizationTable {
        let channel = |c: usize| std::array::from_fn(|byte| (byte as f32 / 255.0 - self.mean[c]) / self.std[c]);
        NormalizationTable(Box::new([channel(0), channel(1), channel(2)]))
    }
}

/// Means of the values from 0 to 1 and of their squares, per channel: of a picture, or summed over some.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ChannelMoments {
    pub(crate) pictures: u64,
    pub(crate) mean: [f64; 3],
    pub(crate) square: [f64; 3],
}

impl ChannelMoments {
    /// Of one picture.
    pub(crate) fn of(picture: &Picture) -> Self {
        let (pixels, _) = picture.pixels().as_chunks::<3>();
        let (mut sums, mut squares) = ([0u64; 3], [0u64; 3]);
        for pixel in pixels {
            for c in 0..3 {
                sums[c] += u64::from(pixel[c]);
                squares[c] += u64::from(pixel[c]) * u64::from(pixel[c]);
            }
        }
        let n = pixels.len() as f64;
        Self {
            pictures: 1,
            mean: sums.map(|sum| sum as f64 / n / 255.0),
            square: squares.map(|sum| sum as f64 / n / (255.0 * 255.0)),
        }
    }

    /// Sums: in which order pictures are added decides the last bits.
    pub(crate) fn add(&mut self, other: &Self) {
        self.pictures += other.pictures;
        for c in 0..3 {
            self.mean[c] += other.mean[c];
            self.square[c] += other.square[c];
        }
    }

    /// Of all pictures that were added, of which there must be one. A deviation is at least half a byte's step, so that pictures of one colour
    /// can be divided by it.
    pub(crate) fn normalization(&self) -> Normalization {
        let n = self.pictures as f64;
        let mean = self.mean.map(|sum| sum / n);
        let std = std::array::from_fn(|c| (self.square[c] / n - mean[c] * mean[c]).max(0.0).sqrt().max(0.5 / 255.0));
        Normalization { mean: mean.map(|mean| mean as f32), std: std.map(|std: f64| std as f32) }
    }
}

/// torchvision's `ToTensor` and `Normalize` for all 256 bytes: the same divisions, done once.
#[derive(Debug, Clone)]
pub(crate) struct NormalizationTable(Box<[[f32; 256]; 3]>);

impl NormalizationTable {
    /// Writes a picture as three planes, red, green, blue.
    ///
    /// # Panics
    /// If `out` is not as long as the picture has bytes.
    pub(crate) fn write(&self, picture: &Picture, out: &mut [f32]) {
        assert_eq!(out.len(), picture.pixels().len(), "one number per byte of the picture");
        let plane = out.len() / 3;
        for (c, (out, table)) in out.chunks_exact_mut(plane).zip(self.0.iter()).enumerate() {
            for (value, byte) in out.iter_mut().zip(picture.pixels()[c..].iter().step_by(3)) {
                *value = table[usize::from(*byte)];
            }
        }
    }

    /// All of it on a device, `[3, 256]`.
    pub(crate) fn tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        Tensor::from_slice(self.0.as_flattened(), (3, 256), device)
    }

    /// Appends a picture that is in planes already.
    pub(crate) fn append(&self, planes: &Planes, out: &mut Vec<f32>) {
        planes.append_mapped(&self.0, out);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Shapes, Split, Subset};

    #[test]
    fn planes_are_normalised_by_channel() {
        let table = Normalization { mean: [0.5, 0.0, 0.2], std: [0.5, 1.0, 0.1] }.table();
        let picture = Picture::new(2, 1, vec![0, 255, 51, 255, 0, 102]).unwrap();
        let mut out = [0.0; 6];
        table.write(&picture, &mut out);
        let expected = [-1.0, 1.0, 1.0, 0.0, 0.0, (102.0f32 / 255.0 - 0.2) / 0.1];
        assert_eq!(out, expected);
        let mut appended = vec![7.0];
        table.append(&Planes::from(&picture), &mut appended);
        assert_eq!(appended, [&[7.0], &expected[..]].concat());
    }

    #[test]
    fn a_set_is_measured() {
        let set = Shapes::new(3, Split::Train, 40);
        let values = |c: usize| {
            let pictures = (0..40).map(|index| set.picture(index).unwrap());
            pictures.flat_map(move |p| p.into_pixels().into_iter().skip(c).step_by(3)).map(|b| f64::from(b) / 255.0)
        };
        let measured = Normalization::measured(&set, 1_000).unwrap();
        for c in 0..3 {
            let n = values(c).count() as f64;
            let mean = values(c).sum::<f64>() / n;
            let variance = values(c).map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
            assert!((f64::from(measured.mean[c]) - mean).abs() < 1e-6);
            assert!((f64::from(measured.std[c]) - variance.sqrt()).abs() < 1e-6);
        }
        // Ten of forty: every fourth.
        let some = Subset::of(Arc::new(set.clone()), (0..40).step_by(4).collect()).unwrap();
        assert_eq!(Normalization::measured(&set, 10).unwrap(), Normalization::measured(&some, 10).unwrap());
        let flat = ChannelMoments::of(&Picture::filled(4, 4, [255, 0, 51])).normalization();
        assert_eq!((flat.mean, flat.std), ([1.0, 0.0, 0.2], [0.5 / 255.0; 3]));
        flat.validate().unwrap();
    }

    #[test]
    fn a_wrong_setting_names_its_field() {
        let wrong = |mean, std| Normalization { mean, std }.validate().unwrap_err().to_string();
        assert_eq!(
            wrong([0.0; 3], [1.0, 0.0, 1.0]),
            "normalization.std is [1.0, 0.0, 1.0], expected three finite numbers above 0"
        );
        assert_eq!(
            wrong([f32::NAN, 0.0, 0.0], [1.0; 3]),
            "normalization.mean is [NaN, 0.0, 0.0], expected three finite numbers"
        );
        Normalization::CIFAR10.validate().unwrap();
    }
}
