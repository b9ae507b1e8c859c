//! The GPUs of a machine: what there is, and making one ready.

use candle_core::Device;
use candle_core::cuda_backend::cudarc::cudnn;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError, result, sys};

/// A GPU as its driver describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Gpu {
    /// Its number, from 0.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// Its compute capability, as `(9, 0)`.
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub memory: usize,
    /// Bytes of memory that nobody has taken.
    pub free: usize,
}

/// Why a GPU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver is not there, or knows no GPU.
    #[error("there is no CUDA device here: {0}")]
    None(String),
    /// There are fewer GPUs.
    #[error("there is no CUDA device {number}: this machine has {count}, counted from 0")]
    Number {
        /// The one that was asked for.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// The kernels of this program do not run on it.
    #[error(
        "CUDA device {} ({}) has compute capability {}.{}, but this program was built for {needed} and later: build it with \
         CUDA_COMPUTE_CAP={}{}",
        gpu.number, gpu.name, gpu.capability.0, gpu.capability.1, gpu.capability.0, gpu.capability.1
    )]
    Capability {
        /// The GPU.
        gpu: Gpu,
        /// What the kernels ask for.
        needed: String,
    },
    /// The driver reported an error.
    #[error("CUDA device {number} cannot be made ready")]
    Driver {
        /// The GPU.
        number: usize,
        /// What it said.
        source: candle_core::Error,
    },
}

/// All GPUs that the driver knows.
///
/// # Errors
/// [`DeviceError::None`] if there is none, or no driver.
pub fn gpus() -> Result<Vec<Gpu>, DeviceError> {
    (0..count()?).map(described).collect()
}

/// The GPU of this number; the others are left alone, as to look at one takes memory of it.
///
/// # Errors
/// [`DeviceError::None`] or [`DeviceError::Number`] if it is not there.
pub fn gpu(number: usize) -> Result<Gpu, DeviceError> {
    let count = count()?;
    if number < count { described(number) } else { Err(DeviceError::Number { number, count }) }
}

/// How many there are, at least one.
fn count() -> Result<usize, DeviceError> {
    match CudaContext::device_count() {
        Ok(0) => Err(DeviceError::None("the driver knows none".into())),
        Ok(count) => Ok(count as usize),
        Err(error) => Err(DeviceError::None(error.to_string())),
    }
}

fn described(number: usize) -> Result<Gpu, DeviceError> {
    let ask = || -> Result<Gpu, DriverError> {
        let context = CudaContext::new(number)?;
        let (major, minor) = context.compute_capability()?;
        let (free, memory) = context.mem_get_info()?;
        Ok(Gpu { number, name: context.name()?, capability: (major as u32, minor as u32), memory, free })
    };
    ask().map_err(|error| driver_error(number, error))
}

fn driver_error(number: usize, error: DriverError) -> DeviceError {
    DeviceError::Driver { number, source: candle_core::Error::wrap(error) }
}

/// The compute capability for which the kernels were compiled, as `(9, 0)`: they run on GPUs of this one and of later ones.
pub fn built_for() -> (u32, u32) {
    // "90a" and its like are 90 with more.
    let number: u32 = env!("SIMCLR_CUDA_COMPUTE_CAP").trim_end_matches(char::is_alphabetic).parse().unwrap_or(0);
    (number / 10, number % 10)
}

/// The GPU of this number as candle's device, whose memory, once taken from the driver, is kept for the next step.
///
/// # Errors
/// [`DeviceError`] if there is no such GPU, if the kernels of this program do not run on it, or if the driver refuses.
pub fn open(number: usize) -> Result<Device, DeviceError> {
    let gpu = gpu(number)?;
    let (major, minor) = built_for();
    if gpu.capability < (major, minor) {
        return Err(DeviceError::Capability { gpu, needed: format!("{major}.{minor}") });
    }
    // A stream of its own: the default one of candle is another for every thread of the host.
    let device = Device::new_cuda_with_stream(number).map_err(|source| DeviceError::Driver { number, source })?;
    if let Device::Cuda(device) = &device {
        // SAFETY: all work on its memory goes to this one stream, so that nothing is read or freed before it was written.
        unsafe { device.disable_event_tracking() };
    }
    keep_memory(number).map_err(|error| driver_error(number, error))?;
    Ok(device)
}

/// Lets the driver's pool keep what was freed: otherwise it goes back to the system whenever the host waits for the GPU, and every step
/// begins with taking gigabytes anew.
fn keep_memory(number: usize) -> Result<(), DriverError> {
    let context = CudaContext::new(number)?;
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut pool = std::ptr::null_mut();
    let mut all = u64::MAX;
    // SAFETY: the context of the device lives, the pool is the driver's, and the attribute is 64 bits.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()).result()?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut all).cast()).result()
    }
}

/// The most memory that this process has taken of a GPU at once, in bytes, where its driver has a pool that tells.
pub fn peak_memory(number: usize) -> Option<usize> {
    let context = CudaContext::new(number).ok().filter(|context| context.has_async_alloc())?;
    let (mut pool, mut bytes) = (std::ptr::null_mut(), 0u64);
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: as in `keep_memory`.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()).result().ok()?;
        sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()).result().ok()?;
    }
    Some(bytes as usize)
}

/// The highest version of CUDA that the driver knows, as `(13, 0)`.
///
/// # Errors
/// [`DeviceError::None`] if there is no driver.
pub fn driver_version() -> Result<(u32, u32), DeviceError> {
    let mut version = 0;
    let mut ask = || -> Result<(), DriverError> {
        result::init()?;
        // SAFETY: it writes one number.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()
    };
    ask().map_err(|error| DeviceError::None(error.to_string()))?;
    Ok((version as u32 / 1000, version as u32 % 1000 / 10))
}

/// The version of the cuDNN that was found when the program started, as `(9, 21, 1)`.
pub fn cudnn_version() -> (usize, usize, usize) {
    let version = cudnn::result::get_version();
    (version / 10_000, version / 100 % 100, version % 100)
}
