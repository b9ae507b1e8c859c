//! A batch in groups of pictures: maps of bf16 are widened and rounded group by group, in the cache of a core.

use std::mem::MaybeUninit;

use num_traits::Zero;
use rayon::prelude::*;

use crate::element::Stored;
use crate::simd::CHUNK;
use crate::storage::{narrow, overwrite, widen};

/// From so many output pixels on, tasks work on groups of their own; with fewer, all work on the same. Few pixels have many channels.
const MANY: usize = 8192;

/// Output pixels of a group, at least; and of a task that sums over them, where a sum is the better the longer it is.
const GROUP: usize = 1024;
const SUMMED_BY_TASK: usize = 4096;

/// Elements of all partial sums together, at most.
const PARTIAL: usize = 1 << 22;

/// The pictures of a batch, and how many output pixels each of them has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    pub(super) pictures: usize,
    pub(super) pixels: usize,
}

impl Pass {
    /// Calls `work(pictures, from, to, parallel)` for all pictures, with what is theirs of `from` and `to`: in the type that is computed
    /// with, and with `parallel` if it should use all threads itself. It writes all of its `to`.
    pub(super) fn run<S: Stored>(
        self,
        from: &[S],
        to: &mut [MaybeUninit<S>],
        work: impl Fn(usize, &[S::Wide], &mut [MaybeUninit<S::Wide>], bool) + Sync,
    ) {
        let Self { pictures, .. } = self;
        if pictures == 0 {
            return;
        }
        if let Some(from) = S::as_wide(from) {
            let to = S::as_wide_memory(to).expect("one type is kept and computed with in both");
            return work(pictures, from, to, true);
        }
        let (from_len, to_len) = (from.len() / pictures, to.len() / pictures);
        if !self.is_large() {
            let wide = widened(from);
            let mut result = Vec::new();
            // SAFETY: `work` writes all of it.
            unsafe { overwrite(&mut result, to.len(), |to| work(pictures, &wide, to, true)) };
            to.par_chunks_mut(CHUNK).zip(result.par_chunks(CHUNK)).for_each(|(to, wide)| narrow(wide, to));
            return;
        }
        let group = self.group();
        to.par_chunks_mut(group * to_len).zip(from.par_chunks(group * from_len)).for_each_init(
            || (Vec::new(), Vec::new()),
            |(wide, result), (to, from)| {
                // SAFETY: `widen` and `work` write all of what they are given.
                unsafe {
                    overwrite(wide, from.len(), |wide| widen(from, wide));
                    overwrite(result, to.len(), |to| work(from.len() / from_len, wide, to, false));
                }
                narrow(result, to);
            },
        );
    }

    fn is_large(self) -> bool {
        self.pictures * self.pixels >= MANY
    }

    /// Pictures of a group.
    fn group(self) -> usize {
        GROUP.div_ceil(self.pixels)
    }
}

/// Sums `len` numbers over all pictures: `add(pictures, x, grad, sums, parallel)` adds what some of them contribute.
pub(super) fn sum_over_pictures<S: Stored>(
    pass: Pass,
    len: usize,
    x: &[S],
    grad: &[S],
    add: impl Fn(usize, &[S::Wide], &[S::Wide], &mut [S::Wide], bool) + Sync,
) -> Vec<S::Wide> {
    let Pass { pictures, pixels } = pass;
    let most = (pictures * pixels / SUMMED_BY_TASK).min(PARTIAL / len.max(1)).min(pictures);
    let tasks = if pass.is_large() { most.max(1) } else { 1 };
    let mut sums = vec![S::Wide::zero(); tasks * len];
    if pictures == 0 {
        return sums;
    }
    let (x_len, grad_len) = (x.len() / pictures, grad.len() / pictures);
    if tasks == 1 {
        match (S::as_wide(x), S::as_wide(grad)) {
            (Some(x), Some(grad)) => add(pictures, x, grad, &mut sums, true),
            _ => add(pictures, &widened(x), &widened(grad), &mut sums, true),
        }
        return sums;
    }
    let of_task = pictures.div_ceil(tasks);
    let parts = x.par_chunks(of_task * x_len).zip(grad.par_chunks(of_task * grad_len));
    sums.par_chunks_mut(len).zip(parts).for_each(|(sums, (x, grad))| match (S::as_wide(x), S::as_wide(grad)) {
        (Some(x), Some(grad)) => add(x.len() / x_len, x, grad, sums, false),
        _ => {
            let (mut wide_x, mut wide_grad) = (Vec::new(), Vec::new());
            for (x, grad) in x.chunks(pass.group() * x_len).zip(grad.chunks(pass.group() * grad_len)) {
                // SAFETY: `widen` writes all of what it is given.
                unsafe {
                    overwrite(&mut wide_x, x.len(), |wide| widen(x, wide));
                    overwrite(&mut wide_grad, grad.len(), |wide| widen(grad, wide));
                }
                add(x.len() / x_len, &wide_x, &wide_grad, sums, false);
            }
        }
    });
    let (sum, others) = sums.split_at_mut(len);
    sum.par_chunks_mut(CHUNK).enumerate().for_each(|(i, sum)| {
        for other in others.chunks_exact(len) {
            sum.iter_mut().zip(&other[i * CHUNK..]).for_each(|(sum, &other)| *sum += other);
        }
    });
    sums.truncate(len);
    sums
}

/// All numbers, widened on all threads.
fn widened<S: Stored>(numbers: &[S]) -> Vec<S::Wide> {
    let mut wide = Vec::new();
    let all = |wide: &mut [MaybeUninit<S::Wide>]| {
        wide.par_chunks_mut(CHUNK).zip(numbers.par_chunks(CHUNK)).for_each(|(wide, numbers)| widen(numbers, wide));
    };
    // SAFETY: the chunks are all of it.
    unsafe { overwrite(&mut wide, numbers.len(), all) };
    wide
}
