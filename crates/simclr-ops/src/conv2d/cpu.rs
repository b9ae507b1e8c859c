//! The three products of a convolution, on all cores. Everything is cut by shape, so that the bits do not depend on the number of
//! threads.

use std::mem::MaybeUninit;

use num_traits::Zero;
use rayon::prelude::*;

use super::Geometry;
use super::correlate::{Lattice, Map, Sight, pack_backward, pack_forward};
use super::pictures::{MANY, Pass, Source, sum_over_pictures};
use super::weight_gradient::Direct;
use super::winograd::{PLACES, Winograd, pays, transform_weights};
use crate::batch_norm::Moments;
use crate::element::{Element, Stored};
use crate::product::multiply::{Dense, multiply};
use crate::product::{Instructions, Panels};
use crate::simd::CHUNK;

/// Writes all of `y`; takes its moments where tasks have pictures of their own, which are in their caches then.
pub(super) fn forward<S: Stored>(
    instructions: Instructions,
    g: &Geometry,
    x: &[S],
    weight: &[S::Wide],
    y: &mut [MaybeUninit<S>],
) -> Option<Moments> {
    assert_eq!(y.len(), g.rows() * g.c_out);
    let bank = Bank::<S>::new(instructions, g, weight);
    let correlate = |pictures: usize, x: &[_], y: &mut [_], parallel| bank.correlate(g, pictures, x, y, parallel);
    let pass = pass(g);
    if !pass.is_large() {
        pass.run(x, y, correlate);
        return None;
    }
    let (moments, picture) = (Moments::of(pass.pictures, pass.pixels), pass.pixels * g.c_out);
    pass.run_then(x, y, true, correlate, |first, y| {
        for (i, y) in y.chunks_exact(picture).enumerate() {
            moments.take::<S>(first / picture + i, y);
        }
    });
    Some(moments)
}

/// Weights of a forward pass, packed.
pub(super) struct Bank<S: Stored> {
    instructions: Instructions,
    /// Zeros for all channels of the map.
    outside: Vec<S::Wide>,
    weights: Weights<S::Wide>,
}

enum Weights<T> {
    Direct(Panels<T>),
    Winograd(Winograd, Box<[Panels<T>; PLACES]>),
}

impl<S: Stored> Bank<S> {
    pub(super) fn new(instructions: Instructions, g: &Geometry, weight: &[S::Wide]) -> Self {
        let weights = match winograd(instructions, g) {
            Some(winograd) => {
                let kernel = |ci: usize, co: usize| kernel::<S>(&weight[(co * g.c_in + ci) * 9..]);
                Weights::Winograd(winograd, Box::new(transform_weights(g.c_in, g.c_out, kernel)))
            }
            None => Weights::Direct(pack_forward::<S>(weight, [g.c_out, g.c_in, g.k_h * g.k_w])),
        };
        Self { instructions, outside: vec![S::Wide::zero(); g.c_in], weights }
    }

    /// Writes all of `y`: what `finish(first, y)` makes of the convolution, from element `first` on, whole pixels at a time.
    pub(super) fn forward_then(
        &self,
        g: &Geometry,
        x: &[S],
        y: &mut [MaybeUninit<S>],
        parallel: bool,
        finish: impl Fn(usize, &mut [S::Wide]) + Sync,
    ) {
        assert_eq!(y.len(), g.rows() * g.c_out);
        let correlate = |pictures: usize, x: &[_], y: &mut [_], parallel| self.correlate(g, pictures, x, y, parallel);
        pass(g).run_then(x, y, parallel, correlate, finish);
    }

    /// The output of some pictures; writes all of `y`.
    fn correlate(&self, g: &Geometry, pictures: usize, x: &[S::Wide], y: &mut [MaybeUninit<S::Wide>], parallel: bool) {
        let map = input_map(g, x, &self.outside);
        match &self.weights {
            Weights::Winograd(winograd, weights) => {
                Winograd { pictures, ..*winograd }.correlate(map, &weights[..], y, parallel);
            }
            Weights::Direct(weights) => {
                assert_eq!(y.len(), pictures * g.h_out * g.w_out * g.c_out);
                let out = Dense { first: y.as_mut_ptr().cast(), stride: g.c_out };
                // SAFETY: a sight points to whole pixels of its map or to zeros; `y` has `c_out` elements for every output pixel of
                // these pictures.
                unsafe { multiply(self.instructions, &sight(g, pictures, map), weights, &out, false, parallel) };
            }
        }
    }
}

/// Where the gradient of the input goes.
pub(super) enum To<'a, S> {
    /// All of it is written.
    New(&'a mut [MaybeUninit<S>]),
    /// It is added to what is there.
    Sum(&'a mut [S]),
}

impl<S: Stored> To<'_, S> {
    /// Takes what `work` makes of `grad`, see [`Pass::run`].
    fn take(
        self,
        g: &Geometry,
        grad: &[S],
        work: impl Fn(usize, &[S::Wide], &mut [MaybeUninit<S::Wide>], bool) + Sync,
    ) {
        let (pass, len) = (Pass { pictures: g.n, pixels: g.h * g.w }, g.n * g.h * g.w * g.c_in);
        match self {
            To::New(dx) => {
                assert_eq!(dx.len(), len);
                pass.run(grad, dx, work);
            }
            To::Sum(dx) => {
                assert_eq!(dx.len(), len);
                pass.add(grad, dx, work);
            }
        }
    }
}

/// The gradient of the input: a correlation of the gradient for every class of pixels that see the same taps.
pub(super) fn backward_input<S: Stored>(
    instructions: Instructions,
    g: &Geometry,
    weight: &[S::Wide],
    grad: &[S],
    dx: To<'_, S>,
) {
    let outside = vec![S::Wide::zero(); g.c_out];
    if let Some(winograd) = winograd(instructions, g) {
        // The transpose of a convolution with stride 1 is the convolution with the kernel turned by 180 degrees.
        let kernel = |co: usize, ci: usize| turned(kernel::<S>(&weight[(co * g.c_in + ci) * 9..]));
        let weights = transform_weights(g.c_out, g.c_in, kernel);
        let winograd = Winograd {
            size: [g.h, g.w],
            padding: [2 - g.pad_h, 2 - g.pad_w],
            c_in: g.c_out,
            c_out: g.c_in,
            ..winograd
        };
        return dx.take(g, grad, |pictures, grad, dx, parallel| {
            Winograd { pictures, ..winograd }.correlate(output_map(g, grad, &outside), &weights, dx, parallel);
        });
    }
    let classes: Vec<_> = classes(g)
        .map(|class| (pack_backward::<S>(weight, [g.c_out, g.c_in, g.k_h * g.k_w], &class.taps), class))
        .collect();
    dx.take(g, grad, |pictures, grad, dx, parallel| {
        if g.stride > g.k_h.min(g.k_w) {
            // There are pixels that no output saw.
            let zeros = |dx: &mut [MaybeUninit<S::Wide>]| dx.fill(MaybeUninit::new(S::Wide::zero()));
            if parallel { dx.par_chunks_mut(CHUNK).for_each(zeros) } else { zeros(dx) }
        }
        let dx = Dense { first: dx.as_mut_ptr().cast(), stride: g.c_in };
        for (weights, Class { first, seen, .. }) in &classes {
            let out = Lattice { map: dx, h: g.h, w: g.w, step: g.stride, first: *first };
            let map = output_map(g, grad, &outside);
            let sight = Sight { map, size: out.size(), pictures, step: 1, taps: seen.clone() };
            // SAFETY: a sight points to whole pixels of its map or to zeros; the lattices of the classes have no pixel in common, and
            // each has one for every output pixel of its sight; `dx` has `c_in` elements for each.
            unsafe {
                match g.stride {
                    1 => multiply(instructions, &sight, weights, &dx, false, parallel),
                    _ => multiply(instructions, &sight, weights, &out, false, parallel),
                }
            }
        }
    });
}

/// Writes all of `dw`.
pub(super) fn backward_weight<S: Stored>(
    instructions: Instructions,
    g: &Geometry,
    x: &(impl Source<S> + ?Sized),
    grad: &[S],
    dw: &mut [S::Wide],
) {
    let (in_outside, out_outside) = (vec![S::Wide::zero(); g.c_in], vec![S::Wide::zero(); g.c_out]);
    let pass = pass(g);
    if let Some(winograd) = winograd(instructions, g) {
        let sums = sum_over_pictures(pass, winograd.sums(), MANY, x, grad, |pictures, x, grad, sums, parallel| {
            let (map, grad) = (input_map(g, x, &in_outside), output_map(g, grad, &out_outside));
            Winograd { pictures, ..winograd }.add_weight_gradient(map, grad, sums, parallel);
        });
        return winograd.weight_gradient(&sums, dw);
    }
    let direct = Direct { instructions, c_in: g.c_in, c_out: g.c_out, area: g.k_h * g.k_w };
    let sums = sum_over_pictures(pass, direct.sums(), MANY / 2, x, grad, |pictures, x, grad, sums, parallel| {
        direct.add_weight_gradient(&sight(g, pictures, input_map(g, x, &in_outside)), grad, sums, parallel);
    });
    direct.weight_gradient(&sums, dw);
}

fn pass(g: &Geometry) -> Pass {
    Pass { pictures: g.n, pixels: g.h_out * g.w_out }
}

/// What the output pixels of some pictures see of their map.
fn sight<'a, T>(g: &Geometry, pictures: usize, map: Map<'a, T>) -> Sight<'a, T> {
    let from = |k: usize, pad: usize| k as isize - pad as isize;
    let taps = (0..g.k_h).flat_map(|ky| (0..g.k_w).map(move |kx| [from(ky, g.pad_h), from(kx, g.pad_w)])).collect();
    Sight { map, size: [g.h_out, g.w_out], pictures, step: g.stride, taps }
}

/// Pixels of the input that output pixels saw through the same taps.
struct Class {
    /// Row and column of the first; the others are `stride` apart.
    first: [usize; 2],
    /// The taps, ky · k_w + kx, and for each the output pixel that saw the first through it.
    taps: Vec<usize>,
    seen: Vec<[isize; 2]>,
}

/// All classes of which there are pixels and taps.
fn classes(g: &Geometry) -> impl Iterator<Item = Class> {
    let firsts = (0..g.stride.min(g.h)).flat_map(|y| (0..g.stride.min(g.w)).map(move |x| [y, x]));
    let class = |first: [usize; 2]| {
        // Output pixel o saw input pixel i through tap k if o · stride + k = i + padding.
        let outputs = |place: usize, pad: usize, size: usize| -> Vec<(usize, isize)> {
            let over = |k: usize| (place + pad) as isize - k as isize;
            let taps = (0..size).filter(|&k| over(k).rem_euclid(g.stride as isize) == 0);
            taps.map(|k| (k, over(k).div_euclid(g.stride as isize))).collect()
        };
        let (rows, cols) = (outputs(first[0], g.pad_h, g.k_h), outputs(first[1], g.pad_w, g.k_w));
        let pairs = rows.iter().flat_map(|&row| cols.iter().map(move |&col| (row, col)));
        let (taps, seen) = pairs.map(|((ky, y), (kx, x))| (ky * g.k_w + kx, [y, x])).unzip();
        Class { first, taps, seen }
    };
    firsts.map(class).filter(|class| !class.taps.is_empty())
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

/// The first nine weights as a kernel, rounded as maps are.
#[inline(always)]
fn kernel<S: Stored>(weights: &[S::Wide]) -> [[S::Wide; 3]; 3] {
    std::array::from_fn(|y| std::array::from_fn(|x| S::narrow(weights[3 * y + x]).widen()))
}

/// A kernel turned by 180 degrees.
#[inline(always)]
fn turned<T: Element>(kernel: [[T; 3]; 3]) -> [[T; 3]; 3] {
    std::array::from_fn(|y| std::array::from_fn(|x| kernel[2 - y][2 - x]))
}
