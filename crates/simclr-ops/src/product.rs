//! The one internal matrix product: everything that multiplies, multiplies here.
//!
//! Today it is the `gemm` crate (AVX-512, AVX2 + FMA, NEON or portable, chosen at run time). It splits work over threads
//! by rows and columns of the output only, never along the inner dimension, so the bits do not depend on the number of threads.

use std::mem::MaybeUninit;

use gemm::Parallelism;

use crate::element::Element;

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
/// If the shapes do not agree, or there is nothing to accumulate on.
pub fn product<T: Element>(
    out: &mut MatrixMut<'_, T>,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    accumulate: bool,
    parallel: bool,
) {
    let (m, n, k) = (out.rows, out.cols, a.cols);
    assert!(
        a.rows == m && b.cols == n && b.rows == k,
        "{} x {} times {} x {} is not {m} x {n}",
        a.rows,
        a.cols,
        b.rows,
        b.cols
    );
    assert!(out.is_initialised || !accumulate, "there is nothing to add to in memory that was not written");
    let parallelism = if parallel { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: `Matrix` and `MatrixMut` hold every element that their shape and strides reach (checked when they are made);
    // `out` is borrowed exclusively, so it overlaps neither input, and its rows do not overlap each other; it is read only if
    // `accumulate`, and then it is initialised.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.data.as_mut_ptr().cast::<T>(),
            1,
            out.row_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            if accumulate { T::one() } else { T::zero() },
            T::one(),
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    fn numbers(seed: u64, len: usize) -> Vec<f64> {
        let mut s = stream(seed, [0; 3]);
        (0..len).map(|_| s.normal()).collect()
    }

    fn naive(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
        let cell = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum();
        (0..m * n).map(|c| cell(c / n, c % n)).collect()
    }

    #[test]
    fn agrees_with_the_definition_on_odd_shapes() {
        for (m, k, n) in [(1, 1, 1), (1, 33, 31), (31, 1, 33), (33, 31, 1), (64, 600, 70), (3, 0, 2)] {
            let (a, b) = (numbers(1, m * k), numbers(2, k * n));
            let want = naive(&a, &b, m, k, n);
            let start = numbers(3, m * n);
            for accumulate in [false, true] {
                let mut got = start.clone();
                product(
                    &mut MatrixMut::new(&mut got, m, n),
                    Matrix::new(&a, m, k),
                    Matrix::new(&b, k, n),
                    accumulate,
                    true,
                );
                for ((g, w), s) in got.iter().zip(&want).zip(&start) {
                    let w = if accumulate { w + s } else { *w };
                    assert!((g - w).abs() < 1e-12 * (k as f64 + 1.0), "{m} {k} {n}: {g} {w}");
                }
            }
        }
    }

    #[test]
    fn transposes_and_strides() {
        let (m, k, n) = (5, 7, 6);
        let (a, b) = (numbers(1, m * k), numbers(2, k * n));
        let want = naive(&a, &b, m, k, n);
        let a_t: Vec<f64> = (0..k * m).map(|c| a[(c % m) * k + c / m]).collect();
        let mut wide = vec![9.0; m * 10];
        product(
            &mut MatrixMut::with_row_stride(&mut wide, m, n, 10),
            Matrix::new(&a_t, k, m).t(),
            Matrix::new(&b, k, n),
            false,
            false,
        );
        for i in 0..m {
            for j in 0..10 {
                let expected = if j < n { want[i * n + j] } else { 9.0 };
                assert!((wide[i * 10 + j] - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let (m, k, n) = (301, 1200, 130);
        let a: Vec<f32> = numbers(1, m * k).iter().map(|&x| x as f32).collect();
        let b: Vec<f32> = numbers(2, k * n).iter().map(|&x| x as f32).collect();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0f32; m * n];
            pool.install(|| {
                product(&mut MatrixMut::new(&mut out, m, n), Matrix::new(&a, m, k), Matrix::new(&b, k, n), false, true)
            });
            out
        };
        let one = run(1);
        for threads in [2, 3, 8] {
            assert_eq!(one, run(threads), "{threads} threads");
        }
    }

    #[test]
    fn all_of_memory_that_was_not_written_is_written() {
        for (m, k, n) in [(1, 1, 1), (33, 31, 7), (3, 0, 2)] {
            let (a, b) = (numbers(1, m * k), numbers(2, k * n));
            // SAFETY: the product writes every element of its output.
            let got = unsafe {
                crate::storage::written(m * n, |out| {
                    let out = &mut MatrixMut::uninitialised(out, m, n);
                    product(out, Matrix::new(&a, m, k), Matrix::new(&b, k, n), false, true);
                })
            };
            for (g, w) in got.iter().zip(naive(&a, &b, m, k, n)) {
                assert!((g - w).abs() < 1e-12 * (k as f64 + 1.0), "{m} {k} {n}: {g} {w}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "nothing to add to")]
    fn what_was_not_written_cannot_be_added_to() {
        let mut memory = [MaybeUninit::<f32>::uninit(); 1];
        let out = &mut MatrixMut::uninitialised(&mut memory, 1, 1);
        product(out, Matrix::new(&[1.0], 1, 1), Matrix::new(&[1.0], 1, 1), true, false);
    }

    #[test]
    #[should_panic(expected = "is more than 5")]
    fn a_short_slice_is_refused() {
        Matrix::new(&[0f32; 5], 2, 3);
    }
}
