//! What gives a classifier its features.

use candle_core::{Result, Tensor};
use simclr_model::{FrozenEncoder, Model};

use crate::features::raw_pixels;

/// Features of pictures, for a classifier that is trained on some and tested on others.
pub trait FeatureExtractor {
    /// Features that the classifier learns from.
    ///
    /// # Shapes
    /// `[n, 3, h, w]` to `[n, d]`.
    ///
    /// # Errors
    /// What encoding reports.
    fn training(&self, pictures: &Tensor) -> Result<Tensor> {
        self.testing(pictures)
    }

    /// Features that it is tested on.
    ///
    /// # Shapes
    /// As [`Self::training`].
    ///
    /// # Errors
    /// What encoding reports.
    fn testing(&self, pictures: &Tensor) -> Result<Tensor>;

    /// Whether [`Self::training`] changes what [`Self::testing`] gives.
    fn drifts(&self) -> bool {
        false
    }
}

/// An encoder in evaluation mode: nothing of it changes.
impl FeatureExtractor for FrozenEncoder<'_> {
    fn testing(&self, pictures: &Tensor) -> Result<Tensor> {
        self.features(pictures)
    }
}

/// An encoder as the course leaves it: its parameters are frozen, but it is in training mode, so that batches are normalised
/// by their own statistics and the running statistics, which the test uses, drift.
#[derive(Clone, Copy, Debug)]
pub struct BatchStatistics<'a>(pub &'a Model);

impl FeatureExtractor for BatchStatistics<'_> {
    fn training(&self, pictures: &Tensor) -> Result<Tensor> {
        self.0.features_with_batch_statistics(pictures)
    }

    fn testing(&self, pictures: &Tensor) -> Result<Tensor> {
        self.0.features(pictures)
    }

    fn drifts(&self) -> bool {
        true
    }
}

/// The pixels themselves: what can be had without an encoder.
#[derive(Clone, Copy, Debug)]
pub struct RawPixels;

impl FeatureExtractor for RawPixels {
    fn testing(&self, pictures: &Tensor) -> Result<Tensor> {
        raw_pixels(pictures)
    }
}
