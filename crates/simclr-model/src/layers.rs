//! Convolution, batch norm and linear layers: parameters under their PyTorch names, and how they go on a tape.

use candle_core::{DType, Result, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use simclr_ops::batch_norm::{self, BatchStatistics, Running};
use simclr_ops::conv2d::Window;
use simclr_ops::tape::{Tape, Value};
use simclr_ops::{Context, autograd};

use crate::statistics::PassStatistics;

/// PyTorch's defaults.
const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// One pass through the encoder.
pub(crate) struct Pass {
    pub(crate) tape: Tape,
    pub(crate) training: Training,
}

/// What a pass in training mode is for, and what it has seen.
pub(crate) struct Training {
    pub(crate) mode: Mode,
    /// Equal parts of the batch that are normalised each by its own statistics.
    pub(crate) groups: usize,
    pub(crate) statistics: PassStatistics,
}

impl Training {
    pub(crate) fn new(mode: Mode, groups: usize) -> Self {
        Self { mode, groups, statistics: PassStatistics::default() }
    }
}

/// What a pass in training mode is for. In all of them batches are normalised by their own statistics. Where running ones follow, those
/// of a pass that returns [`PassStatistics`] do so when they are told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The running statistics follow, and gradients are wanted: a training step.
    Train,
    /// The running statistics follow, and no graph is recorded: the first of two passes that make a step, or a frozen network left
    /// in PyTorch's training mode.
    First,
    /// Gradients are wanted of what [`Mode::First`] has seen; the running statistics stay.
    Second,
}

impl Mode {
    pub(crate) fn has_gradients(self) -> bool {
        self != Self::First
    }

    /// Whether the running statistics follow those of the batch.
    pub(crate) fn is_tracked(self) -> bool {
        self != Self::Second
    }
}

impl Pass {
    fn parameter(&mut self, tensor: &Tensor) -> Value {
        if self.training.mode.has_gradients() { self.tape.leaf(tensor) } else { self.tape.constant(tensor) }
    }
}

/// A convolution without bias.
#[derive(Debug)]
pub(crate) struct Conv2d {
    weight: Tensor,
    window: Window,
}

impl Conv2d {
    /// `kernel`×`kernel`, padded so that stride 1 keeps the size.
    pub(crate) fn new(c_in: usize, c_out: usize, kernel: usize, stride: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get_with_hints((c_out, c_in, kernel, kernel), "weight", Init::Const(0.0))?;
        Ok(Self { weight, window: Window { stride, padding: kernel / 2 } })
    }

    pub(crate) fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub(crate) fn window(&self) -> Window {
        self.window
    }

    pub(crate) fn forward(&self, pass: &mut Pass, x: &Value) -> Result<Value> {
        let weight = pass.parameter(&self.weight);
        Ok(pass.tape.conv2d(x, &weight, self.window)?)
    }

    /// Multiply-adds for a map of `h`×`w`, and the size of its output.
    pub(crate) fn multiply_adds(&self, [h, w]: [usize; 2]) -> (u64, [usize; 2]) {
        // Padded to keep the size: only the stride changes it.
        let size = [h.div_ceil(self.window.stride), w.div_ceil(self.window.stride)];
        ((size[0] * size[1] * self.weight.elem_count()) as u64, size)
    }
}

/// Batch norm with its running statistics.
#[derive(Debug)]
pub(crate) struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_var: Var,
    num_batches_tracked: Var,
}

impl BatchNorm {
    pub(crate) fn new(channels: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let get = |name, init| vb.get_with_hints(channels, name, Init::Const(init));
        let counter = || vb.get_with_hints_dtype((), "num_batches_tracked", Init::Const(0.0), DType::I64);
        Ok(Self {
            weight: get("weight", 1.0)?,
            bias: get("bias", 0.0)?,
            running_mean: Var::from_tensor(&get("running_mean", 0.0)?)?,
            running_var: Var::from_tensor(&get("running_var", 1.0)?)?,
            num_batches_tracked: Var::from_tensor(&counter()?)?,
        })
    }

    /// On a tape, with the statistics of the batch, which the running ones follow; with the residual sum and the ReLU behind it.
    pub(crate) fn forward(&self, pass: &mut Pass, x: &Value, residual: Option<&Value>, relu: bool) -> Result<Value> {
        let (weight, bias) = (pass.parameter(&self.weight), pass.parameter(&self.bias));
        let config = batch_norm::BatchNorm { eps: EPS, relu, groups: pass.training.groups };
        let (y, statistics) = pass.tape.batch_norm(x, &weight, &bias, residual, config)?;
        self.track(statistics, &mut pass.training);
        Ok(y)
    }

    /// Scale and shift of every channel with the running statistics.
    pub(crate) fn affine(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let numbers = |t: &Tensor| t.to_dtype(DType::F64)?.to_vec1::<f64>();
        let [weight, bias] = [numbers(&self.weight)?, numbers(&self.bias)?];
        let [mean, var] = [numbers(&self.running_mean)?, numbers(&self.running_var)?];
        let scale: Vec<f64> = weight.iter().zip(var).map(|(weight, var)| weight / (var + EPS).sqrt()).collect();
        let shift = bias.iter().zip(mean).zip(&scale).map(|((bias, mean), scale)| bias - mean * scale).collect();
        Ok((scale, shift))
    }

    /// On rows in candle's graph, with the ReLU that follows it; `training` is none for evaluation.
    pub(crate) fn forward_rows(&self, ctx: &Context, x: &Tensor, training: Option<&mut Training>) -> Result<Tensor> {
        let groups = training.as_ref().map_or(1, |training| training.groups);
        let config = batch_norm::BatchNorm { eps: EPS, relu: true, groups };
        if let Some(training) = training {
            let (y, statistics) = autograd::batch_norm(ctx, x, &self.weight, &self.bias, config)?;
            self.track(statistics, training);
            Ok(y)
        } else {
            let (mean, var) = (&self.running_mean, &self.running_var);
            Ok(batch_norm::inference(ctx, x, &self.weight, &self.bias, mean, var, None, config)?)
        }
    }

    /// Keeps the statistics of every group for the running ones, which follow them in their order.
    fn track(&self, batch: BatchStatistics, training: &mut Training) {
        if training.mode.is_tracked() {
            let (mean, var) = (self.running_mean.as_tensor(), self.running_var.as_tensor());
            let running = Running { mean, var, batches: &self.num_batches_tracked, momentum: MOMENTUM };
            training.statistics.add(batch, running);
        }
    }
}

/// A linear layer on rows in candle's graph.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn new(c_in: usize, c_out: usize, bias: bool, vb: &VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get_with_hints((c_out, c_in), "weight", Init::Const(0.0))?;
        let bias = bias.then(|| vb.get_with_hints(c_out, "bias", Init::Const(0.0))).transpose()?;
        Ok(Self { weight, bias })
    }

    pub(crate) fn forward(&self, ctx: &Context, x: &Tensor) -> Result<Tensor> {
        autograd::linear(ctx, x, &self.weight, self.bias.as_ref())
    }

    pub(crate) fn multiply_adds(&self) -> u64 {
        self.weight.elem_count() as u64
    }
}
