//! The greatest number under a window, per channel: `MaxPool2d` on NHWC.
//!
//! A pass over memory: the plain loop, a vector of channels at a time, is the only form.

use std::sync::Arc;

#[cfg(feature = "cuda")]
use candle_core::Device;
use candle_core::Tensor;
use num_traits::{Float as _, Zero};
use rayon::prelude::*;

use crate::context::Context;
#[cfg(feature = "cuda")]
use crate::cuda::pooling;
use crate::element::Stored;
use crate::error::OpsError;
use crate::profile::Work;
use crate::simd::simd;
use crate::storage::{dispatch_stored, elements, stored_type, tensor};

const OP: &str = "max_pool2d";

/// The window and how it moves over the map, the same in both directions. What surrounds the map is never the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool {
    /// Rows and columns under the window, 1 to 15.
    pub kernel: usize,
    /// Pixels from one window to the next, at least 1.
    pub stride: usize,
    /// Rows and columns beyond each edge, no more than half the kernel.
    pub padding: usize,
}

impl MaxPool {
    /// The one of a ResNet's stem: 3×3 windows, every second pixel.
    pub const STEM: Self = Self { kernel: 3, stride: 2, padding: 1 };

    /// The size of the output for a map of `h`×`w`.
    pub fn size_out(&self, size: [usize; 2]) -> [usize; 2] {
        size.map(|side| (side + 2 * self.padding).saturating_sub(self.kernel) / self.stride + 1)
    }
}

/// What [`backward`] needs of the forward pass.
#[derive(Clone, Debug)]
pub struct Saved {
    dims: [usize; 4],
    pool: MaxPool,
    places: Places,
}

/// Of every output, which place under its window it is from, row by row.
#[derive(Clone, Debug)]
enum Places {
    Host(Arc<Vec<u8>>),
    #[cfg(feature = "cuda")]
    Device(Tensor),
}

#[cfg(test)]
impl Places {
    fn host(&self) -> Result<&[u8], OpsError> {
        match self {
            Self::Host(places) => Ok(places),
            #[cfg(feature = "cuda")]
            Self::Device(_) => Err(OpsError::NoForm { op: OP, device: "CUDA and CPU at once" }),
        }
    }
}

/// The greatest number of every window. Of equal ones the first counts, row by row; NaN is greater than all, as in PyTorch.
///
/// # Shapes
/// `x`: `[n, h, w, c]`, contiguous, `h` and `w` at least 1 and `kernel - 2·padding`.
/// Returns `[n, h_out, w_out, c]` with `h_out = (h + 2·padding - kernel) / stride + 1`.
///
/// # Errors
/// [`OpsError::Shape`], [`OpsError::Dtype`] or [`OpsError::NoForm`] if `x` or `pool` is not as above.
pub fn forward(ctx: &Context, x: &Tensor, pool: MaxPool) -> Result<(Tensor, Saved), OpsError> {
    fn run<S: Stored>(x: &Tensor, dims: [usize; 4], pool: MaxPool) -> Result<(Tensor, Vec<u8>), OpsError> {
        let x = elements::<S>(OP, "x", x)?;
        let [n, h, w, c] = dims;
        let [h_out, w_out] = pool.size_out([h, w]);
        let mut y = vec![S::zero(); n * h_out * w_out * c];
        let mut places = vec![0u8; y.len()];
        let rows = y.par_chunks_mut(w_out * c).zip(places.par_chunks_mut(w_out * c)).enumerate();
        rows.for_each(|(row, (y, places))| {
            let (x, row) = (&x[row / h_out * h * w * c..][..h * w * c], row % h_out);
            simd(
                #[inline(always)]
                || {
                    let outputs = y.chunks_exact_mut(c).zip(places.chunks_exact_mut(c)).enumerate();
                    for (column, (y, places)) in outputs {
                        let mut first = true;
                        for (place, at) in taps(pool, [h, w], [row, column]) {
                            let pixel = &x[at * c..][..c];
                            if first {
                                y.copy_from_slice(pixel);
                                places.fill(place);
                                first = false;
                                continue;
                            }
                            for ((y, at), &x) in y.iter_mut().zip(places.iter_mut()).zip(pixel) {
                                let greater = x.widen() > y.widen() || x.widen().is_nan();
                                *y = if greater { x } else { *y };
                                *at = if greater { place } else { *at };
                            }
                        }
                    }
                },
            );
        });
        Ok((tensor(y, (n, h_out, w_out, c))?, places))
    }
    let MaxPool { kernel, stride, padding } = pool;
    let least = kernel.saturating_sub(2 * padding).max(1);
    match *x.dims() {
        [n, h, w, c]
            if h >= least
                && w >= least
                && c > 0
                && (1..16).contains(&kernel)
                && stride > 0
                && 2 * padding <= kernel =>
        {
            let dims = [n, h, w, c];
            #[cfg(feature = "cuda")]
            if let Device::Cuda(device) = x.device() {
                let [y, places] = pooling::max_forward(device, x, pool)?;
                return Ok((y, Saved { dims, pool, places: Places::Device(places) }));
            }
            let float_type = stored_type(OP, "x", x)?;
            let work = Work::pass(2 * x.elem_count(), float_type.width());
            let (y, places) = ctx.timed(OP, "forward", work, || dispatch_stored!(float_type, run(x, dims, pool)))?;
            Ok((y, Saved { dims, pool, places: Places::Host(Arc::new(places)) }))
        }
        _ => Err(OpsError::shape(OP, "x", x, format!("[n, h, w, c] with room for {pool:?}"))),
    }
}

/// The gradient of [`forward`]: every number that was the greatest of a window gets the gradient of that.
///
/// # Shapes
/// `grad`: as the output, contiguous. Returns `[n, h, w, c]`.
///
/// # Errors
/// As [`forward`].
pub fn backward(ctx: &Context, saved: &Saved, grad: &Tensor) -> Result<Tensor, OpsError> {
    fn run<S: Stored>(saved: &Saved, places: &[u8], grad: &Tensor) -> Result<Tensor, OpsError> {
        let grad = elements::<S>(OP, "grad", grad)?;
        let [n, h, w, c] = saved.dims;
        let [h_out, w_out] = saved.pool.size_out([h, w]);
        let picture_out = h_out * w_out * c;
        let mut dx = vec![S::zero(); n * h * w * c];
        let pictures =
            dx.par_chunks_mut(h * w * c).zip(grad.par_chunks(picture_out).zip(places.par_chunks(picture_out)));
        pictures.for_each(|(dx, (grad, places))| {
            // Windows overlap: sums are of the wide type, and rounded once.
            let mut sums = vec![S::Wide::zero(); dx.len()];
            simd(
                #[inline(always)]
                || {
                    let outputs = grad.chunks_exact(c).zip(places.chunks_exact(c)).enumerate();
                    for (output, (grad, places)) in outputs {
                        for (place, at) in taps(saved.pool, [h, w], [output / w_out, output % w_out]) {
                            for ((sum, &grad), &from) in sums[at * c..][..c].iter_mut().zip(grad).zip(places) {
                                let term = if from == place { grad.widen() } else { S::Wide::zero() };
                                *sum += term;
                            }
                        }
                    }
                    dx.iter_mut().zip(&sums).for_each(|(dx, &sum)| *dx = S::narrow(sum));
                },
            );
        });
        tensor(dx, (n, h, w, c))
    }
    let [n, h, w, c] = saved.dims;
    let [h_out, w_out] = saved.pool.size_out([h, w]);
    if grad.dims() != [n, h_out, w_out, c] {
        return Err(OpsError::shape(
            OP,
            "grad",
            grad,
            format!("[{n}, {h_out}, {w_out}, {c}], the shape of the output"),
        ));
    }
    match &saved.places {
        Places::Host(places) => {
            let float_type = stored_type(OP, "grad", grad)?;
            let work = Work::pass(2 * n * h * w * c, float_type.width());
            ctx.timed(OP, "backward", work, || dispatch_stored!(float_type, run(saved, places, grad)))
        }
        #[cfg(feature = "cuda")]
        Places::Device(places) => {
            pooling::max_backward(grad.device().as_cuda_device()?, grad, places, saved.dims, saved.pool)
        }
    }
}

/// The pixels of the map under the window of an output: their places in the window and in the map.
#[inline(always)]
fn taps(pool: MaxPool, [h, w]: [usize; 2], [row, column]: [usize; 2]) -> impl Iterator<Item = (u8, usize)> {
    let MaxPool { kernel, stride, padding } = pool;
    (0..kernel * kernel).filter_map(move |place| {
        let y = (row * stride + place / kernel).checked_sub(padding).filter(|&y| y < h)?;
        let x = (column * stride + place % kernel).checked_sub(padding).filter(|&x| x < w)?;
        Some((place as u8, y * w + x))
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::check::{close, finite_differences, random};

    const SHAPES: [[usize; 4]; 6] =
        [[1, 1, 1, 1], [2, 2, 3, 31], [1, 31, 33, 3], [3, 7, 6, 33], [2, 8, 8, 64], [0, 4, 4, 2]];
    const POOLS: [MaxPool; 4] = [
        MaxPool::STEM,
        MaxPool { kernel: 2, stride: 2, padding: 1 },
        MaxPool { kernel: 1, stride: 1, padding: 0 },
        MaxPool { kernel: 5, stride: 1, padding: 2 },
    ];

    /// Of all indices, straight from the definition: output and the place in the map that each is from.
    fn by_definition(x: &[f64], [n, h, w, c]: [usize; 4], pool: MaxPool) -> (Vec<f64>, Vec<usize>) {
        let [h_out, w_out] = pool.size_out([h, w]);
        let (mut y, mut from) = (Vec::new(), Vec::new());
        for output in 0..n * h_out * w_out * c {
            let (channel, rest) = (output % c, output / c);
            let (column, rest) = (rest % w_out, rest / w_out);
            let (row, picture) = (rest % h_out, rest / h_out);
            let mut best = (f64::NEG_INFINITY, usize::MAX);
            for i in 0..h {
                for j in 0..w {
                    let inside = |at: usize, start: usize| {
                        (start * pool.stride..start * pool.stride + pool.kernel).contains(&(at + pool.padding))
                    };
                    let at = ((picture * h + i) * w + j) * c + channel;
                    if inside(i, row) && inside(j, column) && (best.1 == usize::MAX || x[at] > best.0) {
                        best = (x[at], at);
                    }
                }
            }
            y.push(best.0);
            from.push(best.1);
        }
        (y, from)
    }

    #[test]
    fn is_the_definition_and_its_gradient_goes_where_it_came_from() {
        for dims in SHAPES {
            for pool in POOLS {
                let x = random(&dims, 1);
                let numbers = x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                let (want, from) = by_definition(&numbers, dims, pool);
                let (y, saved) = forward(&Context::new(), &x, pool).unwrap();
                assert_eq!(y.flatten_all().unwrap().to_vec1::<f64>().unwrap(), want, "{dims:?} {pool:?}");
                let grad = random(y.dims(), 2);
                let mut dx = vec![0.0; numbers.len()];
                for (at, grad) in from.into_iter().zip(grad.flatten_all().unwrap().to_vec1::<f64>().unwrap()) {
                    dx[at] += grad;
                }
                let dx = Tensor::from_vec(dx, &dims, &Device::Cpu).unwrap();
                close(&backward(&Context::new(), &saved, &grad).unwrap(), &dx, 1e-14, "gradient");
                // Both types whose numbers are exact in f32, or rounded before: the same windows win.
                for dtype in [DType::F32, DType::BF16] {
                    let x = x.to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap();
                    let wide = x.to_dtype(DType::F64).unwrap();
                    let (y, saved) = forward(&Context::new(), &x, pool).unwrap();
                    let (want, wide_saved) = forward(&Context::new(), &wide, pool).unwrap();
                    assert_eq!((y.dtype(), saved.places.host().unwrap()), (dtype, wide_saved.places.host().unwrap()));
                    close(&y.to_dtype(DType::F64).unwrap(), &want, 0.0, "the same numbers");
                    let grad = grad.to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap();
                    let dx = backward(&Context::new(), &saved, &grad).unwrap().to_dtype(DType::F64).unwrap();
                    let want = backward(&Context::new(), &wide_saved, &grad.to_dtype(DType::F64).unwrap()).unwrap();
                    close(&dx, &want, if dtype == DType::BF16 { 4e-3 } else { 1e-6 }, "gradient");
                }
            }
        }
    }

    #[test]
    fn gradient_by_finite_differences() {
        let ctx = Context::new();
        for pool in POOLS {
            finite_differences(
                &[random(&[2, 5, 4, 3], 1)],
                |a| Ok(forward(&ctx, &a[0], pool)?.0),
                |a, grad| Ok(vec![backward(&ctx, &forward(&ctx, &a[0], pool)?.1, grad)?]),
            );
        }
    }

    /// Against `torch.nn.functional.max_pool2d` on such numbers: the first of equal ones has the gradient, NaN wins.
    #[test]
    fn equal_numbers_and_nan_are_pytorchs() {
        let x = Tensor::new(&[[[[1f64], [1.0]], [[1.0], [1.0]]]], &Device::Cpu).unwrap();
        let (_, saved) = forward(&Context::new(), &x, MaxPool::STEM).unwrap();
        let grad = Tensor::new(&[[[[5f64]]]], &Device::Cpu).unwrap();
        let dx = backward(&Context::new(), &saved, &grad).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(dx, [5.0, 0.0, 0.0, 0.0]);
        for at in 0..4 {
            let mut numbers = vec![3.0, 4.0, f64::INFINITY, 5.0];
            numbers[at] = f64::NAN;
            let x = Tensor::from_vec(numbers, (1, 2, 2, 1), &Device::Cpu).unwrap();
            let (y, saved) = forward(&Context::new(), &x, MaxPool::STEM).unwrap();
            assert!(y.flatten_all().unwrap().to_vec1::<f64>().unwrap()[0].is_nan());
            let dx = backward(&Context::new(), &saved, &grad).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert_eq!(dx[at], 5.0);
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let ctx = Context::new();
        let small = MaxPool { kernel: 4, stride: 1, padding: 0 };
        for (x, pool) in [
            (random(&[2, 3], 1), MaxPool::STEM),
            (random(&[1, 3, 3, 1], 1), small),
            (random(&[1, 9, 9, 1], 1), MaxPool { kernel: 16, stride: 1, padding: 0 }),
            (random(&[1, 9, 9, 1], 1), MaxPool { kernel: 3, stride: 0, padding: 0 }),
            (random(&[1, 9, 9, 1], 1), MaxPool { kernel: 3, stride: 1, padding: 2 }),
        ] {
            let message = forward(&ctx, &x, pool).unwrap_err().to_string();
            assert!(message.contains("expected [n, h, w, c] with room for MaxPool"), "{message}");
        }
        let (_, saved) = forward(&ctx, &random(&[1, 4, 4, 2], 1), MaxPool::STEM).unwrap();
        let message = backward(&ctx, &saved, &random(&[1, 4, 4, 2], 1)).unwrap_err().to_string();
        assert!(message.contains("expected [1, 2, 2, 2], the shape of the output"), "{message}");
    }
}
