//! What is usual among the rows: some of them, compared with all.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;
use simclr_ops::random::stream;

use super::Recall;
use super::links::Links;
use super::tiles::{SIDE, Side, Tile};
use crate::knn::nearest;

/// Rows that are drawn to see what is usual, if there are more.
const SAMPLE: usize = 1_024;

/// Rows that are drawn to measure an approximation: more, as pairs are rare.
const MEASURED: usize = 4_096;

/// Of a row's neighbours, the one that tells how near is usual: the first few may be its copies.
const NEIGHBOUR: usize = 10;

/// How many times nearer than usual duplicates are, in `1 - cosine`.
const NEARER: f64 = 10.0;

/// What is drawn is the same in every run.
pub(super) const SEED: u64 = 0;

/// Some rows, and how near others are to them.
pub(super) struct Survey {
    /// The greatest cosine of each.
    pub(super) nearest: Vec<f32>,
    /// The median of the cosine of each and its tenth neighbour.
    pub(super) usual: f32,
}

impl Survey {
    /// Of unit rows of `d` numbers, at least two.
    pub(super) fn of(rows: &[f32], d: usize) -> Self {
        let n = rows.len() / d;
        let sample = drawn(n, SAMPLE, 0);
        let k = NEIGHBOUR.min(n - 1);
        let of_part = |part: &[u32]| -> Vec<[f32; 2]> {
            let found = nearest(&gathered(rows, d, part), rows, d, k + 1);
            let others = found.into_iter().zip(part).map(|(mut found, &row)| {
                // Itself; among more copies than neighbours, any of them.
                let own = found.iter().position(|&(_, other)| other == row as usize).unwrap_or(k);
                found.remove(own);
                [found[0].0, found[k - 1].0].map(|cosine| cosine.min(1.0))
            });
            others.collect()
        };
        let cosines: Vec<[f32; 2]> = sample.par_chunks(SIDE / 4).flat_map_iter(of_part).collect();
        let nearest = cosines.iter().map(|[nearest, _]| *nearest).collect();
        let mut usual: Vec<f32> = cosines.iter().map(|[_, usual]| *usual).collect();
        let middle = usual.len() / 2;
        let usual = *usual.select_nth_unstable_by(middle, f32::total_cmp).1;
        Self { nearest, usual }
    }

    /// The threshold of rows that are [`NEARER`] than usual.
    pub(super) fn suggested(&self) -> f64 {
        1.0 - (1.0 - f64::from(self.usual)) / NEARER
    }
}

/// For each level: of the pairs that rows drawn at random have with any, how many are in one component.
pub(super) fn recall(rows: &[f32], d: usize, links: &Links) -> Vec<Recall> {
    let n = rows.len() / d;
    let sample = drawn(n, MEASURED, 2);
    let numbers: Vec<u32> = (0..n as u32).collect();
    // Of each level: pairs that reach it, and those of them that are together in it.
    let none = || (0..links.levels()).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    let (pairs, found) = (none(), none());
    for part in sample.chunks(SIDE) {
        let sampled = gathered(rows, d, part);
        let sampled = Side { numbers: part, rows: &sampled };
        let blocks = rows.par_chunks(SIDE * d).zip(numbers.par_chunks(SIDE));
        blocks.for_each_init(Tile::default, |tile, (rows, numbers)| {
            tile.multiply(sampled, Side { numbers, rows }, d);
            for (&a, cosines) in part.iter().zip(tile.rows()) {
                for (&cosine, &b) in cosines.iter().zip(numbers).filter(|(cosine, _)| **cosine >= links.floor()) {
                    // A pair of two sampled rows counts once.
                    if a == b || (b < a && sample.binary_search(&b).is_ok()) {
                        continue;
                    }
                    for level in 0..=links.level(cosine) {
                        pairs[level].fetch_add(1, Relaxed);
                        found[level].fetch_add(links.are_together([a, b], level).into(), Relaxed);
                    }
                }
            }
        });
    }
    let recall = |(pairs, found): (AtomicU64, AtomicU64)| Recall {
        rows: sample.len(),
        pairs: pairs.into_inner(),
        found: found.into_inner(),
    };
    pairs.into_iter().zip(found).map(recall).collect()
}

/// `count` of `n` rows, or all if there are fewer, in order; another draw for every `purpose`.
pub(super) fn drawn(n: usize, count: usize, purpose: u64) -> Vec<u32> {
    let mut rows: Vec<u32> = (0..n as u32).collect();
    let mut draws = stream(SEED, [n as u64, purpose, 0]);
    let count = count.min(n);
    for i in 0..count {
        rows.swap(i, i + draws.below((n - i) as u64) as usize);
    }
    rows.truncate(count);
    rows.sort_unstable();
    rows.shrink_to_fit();
    rows
}

/// Some rows, one after the other.
pub(super) fn gathered(rows: &[f32], d: usize, numbers: &[u32]) -> Vec<f32> {
    let mut gathered = Vec::new();
    gather(rows, d, numbers, &mut gathered);
    gathered
}

/// Puts some rows one after the other into memory that may have been used before.
pub(super) fn gather(rows: &[f32], d: usize, numbers: &[u32], into: &mut Vec<f32>) {
    into.clear();
    numbers.iter().for_each(|&row| into.extend_from_slice(&rows[row as usize * d..][..d]));
}
