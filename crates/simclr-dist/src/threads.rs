//! Several ranks in one process: each is a thread, and they meet in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::DistError;
use crate::group::{Pending, ProcessGroup};
use crate::tree;

/// How long a rank waits for another: long enough for a step, short enough to learn of a rank that has panicked.
const PATIENCE: Duration = Duration::from_secs(300);

/// A group of `size` ranks, each for a thread of its own.
///
/// What a rank does when it waits, it does on its own thread: threads of a pool that others need must not be ranks.
pub fn threads(size: usize) -> Vec<Arc<dyn ProcessGroup>> {
    let table = Arc::new(Table { size, calls: Mutex::default(), came: Condvar::new() });
    let rank =
        |rank| Arc::new(Threads { rank, calls: AtomicU64::new(0), table: table.clone() }) as Arc<dyn ProcessGroup>;
    (0..size).map(rank).collect()
}

/// Where ranks lay down what they give.
#[derive(Debug)]
struct Table {
    size: usize,
    calls: Mutex<HashMap<u64, Place>>,
    came: Condvar,
}

/// One call.
#[derive(Debug)]
struct Place {
    /// What has come, by rank.
    given: Vec<Option<Vec<u8>>>,
    /// How many ranks have taken it.
    taken: usize,
}

impl Table {
    fn give(&self, call: u64, rank: usize, bytes: Vec<u8>) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let place = calls.entry(call).or_insert_with(|| Place { given: vec![None; self.size], taken: 0 });
        place.given[rank] = Some(bytes);
        self.came.notify_all();
    }

    fn take(&self, call: u64) -> Result<Vec<Vec<u8>>, DistError> {
        let until = Instant::now() + PATIENCE;
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(place) = calls.get_mut(&call)
                && place.given.iter().all(Option::is_some)
            {
                place.taken += 1;
                let last = place.taken == self.size;
                let all = place.given.iter().flatten().cloned().collect();
                if last {
                    calls.remove(&call);
                }
                return Ok(all);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(DistError::gone(format!("a rank has not come within {} s", PATIENCE.as_secs())));
            }
            calls = self.came.wait_timeout(calls, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[derive(Debug)]
struct Threads {
    rank: usize,
    /// Calls that this rank has made: they are made in one order by all.
    calls: AtomicU64,
    table: Arc<Table>,
}

impl Threads {
    fn give(&self, bytes: Vec<u8>) -> u64 {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        self.table.give(call, self.rank, bytes);
        call
    }

    fn exchange(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, DistError> {
        self.table.take(self.give(bytes))
    }
}

impl ProcessGroup for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.table.size
    }

    fn sum(&self, values: &mut [f64]) -> Result<(), DistError> {
        let all = self.exchange(bytemuck::cast_slice(values).to_vec())?;
        let sum = tree::sum(all.iter().map(|part| bytemuck::pod_collect_to_vec::<u8, f64>(part)).collect())?;
        values.copy_from_slice(&sum);
        Ok(())
    }

    fn start_sum(&self, values: Vec<f32>) -> Result<Pending, DistError> {
        let (call, table) = (self.give(bytemuck::cast_slice(&values).to_vec()), self.table.clone());
        Ok(Pending::new(move || {
            tree::sum(table.take(call)?.iter().map(|part| bytemuck::pod_collect_to_vec::<u8, f32>(part)).collect())
        }))
    }

    fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, DistError> {
        self.exchange(own.to_vec())
    }

    fn broadcast(&self, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>, DistError> {
        let given = if self.rank == root { bytes } else { Vec::new() };
        Ok(self.exchange(given)?.swap_remove(root))
    }

    fn barrier(&self) -> Result<(), DistError> {
        self.exchange(Vec::new()).map(|_| ())
    }

    fn finish(&self) -> Result<(), DistError> {
        self.barrier()
    }

    fn abort(&self, status: i32) -> ! {
        std::process::exit(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_meet_in_the_order_of_their_calls() {
        let run = |group: Arc<dyn ProcessGroup>| {
            let rank = group.rank();
            let mut numbers = [rank as f64, 1.0];
            let first = group.start_sum(vec![rank as f32; 3]).unwrap();
            group.sum(&mut numbers).unwrap();
            let second = group.start_sum(vec![1.0]).unwrap();
            let all = group.all_gather(&vec![rank as u8; rank]).unwrap();
            let told = group.broadcast(2, vec![rank as u8]).unwrap();
            // Not in the order in which they began.
            let (second, first) = (second.wait().unwrap(), first.wait().unwrap());
            group.finish().unwrap();
            (numbers, all, told, first, second)
        };
        let ranks: Vec<_> = threads(4).into_iter().map(|group| std::thread::spawn(move || run(group))).collect();
        for rank in ranks {
            let (numbers, all, told, first, second) = rank.join().unwrap();
            assert_eq!(numbers, [6.0, 4.0]);
            assert_eq!(all, [vec![], vec![1], vec![2, 2], vec![3, 3, 3]]);
            assert_eq!((told, first, second), (vec![2], vec![6.0; 3], vec![4.0]));
        }
    }
}
