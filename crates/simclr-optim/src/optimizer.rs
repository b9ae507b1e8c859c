//! The optimizer: groups of parameters, what is remembered of them, and their steps.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use simclr_ops::update::{Condition, LossScale, Report, Scale};
use simclr_ops::{Context, update};

use crate::error::OptimError;
use crate::gradients::Gradients;
use crate::rule::{Rule, Step};

/// Parameters that are updated alike, as PyTorch's `param_groups`.
#[derive(Clone, Debug)]
pub struct Group {
    /// The parameters under their names.
    pub parameters: Vec<(String, Var)>,
    /// Weight decay.
    pub weight_decay: f64,
    /// What the learning rate is multiplied by.
    pub learning_rate_scale: f64,
    /// Whether LARS adapts the learning rate to the norms; the other rules do not ask.
    pub is_adapted: bool,
}

impl Group {
    /// All parameters alike.
    pub fn all(parameters: &[(String, Var)], weight_decay: f64) -> Vec<Self> {
        vec![Self { parameters: parameters.to_vec(), weight_decay, learning_rate_scale: 1.0, is_adapted: true }]
    }

    /// Weights in a group, biases and the scales and shifts of batch norm in another that has no weight decay and that LARS does
    /// not adapt, as SimCLR does. They are told by their shape: a vector is no weight of a layer.
    pub fn without_vectors(parameters: &[(String, Var)], weight_decay: f64) -> Vec<Self> {
        let (vectors, weights): (Vec<_>, Vec<_>) = parameters.iter().cloned().partition(|(_, var)| var.rank() <= 1);
        let group = |parameters, weight_decay, is_adapted| Self {
            parameters,
            weight_decay,
            learning_rate_scale: 1.0,
            is_adapted,
        };
        vec![group(weights, weight_decay, true), group(vectors, 0.0, false)]
    }
}

/// An update rule over groups of named parameters.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    learning_rate: f64,
    ctx: Context,
    slots: Vec<Slot>,
    steps: Steps,
    /// Of gradients in f16.
    loss_scale: Option<LossScale>,
}

/// How many steps were made.
#[derive(Debug)]
enum Steps {
    Known(u64),
    /// One f64 beside the parameters, where steps that are made only if their numbers are finite are counted.
    Counted(Tensor),
}

/// A parameter with what the rule remembers of it.
#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Var,
    moments: Vec<Tensor>,
    weight_decay: f64,
    learning_rate_scale: f64,
    is_adapted: bool,
}

/// The entries of a saved state that count steps and keep the scale of the loss.
const STEP: &str = "step";
const LOSS_SCALE: &str = "loss_scale";

impl Optimizer {
    /// For the parameters of `groups`; what is remembered of them starts at zero.
    ///
    /// # Errors
    /// [`OptimError::Candle`] if there is no memory for that.
    pub fn new(rule: Rule, groups: &[Group], learning_rate: f64, ctx: &Context) -> Result<Self, OptimError> {
        let slots = groups.iter().flat_map(|group| group.parameters.iter().map(move |entry| (group, entry)));
        let slot = |(group, (name, parameter)): (&Group, &(String, Var))| {
            let zeros = |_: &&str| Tensor::zeros(parameter.shape(), parameter.dtype(), parameter.device());
            Ok(Slot {
                name: name.clone(),
                parameter: parameter.clone(),
                moments: rule.moments().iter().map(zeros).collect::<Result<_, _>>()?,
                weight_decay: group.weight_decay,
                learning_rate_scale: group.learning_rate_scale,
                is_adapted: group.is_adapted,
            })
        };
        let slots = slots.map(slot).collect::<Result<_, OptimError>>()?;
        Ok(Self { rule, learning_rate, ctx: ctx.clone(), slots, steps: Steps::Known(0), loss_scale: None })
    }

    /// [`Rule::ADAM`] over all `parameters` alike, as the course trains.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn adam(
        parameters: &[(String, Var)],
        learning_rate: f64,
        weight_decay: f64,
        ctx: &Context,
    ) -> Result<Self, OptimError> {
        Self::new(Rule::ADAM, &Group::all(parameters, weight_decay), learning_rate, ctx)
    }

    /// The same for gradients that are kept in f16 on the way: they are to be those of [`Self::scaled`] losses, and steps are made by
    /// [`Self::apply_if_finite`], which undoes the scale and adapts it.
    ///
    /// # Errors
    /// [`OptimError::Ops`] if the device has no memory for it.
    pub fn with_loss_scale(self) -> Result<Self, OptimError> {
        let loss_scale = Some(LossScale::new(self.device())?);
        Ok(Self { loss_scale, ..self })
    }

    /// `loss` as its gradients are to be computed from it: times the scale, if there is one.
    ///
    /// # Errors
    /// [`OptimError::Ops`] if it is on another device.
    pub fn scaled(&self, loss: &Tensor) -> Result<Tensor, OptimError> {
        Ok(self.loss_scale.as_ref().map_or_else(|| Ok(loss.clone()), |scale| scale.of_loss(loss))?)
    }

    fn device(&self) -> &Device {
        self.slots.first().map_or(&Device::Cpu, |slot| slot.parameter.device())
    }

    /// The gradients of its parameters in `store`.
    ///
    /// # Errors
    /// [`OptimError::NoGradient`] naming a parameter without one.
    pub fn gradients(&self, store: &GradStore) -> Result<Gradients, OptimError> {
        let found = self.slots.iter().map(|slot| {
            let gradient = store.get(&slot.parameter).map(Tensor::detach);
            gradient.ok_or_else(|| OptimError::NoGradient { name: slot.name.clone() })
        });
        found.collect::<Result<_, _>>().map(Gradients::new)
    }

    /// Moves every parameter by its gradient.
    ///
    /// # Errors
    /// [`OptimError::NoGradient`] naming a parameter without one: nothing has moved then.
    pub fn step(&mut self, store: &GradStore) -> Result<(), OptimError> {
        let gradients = self.gradients(store)?;
        self.apply(&gradients, 1.0)
    }

    /// Moves every parameter by its gradient times `scale`: one over the number of batches that were summed, or less where the
    /// norm is clipped.
    ///
    /// # Errors
    /// [`OptimError::Ops`] if the gradients are not those of these parameters: nothing has moved then.
    pub fn apply(&mut self, gradients: &Gradients, scale: f64) -> Result<(), OptimError> {
        let number = self.steps()? + 1;
        update::update(&self.ctx, &self.at(gradients, number), scale)?;
        self.steps = Steps::Known(number);
        Ok(())
    }

    /// Moves every parameter by its gradient times `scale`, if `loss` and the norm of the gradients are finite, and changes nothing
    /// else: [`update::update_if_finite`], which also says what `after` is, the report of the step before. On a GPU the host does not
    /// wait.
    ///
    /// Steps that were left out do not count, so that how many were made is known on the device alone from here on: the methods that
    /// need the number on the host ([`Self::steps`] and [`Self::apply`]) wait for it. Whoever plans learning rates for each step counts
    /// the attempts.
    ///
    /// # Errors
    /// As [`Self::apply`], and if `loss` is not one number of f64.
    pub fn apply_if_finite(
        &mut self,
        gradients: &Gradients,
        scale: Scale,
        loss: &Tensor,
        after: Option<&Report>,
    ) -> Result<Report, OptimError> {
        let steps = match &self.steps {
            Steps::Counted(steps) => steps.clone(),
            Steps::Known(steps) => Tensor::new(*steps as f64, self.device())?,
        };
        // Its number is counted there.
        let slots = self.at(gradients, 0);
        let condition = Condition { loss, steps: &steps, loss_scale: self.loss_scale.as_ref(), after };
        let report = update::update_if_finite(&self.ctx, &slots, scale, condition)?;
        self.steps = Steps::Counted(steps);
        Ok(report)
    }

    /// All parameters in step `number`.
    fn at<'a>(&'a self, gradients: &'a Gradients, number: u64) -> Vec<update::Slot<'a>> {
        let slot = |(slot, grad): (&'a Slot, &'a Tensor)| {
            let rule = self.rule.at(Step {
                learning_rate: self.learning_rate * slot.learning_rate_scale,
                weight_decay: slot.weight_decay,
                is_adapted: slot.is_adapted,
                number,
            });
            update::Slot { parameter: slot.parameter.as_tensor(), moments: &slot.moments, grad, rule }
        };
        self.slots.iter().zip(&gradients.tensors).map(slot).collect()
    }

    /// Changes the learning rate from the next step on, as schedules do.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.learning_rate = learning_rate;
    }

    /// The learning rate of the next step.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    /// Steps made. After [`Self::apply_if_finite`] a GPU is waited for.
    ///
    /// # Errors
    /// [`OptimError::Candle`] if the number cannot be read there.
    pub fn steps(&self) -> Result<u64, OptimError> {
        match &self.steps {
            Steps::Known(steps) => Ok(*steps),
            Steps::Counted(steps) => Ok(steps.to_scalar::<f64>()? as u64),
        }
    }

    /// All numbers of the optimizer: `MOMENT.NAME` for every parameter and what is remembered of it ([`Rule::moments`]), `step`, and
    /// `loss_scale` where the loss has one.
    ///
    /// The tensors share the optimizer's memory: save or copy them before the next step.
    pub fn state(&self) -> HashMap<String, Tensor> {
        let moments = self.slots.iter().flat_map(|slot| {
            self.rule.moments().iter().zip(&slot.moments).map(|(moment, t)| (entry(moment, &slot.name), t.clone()))
        });
        let step = match &self.steps {
            Steps::Known(steps) => Tensor::new(*steps as i64, &Device::Cpu),
            Steps::Counted(steps) => steps.to_dtype(DType::I64),
        };
        let loss_scale = self.loss_scale.iter().map(|scale| (LOSS_SCALE.to_owned(), scale.numbers().clone()));
        moments.chain(step.ok().map(|step| (STEP.to_owned(), step))).chain(loss_scale).collect()
    }

    /// Takes over the numbers of another optimizer's [`Optimizer::state`], copied.
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
            let copy = |moment: &&str| -> Result<Tensor, OptimError> {
                let saved = state[&entry(moment, &slot.name)].to_device(slot.parameter.device())?;
                Ok(saved.copy()?.detach())
            };
            slot.moments = self.rule.moments().iter().map(copy).collect::<Result<_, _>>()?;
        }
        if let Some(scale) = &mut self.loss_scale {
            *scale = LossScale::of(&state[LOSS_SCALE].to_device(scale.numbers().device())?)?;
        }
        self.steps = Steps::Known(steps as u64);
        Ok(())
    }
}

/// The name of a moment of a parameter in a saved state.
fn entry(moment: &str, parameter: &str) -> String {
    format!("{moment}.{parameter}")
}
