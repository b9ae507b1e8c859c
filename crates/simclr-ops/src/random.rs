//! Counted randomness: every draw is a function of a seed and a few counters, never of what was drawn before.
//!
//! What happens to image `i` in epoch `e`, view `v` must not depend on the number of workers, the batch size or where a
//! run was resumed. So nobody shares a generator: whoever needs random numbers opens the [`stream`] of their counters.
//! The numbers are ChaCha8's, whose output is specified for ever; the conversions to floats and ranges are ours, so that
//! a new version of `rand` changes no run.

use rand::{Rng, SeedableRng, rngs::ChaCha8Rng};

/// A sequence of random numbers that belongs to one seed and one triple of counters.
#[derive(Debug)]
pub struct Stream(ChaCha8Rng);

/// Opens the stream of `seed` and `counters`; different arguments give independent streams.
///
/// The four numbers are the 256-bit key of ChaCha8, unmixed.
///
/// ```
/// use simclr_ops::random::stream;
/// let (mut a, mut b) = (stream(7, [0, 1, 2]), stream(7, [0, 1, 2]));
/// assert_eq!(a.uniform(), b.uniform());
/// ```
pub fn stream(seed: u64, counters: [u64; 3]) -> Stream {
    let mut key = [0u8; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, counters[0], counters[1], counters[2]]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Stream(ChaCha8Rng::from_seed(key))
}

impl Stream {
    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `0..n`, without bias (Lemire's multiplication with rejection, arXiv:1805.10941).
    ///
    /// # Panics
    /// If `n` is 0: there is no such number.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "no number is below 0");
        let threshold = n.wrapping_neg() % n;
        loop {
            let wide = u128::from(self.bits()) * u128::from(n);
            if wide as u64 >= threshold {
                return (wide >> 64) as u64;
            }
        }
    }

    /// Standard normal (Box–Muller; one of the pair, so that a draw costs a fixed two words of the stream).
    pub fn normal(&mut self) -> f64 {
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Shuffles in place, every order equally likely (Fisher–Yates from the end).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::stream;

    #[test]
    fn the_first_numbers_never_change() {
        let mut s = stream(1, [2, 3, 4]);
        let got: Vec<u64> = (0..3).map(|_| s.bits()).collect();
        // The first 24 bytes of ChaCha8 under the key (1, 2, 3, 4), from an independent implementation of RFC 8439 with 8 rounds.
        assert_eq!(got, [1223844302487303164, 6368864477575460494, 4630466153352783437]);
    }

    #[test]
    fn streams_differ_in_every_argument() {
        let first = |seed, c| stream(seed, c).bits();
        let base = first(0, [0, 0, 0]);
        for other in [first(1, [0, 0, 0]), first(0, [1, 0, 0]), first(0, [0, 1, 0]), first(0, [0, 0, 1])] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut s = stream(5, [0; 3]);
        let n = 100_000;
        let (mut u1, mut u2, mut n1, mut n2) = (0.0, 0.0, 0.0, 0.0);
        for _ in 0..n {
            let (u, g) = (s.uniform(), s.normal());
            assert!((0.0..1.0).contains(&u) && g.is_finite());
            u1 += u;
            u2 += u * u;
            n1 += g;
            n2 += g * g;
        }
        let n = f64::from(n);
        // Five standard errors each.
        assert!((u1 / n - 0.5).abs() < 0.005 && (u2 / n - 1.0 / 3.0).abs() < 0.005);
        assert!((n1 / n).abs() < 0.016 && (n2 / n - 1.0).abs() < 0.023);
    }

    #[test]
    fn below_is_even_and_shuffle_keeps_everything() {
        let mut s = stream(6, [0; 3]);
        let mut counts = [0u32; 6];
        (0..60_000).for_each(|_| counts[s.below(6) as usize] += 1);
        assert!(counts.iter().all(|&c| (9_500..10_500).contains(&c)), "{counts:?}");
        let mut items: Vec<u32> = (0..100).collect();
        s.shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
