//! Cosines of many rows with many, a tile at a time: made, looked through, forgotten.

use rayon::prelude::*;
use simclr_ops::product::{Instructions, Matrix, MatrixMut, Panels, product_with_panels};

use super::links::Links;

/// Rows on a side of a tile: 1 MiB of cosines.
pub(super) const SIDE: usize = 512;

/// Less than any cosine.
const NOTHING: f32 = -2.0;

/// Cosines that are compared at once, as vectors of any instruction set have it.
const LANES: usize = 16;

/// Compares all pairs: blocks of rows with themselves and all later ones.
pub(super) fn compare_all(rows: &[f32], d: usize, links: &Links, progress: &(dyn Fn(u64, u64) + Sync)) {
    let n = rows.len() / d;
    let numbers: Vec<u32> = (0..n as u32).collect();
    let blocks = n.div_ceil(SIDE);
    let all = n as u64 * (n as u64 - 1) / 2;
    let pairs = (0..blocks * blocks).into_par_iter().map(|i| [i / blocks, i % blocks]).filter(|[a, b]| a <= b);
    pairs.for_each_init(Tile::default, |tile, [a, b]| {
        let [left, right] = [a, b].map(|block| Side {
            numbers: &numbers[block * SIDE..n.min((block + 1) * SIDE)],
            rows: &rows[block * SIDE * d..n.min((block + 1) * SIDE) * d],
        });
        tile.multiply(left, right, d);
        progress(if a == b { tile.keep_upper() } else { left.numbers.len() as u64 * right.numbers.len() as u64 }, all);
        tile.look(left.numbers, right.numbers, links, |_| true);
    });
}

/// Rows of a tile, and what their numbers are.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) numbers: &'a [u32],
    /// `[numbers.len(), d]`.
    pub(super) rows: &'a [f32],
}

/// The cosines of some rows with some others, and the memory for them.
#[derive(Default)]
pub(super) struct Tile {
    panels: Panels<f32>,
    cosines: Vec<f32>,
    /// How many there are in a row.
    cols: usize,
    /// The greatest of every column.
    greatest: Vec<f32>,
}

impl Tile {
    /// Takes the cosines of `left` with `right`.
    pub(super) fn multiply(&mut self, left: Side<'_>, right: Side<'_>, d: usize) {
        let (rows, cols) = (left.numbers.len(), right.numbers.len());
        self.cols = cols;
        self.cosines.resize(rows * cols, 0.0);
        self.panels.pack_columns(right.rows, d, cols, d, false);
        let cosines = &mut MatrixMut::new(&mut self.cosines, rows, cols);
        product_with_panels(Instructions::best(), cosines, Matrix::new(left.rows, rows, d), &self.panels, false, false);
    }

    /// Forgets all but the pairs of an earlier row with a later one, where both sides are the same rows; gives how many they are.
    pub(super) fn keep_upper(&mut self) -> u64 {
        let cols = self.cols;
        self.cosines.chunks_exact_mut(cols).enumerate().for_each(|(row, cosines)| cosines[..=row].fill(NOTHING));
        (cols * (cols - 1) / 2) as u64
    }

    /// The cosines, a row of them for each row on the left.
    pub(super) fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.cosines.chunks_exact(self.cols)
    }

    /// Tells `links` of the greatest cosines, and of the pairs that reach a level and that are to be counted.
    pub(super) fn look(&mut self, left: &[u32], right: &[u32], links: &Links, is_counted: impl Fn([u32; 2]) -> bool) {
        self.greatest.clear();
        self.greatest.resize(self.cols, NOTHING);
        let floor = links.floor();
        let mut counts = vec![0u64; links.levels()];
        for (&a, cosines) in left.iter().zip(self.cosines.chunks_exact(self.cols)) {
            let greatest = greatest(cosines, &mut self.greatest);
            if greatest > NOTHING {
                links.saw(a, greatest);
            }
            if greatest < floor {
                continue;
            }
            for (&cosine, &b) in cosines.iter().zip(right).filter(|(cosine, _)| **cosine >= floor) {
                if is_counted([a, b]) {
                    let level = links.level(cosine);
                    counts[level] += 1;
                    links.link([a, b], cosine, level);
                }
            }
        }
        for (&b, &greatest) in right.iter().zip(&self.greatest).filter(|(_, greatest)| **greatest > NOTHING) {
            links.saw(b, greatest);
        }
        links.count(&counts);
    }
}

/// The greatest of some cosines; those of their columns are raised to them.
fn greatest(cosines: &[f32], columns: &mut [f32]) -> f32 {
    let greater = |a: &mut f32, b: f32| *a = if b > *a { b } else { *a };
    let mut lanes = [NOTHING; LANES];
    let (blocks, rest) = cosines.as_chunks::<LANES>();
    let (column_blocks, column_rest) = columns.as_chunks_mut::<LANES>();
    for (block, columns) in blocks.iter().zip(column_blocks) {
        for lane in 0..LANES {
            greater(&mut lanes[lane], block[lane]);
            greater(&mut columns[lane], block[lane]);
        }
    }
    for (&cosine, column) in rest.iter().zip(column_rest) {
        greater(&mut lanes[0], cosine);
        greater(column, cosine);
    }
    lanes.into_iter().fold(NOTHING, f32::max)
}
