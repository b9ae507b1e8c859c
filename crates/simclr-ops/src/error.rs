//! What can be wrong with the arguments of an op.

use candle_core::{DType, Tensor};

/// Why an op refused its arguments.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// A tensor has not the shape that the op or its other arguments ask for.
    #[error("{op}: {argument} has shape {found:?}, expected {expected}")]
    Shape {
        /// The op.
        op: &'static str,
        /// The argument that is wrong.
        argument: &'static str,
        /// Its dimensions.
        found: Vec<usize>,
        /// What they should be.
        expected: String,
    },
    /// A tensor has an element type that the op does not compute in, or not that of the other arguments.
    #[error("{op}: {argument} has elements of type {found:?}, expected {expected}")]
    Dtype {
        /// The op.
        op: &'static str,
        /// The argument that is wrong.
        argument: &'static str,
        /// Its type.
        found: DType,
        /// What it should be.
        expected: &'static str,
    },
    /// There are more or fewer tensors than the op asks for.
    #[error("{op}: {argument} are {found} tensors, expected {expected}")]
    Count {
        /// The op.
        op: &'static str,
        /// The argument that is wrong.
        argument: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// The op has no form for the device of its arguments.
    #[error("{op} has no {device} form yet: move its tensors to the CPU")]
    NoForm {
        /// The op.
        op: &'static str,
        /// The device.
        device: &'static str,
    },
    /// Batch statistics of a single value: the variance of one number says nothing.
    #[error("batch norm in training needs more than one value per channel, found {count} (a larger batch helps)")]
    OneValuePerChannel {
        /// How many values per channel there are, over all processes.
        count: usize,
    },
    /// A view cannot be made of its picture.
    #[error("view {view} has {found}, expected {expected}")]
    View {
        /// Which view of those asked for, from 0.
        view: usize,
        /// What is wrong with it.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// Gradients were asked of a tape that has already run, or of a value that it did not record.
    #[error("the tape cannot run backwards: {0}")]
    Tape(&'static str),
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Inside candle's own traits errors must be candle's; the message and the source stay.
impl From<OpsError> for candle_core::Error {
    fn from(error: OpsError) -> Self {
        match error {
            OpsError::Candle(inner) => inner,
            other => candle_core::Error::wrap(other),
        }
    }
}

impl OpsError {
    pub(crate) fn shape(op: &'static str, argument: &'static str, found: &Tensor, expected: impl Into<String>) -> Self {
        Self::Shape { op, argument, found: found.dims().to_vec(), expected: expected.into() }
    }
}
