//! The three products of a convolution, on all cores. Everything is cut by shape, so that the bits do not depend on the number of
//! threads.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::Geometry;
use super::correlate::{Lattice, Map, Sight, correlate, pack_backward, pack_forward};
use super::weight_gradient::weight_gradient;
use super::winograd::{Winograd, pays, transform_weights};
use crate::element::Element;
use crate::product::Instructions;
use crate::product::multiply::Dense;
use crate::simd::CHUNK;

/// Writes all of `y`.
pub(super) fn forward<T: Element>(
    instructions: Instructions,
    g: &Geometry,
    x: &[T],
    weight: &[T],
    y: &mut [MaybeUninit<T>],
) {
    assert_eq!(y.len(), g.rows() * g.c_out);
    let outside = vec![T::zero(); g.c_in];
    let map = input_map(g, x, &outside);
    if let Some(winograd) = winograd(instructions, g) {
        let kernel = |ci: usize, co: usize| kernel(&weight[(co * g.c_in + ci) * 9..]);
        return winograd.correlate(map, &transform_weights(g.c_in, g.c_out, kernel), y);
    }
    let weights = pack_forward(weight, [g.c_out, g.c_in, g.k_h * g.k_w]);
    let out = Dense { first: y.as_mut_ptr().cast(), stride: g.c_out };
    // SAFETY: `y` has `c_out` elements for every output pixel.
    unsafe { correlate(instructions, &sight(g, map), &weights, &out) };
}

/// Writes all of `dx`: a correlation of the gradient for every class of pixels that see the same taps.
pub(super) fn backward_input<T: Element>(
    instructions: Instructions,
    g: &Geometry,
    weight: &[T],
    grad: &[T],
    dx: &mut [MaybeUninit<T>],
) {
    assert_eq!(dx.len(), g.n * g.h * g.w * g.c_in);
    let outside = vec![T::zero(); g.c_out];
    let map = output_map(g, grad, &outside);
    if let Some(winograd) = winograd(instructions, g) {
        // The transpose of a convolution with stride 1 is the convolution with the kernel turned by 180 degrees.
        let kernel = |co: usize, ci: usize| turned(kernel(&weight[(co * g.c_in + ci) * 9..]));
        let winograd = Winograd {
            size: [g.h, g.w],
            padding: [2 - g.pad_h, 2 - g.pad_w],
            c_in: g.c_out,
            c_out: g.c_in,
            ..winograd
        };
        return winograd.correlate(map, &transform_weights(g.c_out, g.c_in, kernel), dx);
    }
    if g.stride > g.k_h.min(g.k_w) {
        // There are pixels that no output saw.
        dx.par_chunks_mut(CHUNK).for_each(|dx| dx.fill(MaybeUninit::new(T::zero())));
    }
    let dx = Dense { first: dx.as_mut_ptr().cast(), stride: g.c_in };
    for first in (0..g.stride.min(g.h)).flat_map(|y| (0..g.stride.min(g.w)).map(move |x| [y, x])) {
        // Output pixel o saw input pixel i through tap k if o · stride + k = i + padding.
        let outputs = |place: usize, pad: usize, size: usize| -> Vec<(usize, isize)> {
            let over = |k: usize| (place + pad) as isize - k as isize;
            let taps = (0..size).filter(|&k| over(k).rem_euclid(g.stride as isize) == 0);
            taps.map(|k| (k, over(k).div_euclid(g.stride as isize))).collect()
        };
        let (rows, cols) = (outputs(first[0], g.pad_h, g.k_h), outputs(first[1], g.pad_w, g.k_w));
        let pairs: Vec<_> = rows.iter().flat_map(|&row| cols.iter().map(move |&col| (row, col))).collect();
        if pairs.is_empty() {
            continue;
        }
        let taps: Vec<usize> = pairs.iter().map(|((ky, _), (kx, _))| ky * g.k_w + kx).collect();
        let weights = pack_backward(weight, [g.c_out, g.c_in, g.k_h * g.k_w], &taps);
        let out = Lattice { map: dx, h: g.h, w: g.w, step: g.stride, first };
        let taps = pairs.iter().map(|&((_, row), (_, col))| [row, col]).collect();
        let sight = Sight { map, size: out.size(), pictures: g.n, step: 1, taps };
        // SAFETY: the lattices of the classes have no pixel in common, and each has one for every output pixel of its sight; `dx` has
        // `c_in` elements for each.
        unsafe {
            match g.stride {
                1 => correlate(instructions, &sight, &weights, &dx),
                _ => correlate(instructions, &sight, &weights, &out),
            }
        }
    }
}

/// Writes all of `dw`.
pub(super) fn backward_weight<T: Element>(instructions: Instructions, g: &Geometry, x: &[T], grad: &[T], dw: &mut [T]) {
    let outside = vec![T::zero(); g.c_in.max(g.c_out)];
    let map = input_map(g, x, &outside[..g.c_in]);
    match winograd(instructions, g) {
        Some(winograd) => winograd.weight_gradient(map, output_map(g, grad, &outside[..g.c_out]), dw),
        None => weight_gradient(instructions, g, &sight(g, map), grad, dw),
    }
}

/// What the output pixels see of the map.
fn sight<'a, T>(g: &Geometry, map: Map<'a, T>) -> Sight<'a, T> {
    let from = |k: usize, pad: usize| k as isize - pad as isize;
    let taps = (0..g.k_h).flat_map(|ky| (0..g.k_w).map(move |kx| [from(ky, g.pad_h), from(kx, g.pad_w)])).collect();
    Sight { map, size: [g.h_out, g.w_out], pictures: g.n, step: g.stride, taps }
}

fn input_map<'a, T>(g: &Geometry, pixels: &'a [T], outside: &'a [T]) -> Map<'a, T> {
    Map { pixels, h: g.h, w: g.w, channels: g.c_in, outside }
}

fn output_map<'a, T>(g: &Geometry, pixels: &'a [T], outside: &'a [T]) -> Map<'a, T> {
    Map { pixels, h: g.h_out, w: g.w_out, channels: g.c_out, outside }
}

/// Winograd's form of this convolution, where it pays.
fn winograd(instructions: Instructions, g: &Geometry) -> Option<Winograd> {
    let pays = pays([g.k_h, g.k_w], g.stride, [g.c_in, g.c_out], [g.h_out, g.w_out]) && g.pad_h <= 2 && g.pad_w <= 2;
    pays.then_some(Winograd {
        instructions,
        pictures: g.n,
        size: [g.h_out, g.w_out],
        padding: [g.pad_h, g.pad_w],
        c_in: g.c_in,
        c_out: g.c_out,
    })
}

/// The first nine weights as a kernel.
#[inline(always)]
fn kernel<T: Element>(weights: &[T]) -> [[T; 3]; 3] {
    std::array::from_fn(|y| std::array::from_fn(|x| weights[3 * y + x]))
}

/// A kernel turned by 180 degrees.
#[inline(always)]
fn turned<T: Element>(kernel: [[T; 3]; 3]) -> [[T; 3]; 3] {
    std::array::from_fn(|y| std::array::from_fn(|x| kernel[2 - y][2 - x]))
}
