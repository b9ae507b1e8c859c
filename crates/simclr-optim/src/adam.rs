//! Adam.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use simclr_ops::{Context, adam};

use crate::error::OptimError;

/// Settings of [`Adam`]; the defaults are PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConfig {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub eps: f64,
    /// L2 penalty in the gradient, as in `torch.optim.Adam` (not decoupled as in AdamW).
    pub weight_decay: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// `torch.optim.Adam` over named parameters.
#[derive(Debug)]
pub struct Adam {
    config: AdamConfig,
    ctx: Context,
    slots: Vec<Slot>,
    steps: u64,
}

/// A parameter with its running means.
#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Var,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
}

const EXP_AVG: &str = "exp_avg.";
const EXP_AVG_SQ: &str = "exp_avg_sq.";
const STEP: &str = "step";

impl Adam {
    /// For `parameters`, whose running means start at zero.
    ///
    /// # Errors
    /// [`OptimError::Candle`] if there is no memory for the means.
    pub fn new(parameters: &[(String, Var)], config: AdamConfig, ctx: &Context) -> Result<Self, OptimError> {
        let slot = |(name, parameter): &(String, Var)| {
            let zeros = || Tensor::zeros(parameter.shape(), parameter.dtype(), parameter.device());
            Ok(Slot { name: name.clone(), parameter: parameter.clone(), exp_avg: zeros()?, exp_avg_sq: zeros()? })
        };
        let slots = parameters.iter().map(slot).collect::<Result<_, OptimError>>()?;
        Ok(Self { config, ctx: ctx.clone(), slots, steps: 0 })
    }

    /// Moves every parameter by its gradient.
    ///
    /// # Errors
    /// [`OptimError::NoGradient`] naming a parameter without one: nothing has moved then.
    pub fn step(&mut self, gradients: &GradStore) -> Result<(), OptimError> {
        let of = |slot: &Slot| gradients.get(&slot.parameter).map(Tensor::detach);
        let found =
            self.slots.iter().map(|slot| of(slot).ok_or_else(|| OptimError::NoGradient { name: slot.name.clone() }));
        let gradients: Vec<Tensor> = found.collect::<Result<_, _>>()?;
        let AdamConfig { learning_rate, beta1, beta2, eps, weight_decay } = self.config;
        let step = adam::Step { learning_rate, beta1, beta2, eps, weight_decay, number: self.steps + 1 };
        for (slot, gradient) in self.slots.iter().zip(&gradients) {
            let Slot { name, parameter, exp_avg, exp_avg_sq } = slot;
            adam::update(&self.ctx, adam::State { parameter, exp_avg, exp_avg_sq }, gradient, &step)
                .map_err(|source| OptimError::Update { name: name.clone(), source })?;
        }
        self.steps += 1;
        Ok(())
    }

    /// Changes the learning rate from the next step on, as schedules do.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.config.learning_rate = learning_rate;
    }

    /// The learning rate of the next step.
    pub fn learning_rate(&self) -> f64 {
        self.config.learning_rate
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// All numbers of the optimizer: `exp_avg.NAME` and `exp_avg_sq.NAME` of every parameter, and `step`.
    ///
    /// The tensors share the optimizer's memory: save or copy them before the next step.
    pub fn state(&self) -> HashMap<String, Tensor> {
        let means = self.slots.iter().flat_map(|slot| {
            let entry = |prefix: &str, tensor: &Tensor| (format!("{prefix}{}", slot.name), tensor.clone());
            [entry(EXP_AVG, &slot.exp_avg), entry(EXP_AVG_SQ, &slot.exp_avg_sq)]
        });
        let step = Tensor::new(self.steps as i64, &Device::Cpu).ok().map(|step| (STEP.to_owned(), step));
        means.chain(step).collect()
    }

    /// Takes over the numbers of another optimizer's [`Adam::state`], copied.
    ///
    /// # Errors
    /// [`OptimError::State`] listing every entry that is missing, unexpected or misshapen; nothing has changed then.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<(), OptimError> {
        let mut problems = Vec::new();
        let own = self.state();
        for (name, tensor) in &own {
            match state.get(name) {
                None => problems.push(format!("missing {name}")),
                Some(other) if other.dims() != tensor.dims() || other.dtype() != tensor.dtype() => {
                    problems.push(format!(
                        "{name} is {:?} of shape {:?}, expected {:?} of {:?}",
                        other.dtype(),
                        other.dims(),
                        tensor.dtype(),
                        tensor.dims()
                    ))
                }
                Some(_) => {}
            }
        }
        problems.extend(state.keys().filter(|name| !own.contains_key(*name)).map(|name| format!("unexpected {name}")));
        let steps = state.get(STEP).filter(|step| step.dtype() == DType::I64 && step.rank() == 0);
        let steps = steps.map(Tensor::to_scalar::<i64>).transpose()?.unwrap_or(0);
        if steps < 0 {
            problems.push(format!("{STEP} is {steps}, expected 0 or more"));
        }
        if !problems.is_empty() {
            problems.sort();
            return Err(OptimError::State { problems });
        }
        for slot in &mut self.slots {
            let copy =
                |prefix: &str| state[&format!("{prefix}{}", slot.name)].to_device(slot.parameter.device())?.copy();
            let (exp_avg, exp_avg_sq) = (copy(EXP_AVG)?, copy(EXP_AVG_SQ)?);
            (slot.exp_avg, slot.exp_avg_sq) = (exp_avg.detach(), exp_avg_sq.detach());
        }
        self.steps = steps as u64;
        Ok(())
    }
}
