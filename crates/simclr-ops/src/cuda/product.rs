//! Products of matrices by cuBLAS, in f32.

use candle_core::CudaDevice;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};

use crate::error::OpsError;

/// A matrix in the memory of a device, row by row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pub(crate) pointer: u64,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Whether its transpose is meant.
    pub(crate) transposed: bool,
}

impl Matrix {
    pub(crate) fn new(pointer: u64, rows: usize, columns: usize) -> Self {
        Self { pointer, rows, columns, transposed: false }
    }

    /// Its transpose.
    pub(crate) fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Rows and columns of what is meant.
    fn size(self) -> [usize; 2] {
        if self.transposed { [self.columns, self.rows] } else { [self.rows, self.columns] }
    }
}

/// `to = left · right`, or `to += left · right`; factors are not rounded to TF32.
///
/// # Safety
/// The pointers must lead to as many numbers as the matrices have, f32, which live until the product was launched.
pub(crate) unsafe fn product(
    device: &CudaDevice,
    to: Matrix,
    left: Matrix,
    right: Matrix,
    adds: bool,
) -> Result<(), OpsError> {
    let ([m, k], [right_rows, n]) = (left.size(), right.size());
    assert!(k == right_rows && to.size() == [m, n] && !to.transposed, "{left:?} times {right:?} is no {to:?}");
    if m * n == 0 {
        return Ok(());
    }
    // cuBLAS has columns where there are rows here: of the transposes, whose numbers lie in memory as these do, the factors change places.
    let op = |matrix: Matrix| match matrix.transposed {
        true => sys::cublasOperation_t::CUBLAS_OP_T,
        false => sys::cublasOperation_t::CUBLAS_OP_N,
    };
    let (alpha, beta) = (1f32, if adds { 1f32 } else { 0.0 });
    let size = |size: usize| size as std::ffi::c_int;
    let blas = device.cublas_handle();
    // The handle's mode is cuBLAS's default, in which f32 is not rounded; candle asks for TF32 call by call.
    // SAFETY: the handle lives, and the caller promises the matrices.
    unsafe {
        result::sgemm(
            *blas.handle(),
            op(right),
            op(left),
            size(n),
            size(m),
            size(k),
            &raw const alpha,
            right.pointer as *const f32,
            size(right.columns),
            left.pointer as *const f32,
            size(left.columns),
            &raw const beta,
            to.pointer as *mut f32,
            size(to.columns),
        )
    }
    .w()?;
    Ok(())
}
