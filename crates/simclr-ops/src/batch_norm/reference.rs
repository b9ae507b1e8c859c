//! The definition, in plain loops.

use num_traits::Zero;

use super::{Affine, Mask, Pass};
use crate::element::{Stored, wide};

/// `[Σ x, Σ x²]` per channel.
pub(super) fn moments<S: Stored>(x: &[S], channels: usize) -> Vec<f64> {
    let mut sums = vec![0.0; 2 * channels];
    for (i, &x) in x.iter().enumerate() {
        let c = i % channels;
        let x = wide(x.widen());
        sums[c] += x;
        sums[channels + c] += x * x;
    }
    sums
}

pub(super) fn scale_and_shift<S: Stored>(
    x: &[S],
    residual: Option<&[S]>,
    scale: &[S::Wide],
    shift: &[S::Wide],
    relu: bool,
    y: &mut [S],
) {
    for (i, y) in y.iter_mut().enumerate() {
        let c = i % scale.len();
        let sum = x[i].widen() * scale[c] + shift[c] + residual.map_or(S::Wide::zero(), |r| r[i].widen());
        *y = S::narrow(if relu && sum <= S::Wide::zero() { S::Wide::zero() } else { sum });
    }
}

/// `[Σ g, Σ g · (x - mean)]` per channel, where `g` is what of `grad` passes the ReLU; with `keep` it takes the place of `grad`.
pub(super) fn gradient_sums<S: Stored>(pass: &Pass<'_, S>, grad: &mut [S], keep: bool) -> Vec<f64> {
    let channels = pass.mean.len();
    let mut sums = vec![0.0; 2 * channels];
    for (i, grad) in grad.iter_mut().enumerate() {
        let (c, g) = (i % channels, through_relu(pass, i, *grad));
        sums[c] += wide(g);
        sums[channels + c] += wide(g) * wide(pass.x[i].widen() - pass.mean[c]);
        if keep {
            *grad = S::narrow(g);
        }
    }
    sums
}

/// Puts the gradient of the input in the place of that of the output.
pub(super) fn input_gradient<S: Stored>(pass: &Pass<'_, S>, affine: &Affine<'_, S::Wide>, grad: &mut [S]) {
    for (i, grad) in grad.iter_mut().enumerate() {
        let c = i % pass.mean.len();
        let of_x = (pass.x[i].widen() - pass.mean[c]) * affine.by_x[c];
        *grad = S::narrow(through_relu(pass, i, *grad) * affine.scale[c] + of_x + affine.constant[c]);
    }
}

/// The gradient that reaches the batch norm: nothing where the ReLU gave zero.
fn through_relu<S: Stored>(pass: &Pass<'_, S>, i: usize, grad: S) -> S::Wide {
    let c = i % pass.mean.len();
    let is_zero = match pass.mask {
        Mask::None => false,
        Mask::Output(y) => y[i].widen() <= S::Wide::zero(),
        Mask::Affine { scale, shift } => pass.x[i].widen() * scale[c] + shift[c] <= S::Wide::zero(),
    };
    if is_zero { S::Wide::zero() } else { grad.widen() }
}
