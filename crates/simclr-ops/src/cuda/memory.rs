//! Memory of tensors on a device.

use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::cuda_backend::{CudaStorage, CudaStorageSlice};
use candle_core::{CudaDevice, DType, Device, Shape, Storage, Tensor};

use crate::error::OpsError;

/// Where the numbers of `tensor` begin, which must be contiguous, of `dtype` and on a CUDA device.
///
/// Work that is launched while the tensor lives may read them, and write them where the op says so: memory is freed in the order of
/// the stream.
pub(crate) fn pointer(
    op: &'static str,
    argument: &'static str,
    tensor: &Tensor,
    dtype: DType,
) -> Result<u64, OpsError> {
    if tensor.dtype() != dtype {
        return Err(OpsError::Dtype { op, argument, found: tensor.dtype(), expected: dtype.as_str() });
    }
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        return Err(OpsError::Candle(candle_core::Error::Msg(format!(
            "{op}: {argument} is on the CPU, expected the CUDA device of the other arguments"
        ))));
    };
    let Some((start, _)) = layout.contiguous_offsets() else {
        return Err(OpsError::shape(op, argument, tensor, "contiguous elements"));
    };
    let base = base(storage).ok_or(OpsError::Dtype {
        op,
        argument,
        found: dtype,
        expected: "f32, bf16, f16, f64, u8 or i64",
    })?;
    Ok(base + (start * dtype.size_in_bytes()) as u64)
}

fn base(storage: &CudaStorage) -> Option<u64> {
    let stream = storage.device.cuda_stream();
    Some(match &storage.slice {
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F64(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::I64(slice) => slice.device_ptr(&stream).0,
        _ => return None,
    })
}

/// A tensor of numbers that nobody has written yet.
///
/// # Safety
/// All of them must be written before they are read.
pub(crate) unsafe fn empty(shape: impl Into<Shape>, dtype: DType, device: &CudaDevice) -> Result<Tensor, OpsError> {
    // SAFETY: the caller's promise is passed on.
    Ok(unsafe { Tensor::empty(shape, dtype, &Device::Cuda(device.clone())) }?)
}
