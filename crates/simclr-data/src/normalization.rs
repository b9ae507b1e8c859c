//! From bytes to the numbers that a network sees.

use serde::{Deserialize, Serialize};
use simclr_ops::augment::{Picture, Planes};

use crate::DataError;

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

    /// Appends a picture that is in planes already.
    pub(crate) fn append(&self, planes: &Planes, out: &mut Vec<f32>) {
        for (plane, table) in planes.channels().into_iter().zip(self.0.iter()) {
            out.extend(plane.iter().map(|&byte| table[usize::from(byte)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
