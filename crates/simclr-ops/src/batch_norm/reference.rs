//! The definition, in plain loops.

use super::{Affine, Pass};
use crate::element::{Element, wide};

/// `[Σ x, Σ x²]` per channel.
pub(super) fn moments<T: Element>(x: &[T], channels: usize) -> Vec<f64> {
    let mut sums = vec![0.0; 2 * channels];
    for (i, &x) in x.iter().enumerate() {
        let c = i % channels;
        sums[c] += wide(x);
        sums[channels + c] += wide(x) * wide(x);
    }
    sums
}

pub(super) fn scale_and_shift<T: Element>(
    x: &[T],
    residual: Option<&[T]>,
    scale: &[T],
    shift: &[T],
    relu: bool,
    y: &mut [T],
) {
    for (i, y) in y.iter_mut().enumerate() {
        let c = i % scale.len();
        let sum = x[i] * scale[c] + shift[c] + residual.map_or(T::zero(), |r| r[i]);
        *y = if relu && sum <= T::zero() { T::zero() } else { sum };
    }
}

/// `[Σ g, Σ g · (x - mean)]` per channel; `g` itself goes to `passed` if that is wanted.
pub(super) fn gradient_sums<T: Element>(pass: &Pass<'_, T>, mut passed: Option<&mut [T]>) -> Vec<f64> {
    let channels = pass.mean.len();
    let mut sums = vec![0.0; 2 * channels];
    for i in 0..pass.x.len() {
        let (c, g) = (i % channels, through_relu(pass, i));
        sums[c] += wide(g);
        sums[channels + c] += wide(g) * wide(pass.x[i] - pass.mean[c]);
        if let Some(passed) = &mut passed {
            passed[i] = g;
        }
    }
    sums
}

pub(super) fn input_gradient<T: Element>(pass: &Pass<'_, T>, affine: &Affine<'_, T>, dx: &mut [T]) {
    for (i, dx) in dx.iter_mut().enumerate() {
        let c = i % pass.mean.len();
        *dx =
            through_relu(pass, i) * affine.scale[c] + (pass.x[i] - pass.mean[c]) * affine.by_x[c] + affine.constant[c];
    }
}

/// The gradient that reaches the batch norm: nothing where the ReLU gave zero.
fn through_relu<T: Element>(pass: &Pass<'_, T>, i: usize) -> T {
    match pass.y {
        Some(y) if y[i] <= T::zero() => T::zero(),
        _ => pass.grad[i],
    }
}
