//! Three matrix products.

use crate::element::Element;
use crate::product::{Matrix, MatrixMut, product};

/// `y += x · weightᵀ`.
pub(super) fn add_product<T: Element>(x: &[T], weight: &[T], c_in: usize, y: &mut [T]) {
    let (n, c_out) = (x.len() / c_in, weight.len() / c_in);
    product(
        &mut MatrixMut::new(y, n, c_out),
        Matrix::new(x, n, c_in),
        Matrix::new(weight, c_out, c_in).t(),
        true,
        true,
    );
}

/// `dx = grad · weight`, `dw = gradᵀ · x`.
pub(super) fn gradients<T: Element>(x: &[T], weight: &[T], grad: &[T], c_out: usize, dx: &mut [T], dw: &mut [T]) {
    let (n, c_in) = (grad.len() / c_out, weight.len() / c_out);
    let (x, weight, grad) = (Matrix::new(x, n, c_in), Matrix::new(weight, c_out, c_in), Matrix::new(grad, n, c_out));
    product(&mut MatrixMut::new(dx, n, c_in), grad, weight, false, true);
    product(&mut MatrixMut::new(dw, c_out, c_in), grad.t(), x, false, true);
}
