//! NT-Xent of unit rows in f32: tiles of the symmetric similarity matrix, each once forward, exponentials in vectors.
//!
//! A similarity is at most 1, so `exp((sim - 1) / tau)` is at most 1 and, unless `tau` is very small, never too small for f32: no
//! largest logit need be looked for.

use std::ops::Range;

use rayon::prelude::*;
use simclr_ops::exponential::exponentials;
use simclr_ops::product::{Instructions, Matrix, MatrixMut, Panels, product_with_panels};

use crate::nt_xent::{TILE_COLS, TILE_ROWS};

/// Tasks of the forward pass, each with sums of its own for all columns.
const TASKS: usize = 16;

/// The smallest temperature for which `exp(-2 / tau)` is far from the end of f32's range.
pub(crate) const LOWEST_TAU: f64 = 0.05;

/// The `2n` views as unit rows, packed for products.
pub(crate) struct Symmetric<'a> {
    unit: &'a [f32],
    d: usize,
    tau: f64,
    /// For each tile of columns: its rows as columns, for similarities.
    turned: Vec<Panels<f32>>,
}

impl<'a> Symmetric<'a> {
    pub(crate) fn new(unit: &'a [f32], d: usize, tau: f64) -> Self {
        let pack = |rows: &[f32]| {
            let mut panels = Panels::default();
            panels.pack_columns(rows, d, rows.len() / d, d, false);
            panels
        };
        Self { unit, d, tau, turned: unit.par_chunks(TILE_COLS * d).map(pack).collect() }
    }

    fn count(&self) -> usize {
        self.unit.len() / self.d
    }

    /// `log Σ_{k ≠ i} exp(sim(z_i, z_k) / tau)` and `sim(z_i, z_positive(i)) / tau` for every view `i`.
    pub(crate) fn terms(&self, positive: impl Fn(usize) -> usize + Sync) -> Vec<(f64, f64)> {
        let count = self.count();
        let firsts = |task: usize| (task * TILE_ROWS..count).step_by(TASKS * TILE_ROWS);
        let partial: Vec<[Vec<f64>; 2]> = (0..TASKS)
            .into_par_iter()
            .map(|task| {
                let [mut sums, mut positives] = [vec![0.0; count], vec![0.0; count]];
                let mut of_columns = vec![0f32; TILE_COLS];
                for first in firsts(task) {
                    let rows = first..(first + TILE_ROWS).min(count);
                    // Tiles left of the diagonal are the turned ones of those right of it.
                    self.for_each_tile(rows.clone(), rows.start, |columns, tile| {
                        // The columns that no earlier rows count, and those that are not among these rows themselves.
                        let own = rows.start.max(columns.start) - columns.start;
                        let beyond = rows.end.clamp(columns.start, columns.end) - columns.start;
                        of_columns[..columns.len()].fill(0.0);
                        for (i, row) in rows.clone().zip(tile.chunks_exact_mut(columns.len())) {
                            let place = |j: usize| {
                                j.checked_sub(columns.start).filter(|&place| (own..row.len()).contains(&place))
                            };
                            let (itself, positive) = (place(i), place(positive(i)));
                            if let Some(itself) = itself {
                                row[itself] = f32::NEG_INFINITY;
                            }
                            sums[i] += exponentials(&mut row[own..], self.scale(), -self.scale());
                            of_columns[beyond..].iter_mut().zip(&row[beyond..]).for_each(|(sum, &e)| *sum += e);
                            if let Some(positive) = positive {
                                positives[i] = f64::from(row[positive]);
                                positives[columns.start + positive] = positives[i];
                            }
                        }
                        for (sum, &of_column) in sums[columns].iter_mut().zip(&*of_columns) {
                            *sum += f64::from(of_column);
                        }
                    });
                }
                [sums, positives]
            })
            .collect();
        let total = |which: usize, i: usize| partial.iter().map(|sums| sums[which][i]).sum::<f64>();
        (0..count).map(|i| (self.logarithm(total(0, i)), self.logarithm(total(1, i)))).collect()
    }

    /// [`Self::terms`] of the views in `tiles`, in their order: where other processes have the rest, no tile is another one's turned.
    pub(crate) fn terms_of(&self, tiles: &[Range<usize>], positive: impl Fn(usize) -> usize + Sync) -> Vec<(f64, f64)> {
        let of_tile = |rows: &Range<usize>| {
            let mut terms = vec![(0.0, 0.0); rows.len()];
            self.for_each_tile(rows.clone(), 0, |columns, tile| {
                let place = |j: usize| j.checked_sub(columns.start).filter(|&place| place < columns.len());
                for ((i, row), (sum, of_positive)) in
                    rows.clone().zip(tile.chunks_exact_mut(columns.len())).zip(&mut terms)
                {
                    if let Some(itself) = place(i) {
                        row[itself] = f32::NEG_INFINITY;
                    }
                    *sum += exponentials(row, self.scale(), -self.scale());
                    if let Some(positive) = place(positive(i)) {
                        *of_positive = f64::from(row[positive]);
                    }
                }
            });
            terms.into_iter().map(|(sum, positive)| (self.logarithm(sum), self.logarithm(positive)))
        };
        tiles.par_iter().flat_map_iter(of_tile).collect()
    }

    /// From `exp((sim - 1) / tau)`, or a sum of them, to the logarithm of `exp(sim / tau)`, or of their sum.
    fn logarithm(&self, sum: f64) -> f64 {
        sum.ln() + 1.0 / self.tau
    }

    /// `Σ_j (p_ij + p_ji - 2 [j = positive(i)]) u_j` for every view `i` in `tiles`, with `p_ij = exp(sim_ij / tau - log_sums_i)`.
    pub(crate) fn attractions(
        &self,
        tiles: &[Range<usize>],
        log_sums: &[f64],
        positive: impl Fn(usize) -> usize + Sync,
    ) -> Vec<f32> {
        let d = self.d;
        let shares: Vec<f32> = log_sums.iter().map(|log_sum| (1.0 / self.tau - log_sum).exp() as f32).collect();
        let pack = |rows: &[f32]| {
            let mut panels = Panels::default();
            panels.pack_lines(rows, rows.len() / d, d, d, false);
            panels
        };
        let others: Vec<Panels<f32>> = self.unit.par_chunks(TILE_COLS * d).map(pack).collect();
        let of_tile = |rows: &Range<usize>| {
            let mut sums = vec![0f32; rows.len() * d];
            self.for_each_tile(rows.clone(), 0, |columns, tile| {
                for (i, row) in rows.clone().zip(tile.chunks_exact_mut(columns.len())) {
                    exponentials(row, self.scale(), -self.scale());
                    let share = shares[i];
                    for (weight, &other) in row.iter_mut().zip(&shares[columns.clone()]) {
                        *weight *= share + other;
                    }
                    for (j, change) in [(i, None), (positive(i), Some(-2.0))] {
                        if let Some(place) = j.checked_sub(columns.start).filter(|&place| place < columns.len()) {
                            row[place] = change.map_or(0.0, |change| row[place] + change);
                        }
                    }
                }
                let weights = Matrix::new(tile, rows.len(), columns.len());
                let sums = &mut MatrixMut::new(&mut sums, rows.len(), d);
                product_with_panels(
                    Instructions::best(),
                    sums,
                    weights,
                    &others[columns.start / TILE_COLS],
                    columns.start > 0,
                    false,
                );
            });
            sums
        };
        tiles.par_iter().flat_map_iter(of_tile).collect()
    }

    /// Calls `consume(columns, similarities)` for the tiles of some rows, from the one on that holds column `first`.
    fn for_each_tile(&self, rows: Range<usize>, first: usize, mut consume: impl FnMut(Range<usize>, &mut [f32])) {
        let mut tile = vec![0f32; rows.len() * TILE_COLS.min(self.count())];
        for (i, panels) in self.turned.iter().enumerate().skip(first / TILE_COLS) {
            let columns = i * TILE_COLS..i * TILE_COLS + panels.cols();
            let tile = &mut tile[..rows.len() * columns.len()];
            let own = Matrix::new(&self.unit[rows.start * self.d..], rows.len(), self.d);
            let similarities = &mut MatrixMut::new(tile, rows.len(), columns.len());
            product_with_panels(Instructions::best(), similarities, own, panels, false, false);
            consume(columns, tile);
        }
    }

    fn scale(&self) -> f32 {
        (1.0 / self.tau) as f32
    }
}
