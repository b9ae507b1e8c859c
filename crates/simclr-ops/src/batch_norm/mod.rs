//! Batch normalisation over the last dimension, fused with the residual sum and the ReLU that follow it.
//!
//! `y = relu((x - mean) / sqrt(var + eps) · weight + bias + residual)`, residual and ReLU each optional.
//! Ioffe and Szegedy 2015, arXiv:1502.03167; `torch.nn.BatchNorm2d` on NHWC maps and `BatchNorm1d` on rows.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod moments;
mod normalised;
mod reference;

#[cfg(feature = "cuda")]
use candle_core::{DType, Device};
use candle_core::{Tensor, Var};

use crate::context::{Context, Form};
use crate::element::{Element, Stored, narrow};
use crate::error::OpsError;
use crate::profile::Work;
use crate::storage::{dispatch, dispatch_stored, elements, float_type, modify, stored_type, tensor, written};
use crate::update::{Outcome, Report};

pub use moments::Moments;
pub use normalised::Normalised;
pub(crate) use normalised::Parts;

const OP: &str = "batch_norm";

/// What batch norm adds to the batch norm of the papers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance, PyTorch's default is 1e-5.
    pub eps: f64,
    /// Whether a ReLU follows (with ReLU'(0) = 0, as in PyTorch).
    pub relu: bool,
    /// Equal parts of the batch, each with statistics of its own: 2 for both views of a pair in one batch. At least 1.
    pub groups: usize,
}

impl Default for BatchNorm {
    /// PyTorch's: eps 1e-5, one batch, no ReLU.
    fn default() -> Self {
        Self { eps: 1e-5, relu: false, groups: 1 }
    }
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

/// What follows the statistics of batches, as PyTorch's batch norm keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Running<'a> {
    /// `[c]`, on the device of the batch: `mean += momentum · (batch - mean)`.
    pub mean: &'a Tensor,
    /// `[c]`: the same of the unbiased variance.
    pub var: &'a Tensor,
    /// How many batches it has followed, i64.
    pub batches: &'a Var,
    /// How much it follows.
    pub momentum: f64,
}

/// The statistics of the groups of a batch, where they were computed: on the CPU they can be read, a GPU keeps them.
#[derive(Clone, Debug)]
pub struct BatchStatistics(Place);

#[derive(Clone, Debug)]
enum Place {
    Host(Vec<Statistics>),
    #[cfg(feature = "cuda")]
    Device(cuda::OfGroups),
}

impl BatchStatistics {
    /// Lets running statistics follow those of every group, in their order, where they are; of a step with a report only if that
    /// says that the step was made.
    ///
    /// # Errors
    /// If the running statistics are not as they should be.
    pub fn follow(&self, running: Running<'_>, step: Option<&Report>) -> Result<(), OpsError> {
        fn run<T: Element>(running: &Tensor, batch: &[f64], momentum: f64) -> Result<(), OpsError> {
            let (keep, follow) = (narrow::<T>(1.0 - momentum), narrow::<T>(momentum));
            modify::<T>(running, |running| {
                running.iter_mut().zip(batch).for_each(|(r, &b)| *r = *r * keep + narrow::<T>(b) * follow);
            })
        }
        let (Running { mean, var, batches, momentum }, channels) = (running, self.channels());
        for (argument, t) in [("running mean", mean), ("running var", var)] {
            if t.dims() != [channels] {
                return Err(OpsError::shape(OP, argument, t, format!("[{channels}], one value per channel")));
            }
        }
        match &self.0 {
            Place::Host(groups) => {
                if step.map_or(Ok(false), |report| report.outcome().map(|outcome| outcome != Outcome::Applied))? {
                    return Ok(());
                }
                let float_type = float_type(OP, "running mean", mean)?;
                for group in groups {
                    dispatch!(float_type, run(mean, &group.mean, momentum))?;
                    dispatch!(float_type, run(var, &group.unbiased_var(), momentum))?;
                }
                let counted = batches.as_detached_tensor();
                let more = Tensor::new(groups.len() as i64, counted.device())?;
                Ok(batches.set(&(counted + more)?)?)
            }
            #[cfg(feature = "cuda")]
            Place::Device(groups) => groups.follow(running, step),
        }
    }

    /// The numbers, which a GPU must be waited for.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn read(&self) -> Result<Vec<Statistics>, OpsError> {
        match &self.0 {
            Place::Host(groups) => Ok(groups.clone()),
            #[cfg(feature = "cuda")]
            Place::Device(groups) => (0..groups.groups)
                .map(|i| Ok(Statistics { mean: groups.read(i, 0)?, var: groups.read(i, 1)?, count: groups.count }))
                .collect(),
        }
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        match &self.0 {
            Place::Host(groups) => groups.len(),
            #[cfg(feature = "cuda")]
            Place::Device(groups) => groups.groups,
        }
    }

    fn channels(&self) -> usize {
        match &self.0 {
            Place::Host(groups) => groups.first().map_or(0, |group| group.mean.len()),
            #[cfg(feature = "cuda")]
            Place::Device(groups) => groups.channels,
        }
    }

    /// Those of a batch on the CPU.
    fn host(&self) -> Result<&[Statistics], OpsError> {
        match &self.0 {
            Place::Host(groups) => Ok(groups),
            #[cfg(feature = "cuda")]
            Place::Device(_) => Err(OpsError::NoForm { op: OP, device: "CUDA and CPU at once" }),
        }
    }
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
    statistics: BatchStatistics,
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
/// `x`: `[…, c]`, contiguous; `weight`, `bias`: `[c]`; `residual`: as `x`; one float type, or maps of bf16 (or, on a GPU, of f16) with
/// f32 parameters.
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
    forward_with_moments(ctx, x, None, weight, bias, residual, config)
}

/// [`forward`] of a map whose moments were taken when it was made.
///
/// # Errors
/// As [`forward`].
pub fn forward_with_moments(
    ctx: &Context,
    x: &Tensor,
    moments: Option<&Moments>,
    weight: &Tensor,
    bias: &Tensor,
    residual: Option<&Tensor>,
    config: BatchNorm,
) -> Result<(Tensor, Saved), OpsError> {
    /// `[Σ x, Σ x²]` per channel and the count of each group.
    fn sums<S: Stored>(ctx: &Context, x: &Tensor, channels: usize, groups: usize) -> Result<Vec<f64>, OpsError> {
        let x = elements::<S>(OP, "x", x)?;
        let mut sums: Vec<f64> = Vec::new();
        for x in x.chunks((x.len() / groups).max(1)) {
            sums.extend(match ctx.form() {
                Form::Reference => reference::moments(x, channels),
                Form::Fast => cpu::moments(x, channels),
            });
            sums.push((x.len() / channels) as f64);
        }
        Ok(sums)
    }
    fn statistics(ctx: &Context, mut sums: Vec<f64>, channels: usize) -> Result<Vec<Statistics>, OpsError> {
        ctx.reduction().sum(&mut sums)?;
        let of_group = |sums: &[f64]| {
            let count = sums[2 * channels] as usize;
            if count < 2 {
                return Err(OpsError::OneValuePerChannel { count });
            }
            let mean: Vec<f64> = sums[..channels].iter().map(|sum| sum / count as f64).collect();
            let square = |c: usize| sums[channels + c] / count as f64 - mean[c] * mean[c];
            let var = (0..channels).map(|c| square(c).max(0.0)).collect();
            Ok(Statistics { mean, var, count })
        };
        if sums.is_empty() {
            return Err(OpsError::OneValuePerChannel { count: 0 });
        }
        sums.chunks(2 * channels + 1).map(of_group).collect()
    }
    let channels = check(x, weight, bias, residual)?;
    let groups = config.groups;
    if groups == 0 || !x.dim(0)?.is_multiple_of(groups) {
        return Err(OpsError::shape(OP, "x", x, format!("a first dimension that {groups} groups divide")));
    }
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = x.device() {
        let (y, statistics) = cuda::forward(ctx, device, x, [weight, bias], residual, config)?;
        let statistics = BatchStatistics(Place::Device(statistics));
        return Ok((y.clone(), Saved::new(x, &y, [weight, bias], residual, statistics, config)));
    }
    let float_type = stored_type(OP, "x", x)?;
    let pass = |tensors| Work::pass(tensors * x.elem_count(), float_type.width());
    let sums = match moments.and_then(|moments| moments.of_groups(groups, channels)) {
        Some(sums) => sums,
        None => {
            ctx.timed(OP, "statistics", pass(1), || dispatch_stored!(float_type, sums(ctx, x, channels, groups)))?
        }
    };
    let statistics = statistics(ctx, sums, channels)?;
    let normalise = || dispatch_stored!(float_type, apply(ctx, x, weight, bias, residual, &statistics, config));
    let y = ctx.timed(OP, "normalise", pass(2 + usize::from(residual.is_some())), normalise)?;
    let statistics = BatchStatistics(Place::Host(statistics));
    Ok((y.clone(), Saved::new(x, &y, [weight, bias], residual, statistics, config)))
}

impl Saved {
    fn new(
        x: &Tensor,
        y: &Tensor,
        [weight, bias]: [&Tensor; 2],
        residual: Option<&Tensor>,
        statistics: BatchStatistics,
        config: BatchNorm,
    ) -> Self {
        Self {
            x: x.clone(),
            // Without residual the input says where the ReLU gave zero: the output need not be read again.
            y: (config.relu && residual.is_some()).then(|| y.clone()),
            weight: weight.clone(),
            bias: bias.clone(),
            statistics,
            has_residual: residual.is_some(),
            config,
        }
    }

    /// What makes the output again, where no residual was added and there is no better use of it than to be kept: cuDNN reads maps.
    ///
    /// # Errors
    /// [`OpsError::Dtype`] or [`OpsError::NoForm`] if the tensors of the forward pass have moved since.
    pub fn normalised(&self) -> Result<Option<Normalised>, OpsError> {
        fn numbers<S: Stored>(argument: &'static str, t: &Tensor) -> Result<Vec<f64>, OpsError> {
            widened::<S::Wide>(argument, t)
        }
        if self.has_residual || !self.x.device().is_cpu() {
            return Ok(None);
        }
        let float_type = stored_type(OP, "x", &self.x)?;
        let weight = dispatch_stored!(float_type, numbers("weight", &self.weight))?;
        let bias = dispatch_stored!(float_type, numbers("bias", &self.bias))?;
        let of_groups =
            self.statistics.host()?.iter().map(|statistics| affine(&weight, &bias, statistics, self.config));
        Ok(Some(Normalised::new(&self.x, of_groups.collect(), self.config.relu)))
    }

    /// The statistics of the batch that was normalised, one for each of its groups.
    pub fn statistics(&self) -> &BatchStatistics {
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
        widened::<S::Wide>(argument, t)
    }
    let channels = check(x, weight, bias, residual)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = x.device() {
        let numbers = |t: &Tensor| t.to_dtype(DType::F64)?.to_vec1::<f64>();
        let [weight, bias, mean, var] = [numbers(weight)?, numbers(bias)?, numbers(mean)?, numbers(var)?];
        if mean.len() != channels || var.len() != channels {
            return Err(OpsError::shape(OP, "weight", x, format!("means and variances of {channels} channels")));
        }
        let statistics = Statistics { mean, var, count: 0 };
        return cuda::inference(device, x, affine(&weight, &bias, &statistics, config), residual, config.relu);
    }
    let float_type = stored_type(OP, "x", x)?;
    let mean = dispatch_stored!(float_type, of_channels("mean", mean, channels))?;
    let var = dispatch_stored!(float_type, of_channels("var", var, channels))?;
    let statistics = [Statistics { mean, var, count: 0 }];
    dispatch_stored!(float_type, apply(ctx, x, weight, bias, residual, &statistics, config))
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
        let Saved { has_residual, config, .. } = saved;
        let statistics = saved.statistics.host()?;
        if grad.dims() != saved.x.dims() {
            return Err(OpsError::shape(OP, "grad", &grad, format!("{:?}, the shape of the output", saved.x.dims())));
        }
        let [weight, bias] =
            [("weight", &saved.weight), ("bias", &saved.bias)].map(|(name, t)| widened::<S::Wide>(name, t));
        let (weight, bias) = (weight?, bias?);
        let x = elements::<S>(OP, "x", &saved.x)?;
        let y = saved.y.as_ref().map(|y| elements::<S>(OP, "y", y)).transpose()?;
        let (channels, group) = (weight.len(), x.len() / statistics.len());
        let of_channels: Vec<OfChannels<S::Wide>> =
            statistics.iter().map(|statistics| OfChannels::new(&weight, &bias, statistics, *config)).collect();
        let pass = |i: usize| {
            let OfChannels { mean, scale, shift } = &of_channels[i];
            let mask = match &y {
                Some(y) => Mask::Output(&y[i * group..][..group]),
                None if config.relu => Mask::Affine { scale, shift },
                None => Mask::None,
            };
            Pass { x: &x[i * group..][..group], mean, mask }
        };

        // sums = [Σ g, Σ g · (x - mean)] per channel, where g is the gradient that passes the ReLU: that of the residual.
        let mut sums = Vec::new();
        modify::<S>(&grad, |grad| {
            for (i, grad) in grad.chunks_mut(group).enumerate() {
                sums.extend(match ctx.form() {
                    Form::Reference => reference::gradient_sums(&pass(i), grad, *has_residual),
                    Form::Fast => cpu::gradient_sums(&pass(i), grad, *has_residual),
                });
            }
        })?;
        // The gradients of weight and bias are this process's share; the mean of the batch is over all processes.
        let [mut weight_grad, mut bias_grad] = [vec![0.0; channels], vec![0.0; channels]];
        for (sums, Statistics { var, .. }) in sums.chunks(2 * channels).zip(statistics) {
            for c in 0..channels {
                weight_grad[c] += sums[channels + c] / (var[c] + config.eps).sqrt();
                bias_grad[c] += sums[c];
            }
        }
        ctx.reduction().sum(&mut sums)?;
        let coefficients: Vec<Coefficients<S::Wide>> = statistics
            .iter()
            .zip(sums.chunks(2 * channels))
            .map(|(s, sums)| Coefficients::new(&weight, s, sums, *config))
            .collect();
        let (dx, residual) = if *has_residual {
            // What passed the ReLU is in `grad` now, and stays there.
            let passed = elements::<S>(OP, "grad", &grad)?;
            let part = |i: usize| {
                (Pass { mask: Mask::None, ..pass(i) }, coefficients[i].affine(), &passed[i * group..][..group])
            };
            let dx = match ctx.form() {
                Form::Reference => {
                    let mut dx = passed.to_vec();
                    for (i, dx) in dx.chunks_mut(group).enumerate() {
                        let (pass, affine, _) = part(i);
                        reference::input_gradient(&pass, &affine, dx);
                    }
                    dx
                }
                // SAFETY: `input_gradient` writes the gradient of every input of every group.
                Form::Fast => unsafe {
                    written(x.len(), |dx| {
                        for (i, dx) in dx.chunks_mut(group).enumerate() {
                            let (pass, affine, passed) = part(i);
                            cpu::input_gradient(&pass, &affine, passed, dx);
                        }
                    })
                },
            };
            drop(passed);
            (tensor(dx, saved.x.shape())?, Some(grad))
        } else {
            modify::<S>(&grad, |grad| {
                for (i, grad) in grad.chunks_mut(group).enumerate() {
                    let affine = coefficients[i].affine();
                    match ctx.form() {
                        Form::Reference => reference::input_gradient(&pass(i), &affine, grad),
                        Form::Fast => cpu::input_gradient_in_place(&pass(i), &affine, grad),
                    }
                }
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
    #[cfg(feature = "cuda")]
    if let (Device::Cuda(device), Place::Device(statistics)) = (grad.device(), &saved.statistics.0) {
        let Saved { x, y, has_residual, config, .. } = saved;
        if grad.dims() != x.dims() {
            return Err(OpsError::shape(OP, "grad", &grad, format!("{:?}, the shape of the output", x.dims())));
        }
        let (y, has_residual, config) = (y.as_ref(), *has_residual, *config);
        let device = device.clone();
        return cuda::backward_in_place(ctx, &device, &cuda::Passed { x, y, statistics, has_residual, config }, grad);
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

/// Mean of every channel of a group, and scale and shift of its batch norm.
struct OfChannels<T> {
    mean: Vec<T>,
    scale: Vec<T>,
    shift: Vec<T>,
}

impl<T: Element> OfChannels<T> {
    fn new(weight: &[f64], bias: &[f64], statistics: &Statistics, config: BatchNorm) -> Self {
        let [scale, shift] = affine(weight, bias, statistics, config).map(|numbers| narrowed(&numbers));
        Self { mean: narrowed(&statistics.mean), scale, shift }
    }
}

/// The coefficients of [`Affine`] for a group.
struct Coefficients<T> {
    scale: Vec<T>,
    by_x: Vec<T>,
    constant: Vec<T>,
}

impl<T: Element> Coefficients<T> {
    /// From `sums`, `[Σ g, Σ g · (x - mean)]` per channel.
    fn new(weight: &[f64], Statistics { var, count, .. }: &Statistics, sums: &[f64], config: BatchNorm) -> Self {
        let (channels, n) = (weight.len(), *count as f64);
        let inv_std = |c: usize| 1.0 / (var[c] + config.eps).sqrt();
        let of_channels =
            |coefficient: &dyn Fn(usize) -> f64| narrowed(&(0..channels).map(coefficient).collect::<Vec<_>>());
        Self {
            scale: of_channels(&|c| weight[c] * inv_std(c)),
            by_x: of_channels(&|c| -weight[c] * inv_std(c).powi(3) * sums[channels + c] / n),
            constant: of_channels(&|c| -weight[c] * inv_std(c) * sums[c] / n),
        }
    }

    fn affine(&self) -> Affine<'_, T> {
        Affine { scale: &self.scale, by_x: &self.by_x, constant: &self.constant }
    }
}

/// `dx = g · scale + (x - mean) · by_x + constant`, per channel.
struct Affine<'a, T> {
    scale: &'a [T],
    by_x: &'a [T],
    constant: &'a [T],
}

/// Scale and shift of every channel: batch norm is `x · scale + shift`.
fn affine(weight: &[f64], bias: &[f64], statistics: &Statistics, config: BatchNorm) -> [Vec<f64>; 2] {
    let Statistics { mean, var, .. } = statistics;
    let scale: Vec<f64> = weight.iter().zip(var).map(|(w, v)| w / (v + config.eps).sqrt()).collect();
    let shift = bias.iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    [scale, shift]
}

/// The numbers of a tensor in double precision.
fn widened<T: Element>(argument: &'static str, t: &Tensor) -> Result<Vec<f64>, OpsError> {
    Ok(elements::<T>(OP, argument, t)?.iter().map(|&v| crate::element::wide(v)).collect())
}

fn narrowed<T: Element>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&v| narrow(v)).collect()
}

/// Normalises every group with its statistics.
fn apply<S: Stored>(
    ctx: &Context,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    residual: Option<&Tensor>,
    statistics: &[Statistics],
    config: BatchNorm,
) -> Result<Tensor, OpsError> {
    let shape = x.shape().clone();
    let x = elements::<S>(OP, "x", x)?;
    let residual = residual.map(|r| elements::<S>(OP, "residual", r)).transpose()?;
    let (weight, bias) = (widened::<S::Wide>("weight", weight)?, widened::<S::Wide>("bias", bias)?);
    let group = x.len() / statistics.len();
    let of_group = |i: usize| {
        let [scale, shift] =
            affine(&weight, &bias, &statistics[i], config).map(|numbers| narrowed::<S::Wide>(&numbers));
        (&x[i * group..][..group], residual.as_deref().map(|r| &r[i * group..][..group]), scale, shift)
    };
    let y = match ctx.form() {
        Form::Reference => {
            let mut y = vec![S::zero(); x.len()];
            for (i, y) in y.chunks_mut(group.max(1)).enumerate() {
                let (x, residual, scale, shift) = of_group(i);
                reference::scale_and_shift(x, residual, &scale, &shift, config.relu, y);
            }
            y
        }
        // SAFETY: `scale_and_shift` writes every output of every group.
        Form::Fast => unsafe {
            written(x.len(), |y| {
                for (i, y) in y.chunks_mut(group.max(1)).enumerate() {
                    let (x, residual, scale, shift) = of_group(i);
                    cpu::scale_and_shift(x, residual, &scale, &shift, config.relu, y);
                }
            })
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
