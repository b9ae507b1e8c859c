//! Norms of parameters and gradients, summed in f64.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::context::{Context, Form};
use crate::element::{Element, narrow, wide};
use crate::error::OpsError;
use crate::simd::{CHUNK, simd};
use crate::storage::{dispatch, elements, float_type};

/// Sum of the squares of all numbers of `tensor`, in f64; not finite if one of them is not.
///
/// The sum is cut by shape: it has the same bits for any number of threads.
///
/// # Errors
/// [`OpsError::Dtype`] or [`OpsError::NoForm`] unless it is a CPU tensor of f32 or f64, or one of f32 on a GPU.
pub fn squared_norm(ctx: &Context, tensor: &Tensor) -> Result<f64, OpsError> {
    fn run<T: Element>(ctx: &Context, tensor: &Tensor) -> Result<f64, OpsError> {
        let tensor = tensor.contiguous()?;
        let numbers = elements::<T>("squared_norm", "tensor", &tensor)?;
        Ok(of_sum(ctx, &numbers, &numbers, T::one(), T::zero()))
    }
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(device) = tensor.device() {
        return super::cuda::squared_norm(ctx, device, &[tensor]);
    }
    dispatch!(float_type("squared_norm", "tensor", tensor)?, run(ctx, tensor))
}

/// [`squared_norm`] of all `tensors` together, which a GPU sums up at once.
///
/// # Errors
/// [`OpsError::Dtype`] or [`OpsError::NoForm`] unless they are tensors of f32 or f64 on the CPU, or of f32 on one GPU.
pub fn squared_norm_of_all(ctx: &Context, tensors: &[&Tensor]) -> Result<f64, OpsError> {
    #[cfg(feature = "cuda")]
    if let Some(device) = tensors.first().map(|tensor| tensor.device()).filter(|device| device.is_cuda()) {
        return super::cuda::squared_norm(ctx, device.as_cuda_device()?, tensors);
    }
    tensors.iter().try_fold(0.0, |sum, tensor| Ok(sum + squared_norm(ctx, tensor)?))
}

/// Squared norm of `scale · grad + decay · p`.
pub(super) fn of_sum<T: Element>(ctx: &Context, grad: &[T], p: &[T], scale: T, decay: T) -> f64 {
    if ctx.form() == Form::Reference {
        return grad.iter().zip(p).map(|(&g, &p)| square(g, p, scale, decay)).sum();
    }
    let sums: Vec<f64> =
        grad.par_chunks(CHUNK).zip(p.par_chunks(CHUNK)).map(|(g, p)| chunk(g, p, scale, decay)).collect();
    sums.iter().sum()
}

#[inline(always)]
fn square<T: Element>(g: T, p: T, scale: T, decay: T) -> f64 {
    let sum = wide(g * scale + p * decay);
    sum * sum
}

/// One chunk, in sixteen sums that run side by side.
fn chunk<T: Element>(grad: &[T], p: &[T], scale: T, decay: T) -> f64 {
    const LANES: usize = 16;
    simd(
        #[inline(always)]
        || {
            let mut lanes = [0.0; LANES];
            let ((grads, last_grads), (ps, last_ps)) = (grad.as_chunks::<LANES>(), p.as_chunks::<LANES>());
            for (grads, ps) in grads.iter().zip(ps) {
                for ((lane, &g), &p) in lanes.iter_mut().zip(grads).zip(ps) {
                    *lane += square(g, p, scale, decay);
                }
            }
            for ((lane, &g), &p) in lanes.iter_mut().zip(last_grads).zip(last_ps) {
                *lane += square(g, p, scale, decay);
            }
            lanes.iter().sum()
        },
    )
}

/// How far LARS trusts a parameter's gradient: `coefficient · |p| / |scale · grad + decay · p|`, and 1 where a norm is zero.
pub(super) fn trust_ratio<T: Element>(
    ctx: &Context,
    p: &[T],
    grad: &[T],
    coefficient: f64,
    scale: f64,
    weight_decay: f64,
) -> f64 {
    let weight = of_sum(ctx, p, p, T::one(), T::zero()).sqrt();
    let grad = of_sum(ctx, grad, p, narrow(scale), narrow(weight_decay)).sqrt();
    if weight > 0.0 && grad > 0.0 { coefficient * weight / grad } else { 1.0 }
}
