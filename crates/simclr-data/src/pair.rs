//! The course's pair data set.

use std::sync::Arc;

use candle_core::Tensor;

use crate::{DataError, Pictures, TrainTransform};

/// Two views and the label of each picture of a labelled set, one item at a time (the course's `CIFAR10Pair`).
///
/// Training uses [`Loader`](crate::Loader), which gives the same views in batches.
#[derive(Clone)]
pub struct CifarPair {
    set: Arc<dyn Pictures>,
    transform: TrainTransform,
}

impl CifarPair {
    /// Pairs of views of `set` after `transform`.
    pub fn new(set: Arc<dyn Pictures>, transform: TrainTransform) -> Self {
        Self { set, transform }
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Item `index` as it is in `epoch`: the two views `x_i` and `x_j` and the label.
    ///
    /// # Shapes
    /// The views are `[3, size, size]`, `f32`, normalised.
    ///
    /// # Errors
    /// [`DataError::Index`] if there is no such picture, [`DataError::Unlabelled`] if it has no label, and what keeps the
    /// set from giving it.
    pub fn get(&self, epoch: u64, index: usize) -> Result<(Tensor, Tensor, u32), DataError> {
        let picture = self.set.picture(index)?;
        let unlabelled = || DataError::Unlabelled { name: self.set.name().to_owned(), index };
        let target = self.set.label(index).ok_or_else(unlabelled)?;
        let view = |view| self.transform.tensor(&self.transform.view(&picture, epoch, index as u64, view));
        Ok((view(0)?, view(1)?, target))
    }
}

impl std::fmt::Debug for CifarPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CifarPair({}, {} pictures)", self.set.name(), self.len())
    }
}
