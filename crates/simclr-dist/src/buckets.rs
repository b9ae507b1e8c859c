//! Gradients are summed in buckets while those behind them are still being computed.

use std::sync::Arc;

use crate::error::DistError;
use crate::group::{Pending, ProcessGroup};

/// Numbers under keys, on their way to be summed over all processes: a bucket goes as soon as it is full.
///
/// Li et al. 2020, PyTorch Distributed, arXiv:2006.15704, section 3.2.3. Every process adds the same keys in the same order.
#[derive(Debug)]
pub struct Buckets<K> {
    group: Arc<dyn ProcessGroup>,
    /// Numbers of a bucket that is full.
    full: usize,
    open: Vec<f32>,
    keys: Vec<(K, usize)>,
    gone: Vec<(Vec<(K, usize)>, Pending)>,
}

impl<K> Buckets<K> {
    /// Empty ones, that are full with at least `bytes`.
    pub fn new(group: Arc<dyn ProcessGroup>, bytes: usize) -> Self {
        let full = (bytes / size_of::<f32>()).max(1);
        Self { group, full, open: Vec::new(), keys: Vec::new(), gone: Vec::new() }
    }

    /// Adds the numbers of `key`.
    ///
    /// # Errors
    /// As [`ProcessGroup::sum`].
    pub fn add(&mut self, key: K, numbers: &[f32]) -> Result<(), DistError> {
        self.open.extend_from_slice(numbers);
        self.keys.push((key, numbers.len()));
        if self.open.len() >= self.full { self.send() } else { Ok(()) }
    }

    /// The keys that were added, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.gone.iter().flat_map(|(keys, _)| keys).chain(&self.keys).map(|(key, _)| key)
    }

    fn send(&mut self) -> Result<(), DistError> {
        let pending = self.group.start_sum(std::mem::take(&mut self.open))?;
        self.gone.push((std::mem::take(&mut self.keys), pending));
        Ok(())
    }

    /// Sends what is left and waits for all sums; they are in the order in which they were added.
    ///
    /// # Errors
    /// As [`ProcessGroup::sum`].
    pub fn sums(mut self) -> Result<Vec<(K, Vec<f32>)>, DistError> {
        if !self.keys.is_empty() {
            self.send()?;
        }
        let mut sums = Vec::new();
        for (keys, pending) in self.gone {
            let numbers = pending.wait()?;
            let mut rest = numbers.as_slice();
            for (key, len) in keys {
                let (own, others) = rest.split_at_checked(len).ok_or_else(|| DistError::gone("a sum came back cut"))?;
                sums.push((key, own.to_vec()));
                rest = others;
            }
        }
        Ok(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads;

    #[test]
    fn keys_get_their_sums_whatever_bucket_they_were_in() {
        let run = |group: Arc<dyn ProcessGroup>| {
            let mut buckets = Buckets::new(group.clone(), 12);
            for (key, len) in [("a", 2), ("b", 2), ("c", 0), ("d", 7), ("e", 1)] {
                buckets.add(key, &vec![1.0 + group.rank() as f32; len]).unwrap();
            }
            let sent = buckets.gone.len();
            assert_eq!(buckets.keys().copied().collect::<String>(), "abcde");
            (sent, buckets.sums().unwrap())
        };
        let ranks: Vec<_> = threads(3).into_iter().map(|group| std::thread::spawn(move || run(group))).collect();
        for rank in ranks {
            let (sent, sums) = rank.join().unwrap();
            assert_eq!(sent, 2, "two buckets were full before the end");
            let want = [("a", 2), ("b", 2), ("c", 0), ("d", 7), ("e", 1)].map(|(key, len)| (key, vec![6.0; len]));
            assert_eq!(sums, want);
        }
    }
}
