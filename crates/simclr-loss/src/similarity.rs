//! Cosine similarities, as the course has them, differentiable through candle on any device.

use candle_core::{D, Tensor};

use crate::error::{LossError, check_alike, check_float, check_views};

/// Cosine of the angle between two vectors: `z_i · z_j / (|z_i| |z_j|)`, 0 if either is zero.
///
/// # Shapes
/// `z_i`, `z_j`: `[d]` or `[1, d]`, `d` above 0, one float type. Returns `[]`, of the inputs' type.
///
/// # Errors
/// [`LossError::Shape`], [`LossError::Dtype`] or [`LossError::Device`] if the two are not as above.
///
/// ```
/// use candle_core::{Device, Tensor};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let z_i = Tensor::new(&[3f64, 4.0], &Device::Cpu)?;
/// let z_j = Tensor::new(&[[1f64, 0.0]], &Device::Cpu)?;
/// assert_eq!(simclr_loss::sim(&z_i, &z_j)?.to_scalar::<f64>()?, 0.6);
/// # Ok(())
/// # }
/// ```
pub fn sim(z_i: &Tensor, z_j: &Tensor) -> Result<Tensor, LossError> {
    let row = |argument, z: &Tensor| match *z.dims() {
        [d] | [1, d] if d > 0 => Ok(z.reshape((1, d))?),
        _ => Err(LossError::shape(argument, z, "[d] or [1, d] with d above 0")),
    };
    let (row_i, row_j) = (row("z_i", z_i)?, row("z_j", z_j)?);
    if row_i.dims() != row_j.dims() {
        return Err(LossError::shape("z_j", z_j, format!("{} numbers as z_i", row_i.elem_count())));
    }
    check_alike(("z_i", z_i), ("z_j", z_j))?;
    Ok((unit_rows(&row_i)? * unit_rows(&row_j)?)?.sum_all()?)
}

/// Cosine of each row of `left` with the same row of `right`: the positive pairs.
///
/// # Shapes
/// `left`, `right`: `[n, d]`, one float type. Returns `[n, 1]`, of the inputs' type.
///
/// # Errors
/// [`LossError::Shape`], [`LossError::Dtype`] or [`LossError::Device`] if the two are not as above.
pub fn sim_positive_pairs(left: &Tensor, right: &Tensor) -> Result<Tensor, LossError> {
    check_views(left, right)?;
    Ok((unit_rows(left)? * unit_rows(right)?)?.sum_keepdim(1)?)
}

/// Cosines of all rows with all rows.
///
/// # Shapes
/// `out`: `[2n, d]` (any number of rows), a float type. Returns `[2n, 2n]`, of the input's type.
///
/// # Errors
/// [`LossError::Shape`] or [`LossError::Dtype`] if `out` is not as above.
pub fn compute_sim_matrix(out: &Tensor) -> Result<Tensor, LossError> {
    if !matches!(*out.dims(), [n, d] if n > 0 && d > 0) {
        return Err(LossError::shape("out", out, "[2n, d] with n and d above 0"));
    }
    check_float("out", out)?;
    let unit = unit_rows(out)?;
    Ok(unit.matmul(&unit.t()?)?)
}

/// Rows divided by their lengths; a zero row stays zero and lets no gradient through.
///
/// A plain `x / sqrt(Σ x²)` has the gradient `0 / 0` there.
fn unit_rows(x: &Tensor) -> candle_core::Result<Tensor> {
    let squares = x.sqr()?.sum_keepdim(D::Minus1)?;
    let is_zero = squares.eq(0.0)?.to_dtype(x.dtype())?;
    let lengths = (squares + &is_zero)?.sqrt()?;
    x.broadcast_mul(&(1.0 - is_zero)?)?.broadcast_div(&lengths)
}
