//! The output of a batch norm, made again instead of being kept: its input is kept anyway.

use std::mem::MaybeUninit;
use std::sync::Arc;

use candle_core::Tensor;

use super::{OP, cpu, narrowed};
use crate::element::Stored;
use crate::error::OpsError;
use crate::storage::{Elements, elements};

/// What batch norm makes of a map, to be made again instead of being kept: the map is kept anyway.
#[derive(Clone, Debug)]
pub struct Normalised {
    x: Tensor,
    /// Scale and shift of every channel, for each group.
    affine: Arc<Vec<[Vec<f64>; 2]>>,
    relu: bool,
}

impl Normalised {
    /// That of a map, with scale and shift of every channel for each group.
    pub(super) fn new(x: &Tensor, affine: Vec<[Vec<f64>; 2]>, relu: bool) -> Self {
        Self { x: x.clone(), affine: Arc::new(affine), relu }
    }

    /// The map, whose shape and type the output has.
    pub(crate) fn x(&self) -> &Tensor {
        &self.x
    }

    /// The output, a part at a time.
    pub(crate) fn parts<S: Stored>(&self) -> Result<Parts<'_, S>, OpsError> {
        let narrow = |numbers: &[Vec<f64>; 2]| numbers.each_ref().map(|numbers| narrowed(numbers));
        let affine = self.affine.iter().map(narrow).collect();
        Ok(Parts { x: elements(OP, "x", &self.x)?, affine, relu: self.relu })
    }
}

/// The output of a batch norm, made when it is read.
pub(crate) struct Parts<'a, S: Stored> {
    x: Elements<'a, S>,
    affine: Vec<[Vec<S::Wide>; 2]>,
    relu: bool,
}

impl<S: Stored> Parts<'_, S> {
    /// How many numbers there are.
    pub(crate) fn len(&self) -> usize {
        self.x.len()
    }

    /// Writes the numbers from `first` on, whole rows of channels, as they were rounded when they were kept.
    pub(crate) fn write(&self, first: usize, mut to: &mut [MaybeUninit<S::Wide>]) {
        let (group, mut first) = (self.x.len() / self.affine.len(), first);
        while !to.is_empty() {
            let [scale, shift] = &self.affine[first / group];
            let len = to.len().min(group - first % group);
            let (part, rest) = to.split_at_mut(len);
            cpu::make_again(&self.x[first..first + len], scale, shift, self.relu, part);
            (first, to) = (first + len, rest);
        }
    }
}
