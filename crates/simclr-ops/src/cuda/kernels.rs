//! Kernels and their launches.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
use candle_core::{CudaDevice, DType};

use crate::error::OpsError;

/// The kernels of one `.cu` file.
pub(crate) struct Kernels {
    pub(crate) name: &'static str,
    pub(crate) ptx: &'static str,
}

/// The [`Kernels`] of `src/NAME/cuda.cu` or `src/NAME.cu`.
macro_rules! kernels {
    ($name:literal) => {
        $crate::cuda::Kernels {
            name: concat!("simclr ", $name),
            ptx: include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx")),
        }
    };
}
pub(crate) use kernels;

/// How many blocks of how many threads run a kernel, in x, y and z.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) blocks: [usize; 3],
    pub(crate) threads: [usize; 2],
    /// Bytes of memory that a block shares, beside those that the kernel declares.
    pub(crate) shared: usize,
}

impl Grid {
    /// One thread for each of `count` things.
    pub(crate) fn one_for_each(count: usize) -> Self {
        const THREADS: usize = 256;
        Self { blocks: [count.div_ceil(THREADS), 1, 1], threads: [THREADS, 1], shared: 0 }
    }
}

/// A number, or where numbers begin in the memory of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument {
    Pointer(u64),
    Int(i32),
    Long(i64),
    Double(f64),
}

impl Argument {
    /// A size, which kernels take as 32 bits where a dimension of a tensor is meant.
    pub(crate) fn size(size: usize) -> Self {
        Self::Int(size as i32)
    }
}

impl Kernels {
    /// Runs `kernel`, after all that was launched before.
    ///
    /// # Safety
    /// The arguments must be those of the kernel in their order and types, and pointers must lead to as many numbers as the kernel
    /// touches, which live until it was launched.
    pub(crate) unsafe fn launch(
        &self,
        device: &CudaDevice,
        kernel: &str,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<(), OpsError> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        let function = device.get_or_load_custom_func(kernel, self.name, self.ptx)?;
        let mut launch = function.builder();
        for argument in arguments {
            match argument {
                Argument::Pointer(pointer) => launch.arg(pointer),
                Argument::Int(number) => launch.arg(number),
                Argument::Long(number) => launch.arg(number),
                Argument::Double(number) => launch.arg(number),
            };
        }
        let [x, y, z] = grid.blocks.map(|blocks| blocks as u32);
        let [width, height] = grid.threads.map(|threads| threads as u32);
        let config =
            LaunchConfig { grid_dim: (x, y, z), block_dim: (width, height, 1), shared_mem_bytes: grid.shared as u32 };
        // SAFETY: the caller's promises are passed on.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }
}

/// The end of the name of a kernel that has forms for several types of maps.
pub(crate) fn suffix(op: &'static str, argument: &'static str, dtype: DType) -> Result<&'static str, OpsError> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::BF16 => Ok("bf16"),
        DType::F16 => Ok("f16"),
        found => Err(OpsError::Dtype { op, argument, found, expected: "f32, bf16 or f16 on a GPU" }),
    }
}
