//! A step that is made only if its numbers are finite, without asking the host.

use candle_core::{DType, Device, Tensor};

use super::report::{Outcome, Report, Reported};
use super::{OP, Rule, Slot, check_all, squared_norm_of_all, update};
use crate::context::Context;
use crate::error::OpsError;
use crate::storage::modify;

/// What gradients are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// One over the number of batches of which the gradients are a sum.
    pub mean: f64,
    /// Where the norm of the mean is greater than this, gradients are made that much shorter, as by
    /// `torch.nn.utils.clip_grad_norm_`.
    pub max_norm: Option<f64>,
}

impl Scale {
    /// The factor where the mean has this norm.
    pub fn of(&self, norm: f64) -> f64 {
        self.mean * self.max_norm.map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0))
    }
}

/// On what it depends whether a step is made, all of it where the parameters are.
#[derive(Clone, Copy, Debug)]
pub struct Condition<'a> {
    /// The loss, one number, f64.
    pub loss: &'a Tensor,
    /// How many steps were made, one number, f64: 1 is added to it by a step that is made. Adam corrects its means by it;
    /// [`super::Adam::number`] is not asked.
    pub steps: &'a Tensor,
    /// Where gradients are kept in f16, whose least number is 6e-8, the loss is multiplied by a scale before they are computed.
    pub loss_scale: Option<&'a LossScale>,
    /// If this says that a step was left out because its numbers were not finite, this one is left out too: who wants to stop there
    /// may ask for steps before the report is read.
    pub after: Option<&'a Report>,
}

/// The scale of a loss that finds itself, as `torch.amp.GradScaler` has it (Micikevicius et al. 2017, arXiv:1710.03740): half of it
/// when gradients overflow, twice of it when they have not for 2,000 steps.
#[derive(Clone, Debug)]
pub struct LossScale {
    /// `[scale, steps made with it]`, f64.
    numbers: Tensor,
}

impl LossScale {
    /// PyTorch's numbers, which are those of the kernels too.
    const FIRST: f64 = 65536.0;
    const BACKOFF: f64 = 0.5;
    const GROWTH: f64 = 2.0;
    const INTERVAL: f64 = 2000.0;

    /// 65,536, on `device`.
    ///
    /// # Errors
    /// [`OpsError::Candle`] if the device has no memory for two numbers.
    pub fn new(device: &Device) -> Result<Self, OpsError> {
        Ok(Self { numbers: Tensor::new(&[Self::FIRST, 0.0], device)? })
    }

    /// One that was [saved](Self::numbers), copied.
    ///
    /// # Errors
    /// [`OpsError::Shape`] or [`OpsError::Dtype`] if these are no such numbers.
    pub fn of(numbers: &Tensor) -> Result<Self, OpsError> {
        if numbers.dims() != [2] {
            return Err(OpsError::shape(OP, "loss scale", numbers, "[2], the scale and the steps made with it"));
        }
        must_be_f64("loss scale", numbers)?;
        Ok(Self { numbers: numbers.copy()?.detach() })
    }

    /// `[scale, steps made with it]`, f64. They share its memory.
    pub fn numbers(&self) -> &Tensor {
        &self.numbers
    }

    /// `loss` times the scale, in its graph, for whoever computes its gradients.
    ///
    /// # Errors
    /// [`OpsError::Candle`] if the loss is somewhere else.
    pub fn of_loss(&self, loss: &Tensor) -> Result<Tensor, OpsError> {
        Ok(loss.broadcast_mul(&self.numbers.get(0)?.to_dtype(loss.dtype())?)?)
    }

    /// What `outcome` makes of it, on the CPU.
    fn follow(&self, outcome: Outcome) -> Result<(), OpsError> {
        modify::<f64>(&self.numbers, |numbers| match outcome {
            Outcome::Applied => {
                numbers[1] += 1.0;
                if numbers[1] == Self::INTERVAL {
                    (numbers[0], numbers[1]) = (numbers[0] * Self::GROWTH, 0.0);
                }
            }
            Outcome::Overflowed => (numbers[0], numbers[1]) = (numbers[0] * Self::BACKOFF, 0.0),
            Outcome::NotFinite => {}
        })
    }
}

/// [`update`] by gradients whose norm is known only where they are, or nothing at all if the loss or that norm is not finite.
///
/// On a GPU nobody waits: what was done is in the report, which may be read whenever it is of use, a step later for example.
///
/// Processes that train together must give the same loss, that of all, as they give the same gradients: one would move without the
/// others.
///
/// # Shapes
/// `slots`: as for [`update`].
///
/// # Errors
/// [`OpsError::Shape`], [`OpsError::Dtype`] or [`OpsError::NoForm`] if they or the condition are not as they should be: nothing has
/// changed then.
pub fn update_if_finite(
    ctx: &Context,
    slots: &[Slot<'_>],
    scale: Scale,
    condition: Condition<'_>,
) -> Result<Report, OpsError> {
    let Condition { loss, steps, loss_scale, after } = condition;
    check_all(slots, steps.device())?;
    for (argument, tensor) in [("loss", loss), ("steps", steps)] {
        if tensor.elem_count() != 1 {
            return Err(OpsError::shape(OP, argument, tensor, "[], one number"));
        }
    }
    must_be_f64("loss", loss)?;
    must_be_f64("steps", steps)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = steps.device() {
        return super::cuda::update_if_finite(ctx, device, slots, scale, condition);
    }
    let number = |tensor: &Tensor| tensor.reshape(())?.to_scalar::<f64>();
    let (loss, made) = (number(loss)?, number(steps)?);
    let by = loss_scale.map_or(Ok(1.0), |scale| number(&scale.numbers.get(0)?))?;
    let gradients: Vec<&Tensor> = slots.iter().map(|slot| slot.grad).collect();
    let scale = Scale { mean: scale.mean / by, ..scale };
    let norm = squared_norm_of_all(ctx, &gradients)?.sqrt() * scale.mean;
    let goes_on = after.map_or(Ok(true), |report| report.outcome().map(|outcome| outcome != Outcome::NotFinite))?;
    let outcome = match (goes_on && loss.is_finite(), norm.is_finite()) {
        (true, true) => Outcome::Applied,
        // The smallest scale is 1: gradients that overflow then are not those of f16.
        (true, false) if by > 1.0 => Outcome::Overflowed,
        _ => Outcome::NotFinite,
    };
    if outcome == Outcome::Applied {
        let numbered: Vec<Slot<'_>> = slots.iter().map(|slot| slot.numbered(made as u64 + 1)).collect();
        update(ctx, &numbered, scale.of(norm))?;
        modify::<f64>(steps, |steps| steps[0] = made + 1.0)?;
    }
    loss_scale.map_or(Ok(()), |scale| scale.follow(outcome))?;
    Report::known(Reported { loss, norm, outcome, loss_scale: by })
}

fn must_be_f64(argument: &'static str, tensor: &Tensor) -> Result<(), OpsError> {
    match tensor.dtype() {
        DType::F64 => Ok(()),
        found => Err(OpsError::Dtype { op: OP, argument, found, expected: "f64" }),
    }
}

impl Slot<'_> {
    /// The same in another step.
    fn numbered(&self, number: u64) -> Self {
        let rule = match self.rule {
            Rule::Adam(adam) => Rule::Adam(super::Adam { number, ..adam }),
            other => other,
        };
        Self { rule, ..*self }
    }
}
