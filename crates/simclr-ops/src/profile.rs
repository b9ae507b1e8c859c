//! Where the time of a step goes, by op and phase.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What one op did in one phase: how often, how long, and how much work that was.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Entry {
    /// How often it ran.
    pub calls: u64,
    /// How long, in all.
    pub time: Duration,
    /// Floating-point operations of its products (a multiply-add counts two); 0 where memory is the limit.
    pub operations: u64,
    /// Bytes of tensors that it had to read and write at least.
    pub bytes: u64,
}

/// The work of one call, as [`Entry`] counts it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Floating-point operations.
    pub operations: u64,
    /// Bytes read and written.
    pub bytes: u64,
}

impl Work {
    /// A pass that touches `elements` elements of `width` bytes.
    pub(crate) fn pass(elements: usize, width: usize) -> Self {
        Self { operations: 0, bytes: (elements * width) as u64 }
    }
}

/// A record that ops keep when their [`crate::Context`] has one.
#[derive(Debug, Default)]
pub struct Profile(Mutex<BTreeMap<(&'static str, &'static str), Entry>>);

impl Profile {
    /// Everything recorded so far, by op and phase.
    pub fn entries(&self) -> BTreeMap<(&'static str, &'static str), Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets everything, as after a warm-up.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn timed<R>(&self, op: &'static str, phase: &'static str, work: Work, run: impl FnOnce() -> R) -> R {
        let began = Instant::now();
        let result = run();
        let time = began.elapsed();
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry((op, phase)).or_default();
        entry.calls += 1;
        entry.time += time;
        entry.operations += work.operations;
        entry.bytes += work.bytes;
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::check::random;
    use crate::conv2d::{self, Window};
    use crate::{Context, Form};

    #[test]
    fn an_op_records_its_phases_and_its_work() {
        let profile = Arc::new(Profile::default());
        for form in [Form::Reference, Form::Fast] {
            profile.clear();
            let ctx = Context::with_form(form).with_profile(profile.clone());
            let (x, w) = (random(&[2, 4, 4, 3], 1), random(&[5, 3, 3, 3], 2));
            let (y, saved) = conv2d::forward(&ctx, &x, &w, Window { stride: 1, padding: 1 }).unwrap();
            conv2d::backward(&ctx, &saved, &y, false).unwrap();
            conv2d::backward(&ctx, &saved, &y, true).unwrap();
            let entries = profile.entries();
            let calls: Vec<_> = entries.iter().map(|(&(op, phase), e)| (op, phase, e.calls)).collect();
            assert_eq!(calls, [("conv2d", "dW", 2), ("conv2d", "dX", 1), ("conv2d", "forward", 1)]);
            // 32 pixels, 27 taps, 5 channels.
            assert_eq!(entries[&("conv2d", "forward")].operations, 2 * 32 * 27 * 5);
            assert_eq!(entries[&("conv2d", "dW")].operations, 2 * 2 * 32 * 27 * 5);
        }
    }

    #[test]
    fn without_a_record_nothing_is_kept() {
        let ctx = Context::new();
        assert_eq!(ctx.timed("op", "phase", Work::default(), || 7), 7);
    }
}
