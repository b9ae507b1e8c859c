//! The mean over all pixels of a map, per channel: `AdaptiveAvgPool2d(1)` and `flatten` on NHWC.
//!
//! One pass over little memory: the plain loop is the only form.

#[cfg(feature = "cuda")]
use candle_core::Device;
use candle_core::{DType, Tensor};
use num_traits::Zero;
use rayon::prelude::*;

use crate::context::Context;
#[cfg(feature = "cuda")]
use crate::cuda::pooling;
use crate::element::{Stored, narrow};
use crate::error::OpsError;
use crate::simd::simd;
use crate::storage::{FloatType, dispatch_stored, elements, stored_type, tensor};

const OP: &str = "global_avg_pool";

/// What [`backward`] needs of the forward pass: the shape of the map and the type it is kept in.
#[derive(Clone, Debug)]
pub struct Saved {
    dims: [usize; 4],
    dtype: DType,
}

/// The mean of every channel of every picture.
///
/// # Shapes
/// `x`: `[n, h, w, c]`, contiguous, `h · w > 0`. Returns `[n, c]`, of f32 if the map is of bf16 or, on a GPU, of f16.
///
/// # Errors
/// [`OpsError::Shape`], [`OpsError::Dtype`] or [`OpsError::NoForm`] if `x` is not as above.
pub fn forward(_: &Context, x: &Tensor) -> Result<(Tensor, Saved), OpsError> {
    fn run<S: Stored>(x: &Tensor, [n, h, w, c]: [usize; 4]) -> Result<Tensor, OpsError> {
        let x = elements::<S>(OP, "x", x)?;
        let mut y = vec![S::Wide::zero(); n * c];
        let share = narrow::<S::Wide>(1.0 / (h * w) as f64);
        y.par_chunks_mut(c).zip(x.par_chunks(h * w * c)).for_each(|(y, x)| {
            simd(
                #[inline(always)]
                || {
                    for pixel in x.chunks_exact(c) {
                        y.iter_mut().zip(pixel).for_each(|(y, &x)| *y += x.widen());
                    }
                    y.iter_mut().for_each(|y| *y *= share);
                },
            );
        });
        tensor(y, (n, c))
    }
    match *x.dims() {
        [n, h, w, c] if h * w * c > 0 => {
            let (dims, dtype) = ([n, h, w, c], x.dtype());
            #[cfg(feature = "cuda")]
            if let Device::Cuda(device) = x.device() {
                return Ok((pooling::mean_forward(device, x)?, Saved { dims, dtype }));
            }
            Ok((dispatch_stored!(stored_type(OP, "x", x)?, run(x, dims))?, Saved { dims, dtype }))
        }
        _ => Err(OpsError::shape(OP, "x", x, "[n, h, w, c] with at least one pixel and channel")),
    }
}

/// The gradient of [`forward`]: every pixel gets its equal share.
///
/// # Shapes
/// `grad`: `[n, c]`, contiguous. Returns `[n, h, w, c]`.
///
/// # Errors
/// As [`forward`].
pub fn backward(_: &Context, saved: &Saved, grad: &Tensor) -> Result<Tensor, OpsError> {
    fn run<S: Stored>([n, h, w, c]: [usize; 4], grad: &Tensor) -> Result<Tensor, OpsError> {
        let grad = elements::<S::Wide>(OP, "grad", grad)?;
        let mut dx = vec![S::zero(); n * h * w * c];
        let share = narrow::<S::Wide>(1.0 / (h * w) as f64);
        dx.par_chunks_mut(h * w * c).zip(grad.par_chunks(c)).for_each(|(dx, grad)| {
            for pixel in dx.chunks_exact_mut(c) {
                pixel.iter_mut().zip(grad).for_each(|(dx, &g)| *dx = S::narrow(g * share));
            }
        });
        tensor(dx, (n, h, w, c))
    }
    let [n, _, _, c] = saved.dims;
    if grad.dims() != [n, c] {
        return Err(OpsError::shape(OP, "grad", grad, format!("[{n}, {c}], the shape of the output")));
    }
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = grad.device() {
        return pooling::mean_backward(device, grad, saved.dims, saved.dtype);
    }
    dispatch_stored!(FloatType::of_map(OP, "x", saved.dtype)?, run(saved.dims, grad))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, finite_differences, random};

    #[test]
    fn is_the_mean_over_pixels() {
        for (n, h, w, c) in [(1, 1, 1, 1), (2, 3, 5, 31), (3, 4, 4, 33)] {
            let x = random(&[n, h, w, c], 1);
            let (y, _) = forward(&Context::new(), &x).unwrap();
            close(&y, &x.mean((1, 2)).unwrap(), 1e-14, "mean");
        }
    }

    #[test]
    fn gradient_by_finite_differences() {
        let x = random(&[2, 3, 2, 5], 1);
        let ctx = Context::new();
        finite_differences(
            &[x],
            |a| Ok(forward(&ctx, &a[0])?.0),
            |a, grad| Ok(vec![backward(&ctx, &forward(&ctx, &a[0])?.1, grad)?]),
        );
    }

    #[test]
    fn a_map_of_bf16_has_a_mean_of_f32() {
        let x = random(&[3, 4, 4, 33], 1).to_dtype(DType::F32).unwrap().to_dtype(DType::BF16).unwrap();
        let (y, saved) = forward(&Context::new(), &x).unwrap();
        assert_eq!(y.dtype(), DType::F32);
        close(&y, &x.to_dtype(DType::F64).unwrap().mean((1, 2)).unwrap(), 1e-6, "mean");
        let grad = random(&[3, 33], 2).to_dtype(DType::F32).unwrap();
        let dx = backward(&Context::new(), &saved, &grad).unwrap();
        assert_eq!(dx.dtype(), DType::BF16);
        let share = (grad / 16.0).unwrap().reshape((3, 1, 1, 33)).unwrap().broadcast_as((3, 4, 4, 33)).unwrap();
        close(&dx, &share, 2f64.powi(-8), "gradient");
    }

    #[test]
    fn wrong_shapes_and_types_are_named() {
        let ctx = Context::new();
        let flat = random(&[2, 3], 1);
        let message = forward(&ctx, &flat).unwrap_err().to_string();
        assert!(message.contains("x has shape [2, 3], expected [n, h, w, c]"), "{message}");
        for dtype in [DType::U8, DType::F16] {
            let other = random(&[1, 1, 1, 1], 1).to_dtype(dtype).unwrap();
            let message = forward(&ctx, &other).unwrap_err().to_string();
            assert!(message.contains(&format!("elements of type {dtype:?}, expected f32, f64 or bf16")), "{message}");
        }
    }
}
