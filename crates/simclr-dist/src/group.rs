//! What training asks of the processes that it runs on.

use std::fmt::Debug;
use std::ops::Range;

use crate::error::DistError;

/// Processes that work together, as one of them sees them.
///
/// Every process makes the same calls in the same order, from one thread: a call returns when all have made it. What it returns is the
/// same on all of them, to the bit, and the same again for the same numbers and the same count of processes: by our own order of small
/// sums, and as MPI and NCCL recommend or promise of large ones.
pub trait ProcessGroup: Debug + Send + Sync {
    /// Which of them this is, from 0.
    fn rank(&self) -> usize;

    /// How many they are, at least 1.
    fn size(&self) -> usize;

    /// Replaces each of `values`, which are few, by its sum over all processes.
    ///
    /// # Errors
    /// [`DistError::Gone`] if the others cannot be reached; so for all that follow. Of processes that sum more or less than others some
    /// forms say so ([`DistError::Unequal`]), others end or wait for ever.
    fn sum(&self, values: &mut [f64]) -> Result<(), DistError>;

    /// Begins to sum many numbers, and returns at once: [`Pending::wait`] has the sums. Sums that have begun go on while other calls are
    /// made.
    ///
    /// # Errors
    /// As [`Self::sum`].
    fn start_sum(&self, values: Vec<f32>) -> Result<Pending, DistError>;

    /// The bytes that every process gives, by rank; each may give another number of them.
    ///
    /// # Errors
    /// As [`Self::sum`].
    fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, DistError>;

    /// The bytes that process `root` gives; those of the others do not matter.
    ///
    /// # Errors
    /// As [`Self::sum`].
    fn broadcast(&self, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>, DistError>;

    /// Returns when all processes have come here.
    ///
    /// # Errors
    /// As [`Self::sum`].
    fn barrier(&self) -> Result<(), DistError>;

    /// Takes leave of the others, who do the same; no call may follow.
    ///
    /// # Errors
    /// As [`Self::sum`].
    fn finish(&self) -> Result<(), DistError>;

    /// Ends this process and all others with this exit status, wherever they are.
    fn abort(&self, status: i32) -> !;
}

/// Sums on their way.
#[must_use]
pub struct Pending(Box<dyn FnOnce() -> Result<Vec<f32>, DistError> + Send>);

impl Pending {
    /// Those that `wait` will have.
    pub fn new(wait: impl FnOnce() -> Result<Vec<f32>, DistError> + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// Waits for the sums.
    ///
    /// # Errors
    /// As [`ProcessGroup::sum`].
    pub fn wait(self) -> Result<Vec<f32>, DistError> {
        (self.0)()
    }
}

impl Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}

/// What `rank` of `size` processes has of `len` things: consecutive ones, as many as the others have or one more or less.
pub fn share(len: usize, rank: usize, size: usize) -> Range<usize> {
    let start = |rank: usize| (len as u128 * rank as u128 / size.max(1) as u128) as usize;
    start(rank)..start(rank + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_all_of_it_once_and_even() {
        for (len, size) in [(0, 3), (1, 4), (10, 3), (12, 4), (50_000, 7)] {
            let shares: Vec<_> = (0..size).map(|rank| share(len, rank, size)).collect();
            assert_eq!((shares[0].start, shares[size - 1].end), (0, len));
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(shares.iter().all(|share| share.len() == len / size || share.len() == len / size + 1));
        }
    }
}
