//! Rows of unit length: `torch.nn.functional.normalize(x, dim=-1)`.
//!
//! One pass over a few thousand numbers: the plain loop is the only form.

#[cfg(feature = "cuda")]
mod cuda;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::context::Context;
use crate::element::{Element, narrow, wide};
use crate::error::OpsError;
use crate::storage::{dispatch, elements, float_type, tensor};

const OP: &str = "l2_normalize";

/// Rows that are not longer than this have no direction: they become zero, and their gradient is zero.
pub const SHORTEST: f64 = 1e-12;

/// What [`backward`] needs of the forward pass.
#[derive(Clone, Debug)]
pub struct Saved {
    y: Tensor,
    norms: Norms,
}

/// Length of every row before.
#[derive(Clone, Debug)]
enum Norms {
    Host(Vec<f64>),
    #[cfg(feature = "cuda")]
    Device(Tensor),
}

/// Divides every row by its Euclidean length; rows no longer than [`SHORTEST`] become zero.
///
/// # Shapes
/// `x`: `[n, d]`, contiguous, `d > 0`. Returns `[n, d]`.
///
/// # Errors
/// [`OpsError::Shape`], [`OpsError::Dtype`] or [`OpsError::NoForm`] if `x` is not as above.
pub fn forward(_: &Context, x: &Tensor) -> Result<(Tensor, Saved), OpsError> {
    fn run<T: Element>(x: &Tensor, n: usize, d: usize) -> Result<(Tensor, Saved), OpsError> {
        let x = elements::<T>(OP, "x", x)?;
        let mut y = vec![T::zero(); n * d];
        let norms: Vec<f64> =
            x.par_chunks(d).map(|row| row.iter().map(|&x| wide(x) * wide(x)).sum::<f64>().sqrt()).collect();
        y.par_chunks_mut(d).zip(x.par_chunks(d)).zip(&norms).for_each(|((y, x), &norm)| {
            // A row with NaN stays NaN, so that a broken network is seen.
            if norm <= SHORTEST {
                y.fill(T::zero());
            } else {
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = narrow(wide(x) / norm));
            }
        });
        let y = tensor(y, (n, d))?;
        Ok((y.clone(), Saved { y, norms: Norms::Host(norms) }))
    }
    match *x.dims() {
        #[cfg(feature = "cuda")]
        [n, d] if d > 0 && x.device().is_cuda() => {
            let [y, norms] = cuda::forward(x.device().as_cuda_device()?, x, [n, d])?;
            Ok((y.clone(), Saved { y, norms: Norms::Device(norms) }))
        }
        [n, d] if d > 0 => dispatch!(float_type(OP, "x", x)?, run(x, n, d)),
        _ => Err(OpsError::shape(OP, "x", x, "[n, d] with d above 0")),
    }
}

/// The gradient of [`forward`]: `(g - y (g · y)) / |x|`, the part of `g` across the row.
///
/// # Shapes
/// `grad`: `[n, d]`, contiguous. Returns `[n, d]`.
///
/// # Errors
/// As [`forward`].
pub fn backward(_: &Context, saved: &Saved, grad: &Tensor) -> Result<Tensor, OpsError> {
    fn run<T: Element>(saved: &Saved, norms: &[f64], grad: &Tensor) -> Result<Tensor, OpsError> {
        let (n, d) = saved.y.dims2()?;
        let (y, grad) = (elements::<T>(OP, "y", &saved.y)?, elements::<T>(OP, "grad", grad)?);
        let mut dx = vec![T::zero(); n * d];
        dx.par_chunks_mut(d).zip(y.par_chunks(d).zip(grad.par_chunks(d))).zip(norms).for_each(
            |((dx, (y, grad)), &norm)| {
                if norm <= SHORTEST {
                    return;
                }
                let along: f64 = y.iter().zip(grad).map(|(&y, &g)| wide(y) * wide(g)).sum();
                for ((dx, &y), &g) in dx.iter_mut().zip(y).zip(grad) {
                    *dx = narrow((wide(g) - wide(y) * along) / norm);
                }
            },
        );
        tensor(dx, (n, d))
    }
    if grad.dims() != saved.y.dims() {
        return Err(OpsError::shape(OP, "grad", grad, format!("{:?}, the shape of the output", saved.y.dims())));
    }
    match &saved.norms {
        Norms::Host(norms) => dispatch!(float_type(OP, "grad", grad)?, run(saved, norms, grad)),
        #[cfg(feature = "cuda")]
        Norms::Device(norms) => cuda::backward(saved.y.device().as_cuda_device()?, &saved.y, norms, grad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, finite_differences, random};
    use candle_core::Device;

    #[test]
    fn rows_have_unit_length_and_their_direction() {
        for (n, d) in [(1, 1), (31, 33), (2, 128)] {
            let x = random(&[n, d], 1);
            let (y, _) = forward(&Context::new(), &x).unwrap();
            let norms = x.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
            close(&y, &x.broadcast_div(&norms).unwrap(), 1e-14, "direction");
        }
    }

    #[test]
    fn gradient_by_finite_differences() {
        let ctx = Context::new();
        finite_differences(
            &[random(&[3, 5], 1)],
            |a| Ok(forward(&ctx, &a[0])?.0),
            |a, grad| Ok(vec![backward(&ctx, &forward(&ctx, &a[0])?.1, grad)?]),
        );
    }

    #[test]
    fn a_zero_row_gives_zero_and_zero_gradient_and_nan_stays() {
        let ctx = Context::new();
        let x = Tensor::new(&[[0f32, 0.0], [f32::NAN, 1.0]], &Device::Cpu).unwrap();
        let (y, saved) = forward(&ctx, &x).unwrap();
        let dx = backward(&ctx, &saved, &Tensor::ones((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap()).unwrap();
        let (y, dx) = (y.to_vec2::<f32>().unwrap(), dx.to_vec2::<f32>().unwrap());
        assert_eq!((y[0].as_slice(), dx[0].as_slice()), ([0.0, 0.0].as_slice(), [0.0, 0.0].as_slice()));
        assert!(y[1].iter().all(|y| y.is_nan()) && dx[1].iter().all(|dx| dx.is_nan()));
    }
}
