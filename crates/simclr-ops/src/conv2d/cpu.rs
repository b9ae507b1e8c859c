//! Convolution as matrix products, on all cores.
//!
//! A pointwise convolution is one product over all pixels. The others unfold some output pixels at a time into a matrix with
//! one row a pixel and one column a tap (ky, kx, c_in), small enough to stay in a cache, and multiply that. Where there are many
//! pixels each task unfolds and multiplies its own; where there are few, the weights are large, and all cores share one product.
//! Everything is cut by shape, so that the bits do not depend on the number of threads.

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::Geometry;
use crate::element::Element;
use crate::product::{Matrix, MatrixMut, product};
use crate::simd::CHUNK;
use crate::storage::overwrite;

/// Elements of an unfolded chunk that all cores share: large, since the weights pass through memory once a chunk.
const UNFOLDED: usize = 1 << 22;

/// Elements of an unfolded chunk of one task: what fits the cache of a core.
const UNFOLDED_BY_TASK: usize = 1 << 18;

/// From so many output pixels on, tasks work on their own; and so many of them make a task of the gradient of the weights,
/// where a sum is the longer the better.
const MANY: usize = 8192;
const SUMMED_BY_TASK: usize = 4096;

/// Elements of all partial gradients of the weights together, at most.
const PARTIAL: usize = 1 << 24;

/// Writes all of `y`.
pub(super) fn forward<T: Element>(g: &Geometry, x: &[T], weight: &[T], y: &mut [MaybeUninit<T>]) {
    // The product packs rows faster than columns; where there are few pixels, turning large weights costs more than that.
    if g.rows() < MANY {
        return correlate(g, x, Matrix::new(&taps_last(g, weight), g.c_out, g.taps()).t(), y);
    }
    correlate(g, x, Matrix::new(&by_taps(g, weight), g.taps(), g.c_out), y);
}

/// Writes all of `dx`.
pub(super) fn backward_input<T: Element>(g: &Geometry, weight: &[T], grad: &[T], dx: &mut [MaybeUninit<T>]) {
    if g.is_pointwise() {
        let grad = Matrix::new(grad, g.rows(), g.c_out);
        return product(
            &mut MatrixMut::uninitialised(dx, g.rows(), g.c_in),
            grad,
            Matrix::new(weight, g.c_out, g.c_in),
            false,
            true,
        );
    }
    if g.stride == 1 && g.pad_h < g.k_h && g.pad_w < g.k_w {
        // The transpose of a convolution with stride 1 is the convolution with the kernel turned by 180 degrees and
        // the channels exchanged.
        let turned = Geometry {
            h: g.h_out,
            w: g.w_out,
            c_in: g.c_out,
            c_out: g.c_in,
            h_out: g.h,
            w_out: g.w,
            pad_h: g.k_h - 1 - g.pad_h,
            pad_w: g.k_w - 1 - g.pad_w,
            ..*g
        };
        return correlate(&turned, grad, Matrix::new(&turn(g, weight), turned.taps(), g.c_in), dx);
    }
    let weight = taps_last(g, weight);
    let (pixels_out, pixels_in) = (g.h_out * g.w_out, g.h * g.w);
    let pictures = (UNFOLDED / (pixels_out * g.taps()).max(1)).max(1);
    let mut unfolded = Vec::new();
    for (grad, dx) in grad.chunks(pictures * pixels_out * g.c_out).zip(dx.chunks_mut(pictures * pixels_in * g.c_in)) {
        let rows = grad.len() / g.c_out;
        let grad = Matrix::new(grad, rows, g.c_out);
        // SAFETY: the product writes all of its output.
        unsafe {
            overwrite(&mut unfolded, rows * g.taps(), |unfolded| {
                let out = &mut MatrixMut::uninitialised(unfolded, rows, g.taps());
                product(out, grad, Matrix::new(&weight, g.c_out, g.taps()), false, true);
            });
        }
        dx.par_chunks_mut(pixels_in * g.c_in)
            .zip(unfolded.par_chunks(pixels_out * g.taps()))
            .for_each(|(dx, unfolded)| fold(g, unfolded, dx));
    }
}

pub(super) fn backward_weight<T: Element>(g: &Geometry, x: &[T], grad: &[T], dw: &mut [T]) {
    let taps = g.taps();
    let len = taps * g.c_out;
    let tasks = if g.rows() >= MANY { (g.rows() / SUMMED_BY_TASK).min(PARTIAL / len.max(1)).max(1) } else { 1 };
    // Small products are faster when their output is wide: which of the two sides is the longer one is known.
    let is_tall = tasks > 1 && g.c_out > taps;
    let add = |sum: &mut [T], grad: &[T], x: &[T], accumulate: bool, parallel: bool| {
        let rows = grad.len() / g.c_out;
        let (grad, x) = (Matrix::new(grad, rows, g.c_out), Matrix::new(x, rows, taps));
        if is_tall {
            product(&mut MatrixMut::new(sum, taps, g.c_out), x.t(), grad, accumulate, parallel);
        } else {
            product(&mut MatrixMut::new(sum, g.c_out, taps), grad.t(), x, accumulate, parallel);
        }
    };
    if tasks == 1 && g.is_pointwise() {
        return add(dw, grad, x, false, true);
    }
    let mut sums = vec![T::zero(); tasks * len];
    if tasks == 1 {
        for_each_unfolded(g, x, |rows, unfolded| {
            add(&mut sums, &grad[rows.start * g.c_out..rows.end * g.c_out], unfolded, rows.start > 0, true);
        });
    } else {
        let summed_by_task = g.rows().div_ceil(tasks);
        sums.par_chunks_mut(len).enumerate().for_each(|(task, sum)| {
            let rows = (task * summed_by_task).min(g.rows())..((task + 1) * summed_by_task).min(g.rows());
            if g.is_pointwise() {
                let (grad, x) =
                    (&grad[rows.start * g.c_out..rows.end * g.c_out], &x[rows.start * taps..rows.end * taps]);
                return add(sum, grad, x, false, false);
            }
            let (mut unfolded, chunk) = (Vec::new(), rows_by_task(g));
            for start in rows.clone().step_by(chunk) {
                let rows = start..(start + chunk).min(rows.end);
                unfold(g, x, &rows, &mut unfolded);
                add(sum, &grad[rows.start * g.c_out..rows.end * g.c_out], &unfolded, true, false);
            }
        });
        let (sum, others) = sums.split_at_mut(len);
        sum.par_chunks_mut(CHUNK).enumerate().for_each(|(i, sum)| {
            for other in others.chunks_exact(len) {
                sum.iter_mut().zip(&other[i * CHUNK..]).for_each(|(sum, &other)| *sum += other);
            }
        });
    }
    let (area, sum) = (g.k_h * g.k_w, &sums[..len]);
    dw.par_chunks_mut(taps).enumerate().for_each(|(co, dw)| {
        for (i, dw) in dw.iter_mut().enumerate() {
            let tap = i % area * g.c_in + i / area;
            *dw = if is_tall { sum[tap * g.c_out + co] } else { sum[co * taps + tap] };
        }
    });
}

/// Forward convolution with weights as a matrix of a row for every tap (ky, kx, c_in) and `c_out` columns; writes all of `y`.
fn correlate<T: Element>(g: &Geometry, x: &[T], weight: Matrix<'_, T>, y: &mut [MaybeUninit<T>]) {
    let taps = g.taps();
    if g.is_pointwise() {
        let x = Matrix::new(x, g.rows(), g.c_in);
        return product(&mut MatrixMut::uninitialised(y, g.rows(), g.c_out), x, weight, false, true);
    }
    if g.rows() < MANY {
        return for_each_unfolded(g, x, |rows, unfolded| {
            let y = &mut y[rows.start * g.c_out..rows.end * g.c_out];
            let unfolded = Matrix::new(unfolded, rows.len(), taps);
            product(&mut MatrixMut::uninitialised(y, rows.len(), g.c_out), unfolded, weight, false, true);
        });
    }
    let chunk = rows_by_task(g);
    y.par_chunks_mut(chunk * g.c_out).enumerate().for_each_init(Vec::new, |unfolded, (task, y)| {
        let rows = task * chunk..task * chunk + y.len() / g.c_out;
        unfold(g, x, &rows, unfolded);
        let unfolded = Matrix::new(unfolded, rows.len(), taps);
        product(&mut MatrixMut::uninitialised(y, rows.len(), g.c_out), unfolded, weight, false, false);
    });
}

/// Weights from `[c_out, c_in, k_h, k_w]` to `[k_h, k_w, c_in, c_out]`.
fn by_taps<T: Element>(g: &Geometry, weight: &[T]) -> Vec<T> {
    let area = g.k_h * g.k_w;
    let mut out = vec![T::zero(); weight.len()];
    out.par_chunks_mut(g.c_out).enumerate().for_each(|(tap, out)| {
        let place = tap % g.c_in * area + tap / g.c_in;
        out.iter_mut().enumerate().for_each(|(co, out)| *out = weight[co * g.taps() + place]);
    });
    out
}

/// Weights from `[c_out, c_in, k_h, k_w]` to `[c_out, k_h, k_w, c_in]`: a tap's channels lie together, as in the map.
fn taps_last<'a, T: Element>(g: &Geometry, weight: &'a [T]) -> Cow<'a, [T]> {
    let area = g.k_h * g.k_w;
    if area == 1 {
        return Cow::Borrowed(weight);
    }
    let mut out = vec![T::zero(); weight.len()];
    out.par_chunks_mut(g.taps()).zip(weight.par_chunks(g.taps())).for_each(|(out, weight)| {
        for (tap, out) in out.chunks_exact_mut(g.c_in).enumerate() {
            out.iter_mut().enumerate().for_each(|(ci, out)| *out = weight[ci * area + tap]);
        }
    });
    Cow::Owned(out)
}

/// Weights from `[c_out, c_in, k_h, k_w]` to `[k_h, k_w, c_out, c_in]` with the kernel turned by 180 degrees.
fn turn<T: Element>(g: &Geometry, weight: &[T]) -> Vec<T> {
    let area = g.k_h * g.k_w;
    let mut out = vec![T::zero(); weight.len()];
    out.par_chunks_mut(g.c_in).enumerate().for_each(|(tap, out)| {
        let place = tap % g.c_out * g.taps() + area - 1 - tap / g.c_out;
        out.iter_mut().enumerate().for_each(|(ci, out)| *out = weight[place + ci * area]);
    });
    out
}

/// Calls `consume` with the unfolded matrix of one chunk of output pixels after the other.
fn for_each_unfolded<T: Element>(g: &Geometry, x: &[T], mut consume: impl FnMut(Range<usize>, &[T])) {
    let chunk = (UNFOLDED / g.taps()).max(1);
    let mut unfolded = Vec::new();
    for start in (0..g.rows()).step_by(chunk) {
        let rows = start..(start + chunk).min(g.rows());
        let unfold = |unfolded: &mut [MaybeUninit<T>]| {
            // One task a picture row keeps the index arithmetic out of the inner loop's way and is coarse enough to schedule.
            unfolded.par_chunks_mut(g.w_out * g.taps()).enumerate().for_each(|(task, unfolded)| {
                unfold_rows(g, x, rows.start + task * g.w_out, unfolded);
            });
        };
        // SAFETY: the chunks are all of it, and `unfold_rows` writes all of its chunk.
        unsafe { overwrite(&mut unfolded, rows.len() * g.taps(), unfold) };
        consume(rows, &unfolded);
    }
}

/// The unfolded matrix of some output pixels, on this thread.
fn unfold<T: Element>(g: &Geometry, x: &[T], rows: &Range<usize>, unfolded: &mut Vec<T>) {
    // SAFETY: `unfold_rows` writes all of it.
    unsafe { overwrite(unfolded, rows.len() * g.taps(), |unfolded| unfold_rows(g, x, rows.start, unfolded)) };
}

/// The inputs of the output pixels from `first` on, a row each. Writes all of `out`, which holds whole rows.
fn unfold_rows<T: Element>(g: &Geometry, x: &[T], first: usize, out: &mut [MaybeUninit<T>]) {
    for (row, out) in out.chunks_exact_mut(g.taps()).enumerate() {
        unfold_pixel(g, x, first + row, out);
    }
}

/// Output pixels that a task unfolds at a time.
fn rows_by_task(g: &Geometry) -> usize {
    (UNFOLDED_BY_TASK / g.taps()).max(1)
}

/// The inputs of one output pixel, in the order (ky, kx, c_in); zeros outside the map. Writes all of `out`.
fn unfold_pixel<T: Element>(g: &Geometry, x: &[T], pixel: usize, out: &mut [MaybeUninit<T>]) {
    let zero = MaybeUninit::new(T::zero());
    for (taps, place) in out.chunks_exact_mut(g.k_w * g.c_in).zip(kernel_rows(g, pixel)) {
        match place {
            None => taps.fill(zero),
            Some(Place { input, columns }) => {
                let (start, end) = (columns.start * g.c_in, columns.end * g.c_in);
                taps[..start].fill(zero);
                taps[end..].fill(zero);
                taps[start..end].write_copy_of_slice(&x[input * g.c_in..][..end - start]);
            }
        }
    }
}

/// The transpose of unfolding one picture: sums at every input pixel the taps that came from it. Writes all of `dx`.
fn fold<T: Element>(g: &Geometry, unfolded: &[T], dx: &mut [MaybeUninit<T>]) {
    dx.fill(MaybeUninit::new(T::zero()));
    // SAFETY: all of it was just written.
    let dx = unsafe { dx.assume_init_mut() };
    for (pixel, unfolded) in unfolded.chunks_exact(g.taps()).enumerate() {
        for (taps, place) in unfolded.chunks_exact(g.k_w * g.c_in).zip(kernel_rows(g, pixel)) {
            if let Some(Place { input, columns }) = place {
                let taps = &taps[columns.start * g.c_in..columns.end * g.c_in];
                dx[input * g.c_in..].iter_mut().zip(taps).for_each(|(dx, &tap)| *dx += tap);
            }
        }
    }
}

/// Where one row of the kernel lies on the map.
struct Place {
    /// The first input pixel under it, counted over all pictures.
    input: usize,
    /// The columns of the kernel that are inside the map.
    columns: Range<usize>,
}

/// For every row of the kernel at output pixel `pixel`: its place, or none if it lies outside.
fn kernel_rows(g: &Geometry, pixel: usize) -> impl Iterator<Item = Option<Place>> {
    let g = *g;
    let (n, y, x) = (pixel / (g.h_out * g.w_out), pixel / g.w_out % g.h_out, pixel % g.w_out);
    let (top, left) = (y * g.stride, x * g.stride);
    let columns = g.pad_w.saturating_sub(left)..g.k_w.min((g.w + g.pad_w).saturating_sub(left));
    (0..g.k_h).map(move |ky| {
        let inside = (g.pad_h..g.h + g.pad_h).contains(&(top + ky)) && !columns.is_empty();
        inside.then(|| Place {
            input: (n * g.h + top + ky - g.pad_h) * g.w + left + columns.start - g.pad_w,
            columns: columns.clone(),
        })
    })
}
