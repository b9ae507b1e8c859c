//! What cuDNN must know of a convolution, and the algorithms that it offers for it.

use std::ffi::{c_int, c_void};

use candle_core::DType;
use candle_core::cuda_backend::cudarc::cudnn::{CudnnError, result, sys};

use super::choice::Offer;
use super::convolution::{Algorithm, Direction, Problem};

/// Room for what cuDNN answers: more algorithms than there are in any direction, each with every way to multiply.
const MOST: usize = 32;

/// What cuDNN must know of a problem.
pub(super) struct Descriptors {
    pub(super) x: TensorForm,
    pub(super) weight: WeightForm,
    pub(super) y: TensorForm,
    pub(super) window: Window,
    /// How it multiplies.
    math: sys::cudnnMathType_t,
}

pub(super) struct TensorForm(pub(super) sys::cudnnTensorDescriptor_t);
pub(super) struct WeightForm(pub(super) sys::cudnnFilterDescriptor_t);
pub(super) struct Window(pub(super) sys::cudnnConvolutionDescriptor_t);

// SAFETY: descriptors are plain memory of cuDNN's that belongs to whoever made them.
unsafe impl Send for Descriptors {}

impl Descriptors {
    pub(super) fn of(problem: &Problem) -> Result<Self, CudnnError> {
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
        Ok(Self { x, weight, y, window, math })
    }

    /// What cuDNN's heuristics offer, best first.
    pub(super) fn offers(
        &self,
        handle: sys::cudnnHandle_t,
        direction: Direction,
    ) -> Result<Vec<Offer<Algorithm>>, CudnnError> {
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
                        milliseconds: None,
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

    /// What cuDNN offers after it has run every algorithm on these numbers of x, weights and y, and the way to multiply that goes with
    /// each. The output of `direction` has any numbers afterwards, the others are only read. The host waits for it.
    ///
    /// # Safety
    /// The pointers must lead to numbers of these forms, that of the workspace to so many bytes.
    pub(super) unsafe fn measured(
        &self,
        handle: sys::cudnnHandle_t,
        direction: Direction,
        [x, weight, y]: [*mut c_void; 3],
        (workspace, bytes): (*mut c_void, usize),
    ) -> Result<Vec<Offer<(Algorithm, sys::cudnnMathType_t)>>, CudnnError> {
        let (mut count, counted) = (0 as c_int, MOST as c_int);
        let (x_form, weight_form, y_form, window) = (self.x.0, self.weight.0, self.y.0, self.window.0);
        macro_rules! measured {
            ($algorithm:ident, $find:path, [$($argument:expr),*]) => {{
                // SAFETY: all-zero bytes are a value of these plain structs; cuDNN writes at most as many as it is told there are.
                let mut found = unsafe { [std::mem::zeroed(); MOST] };
                // SAFETY: handle and descriptors live, and the caller promises the rest.
                unsafe {
                    $find(handle, $($argument),*, counted, &raw mut count, found.as_mut_ptr(), workspace, bytes)
                }
                .result()?;
                let found = found.iter().take(count as usize).map(|found| Offer {
                    algorithm: (Algorithm::$algorithm(found.algo), self.as_exact(found.mathType)),
                    is_supported: found.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS,
                    is_deterministic: found.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC,
                    workspace: found.memory,
                    milliseconds: Some(found.time),
                });
                Ok(found.collect())
            }};
        }
        match direction {
            Direction::Forward => measured!(
                Forward,
                sys::cudnnFindConvolutionForwardAlgorithmEx,
                [x_form, x, weight_form, weight, window, y_form, y]
            ),
            Direction::Input => measured!(
                Input,
                sys::cudnnFindConvolutionBackwardDataAlgorithmEx,
                [weight_form, weight, y_form, y, window, x_form, x]
            ),
            Direction::Weight => measured!(
                Weight,
                sys::cudnnFindConvolutionBackwardFilterAlgorithmEx,
                [x_form, x, y_form, y, window, weight_form, weight]
            ),
        }
    }

    /// How an algorithm is to multiply that was measured as `math`: as exactly as was asked for. Of f32, cuDNN may have measured TF32.
    fn as_exact(&self, math: sys::cudnnMathType_t) -> sys::cudnnMathType_t {
        if self.math == sys::cudnnMathType_t::CUDNN_FMA_MATH { self.math } else { math }
    }

    /// Lets products be those that an algorithm was measured with.
    pub(super) fn multiply_as(&self, math: sys::cudnnMathType_t) -> Result<(), CudnnError> {
        // SAFETY: the descriptor lives.
        unsafe { result::set_convolution_math_type(self.window.0, math) }
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
