//! What can be wrong with features or a test on them.

use candle_core::DType;

/// Why an evaluation was refused.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A picture whose class is not known cannot be counted as right or wrong.
    #[error("picture {index} of {set} has no label: an evaluation needs the classes of all pictures")]
    Unlabelled {
        /// The set.
        set: String,
        /// The picture.
        index: usize,
    },
    /// There is nothing to evaluate.
    #[error("{set} has no pictures")]
    Empty {
        /// The set.
        set: String,
    },
    /// Features are not a matrix with one row a label, or bank and queries differ.
    #[error("{argument} has shape {found:?}, expected {expected}")]
    Shape {
        /// The argument that is wrong.
        argument: &'static str,
        /// Its dimensions.
        found: Vec<usize>,
        /// What they should be.
        expected: String,
    },
    /// Features are not f32.
    #[error("{argument} has elements of type {found:?}, expected F32")]
    Dtype {
        /// The argument that is wrong.
        argument: &'static str,
        /// Its type.
        found: DType,
    },
    /// More neighbours asked for than there are, or none.
    #[error("k is {k}, expected 1 to {bank}, the number of pictures in the bank")]
    Neighbours {
        /// Neighbours that should vote.
        k: usize,
        /// Pictures in the bank.
        bank: usize,
    },
    /// A temperature that similarities cannot be divided by.
    #[error("the temperature of votes is {found}, expected a finite number above 0")]
    Temperature {
        /// The temperature given.
        found: f64,
    },
    /// A cosine from which on rows are taken for the same that cannot be.
    #[error("the threshold of duplicates is {found}, expected a cosine above 0 and at most 1")]
    Threshold {
        /// The threshold given.
        found: f64,
    },
    /// A label that is no class.
    #[error("{argument} has label {found}, expected 0 to {}", classes - 1)]
    Label {
        /// The argument that is wrong.
        argument: &'static str,
        /// The label.
        found: u32,
        /// How many classes there are.
        classes: usize,
    },
    /// Features that are not numbers: the encoder is broken.
    #[error("feature {row} of {argument} is not finite: the encoder gives no usable features")]
    NotFinite {
        /// The argument that is wrong.
        argument: &'static str,
        /// The first such row.
        row: usize,
    },
    /// A setting of a training that cannot be.
    #[error("{field} of the {of} is {found}, expected {expected}")]
    Setting {
        /// The training.
        of: &'static str,
        /// The setting.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A classifier's loss, or its gradient, is not finite any more.
    #[error("the loss of the {of} is not finite in epoch {epoch}: a lower learning rate may help")]
    Diverged {
        /// The training.
        of: &'static str,
        /// The epoch, from 1.
        epoch: u64,
    },
    /// A logistic regression did not come to its end.
    #[error("the logistic regression found no solution: {reason}")]
    Fit {
        /// What its solver says.
        reason: String,
    },
    /// The pictures could not be read.
    #[error(transparent)]
    Data(#[from] simclr_data::DataError),
    /// The optimizer of a classifier reported an error.
    #[error(transparent)]
    Optim(Box<simclr_optim::OptimError>),
    /// An op refused its arguments.
    #[error(transparent)]
    Ops(#[from] simclr_ops::OpsError),
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<simclr_optim::OptimError> for EvalError {
    fn from(error: simclr_optim::OptimError) -> Self {
        Self::Optim(Box::new(error))
    }
}
