//! The one internal matrix product: everything that multiplies, multiplies here.
//!
//! The right factor is packed into panels (`panels.rs`); the left one is read where it lies, so that pixels of a map need no
//! unfolding. A micro-kernel for each instruction set (`kernel.rs`) makes a tile of the product, `multiply.rs` cuts the product into
//! tiles. Work is split over threads by rows and columns of the output only, never along the sums, so the bits do not depend
//! on the number of threads.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod instructions;
pub(crate) mod kernel;
pub(crate) mod multiply;
mod panels;
pub(crate) mod portable;

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::element::Element;
pub use instructions::Instructions;
use kernel::{Left, Pointers};
use multiply::{Dense, LeftFactor, multiply};
pub(crate) use panels::{Lines, Turned};
pub use panels::{Packed, Panels};

/// A read-only matrix: a slice with strides, counted in elements.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// A matrix to write to, like [`Matrix`].
#[derive(Debug)]
pub struct MatrixMut<'a, T> {
    data: &'a mut [MaybeUninit<T>],
    /// Whether there is something to add to.
    is_initialised: bool,
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A row-major `rows × cols` matrix at the start of `data`.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::with_row_stride(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows start `row_stride` elements apart: a block of columns of a wider one.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn with_row_stride(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, cols, row_stride),
            "{rows} x {cols} with rows {row_stride} apart is more than {}",
            data.len()
        );
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose: the same data with rows and columns exchanged.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

impl<'a, T> MatrixMut<'a, T> {
    /// A row-major `rows × cols` matrix at the start of `data`.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self::with_row_stride(data, rows, cols, cols)
    }

    /// A row-major matrix whose rows start `row_stride >= cols` elements apart.
    ///
    /// # Panics
    /// If `data` is too short, or rows overlap.
    pub fn with_row_stride(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        let (data, len) = (data.as_mut_ptr().cast(), data.len());
        // SAFETY: the same memory, borrowed for as long. What is behind a `MatrixMut` is only ever written with numbers.
        let data = unsafe { std::slice::from_raw_parts_mut(data, len) };
        Self { is_initialised: true, ..Self::over(data, rows, cols, row_stride) }
    }

    /// A row-major matrix at the start of memory that nothing was written to yet. [`product`] writes all of it, and cannot
    /// add to it.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn uninitialised(data: &'a mut [MaybeUninit<T>], rows: usize, cols: usize) -> Self {
        Self::over(data, rows, cols, cols)
    }

    fn over(data: &'a mut [MaybeUninit<T>], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, cols, row_stride),
            "{rows} x {cols} with rows {row_stride} apart is more than {}",
            data.len()
        );
        assert!(row_stride >= cols || rows <= 1, "rows of {cols} elements overlap when {row_stride} apart");
        Self { data, is_initialised: false, rows, cols, row_stride }
    }
}

fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    rows == 0
        || cols == 0
        || (rows - 1).checked_mul(row_stride).and_then(|o| o.checked_add(cols)).is_some_and(|end| end <= len)
}

/// `out = a · b`, or `out += a · b` with `accumulate`; on all threads of the current rayon pool with `parallel`.
///
/// # Shapes
/// `a`: `m × k`, `b`: `k × n`, `out`: `m × n`. With `k = 0` the product is zero.
///
/// # Panics
/// If the shapes do not agree, there is nothing to accumulate on, or this CPU has not the `instructions`.
pub fn product<T: Element>(
    instructions: Instructions,
    out: &mut MatrixMut<'_, T>,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    accumulate: bool,
    parallel: bool,
) {
    assert!(a.cols == b.rows, "{} x {} times {} x {}", a.rows, a.cols, b.rows, b.cols);
    let mut panels = Panels::default();
    if b.col_stride == 1 {
        panels.pack_lines(b.data, b.rows, b.cols, b.row_stride, parallel);
    } else {
        panels.pack_columns(b.data, b.rows, b.cols, b.col_stride, parallel);
    }
    product_with_panels(instructions, out, a, &panels, accumulate, parallel);
}

/// [`product`] with a right factor that is packed already, as where it serves several times.
///
/// # Panics
/// As [`product`].
pub fn product_with_panels<T: Element>(
    instructions: Instructions,
    out: &mut MatrixMut<'_, T>,
    a: Matrix<'_, T>,
    b: &Panels<T>,
    accumulate: bool,
    parallel: bool,
) {
    assert!(
        a.rows == out.rows && b.cols() == out.cols && b.lines() == a.cols,
        "{} x {} times {} x {} is not {} x {}",
        a.rows,
        a.cols,
        b.lines(),
        b.cols(),
        out.rows,
        out.cols
    );
    assert!(out.is_initialised || !accumulate, "there is nothing to add to in memory that was not written");
    assert!(instructions.is_available(), "this CPU has no {instructions} instructions");
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    let to = Dense { first: out.data.as_mut_ptr().cast::<T>(), stride: out.row_stride };
    // SAFETY: `Matrix` and `MatrixMut` hold every element that their shape and strides reach (checked when they are made);
    // `out` is borrowed exclusively, so it overlaps neither factor, and its rows do not overlap each other; it is read only if
    // `accumulate`, and then it is initialised; the CPU has the instructions.
    unsafe { multiply(instructions, &a, b, &to, accumulate, parallel) };
}

impl<T: Element> LeftFactor<T> for Matrix<'_, T> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn parts(&self) -> (usize, usize) {
        (1, self.cols)
    }

    fn point(&self, rows: Range<usize>, table: &mut Vec<Pointers<T>>) {
        if self.col_stride == 1 {
            let row = |r: usize| self.data.as_ptr().wrapping_add((rows.start + r).min(rows.end - 1) * self.row_stride);
            table.push(std::array::from_fn(row));
        }
    }

    fn left<'a>(
        &self,
        first_row: usize,
        pointers: &'a [Pointers<T>],
        _: Range<usize>,
        skip: usize,
        len: usize,
    ) -> Left<'a, T> {
        if self.col_stride == 1 {
            return Left::Rows { parts: pointers, skip, len };
        }
        debug_assert!(self.row_stride == 1, "one of the strides of a matrix is 1");
        let first = self.data.as_ptr().wrapping_add(skip * self.col_stride + first_row);
        Left::Columns { first, stride: self.col_stride, len }
    }
}

#[cfg(test)]
mod tests;
