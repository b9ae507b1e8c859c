//! Pooling on a device: see [`crate::global_avg_pool`] and [`crate::max_pool2d`].

use candle_core::{CudaDevice, DType, Tensor};

use super::{Argument, Grid, Kernels, empty, kernels, pointer, suffix};
use crate::error::OpsError;
use crate::max_pool2d::MaxPool;

const KERNELS: Kernels = kernels!("cuda_pooling");

/// The mean over all pixels of maps, `[n, h, w, c]` to `[n, c]` in f32.
pub(crate) fn mean_forward(device: &CudaDevice, x: &Tensor) -> Result<Tensor, OpsError> {
    const OP: &str = "global_avg_pool";
    let (n, h, w, c) = x.dims4()?;
    // SAFETY: the kernel writes every number.
    let y = unsafe { empty((n, c), DType::F32, device) }?;
    let arguments = [
        Argument::Pointer(pointer(OP, "x", x, x.dtype())?),
        Argument::Pointer(pointer(OP, "y", &y, DType::F32)?),
        Argument::Long((n * c) as i64),
        Argument::size(c),
        Argument::size(h * w),
    ];
    let kernel = format!("pooling_mean_forward_{}", suffix(OP, "x", x.dtype())?);
    // SAFETY: these are the arguments of the kernel. So for those that follow.
    unsafe { KERNELS.launch(device, &kernel, Grid::one_for_each(n * c), &arguments) }?;
    Ok(y)
}

/// The gradient of [`mean_forward`] for maps of `dtype`.
pub(crate) fn mean_backward(
    device: &CudaDevice,
    grad: &Tensor,
    [n, h, w, c]: [usize; 4],
    dtype: DType,
) -> Result<Tensor, OpsError> {
    const OP: &str = "global_avg_pool";
    // SAFETY: the kernel writes every number.
    let dx = unsafe { empty((n, h, w, c), dtype, device) }?;
    let count = dx.elem_count();
    let arguments = [
        Argument::Pointer(pointer(OP, "grad", grad, DType::F32)?),
        Argument::Pointer(pointer(OP, "gradient of x", &dx, dtype)?),
        Argument::Long(count as i64),
        Argument::size(c),
        Argument::size(h * w),
    ];
    let kernel = format!("pooling_mean_backward_{}", suffix(OP, "x", dtype)?);
    // SAFETY: as above.
    unsafe { KERNELS.launch(device, &kernel, Grid::one_for_each(count), &arguments) }?;
    Ok(dx)
}

/// The greatest number of every window, and which place of its window each is from, u8.
pub(crate) fn max_forward(device: &CudaDevice, x: &Tensor, pool: MaxPool) -> Result<[Tensor; 2], OpsError> {
    const OP: &str = "max_pool2d";
    let (n, h, w, c) = x.dims4()?;
    let [h_out, w_out] = pool.size_out([h, w]);
    let shape = (n, h_out, w_out, c);
    // SAFETY: the kernel writes every number of both.
    let [y, places] = unsafe { [empty(shape, x.dtype(), device)?, empty(shape, DType::U8, device)?] };
    let pointers = [
        Argument::Pointer(pointer(OP, "x", x, x.dtype())?),
        Argument::Pointer(pointer(OP, "y", &y, x.dtype())?),
        Argument::Pointer(pointer(OP, "places", &places, DType::U8)?),
        Argument::Long(y.elem_count() as i64),
    ];
    let arguments = [&pointers[..], &sizes(pool, [h, w, c])].concat();
    let kernel = format!("pooling_max_forward_{}", suffix(OP, "x", x.dtype())?);
    // SAFETY: as above.
    unsafe { KERNELS.launch(device, &kernel, Grid::one_for_each(y.elem_count()), &arguments) }?;
    Ok([y, places])
}

/// The gradient of [`max_forward`].
pub(crate) fn max_backward(
    device: &CudaDevice,
    grad: &Tensor,
    places: &Tensor,
    [n, h, w, c]: [usize; 4],
    pool: MaxPool,
) -> Result<Tensor, OpsError> {
    const OP: &str = "max_pool2d";
    let dtype = grad.dtype();
    // SAFETY: the kernel writes every number.
    let dx = unsafe { empty((n, h, w, c), dtype, device) }?;
    let pointers = [
        Argument::Pointer(pointer(OP, "grad", grad, dtype)?),
        Argument::Pointer(pointer(OP, "places", places, DType::U8)?),
        Argument::Pointer(pointer(OP, "gradient of x", &dx, dtype)?),
        Argument::Long(dx.elem_count() as i64),
    ];
    let arguments = [&pointers[..], &sizes(pool, [h, w, c])].concat();
    let kernel = format!("pooling_max_backward_{}", suffix(OP, "grad", dtype)?);
    // SAFETY: as above.
    unsafe { KERNELS.launch(device, &kernel, Grid::one_for_each(dx.elem_count()), &arguments) }?;
    Ok(dx)
}

fn sizes(pool: MaxPool, [h, w, c]: [usize; 3]) -> [Argument; 8] {
    let MaxPool { kernel, stride, padding } = pool;
    let [h_out, w_out] = pool.size_out([h, w]);
    [c, kernel, stride, padding, h, w, h_out, w_out].map(Argument::size)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Tensor};

    use crate::check::{MAPS, close, gpu, on_both};
    use crate::max_pool2d::MaxPool;
    use crate::{Context, global_avg_pool, max_pool2d};

    const SHAPES: [[usize; 4]; 5] = [[1, 1, 1, 1], [2, 2, 3, 31], [1, 31, 33, 3], [3, 7, 6, 33], [2, 8, 8, 64]];

    #[test]
    fn means_are_those_of_the_cpu() {
        let Some(device) = gpu() else { return };
        let ctx = Context::new();
        for dtype in MAPS {
            for dims in SHAPES {
                let [x, there] = on_both(&dims, 1, dtype, &device);
                let (want, saved) = global_avg_pool::forward(&ctx, &x).unwrap();
                let (got, saved_there) = global_avg_pool::forward(&ctx, &there).unwrap();
                assert_eq!(got.dtype(), DType::F32);
                close(&got, &want, 1e-6, &format!("{dims:?} {dtype:?}"));
                let [grad, grad_there] = on_both(want.dims(), 2, DType::F32, &device);
                let want = global_avg_pool::backward(&ctx, &saved, &grad).unwrap();
                let got = global_avg_pool::backward(&ctx, &saved_there, &grad_there).unwrap();
                assert_eq!(got.dtype(), dtype);
                let tolerance = match dtype {
                    DType::BF16 => 1e-2,
                    DType::F16 => 1e-3,
                    _ => 1e-7,
                };
                close(&got, &want, tolerance, "gradient");
            }
        }
    }

    #[test]
    fn the_greatest_are_those_of_the_cpu() {
        let Some(device) = gpu() else { return };
        let ctx = Context::new();
        let pools = [
            MaxPool::STEM,
            MaxPool { kernel: 2, stride: 2, padding: 1 },
            MaxPool { kernel: 1, stride: 1, padding: 0 },
            MaxPool { kernel: 5, stride: 1, padding: 2 },
            MaxPool { kernel: 2, stride: 3, padding: 1 },
        ];
        for dtype in MAPS {
            for dims in SHAPES {
                for pool in pools {
                    let [x, there] = on_both(&dims, 1, dtype, &device);
                    let (want, saved) = max_pool2d::forward(&ctx, &x, pool).unwrap();
                    let (got, saved_there) = max_pool2d::forward(&ctx, &there, pool).unwrap();
                    close(&got, &want, 0.0, &format!("{dims:?} {pool:?} {dtype:?}"));
                    let [grad, grad_there] = on_both(want.dims(), 2, dtype, &device);
                    let want = max_pool2d::backward(&ctx, &saved, &grad).unwrap();
                    let got = max_pool2d::backward(&ctx, &saved_there, &grad_there).unwrap();
                    let want = want.to_dtype(dtype).unwrap();
                    close(&got, &want, 0.0, &format!("gradient {dims:?} {pool:?} {dtype:?}"));
                }
            }
        }
        let equal = Tensor::new(&[[[[1f32], [1.0]], [[f32::NAN], [2.0]]]], &device).unwrap();
        let (y, _) = max_pool2d::forward(&ctx, &equal, MaxPool::STEM).unwrap();
        assert!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0].is_nan());
    }
}
