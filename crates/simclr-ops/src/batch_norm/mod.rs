//! Batch normalisation over the last dimension, fused with the residual sum and the ReLU that follow it.
//!
//! `y = relu((x - mean) / sqrt(var + eps) · weight + bias + residual)`, residual and ReLU each optional.
//! Ioffe and Szegedy 2015, arXiv:1502.03167; `torch.nn.BatchNorm2d` on NHWC maps and `BatchNorm1d` on rows.

mod cpu;
mod reference;

use candle_core::Tensor;

use crate::context::{Context, Form};
use crate::element::{Element, Stored, narrow};
use crate::error::OpsError;
use crate::profile::Work;
use crate::storage::{dispatch_stored, elements, modify, stored_type, tensor, written};

const OP: &str = "batch_norm";

/// What batch norm adds to the batch norm of the papers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance, PyTorch's default is 1e-5.
    pub eps: f64,
    /// Whether a ReLU follows (with ReLU'(0) = 0, as in PyTorch).
    pub relu: bool,
}

/// Mean and variance of every channel over a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Mean of each channel.
    pub mean: Vec<f64>,
    /// Biased variance of each channel (divided by `count`): what normalises.
    pub var: Vec<f64>,
    /// Values per channel, over all processes.
    pub count: usize,
}

impl Statistics {
    /// The unbiased variance (divided by `count - 1`): what PyTorch keeps as running variance.
    pub fn unbiased_var(&self) -> Vec<f64> {
        let n = self.count as f64;
        self.var.iter().map(|v| v * n / (n - 1.0)).collect()
    }
}

/// What [`backward`] needs of the forward pass.
#[derive(Clone, Debug)]
pub struct Saved {
    x: Tensor,
    /// The output, whose zeros are the ReLU's mask; none without ReLU, or where the mask is found again without it.
    y: Option<Tensor>,
    weight: Tensor,
    bias: Tensor,
    statistics: Statistics,
    has_residual: bool,
    config: BatchNorm,
}

/// Gradients of the arguments of [`forward`].
#[derive(Clone, Debug)]
pub struct Gradients {
    /// Of the input, in its shape.
    pub x: Tensor,
    /// Of the scale, `[c]`.
    pub weight: Tensor,
    /// Of the shift, `[c]`.
    pub bias: Tensor,
    /// Of the residual, if there was one, in the shape of `x`.
    pub residual: Option<Tensor>,
}

/// Batch norm with the statistics of this batch, which are returned for the running ones.
///
/// # Shapes
/// `x`: `[…, c]`, contiguous; `weight`, `bias`: `[c]`; `residual`: as `x`; one float type, or bf16 maps with f32 parameters.
/// Returns the shape of `x`.
///
/// # Errors
/// [`OpsError::OneValuePerChannel`] if the batch has one value per channel; [`OpsError::Shape`], [`OpsError::Dtype`] or
/// [`OpsError::NoForm`] if the arguments are not as above.
pub fn forward(
    ctx: &Context,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    residual: Option<&Tensor>,
    config: BatchNorm,
) -> Result<(Tensor, Saved), OpsError> {
    fn statistics<S: Stored>(ctx: &Context, x: &Tensor, channels: usize) -> Result<Statistics, OpsError> {
        let x = elements::<S>(OP, "x", x)?;
        let mut sums = match ctx.form() {
            Form::Reference => reference::moments(&x, channels),
            Form::Fast => cpu::moments(&x, channels),
        };
        sums.push((x.len() / channels) as f64);
        ctx.reduction().sum(&mut sums)?;
        let count = sums[2 * channels] as usize;
        if count < 2 {
            return Err(OpsError::OneValuePerChannel { count });
        }
        let mean: Vec<f64> = sums[..channels].iter().map(|sum| sum / count as f64).collect();
        let square = |c: usize| sums[channels + c] / count as f64 - mean[c] * mean[c];
        let var = (0..channels).map(|c| square(c).max(0.0)).collect();
        Ok(Statistics { mean, var, count })
    }
    let channels = check(x, weight, bias, residual)?;
    let float_type = stored_type(OP, "x", x)?;
    let pass = |tensors| Work::pass(tensors * x.elem_count(), float_type.width());
    let statistics =
        ctx.timed(OP, "statistics", pass(1), || dispatch_stored!(float_type, statistics(ctx, x, channels)))?;
    let (mean, var) = (&statistics.mean, &statistics.var);
    let normalise = || dispatch_stored!(float_type, apply(ctx, x, weight, bias, residual, mean, var, config));
    let y = ctx.timed(OP, "normalise", pass(2 + usize::from(residual.is_some())), normalise)?;
    let saved = Saved {
        x: x.clone(),
        // Without residual the input says where the ReLU gave zero: the output need not be read again.
        y: (config.relu && residual.is_some()).then(|| y.clone()),
        weight: weight.clone(),
        bias: bias.clone(),
        statistics,
        has_residual: residual.is_some(),
        config,
    };
    Ok((y, saved))
}

impl Saved {
    /// The statistics of the batch that was normalised.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }
}

/// Batch norm with given statistics, as at inference: no batch is needed and nothing is saved.
///
/// # Shapes
/// `mean`, `var`: `[c]`; the others as in [`forward`].
///
/// # Errors
/// As [`forward`], but for the count.
#[allow(clippy::too_many_arguments)] // These are the tensors of the formula.
pub fn inference(
    ctx: &Context,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    residual: Option<&Tensor>,
    config: BatchNorm,
) -> Result<Tensor, OpsError> {
    fn of_channels<S: Stored>(argument: &'static str, t: &Tensor, channels: usize) -> Result<Vec<f64>, OpsError> {
        if t.dims() != [channels] {
            return Err(OpsError::shape(OP, argument, t, format!("[{channels}]")));
        }
        widened::<S::Wide>(OP, argument, t)
    }
    let channels = check(x, weight, bias, residual)?;
    let float_type = stored_type(OP, "x", x)?;
    let mean = dispatch_stored!(float_type, of_channels("mean", mean, channels))?;
    let var = dispatch_stored!(float_type, of_channels("var", var, channels))?;
    dispatch_stored!(float_type, apply(ctx, x, weight, bias, residual, &mean, &var, config))
}

/// Gradients of [`forward`] for the gradient of its output.
///
/// # Shapes
/// `grad`: as the output of [`forward`], contiguous.
///
/// # Errors
/// As [`forward`].
pub fn backward(ctx: &Context, saved: &Saved, grad: &Tensor) -> Result<Gradients, OpsError> {
    backward_in_place(ctx, saved, grad.copy()?)
}

/// [`backward`] in the memory of `grad`, which nobody else may be reading: it becomes one of the gradients.
///
/// # Errors
/// As [`backward`].
pub fn backward_in_place(ctx: &Context, saved: &Saved, grad: Tensor) -> Result<Gradients, OpsError> {
    fn run<S: Stored>(ctx: &Context, saved: &Saved, grad: Tensor) -> Result<Gradients, OpsError> {
        let Saved { statistics: Statistics { mean, var, count }, has_residual, config, .. } = saved;
        let channels = mean.len();
        if grad.dims() != saved.x.dims() {
            return Err(OpsError::shape(OP, "grad", &grad, format!("{:?}, the shape of the output", saved.x.dims())));
        }
        let weight = widened::<S::Wide>(OP, "weight", &saved.weight)?;
        let inv_std: Vec<f64> = var.iter().map(|v| 1.0 / (v + config.eps).sqrt()).collect();
        let x = elements::<S>(OP, "x", &saved.x)?;
        let y = saved.y.as_ref().map(|y| elements::<S>(OP, "y", y)).transpose()?;
        let [scale, shift] = affine(&weight, &widened::<S::Wide>(OP, "bias", &saved.bias)?, mean, var, *config);
        let (scale, shift, mean) = (narrowed(&scale), narrowed(&shift), narrowed::<S::Wide>(mean));
        let mask = match &y {
            Some(y) => Mask::Output(y),
            None if config.relu => Mask::Affine { scale: &scale, shift: &shift },
            None => Mask::None,
        };
        let pass = Pass { x: &x, mean: &mean, mask };

        // sums = [Σ g, Σ g · (x - mean)] per channel, where g is the gradient that passes the ReLU: that of the residual.
        let mut sums = Vec::new();
        modify::<S>(&grad, |grad| {
            sums = match ctx.form() {
                Form::Reference => reference::gradient_sums(&pass, grad, *has_residual),
                Form::Fast => cpu::gradient_sums(&pass, grad, *has_residual),
            };
        })?;
        let weight_grad: Vec<f64> = (0..channels).map(|c| sums[channels + c] * inv_std[c]).collect();
        let bias_grad = sums[..channels].to_vec();

        // The mean of the batch is over all processes; the gradients of weight and bias are this process's share.
        ctx.reduction().sum(&mut sums)?;
        let n = *count as f64;
        let scale: Vec<f64> = (0..channels).map(|c| weight[c] * inv_std[c]).collect();
        let by_x: Vec<f64> =
            (0..channels).map(|c| -scale[c] * inv_std[c] * inv_std[c] * sums[channels + c] / n).collect();
        let constant: Vec<f64> = (0..channels).map(|c| -scale[c] * sums[c] / n).collect();
        let (scale, by_x, constant) = (narrowed(&scale), narrowed(&by_x), narrowed(&constant));
        let affine = Affine { scale: &scale, by_x: &by_x, constant: &constant };
        let (dx, residual) = if *has_residual {
            // What passed the ReLU is in `grad` now, and stays there.
            let passed = elements::<S>(OP, "grad", &grad)?;
            let pass = Pass { mask: Mask::None, ..pass };
            let dx = match ctx.form() {
                Form::Reference => {
                    let mut dx = passed.to_vec();
                    reference::input_gradient(&pass, &affine, &mut dx);
                    dx
                }
                // SAFETY: `input_gradient` writes the gradient of every input.
                Form::Fast => unsafe { written(x.len(), |dx| cpu::input_gradient(&pass, &affine, &passed, dx)) },
            };
            drop(passed);
            (tensor(dx, saved.x.shape())?, Some(grad))
        } else {
            modify::<S>(&grad, |grad| match ctx.form() {
                Form::Reference => reference::input_gradient(&pass, &affine, grad),
                Form::Fast => cpu::input_gradient_in_place(&pass, &affine, grad),
            })?;
            (grad, None)
        };
        Ok(Gradients {
            x: dx,
            weight: tensor(narrowed::<S::Wide>(&weight_grad), channels)?,
            bias: tensor(narrowed::<S::Wide>(&bias_grad), channels)?,
            residual,
        })
    }
    let float_type = stored_type(OP, "grad", &grad)?;
    // Two reads of the input and the gradient and a write of one gradient; with a residual two, and with its ReLU the mask.
    let of_residual = if saved.has_residual { 1 + usize::from(saved.config.relu) } else { 0 };
    let work = Work::pass((5 + of_residual) * grad.elem_count(), float_type.width());
    ctx.timed(OP, "backward", work, || dispatch_stored!(float_type, run(ctx, saved, grad)))
}

/// What both passes of the backward read.
struct Pass<'a, S: Stored> {
    x: &'a [S],
    mean: &'a [S::Wide],
    mask: Mask<'a, S>,
}

/// Where the ReLU gave zero, and lets no gradient pass.
enum Mask<'a, S: Stored> {
    /// There is none.
    None,
    /// Where this output is zero.
    Output(&'a [S]),
    /// Where `x · scale + shift` is not positive, per channel.
    Affine { scale: &'a [S::Wide], shift: &'a [S::Wide] },
}

/// `dx = g · scale + (x - mean) · by_x + constant`, per channel.
struct Affine<'a, T> {
    scale: &'a [T],
    by_x: &'a [T],
    constant: &'a [T],
}

/// Scale and shift of every channel: batch norm is `x · scale + shift`.
fn affine(weight: &[f64], bias: &[f64], mean: &[f64], var: &[f64], config: BatchNorm) -> [Vec<f64>; 2] {
    let scale: Vec<f64> = weight.iter().zip(var).map(|(w, v)| w / (v + config.eps).sqrt()).collect();
    let shift = bias.iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    [scale, shift]
}

/// The numbers of a tensor in double precision.
fn widened<T: Element>(op: &'static str, argument: &'static str, t: &Tensor) -> Result<Vec<f64>, OpsError> {
    Ok(elements::<T>(op, argument, t)?.iter().map(|&v| crate::element::wide(v)).collect())
}

fn narrowed<T: Element>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&v| narrow(v)).collect()
}

/// Normalises with the given statistics.
#[allow(clippy::too_many_arguments)] // These are the tensors of the formula.
fn apply<S: Stored>(
    ctx: &Context,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    residual: Option<&Tensor>,
    mean: &[f64],
    var: &[f64],
    config: BatchNorm,
) -> Result<Tensor, OpsError> {
    let shape = x.shape().clone();
    let x = elements::<S>(OP, "x", x)?;
    let residual = residual.map(|r| elements::<S>(OP, "residual", r)).transpose()?;
    let (weight, bias) = (widened::<S::Wide>(OP, "weight", weight)?, widened::<S::Wide>(OP, "bias", bias)?);
    let [scale, shift] = affine(&weight, &bias, mean, var, config).map(|numbers| narrowed::<S::Wide>(&numbers));
    let residual = residual.as_deref();
    let y = match ctx.form() {
        Form::Reference => {
            let mut y = vec![S::zero(); x.len()];
            reference::scale_and_shift(&x, residual, &scale, &shift, config.relu, &mut y);
            y
        }
        // SAFETY: `scale_and_shift` writes every output.
        Form::Fast => unsafe {
            written(x.len(), |y| cpu::scale_and_shift(&x, residual, &scale, &shift, config.relu, y))
        },
    };
    tensor(y, shape)
}

/// Checks the shapes and returns the number of channels.
fn check(x: &Tensor, weight: &Tensor, bias: &Tensor, residual: Option<&Tensor>) -> Result<usize, OpsError> {
    let channels = match x.dims() {
        [_, .., channels] if *channels > 0 => *channels,
        _ => return Err(OpsError::shape(OP, "x", x, "[…, c] with at least one channel")),
    };
    for (argument, t) in [("weight", weight), ("bias", bias)] {
        if t.dims() != [channels] {
            return Err(OpsError::shape(OP, argument, t, format!("[{channels}], one value per channel of x")));
        }
    }
    match residual {
        Some(r) if r.dims() != x.dims() => {
            Err(OpsError::shape(OP, "residual", r, format!("{:?}, the shape of x", x.dims())))
        }
        _ => Ok(channels),
    }
}

#[cfg(test)]
mod tests;
