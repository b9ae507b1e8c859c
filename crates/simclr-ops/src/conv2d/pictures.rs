//! A batch in groups of pictures: maps of bf16 are widened and rounded group by group, in the cache of a core.

use std::mem::MaybeUninit;

use num_traits::Zero;
use rayon::prelude::*;

use crate::element::Stored;
use crate::simd::CHUNK;
use crate::storage::{narrow, overwrite, widen};

/// From so many output pixels on, tasks work on groups of their own; with fewer, all work on the same. Few pixels have many channels.
pub(super) const MANY: usize = 8192;

/// Output pixels of a group, at least; and of a task that sums over them, where a sum is the better the longer it is.
const GROUP: usize = 1024;
const SUMMED_BY_TASK: usize = 4096;
const FEWEST_TASKS: usize = 4;

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
        if let (1.., Some(from)) = (self.pictures, S::as_wide(from)) {
            let to = S::as_wide_memory(to).expect("one type is kept and computed with in both");
            return work(self.pictures, from, to, true);
        }
        self.run_then(from, to, work, |_, _| {});
    }

    /// The same in groups of pictures, for each of which `finish(first, to)` is called while its results, from element `first` on, are
    /// still in a cache.
    pub(super) fn run_then<S: Stored>(
        self,
        from: &[S],
        to: &mut [MaybeUninit<S>],
        work: impl Fn(usize, &[S::Wide], &mut [MaybeUninit<S::Wide>], bool) + Sync,
        finish: impl Fn(usize, &mut [S::Wide]) + Sync,
    ) {
        let Self { pictures, .. } = self;
        if pictures == 0 {
            return;
        }
        let (from_len, to_len) = (from.len() / pictures, to.len() / pictures);
        let one = |first: usize, pictures: usize, from: &[S::Wide], to: &mut [MaybeUninit<S::Wide>], parallel: bool| {
            work(pictures, from, to, parallel);
            // SAFETY: `work` wrote all of it.
            let to = unsafe { to.assume_init_mut() };
            if parallel {
                // Whole pixels: pieces of a picture that are not would begin at another channel.
                let piece = to_len / self.pixels * CHUNK.div_ceil(to_len / self.pixels);
                to.par_chunks_mut(piece).enumerate().for_each(|(i, to)| finish(first + i * piece, to));
            } else {
                finish(first, to);
            }
        };
        let group = if self.is_large() { self.group() } else { pictures };
        let parallel = !self.is_large();
        let groups = to.par_chunks_mut(group * to_len).zip(from.par_chunks(group * from_len)).enumerate();
        groups.for_each_init(
            || (Vec::new(), Vec::new()),
            |(wide, result), (i, (to, from))| {
                let (first, pictures) = (i * group * to_len, from.len() / from_len);
                if let Some(from) = S::as_wide(from) {
                    let to = S::as_wide_memory(to).expect("one type is kept and computed with in both");
                    return one(first, pictures, from, to, parallel);
                }
                // SAFETY: `widen` and `work` write all of what they are given.
                unsafe {
                    overwrite(wide, from.len(), |wide| in_chunks(from, wide, parallel, widen));
                    overwrite(result, to.len(), |to| one(first, pictures, wide, to, parallel));
                }
                in_chunks(result, to, parallel, narrow);
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

/// Sums `len` numbers over all pictures: `add(pictures, x, grad, sums, parallel)` adds what some of them contribute. From `many` output
/// pixels on, tasks sum some of the pictures each.
pub(super) fn sum_over_pictures<S: Stored>(
    pass: Pass,
    len: usize,
    many: usize,
    x: &[S],
    grad: &[S],
    add: impl Fn(usize, &[S::Wide], &[S::Wide], &mut [S::Wide], bool) + Sync,
) -> Vec<S::Wide> {
    let Pass { pictures, pixels } = pass;
    let most = (pictures * pixels / SUMMED_BY_TASK).max(FEWEST_TASKS).min(PARTIAL / len.max(1)).min(pictures);
    let tasks = if pictures * pixels >= many { most.max(1) } else { 1 };
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
    // SAFETY: `widen` writes all of what it is given.
    unsafe { overwrite(&mut wide, numbers.len(), |wide| in_chunks(numbers, wide, true, widen)) };
    wide
}

/// Converts numbers; on all threads with `parallel`.
fn in_chunks<A: Sync, B: Send>(
    from: &[A],
    to: &mut [MaybeUninit<B>],
    parallel: bool,
    convert: impl Fn(&[A], &mut [MaybeUninit<B>]) + Sync,
) {
    if parallel {
        to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| convert(from, to));
    } else {
        convert(from, to);
    }
}
