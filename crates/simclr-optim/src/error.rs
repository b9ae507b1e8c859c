//! What can be wrong with an optimizer's parameters, gradients or saved numbers.

/// Why an optimizer refused.
#[derive(Debug, thiserror::Error)]
pub enum OptimError {
    /// A parameter that the loss does not depend on, which is a mistake in the model or in the loss.
    #[error("the loss gives no gradient for parameter {name}")]
    NoGradient {
        /// The parameter.
        name: String,
    },
    /// The saved numbers are not those of these parameters.
    #[error("the optimizer's saved state does not fit its parameters: {}", problems.join("; "))]
    State {
        /// Every missing, unexpected or misshapen entry.
        problems: Vec<String>,
    },
    /// An op refused a parameter or a gradient.
    #[error(transparent)]
    Ops(#[from] simclr_ops::OpsError),
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
