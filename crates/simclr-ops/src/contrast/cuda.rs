//! The loss, and its gradient, by tiles; nothing waits for the device.

use candle_core::{CudaDevice, DType, Tensor};

use super::tiles::{rows, tiles};
use crate::cuda::{Argument, Grid, Kernels, Matrix, empty, kernels, pointer, product};
use crate::error::OpsError;

const OP: &str = "nt_xent";
const KERNELS: Kernels = kernels!("contrast");

/// What [`backward`] needs of the forward pass.
#[derive(Clone, Debug)]
pub struct Saved {
    /// `[2n, d]`, f32.
    unit: Tensor,
    /// Of every row before it was normalised, f64.
    lengths: Tensor,
    /// `log Σ_{k ≠ i} exp(sim_ik / tau)` of every row, f64.
    log_sums: Tensor,
    tau: f64,
}

/// A block for every row.
fn grid(rows: usize) -> Grid {
    Grid { blocks: [rows, 1, 1], threads: [256, 1], shared: 0 }
}

/// NT-Xent of the two views of every picture, see `nt_xent` of `simclr-loss`: the loss, a scalar on the device.
///
/// # Shapes
/// `left`, `right`: `[n, d]`, f32, contiguous, on one GPU, `n` and `d` at least 1.
///
/// # Errors
/// [`OpsError::Shape`] or [`OpsError::Dtype`] if they are not as above.
pub fn forward(left: &Tensor, right: &Tensor, tau: f64) -> Result<(Tensor, Saved), OpsError> {
    let (n, d) = left.dims2()?;
    if right.dims() != left.dims() || n * d == 0 {
        return Err(OpsError::shape(
            OP,
            "right",
            right,
            format!("{:?}, the shape of left, with numbers in it", left.dims()),
        ));
    }
    let (device, count) = (left.device().as_cuda_device()?, 2 * n);
    // SAFETY: the kernels below write every number before it is read.
    let [unit, lengths, log_sums, terms, loss] = unsafe {
        [
            empty((count, d), DType::F32, device)?,
            empty(count, DType::F64, device)?,
            empty(count, DType::F64, device)?,
            empty(count, DType::F64, device)?,
            empty((), DType::F32, device)?,
        ]
    };
    let arguments = [
        Argument::Pointer(pointer(OP, "left", left, DType::F32)?),
        Argument::Pointer(pointer(OP, "right", right, DType::F32)?),
        Argument::Pointer(pointer(OP, "unit rows", &unit, DType::F32)?),
        Argument::Pointer(pointer(OP, "lengths", &lengths, DType::F64)?),
        Argument::size(n),
        Argument::size(d),
    ];
    // SAFETY: these are the arguments of the kernel. So for those that follow.
    unsafe { KERNELS.launch(device, "contrast_unit", grid(count), &arguments) }?;
    let saved = Saved { unit, lengths, log_sums, tau };
    let terms_at = Argument::Pointer(pointer(OP, "terms", &terms, DType::F64)?);
    saved.for_each_tile(device, |tile, first, rows| {
        let arguments = [
            Argument::Pointer(tile.pointer),
            Argument::Pointer(pointer(OP, "log sums", &saved.log_sums, DType::F64)?),
            terms_at,
            Argument::size(first),
            Argument::size(count),
            Argument::Double(tau),
        ];
        // SAFETY: as above.
        unsafe { KERNELS.launch(device, "contrast_terms", grid(rows), &arguments) }
    })?;
    let arguments = [terms_at, Argument::Pointer(pointer(OP, "loss", &loss, DType::F32)?), Argument::size(count)];
    // SAFETY: as above.
    unsafe { KERNELS.launch(device, "contrast_loss", grid(1), &arguments) }?;
    Ok((loss, saved))
}

/// The gradient of [`forward`] for that of the loss, `grad`, a scalar on the device: `[2n, d]`, that of left over that of right.
///
/// # Errors
/// As [`forward`].
pub fn backward(saved: &Saved, grad: &Tensor) -> Result<Tensor, OpsError> {
    let Saved { unit, lengths, log_sums, tau } = saved;
    let (count, d) = unit.dims2()?;
    let device = unit.device().as_cuda_device()?;
    if grad.elem_count() != 1 {
        return Err(OpsError::shape(OP, "grad", grad, "[], one number"));
    }
    // SAFETY: the products write every number.
    let rows_grad = unsafe { empty((count, d), DType::F32, device) }?;
    let (to, from) = (pointer(OP, "gradient", &rows_grad, DType::F32)?, pointer(OP, "unit rows", unit, DType::F32)?);
    let log_sums = Argument::Pointer(pointer(OP, "log sums", log_sums, DType::F64)?);
    saved.for_each_tile(device, |tile, first, rows| {
        let arguments = [
            Argument::Pointer(tile.pointer),
            log_sums,
            Argument::size(first),
            Argument::size(count),
            Argument::Double(*tau),
        ];
        // SAFETY: these are the arguments of the kernel.
        unsafe { KERNELS.launch(device, "contrast_weights", grid(rows), &arguments) }?;
        let part = Matrix::new(to + (first * d * 4) as u64, rows, d);
        // SAFETY: these are the sizes of the tile, of all rows, and of this part of the gradient.
        unsafe { product(device, part, tile, Matrix::new(from, count, d), false) }
    })?;
    let arguments = [
        Argument::Pointer(from),
        Argument::Pointer(pointer(OP, "lengths", lengths, DType::F64)?),
        Argument::Pointer(pointer(OP, "grad", grad, DType::F32)?),
        Argument::Pointer(to),
        Argument::size(count),
        Argument::size(d),
        Argument::Double(*tau),
    ];
    // SAFETY: as above.
    unsafe { KERNELS.launch(device, "contrast_through", grid(count), &arguments) }?;
    Ok(rows_grad)
}

impl Saved {
    /// Makes the similarities of a tile of rows with all rows, and calls `consume(tile, first row, rows)`, for every tile: all lie in the
    /// same memory, one after another.
    fn for_each_tile(
        &self,
        device: &CudaDevice,
        mut consume: impl FnMut(Matrix, usize, usize) -> Result<(), OpsError>,
    ) -> Result<(), OpsError> {
        let (count, d) = self.unit.dims2()?;
        // SAFETY: the product writes what `consume` reads.
        let memory = unsafe { empty((rows(count), count), DType::F32, device) }?;
        let (at, unit) = (pointer(OP, "tile", &memory, DType::F32)?, pointer(OP, "unit rows", &self.unit, DType::F32)?);
        for rows in tiles(count) {
            let tile = Matrix::new(at, rows.len(), count);
            let own = Matrix::new(unit + (rows.start * d * 4) as u64, rows.len(), d);
            // SAFETY: these are the sizes of the tile, of its rows, and of all rows.
            unsafe { product(device, tile, own, Matrix::new(unit, count, d).t(), false) }?;
            consume(tile, rows.start, rows.len())?;
        }
        Ok(())
    }
}
