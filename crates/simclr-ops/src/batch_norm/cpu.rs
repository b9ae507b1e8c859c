//! Passes over all cores, vectorised along the channels.
//!
//! Sums go in two levels: within a block of rows in the element type, around a pivot near the mean so that nothing
//! cancels, then over the blocks in f64, in order. Blocks are cut by shape: the bits do not depend on the number of threads.

use std::mem::MaybeUninit;

use num_traits::{Float, Zero};
use rayon::prelude::*;

use super::{Affine, Pass};
use crate::element::{Element, Stored, wide};
use crate::simd::{CHUNK, simd};

/// Rows that are summed in the element type before f64 takes over: few enough to lose no digits.
const BLOCK_ROWS: usize = 128;

/// `[Σ x, Σ x²]` per channel.
pub(super) fn moments<S: Stored>(x: &[S], channels: usize) -> Vec<f64> {
    let Some(pivot) = x.get(..channels) else { return vec![0.0; 2 * channels] };
    let pivot: Vec<S::Wide> = pivot.iter().map(|x| x.widen()).collect();
    let mut sums = sum_blocks::<S::Wide>(x.len(), channels, |range, sum, square| {
        for row in x[range].chunks_exact(channels) {
            for ((&x, &p), (sum, square)) in row.iter().zip(&pivot).zip(sum.iter_mut().zip(square.iter_mut())) {
                let d = x.widen() - p;
                *sum += d;
                *square += d * d;
            }
        }
    });
    // From the moments around the pivot to those around zero.
    let rows = (x.len() / channels) as f64;
    for (c, &pivot) in pivot.iter().enumerate() {
        let (pivot, sum) = (wide(pivot), sums[c]);
        sums[c] = sum + rows * pivot;
        sums[channels + c] += pivot * (2.0 * sum + rows * pivot);
    }
    sums
}

/// Sums two numbers per channel over all rows; `add` takes a range of elements (whole rows) and two rows of sums.
fn sum_blocks<T: Element>(
    len: usize,
    channels: usize,
    add: impl Fn(std::ops::Range<usize>, &mut [T], &mut [T]) + Sync,
) -> Vec<f64> {
    let rows = len / channels;
    // Some blocks a task: rounding happens per block, scheduling per task.
    let blocks_per_task = rows.div_ceil(BLOCK_ROWS).div_ceil(64).max(1);
    let task_rows = blocks_per_task * BLOCK_ROWS;
    let partial: Vec<Vec<f64>> = (0..rows.div_ceil(task_rows))
        .into_par_iter()
        .map(|task| {
            let mut total = vec![0.0; 2 * channels];
            let mut block = vec![T::zero(); 2 * channels];
            let end = ((task + 1) * task_rows).min(rows);
            for first in (task * task_rows..end).step_by(BLOCK_ROWS) {
                block.fill(T::zero());
                let (one, two) = block.split_at_mut(channels);
                let range = first * channels..(first + BLOCK_ROWS).min(end) * channels;
                simd(
                    #[inline(always)]
                    || add(range, one, two),
                );
                total.iter_mut().zip(&block).for_each(|(total, &sum)| *total += wide(sum));
            }
            total
        })
        .collect();
    let mut sums = vec![0.0; 2 * channels];
    for partial in &partial {
        sums.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
    }
    sums
}

/// Elements of a task of an element-wise pass: whole rows.
fn task(channels: usize) -> usize {
    CHUNK.div_ceil(channels) * channels
}

/// Writes all of `y`.
pub(super) fn scale_and_shift<S: Stored>(
    x: &[S],
    residual: Option<&[S]>,
    scale: &[S::Wide],
    shift: &[S::Wide],
    relu: bool,
    y: &mut [MaybeUninit<S>],
) {
    let channels = scale.len();
    let floor = if relu { S::Wide::zero() } else { S::Wide::neg_infinity() };
    let task = task(channels);
    y.par_chunks_mut(task).zip(x.par_chunks(task)).enumerate().for_each(|(i, (y, x))| {
        let residual = residual.map(|r| &r[i * task..][..x.len()]);
        simd(
            #[inline(always)]
            || match residual {
                None => {
                    for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                        for (((y, &x), &scale), &shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                            y.write(S::narrow(at_least(x.widen() * scale + shift, floor)));
                        }
                    }
                }
                Some(residual) => {
                    let rows = y.chunks_exact_mut(channels).zip(x.chunks_exact(channels));
                    for ((y, x), r) in rows.zip(residual.chunks_exact(channels)) {
                        for ((((y, &x), &scale), &shift), &r) in y.iter_mut().zip(x).zip(scale).zip(shift).zip(r) {
                            y.write(S::narrow(at_least(x.widen() * scale + shift + r.widen(), floor)));
                        }
                    }
                }
            },
        );
    });
}

/// `max(value, floor)` that keeps NaN, so that a broken network is seen; `f32::max` would hide it.
#[inline(always)]
fn at_least<T: Element>(value: T, floor: T) -> T {
    if value <= floor { floor } else { value }
}

/// `[Σ g, Σ g · (x - mean)]` per channel; `g` itself goes to `passed` if that is wanted, all of it.
pub(super) fn gradient_sums<S: Stored>(pass: &Pass<'_, S>, passed: Option<&mut [MaybeUninit<S>]>) -> Vec<f64> {
    let channels = pass.mean.len();
    if let Some(passed) = passed {
        let task = task(channels);
        passed.par_chunks_mut(task).enumerate().for_each(|(i, passed)| {
            let range = i * task..i * task + passed.len();
            let grad = &pass.grad[range.clone()];
            simd(
                #[inline(always)]
                || match pass.y {
                    None => drop(passed.write_copy_of_slice(grad)),
                    Some(y) => {
                        for ((passed, &g), &y) in passed.iter_mut().zip(grad).zip(&y[range]) {
                            passed.write(S::narrow(gate(g, y)));
                        }
                    }
                },
            );
        });
    }
    sum_blocks::<S::Wide>(pass.x.len(), channels, |range, sum, by_x| {
        let rows = pass.x[range.clone()].chunks_exact(channels).zip(pass.grad[range.clone()].chunks_exact(channels));
        match pass.y {
            None => {
                for (x, grad) in rows {
                    for ((((&x, &g), &mean), sum), by_x) in
                        x.iter().zip(grad).zip(pass.mean).zip(sum.iter_mut()).zip(by_x.iter_mut())
                    {
                        let g = g.widen();
                        *sum += g;
                        *by_x += g * (x.widen() - mean);
                    }
                }
            }
            Some(y) => {
                for ((x, grad), y) in rows.zip(y[range].chunks_exact(channels)) {
                    for (((((&x, &g), &y), &mean), sum), by_x) in
                        x.iter().zip(grad).zip(y).zip(pass.mean).zip(sum.iter_mut()).zip(by_x.iter_mut())
                    {
                        let g = gate(g, y);
                        *sum += g;
                        *by_x += g * (x.widen() - mean);
                    }
                }
            }
        }
    })
}

/// Writes all of `dx`.
pub(super) fn input_gradient<S: Stored>(pass: &Pass<'_, S>, affine: &Affine<'_, S::Wide>, dx: &mut [MaybeUninit<S>]) {
    let channels = pass.mean.len();
    let task = task(channels);
    let Affine { scale, by_x, constant } = *affine;
    dx.par_chunks_mut(task).enumerate().for_each(|(i, dx)| {
        let range = i * task..i * task + dx.len();
        let (x, grad) = (&pass.x[range.clone()], &pass.grad[range.clone()]);
        let y = pass.y.map(|y| &y[range]);
        simd(
            #[inline(always)]
            || {
                for (row, dx) in dx.chunks_exact_mut(channels).enumerate() {
                    let row = row * channels..(row + 1) * channels;
                    let (x, grad) = (&x[row.clone()], &grad[row.clone()]);
                    let per_channel = pass.mean.iter().zip(scale).zip(by_x).zip(constant);
                    match y {
                        None => {
                            for (((dx, &x), &g), (((&mean, &scale), &by_x), &constant)) in
                                dx.iter_mut().zip(x).zip(grad).zip(per_channel)
                            {
                                dx.write(S::narrow(g.widen() * scale + (x.widen() - mean) * by_x + constant));
                            }
                        }
                        Some(y) => {
                            for ((((dx, &x), &g), &y), (((&mean, &scale), &by_x), &constant)) in
                                dx.iter_mut().zip(x).zip(grad).zip(&y[row]).zip(per_channel)
                            {
                                dx.write(S::narrow(gate(g, y) * scale + (x.widen() - mean) * by_x + constant));
                            }
                        }
                    }
                }
            },
        );
    });
}

/// The gradient behind a ReLU whose output was `y`.
#[inline(always)]
fn gate<S: Stored>(g: S, y: S) -> S::Wide {
    if y.widen() <= S::Wide::zero() { S::Wide::zero() } else { g.widen() }
}
