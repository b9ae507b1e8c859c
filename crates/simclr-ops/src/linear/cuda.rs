//! On a GPU: products by cuBLAS in f32, bias and its gradient by kernels.

use candle_core::{CudaDevice, DType, Tensor};

use super::{Gradients, OP};
use crate::cuda::{Argument, Grid, Kernels, Matrix, empty, kernels, pointer, product};
use crate::error::OpsError;

const KERNELS: Kernels = kernels!("linear");

/// See [`super::forward`]; the shapes were checked.
pub(super) fn forward(
    device: &CudaDevice,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    [n, c_in, c_out]: [usize; 3],
) -> Result<Tensor, OpsError> {
    let (x_at, w_at) = (pointer(OP, "x", x, DType::F32)?, pointer(OP, "weight", weight, DType::F32)?);
    // SAFETY: the bias and the product, or the product alone, write every number.
    let y = unsafe { empty((n, c_out), DType::F32, device) }?;
    let to = pointer(OP, "y", &y, DType::F32)?;
    if let Some(bias) = bias {
        let arguments = [
            Argument::Pointer(pointer(OP, "bias", bias, DType::F32)?),
            Argument::Pointer(to),
            Argument::Long((n * c_out) as i64),
            Argument::size(c_out),
        ];
        // SAFETY: these are the arguments of the kernel.
        unsafe { KERNELS.launch(device, "linear_bias", Grid::one_for_each(n * c_out), &arguments) }?;
    }
    let (rows, weights) = (Matrix::new(x_at, n, c_in), Matrix::new(w_at, c_out, c_in).t());
    // SAFETY: these are the sizes of the tensors. So for those that follow.
    unsafe { product(device, Matrix::new(to, n, c_out), rows, weights, bias.is_some()) }?;
    Ok(y)
}

/// See [`super::backward`]; the shapes were checked.
pub(super) fn backward(
    device: &CudaDevice,
    x: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
    [n, c_in, c_out]: [usize; 3],
) -> Result<Gradients, OpsError> {
    let rows = Matrix::new(pointer(OP, "x", x, DType::F32)?, n, c_in);
    let weights = Matrix::new(pointer(OP, "weight", weight, DType::F32)?, c_out, c_in);
    let of_rows = Matrix::new(pointer(OP, "grad", grad, DType::F32)?, n, c_out);
    // SAFETY: the products and the kernel write every number.
    let [dx, dw, db] = unsafe {
        [
            empty((n, c_in), DType::F32, device)?,
            empty((c_out, c_in), DType::F32, device)?,
            empty(c_out, DType::F32, device)?,
        ]
    };
    let to_x = Matrix::new(pointer(OP, "gradient of x", &dx, DType::F32)?, n, c_in);
    let to_w = Matrix::new(pointer(OP, "gradient of weight", &dw, DType::F32)?, c_out, c_in);
    // SAFETY: as above.
    unsafe {
        product(device, to_x, of_rows, weights, false)?;
        product(device, to_w, of_rows.t(), rows, false)?;
    }
    let arguments = [
        Argument::Pointer(of_rows.pointer),
        Argument::Pointer(pointer(OP, "gradient of bias", &db, DType::F32)?),
        Argument::size(n),
        Argument::size(c_out),
    ];
    let grid = Grid { blocks: [c_out.div_ceil(32), 1, 1], threads: [32, 8], shared: 0 };
    // SAFETY: these are the arguments of the kernel.
    unsafe { KERNELS.launch(device, "linear_column_sums", grid, &arguments) }?;
    Ok(Gradients { x: dx, weight: dw, bias: db })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Context;
    use crate::check::{close, gpu, on_both};
    use crate::linear;

    #[test]
    fn agrees_with_the_cpu() {
        let Some(device) = gpu() else { return };
        let ctx = Context::new();
        for (n, c_in, c_out) in [(1, 1, 1), (31, 33, 5), (2, 1, 33), (64, 128, 32), (300, 17, 70)] {
            let [x, x_there] = on_both(&[n, c_in], 1, DType::F32, &device);
            let [w, w_there] = on_both(&[c_out, c_in], 2, DType::F32, &device);
            let [b, b_there] = on_both(&[c_out], 3, DType::F32, &device);
            let [g, g_there] = on_both(&[n, c_out], 4, DType::F32, &device);
            for with_bias in [false, true] {
                let (want, saved) = linear::forward(&ctx, &x, &w, with_bias.then_some(&b)).unwrap();
                let (got, there) = linear::forward(&ctx, &x_there, &w_there, with_bias.then_some(&b_there)).unwrap();
                close(&got, &want, 1e-5, &format!("{n} {c_in} {c_out}"));
                let want = linear::backward(&ctx, &saved, &g).unwrap();
                let got = linear::backward(&ctx, &there, &g_there).unwrap();
                close(&got.x, &want.x, 1e-5, "x");
                close(&got.weight, &want.weight, 3e-5, "weight");
                close(&got.bias, &want.bias, 3e-5, "bias");
            }
        }
    }
}
