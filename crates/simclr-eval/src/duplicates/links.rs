//! What is known of pairs without keeping them: components, counts, extremes. All of it is made of unions, sums, minima and maxima,
//! so that it does not matter in which order threads report.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;

use super::{DuplicateCount, DuplicateGroup, ROUNDING, Recall};

/// The graphs of the rows, one for each threshold.
pub(super) struct Links {
    /// The thresholds, ascending; every component of one lies in one of the threshold before it.
    levels: Vec<Level>,
    /// The one that groups are of.
    main: usize,
    /// The greatest cosine of each row, as [`ordered`].
    nearest: Vec<AtomicU32>,
    /// The least cosine that links each row, as [`ordered`].
    least: Vec<AtomicU32>,
}

struct Level {
    threshold: f64,
    /// What a cosine must reach.
    floor: f32,
    components: Components,
    /// Pairs that reach this level and not the next.
    pairs: AtomicU64,
}

impl Links {
    /// Of `n` rows.
    pub(super) fn new(n: usize, threshold: f64, counted: &[f64]) -> Self {
        let mut thresholds = [counted, &[threshold]].concat();
        thresholds.sort_unstable_by(f64::total_cmp);
        thresholds.dedup();
        let level = |&threshold: &f64| Level {
            threshold,
            // Above 0, so that rows of zeros never reach it.
            floor: ((threshold - ROUNDING) as f32).max(f32::MIN_POSITIVE),
            components: Components::new(n),
            pairs: AtomicU64::new(0),
        };
        let all = |number: f32| (0..n).map(|_| AtomicU32::new(ordered(number))).collect();
        Self {
            levels: thresholds.iter().map(level).collect(),
            main: thresholds.iter().position(|&other| other == threshold).unwrap_or_default(),
            nearest: all(f32::NEG_INFINITY),
            least: all(f32::INFINITY),
        }
    }

    /// What a cosine must reach to be of any interest.
    pub(super) fn floor(&self) -> f32 {
        self.levels[0].floor
    }

    /// How many thresholds there are.
    pub(super) fn levels(&self) -> usize {
        self.levels.len()
    }

    /// The last level that a cosine of at least the floor reaches.
    pub(super) fn level(&self, cosine: f32) -> usize {
        self.levels.iter().rposition(|level| cosine >= level.floor).unwrap_or_default()
    }

    /// A pair that reaches a level. It is not counted.
    pub(super) fn link(&self, pair: [u32; 2], cosine: f32, level: usize) {
        if level >= self.main {
            for row in pair {
                lower(&self.least[row as usize], ordered(cosine));
            }
        }
        // Rows that are together at this level are, or will be before all threads are done, at those below: whoever joined them here
        // joined them there first. So one look is enough for most of very many pairs.
        if !self.are_together(pair, level) {
            self.levels[..=level].iter().for_each(|level| level.components.join(pair));
        }
    }

    /// Whether the rows of a pair are in one component.
    pub(super) fn are_together(&self, pair: [u32; 2], level: usize) -> bool {
        self.levels[level].components.are_together(pair)
    }

    /// So many pairs reach each level and not the next.
    pub(super) fn count(&self, pairs: &[u64]) {
        self.levels.iter().zip(pairs).for_each(|(level, &pairs)| _ = level.pairs.fetch_add(pairs, Relaxed));
    }

    /// The greatest cosine of a row so far.
    pub(super) fn saw(&self, row: u32, cosine: f32) {
        raise(&self.nearest[row as usize], ordered(cosine));
    }

    /// The greatest cosine of each row.
    pub(super) fn nearest(&self) -> Vec<f32> {
        self.nearest.iter().map(|nearest| number(nearest.load(Relaxed)).min(1.0)).collect()
    }

    pub(super) fn groups(&self) -> Vec<DuplicateGroup> {
        let extreme = |of: &[AtomicU32], row: &usize| number(of[*row].load(Relaxed)).min(1.0);
        let group = |rows: Vec<usize>| DuplicateGroup {
            least: rows.iter().map(|row| extreme(&self.least, row)).fold(f32::INFINITY, f32::min),
            greatest: rows.iter().map(|row| extreme(&self.nearest, row)).fold(f32::NEG_INFINITY, f32::max),
            rows,
        };
        let mut groups: Vec<_> = self.levels[self.main].components.of_several().into_iter().map(group).collect();
        groups.sort_unstable_by(|a, b| {
            let by_size = b.rows.len().cmp(&a.rows.len());
            by_size.then(b.greatest.total_cmp(&a.greatest)).then(a.rows[0].cmp(&b.rows[0]))
        });
        groups
    }

    pub(super) fn counts(&self, recall: Option<&[Recall]>) -> Vec<DuplicateCount> {
        let count = |(i, level): (usize, &Level)| {
            let groups = level.components.of_several();
            DuplicateCount {
                threshold: level.threshold,
                pairs: self.levels[i..].iter().map(|level| level.pairs.load(Relaxed)).sum(),
                groups: groups.len(),
                rows: groups.iter().map(Vec::len).sum(),
                recall: recall.map(|recall| recall[i]),
            }
        };
        self.levels.iter().enumerate().map(count).collect()
    }
}

/// Disjoint sets of rows that any thread may join: every row points to an earlier one of its set, the first one to itself.
///
/// Only the first row of a set is ever made to point elsewhere, by compare-and-swap (Anderson and Woll 1991); so sets are the same for any
/// order of joins.
struct Components(Vec<AtomicU32>);

impl Components {
    fn new(n: usize) -> Self {
        Self((0..n as u32).map(AtomicU32::new).collect())
    }

    fn first(&self, mut row: u32) -> u32 {
        loop {
            let next = self.0[row as usize].load(Relaxed);
            let after = self.0[next as usize].load(Relaxed);
            if after == next {
                return next;
            }
            // The way is halved for those who come later; another thread may have done so already.
            let _ = self.0[row as usize].compare_exchange(next, after, Relaxed, Relaxed);
            row = after;
        }
    }

    fn are_together(&self, [a, b]: [u32; 2]) -> bool {
        self.first(a) == self.first(b)
    }

    fn join(&self, [a, b]: [u32; 2]) {
        loop {
            let (a, b) = (self.first(a), self.first(b));
            let (early, late) = (a.min(b), a.max(b));
            if early == late || self.0[late as usize].compare_exchange(late, early, Relaxed, Relaxed).is_ok() {
                return;
            }
        }
    }

    /// The sets of at least two rows, each in order, by their first rows.
    fn of_several(&self) -> Vec<Vec<usize>> {
        let firsts: Vec<u32> = (0..self.0.len() as u32).into_par_iter().map(|row| self.first(row)).collect();
        // Of a first row, the number of its set, once it is known to have more than one row.
        const NONE: u32 = u32::MAX;
        let mut numbers = vec![NONE; firsts.len()];
        let mut sets: Vec<Vec<usize>> = Vec::new();
        for (row, &first) in firsts.iter().enumerate().filter(|&(row, &first)| row != first as usize) {
            let number = &mut numbers[first as usize];
            if *number == NONE {
                *number = sets.len() as u32;
                sets.push(vec![first as usize]);
            }
            sets[*number as usize].push(row);
        }
        sets.sort_unstable_by_key(|rows| rows[0]);
        sets
    }
}

fn raise(to: &AtomicU32, value: u32) {
    // Reading is cheap where many threads would write the same.
    if to.load(Relaxed) < value {
        to.fetch_max(value, Relaxed);
    }
}

fn lower(to: &AtomicU32, value: u32) {
    if to.load(Relaxed) > value {
        to.fetch_min(value, Relaxed);
    }
}

/// Whole numbers in the order of the floats.
fn ordered(number: f32) -> u32 {
    let bits = number.to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// The float of [`ordered`].
fn number(ordered: u32) -> f32 {
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_order() {
        let numbers = [f32::NEG_INFINITY, -1.0, -1e-30, -0.0, 0.0, 1e-30, 0.5, 1.0, f32::INFINITY];
        assert!(numbers.map(ordered).is_sorted());
        assert_eq!(numbers.map(ordered).map(number).map(f32::to_bits), numbers.map(f32::to_bits));
    }

    #[test]
    fn threads_join_to_the_same_sets() {
        // Rows of the same remainder of 7, by steps that make long ways, in another order on every thread.
        let n = 7_000;
        let components = Components::new(n);
        (0..64u32).into_par_iter().for_each(|thread| {
            for step in 0..n as u32 - 7 {
                let row = (step * 997 + thread * 131) % (n as u32 - 7);
                components.join([row + 7, row]);
            }
        });
        let sets = components.of_several();
        assert_eq!(sets.len(), 7);
        for (i, set) in sets.iter().enumerate() {
            assert_eq!(*set, (i..n).step_by(7).collect::<Vec<_>>());
        }
    }
}
