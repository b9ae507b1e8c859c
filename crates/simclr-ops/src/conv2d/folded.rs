//! Convolution with a batch norm folded into it, for inference.

#[cfg(feature = "cuda")]
use candle_core::Device;
use candle_core::Tensor;
use num_traits::Zero;
use rayon::prelude::*;

use super::cpu::Bank;
#[cfg(feature = "cuda")]
use super::cuda::Frozen;
use super::{Geometry, OP, Window, reference};
use crate::context::{Context, Form};
use crate::element::{Stored, narrow, wide};
use crate::error::OpsError;
use crate::simd::simd;
use crate::storage::{FloatType, dispatch_stored, elements, stored_type, tensor, written};

/// `relu(conv2d(x, weight) · scale + shift + residual)` per output channel, residual and ReLU each optional, with weights made ready for
/// many batches.
///
/// The scale is multiplied into the weights, which in f32 rounds differently than a batch norm after the convolution.
pub struct Folded {
    ctx: Context,
    /// The weights that were given; what is computed with is a copy.
    weight: Tensor,
    window: Window,
    size: [usize; 2],
    size_out: [usize; 2],
    ready: Box<dyn Ready>,
}

impl std::fmt::Debug for Folded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Folded convolution {:?} of maps of {:?}, {:?}", self.weight.dims(), self.size, self.window)
    }
}

impl Folded {
    /// For maps of `size` rows and columns, and of the type that `ctx` makes of the weights'.
    ///
    /// # Shapes
    /// `weight` as in [`super::forward`]; `scale`, `shift`: `c_out` numbers.
    ///
    /// # Errors
    /// As [`super::forward`].
    pub fn new(
        ctx: &Context,
        weight: &Tensor,
        window: Window,
        scale: &[f64],
        shift: &[f64],
        size: [usize; 2],
    ) -> Result<Self, OpsError> {
        fn ready<S: Stored>(
            ctx: &Context,
            g: &Geometry,
            weight: &Tensor,
            scale: &[f64],
            shift: &[f64],
        ) -> Result<Box<dyn Ready>, OpsError> {
            let mut scaled = elements::<S::Wide>(OP, "weight", weight)?.to_vec();
            scaled.par_chunks_mut(g.taps()).zip(scale).for_each(|(kernel, scale)| {
                kernel.iter_mut().for_each(|weight| *weight = narrow(wide(*weight) * scale));
            });
            let shift = shift.iter().map(|&shift| narrow(shift)).collect();
            let weights = match ctx.form() {
                Form::Reference => Weights::Reference(scaled),
                Form::Fast => Weights::Fast(Bank::<S>::new(ctx.instructions(), g, &scaled)),
            };
            Ok(Box::new(Prepared { weights, shift }))
        }
        let &[_, c_in, ..] = weight.dims() else {
            return Err(OpsError::shape(OP, "weight", weight, "[c_out, c_in, k_h, k_w]"));
        };
        let g = Geometry::of([1, size[0], size[1], c_in], weight, window)?;
        if scale.len() != g.c_out || shift.len() != g.c_out {
            let expected = format!("[{}, …] for as many scales, and {} shifts", scale.len(), shift.len());
            return Err(OpsError::shape(OP, "weight", weight, expected));
        }
        let dtype = ctx.precision().map_dtype(weight.dtype());
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = weight.device() {
            let ready = Box::new(OnGpu(ctx.clone(), Frozen::new(device, weight, dtype, scale, shift)?));
            return Ok(Self {
                ctx: ctx.clone(),
                weight: weight.clone(),
                window,
                size,
                size_out: [g.h_out, g.w_out],
                ready,
            });
        }
        let ready = dispatch_stored!(FloatType::of_map(OP, "x", dtype)?, ready(ctx, &g, weight, scale, shift))?;
        Ok(Self { ctx: ctx.clone(), weight: weight.clone(), window, size, size_out: [g.h_out, g.w_out], ready })
    }

    /// The convolution of `x` and what follows it; on all threads of the current rayon pool, or on this one alone.
    ///
    /// # Shapes
    /// `x`: as in [`super::forward`], of the size that this was made for; `residual`: as the output, which is returned.
    ///
    /// # Errors
    /// As [`super::forward`].
    pub fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        relu: bool,
        threads: Threads,
    ) -> Result<Tensor, OpsError> {
        let g = Geometry::new(x, &self.weight, self.window)?;
        if [g.h, g.w] != self.size {
            let [h, w] = self.size;
            return Err(OpsError::shape(OP, "x", x, format!("[n, {h}, {w}, {}]", g.c_in)));
        }
        let shape = [g.n, g.h_out, g.w_out, g.c_out];
        if let Some(residual) = residual.filter(|residual| residual.dims() != shape) {
            return Err(OpsError::shape(OP, "residual", residual, format!("{shape:?}, the shape of the output")));
        }
        let run = || self.ready.forward(&g, x, residual, relu, threads);
        match threads {
            Threads::All if x.device().is_cpu() => self.ctx.timed(OP, "folded", g.work(stored_type(OP, "x", x)?), run),
            // Times of several threads at once do not add up to anything.
            _ => run(),
        }
    }

    /// The weights that were given.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Rows and columns of the output.
    pub fn size_out(&self) -> [usize; 2] {
        self.size_out
    }
}

/// Which threads an op uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// All of the current rayon pool.
    All,
    /// The one that calls it.
    One,
}

/// A prepared convolution, whatever the type of its maps.
trait Ready: Send + Sync {
    fn forward(
        &self,
        g: &Geometry,
        x: &Tensor,
        residual: Option<&Tensor>,
        relu: bool,
        threads: Threads,
    ) -> Result<Tensor, OpsError>;
}

struct Prepared<S: Stored> {
    weights: Weights<S>,
    shift: Vec<S::Wide>,
}

/// The weights, with the scale in them.
enum Weights<S: Stored> {
    Reference(Vec<S::Wide>),
    Fast(Bank<S>),
}

impl<S: Stored> Ready for Prepared<S> {
    fn forward(
        &self,
        g: &Geometry,
        x: &Tensor,
        residual: Option<&Tensor>,
        relu: bool,
        threads: Threads,
    ) -> Result<Tensor, OpsError> {
        let x = elements::<S>(OP, "x", x)?;
        let residual = residual.map(|r| elements::<S>(OP, "residual", r)).transpose()?;
        let finish = |first: usize, y: &mut [S::Wide]| {
            simd(
                #[inline(always)]
                || {
                    for (row, y) in y.chunks_exact_mut(g.c_out).enumerate() {
                        let sums = y.iter_mut().zip(&self.shift);
                        match &residual {
                            None => sums.for_each(|(y, &shift)| *y = rectified(*y + shift, relu)),
                            Some(residual) => {
                                let residual = &residual[first + row * g.c_out..][..g.c_out];
                                for ((y, &shift), residual) in sums.zip(residual) {
                                    *y = rectified(*y + shift + residual.widen(), relu);
                                }
                            }
                        }
                    }
                },
            );
        };
        let y = match &self.weights {
            Weights::Reference(weights) => {
                let mut y = vec![S::Wide::zero(); g.rows() * g.c_out];
                reference::forward(g, &reference::widened(&x), &reference::rounded::<S>(weights), &mut y);
                finish(0, &mut y);
                y.into_iter().map(S::narrow).collect()
            }
            // SAFETY: `forward_then` writes every output of every pixel.
            Weights::Fast(bank) => unsafe {
                written(g.rows() * g.c_out, |y| bank.forward_then(g, &x, y, threads == Threads::All, finish))
            },
        };
        tensor(y, (g.n, g.h_out, g.w_out, g.c_out))
    }
}

#[cfg(feature = "cuda")]
struct OnGpu(Context, Frozen);

#[cfg(feature = "cuda")]
impl Ready for OnGpu {
    fn forward(
        &self,
        g: &Geometry,
        x: &Tensor,
        residual: Option<&Tensor>,
        relu: bool,
        _: Threads,
    ) -> Result<Tensor, OpsError> {
        self.1.forward(&self.0, x, residual, relu, g)
    }
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
    use crate::context::Precision;

    fn bits(t: &Tensor) -> Vec<u64> {
        let numbers = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        numbers.into_iter().map(f64::to_bits).collect()
    }

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
                    let folded = Folded::new(&ctx, &weight, window, &scale, &shift, [side; 2]).unwrap();
                    assert_eq!(folded.size_out(), want.dims()[1..3]);
                    let got = folded.forward(&x, residual, relu, Threads::All).unwrap();
                    close(&got, &want, 1e-11, &format!("{n} {side} {c_in} {c_out} {k} {stride} {relu} {ctx:?}"));
                    let alone = folded.forward(&x, residual, relu, Threads::One).unwrap();
                    assert_eq!(bits(&alone), bits(&got), "the threads are seen");
                    let to = |t: &Tensor, dtype| t.to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap();
                    let residual = residual.map(|r| to(r, DType::BF16));
                    let (x, weight) = (to(&x, DType::BF16), to(&weight, DType::F32));
                    let ctx = ctx.with_precision(Precision::Bf16);
                    let folded = Folded::new(&ctx, &weight, window, &scale, &shift, [side; 2]).unwrap();
                    let got = folded.forward(&x, residual.as_ref(), relu, Threads::All).unwrap();
                    assert_eq!(got.dtype(), DType::BF16);
                    let alone = folded.forward(&x, residual.as_ref(), relu, Threads::One).unwrap();
                    assert_eq!(bits(&alone), bits(&got), "the threads are seen in bf16");
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
        let made =
            |weight: &Tensor, scale: &[f64]| Folded::new(&Context::new(), weight, window, scale, &[0.0; 2], [4; 2]);
        let message = |scale: &[f64]| made(&weight, scale).unwrap_err().to_string();
        assert!(message(&[1.0]).contains("weight has shape [2, 3, 3, 3], expected [1, …]"));
        let flat = made(&x.flatten_all().unwrap(), &[1.0; 2]).unwrap_err().to_string();
        assert!(flat.contains("weight has shape [48], expected [c_out, c_in, k_h, k_w]"), "{flat}");
        let folded = made(&weight, &[1.0; 2]).unwrap();
        let message = |x: &Tensor, residual: Option<&Tensor>| {
            folded.forward(x, residual, true, Threads::All).unwrap_err().to_string()
        };
        assert!(message(&x, Some(&x)).contains("residual has shape [1, 4, 4, 3], expected [1, 4, 4, 2]"));
        let other = message(&random(&[1, 5, 4, 3], 1), None);
        assert!(other.contains("x has shape [1, 5, 4, 3], expected [n, 4, 4, 3]"), "{other}");
    }
}
