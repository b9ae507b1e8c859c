//! Three matrix products.

use crate::element::Element;
use crate::product::{Instructions, Matrix, MatrixMut, product};

/// `y += x · weightᵀ`.
pub(super) fn add_product<T: Element>(instructions: Instructions, x: &[T], weight: &[T], c_in: usize, y: &mut [T]) {
    let (n, c_out) = (x.len() / c_in, weight.len() / c_in);
    product(
        instructions,
        &mut MatrixMut::new(y, n, c_out),
        Matrix::new(x, n, c_in),
        Matrix::new(weight, c_out, c_in).t(),
        true,
        true,
    );
}

/// `dx = grad · weight`, `dw = gradᵀ · x`.
pub(super) fn gradients<T: Element>(
    instructions: Instructions,
    x: &[T],
    weight: &[T],
    grad: &[T],
    c_out: usize,
    dx: &mut [T],
    dw: &mut [T],
) {
    let (n, c_in) = (grad.len() / c_out, weight.len() / c_out);
    let (x, weight, grad) = (Matrix::new(x, n, c_in), Matrix::new(weight, c_out, c_in), Matrix::new(grad, n, c_out));
    product(instructions, &mut MatrixMut::new(dx, n, c_in), grad, weight, false, true);
    product(instructions, &mut MatrixMut::new(dw, c_out, c_in), grad.t(), x, false, true);
}
