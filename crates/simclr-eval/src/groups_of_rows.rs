//! Rows that lie in groups, for tests.

use candle_core::{Device, Tensor};
use simclr_ops::random::stream;

/// `n` rows around each of some centres.
pub(crate) fn groups(centres: &[Vec<f32>], n: usize, spread: f32) -> Tensor {
    let mut draws = stream(3, [0, 0, 0]);
    let rows: Vec<f32> = (0..n * centres.len())
        .flat_map(|i| centres[i % centres.len()].iter().map(|x| x + spread * draws.normal() as f32).collect::<Vec<_>>())
        .collect();
    Tensor::from_vec(rows, (n * centres.len(), centres[0].len()), &Device::Cpu).unwrap()
}

/// So many rows of `d` numbers.
pub(crate) fn centres(count: usize, d: usize) -> Vec<Vec<f32>> {
    let mut draws = stream(4, [0, 0, 0]);
    (0..count).map(|_| (0..d).map(|_| draws.normal() as f32).collect()).collect()
}
