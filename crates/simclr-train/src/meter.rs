//! How fast training goes, and what it waits for.

use std::time::{Duration, Instant};

/// Speed over the steps since it was started.
pub(crate) struct Meter {
    last: Instant,
    wait: Duration,
    work: Duration,
    pairs: usize,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self { last: Instant::now(), wait: Duration::ZERO, work: Duration::ZERO, pairs: 0 }
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        let lap = now - self.last;
        self.last = now;
        lap
    }

    /// Seconds spent waiting for a batch.
    pub(crate) fn data_came(&mut self) -> f64 {
        let lap = self.lap();
        self.wait += lap;
        lap.as_secs_f64()
    }

    /// Seconds that the work on a batch of so many pairs took, or on none of them.
    pub(crate) fn batch_ended(&mut self, pairs: usize) -> f64 {
        let lap = self.lap();
        self.work += lap;
        self.pairs += pairs;
        lap.as_secs_f64()
    }

    pub(crate) fn pairs_per_second(&self) -> f64 {
        self.pairs as f64 / (self.wait + self.work).as_secs_f64().max(f64::MIN_POSITIVE)
    }

    pub(crate) fn data_wait_share(&self) -> f64 {
        self.wait.as_secs_f64() / (self.wait + self.work).as_secs_f64().max(f64::MIN_POSITIVE)
    }
}
