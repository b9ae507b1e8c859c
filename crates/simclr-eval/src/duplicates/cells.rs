//! Which rows are worth comparing where all pairs would be too many: those of the same and of near cells.

use std::ops::Range;

use rayon::prelude::*;

use super::links::Links;
use super::survey::{drawn, gather, gathered};
use super::tiles::{SIDE, Side, Tile};

/// Cells that a row looks in, its own included.
const PROBES: usize = 8;

/// The rows, by cell.
pub(super) struct Cells {
    cells: usize,
    probes: usize,
    /// The cells of every row's nearest centres, the nearest first: that is its own.
    near: Vec<u32>,
    members: Lists,
    /// Rows of other cells that look in a cell.
    visitors: Lists,
}

/// Lists of rows, one after the other, each in order.
struct Lists {
    starts: Vec<usize>,
    rows: Vec<u32>,
}

/// A tile that is to be made: members of a cell with themselves or later ones, or visitors with members.
struct Task {
    cell: usize,
    are_visitors: bool,
    left: Range<usize>,
    right: Range<usize>,
}

impl Cells {
    /// Puts unit rows of `d` numbers in cells, as many as the root of their number.
    pub(super) fn of(rows: &[f32], d: usize) -> Self {
        let n = rows.len() / d;
        let centres = drawn(n, (n as f64).sqrt().ceil() as usize, 1);
        let cells = centres.len();
        let probes = PROBES.min(cells);
        let numbers: Vec<u32> = (0..cells as u32).collect();
        let centres = gathered(rows, d, &centres);
        let mut near = vec![0u32; n * probes];
        let blocks = near.par_chunks_mut(SIDE * probes).zip(rows.par_chunks(SIDE * d));
        blocks.for_each_init(Tile::default, |tile, (near, rows)| {
            let left = Side { numbers: &vec![0; rows.len() / d], rows };
            tile.multiply(left, Side { numbers: &numbers, rows: &centres }, d);
            near.chunks_exact_mut(probes).zip(tile.rows()).for_each(|(near, cosines)| nearest(cosines, near));
        });
        let by_row = || (0..).zip(near.chunks_exact(probes));
        let members = Lists::of(cells, || by_row().map(|(row, near)| (near[0] as usize, row)));
        let visitors = Lists::of(cells, || {
            by_row().flat_map(|(row, near)| near[1..].iter().map(move |&cell| (cell as usize, row)))
        });
        Self { cells, probes, near, members, visitors }
    }

    pub(super) fn cells(&self) -> usize {
        self.cells
    }

    pub(super) fn probes(&self) -> usize {
        self.probes
    }

    /// How many cosines [`Self::compare`] takes; those of a pair that look in each other's cells twice.
    pub(super) fn comparisons(&self) -> u64 {
        let of_cell = |cell: usize| {
            let [members, visitors] = [&self.members, &self.visitors].map(|lists| lists.get(cell).len() as u64);
            members * members.saturating_sub(1) / 2 + members * visitors
        };
        (0..self.cells).map(of_cell).sum()
    }

    /// Compares every row with those of the cells that it looks in.
    pub(super) fn compare(&self, rows: &[f32], d: usize, links: &Links, progress: &(dyn Fn(u64, u64) + Sync)) {
        let all = self.comparisons();
        let memory = || (Tile::default(), Vec::new(), Vec::new());
        self.tasks().into_par_iter().for_each_init(memory, |(tile, left, right), task| {
            let Task { cell, are_visitors, .. } = task;
            let from = if are_visitors { &self.visitors } else { &self.members };
            let (left_numbers, right_numbers) = (&from.get(cell)[task.left], &self.members.get(cell)[task.right]);
            gather(rows, d, left_numbers, left);
            gather(rows, d, right_numbers, right);
            tile.multiply(Side { numbers: left_numbers, rows: left }, Side { numbers: right_numbers, rows: right }, d);
            let is_diagonal = !are_visitors && left_numbers[0] == right_numbers[0];
            let made = left_numbers.len() as u64 * right_numbers.len() as u64;
            progress(if is_diagonal { tile.keep_upper() } else { made }, all);
            // Rows that look in each other's cells meet twice: once as visitor and member, once as member and visitor.
            tile.look(left_numbers, right_numbers, links, |[a, b]| !are_visitors || a < b || !self.looks_in(b, a));
        });
    }

    /// Whether `row` looks in the cell of `other`.
    fn looks_in(&self, row: u32, other: u32) -> bool {
        let own = self.near[other as usize * self.probes];
        self.near[row as usize * self.probes..][..self.probes].contains(&own)
    }

    fn tasks(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        for cell in 0..self.cells {
            let [members, visitors] = [&self.members, &self.visitors].map(|lists| lists.get(cell).len());
            let blocks = |len: usize| (0..len).step_by(SIDE).map(move |start| start..len.min(start + SIDE));
            for left in blocks(members) {
                for right in blocks(members).filter(|right| right.start >= left.start) {
                    tasks.push(Task { cell, are_visitors: false, left: left.clone(), right });
                }
            }
            for left in blocks(visitors) {
                for right in blocks(members) {
                    tasks.push(Task { cell, are_visitors: true, left: left.clone(), right });
                }
            }
        }
        tasks
    }
}

impl Lists {
    /// Of pairs of a list and a row, by row; they are gone through twice.
    fn of<I: Iterator<Item = (usize, u32)>>(lists: usize, pairs: impl Fn() -> I) -> Self {
        let mut starts = vec![0; lists + 1];
        pairs().for_each(|(list, _)| starts[list + 1] += 1);
        (0..lists).for_each(|list| starts[list + 1] += starts[list]);
        let mut next = starts.clone();
        let mut rows = vec![0; starts[lists]];
        for (list, row) in pairs() {
            rows[next[list]] = row;
            next[list] += 1;
        }
        Self { starts, rows }
    }

    fn get(&self, list: usize) -> &[u32] {
        &self.rows[self.starts[list]..self.starts[list + 1]]
    }
}

/// The places of the greatest cosines, as many as `near` has, the greatest first; of equal ones the first.
fn nearest(cosines: &[f32], near: &mut [u32]) {
    let mut greatest = [f32::NEG_INFINITY; PROBES];
    let greatest = &mut greatest[..near.len()];
    let last = near.len() - 1;
    for (place, &cosine) in (0..).zip(cosines) {
        if cosine > greatest[last] {
            let at = greatest.partition_point(|&other| other >= cosine);
            greatest[at..].rotate_right(1);
            near[at..].rotate_right(1);
            (greatest[at], near[at]) = (cosine, place);
        }
    }
}
