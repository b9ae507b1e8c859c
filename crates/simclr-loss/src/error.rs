//! What can be wrong with the arguments of a loss.

use candle_core::{DType, Tensor};

/// Why a similarity or loss was refused.
#[derive(Debug, thiserror::Error)]
pub enum LossError {
    /// A tensor has not the shape that the function or its other argument asks for.
    #[error("{argument} has shape {found:?}, expected {expected}")]
    Shape {
        /// The argument that is wrong.
        argument: &'static str,
        /// Its dimensions.
        found: Vec<usize>,
        /// What they should be.
        expected: String,
    },
    /// A tensor's elements are not floats, or not of the type of the other argument's.
    #[error("{argument} has elements of type {found:?}, expected {expected}")]
    Dtype {
        /// The argument that is wrong.
        argument: &'static str,
        /// Its type.
        found: DType,
        /// What it should be.
        expected: String,
    },
    /// The two tensors are on different devices, or on one that the function has no form for.
    #[error("{argument} is on {found}, expected {expected}")]
    Device {
        /// The argument that is wrong.
        argument: &'static str,
        /// Where it is.
        found: String,
        /// Where it should be.
        expected: String,
    },
    /// A temperature that similarities cannot be divided by.
    #[error("temperature is {found}, expected a finite number above 0")]
    Temperature {
        /// The temperature given.
        found: f64,
    },
    /// The other processes cannot be reached.
    #[error(transparent)]
    Dist(#[from] simclr_dist::DistError),
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl LossError {
    pub(crate) fn shape(argument: &'static str, found: &Tensor, expected: impl Into<String>) -> Self {
        Self::Shape { argument, found: found.dims().to_vec(), expected: expected.into() }
    }
}

/// Checks a temperature.
pub(crate) fn check_temperature(tau: f64) -> Result<(), LossError> {
    if tau.is_finite() && tau > 0.0 { Ok(()) } else { Err(LossError::Temperature { found: tau }) }
}

/// Checks that a tensor's elements are f32 or f64.
pub(crate) fn check_float(argument: &'static str, tensor: &Tensor) -> Result<(), LossError> {
    match tensor.dtype() {
        DType::F32 | DType::F64 => Ok(()),
        found => Err(LossError::Dtype { argument, found, expected: "F32 or F64".into() }),
    }
}

/// Checks that two views are `[n, d]` alike, with `n` and `d` above 0, and returns `(n, d)`.
pub(crate) fn check_views(left: &Tensor, right: &Tensor) -> Result<(usize, usize), LossError> {
    let (n, d) = match *left.dims() {
        [n, d] if n > 0 && d > 0 => (n, d),
        _ => return Err(LossError::shape("left", left, "[n, d] with n and d above 0")),
    };
    if right.dims() != [n, d] {
        return Err(LossError::shape("right", right, format!("[{n}, {d}], the shape of left")));
    }
    check_alike(("left", left), ("right", right))?;
    Ok((n, d))
}

/// Checks that two tensors have one float type and are on one device.
pub(crate) fn check_alike(
    (first_name, first): (&'static str, &Tensor),
    (second_name, second): (&'static str, &Tensor),
) -> Result<(), LossError> {
    check_float(first_name, first)?;
    if second.dtype() != first.dtype() {
        let expected = format!("{:?} as {first_name}", first.dtype());
        return Err(LossError::Dtype { argument: second_name, found: second.dtype(), expected });
    }
    if !second.device().same_device(first.device()) {
        let expected = format!("{:?} as {first_name}", first.device().location());
        let found = format!("{:?}", second.device().location());
        return Err(LossError::Device { argument: second_name, found, expected });
    }
    Ok(())
}
