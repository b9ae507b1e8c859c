//! What came of a step that is made only if its numbers are finite.

use candle_core::Tensor;

#[cfg(feature = "cuda")]
use crate::context::Context;
use crate::error::OpsError;

/// Places in a report, as in the kernels.
const LOSS: usize = 0;
const NORM: usize = 1;
const OUTCOME: usize = 2;
const LOSS_SCALE: usize = 3;
const PLACES: usize = 4;

/// Whether a step was made; the numbers are those of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Parameters and moments are what they were: the loss or the norm is not finite, or this is so of the step before, and the two go
    /// together ([`super::Condition::after`]).
    NotFinite = 0,
    /// The step was made.
    Applied = 1,
    /// Parameters and moments are what they were: the gradients were too large for f16, and the next ones will be of a smaller scale.
    Overflowed = 2,
}

/// The numbers of a [`Report`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reported {
    /// The loss.
    pub loss: f64,
    /// The norm of all gradients times [`super::Scale::mean`], over the scale of the loss.
    pub norm: f64,
    /// What was done.
    pub outcome: Outcome,
    /// What the loss was multiplied by for the sake of its gradients; 1 if there is no such scale.
    pub loss_scale: f64,
}

/// What came of a step, on the device, and on its way to the host.
#[derive(Debug)]
pub struct Report {
    numbers: Tensor,
    #[cfg(feature = "cuda")]
    arriving: Option<crate::cuda::Arriving<f64>>,
}

impl Report {
    /// Of numbers on the CPU, which are there already.
    pub(super) fn known(reported: Reported) -> Result<Self, OpsError> {
        let mut numbers = [0.0; PLACES];
        numbers[LOSS] = reported.loss;
        numbers[NORM] = reported.norm;
        numbers[OUTCOME] = reported.outcome as u8 as f64;
        numbers[LOSS_SCALE] = reported.loss_scale;
        let numbers = Tensor::new(&numbers, &candle_core::Device::Cpu)?;
        Ok(Self {
            numbers,
            #[cfg(feature = "cuda")]
            arriving: None,
        })
    }

    /// Of numbers that `write` has a device write into the tensor that it is given.
    #[cfg(feature = "cuda")]
    pub(super) fn written(
        ctx: &Context,
        device: &candle_core::CudaDevice,
        write: impl FnOnce(&Tensor) -> Result<(), OpsError>,
    ) -> Result<Self, OpsError> {
        // SAFETY: `write` has all of them written.
        let numbers = unsafe { crate::cuda::empty(PLACES, candle_core::DType::F64, device) }?;
        write(&numbers)?;
        let arriving = Some(ctx.gpus().reports.expect(&numbers)?);
        Ok(Self { numbers, arriving })
    }

    /// The numbers, `[4]`, f64, where they were written.
    #[cfg(feature = "cuda")]
    pub(crate) fn numbers(&self) -> &Tensor {
        &self.numbers
    }

    /// The numbers. On a GPU they are on their way since the step was asked for: who comes a step later need not wait for what was
    /// asked for in between.
    ///
    /// # Errors
    /// [`OpsError::Candle`] if the device has failed meanwhile.
    pub fn read(self) -> Result<Reported, OpsError> {
        #[cfg(feature = "cuda")]
        if let Some(arriving) = self.arriving {
            return Ok(Reported::of(&arriving.wait()?));
        }
        Ok(Reported::of(&self.numbers.to_vec1::<f64>()?))
    }

    /// [`Self::read`] of a report that others still need, for which all that was asked for is waited for.
    pub(crate) fn outcome(&self) -> Result<Outcome, OpsError> {
        Ok(Reported::of(&self.numbers.to_vec1::<f64>()?).outcome)
    }
}

impl Reported {
    fn of(numbers: &[f64]) -> Self {
        let outcome = match numbers[OUTCOME] as u8 {
            1 => Outcome::Applied,
            2 => Outcome::Overflowed,
            _ => Outcome::NotFinite,
        };
        Self { loss: numbers[LOSS], norm: numbers[NORM], outcome, loss_scale: numbers[LOSS_SCALE] }
    }
}
