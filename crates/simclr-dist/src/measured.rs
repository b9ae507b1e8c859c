//! What working together costs a process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::DistError;
use crate::group::{Pending, ProcessGroup};

/// One kind of call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// How often it was made.
    pub calls: u64,
    /// Bytes that this process gave.
    pub bytes: u64,
    /// How long this process stood still for it: the way of the bytes, waiting for others that are slower, and for what was asked before.
    pub waited: Duration,
}

/// What a process asked of its group.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Small sums: those of batch norm.
    pub sums: Cost,
    /// Large sums: gradients. Only what was waited for at the end is in `waited`; the rest went on behind the backward pass.
    pub large_sums: Cost,
    /// Gathers, broadcasts and barriers.
    pub gathers: Cost,
}

/// A group whose calls are counted.
#[derive(Debug)]
pub struct Measured {
    group: Arc<dyn ProcessGroup>,
    traffic: Arc<Mutex<Traffic>>,
}

impl Measured {
    /// The same group.
    pub fn new(group: Arc<dyn ProcessGroup>) -> Self {
        Self { group, traffic: Arc::default() }
    }

    /// What it has cost since it was asked last.
    pub fn take(&self) -> Traffic {
        std::mem::take(&mut *lock(&self.traffic))
    }

    fn timed<R>(&self, of: impl Fn(&mut Traffic) -> &mut Cost, bytes: usize, run: impl FnOnce() -> R) -> R {
        let began = Instant::now();
        let result = run();
        let mut traffic = lock(&self.traffic);
        let cost = of(&mut traffic);
        cost.calls += 1;
        cost.bytes += bytes as u64;
        cost.waited += began.elapsed();
        result
    }
}

fn lock(traffic: &Mutex<Traffic>) -> std::sync::MutexGuard<'_, Traffic> {
    traffic.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProcessGroup for Measured {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn sum(&self, values: &mut [f64]) -> Result<(), DistError> {
        self.timed(|traffic| &mut traffic.sums, size_of_val(values), || self.group.sum(values))
    }

    fn start_sum(&self, values: Vec<f32>) -> Result<Pending, DistError> {
        let bytes = size_of_val(&*values);
        let pending = self.timed(|traffic| &mut traffic.large_sums, bytes, || self.group.start_sum(values))?;
        let traffic = self.traffic.clone();
        Ok(Pending::new(move || {
            let began = Instant::now();
            let sums = pending.wait();
            lock(&traffic).large_sums.waited += began.elapsed();
            sums
        }))
    }

    fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, DistError> {
        self.timed(|traffic| &mut traffic.gathers, own.len(), || self.group.all_gather(own))
    }

    fn broadcast(&self, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>, DistError> {
        self.timed(|traffic| &mut traffic.gathers, bytes.len(), || self.group.broadcast(root, bytes))
    }

    fn barrier(&self) -> Result<(), DistError> {
        self.timed(|traffic| &mut traffic.gathers, 0, || self.group.barrier())
    }

    fn finish(&self) -> Result<(), DistError> {
        self.group.finish()
    }

    fn abort(&self, status: i32) -> ! {
        self.group.abort(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Single;

    #[test]
    fn calls_are_counted_and_answered() {
        let group = Measured::new(Arc::new(Single));
        group.sum(&mut [1.0, 2.0]).unwrap();
        assert_eq!(group.start_sum(vec![1.0; 3]).unwrap().wait().unwrap(), [1.0; 3]);
        group.all_gather(&[1, 2, 3]).unwrap();
        group.barrier().unwrap();
        let traffic = group.take();
        let told = |cost: Cost| (cost.calls, cost.bytes);
        assert_eq!([traffic.sums, traffic.large_sums, traffic.gathers].map(told), [(1, 16), (1, 12), (2, 3)]);
        assert_eq!(group.take(), Traffic::default());
    }
}
