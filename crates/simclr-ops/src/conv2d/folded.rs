//! Convolution with a batch norm folded into it, for inference.

use candle_core::Tensor;
use num_traits::Zero;
use rayon::prelude::*;

use super::{Geometry, OP, Window, cpu, reference};
use crate::context::{Context, Form};
use crate::element::{Stored, narrow, wide};
use crate::error::OpsError;
use crate::simd::simd;
use crate::storage::{dispatch_stored, elements, stored_type, tensor, written};

/// `relu(conv2d(x, weight) · scale + shift + residual)` per output channel, residual and ReLU each optional.
///
/// The scale is multiplied into the weights, which in f32 rounds differently than a batch norm after the convolution.
///
/// # Shapes
/// `x`, `weight` as in [`super::forward`]; `scale`, `shift`: `c_out` numbers; `residual`: as the output, which is returned.
///
/// # Errors
/// As [`super::forward`].
#[allow(clippy::too_many_arguments)] // These are the tensors of the formula.
pub fn folded(
    ctx: &Context,
    x: &Tensor,
    weight: &Tensor,
    window: Window,
    scale: &[f64],
    shift: &[f64],
    residual: Option<&Tensor>,
    relu: bool,
) -> Result<Tensor, OpsError> {
    let g = Geometry::new(x, weight, window)?;
    let shape = [g.n, g.h_out, g.w_out, g.c_out];
    if let Some(residual) = residual.filter(|residual| residual.dims() != shape) {
        return Err(OpsError::shape(OP, "residual", residual, format!("{shape:?}, the shape of the output")));
    }
    if scale.len() != g.c_out || shift.len() != g.c_out {
        let expected = format!("[{}, …] for as many scales, and {} shifts", scale.len(), shift.len());
        return Err(OpsError::shape(OP, "weight", weight, expected));
    }
    let float_type = stored_type(OP, "x", x)?;
    let after = After { scale, shift, residual, relu };
    ctx.timed(OP, "folded", g.work(float_type), || dispatch_stored!(float_type, run(ctx, &g, x, weight, &after)))
}

/// What follows the convolution.
struct After<'a> {
    scale: &'a [f64],
    shift: &'a [f64],
    residual: Option<&'a Tensor>,
    relu: bool,
}

fn run<S: Stored>(
    ctx: &Context,
    g: &Geometry,
    x: &Tensor,
    weight: &Tensor,
    after: &After<'_>,
) -> Result<Tensor, OpsError> {
    let (x, weight) = (elements::<S>(OP, "x", x)?, elements::<S::Wide>(OP, "weight", weight)?);
    let residual = after.residual.map(|r| elements::<S>(OP, "residual", r)).transpose()?;
    let mut scaled = weight.to_vec();
    scaled.par_chunks_mut(g.taps()).zip(after.scale).for_each(|(kernel, scale)| {
        kernel.iter_mut().for_each(|weight| *weight = narrow(wide(*weight) * scale));
    });
    let shift: Vec<S::Wide> = after.shift.iter().map(|&shift| narrow(shift)).collect();
    let finish = |first: usize, y: &mut [S::Wide]| {
        simd(
            #[inline(always)]
            || {
                for (row, y) in y.chunks_exact_mut(g.c_out).enumerate() {
                    match &residual {
                        None => y.iter_mut().zip(&shift).for_each(|(y, &shift)| *y = rectified(*y + shift, after.relu)),
                        Some(residual) => {
                            let residual = &residual[first + row * g.c_out..][..g.c_out];
                            for ((y, &shift), residual) in y.iter_mut().zip(&shift).zip(residual) {
                                *y = rectified(*y + shift + residual.widen(), after.relu);
                            }
                        }
                    }
                }
            },
        );
    };
    let y = match ctx.form() {
        Form::Reference => {
            let mut y = vec![S::Wide::zero(); g.rows() * g.c_out];
            reference::forward(g, &reference::widened(&x), &reference::rounded::<S>(&scaled), &mut y);
            finish(0, &mut y);
            y.into_iter().map(S::narrow).collect()
        }
        // SAFETY: `forward_then` writes every output of every pixel.
        Form::Fast => unsafe {
            written(g.rows() * g.c_out, |y| cpu::forward_then(ctx.instructions(), g, &x, &scaled, y, finish))
        },
    };
    tensor(y, (g.n, g.h_out, g.w_out, g.c_out))
}

/// The number, or zero for a negative one if a ReLU follows; NaN stays NaN.
#[inline(always)]
fn rectified<T: num_traits::Float>(number: T, relu: bool) -> T {
    if relu && number <= T::zero() { T::zero() } else { number }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::batch_norm::{self, BatchNorm};
    use crate::check::{close, forms, random};

    #[test]
    fn is_the_convolution_and_the_batch_norm_that_follow_each_other() {
        // Direct, Winograd's, pointwise, with strides; few pixels, and more than all threads share.
        for [n, side, c_in, c_out, k, stride] in [
            [2, 5, 3, 7, 3, 1],
            [1, 6, 17, 33, 3, 1],
            [2, 4, 5, 6, 1, 1],
            [2, 7, 4, 3, 3, 2],
            [9, 32, 3, 5, 3, 1],
            [9, 32, 16, 16, 3, 1],
            [9, 32, 4, 35, 1, 1],
        ] {
            let (x, weight) = (random(&[n, side, side, c_in], 1), random(&[c_out, c_in, k, k], 2));
            let window = Window { stride, padding: k / 2 };
            let [gain, bias, mean] = [3, 4, 5].map(|seed| random(&[c_out], seed));
            let var = (random(&[c_out], 6).sqr().unwrap() + 0.1).unwrap();
            let numbers = |t: &Tensor| t.to_vec1::<f64>().unwrap();
            let scale: Vec<f64> =
                numbers(&gain).iter().zip(numbers(&var)).map(|(g, v)| g / (v + 1e-5).sqrt()).collect();
            let shift: Vec<f64> =
                numbers(&bias).iter().zip(numbers(&mean)).zip(&scale).map(|((b, m), s)| b - m * s).collect();
            let reference = Context::with_form(Form::Reference);
            let conv = super::super::forward(&reference, &x, &weight, window).unwrap().0;
            let residual = random(conv.dims(), 7);
            for (residual, relu) in [(None, false), (None, true), (Some(&residual), true)] {
                let config = BatchNorm { relu, ..Default::default() };
                let want =
                    batch_norm::inference(&reference, &conv, &gain, &bias, &mean, &var, residual, config).unwrap();
                for ctx in forms() {
                    let got = folded(&ctx, &x, &weight, window, &scale, &shift, residual, relu).unwrap();
                    close(&got, &want, 1e-11, &format!("{n} {side} {c_in} {c_out} {k} {stride} {relu} {ctx:?}"));
                    let to = |t: &Tensor, dtype| t.to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap();
                    let residual = residual.map(|r| to(r, DType::BF16));
                    let (x, weight) = (to(&x, DType::BF16), to(&weight, DType::F32));
                    let got = folded(&ctx, &x, &weight, window, &scale, &shift, residual.as_ref(), relu).unwrap();
                    assert_eq!(got.dtype(), DType::BF16);
                    let size = ((c_in * k * k) as f64).sqrt() * scale.iter().fold(1.0, |m: f64, s| m.max(s.abs()));
                    close(&got, &want, 0.02 * size, "bf16");
                }
            }
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        let (x, weight) = (random(&[1, 4, 4, 3], 1), random(&[2, 3, 3, 3], 2));
        let window = Window { stride: 1, padding: 1 };
        let message = |scale: &[f64], residual: Option<&Tensor>| {
            folded(&Context::new(), &x, &weight, window, scale, &[0.0; 2], residual, true).unwrap_err().to_string()
        };
        assert!(message(&[1.0], None).contains("weight has shape [2, 3, 3, 3], expected [1, …]"));
        assert!(message(&[1.0; 2], Some(&x)).contains("residual has shape [1, 4, 4, 3], expected [1, 4, 4, 2]"));
    }
}
