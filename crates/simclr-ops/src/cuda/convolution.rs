//! Convolutions by cuDNN: NHWC maps, kernels as `[c_out, k_h, k_w, c_in]`, products of the type of the maps, sums in f32.
//!
//! Of the algorithms that cuDNN's heuristics offer, best first, the first one that gives the same bits every time is taken, once for
//! every problem; descriptors and choice are kept. All convolutions of a device work in the same memory, one after another.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cudnn::{CudnnError, result, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{CudaDevice, DType};

use super::choice::{Offer, choose};
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
enum Direction {
    Forward,
    Input,
    Weight,
}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Input(sys::cudnnConvolutionBwdDataAlgo_t),
    Weight(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// cuDNN on one device, with what it has been asked so far.
pub(crate) struct Convolutions {
    handle: sys::cudnnHandle_t,
    device: CudaDevice,
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
    algorithm: Algorithm,
    workspace: usize,
}

impl std::fmt::Debug for Convolutions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Convolutions on {:?}", self.device)
    }
}

impl Convolutions {
    pub(crate) fn new(device: &CudaDevice) -> Result<Self, OpsError> {
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let handle = result::create_handle().map_err(|error| failed("a handle", &error))?;
        let convolutions = Self { handle, device: device.clone(), state: Mutex::default() };
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

    unsafe fn run(&self, problem: &Problem, direction: Direction, [x, weight, y]: [u64; 3]) -> Result<(), OpsError> {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = match state.plans.entry((*problem, direction)) {
            std::collections::hash_map::Entry::Occupied(plan) => plan.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let plan = Plan::of(self.handle, problem, direction)?;
                place.insert(plan)
            }
        };
        let stream = self.device.cuda_stream();
        if state.workspace.as_ref().map_or(0, CudaSlice::len) < plan.workspace {
            // The old one goes back in the order of the stream: whoever works in it has finished by then.
            state.workspace = None;
            // SAFETY: algorithms do not read what they have not written there.
            state.workspace = Some(unsafe { self.device.alloc::<u8>(plan.workspace) }?);
        }
        let workspace = state.workspace.as_ref().map_or(0, |workspace| workspace.device_ptr(&stream).0) as *mut c_void;
        let (alpha, beta) = (1f32, 0f32);
        let [alpha, beta] = [&raw const alpha, &raw const beta].map(|scale| scale.cast::<c_void>());
        let Descriptors { x: x_form, weight: weight_form, y: y_form, window } = &plan.descriptors;
        let [x, weight, y] = [x, weight, y].map(|pointer| pointer as *mut c_void);
        let (handle, bytes) = (self.handle, plan.workspace);
        // SAFETY: handle and descriptors live, the descriptors are those of the problem, whose numbers the caller promises to be there,
        // and the workspace is as large as the algorithm said.
        let solved = unsafe {
            match plan.algorithm {
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

    /// What was chosen so far, a line for every problem, in order: equal for two runs that give the same bits.
    pub(crate) fn choices(&self) -> Vec<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines: Vec<String> = state
            .plans
            .iter()
            .map(|((problem, direction), plan)| {
                let Problem { dtype, x, weight, stride, .. } = problem;
                let map = format!("{}x{}x{}x{}", x[0], x[1], x[2], x[3]);
                let kernel = format!("{}x{}x{}", weight[0], weight[1], weight[2]);
                format!("{direction:?} {} {map} {kernel} stride {stride}: {:?}", dtype.as_str(), plan.algorithm)
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

impl Plan {
    fn of(handle: sys::cudnnHandle_t, problem: &Problem, direction: Direction) -> Result<Self, OpsError> {
        let error = |error: &CudnnError| failed(&format!("{direction:?} of {problem:?}"), error);
        let descriptors = Descriptors::of(problem).map_err(|source| error(&source))?;
        let offers = descriptors.offers(handle, direction).map_err(|source| error(&source))?;
        let Some(Offer { algorithm, workspace, .. }) = choose(&offers, MOST_WORKSPACE) else {
            return Err(OpsError::Candle(candle_core::Error::Msg(format!(
                "cuDNN has no algorithm that gives the same bits every time for {direction:?} of {problem:?}"
            ))));
        };
        Ok(Self { descriptors, algorithm, workspace })
    }
}

/// What cuDNN must know of a problem.
struct Descriptors {
    x: TensorForm,
    weight: WeightForm,
    y: TensorForm,
    window: Window,
}

struct TensorForm(sys::cudnnTensorDescriptor_t);
struct WeightForm(sys::cudnnFilterDescriptor_t);
struct Window(sys::cudnnConvolutionDescriptor_t);

// SAFETY: descriptors are plain memory of cuDNN's that belongs to whoever made them.
unsafe impl Send for Descriptors {}

impl Descriptors {
    fn of(problem: &Problem) -> Result<Self, CudnnError> {
        let dtype = match problem.dtype {
            DType::BF16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            DType::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
            _ => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        };
        // TF32 would round what is multiplied to ten bits; the narrow types are multiplied exactly.
        let math = match problem.dtype {
            DType::BF16 | DType::F16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
            _ => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        };
        let format = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let tensor = |[n, h, w, c]: [usize; 4]| -> Result<TensorForm, CudnnError> {
            let form = TensorForm(result::create_tensor_descriptor()?);
            // SAFETY: the descriptor was just made.
            unsafe { result::set_tensor4d_descriptor(form.0, format, dtype, [n, c, h, w].map(|size| size as c_int)) }?;
            Ok(form)
        };
        let (x, y) = (tensor(problem.x)?, tensor(problem.y)?);
        let weight = WeightForm(result::create_filter_descriptor()?);
        let [c_out, k_h, k_w, c_in] = problem.weight.map(|size| size as c_int);
        // SAFETY: as above.
        unsafe { result::set_filter4d_descriptor(weight.0, dtype, format, [c_out, c_in, k_h, k_w]) }?;
        let window = Window(result::create_convolution_descriptor()?);
        let ([pad_h, pad_w], stride) = (problem.padding.map(|padding| padding as c_int), problem.stride as c_int);
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let sums = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        // SAFETY: as above.
        unsafe {
            result::set_convolution2d_descriptor(window.0, pad_h, pad_w, stride, stride, 1, 1, mode, sums)?;
            result::set_convolution_math_type(window.0, math)?;
        }
        Ok(Self { x, weight, y, window })
    }

    /// What cuDNN's heuristics offer, best first.
    fn offers(&self, handle: sys::cudnnHandle_t, direction: Direction) -> Result<Vec<Offer<Algorithm>>, CudnnError> {
        // More than there are in any direction.
        const MOST: usize = 16;
        let (mut count, counted) = (0 as c_int, MOST as c_int);
        let (x, weight, y, window) = (self.x.0, self.weight.0, self.y.0, self.window.0);
        macro_rules! offers {
            ($algorithm:ident, $ask:path, $size:path, [$($descriptor:expr),*]) => {{
                // SAFETY: all-zero bytes are a value of these plain structs; cuDNN writes at most as many as it is told there are.
                let mut found = unsafe { [std::mem::zeroed(); MOST] };
                // SAFETY: handle and descriptors live.
                unsafe { $ask(handle, $($descriptor),*, counted, &raw mut count, found.as_mut_ptr()) }?;
                let found = found.iter().take(count as usize).map(|found| {
                    let is_supported = found.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS;
                    // SAFETY: as above.
                    let size = is_supported.then(|| unsafe { $size(handle, $($descriptor),*, found.algo) }.ok()).flatten();
                    Offer {
                        algorithm: Algorithm::$algorithm(found.algo),
                        is_supported: size.is_some(),
                        is_deterministic: found.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC,
                        workspace: size.unwrap_or(0),
                    }
                });
                Ok(found.collect())
            }};
        }
        match direction {
            Direction::Forward => offers!(
                Forward,
                result::get_convolution_forward_algorithm,
                result::get_convolution_forward_workspace_size,
                [x, weight, window, y]
            ),
            Direction::Input => offers!(
                Input,
                result::get_convolution_backward_data_algorithm,
                result::get_convolution_backward_data_workspace_size,
                [weight, y, window, x]
            ),
            Direction::Weight => offers!(
                Weight,
                result::get_convolution_backward_filter_algorithm,
                result::get_convolution_backward_filter_workspace_size,
                [x, y, window, weight]
            ),
        }
    }
}

impl Drop for TensorForm {
    fn drop(&mut self) {
        // SAFETY: it was made by cuDNN and nobody else has it; so for those that follow.
        let _ = unsafe { result::destroy_tensor_descriptor(self.0) };
    }
}

impl Drop for WeightForm {
    fn drop(&mut self) {
        // SAFETY: as above.
        let _ = unsafe { result::destroy_filter_descriptor(self.0) };
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: as above.
        let _ = unsafe { result::destroy_convolution_descriptor(self.0) };
    }
}

fn failed(what: &str, error: &CudnnError) -> OpsError {
    OpsError::Candle(candle_core::Error::Msg(format!("cuDNN refused {what}: {error:?}")))
}
