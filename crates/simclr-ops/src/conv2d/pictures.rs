//! A batch in groups of pictures: maps of bf16 are widened and rounded group by group, in the cache of a core.

use std::mem::MaybeUninit;
use std::ops::Range;

use num_traits::Zero;
use rayon::prelude::*;

use crate::batch_norm::Parts;
use crate::element::Stored;
use crate::simd::CHUNK;
use crate::storage::{add, narrow, overwrite, widen};

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
        self.run_then(from, to, true, work, |_, _| {});
    }

    /// The same in groups of pictures, for each of which `finish(first, to)` is called while its results, from element `first` on, are
    /// still in a cache. On all threads with `parallel`, else on this one.
    pub(super) fn run_then<S: Stored>(
        self,
        from: &[S],
        to: &mut [MaybeUninit<S>],
        parallel: bool,
        work: impl Fn(usize, &[S::Wide], &mut [MaybeUninit<S::Wide>], bool) + Sync,
        finish: impl Fn(usize, &mut [S::Wide]) + Sync,
    ) {
        let of_pixel = to.len() / (self.pictures * self.pixels).max(1);
        let one = |first: usize, pictures: usize, from: &[S::Wide], to: &mut [MaybeUninit<S::Wide>], parallel: bool| {
            work(pictures, from, to, parallel);
            // SAFETY: `work` wrote all of it.
            let to = unsafe { to.assume_init_mut() };
            if parallel {
                // Whole pixels: pieces of a picture that are not would begin at another channel.
                let piece = of_pixel * CHUNK.div_ceil(of_pixel);
                to.par_chunks_mut(piece).enumerate().for_each(|(i, to)| finish(first + i * piece, to));
            } else {
                finish(first, to);
            }
        };
        self.in_groups(from, to, parallel, |[wide, result], Group { first, pictures, share }, from, to| {
            if let Some(from) = S::as_wide(from) {
                let to = S::as_wide_memory(to).expect("one type is kept and computed with in both");
                return one(first, pictures, from, to, share);
            }
            // SAFETY: `widen` and `work` write all of what they are given.
            unsafe {
                overwrite(wide, from.len(), |wide| in_chunks(from, wide, share, widen));
                overwrite(result, to.len(), |to| one(first, pictures, wide, to, share));
            }
            in_chunks(result, to, share, narrow);
        });
    }

    /// Adds what `work` writes to what is there: it is summed while it is in a cache, and passes through memory no second time.
    pub(super) fn add<S: Stored>(
        self,
        from: &[S],
        to: &mut [S],
        work: impl Fn(usize, &[S::Wide], &mut [MaybeUninit<S::Wide>], bool) + Sync,
    ) {
        self.in_groups(from, to, true, |[wide, result], Group { pictures, share, .. }, from, to| {
            // SAFETY: `widen` and `work` write all of what they are given.
            unsafe {
                let from = match S::as_wide(from) {
                    Some(from) => from,
                    None => {
                        overwrite(wide, from.len(), |wide| in_chunks(from, wide, share, widen));
                        wide
                    }
                };
                overwrite(result, to.len(), |result| work(pictures, from, result, share));
            }
            in_chunks(result, to, share, |result, to| add(to, result));
        });
    }

    /// Calls `each` for groups of pictures, with memory for two results: on all threads with `parallel`, else on this one.
    fn in_groups<S: Stored, To: Send>(
        self,
        from: &[S],
        to: &mut [To],
        parallel: bool,
        each: impl Fn(&mut [Vec<S::Wide>; 2], Group, &[S], &mut [To]) + Sync,
    ) {
        let Self { pictures, .. } = self;
        if pictures == 0 {
            return;
        }
        let (from_len, to_len) = (from.len() / pictures, to.len() / pictures);
        let share = parallel && !self.is_large();
        let group = if share { pictures } else { self.group() };
        let each = |memory: &mut _, (i, (to, from)): (usize, (&mut [To], &[S]))| {
            each(memory, Group { first: i * group * to_len, pictures: from.len() / from_len, share }, from, to);
        };
        if parallel {
            let groups = to.par_chunks_mut(group * to_len).zip(from.par_chunks(group * from_len)).enumerate();
            groups.for_each_init(Default::default, each);
        } else {
            let mut memory = Default::default();
            let groups = to.chunks_mut(group * to_len).zip(from.chunks(group * from_len)).enumerate();
            groups.for_each(|group| each(&mut memory, group));
        }
    }

    /// Whether tasks work on groups of their own.
    pub(super) fn is_large(self) -> bool {
        self.pictures * self.pixels >= MANY
    }

    /// Pictures of a group.
    fn group(self) -> usize {
        GROUP.div_ceil(self.pixels)
    }
}

/// Some pictures of a batch.
struct Group {
    /// Their first result, counted in elements.
    first: usize,
    pictures: usize,
    /// Whether all threads should work on them.
    share: bool,
}

/// The numbers of a map, kept or made when they are read.
pub(super) trait Source<S: Stored>: Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Some of them, if they are kept in the type that is computed with.
    fn kept(&self, range: Range<usize>) -> Option<&[S::Wide]>;

    /// Writes those from `first` on: whole pixels.
    fn write(&self, first: usize, to: &mut [MaybeUninit<S::Wide>]);
}

impl<S: Stored> Source<S> for [S] {
    fn len(&self) -> usize {
        self.len()
    }

    fn kept(&self, range: Range<usize>) -> Option<&[S::Wide]> {
        S::as_wide(&self[range])
    }

    fn write(&self, first: usize, to: &mut [MaybeUninit<S::Wide>]) {
        widen(&self[first..first + to.len()], to);
    }
}

impl<S: Stored> Source<S> for Parts<'_, S> {
    fn len(&self) -> usize {
        self.len()
    }

    fn kept(&self, _: Range<usize>) -> Option<&[S::Wide]> {
        None
    }

    fn write(&self, first: usize, to: &mut [MaybeUninit<S::Wide>]) {
        self.write(first, to);
    }
}

/// Sums `len` numbers over all pictures: `add(pictures, x, grad, sums, parallel)` adds what some of them contribute. From `many` output
/// pixels on, tasks sum some of the pictures each.
pub(super) fn sum_over_pictures<S: Stored>(
    pass: Pass,
    len: usize,
    many: usize,
    x: &(impl Source<S> + ?Sized),
    grad: &(impl Source<S> + ?Sized),
    add: impl Fn(usize, &[S::Wide], &[S::Wide], &mut [S::Wide], bool) + Sync,
) -> Vec<S::Wide> {
    let Pass { pictures, pixels } = pass;
    let most = (pictures * pixels / SUMMED_BY_TASK).max(FEWEST_TASKS).min(PARTIAL / len.max(1)).min(pictures);
    let tasks = if pictures * pixels >= many { most.max(1) } else { 1 };
    let mut sums = vec![S::Wide::zero(); tasks * len];
    if pictures == 0 {
        return sums;
    }
    // Adds some pictures, with memory for what of them is not kept as it is computed with.
    let add = |of: Range<usize>, memory: &mut [Vec<S::Wide>; 2], sums: &mut [S::Wide], parallel: bool| {
        let [of_x, of_grad] = memory;
        let (x, grad) = (read(x, pictures, &of, of_x, parallel), read(grad, pictures, &of, of_grad, parallel));
        add(of.len(), x, grad, sums, parallel);
    };
    if tasks == 1 {
        add(0..pictures, &mut Default::default(), &mut sums, true);
        return sums;
    }
    let of_task = pictures.div_ceil(tasks);
    let are_kept = x.kept(0..0).is_some() && grad.kept(0..0).is_some();
    let group = if are_kept { of_task } else { pass.group() };
    sums.par_chunks_mut(len).enumerate().for_each(|(task, sums)| {
        let (mut memory, end) = (Default::default(), ((task + 1) * of_task).min(pictures));
        for first in (task * of_task..end).step_by(group) {
            add(first..(first + group).min(end), &mut memory, sums, false);
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

/// The numbers of some of `pictures` in the type that is computed with: where they are kept, or in `memory`.
fn read<'a, S: Stored>(
    source: &'a (impl Source<S> + ?Sized),
    pictures: usize,
    of: &Range<usize>,
    memory: &'a mut Vec<S::Wide>,
    parallel: bool,
) -> &'a [S::Wide] {
    let len = source.len() / pictures;
    let range = of.start * len..of.end * len;
    if let Some(kept) = source.kept(range.clone()) {
        return kept;
    }
    // SAFETY: a source writes all of what it is given, and the pictures are all of it.
    unsafe {
        overwrite(memory, range.len(), |to| {
            if parallel {
                to.par_chunks_mut(len).enumerate().for_each(|(i, to)| source.write(range.start + i * len, to));
            } else {
                source.write(range.start, to);
            }
        });
    }
    memory
}

/// Converts numbers; on all threads with `parallel`.
fn in_chunks<A: Sync, B: Send>(from: &[A], to: &mut [B], parallel: bool, convert: impl Fn(&[A], &mut [B]) + Sync) {
    if parallel {
        to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| convert(from, to));
    } else {
        convert(from, to);
    }
}
