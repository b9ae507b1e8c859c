//! Passes over all cores, vectorised along the channels.
//!
//! Sums go in two levels: within a block of rows in the element type, around a pivot near the mean so that nothing
//! cancels, then over the blocks in f64, in order. Blocks are cut by shape: the bits do not depend on the number of threads.

use std::mem::MaybeUninit;
use std::ops::Range;

use num_traits::{Float, Zero};
use rayon::prelude::*;

use super::{Affine, Mask, Pass};
use crate::element::{Element, Stored, wide};
use crate::simd::{CHUNK, simd};

/// Rows that are summed in the element type before f64 takes over: few enough to lose no digits.
const BLOCK_ROWS: usize = 128;

/// `[Σ x, Σ x²]` per channel.
pub(super) fn moments<S: Stored>(x: &[S], channels: usize) -> Vec<f64> {
    let Some(pivot) = pivot(x, channels) else { return vec![0.0; 2 * channels] };
    let pivot: Vec<S::Wide> = pivot.iter().map(|x| x.widen()).collect();
    let add = |_, x: &[S], sum: &mut [_], square: &mut [_]| add_moments(x, S::widen, &pivot, sum, square);
    around_zero(sum_blocks(x, x.len(), channels, add), &pivot, x.len() / channels)
}

/// The same on this thread, of what is kept of `x` in a map of `S`.
pub(super) fn moments_when_kept<S: Stored>(x: &[S::Wide], channels: usize) -> Vec<f64> {
    let kept = |x: S::Wide| S::narrow(x).widen();
    let Some(pivot) = pivot(x, channels) else { return vec![0.0; 2 * channels] };
    let pivot: Vec<S::Wide> = pivot.iter().map(|&x| kept(x)).collect();
    let add = |_, x: &[_], sum: &mut [_], square: &mut [_]| add_moments(x, kept, &pivot, sum, square);
    around_zero(sum_part::<&[S::Wide], _>(x, 0, x.len(), channels, add), &pivot, x.len() / channels)
}

/// A row near the mean: not the first, which in a picture is a corner, where a convolution sees more zeros than map. In pictures whose
/// sides are powers of two this one lies inside.
fn pivot<X>(x: &[X], channels: usize) -> Option<&[X]> {
    let rows = x.len() / channels;
    x.chunks_exact(channels).nth(rows / 2 + rows / 64)
}

/// Adds the moments of a block of rows around a pivot.
#[inline(always)]
fn add_moments<X: Copy, T: Element>(x: &[X], number: impl Fn(X) -> T, pivot: &[T], sum: &mut [T], square: &mut [T]) {
    for row in x.chunks_exact(pivot.len()) {
        for ((&x, &pivot), (sum, square)) in row.iter().zip(pivot).zip(sum.iter_mut().zip(square.iter_mut())) {
            let d = number(x) - pivot;
            *sum += d;
            *square += d * d;
        }
    }
}

/// From the moments of some rows around a pivot to those around zero.
fn around_zero<T: Element>(mut sums: Vec<f64>, pivot: &[T], rows: usize) -> Vec<f64> {
    let (rows, channels) = (rows as f64, pivot.len());
    for (c, &pivot) in pivot.iter().enumerate() {
        let (pivot, sum) = (wide(pivot), sums[c]);
        sums[c] = sum + rows * pivot;
        sums[channels + c] += pivot * (2.0 * sum + rows * pivot);
    }
    sums
}

/// Sums two numbers per channel over all rows; `add` takes a range of elements (whole rows), what of `data` is there, and two rows of
/// sums.
fn sum_blocks<D: Data, T: Element>(
    data: D,
    len: usize,
    channels: usize,
    add: impl Fn(Range<usize>, D::Part, &mut [T], &mut [T]) + Sync,
) -> Vec<f64> {
    let rows = len / channels;
    // Some blocks a task: rounding happens per block, scheduling per task.
    let task = rows.div_ceil(BLOCK_ROWS).div_ceil(64).max(1) * BLOCK_ROWS * channels;
    let partial: Vec<Vec<f64>> =
        data.parts(task).enumerate().map(|(i, part)| sum_part::<D, T>(part, i * task, len, channels, &add)).collect();
    let mut sums = vec![0.0; 2 * channels];
    for partial in &partial {
        sums.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
    }
    sums
}

/// Sums the rows of a part, which begins at element `first` of `len`, on this thread.
#[inline(always)]
fn sum_part<D: Data, T: Element>(
    part: D::Part,
    mut first: usize,
    len: usize,
    channels: usize,
    add: impl Fn(Range<usize>, D::Part, &mut [T], &mut [T]),
) -> Vec<f64> {
    let mut total = vec![0.0; 2 * channels];
    let mut block = vec![T::zero(); 2 * channels];
    for part in D::split(part, BLOCK_ROWS * channels) {
        let range = first..(first + BLOCK_ROWS * channels).min(len);
        first = range.end;
        block.fill(T::zero());
        let (one, two) = block.split_at_mut(channels);
        simd(
            #[inline(always)]
            || add(range, part, one, two),
        );
        total.iter_mut().zip(&block).for_each(|(total, &sum)| *total += wide(sum));
    }
    total
}

/// Numbers that are summed, read or changed on the way.
trait Data {
    /// Some of them.
    type Part: Send;

    /// Parts of so many, the last perhaps smaller.
    fn parts(self, len: usize) -> impl IndexedParallelIterator<Item = Self::Part>;

    /// The same on this thread.
    fn split(part: Self::Part, len: usize) -> impl Iterator<Item = Self::Part>;
}

impl<'a, S: Sync> Data for &'a [S] {
    type Part = &'a [S];

    fn parts(self, len: usize) -> impl IndexedParallelIterator<Item = &'a [S]> {
        self.par_chunks(len)
    }

    fn split(part: &'a [S], len: usize) -> impl Iterator<Item = &'a [S]> {
        part.chunks(len)
    }
}

impl<'a, S: Send> Data for &'a mut [S] {
    type Part = &'a mut [S];

    fn parts(self, len: usize) -> impl IndexedParallelIterator<Item = &'a mut [S]> {
        self.par_chunks_mut(len)
    }

    fn split(part: &'a mut [S], len: usize) -> impl Iterator<Item = &'a mut [S]> {
        part.chunks_mut(len)
    }
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

/// Writes all of `y`, on this thread: what [`scale_and_shift`] wrote, widened again.
pub(super) fn make_again<S: Stored>(
    x: &[S],
    scale: &[S::Wide],
    shift: &[S::Wide],
    relu: bool,
    y: &mut [MaybeUninit<S::Wide>],
) {
    let (channels, floor) = (scale.len(), if relu { S::Wide::zero() } else { S::Wide::neg_infinity() });
    simd(
        #[inline(always)]
        || {
            for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for (((y, &x), &scale), &shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                    y.write(S::narrow(at_least(x.widen() * scale + shift, floor)).widen());
                }
            }
        },
    );
}

/// `max(value, floor)` that keeps NaN, so that a broken network is seen; `f32::max` would hide it.
#[inline(always)]
fn at_least<T: Element>(value: T, floor: T) -> T {
    if value <= floor { floor } else { value }
}

/// `[Σ g, Σ g · (x - mean)]` per channel, where `g` is what of `grad` passes the ReLU; with `keep` it takes the place of `grad`.
pub(super) fn gradient_sums<S: Stored>(pass: &Pass<'_, S>, grad: &mut [S], keep: bool) -> Vec<f64> {
    let (mean, channels, len) = (pass.mean, pass.mean.len(), grad.len());
    sum_blocks::<_, S::Wide>(grad, len, channels, |range, grad: &mut [S], sum, by_x| {
        let (x, sums) = (&pass.x[range.clone()], (sum, by_x));
        // A loop for each kind of mask, so that each is one over vectors.
        match pass.mask {
            Mask::None => add_rows(mean, x, grad, sums, false, |_| (mean, mean), |g: S, _, _, _| g.widen()),
            Mask::Output(y) => {
                let y = |row: usize| (&y[range.start + row * channels..][..channels], mean);
                add_rows(mean, x, grad, sums, keep, y, |g, _, y: S, _| gate(g, y.widen()));
            }
            Mask::Affine { scale, shift } => {
                add_rows(
                    mean,
                    x,
                    grad,
                    sums,
                    keep,
                    |_| (scale, shift),
                    |g, x, scale, shift| gate(g, x * scale + shift),
                );
            }
        }
    })
}

/// Adds the rows of a block. `mask(row)` are two numbers a channel, from which `passed(gradient, input, …)` knows what passes the ReLU.
#[inline(always)]
fn add_rows<'a, S: Stored, A: Copy + 'a, B: Copy + 'a>(
    mean: &[S::Wide],
    x: &[S],
    grad: &mut [S],
    (sum, by_x): (&mut [S::Wide], &mut [S::Wide]),
    keep: bool,
    mask: impl Fn(usize) -> (&'a [A], &'a [B]),
    passed: impl Fn(S, S::Wide, A, B) -> S::Wide,
) {
    let channels = mean.len();
    for (row, (x, grad)) in x.chunks_exact(channels).zip(grad.chunks_exact_mut(channels)).enumerate() {
        let (a, b) = mask(row);
        let sums = sum.iter_mut().zip(by_x.iter_mut());
        let numbers = x.iter().zip(grad).zip(mean).zip(a).zip(b).zip(sums);
        // Two loops, as one that writes only sometimes is slower than either.
        if keep {
            for (((((&x, grad), &mean), &a), &b), (sum, by_x)) in numbers {
                let x = x.widen();
                let g = passed(*grad, x, a, b);
                *sum += g;
                *by_x += g * (x - mean);
                *grad = S::narrow(g);
            }
        } else {
            for (((((&x, grad), &mean), &a), &b), (sum, by_x)) in numbers {
                let x = x.widen();
                let g = passed(*grad, x, a, b);
                *sum += g;
                *by_x += g * (x - mean);
            }
        }
    }
}

/// Writes all of `dx`, for a gradient that has passed the ReLU.
pub(super) fn input_gradient<S: Stored>(
    pass: &Pass<'_, S>,
    affine: &Affine<'_, S::Wide>,
    grad: &[S],
    dx: &mut [MaybeUninit<S>],
) {
    let channels = pass.mean.len();
    let task = task(channels);
    dx.par_chunks_mut(task).zip(grad.par_chunks(task)).zip(pass.x.par_chunks(task)).for_each(|((dx, grad), x)| {
        simd(
            #[inline(always)]
            || {
                let rows = dx.chunks_exact_mut(channels).zip(grad.chunks_exact(channels)).zip(x.chunks_exact(channels));
                for ((dx, grad), x) in rows {
                    for (((dx, &g), &x), of_channel) in
                        dx.iter_mut().zip(grad).zip(x).zip(affine.of_channels(pass.mean))
                    {
                        dx.write(S::narrow(input_gradient_of(g.widen(), x.widen(), of_channel)));
                    }
                }
            },
        );
    });
}

/// The same with the ReLU, in the place of `grad`.
pub(super) fn input_gradient_in_place<S: Stored>(pass: &Pass<'_, S>, affine: &Affine<'_, S::Wide>, grad: &mut [S]) {
    let (mean, channels) = (pass.mean, pass.mean.len());
    let task = task(channels);
    grad.par_chunks_mut(task).zip(pass.x.par_chunks(task)).enumerate().for_each(|(i, (grad, x))| {
        simd(
            #[inline(always)]
            || match pass.mask {
                Mask::None => change_rows(mean, affine, x, grad, |_| (mean, mean), |g: S, _, _, _| g.widen()),
                Mask::Output(y) => {
                    let y = |row: usize| (&y[i * task + row * channels..][..channels], mean);
                    change_rows(mean, affine, x, grad, y, |g, _, y: S, _| gate(g, y.widen()));
                }
                Mask::Affine { scale, shift } => {
                    let passed = |g, x, scale, shift| gate(g, x * scale + shift);
                    change_rows(mean, affine, x, grad, |_| (scale, shift), passed);
                }
            },
        );
    });
}

/// As [`add_rows`], but changes the gradients.
#[inline(always)]
fn change_rows<'a, S: Stored, A: Copy + 'a, B: Copy + 'a>(
    mean: &[S::Wide],
    affine: &Affine<'_, S::Wide>,
    x: &[S],
    grad: &mut [S],
    mask: impl Fn(usize) -> (&'a [A], &'a [B]),
    passed: impl Fn(S, S::Wide, A, B) -> S::Wide,
) {
    let channels = mean.len();
    for (row, (x, grad)) in x.chunks_exact(channels).zip(grad.chunks_exact_mut(channels)).enumerate() {
        let (a, b) = mask(row);
        for ((((&x, grad), &a), &b), of_channel) in x.iter().zip(grad).zip(a).zip(b).zip(affine.of_channels(mean)) {
            let x = x.widen();
            let g = passed(*grad, x, a, b);
            *grad = S::narrow(input_gradient_of(g, x, of_channel));
        }
    }
}

impl<T: Element> Affine<'_, T> {
    /// Mean, scale, slope and constant of every channel.
    #[inline(always)]
    fn of_channels(&self, mean: &[T]) -> impl Iterator<Item = (((T, T), T), T)> {
        let numbers = mean.iter().zip(self.scale).zip(self.by_x).zip(self.constant);
        numbers.map(|(((&mean, &scale), &by_x), &constant)| (((mean, scale), by_x), constant))
    }
}

#[inline(always)]
fn input_gradient_of<T: Element>(g: T, x: T, (((mean, scale), by_x), constant): (((T, T), T), T)) -> T {
    g * scale + (x - mean) * by_x + constant
}

/// The gradient behind a ReLU whose input or output was `value`.
#[inline(always)]
fn gate<S: Stored>(g: S, value: S::Wide) -> S::Wide {
    if value <= S::Wide::zero() { S::Wide::zero() } else { g.widen() }
}
