//! One step of an optimizer over all its parameters, in place.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod finite;
mod norm;
mod report;
mod rules;
mod table;
#[cfg(test)]
mod tests;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::context::{Context, Form};
use crate::element::Element;
use crate::error::OpsError;
use crate::profile::Work;
use crate::storage::{dispatch, elements, float_type, modify};
pub use finite::{Condition, LossScale, Scale, update_if_finite};
use norm::trust_ratio;
pub use norm::{squared_norm, squared_norm_of_all};
pub use report::{Outcome, Report, Reported};
use rules::{AdamFactors, Formula, SgdFactors};

const OP: &str = "update";

/// An update rule with the numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Adam and AdamW.
    Adam(Adam),
    /// Stochastic gradient descent.
    Sgd(Sgd),
    /// Layer-wise adaptive rates.
    Lars(Lars),
}

impl Rule {
    /// Tensors in the shape of a parameter that the rule remembers beside it, all zero at the start.
    ///
    /// Adam: the running means of gradients and of their squares. SGD and LARS: the velocity.
    pub fn moments(&self) -> usize {
        match self {
            Self::Adam(_) => 2,
            Self::Sgd(_) | Self::Lars(_) => 1,
        }
    }
}

/// `torch.optim.Adam`, Kingma and Ba 2014, arXiv:1412.6980; `decoupled` makes it `torch.optim.AdamW`, Loshchilov and Hutter
/// 2017, arXiv:1711.05101.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub eps: f64,
    /// This share of the parameter is added to its gradient (L2), or taken from it at the learning rate.
    pub weight_decay: f64,
    /// Whether weight decay goes past the running means, to the parameter itself.
    pub decoupled: bool,
    /// Which step this is, from 1: the means are corrected for their start at zero. [`update_if_finite`] counts by itself.
    pub number: u64,
}

/// `torch.optim.SGD` without dampening.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub learning_rate: f64,
    /// Share of the velocity that a step keeps; 0 for none.
    pub momentum: f64,
    /// Whether the step looks ahead along its velocity.
    pub nesterov: bool,
    /// This share of the parameter is added to its gradient (L2).
    pub weight_decay: f64,
}

/// LARS as SimCLR's code has it: You et al. 2017, arXiv:1708.03888, with the learning rate inside the velocity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lars {
    /// Learning rate.
    pub learning_rate: f64,
    /// Share of the velocity that a step keeps.
    pub momentum: f64,
    /// Whether the step looks ahead along its velocity.
    pub nesterov: bool,
    /// This share of the parameter is added to its gradient (L2).
    pub weight_decay: f64,
    /// The learning rate is multiplied by this times the parameter's norm over its gradient's; none leaves it as it is.
    pub trust_coefficient: Option<f64>,
}

/// A parameter in one step.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a> {
    /// What the step moves.
    pub parameter: &'a Tensor,
    /// What its rule remembers: [`Rule::moments`] tensors.
    pub moments: &'a [Tensor],
    /// The gradient.
    pub grad: &'a Tensor,
    /// How it moves.
    pub rule: Rule,
}

/// Moves all parameters and what is remembered of them by their gradients times `scale`, each number read and written once.
///
/// The tensors are changed where they are: every tensor that shares their memory sees it. Nothing has changed if an argument
/// is refused.
///
/// # Shapes
/// The tensors of a slot have one shape and one float type, on a GPU f32; parameter and moments are contiguous. All tensors are on
/// one device.
///
/// # Errors
/// [`OpsError::Shape`], [`OpsError::Dtype`] or [`OpsError::NoForm`] if they are not as above.
pub fn update(ctx: &Context, slots: &[Slot<'_>], scale: f64) -> Result<(), OpsError> {
    fn run<T: Element>(ctx: &Context, slot: &Slot<'_>, scale: f64) -> Result<(), OpsError> {
        let grad = slot.grad.contiguous()?;
        let grad = elements::<T>(OP, "grad", &grad)?;
        match slot.rule {
            Rule::Adam(step) => two::<T, _>(ctx, slot, &grad, |_| AdamFactors::new(&step, scale)),
            Rule::Sgd(step) => one::<T, _>(ctx, slot, &grad, |_| SgdFactors::sgd(&step, scale)),
            Rule::Lars(step) => one::<T, _>(ctx, slot, &grad, |p| {
                let ratio = step.trust_coefficient;
                let ratio = ratio.map_or(1.0, |c| trust_ratio(ctx, p, &grad, c, scale, step.weight_decay));
                SgdFactors::lars(&step, ratio, scale)
            }),
        }
    }
    let Some(first) = slots.first() else { return Ok(()) };
    check_all(slots, first.parameter.device())?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = first.parameter.device() {
        return cuda::update(ctx, device, slots, scale);
    }
    let numbers = |slot: &Slot<'_>| slot.parameter.elem_count() * (3 + 2 * slot.rule.moments());
    let width = first.parameter.dtype().size_in_bytes();
    let work = Work::pass(slots.iter().map(numbers).sum(), width);
    ctx.timed(OP, "update", work, || {
        slots
            .par_iter()
            .try_for_each(|slot| dispatch!(float_type(OP, "parameter", slot.parameter)?, run(ctx, slot, scale)))
    })
}

/// Whether the tensors of all slots are as they should be, and on `device`.
fn check_all(slots: &[Slot<'_>], device: &Device) -> Result<(), OpsError> {
    let are_there = |slot: &Slot<'_>| {
        slot.moments.iter().chain([slot.parameter, slot.grad]).all(|t| t.device().same_device(device))
    };
    if !slots.iter().all(are_there) {
        return Err(candle_core::Error::Msg(format!("{OP}: not all tensors are on one device")).into());
    }
    slots.iter().try_for_each(check)
}

fn check(slot: &Slot<'_>) -> Result<(), OpsError> {
    let Slot { parameter, moments, grad, rule } = slot;
    if moments.len() != rule.moments() {
        return Err(OpsError::Count { op: OP, argument: "moments", found: moments.len(), expected: rule.moments() });
    }
    for (argument, t) in moments.iter().map(|t| ("moments", t)).chain([("grad", *grad)]) {
        if t.dims() != parameter.dims() {
            let expected = format!("{:?}, the shape of the parameter", parameter.dims());
            return Err(OpsError::shape(OP, argument, t, expected));
        }
        if t.dtype() != parameter.dtype() {
            return Err(OpsError::Dtype { op: OP, argument, found: t.dtype(), expected: parameter.dtype().as_str() });
        }
        update_type(argument, t)?;
    }
    for (argument, t) in moments.iter().map(|t| ("moments", t)).chain([("parameter", *parameter)]) {
        if !t.is_contiguous() {
            return Err(OpsError::shape(OP, argument, t, "contiguous elements"));
        }
    }
    update_type("parameter", parameter)
}

/// Which tensors can be moved: what ops compute with on the CPU, f32 on a GPU.
fn update_type(argument: &'static str, t: &Tensor) -> Result<(), OpsError> {
    match t.dtype() {
        DType::F32 if cfg!(feature = "cuda") && t.device().is_cuda() => Ok(()),
        _ => float_type(OP, argument, t).map(drop),
    }
}

/// A slot whose rule remembers two tensors; each is changed under its own lock.
fn two<T, F>(ctx: &Context, slot: &Slot<'_>, grad: &[T], formula: impl FnOnce(&[T]) -> F) -> Result<(), OpsError>
where
    T: Element,
    F: for<'a> Formula<T, Moments<'a> = (&'a mut T, &'a mut T)>,
{
    let [first, second] = slot.moments else { return Ok(()) };
    // Type, shape and layout were checked before anything was changed: the inner calls find what they expect.
    modify::<T>(slot.parameter, |p| {
        let formula = formula(p);
        let _ = modify::<T>(first, |m| {
            let _ = modify::<T>(second, |v| match ctx.form() {
                Form::Fast => cpu::two(p, m, v, grad, &formula),
                Form::Reference => {
                    for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(grad) {
                        formula.move_one(p, (m, v), g);
                    }
                }
            });
        });
    })
}

/// A slot whose rule remembers one tensor.
fn one<T, F>(ctx: &Context, slot: &Slot<'_>, grad: &[T], formula: impl FnOnce(&[T]) -> F) -> Result<(), OpsError>
where
    T: Element,
    F: for<'a> Formula<T, Moments<'a> = &'a mut T>,
{
    let [velocity] = slot.moments else { return Ok(()) };
    modify::<T>(slot.parameter, |p| {
        let formula = formula(p);
        let _ = modify::<T>(velocity, |m| match ctx.form() {
            Form::Fast => cpu::one(p, m, grad, &formula),
            Form::Reference => {
                for ((p, m), &g) in p.iter_mut().zip(m).zip(grad) {
                    formula.move_one(p, m, g);
                }
            }
        });
    })
}
