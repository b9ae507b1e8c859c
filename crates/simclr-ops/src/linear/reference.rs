//! The definition, in plain loops.

use crate::element::Element;

/// `y += x · weightᵀ`.
pub(super) fn add_product<T: Element>(x: &[T], weight: &[T], c_in: usize, y: &mut [T]) {
    let c_out = weight.len() / c_in;
    for (i, y) in y.iter_mut().enumerate() {
        let (row, output) = (i / c_out, i % c_out);
        for ci in 0..c_in {
            *y += x[row * c_in + ci] * weight[output * c_in + ci];
        }
    }
}

/// `dx = grad · weight`, `dw = gradᵀ · x`.
pub(super) fn gradients<T: Element>(x: &[T], weight: &[T], grad: &[T], c_out: usize, dx: &mut [T], dw: &mut [T]) {
    let c_in = weight.len() / c_out;
    for (i, &g) in grad.iter().enumerate() {
        let (row, output) = (i / c_out, i % c_out);
        for ci in 0..c_in {
            dx[row * c_in + ci] += g * weight[output * c_in + ci];
            dw[output * c_in + ci] += g * x[row * c_in + ci];
        }
    }
}
