//! What the CUDA forms of ops share: memory of tensors, kernels and their launches.
//!
//! All work goes to the one stream of candle's device, in the order in which it is asked for: nothing here waits for the GPU.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::CudaDevice;
use candle_core::cuda_backend::DeviceId;

use crate::error::OpsError;
use crate::uploads::Uploads;

mod choice;
mod convolution;
mod descriptors;
mod device;
mod elementwise;
mod kernels;
mod memory;
mod pinned;
pub(crate) mod pooling;
mod product;

pub(crate) use convolution::{Convolutions, Problem};
pub(crate) use elementwise::add_assign;
pub(crate) use kernels::{Argument, Grid, Kernels, kernels, suffix};
pub(crate) use memory::{empty, pointer};
pub(crate) use pinned::{Arrivals, Arriving, Departing};
pub(crate) use product::{Matrix, product};

pub use device::{DeviceError, Gpu, built_for, cudnn_version, driver_version, gpu, gpus, open, peak_memory};

/// What a context and its clones have made ready on GPUs.
#[derive(Debug, Default)]
pub(crate) struct Gpus {
    /// Whether algorithms are measured.
    measures: bool,
    /// cuDNN on every device that they have met, from the first convolution on.
    known: Mutex<Vec<(DeviceId, Arc<Convolutions>)>>,
    /// Where the tables of optimizers leave from.
    pub(crate) tables: Uploads,
    /// Where their reports arrive.
    pub(crate) reports: Arrivals<f64>,
}

impl Gpus {
    /// Where algorithms are measured.
    pub(crate) fn measuring() -> Self {
        Self { measures: true, ..Self::default() }
    }

    pub(crate) fn convolutions(&self, device: &CudaDevice) -> Result<Arc<Convolutions>, OpsError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, convolutions)) = known.iter().find(|(id, _)| *id == device.id()) {
            return Ok(convolutions.clone());
        }
        let convolutions = Arc::new(Convolutions::new(device, self.measures)?);
        known.push((device.id(), convolutions.clone()));
        Ok(convolutions)
    }

    /// The algorithms chosen so far, a line for every problem.
    pub(crate) fn choices(&self) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().flat_map(|(_, convolutions)| convolutions.choices()).collect()
    }
}
