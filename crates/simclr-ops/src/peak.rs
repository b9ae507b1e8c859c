//! What the machine can do at most: the roof that ops are compared with.

use std::time::{Duration, Instant};

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// How long each measurement runs, three times; the best counts, as others may use the machine too.
const SPAN: Duration = Duration::from_millis(150);
const TRIES: usize = 3;

/// Independent chains of multiply-adds: enough to fill the pipelines of every CPU so far.
const CHAINS: usize = 16;

/// Multiply-adds of each chain between two looks at the clock.
const ROUNDS: usize = 1 << 14;

/// Single-precision operations per second of all threads of the current rayon pool, multiply-adds in registers.
pub fn f32_operations_per_second() -> f64 {
    best_of_tries(|| {
        let each: Vec<f64> = rayon::broadcast(|_| {
            let (began, mut operations) = (Instant::now(), 0.0);
            while began.elapsed() < SPAN {
                operations += Arch::new().dispatch(Chains);
            }
            operations / began.elapsed().as_secs_f64()
        });
        each.iter().sum()
    })
}

/// Bytes per second, read and written, of a copy that no cache holds, on all threads of the current rayon pool.
pub fn bytes_per_second() -> f64 {
    const LEN: usize = 1 << 25;
    let from = vec![1f32; LEN];
    let mut to = vec![0f32; LEN];
    best_of_tries(|| {
        let began = Instant::now();
        to.par_chunks_mut(1 << 15).zip(from.par_chunks(1 << 15)).for_each(|(to, from)| to.copy_from_slice(from));
        (2 * LEN * size_of::<f32>()) as f64 / began.elapsed().as_secs_f64()
    })
}

fn best_of_tries(mut measure: impl FnMut() -> f64) -> f64 {
    (0..TRIES).map(|_| measure()).fold(0.0, f64::max)
}

/// Some rounds of multiply-adds; gives the number of operations.
struct Chains;

impl WithSimd for Chains {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let (a, b) = (simd.splat_f32s(0.999_999), simd.splat_f32s(1e-6));
        // Chains that begin alike would be computed once.
        let mut sums: [S::f32s; CHAINS] =
            std::array::from_fn(|chain| simd.splat_f32s(std::hint::black_box(chain as f32)));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, a, b);
            }
        }
        // Nothing that is not looked at is computed.
        std::hint::black_box(sums.map(|sum| simd.reduce_sum_f32s(sum)));
        let lanes = size_of::<S::f32s>() / size_of::<f32>();
        (2 * ROUNDS * CHAINS * lanes) as f64
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn roofs_are_those_of_a_computer() {
        // A machine below these could not run the tests, one above them has not been built.
        assert!((1e8..1e15).contains(&super::f32_operations_per_second()));
        assert!((1e7..1e14).contains(&super::bytes_per_second()));
    }
}
