//! Sums of gradients on a device.

use candle_core::{CudaDevice, Tensor};

use super::{Argument, Grid, Kernels, kernels, pointer, suffix};
use crate::error::OpsError;

const KERNELS: Kernels = kernels!("cuda_elementwise");

/// See [`crate::storage::add_assign`].
pub(crate) fn add_assign(device: &CudaDevice, sum: &Tensor, term: &Tensor) -> Result<(), OpsError> {
    const OP: &str = "sum of gradients";
    if sum.dims() != term.dims() {
        return Err(OpsError::shape(OP, "term", term, format!("{:?}, the shape of the sum", sum.dims())));
    }
    let (dtype, count) = (sum.dtype(), sum.elem_count());
    let kernel = format!("elementwise_add_{}", suffix(OP, "sum", dtype)?);
    let arguments = [
        Argument::Pointer(pointer(OP, "sum", sum, dtype)?),
        Argument::Pointer(pointer(OP, "term", term, dtype)?),
        Argument::Long(count as i64),
    ];
    let packs = count.div_ceil(16 / dtype.size_in_bytes());
    // SAFETY: these are the arguments of the kernel, and both tensors have `count` numbers.
    unsafe { KERNELS.launch(device, &kernel, Grid::one_for_each(packs), &arguments) }
}

#[cfg(test)]
mod tests {
    use crate::check::{MAPS, close, gpu, on_both};
    use crate::storage::add_assign;

    #[test]
    fn sums_are_those_of_the_cpu_wherever_a_tensor_begins() {
        let Some(device) = gpu() else { return };
        for dtype in MAPS {
            for (dims, start) in [([1, 1], 0), ([31, 33], 0), ([31, 33], 1), ([64, 32], 8)] {
                let [sum, sum_there] = on_both(&dims, 1, dtype, &device);
                let [term, term_there] = on_both(&dims, 2, dtype, &device);
                let part = |t: &candle_core::Tensor| t.narrow(0, start, dims[0] - start).unwrap();
                add_assign(&part(&sum), &part(&term)).unwrap();
                add_assign(&part(&sum_there), &part(&term_there)).unwrap();
                // Each sum is rounded once, on the CPU where the sum of f32 is.
                close(&sum_there, &sum.to_dtype(dtype).unwrap(), 0.0, &format!("{dims:?} from {start}, {dtype:?}"));
            }
        }
    }
}
