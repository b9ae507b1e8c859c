//! On a GPU: cuDNN, with weights in its order and in the type of the maps, made once a forward pass and kept for the backward.

use candle_core::{CudaDevice, DType, Tensor};

use super::{Geometry, Gradients, InputGradient, OP};
use crate::batch_norm::cuda::{OfGroups, normalise};
use crate::context::Context;
use crate::cuda::{Argument, Grid, Kernels, Problem, empty, kernels, pointer, suffix};
use crate::error::OpsError;
use crate::storage::add_assign;

const KERNELS: Kernels = kernels!("conv2d");

/// Weights `[c_out, k_h, k_w, c_in]` in the type of the maps.
#[derive(Clone, Debug)]
pub(super) struct Packed(Tensor);

impl Packed {
    /// Of weights `[c_out, c_in, k_h, k_w]` in f32.
    fn new(device: &CudaDevice, weight: &Tensor, dtype: DType) -> Result<Self, OpsError> {
        let (c_out, c_in, k_h, k_w) = weight.dims4()?;
        if dtype == DType::F32 && k_h * k_w == 1 {
            // The two orders are one, and so are the types.
            pointer(OP, "weight", weight, DType::F32)?;
            return Ok(Self(weight.reshape((c_out, k_h, k_w, c_in))?));
        }
        // SAFETY: the kernel writes every number.
        let packed = unsafe { empty((c_out, k_h, k_w, c_in), dtype, device) }?;
        let from = pointer(OP, "weight", weight, DType::F32)?;
        let to = pointer(OP, "packed weight", &packed, dtype)?;
        let kernel = format!("conv2d_pack_{}", suffix(OP, "x", dtype)?);
        launch(device, &kernel, [from, to], [packed.elem_count(), c_in, k_h * k_w])?;
        Ok(Self(packed))
    }

    /// Back: `[c_out, c_in, k_h, k_w]`, f32.
    fn unpacked(self, device: &CudaDevice) -> Result<Tensor, OpsError> {
        let (c_out, k_h, k_w, c_in) = self.0.dims4()?;
        let dtype = self.0.dtype();
        if dtype == DType::F32 && k_h * k_w == 1 {
            return Ok(self.0.reshape((c_out, c_in, k_h, k_w))?);
        }
        // SAFETY: the kernel writes every number.
        let weight = unsafe { empty((c_out, c_in, k_h, k_w), DType::F32, device) }?;
        let from = pointer(OP, "packed weight", &self.0, dtype)?;
        let to = pointer(OP, "weight", &weight, DType::F32)?;
        let kernel = format!("conv2d_unpack_{}", suffix(OP, "x", dtype)?);
        launch(device, &kernel, [from, to], [weight.elem_count(), c_in, k_h * k_w])?;
        Ok(weight)
    }
}

fn launch(
    device: &CudaDevice,
    kernel: &str,
    pointers: [u64; 2],
    [count, c_in, taps]: [usize; 3],
) -> Result<(), OpsError> {
    let [from, to] = pointers.map(Argument::Pointer);
    let arguments = [from, to, Argument::Long(count as i64), Argument::size(c_in), Argument::size(taps)];
    // SAFETY: these are the arguments of both kernels, and both tensors have `count` numbers.
    unsafe { KERNELS.launch(device, kernel, Grid::one_for_each(count), &arguments) }
}

/// See [`super::channels_last`]: pictures are to maps what the weights of PyTorch are to those of cuDNN.
pub(super) fn channels_last(device: &CudaDevice, x: &Tensor, dtype: DType) -> Result<Tensor, OpsError> {
    Ok(Packed::new(device, x, dtype)?.0)
}

/// See [`super::forward`].
pub(super) fn forward(
    ctx: &Context,
    device: &CudaDevice,
    x: &Tensor,
    weight: &Tensor,
    g: &Geometry,
) -> Result<(Tensor, Packed), OpsError> {
    let dtype = x.dtype();
    suffix(OP, "x", dtype)?;
    let packed = Packed::new(device, weight, dtype)?;
    Ok((convolved(ctx, device, (x, dtype), &packed, g)?, packed))
}

fn convolved(
    ctx: &Context,
    device: &CudaDevice,
    (x, dtype): (&Tensor, DType),
    packed: &Packed,
    g: &Geometry,
) -> Result<Tensor, OpsError> {
    // SAFETY: cuDNN writes every output.
    let y = unsafe { empty((g.n, g.h_out, g.w_out, g.c_out), dtype, device) }?;
    if y.elem_count() > 0 {
        let (x, w) = (pointer(OP, "x", x, dtype)?, pointer(OP, "packed weight", &packed.0, dtype)?);
        let to = pointer(OP, "y", &y, dtype)?;
        // SAFETY: these are the tensors of the problem.
        unsafe { ctx.gpus().convolutions(device)?.forward(&problem(g, dtype), x, w, to) }?;
    }
    Ok(y)
}

/// See [`super::backward_into`]; the shape of `grad` was checked.
pub(super) fn backward(
    ctx: &Context,
    device: &CudaDevice,
    (x, packed): (&Tensor, &Packed),
    g: &Geometry,
    grad: &Tensor,
    input: InputGradient,
) -> Result<Gradients, OpsError> {
    let (dtype, problem) = (x.dtype(), problem(g, x.dtype()));
    let convolutions = ctx.gpus().convolutions(device)?;
    let (x_at, dy) = (pointer(OP, "x", x, dtype)?, pointer(OP, "grad", grad, dtype)?);
    // SAFETY: cuDNN writes every number.
    let dw = unsafe { empty(packed.0.shape(), dtype, device) }?;
    let to = pointer(OP, "gradient of weight", &dw, dtype)?;
    // SAFETY: these are the tensors of the problem.
    unsafe { convolutions.backward_weight(&problem, x_at, dy, to) }?;
    let weight = Packed(dw).unpacked(device)?;
    let new = || -> Result<Tensor, OpsError> {
        // SAFETY: cuDNN writes every number.
        let dx = unsafe { empty(x.shape(), dtype, device) }?;
        let (w, to) = (pointer(OP, "packed weight", &packed.0, dtype)?, pointer(OP, "gradient of x", &dx, dtype)?);
        // SAFETY: these are the tensors of the problem.
        unsafe { convolutions.backward_input(&problem, w, dy, to) }?;
        Ok(dx)
    };
    let x = match input {
        InputGradient::Unwanted => None,
        InputGradient::New => Some(new()?),
        InputGradient::AddedTo(sum) => {
            if sum.shape() != x.shape() {
                let expected = format!("{:?}, the shape of x", x.dims());
                return Err(OpsError::shape(OP, "gradient to add to", &sum, expected));
            }
            // Two roundings where the CPU has one; cuDNN's own sum would round twice as well.
            add_assign(&sum, &new()?)?;
            Some(sum)
        }
    };
    Ok(Gradients { x, weight })
}

/// A convolution whose weights stay as they are, with what follows it: see [`super::Folded`].
///
/// The scale stays outside the weights: the pass that adds the shift multiplies with it for nothing.
pub(super) struct Frozen {
    device: CudaDevice,
    dtype: DType,
    packed: Packed,
    affine: OfGroups,
}

impl Frozen {
    pub(super) fn new(
        device: &CudaDevice,
        weight: &Tensor,
        dtype: DType,
        scale: &[f64],
        shift: &[f64],
    ) -> Result<Self, OpsError> {
        let packed = Packed::new(device, weight, dtype)?;
        let affine = OfGroups::of_affine(device, [scale, shift])?;
        Ok(Self { device: device.clone(), dtype, packed, affine })
    }

    pub(super) fn forward(
        &self,
        ctx: &Context,
        x: &Tensor,
        residual: Option<&Tensor>,
        relu: bool,
        g: &Geometry,
    ) -> Result<Tensor, OpsError> {
        let y = convolved(ctx, &self.device, (x, self.dtype), &self.packed, g)?;
        normalise(&self.device, &y, &self.affine, residual, relu)
    }
}

fn problem(g: &Geometry, dtype: DType) -> Problem {
    Problem {
        dtype,
        x: [g.n, g.h, g.w, g.c_in],
        weight: [g.c_out, g.k_h, g.k_w, g.c_in],
        y: [g.n, g.h_out, g.w_out, g.c_out],
        stride: g.stride,
        padding: [g.pad_h, g.pad_w],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{MAPS, close, gpu, on_both, random, rounded_on_both};
    use crate::context::Precision;
    use crate::conv2d::{self, Folded, Threads, Window};

    /// What rounding of inputs and outputs to the type of the maps may change, relative to 1 + the number.
    fn tolerance(dtype: DType, terms: usize) -> f64 {
        match dtype {
            // Both forms multiply the same rounded numbers; the output is rounded once, sums may fall on either side.
            DType::BF16 => 8e-3 * (terms as f64).sqrt().max(1.0) / 4.0,
            DType::F16 => 1e-3 * (terms as f64).sqrt().max(1.0) / 4.0,
            _ => 2e-6 * terms as f64,
        }
    }

    #[test]
    fn agrees_with_the_cpu_in_every_direction() {
        let Some(device) = gpu() else { return };
        let windows =
            [Window { stride: 1, padding: 1 }, Window { stride: 2, padding: 1 }, Window { stride: 2, padding: 0 }];
        for dtype in MAPS {
            for (dims, [c_out, kernel]) in
                [([2, 5, 7, 3], [8, 3]), ([3, 8, 8, 16], [33, 1]), ([1, 9, 9, 31], [8, 3]), ([2, 7, 7, 8], [16, 3])]
            {
                for window in windows {
                    let ctx = Context::new();
                    let [x, x_there] = on_both(&dims, 1, dtype, &device);
                    // Weights that the type of the maps keeps as they are: the CPU rounds to no f16.
                    let [w, w_there] = on_both(&[c_out, dims[3], kernel, kernel], 2, dtype, &device)
                        .map(|w| w.to_dtype(DType::F32).unwrap());
                    let (want, saved) = conv2d::forward(&ctx, &x, &w, window).unwrap();
                    let (y, saved_there) = conv2d::forward(&ctx, &x_there, &w_there, window).unwrap();
                    let what = format!("{dims:?} {c_out} {kernel} {window:?} {dtype:?}");
                    let terms = dims[3] * kernel * kernel;
                    close(&y, &want, tolerance(dtype, terms), &what);
                    let [grad, grad_there] = on_both(want.dims(), 3, dtype, &device);
                    let want = conv2d::backward(&ctx, &saved, &grad, true).unwrap();
                    let got = conv2d::backward(&ctx, &saved_there, &grad_there, true).unwrap();
                    let pixels = grad.elem_count() / c_out;
                    close(&got.weight, &want.weight, tolerance(dtype, pixels), &format!("dW {what}"));
                    let terms = c_out * kernel * kernel;
                    close(&got.x.unwrap(), &want.x.unwrap(), tolerance(dtype, terms), &format!("dX {what}"));
                    // Where it is added to another gradient.
                    let [sum, sum_there] = on_both(&dims, 4, dtype, &device);
                    let want = conv2d::backward_into(&ctx, &saved, &grad, InputGradient::AddedTo(sum)).unwrap();
                    let got = conv2d::backward_into(&ctx, &saved_there, &grad_there, InputGradient::AddedTo(sum_there));
                    close(&got.unwrap().x.unwrap(), &want.x.unwrap(), tolerance(dtype, terms), &format!("sum {what}"));
                }
            }
        }
    }

    #[test]
    fn a_frozen_one_is_that_of_the_cpu() {
        let Some(device) = gpu() else { return };
        let window = Window { stride: 2, padding: 1 };
        let [scale, shift] = [0.5, -0.25].map(|first| (0..16).map(|c| first + 0.03 * f64::from(c)).collect::<Vec<_>>());
        for (dtype, precision) in MAPS.into_iter().zip([Precision::Full, Precision::Bf16, Precision::F16]) {
            let [x, x_there] = on_both(&[2, 7, 7, 8], 1, dtype, &device);
            // Outputs of about 1, from weights that are kept as they are.
            let weights = rounded_on_both(&(random(&[16, 8, 3, 3], 2) * 0.1).unwrap(), dtype, &device);
            let [w, w_there] = weights.map(|w| w.to_dtype(DType::F32).unwrap());
            let [r, r_there] = on_both(&[2, 4, 4, 16], 3, dtype, &device);
            let frozen = |precision, w: &Tensor| {
                Folded::new(&Context::new().with_precision(precision), w, window, &scale, &shift, [7; 2]).unwrap()
            };
            let [x, r] = [x, r].map(|t| t.to_dtype(DType::F32).unwrap());
            let (wide, there) = (frozen(Precision::Full, &w), frozen(precision, &w_there));
            for (residual, residual_there, relu) in [(None, None, false), (Some(&r), Some(&r_there), true)] {
                let want = wide.forward(&x, residual, relu, Threads::All).unwrap();
                let got = there.forward(&x_there, residual_there, relu, Threads::All).unwrap();
                assert_eq!(got.dtype(), dtype);
                close(&got, &want, tolerance(dtype, 8 * 9), &format!("{dtype:?}, relu {relu}"));
            }
        }
    }

    #[test]
    fn pictures_are_rounded_as_on_the_cpu() {
        let Some(device) = gpu() else { return };
        let [pictures, there] = on_both(&[2, 3, 5, 7], 1, DType::F32, &device);
        for dtype in MAPS {
            let [want, got] = [&pictures, &there].map(|pictures| conv2d::channels_last(pictures, dtype).unwrap());
            assert_eq!(got.dtype(), dtype);
            close(&got, &want, 0.0, &format!("{dtype:?}"));
        }
    }

    #[test]
    fn the_same_bits_every_time_and_choices_that_can_be_kept() {
        let Some(device) = gpu() else { return };
        let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let run = || {
            let ctx = Context::new();
            let [_, x] = on_both(&[4, 9, 9, 8], 1, DType::F32, &device);
            let [_, w] = on_both(&[16, 8, 3, 3], 2, DType::F32, &device);
            let (y, saved) = conv2d::forward(&ctx, &x, &w, Window { stride: 1, padding: 1 }).unwrap();
            let gradients = conv2d::backward(&ctx, &saved, &y, true).unwrap();
            let all = [y, gradients.weight, gradients.x.unwrap()].map(|t| numbers(&t));
            (all, ctx.algorithms())
        };
        let (first, second) = (run(), run());
        assert!(first == second);
        assert_eq!(first.1.len(), 3, "{:?}", first.1);
    }

    #[test]
    fn what_is_measured_agrees_with_the_cpu_and_says_what_it_is() {
        let Some(device) = gpu() else { return };
        let window = Window { stride: 1, padding: 1 };
        for dtype in [DType::F32, DType::BF16] {
            let plain = Context::new();
            let ctx = plain.clone().with_measured_convolutions();
            let [x, x_there] = on_both(&[2, 9, 9, 8], 1, dtype, &device);
            let [w, w_there] = on_both(&[16, 8, 3, 3], 2, DType::F32, &device);
            let [grad, grad_there] = on_both(&[2, 9, 9, 16], 3, dtype, &device);
            let (y, saved) = conv2d::forward(&plain, &x, &w, window).unwrap();
            let want = conv2d::backward(&plain, &saved, &grad, true).unwrap();
            for call in ["measures", "knows"] {
                let what = format!("{dtype:?}, a call that {call}");
                let (y_there, saved) = conv2d::forward(&ctx, &x_there, &w_there, window).unwrap();
                close(&y_there, &y, tolerance(dtype, 8 * 9), &format!("y of {what}"));
                let got = conv2d::backward(&ctx, &saved, &grad_there, true).unwrap();
                // What is not deterministic is off by up to one in a thousand on the stand-in.
                close(&got.weight, &want.weight, 1e-3 + tolerance(dtype, 2 * 9 * 9), &format!("dW of {what}"));
                let want = want.x.as_ref().unwrap();
                close(&got.x.unwrap(), want, 1e-3 + tolerance(dtype, 16 * 9), &format!("dX of {what}"));
                for (there, here) in [(&x_there, &x), (&w_there, &w), (&grad_there, &grad)] {
                    close(there, here, 0.0, &format!("an input of {what}"));
                }
            }
            let lines = ctx.algorithms();
            assert!(lines.len() == 3 && lines.iter().all(|line| line.contains(", measured ")), "{lines:?}");
            if crate::cuda::gpu(0).unwrap().name == "stand-in" {
                let are = |line: &str, algorithm: &str, end: &str| line.contains(algorithm) && line.ends_with(end);
                assert!(are(&lines[0], "FWD_ALGO_IMPLICIT_GEMM),", " ms"), "{lines:?}");
                assert!(are(&lines[1], "BWD_DATA_ALGO_0),", " ms, not deterministic"), "{lines:?}");
                assert!(are(&lines[2], "BWD_FILTER_ALGO_3),", " ms, not deterministic"), "{lines:?}");
            }
            // The context that it was made of still takes what gives the same bits.
            conv2d::forward(&plain, &x_there, &w_there, window).unwrap();
            let [line] = &plain.algorithms()[..] else { panic!("{:?}", plain.algorithms()) };
            assert!(!line.contains("measured") && !line.contains("not deterministic"), "{line}");
        }
    }

    #[test]
    fn tensors_of_different_devices_are_refused() {
        let Some(device) = gpu() else { return };
        let (x, w) = (random(&[1, 4, 4, 2], 1), random(&[3, 2, 3, 3], 2));
        let [x, w] = [x, w].map(|t| t.to_dtype(DType::F32).unwrap());
        let window = Window { stride: 1, padding: 1 };
        let message =
            conv2d::forward(&Context::new(), &x.to_device(&device).unwrap(), &w, window).unwrap_err().to_string();
        assert!(message.contains("weight is on the CPU, expected the CUDA device"), "{message}");
        let wide = x.to_dtype(DType::F64).unwrap().to_device(&device).unwrap();
        let message = conv2d::forward(&Context::new(), &wide, &w, window).unwrap_err().to_string();
        assert!(message.contains("expected f32, bf16 or f16 on a GPU"), "{message}");
    }
}
