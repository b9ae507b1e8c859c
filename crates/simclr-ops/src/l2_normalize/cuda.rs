//! On a GPU: a warp for every row.

use candle_core::{CudaDevice, DType, Tensor};

use super::OP;
use crate::cuda::{Argument, Grid, Kernels, empty, kernels, pointer};
use crate::error::OpsError;

const KERNELS: Kernels = kernels!("l2_normalize");

/// Warps of a block.
const ROWS: usize = 8;

fn grid(rows: usize) -> Grid {
    Grid { blocks: [rows.div_ceil(ROWS), 1, 1], threads: [32, ROWS], shared: 0 }
}

/// The rows of unit length, and the lengths before, f64.
pub(super) fn forward(device: &CudaDevice, x: &Tensor, [n, d]: [usize; 2]) -> Result<[Tensor; 2], OpsError> {
    // SAFETY: the kernel writes every number of both.
    let [y, norms] = unsafe { [empty((n, d), DType::F32, device)?, empty(n, DType::F64, device)?] };
    let arguments = [
        Argument::Pointer(pointer(OP, "x", x, DType::F32)?),
        Argument::Pointer(pointer(OP, "y", &y, DType::F32)?),
        Argument::Pointer(pointer(OP, "norms", &norms, DType::F64)?),
        Argument::size(n),
        Argument::size(d),
    ];
    // SAFETY: these are the arguments of the kernel.
    unsafe { KERNELS.launch(device, "l2_normalize_forward", grid(n), &arguments) }?;
    Ok([y, norms])
}

/// The gradient of the rows.
pub(super) fn backward(device: &CudaDevice, y: &Tensor, norms: &Tensor, grad: &Tensor) -> Result<Tensor, OpsError> {
    let (n, d) = y.dims2()?;
    // SAFETY: the kernel writes every number.
    let dx = unsafe { empty((n, d), DType::F32, device) }?;
    let arguments = [
        Argument::Pointer(pointer(OP, "y", y, DType::F32)?),
        Argument::Pointer(pointer(OP, "norms", norms, DType::F64)?),
        Argument::Pointer(pointer(OP, "grad", grad, DType::F32)?),
        Argument::Pointer(pointer(OP, "gradient of x", &dx, DType::F32)?),
        Argument::size(n),
        Argument::size(d),
    ];
    // SAFETY: as above.
    unsafe { KERNELS.launch(device, "l2_normalize_backward", grid(n), &arguments) }?;
    Ok(dx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Context;
    use crate::check::{close, gpu, on_both};
    use crate::l2_normalize;

    #[test]
    fn agrees_with_the_cpu_and_zero_and_nan_are_as_there() {
        let Some(device) = gpu() else { return };
        let ctx = Context::new();
        for (n, d) in [(1, 1), (31, 33), (2, 128), (9, 2048)] {
            let [x, x_there] = on_both(&[n, d], 1, DType::F32, &device);
            let [g, g_there] = on_both(&[n, d], 2, DType::F32, &device);
            let (want, saved) = l2_normalize::forward(&ctx, &x).unwrap();
            let (got, there) = l2_normalize::forward(&ctx, &x_there).unwrap();
            close(&got, &want, 1e-7, "rows");
            let want = l2_normalize::backward(&ctx, &saved, &g).unwrap();
            close(&l2_normalize::backward(&ctx, &there, &g_there).unwrap(), &want, 1e-6, "gradient");
        }
        let x = Tensor::new(&[[0f32, 0.0], [f32::NAN, 1.0]], &device).unwrap();
        let (y, saved) = l2_normalize::forward(&ctx, &x).unwrap();
        let dx = l2_normalize::backward(&ctx, &saved, &Tensor::new(&[[1f32, 1.0]; 2], &device).unwrap()).unwrap();
        let (y, dx) = (y.to_vec2::<f32>().unwrap(), dx.to_vec2::<f32>().unwrap());
        assert_eq!((&y[0], &dx[0]), (&vec![0.0, 0.0], &vec![0.0, 0.0]));
        assert!(y[1].iter().all(|v| v.is_nan()));
    }
}
