//! The thread that makes the calls of CUDA and NCCL.

use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr, DriverError, ValidAsZeroBits};
use cudarc::nccl::result::NcclError;
use cudarc::nccl::sys::ncclResult_t;
use cudarc::nccl::{Comm, Id, NcclType, ReduceOp};

use super::Lost;
use crate::error::DistError;
use crate::tree;

/// Bytes of all ranks that one gather or broadcast moves: as much again is taken on the GPU.
const BLOCK: usize = 1 << 28;

/// Small sums of all ranks together that are gathered and added in the order of a tree; more of them NCCL adds, in an order of its own.
const MOST_GATHERED: usize = 1 << 20;

/// How long a wait is without pause: after that others of this machine may want the core.
const IMPATIENT: Duration = Duration::from_millis(2);

pub(super) type Answer<T> = Sender<Result<T, DistError>>;

/// What the caller's thread asks of this one.
pub(super) enum Call {
    /// NCCL's unique id, of rank 0.
    Id(Answer<Vec<u8>>),
    Begin {
        rank: usize,
        size: usize,
        id: Vec<u8>,
        answer: Answer<()>,
    },
    Sum(Vec<f64>, Answer<Vec<f64>>),
    StartSum(Vec<f32>, Answer<Vec<f32>>),
    AllGather(Vec<u8>, Answer<Vec<Vec<u8>>>),
    Broadcast(usize, Vec<u8>, Answer<Vec<u8>>),
    Barrier(Answer<()>),
    Finish(Answer<()>),
}

/// Numbers that NCCL adds and CUDA copies.
trait Number: NcclType + DeviceRepr + ValidAsZeroBits + Copy {}

impl Number for f32 {}
impl Number for f64 {}
impl Number for u64 {}
impl Number for u8 {}

pub(super) struct Server {
    gpu: Gpu,
    /// From [`Call::Begin`] to the end.
    comm: Option<Comm>,
    calls: Receiver<Call>,
    lost: Arc<Lost>,
}

impl Server {
    /// With the GPU of the process that is `local_rank` of its machine.
    pub(super) fn open(local_rank: usize, calls: Receiver<Call>, lost: Arc<Lost>) -> Result<Self, DistError> {
        Ok(Self { gpu: Gpu::open(local_rank)?, comm: None, calls, lost })
    }

    /// Answers until the end, or until nobody asks any more. Whoever does not wait for an answer does not want it.
    pub(super) fn serve(mut self) {
        while let Ok(call) = self.calls.recv() {
            match call {
                Call::Id(answer) => {
                    let _ = answer.send(self.id());
                }
                Call::Begin { rank, size, id, answer } => {
                    let _ = answer.send(self.begin(rank, size, &id));
                }
                Call::Sum(values, answer) => {
                    let _ = answer.send(self.sum_small(&values));
                }
                Call::StartSum(values, answer) => {
                    let _ = answer.send(self.sum(values));
                }
                Call::AllGather(own, answer) => {
                    let _ = answer.send(self.all_gather(&own));
                }
                Call::Broadcast(root, bytes, answer) => {
                    let _ = answer.send(self.broadcast(root, bytes));
                }
                Call::Barrier(answer) => {
                    let _ = answer.send(self.sum(vec![1f32]).map(|_| ()));
                }
                Call::Finish(answer) => {
                    let _ = answer.send(self.end());
                    return;
                }
            }
        }
        // Nobody is left who could be told.
        let _ = self.end();
    }

    fn id(&self) -> Result<Vec<u8>, DistError> {
        let id = Id::new().map_err(|error| self.gpu.nccl(error))?;
        Ok(id.internal().iter().map(|&byte| byte as u8).collect())
    }

    fn begin(&mut self, rank: usize, size: usize, id: &[u8]) -> Result<(), DistError> {
        let bytes: Vec<c_char> = id.iter().map(|&byte| byte as c_char).collect();
        let bytes = bytes.try_into().map_err(|_| self.gpu.error(format!("{} bytes are no id of NCCL", id.len())))?;
        let begun = Comm::from_rank(self.gpu.stream.clone(), rank, size, Id::uninit(bytes));
        self.comm = Some(begun.map_err(|error| match error.0 {
            ncclResult_t::ncclInvalidUsage => self.gpu.error(
                "ncclInvalidUsage: each process of a machine needs a GPU of its own (NCCL_DEBUG=WARN says more)",
            ),
            _ => self.gpu.nccl(error),
        })?);
        Ok(())
    }

    /// Ends NCCL on this rank, with what is still under way.
    fn end(&mut self) -> Result<(), DistError> {
        let comm = self.comm.take();
        // cudarc panics if NCCL does not end well.
        catch_unwind(AssertUnwindSafe(|| drop(comm))).map_err(|_| self.gpu.error("NCCL did not end well"))
    }

    fn comm(&self) -> Result<&Comm, DistError> {
        self.comm.as_ref().ok_or_else(|| DistError::gone("NCCL has ended"))
    }

    fn sum_small(&mut self, values: &[f64]) -> Result<Vec<f64>, DistError> {
        if size_of_val(values) * self.comm()?.world_size() > MOST_GATHERED {
            return self.sum(values.to_vec());
        }
        let all = self.gather(values)?;
        tree::sum(if all.is_empty() { Vec::new() } else { all.chunks(values.len()).map(<[f64]>::to_vec).collect() })
    }

    fn sum<T: Number>(&mut self, values: Vec<T>) -> Result<Vec<T>, DistError> {
        // CUDA gives no memory of no bytes.
        if values.is_empty() {
            return Ok(values);
        }
        let mut sums = self.gpu.put(&values)?;
        self.comm()?.all_reduce_in_place(&mut sums, &ReduceOp::Sum).map_err(|error| self.gpu.nccl(error))?;
        self.finished()?;
        self.gpu.get(&sums)
    }

    /// What all ranks have, one after the other; they have equally much.
    fn gather<T: Number>(&mut self, own: &[T]) -> Result<Vec<T>, DistError> {
        if own.is_empty() {
            return Ok(Vec::new());
        }
        let len = own.len() * self.comm()?.world_size();
        let (own, mut all) = (self.gpu.put(own)?, self.gpu.room(len)?);
        self.comm()?.all_gather(&own, &mut all).map_err(|error| self.gpu.nccl(error))?;
        self.finished()?;
        self.gpu.get(&all)
    }

    fn all_gather(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>, DistError> {
        let lengths: Vec<usize> = self.gather(&[own.len() as u64])?.into_iter().map(|len| len as usize).collect();
        let mut all: Vec<Vec<u8>> = lengths.iter().map(|&len| Vec::with_capacity(len)).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let block = (BLOCK / lengths.len().max(1)).max(1);
        for start in (0..longest).step_by(block) {
            let part = |len: usize| len.saturating_sub(start).min(block);
            let mut given = own[start.min(own.len())..][..part(own.len())].to_vec();
            // All give as much as the longest.
            given.resize(part(longest), 0);
            let received = self.gather(&given)?;
            for ((all, received), &len) in all.iter_mut().zip(received.chunks(given.len())).zip(&lengths) {
                all.extend_from_slice(&received[..part(len)]);
            }
        }
        Ok(all)
    }

    fn broadcast(&mut self, root: usize, mut bytes: Vec<u8>) -> Result<Vec<u8>, DistError> {
        let len = self.spread(root, &[bytes.len() as u64])?;
        bytes.resize(len.first().map_or(0, |&len| len as usize), 0);
        let mut all = Vec::with_capacity(bytes.len());
        for block in bytes.chunks(BLOCK) {
            all.append(&mut self.spread(root, block)?);
        }
        Ok(all)
    }

    /// What `root` has, on all ranks; they have equally much.
    fn spread<T: Number>(&mut self, root: usize, values: &[T]) -> Result<Vec<T>, DistError> {
        let mut values = self.gpu.put(values)?;
        let root = i32::try_from(root).map_err(|_| self.gpu.error(format!("there is no rank {root}")))?;
        self.comm()?.broadcast_in_place(&mut values, root).map_err(|error| self.gpu.nccl(error))?;
        self.finished()?;
        self.gpu.get(&values)
    }

    /// Waits for all that was asked of the GPU, without keeping a core from those that compute; not if one that it waits for has died.
    fn finished(&mut self) -> Result<(), DistError> {
        let all = self.gpu.stream.record_event(None).map_err(|error| self.gpu.cuda(error))?;
        let began = Instant::now();
        while !all.try_is_complete().map_err(|error| self.gpu.cuda(error))? {
            if let Err(died) = self.lost.check() {
                // What waits on the GPU would keep this process from ending.
                self.end()?;
                return Err(died);
            }
            match began.elapsed() {
                waited if waited < IMPATIENT => std::thread::yield_now(),
                waited => std::thread::sleep((waited / 20).min(Duration::from_millis(5))),
            }
        }
        Ok(())
    }
}

/// One GPU, and the order in which it does what it is asked.
struct Gpu {
    stream: Arc<CudaStream>,
    name: String,
}

impl Gpu {
    fn open(local_rank: usize) -> Result<Self, DistError> {
        let on = |device: &str| {
            let device = device.to_owned();
            move |error| DistError::Nccl { device, what: described(error) }
        };
        let none = || {
            let what = "there is no GPU that CUDA can use".into();
            DistError::Nccl { device: "this machine".into(), what }
        };
        let count = CudaContext::device_count().map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => none(),
            _ => on("this machine")(error),
        })?;
        let index = local_rank.checked_rem(usize::try_from(count).unwrap_or(0)).ok_or_else(none)?;
        let name = format!("GPU {index}");
        let context = CudaContext::new(index).map_err(on(&name))?;
        let name = format!("{name} ({})", context.name().map_err(on(&name))?);
        let stream = context.new_stream().map_err(on(&name))?;
        Ok(Self { stream, name })
    }

    fn error(&self, what: impl Into<String>) -> DistError {
        DistError::Nccl { device: self.name.clone(), what: what.into() }
    }

    fn cuda(&self, error: DriverError) -> DistError {
        self.error(described(error))
    }

    fn nccl(&self, error: NcclError) -> DistError {
        self.error(format!("{:?} (NCCL_DEBUG=WARN says more)", error.0))
    }

    fn room<T: Number>(&self, len: usize) -> Result<CudaSlice<T>, DistError> {
        self.stream.alloc_zeros(len).map_err(|error| self.cuda(error))
    }

    fn put<T: Number>(&self, values: &[T]) -> Result<CudaSlice<T>, DistError> {
        let put = self.stream.clone_htod(values).map_err(|error| self.cuda(error))?;
        // Where host and GPU share their memory a copy may still read the values when it returns.
        self.stream.synchronize().map_err(|error| self.cuda(error))?;
        Ok(put)
    }

    fn get<T: Number>(&self, values: &CudaSlice<T>) -> Result<Vec<T>, DistError> {
        let got = self.stream.clone_dtoh(values).map_err(|error| self.cuda(error))?;
        // It may still be under way.
        self.stream.synchronize().map_err(|error| self.cuda(error))?;
        // What cudarc could not report where it happened.
        self.stream.context().check_err().map_err(|error| self.cuda(error))?;
        Ok(got)
    }
}

fn described(error: DriverError) -> String {
    match error.error_string() {
        Ok(text) => format!("{:?}: {}", error.0, text.to_string_lossy()),
        Err(_) => format!("{:?}", error.0),
    }
}
