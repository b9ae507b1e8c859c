use candle_core::{DType, Device};
use simclr_ops::random::stream;

use super::*;

const COUNTED: [f64; 3] = [0.7, 0.9, 0.99];

/// Rows around few directions, so that cosines are of all sizes; some are copies, some longer copies, some zeros.
fn rows(n: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut draws = stream(seed, [0; 3]);
    let directions: Vec<f32> = (0..(n / 4 + 1) * d).map(|_| draws.normal() as f32).collect();
    let mut rows = vec![0f32; n * d];
    for row in rows.chunks_mut(d) {
        let direction = draws.below((n / 4 + 1) as u64) as usize;
        let noise = [0.0, 0.02, 0.1, 0.5, 2.0][draws.below(5) as usize];
        let length = 0.1 + 3.0 * draws.uniform();
        for (x, &towards) in row.iter_mut().zip(&directions[direction * d..]) {
            *x = (length * (f64::from(towards) + noise * draws.normal())) as f32;
        }
        if draws.below(20) == 0 {
            row.fill(0.0);
        }
    }
    rows
}

fn tensor(rows: &[f32], d: usize) -> Tensor {
    Tensor::from_slice(rows, (rows.len() / d, d), &Device::Cpu).unwrap()
}

fn exact(threshold: f64) -> DuplicatesConfig {
    DuplicatesConfig { threshold: Some(threshold), counted: COUNTED.to_vec(), exact_up_to: usize::MAX }
}

fn find(rows: &Tensor, config: &DuplicatesConfig) -> Duplicates {
    duplicates(rows, config, &|_, _| {}).unwrap()
}

/// The definition, in f64: all pairs; components by spreading the smallest number of a component until nothing changes.
struct Oracle {
    cosines: Vec<Vec<f64>>,
}

impl Oracle {
    fn of(rows: &[f32], d: usize) -> Self {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let cosine = |a: &[f32], b: &[f32]| match (dot(a, a) * dot(b, b)).sqrt() {
            0.0 => 0.0,
            lengths => dot(a, b) / lengths,
        };
        Self { cosines: rows.chunks(d).map(|a| rows.chunks(d).map(|b| cosine(a, b)).collect()).collect() }
    }

    /// Linked pairs; no test has a cosine that rounding could put on the other side.
    fn pairs(&self, threshold: f64) -> Vec<(usize, usize, f64)> {
        let mut pairs = Vec::new();
        for (a, cosines) in self.cosines.iter().enumerate() {
            for (b, &cosine) in cosines.iter().enumerate().skip(a + 1) {
                let distance = cosine - (threshold - ROUNDING);
                assert!(distance.abs() > 2e-7 || (threshold - 1.0).abs() < 1e-9, "{a} and {b}: {cosine}");
                if distance >= 0.0 {
                    pairs.push((a, b, cosine));
                }
            }
        }
        pairs
    }

    fn groups(&self, threshold: f64) -> Vec<DuplicateGroup> {
        let pairs = self.pairs(threshold);
        let mut first: Vec<usize> = (0..self.cosines.len()).collect();
        loop {
            let before = first.clone();
            for &(a, b, _) in &pairs {
                let least = first[a].min(first[b]);
                (first[a], first[b]) = (least, least);
            }
            if before == first {
                break;
            }
        }
        let mut groups = Vec::new();
        for of in 0..first.len() {
            let rows: Vec<usize> = (0..first.len()).filter(|&row| first[row] == of).collect();
            if rows.len() > 1 {
                let cosines = || pairs.iter().filter(|pair| first[pair.0] == of).map(|pair| pair.2);
                let (least, greatest) = (cosines().fold(2.0, f64::min), cosines().fold(-2.0, f64::max));
                groups.push(DuplicateGroup { rows, least: least as f32, greatest: greatest as f32 });
            }
        }
        groups
    }
}

fn agrees(found: &Duplicates, oracle: &Oracle, threshold: f64, what: &str) {
    let mut groups = found.groups.clone();
    let order = |a: &DuplicateGroup, b: &DuplicateGroup| {
        (b.rows.len(), b.greatest, a.rows[0]).partial_cmp(&(a.rows.len(), a.greatest, b.rows[0])).unwrap()
    };
    assert!(groups.is_sorted_by(|a, b| order(a, b).is_le()), "{what}");
    groups.sort_by_key(|group| group.rows[0]);
    let expected = oracle.groups(threshold);
    assert_eq!(groups.len(), expected.len(), "{what}");
    for (group, expected) in groups.iter().zip(expected) {
        assert_eq!(group.rows, expected.rows, "{what}");
        let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(near(group.least, expected.least) && near(group.greatest, expected.greatest), "{what}: {group:?}");
        assert!(group.greatest <= 1.0);
    }
    assert!(found.counts.is_sorted_by(|a, b| a.threshold < b.threshold));
    for count in &found.counts {
        let groups = oracle.groups(count.threshold);
        let expected = (oracle.pairs(count.threshold).len() as u64, groups.len());
        assert_eq!((count.pairs, count.groups), expected, "{what} {}", count.threshold);
        assert_eq!(count.rows, groups.iter().map(|group| group.rows.len()).sum::<usize>(), "{what}");
    }
}

#[test]
fn groups_are_those_of_the_definition() {
    // Two rows, part of a tile, exactly one, one more, several; widths below, at and beyond a vector.
    let side = tiles::SIDE;
    for (n, d) in [(2, 1), (3, 5), (31, 16), (33, 17), (side, 8), (side + 1, 7), (2 * side + 77, 19)] {
        let numbers = rows(n, d, 1);
        let oracle = Oracle::of(&numbers, d);
        for threshold in [0.5, 0.9, 0.95, 1.0] {
            let found = find(&tensor(&numbers, d), &exact(threshold));
            agrees(&found, &oracle, threshold, &format!("{n} x {d} at {threshold}"));
            assert_eq!((found.method, found.comparisons), (DuplicatesMethod::Exact, (n * (n - 1) / 2) as u64));
            assert_eq!((found.threshold, found.nearest.len()), (threshold, n));
            let mut nearest: Vec<f64> = (0..n)
                .map(|a| (0..n).filter(|&b| b != a).map(|b| oracle.cosines[a][b]).fold(f64::NEG_INFINITY, f64::max))
                .collect();
            nearest.sort_by(f64::total_cmp);
            assert!(found.nearest.iter().zip(nearest).all(|(&a, b)| (f64::from(a) - b).abs() < 1e-6));
        }
    }
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let d = 12;
    let rows = tensor(&rows(3 * tiles::SIDE + 5, d, 2), d);
    for exact_up_to in [usize::MAX, 100] {
        let config = DuplicatesConfig { exact_up_to, ..exact(0.9) };
        let of = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| find(&rows, &config))
        };
        let one = of(1);
        assert!(!one.groups.is_empty());
        for threads in [2, 3, 8] {
            assert_eq!(of(threads), one, "{threads} threads, {exact_up_to}");
        }
    }
}

#[test]
fn a_chain_is_one_group_and_zeros_are_none() {
    // Steps of ten degrees: neighbours have cosine 0.985, the ends 0.174; then two rows of zeros, and one alone.
    let angle = |degrees: f32| [degrees.to_radians().cos(), degrees.to_radians().sin()];
    let mut numbers: Vec<[f32; 2]> = (0..9u8).map(|step| angle(10.0 * f32::from(step))).collect();
    numbers.extend([[0.0, 0.0], [0.0, 0.0], angle(200.0)]);
    let found = find(&tensor(numbers.as_flattened(), 2), &exact(0.98));
    assert_eq!(found.groups.len(), 1);
    assert_eq!(found.groups[0].rows, (0..9).collect::<Vec<_>>());
    assert!((found.groups[0].least - 0.98481).abs() < 1e-5 && (found.groups[0].greatest - 0.98481).abs() < 1e-5);
    let none = find(&tensor(&[0.0; 8], 2), &exact(1e-9));
    assert_eq!((none.groups.len(), none.counts.last().unwrap().pairs), (0, 0));
    assert_eq!(none.nearest, [0.0; 4]);
}

#[test]
fn rows_that_are_all_the_same_are_one_group() {
    // Every pair is linked at every threshold: 2 million pairs, of which none is kept.
    let (n, d) = (2_000, 33);
    let one = rows(1, d, 3);
    assert!(one.iter().any(|x| *x != 0.0));
    let numbers: Vec<f32> = (0..n).flat_map(|i| one.iter().map(move |x| x * (1.0 + i as f32 / 7.0))).collect();
    for exact_up_to in [usize::MAX, 100] {
        let found = find(&tensor(&numbers, d), &DuplicatesConfig { exact_up_to, ..exact(1.0) });
        assert_eq!(found.groups.len(), 1);
        assert_eq!((found.groups[0].rows.len(), found.groups[0].greatest), (n, 1.0));
        assert!(found.counts.iter().all(|count| (count.pairs, count.groups, count.rows) == (1_999_000, 1, n)));
        // One cell has them all: no cell saves anything, and none would be less than all pairs.
        assert_eq!(found.method, DuplicatesMethod::Exact);
        assert_eq!((found.usual, found.suggested), (found.usual.min(1.0), 1.0 - (1.0 - f64::from(found.usual)) / 10.0));
    }
}

#[test]
fn near_cells_find_most_and_say_how_many() {
    // 3,000 random rows, of every tenth a copy that is a little away from it.
    let (n, d) = (3_000, 24);
    let mut draws = stream(4, [0; 3]);
    let mut numbers: Vec<f32> = (0..n * d).map(|_| draws.normal() as f32).collect();
    for row in (0..n).step_by(10) {
        for i in 0..d {
            numbers[(row + 5) * d + i] = numbers[row * d + i] + 0.05 * draws.normal() as f32;
        }
    }
    let rows = tensor(&numbers, d);
    let whole = find(&rows, &exact(0.99));
    assert_eq!(whole.groups.len(), 300);
    assert!(whole.counts.iter().all(|count| count.recall.is_none()));

    let near = find(&rows, &DuplicatesConfig { exact_up_to: n - 1, ..exact(0.99) });
    assert_eq!(near.method, DuplicatesMethod::Cells { cells: 55, probes: 8 });
    assert!(near.comparisons < whole.comparisons / 2, "{}", near.comparisons);
    let pairs = |found: &Duplicates| found.counts.iter().map(|count| count.pairs).collect::<Vec<_>>();
    assert!(pairs(&near).iter().zip(pairs(&whole)).all(|(&near, whole)| near <= whole));
    // All rows are in the sample: what is measured is the truth.
    for (near, whole) in near.counts.iter().zip(&whole.counts) {
        let recall = near.recall.unwrap();
        assert_eq!((recall.rows, recall.pairs), (n, whole.pairs));
        assert!(recall.found >= near.pairs && recall.found <= recall.pairs);
        assert!(near.threshold < 0.9 || recall.found * 100 >= recall.pairs * 98, "{near:?}");
    }
    // Of those that it found all are right, with the same cosines.
    for group in &near.groups {
        let same = whole.groups.iter().find(|other| other.rows == group.rows).unwrap();
        assert!((same.least - group.least).abs() < 1e-6 && (same.greatest - group.greatest).abs() < 1e-6);
    }
    assert_eq!(find(&rows, &DuplicatesConfig { exact_up_to: n, ..exact(0.99) }).method, DuplicatesMethod::Exact);
}

#[test]
fn a_threshold_is_suggested_by_what_is_usual() {
    // 400 random rows and a copy of each of the first forty: copies do not change what is usual.
    let d = 16;
    let mut draws = stream(5, [0; 3]);
    let mut numbers: Vec<f32> = (0..400 * d).map(|_| draws.normal() as f32).collect();
    numbers.extend_from_within(..40 * d);
    let oracle = Oracle::of(&numbers, d);
    let mut tenth: Vec<f64> = oracle
        .cosines
        .iter()
        .enumerate()
        .map(|(row, cosines)| {
            let mut others: Vec<f64> = cosines.iter().enumerate().filter(|(b, _)| *b != row).map(|(_, c)| *c).collect();
            others.sort_by(|a, b| b.total_cmp(a));
            others[9]
        })
        .collect();
    tenth.sort_by(f64::total_cmp);
    let found = find(&tensor(&numbers, d), &DuplicatesConfig { threshold: None, ..exact(1.0) });
    assert!((f64::from(found.usual) - tenth[220]).abs() < 1e-6, "{} {}", found.usual, tenth[220]);
    assert_eq!(found.threshold, found.suggested);
    assert_eq!(found.groups.len(), 40);
    assert!(found.groups.iter().all(|group| group.rows[1] == group.rows[0] + 400));
}

#[test]
fn progress_adds_up() {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    let d = 6;
    let rows = tensor(&rows(1_500, d, 6), d);
    for exact_up_to in [usize::MAX, 100] {
        let (done, of) = (AtomicU64::new(0), AtomicU64::new(0));
        let count = |more, all| {
            done.fetch_add(more, Relaxed);
            of.store(all, Relaxed);
        };
        let found = duplicates(&rows, &DuplicatesConfig { exact_up_to, ..exact(0.9) }, &count).unwrap();
        assert_eq!([done.into_inner(), of.into_inner()], [found.comparisons; 2]);
    }
}

#[test]
fn wrong_arguments_are_named() {
    let rows = tensor(&[1.0, 0.0, 0.0, 1.0], 2);
    let message =
        |rows: &Tensor, config: &DuplicatesConfig| duplicates(rows, config, &|_, _| {}).unwrap_err().to_string();
    for wrong in [0.0, -0.5, 1.000_001, f64::NAN, f64::INFINITY] {
        for config in [exact(wrong), DuplicatesConfig { counted: vec![wrong], ..exact(0.9) }] {
            let message = message(&rows, &config);
            assert_eq!(
                message,
                format!("the threshold of duplicates is {wrong}, expected a cosine above 0 and at most 1")
            );
        }
    }
    for (wrong, expected) in [
        (tensor(&[1.0, 2.0], 2), "rows has shape [1, 2], expected [n, d], n from 2 to 4294967295"),
        (tensor(&[1.0, 2.0], 2).flatten_all().unwrap(), "rows has shape [2], expected [n, d]"),
        (rows.to_dtype(DType::F64).unwrap(), "rows has elements of type F64, expected F32"),
        (tensor(&[1.0, 0.0, f32::NAN, 1.0], 2), "feature 1 of rows is not finite"),
        (tensor(&[1.0, f32::INFINITY, 0.0, 1.0], 2), "feature 0 of rows is not finite"),
    ] {
        let message = message(&wrong, &exact(0.9));
        assert!(message.starts_with(expected), "{message}");
    }
}
