//! Convolutions by cuDNN: NHWC maps, kernels as `[c_out, k_h, k_w, c_in]`, products of the type of the maps, sums in f32.
//!
//! Of the algorithms that cuDNN's heuristics offer, best first, the first one that gives the same bits every time is taken, once for
//! every problem, or, where that is asked for, the one that cuDNN measures to be the fastest; descriptors and choice are kept. All
//! convolutions of a device work in the same memory, one after another.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cudnn::{CudnnError, result, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{CudaDevice, DType};

use super::choice::{Offer, choose, fastest};
use super::descriptors::Descriptors;
use crate::error::OpsError;

/// Memory that an algorithm may work in where others need less.
const MOST_WORKSPACE: usize = 1 << 30;

/// One convolution, forward or backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Problem {
    pub(crate) dtype: DType,
    /// `[n, h, w, c_in]`.
    pub(crate) x: [usize; 4],
    /// `[c_out, k_h, k_w, c_in]`.
    pub(crate) weight: [usize; 4],
    /// `[n, h_out, w_out, c_out]`.
    pub(crate) y: [usize; 4],
    pub(crate) stride: usize,
    pub(crate) padding: [usize; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Forward,
    Input,
    Weight,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Input(sys::cudnnConvolutionBwdDataAlgo_t),
    Weight(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// cuDNN on one device, with what it has been asked so far.
pub(crate) struct Convolutions {
    handle: sys::cudnnHandle_t,
    device: CudaDevice,
    /// Whether algorithms are measured.
    measures: bool,
    state: Mutex<State>,
}

// SAFETY: cuDNN allows a handle to be used by one thread at a time, which the lock of `state` sees to: it is held in all calls.
unsafe impl Send for Convolutions {}
// SAFETY: as above.
unsafe impl Sync for Convolutions {}

#[derive(Default)]
struct State {
    plans: HashMap<(Problem, Direction), Plan>,
    workspace: Option<CudaSlice<u8>>,
}

/// How a problem is solved.
struct Plan {
    descriptors: Descriptors,
    chosen: Offer<Algorithm>,
}

impl std::fmt::Debug for Convolutions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Convolutions on {:?}", self.device)
    }
}

impl Convolutions {
    pub(crate) fn new(device: &CudaDevice, measures: bool) -> Result<Self, OpsError> {
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let handle = result::create_handle().map_err(|error| failed("a handle", &error))?;
        let convolutions = Self { handle, device: device.clone(), measures, state: Mutex::default() };
        // SAFETY: both live: the device holds the stream.
        unsafe { result::set_stream(handle, stream.cu_stream() as sys::cudaStream_t) }
            .map_err(|error| failed("its stream", &error))?;
        Ok(convolutions)
    }

    /// `y` of `x` and `weight`.
    ///
    /// # Safety
    /// The pointers must lead to the numbers that `problem` says; so for all that follow.
    pub(crate) unsafe fn forward(&self, problem: &Problem, x: u64, weight: u64, y: u64) -> Result<(), OpsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.run(problem, Direction::Forward, [x, weight, y]) }
    }

    /// The gradient of `x` for that of `y`.
    ///
    /// # Safety
    /// As [`Self::forward`].
    pub(crate) unsafe fn backward_input(
        &self,
        problem: &Problem,
        weight: u64,
        dy: u64,
        dx: u64,
    ) -> Result<(), OpsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.run(problem, Direction::Input, [dx, weight, dy]) }
    }

    /// The gradient of `weight` for that of `y`.
    ///
    /// # Safety
    /// As [`Self::forward`].
    pub(crate) unsafe fn backward_weight(&self, problem: &Problem, x: u64, dy: u64, dw: u64) -> Result<(), OpsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.run(problem, Direction::Weight, [x, dw, dy]) }
    }

    unsafe fn run(&self, problem: &Problem, direction: Direction, pointers: [u64; 3]) -> Result<(), OpsError> {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pointers = pointers.map(|pointer| pointer as *mut c_void);
        let plan = match state.plans.entry((*problem, direction)) {
            std::collections::hash_map::Entry::Occupied(plan) => plan.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                // SAFETY: the caller's promise is passed on.
                let plan = unsafe { self.plan((problem, direction), pointers, &mut state.workspace) }?;
                place.insert(plan)
            }
        };
        let workspace = self.room(&mut state.workspace, plan.chosen.workspace)?;
        let (alpha, beta) = (1f32, 0f32);
        let [alpha, beta] = [&raw const alpha, &raw const beta].map(|scale| scale.cast::<c_void>());
        let Descriptors { x: x_form, weight: weight_form, y: y_form, window, .. } = &plan.descriptors;
        let [x, weight, y] = pointers;
        let (handle, bytes) = (self.handle, plan.chosen.workspace);
        // SAFETY: handle and descriptors live, the descriptors are those of the problem, whose numbers the caller promises to be there,
        // and the workspace is as large as the algorithm said.
        let solved = unsafe {
            match plan.chosen.algorithm {
                Algorithm::Forward(algorithm) => result::convolution_forward(
                    handle,
                    alpha,
                    x_form.0,
                    x,
                    weight_form.0,
                    weight,
                    window.0,
                    algorithm,
                    workspace,
                    bytes,
                    beta,
                    y_form.0,
                    y,
                ),
                Algorithm::Input(algorithm) => result::convolution_backward_data(
                    handle,
                    alpha,
                    weight_form.0,
                    weight,
                    y_form.0,
                    y,
                    window.0,
                    algorithm,
                    workspace,
                    bytes,
                    beta,
                    x_form.0,
                    x,
                ),
                Algorithm::Weight(algorithm) => result::convolution_backward_filter(
                    handle,
                    alpha,
                    x_form.0,
                    x,
                    y_form.0,
                    y,
                    window.0,
                    algorithm,
                    workspace,
                    bytes,
                    beta,
                    weight_form.0,
                    weight,
                ),
            }
        };
        solved.map_err(|error| failed(&format!("{direction:?} of {problem:?}"), &error))
    }

    /// How a problem will be solved from now on.
    ///
    /// # Safety
    /// As [`Self::forward`].
    unsafe fn plan(
        &self,
        (problem, direction): (&Problem, Direction),
        pointers: [*mut c_void; 3],
        workspace: &mut Option<CudaSlice<u8>>,
    ) -> Result<Plan, OpsError> {
        let error = |error: CudnnError| failed(&format!("{direction:?} of {problem:?}"), &error);
        let descriptors = Descriptors::of(problem).map_err(error)?;
        let offers = descriptors.offers(self.handle, direction).map_err(error)?;
        if self.measures {
            let sizes = offers.iter().map(|offer| offer.workspace).filter(|&size| size <= MOST_WORKSPACE);
            let bytes = sizes.max().unwrap_or(0);
            let room = (self.room(workspace, bytes)?, bytes);
            // SAFETY: the caller promises the numbers, and the workspace is so large. The output is written over by what is measured, and
            // again by the convolution itself; the inputs are only read.
            let measured = unsafe { descriptors.measured(self.handle, direction, pointers, room) }.map_err(error)?;
            if let Some(fastest) = fastest(&measured, bytes) {
                let Offer { algorithm: (algorithm, math), is_supported, is_deterministic, workspace, milliseconds } =
                    fastest;
                descriptors.multiply_as(math).map_err(error)?;
                let chosen = Offer { algorithm, is_supported, is_deterministic, workspace, milliseconds };
                return Ok(Plan { descriptors, chosen });
            }
        }
        let Some(chosen) = choose(&offers, MOST_WORKSPACE) else {
            return Err(OpsError::Candle(candle_core::Error::Msg(format!(
                "cuDNN has no algorithm that gives the same bits every time for {direction:?} of {problem:?}: measured ones (--fast) may do"
            ))));
        };
        Ok(Plan { descriptors, chosen })
    }

    /// The memory in which algorithms work, of at least so many bytes; none if they need none.
    fn room(&self, workspace: &mut Option<CudaSlice<u8>>, bytes: usize) -> Result<*mut c_void, OpsError> {
        if workspace.as_ref().map_or(0, CudaSlice::len) < bytes {
            // The old one goes back in the order of the stream: whoever works in it has finished by then.
            *workspace = None;
            // SAFETY: algorithms do not read what they have not written there.
            *workspace = Some(unsafe { self.device.alloc::<u8>(bytes) }?);
        }
        let stream = self.device.cuda_stream();
        Ok(workspace.as_ref().map_or(0, |workspace| workspace.device_ptr(&stream).0) as *mut c_void)
    }

    /// What was chosen so far, a line for every problem, in order: equal for two runs that give the same bits. What was measured has
    /// its time, and what gives other bits every time says so.
    pub(crate) fn choices(&self) -> Vec<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines: Vec<String> = state
            .plans
            .iter()
            .map(|((problem, direction), plan)| {
                let Problem { dtype, x, weight, stride, .. } = problem;
                let map = format!("{}x{}x{}x{}", x[0], x[1], x[2], x[3]);
                let kernel = format!("{}x{}x{}", weight[0], weight[1], weight[2]);
                let Offer { algorithm, is_deterministic, milliseconds, .. } = plan.chosen;
                let time = milliseconds.map_or_else(String::new, |time| format!(", measured {time:.3} ms"));
                let bits = if is_deterministic { "" } else { ", not deterministic" };
                format!("{direction:?} {} {map} {kernel} stride {stride}: {algorithm:?}{time}{bits}", dtype.as_str())
            })
            .collect();
        lines.sort();
        lines
    }
}

impl Drop for Convolutions {
    fn drop(&mut self) {
        // SAFETY: it was made by `create_handle` and nobody else has it.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

fn failed(what: &str, error: &CudnnError) -> OpsError {
    OpsError::Candle(candle_core::Error::Msg(format!("cuDNN refused {what}: {error:?}")))
}
