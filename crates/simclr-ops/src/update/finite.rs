//! A step that is made only if its numbers are finite, without asking the host.

use candle_core::{DType, Device, Tensor};

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

/// [`update`] by gradients whose norm is known only where they are, or nothing at all if the loss or that norm is not finite.
///
/// On a GPU nobody waits: what was done is in the tensor that this returns, three f64 of the device: the loss, the norm of all
/// gradients times [`Scale::mean`], and 1, or 0 where parameters and moments are what they were. It may be read whenever it is of
/// use, a step later for example.
///
/// For the same reason `steps` counts on the device the steps that were made: this adds 1 to it, but not for a step that was
/// left out, and Adam corrects its means by it; [`super::Adam::number`] is not asked.
///
/// Processes that train together must give the same loss, that of all, as they give the same gradients: one would move without the
/// others.
///
/// # Shapes
/// `slots`: as for [`update`]. `loss`: one number, f32 (or f64 on the CPU). `steps`: one number, f64. Returns `[3]`, f64.
///
/// # Errors
/// [`OpsError::Shape`], [`OpsError::Dtype`] or [`OpsError::NoForm`] if they are not as above: nothing has changed then.
pub fn update_if_finite(
    ctx: &Context,
    slots: &[Slot<'_>],
    scale: Scale,
    loss: &Tensor,
    steps: &Tensor,
) -> Result<Tensor, OpsError> {
    check_all(slots, steps.device())?;
    for (argument, tensor) in [("loss", loss), ("steps", steps)] {
        if tensor.elem_count() != 1 {
            return Err(OpsError::shape(OP, argument, tensor, "[], one number"));
        }
    }
    if steps.dtype() != DType::F64 {
        return Err(OpsError::Dtype { op: OP, argument: "steps", found: steps.dtype(), expected: "f64" });
    }
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = steps.device() {
        return super::cuda::update_if_finite(device, slots, scale, loss, steps);
    }
    let number = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.reshape(())?.to_scalar::<f64>();
    let (loss, made) = (number(loss)?, number(steps)?);
    let gradients: Vec<&Tensor> = slots.iter().map(|slot| slot.grad).collect();
    let norm = squared_norm_of_all(ctx, &gradients)?.sqrt() * scale.mean;
    let applied = loss.is_finite() && norm.is_finite();
    if applied {
        let numbered: Vec<Slot<'_>> = slots.iter().map(|slot| slot.numbered(made as u64 + 1)).collect();
        update(ctx, &numbered, scale.of(norm))?;
        modify::<f64>(steps, |steps| steps[0] = made + 1.0)?;
    }
    Ok(Tensor::new(&[loss, norm, if applied { 1.0 } else { 0.0 }], &Device::Cpu)?)
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
