//! Numbers on their way to the host.

use candle_core::Tensor;

use crate::error::OpsError;

/// Brings numbers to the host while it goes on. From a GPU they come to page-locked memory, which is kept from one time to the next.
#[derive(Clone, Debug, Default)]
pub struct Downloads {
    #[cfg(feature = "cuda")]
    arrivals: crate::cuda::Arrivals<f32>,
}

/// A tensor that is on its way.
#[derive(Debug)]
pub struct Download(Place);

#[derive(Debug)]
enum Place {
    Here(Tensor),
    #[cfg(feature = "cuda")]
    Coming(crate::cuda::Arriving<f32>, candle_core::Shape),
}

impl Downloads {
    /// Asks for the numbers of `tensor`, f32 if it is on a GPU, as they are when all that was asked for before is done.
    ///
    /// # Errors
    /// [`OpsError::Candle`] if there is no memory for them, [`OpsError::Dtype`] if they are not f32 there.
    pub fn begin(&self, tensor: &Tensor) -> Result<Download, OpsError> {
        #[cfg(feature = "cuda")]
        if tensor.device().is_cuda() {
            if tensor.dtype() != candle_core::DType::F32 {
                return Err(OpsError::Dtype {
                    op: "downloads",
                    argument: "tensor",
                    found: tensor.dtype(),
                    expected: "f32",
                });
            }
            let arriving = self.arrivals.expect(&tensor.contiguous()?)?;
            return Ok(Download(Place::Coming(arriving, tensor.shape().clone())));
        }
        Ok(Download(Place::Here(tensor.clone())))
    }
}

impl Download {
    /// The tensor on the CPU, as soon as it is there.
    ///
    /// # Errors
    /// [`OpsError::Candle`] if the device has failed meanwhile.
    pub fn wait(self) -> Result<Tensor, OpsError> {
        match self.0 {
            Place::Here(tensor) => Ok(tensor),
            #[cfg(feature = "cuda")]
            Place::Coming(arriving, shape) => Ok(Tensor::from_vec(arriving.wait()?, shape, &candle_core::Device::Cpu)?),
        }
    }
}
