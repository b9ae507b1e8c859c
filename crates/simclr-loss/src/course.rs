//! NT-Xent as the course writes it: with loops, and with the whole similarity matrix.
//!
//! Both take a logarithm of a sum of exponentials around its maximum, so that nothing overflows at low temperatures, and
//! in f64, so that a small loss keeps its digits. Both are differentiated whole (the course's naive Python detaches its
//! denominators, which is not the gradient).

use candle_core::{D, DType, Device, Tensor};

use crate::error::{LossError, check_temperature, check_views};
use crate::similarity::{compute_sim_matrix, sim, sim_positive_pairs};

/// NT-Xent by its definition, a loop over pairs. For reading and checking: it is slow.
///
/// # Shapes
/// As [`crate::nt_xent`].
///
/// # Errors
/// As [`crate::nt_xent`], but on any device.
pub fn simclr_loss_naive(left: &Tensor, right: &Tensor, tau: f64) -> Result<Tensor, LossError> {
    let (n, _) = check_views(left, right)?;
    check_temperature(tau)?;
    let out = Tensor::cat(&[left, right], 0)?;
    // -log(exp(sim(z_i, z_j) / tau) / Σ_{k ≠ i} exp(sim(z_i, z_k) / tau))
    let term = |i: usize, j: usize| -> Result<Tensor, LossError> {
        let z_i = out.get(i)?;
        let others = (0..2 * n).filter(|&k| k != i).map(|k| sim(&z_i, &out.get(k)?));
        let logits = divided(&Tensor::stack(&others.collect::<Result<Vec<_>, _>>()?, 0)?, tau)?;
        Ok((log_sum_exp(&logits)?.squeeze(0)? - divided(&sim(&z_i, &out.get(j)?)?, tau)?)?)
    };
    let mut total = Tensor::zeros((), DType::F64, out.device())?;
    for k in 0..n {
        total = ((total + term(k, k + n)?)? + term(k + n, k)?)?;
    }
    Ok((total / (2 * n) as f64)?.to_dtype(left.dtype())?)
}

/// NT-Xent over the whole `[2n, 2n]` similarity matrix, without loops; memory O(n²).
///
/// # Shapes
/// As [`crate::nt_xent`].
///
/// # Errors
/// As [`crate::nt_xent`], but on any device.
pub fn simclr_loss_vectorized(left: &Tensor, right: &Tensor, tau: f64) -> Result<Tensor, LossError> {
    let (n, _) = check_views(left, right)?;
    check_temperature(tau)?;
    let logits = divided(&compute_sim_matrix(&Tensor::cat(&[left, right], 0)?)?, tau)?;
    let logits = (logits + minus_infinity_diagonal(2 * n, left.device())?)?;
    let positives = divided(&sim_positive_pairs(left, right)?, tau)?;
    let positives = Tensor::cat(&[&positives, &positives], 0)?;
    Ok((log_sum_exp(&logits)? - positives)?.mean_all()?.to_dtype(left.dtype())?)
}

/// Logits in f64.
fn divided(similarities: &Tensor, tau: f64) -> candle_core::Result<Tensor> {
    similarities.to_dtype(DType::F64)? / tau
}

/// `log Σ exp` along the last dimension, which is kept.
fn log_sum_exp(logits: &Tensor) -> candle_core::Result<Tensor> {
    let largest = logits.max_keepdim(D::Minus1)?.detach();
    logits.broadcast_sub(&largest)?.exp()?.sum_keepdim(D::Minus1)?.log()? + largest
}

/// What, added to logits, takes a view's similarity with itself out of every sum.
fn minus_infinity_diagonal(size: usize, device: &Device) -> candle_core::Result<Tensor> {
    let mut mask = vec![0f64; size * size];
    mask.iter_mut().step_by(size + 1).for_each(|m| *m = f64::NEG_INFINITY);
    Tensor::from_vec(mask, (size, size), device)
}
