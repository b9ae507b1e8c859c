//! The definition, in plain loops.

use super::Geometry;
use crate::element::{Element, Stored};

/// Calls `visit(output pixel, input pixel, tap)` for every kernel position of every output that lies inside the map.
fn for_each_tap(g: &Geometry, mut visit: impl FnMut(usize, usize, usize)) {
    for n in 0..g.n {
        for (oy, ox) in (0..g.h_out).flat_map(|oy| (0..g.w_out).map(move |ox| (oy, ox))) {
            for (ky, kx) in (0..g.k_h).flat_map(|ky| (0..g.k_w).map(move |kx| (ky, kx))) {
                let (iy, ix) = (oy * g.stride + ky, ox * g.stride + kx);
                let inside = (g.pad_h..g.h + g.pad_h).contains(&iy) && (g.pad_w..g.w + g.pad_w).contains(&ix);
                if inside {
                    let input = (n * g.h + iy - g.pad_h) * g.w + ix - g.pad_w;
                    visit((n * g.h_out + oy) * g.w_out + ox, input, ky * g.k_w + kx);
                }
            }
        }
    }
}

/// Index of a weight in `[c_out, c_in, k_h, k_w]`.
fn weight_index(g: &Geometry, c_out: usize, c_in: usize, tap: usize) -> usize {
    (c_out * g.c_in + c_in) * g.k_h * g.k_w + tap
}

pub(super) fn forward<T: Element>(g: &Geometry, x: &[T], weight: &[T], y: &mut [T]) {
    for_each_tap(g, |output, input, tap| {
        for co in 0..g.c_out {
            for ci in 0..g.c_in {
                y[output * g.c_out + co] += x[input * g.c_in + ci] * weight[weight_index(g, co, ci, tap)];
            }
        }
    });
}

pub(super) fn backward_input<T: Element>(g: &Geometry, weight: &[T], grad: &[T], dx: &mut [T]) {
    for_each_tap(g, |output, input, tap| {
        for co in 0..g.c_out {
            for ci in 0..g.c_in {
                dx[input * g.c_in + ci] += grad[output * g.c_out + co] * weight[weight_index(g, co, ci, tap)];
            }
        }
    });
}

pub(super) fn backward_weight<T: Element>(g: &Geometry, x: &[T], grad: &[T], dw: &mut [T]) {
    for_each_tap(g, |output, input, tap| {
        for co in 0..g.c_out {
            for ci in 0..g.c_in {
                dw[weight_index(g, co, ci, tap)] += grad[output * g.c_out + co] * x[input * g.c_in + ci];
            }
        }
    });
}

/// What is computed with.
pub(super) fn widened<S: Stored>(numbers: &[S]) -> Vec<S::Wide> {
    numbers.iter().map(|number| number.widen()).collect()
}

/// Parameters, rounded as the maps are that they meet.
pub(super) fn rounded<S: Stored>(numbers: &[S::Wide]) -> Vec<S::Wide> {
    numbers.iter().map(|&number| S::narrow(number).widen()).collect()
}
