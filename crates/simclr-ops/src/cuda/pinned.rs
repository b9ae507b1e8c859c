//! Host memory that a GPU copies from and to by itself, so that whoever asks for a copy goes on at once: copies of other memory go through
//! the driver's own, for which it may wait until the stream has done all its work.

use std::collections::VecDeque;
use std::ffi::c_uint;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::sys::{CU_MEMHOSTALLOC_WRITECOMBINED, CUevent_flags};
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, DeviceRepr, PinnedHostSlice, ValidAsZeroBits};
use candle_core::cuda_backend::{CudaDType, CudaStorage, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, Shape, Storage, Tensor};

use crate::error::OpsError;

/// Page-locked memory, and when the last copy from or to it will have been made.
///
/// cudarc keeps such an event itself, but records it only where a program has several streams.
#[derive(Debug)]
struct Buffer<T> {
    memory: PinnedHostSlice<T>,
    copied: CudaEvent,
}

impl<T: DeviceRepr + ValidAsZeroBits> Buffer<T> {
    /// # Safety
    /// What is read of it must have been written before.
    unsafe fn new(stream: &CudaStream, len: usize, flags: c_uint) -> Result<Self, OpsError> {
        let context = stream.context();
        // SAFETY: the caller's promise is passed on.
        let memory = unsafe { context.alloc_pinned_with_flags(len, flags) }.w()?;
        Ok(Self { memory, copied: context.new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC)).w()? })
    }

    fn fits(&self, stream: &CudaStream, len: usize) -> bool {
        self.memory.len() >= len && Arc::ptr_eq(self.memory.context(), stream.context())
    }

    /// The memory, when no copy of it is to be made any more.
    fn settled(&mut self) -> Result<&mut [T], OpsError> {
        self.copied.synchronize().w()?;
        Ok(self.memory.as_mut_slice().w()?)
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // The memory goes back to the host, whether the device has failed or not.
        let _ = self.copied.synchronize();
    }
}

/// Buffers that take turns: one is filled while the other is copied.
const BUFFERS: usize = 2;

/// Where bytes wait until a GPU has taken them.
#[derive(Debug, Default)]
pub(crate) struct Departing(Mutex<VecDeque<Buffer<u8>>>);

impl Departing {
    /// `bytes` as a tensor of u8 on `device`; the host waits for nothing but the copy that the buffer was used for last.
    pub(crate) fn send(&self, bytes: &[u8], shape: impl Into<Shape>, device: &CudaDevice) -> Result<Tensor, OpsError> {
        let stream = device.cuda_stream();
        let mut buffers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = if buffers.len() < BUFFERS { None } else { buffers.pop_front() };
        let mut buffer = match last.filter(|buffer| buffer.fits(&stream, bytes.len())) {
            Some(buffer) => buffer,
            // SAFETY: what is copied of it is written below. Batches differ in length by a little: the next ones are to fit.
            None => unsafe { Buffer::new(&stream, bytes.len().next_power_of_two(), CU_MEMHOSTALLOC_WRITECOMBINED) }?,
        };
        let memory = &mut buffer.settled()?[..bytes.len()];
        memory.copy_from_slice(bytes);
        // SAFETY: the copy writes all of it, before whatever the stream does later.
        let mut there = unsafe { device.alloc::<u8>(bytes.len()) }?;
        stream.memcpy_htod(memory, &mut there).w()?;
        buffer.copied.record(&stream).w()?;
        buffers.push_back(buffer);
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(there, device.clone()));
        Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
    }
}

/// Buffers that numbers have come in, for those that come next.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals<T>(Arc<Mutex<Vec<Buffer<T>>>>);

impl<T> Default for Arrivals<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// Numbers on their way to the host.
#[derive(Debug)]
pub(crate) struct Arriving<T> {
    buffer: Buffer<T>,
    count: usize,
    arrivals: Arrivals<T>,
}

impl<T: DeviceRepr + ValidAsZeroBits + CudaDType + Clone> Arrivals<T> {
    /// Has the numbers of `tensor`, of this type and contiguous on a CUDA device, copied to the host when all that was launched before has
    /// run.
    pub(crate) fn expect(&self, tensor: &Tensor) -> Result<Arriving<T>, OpsError> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            return Err(OpsError::NoForm { op: "arrivals", device: "CPU" });
        };
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(OpsError::shape("arrivals", "tensor", tensor, "contiguous elements"));
        };
        let (numbers, stream) = (storage.as_cuda_slice::<T>()?.slice(start..end), storage.device.cuda_stream());
        let count = end - start;
        let mut buffers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = match buffers.iter().position(|buffer| buffer.fits(&stream, count)) {
            Some(at) => buffers.swap_remove(at),
            // SAFETY: what is read of it is copied there. No flags: write-combined memory is not for reading.
            None => unsafe { Buffer::new(&stream, count, 0) }?,
        };
        stream.memcpy_dtoh(&numbers, &mut buffer.settled()?[..count]).w()?;
        buffer.copied.record(&stream).w()?;
        Ok(Arriving { buffer, count, arrivals: self.clone() })
    }
}

impl<T: DeviceRepr + ValidAsZeroBits + Clone> Arriving<T> {
    /// The numbers, as soon as they are there.
    pub(crate) fn wait(mut self) -> Result<Vec<T>, OpsError> {
        let numbers = self.buffer.settled()?[..self.count].to_vec();
        self.arrivals.0.lock().unwrap_or_else(PoisonError::into_inner).push(self.buffer);
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::check::gpu;

    #[test]
    fn bytes_get_to_a_gpu() {
        let Some(device) = gpu() else { return };
        crate::uploads::tests::bytes_get_there(&device);
    }

    #[test]
    fn numbers_arrive_in_any_order() {
        let Some(device) = gpu() else { return };
        let arrivals = Arrivals::<f64>::default();
        let expect = |numbers: &[f64]| arrivals.expect(&Tensor::new(numbers, &device).unwrap()).unwrap();
        let (one, two, three) = (expect(&[1.0, 2.0]), expect(&[3.0, 4.0]), expect(&[5.0]));
        assert_eq!(two.wait().unwrap(), [3.0, 4.0]);
        let four = expect(&[6.0, 7.0]);
        assert_eq!(
            [one, three, four].map(|numbers| numbers.wait().unwrap()),
            [vec![1.0, 2.0], vec![5.0], vec![6.0, 7.0]]
        );
        assert!(arrivals.expect(&Tensor::new(&[1.0], &Device::Cpu).unwrap()).is_err());
    }

    #[test]
    fn a_part_of_a_tensor_comes_as_it_was() {
        let Some(device) = gpu() else { return };
        let downloads = crate::downloads::Downloads::default();
        let there = Tensor::arange(0f32, 12.0, &device).unwrap().reshape((4, 3)).unwrap();
        let part = downloads.begin(&there.narrow(0, 1, 2).unwrap()).unwrap();
        let across = downloads.begin(&there.t().unwrap()).unwrap();
        drop(there);
        assert_eq!(part.wait().unwrap().to_vec2::<f32>().unwrap(), [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]);
        assert_eq!(across.wait().unwrap().to_vec2::<f32>().unwrap()[1], [1.0, 4.0, 7.0, 10.0]);
        assert!(downloads.begin(&Tensor::new(&[1.0], &device).unwrap()).is_err());
    }
}
