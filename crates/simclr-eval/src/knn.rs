//! Classification by nearest neighbours.

use std::cmp::Ordering;

use candle_core::DType;
use rayon::prelude::*;
use simclr_ops::product::{Instructions, Matrix, MatrixMut, product};

use crate::confusion::Confusion;
use crate::error::EvalError;
use crate::features::Features;

/// Bank rows of a tile of similarities, and queries at most: 2 MiB, whatever the size of the sets. The bank is packed once for all
/// queries of a tile: the more of them, the less that costs.
const TILE_QUERIES: usize = 1_024;
const TILE_BANK: usize = 512;

/// Numbers between two rows of queries.
const PADDING: usize = 16;

/// How many neighbours vote, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnnProtocol {
    /// Neighbours that vote.
    pub k: usize,
    /// A neighbour's vote weighs `exp(cosine / temperature)`; without one, all votes are equal.
    pub temperature: Option<f64>,
}

impl KnnProtocol {
    /// The course's: 200 neighbours, votes `exp(cosine / 0.5)`.
    pub const COURSE: Self = Self { k: 200, temperature: Some(0.5) };

    /// The literature's: 10 neighbours, equal votes.
    pub const LITERATURE: Self = Self { k: 10, temperature: None };
}

/// Accuracy of a kNN test.
#[derive(Clone, Debug, PartialEq)]
pub struct KnnResult {
    /// How it was voted.
    pub protocol: KnnProtocol,
    /// Share of queries whose class had the most votes.
    pub top1: f64,
    /// Share of queries whose class was among the five with the most votes.
    pub top5: f64,
    /// Pictures that voted.
    pub bank: usize,
    /// Pictures that asked.
    pub queries: usize,
    /// Which classes were taken for which.
    pub confusion: Confusion,
}

impl KnnResult {
    /// The result of the queries of all processes, from those of each by `sum`, as [`Confusion::summed`].
    ///
    /// # Errors
    /// Those of `sum`.
    pub fn summed<E>(self, sum: impl FnOnce(&mut [f64]) -> Result<(), E>) -> Result<Self, E> {
        let confusion = self.confusion.summed(sum)?;
        let queries = confusion.total() as usize;
        Ok(Self { top1: confusion.top1(), top5: confusion.top5(), queries, confusion, ..self })
    }
}

/// Classifies `queries` by the votes of their nearest neighbours in `bank`, under each of `protocols`.
///
/// Near is a large product of rows: the cosine. Among equally near neighbours that with the lower index comes first, among
/// classes with equal votes the lower class; so the result depends on nothing but its arguments. Memory beyond them is one
/// tile of similarities and the neighbours of its queries per thread.
///
/// # Shapes
/// `bank.vectors`: `[n, d]`, `queries.vectors`: `[m, d]`, f32, with `n`, `m` above 0.
///
/// # Errors
/// [`EvalError::Shape`], [`EvalError::Dtype`], [`EvalError::Label`] or [`EvalError::NotFinite`] if the features are not
/// as above, [`EvalError::Neighbours`] if a protocol asks for none or for more than the bank has,
/// [`EvalError::Temperature`] unless its temperature is finite and above 0.
pub fn knn(
    bank: &Features,
    queries: &Features,
    classes: usize,
    protocols: &[KnnProtocol],
) -> Result<Vec<KnnResult>, EvalError> {
    let bank_rows = rows("bank", bank, classes)?;
    let query_rows = rows("queries", queries, classes)?;
    let d = bank.vectors.dim(1)?;
    if queries.vectors.dim(1)? != d {
        let found = queries.vectors.dims().to_vec();
        return Err(EvalError::Shape { argument: "queries", found, expected: format!("[m, {d}] as the bank") });
    }
    let n = bank.labels.len();
    for &KnnProtocol { k, temperature } in protocols {
        if k == 0 || k > n {
            return Err(EvalError::Neighbours { k, bank: n });
        }
        if let Some(found) = temperature.filter(|t| !(t.is_finite() && *t > 0.0)) {
            return Err(EvalError::Temperature { found });
        }
    }
    let most = protocols.iter().map(|protocol| protocol.k).max().unwrap_or(0);

    // Of every tile of queries and every protocol: what they were taken for.
    let tile = tile(queries.labels.len(), rayon::current_num_threads());
    let tiles = query_rows.par_chunks(tile * d).zip(queries.labels.par_chunks(tile));
    let confusions: Vec<Vec<Confusion>> = tiles
        .map(|(rows, labels)| {
            let neighbours = nearest(rows, &bank_rows, d, most);
            let count = |protocol: &KnnProtocol| {
                let mut confusion = Confusion::new(classes);
                for (neighbours, &label) in neighbours.iter().zip(labels) {
                    let votes = votes(&neighbours[..protocol.k], &bank.labels, classes, protocol.temperature);
                    confusion.add(&votes, label as usize);
                }
                confusion
            };
            protocols.iter().map(count).collect()
        })
        .collect();
    let m = queries.labels.len();
    let result = |(i, &protocol): (usize, &KnnProtocol)| {
        let mut confusion = Confusion::new(classes);
        confusions.iter().for_each(|tile| confusion.merge(&tile[i]));
        KnnResult { protocol, top1: confusion.top1(), top5: confusion.top5(), bank: n, queries: m, confusion }
    };
    Ok(protocols.iter().enumerate().map(result).collect())
}

/// Queries of a tile: as many tiles for every thread, of equal size, none larger than it may be. No result depends on it.
fn tile(queries: usize, threads: usize) -> usize {
    let rounds = queries.div_ceil(threads * TILE_QUERIES).max(1);
    queries.div_ceil(threads * rounds).max(1)
}

/// A neighbour: its cosine and its index in the bank.
pub(crate) type Neighbour = (f32, usize);

/// Nearer first; of equals the lower index first.
pub(crate) fn by_nearness(a: &Neighbour, b: &Neighbour) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Those of the bank that may be among the `k` nearest of one query.
struct Candidates {
    k: usize,
    found: Vec<Neighbour>,
    /// The last of the `k` nearest when that was last known: whoever is not nearer does not get in.
    floor: Neighbour,
}

impl Candidates {
    fn new(k: usize) -> Self {
        Self { k, found: Vec::with_capacity(2 * k + TILE_BANK), floor: (f32::NEG_INFINITY, usize::MAX) }
    }

    /// Looks at the similarities of some of the bank, the first of which has the index `start`.
    fn look(&mut self, similarities: &[f32], start: usize) {
        for (j, &similarity) in similarities.iter().enumerate() {
            // One comparison tells most of them apart.
            if similarity >= self.floor.0 {
                let new = (similarity, start + j);
                if by_nearness(&new, &self.floor).is_lt() {
                    self.found.push(new);
                }
            }
        }
        // Not after every look: what it costs is spread over many that got in.
        if self.found.len() >= 2 * self.k {
            self.keep_nearest();
        }
    }

    fn keep_nearest(&mut self) {
        if self.found.len() >= self.k {
            self.found.select_nth_unstable_by(self.k - 1, by_nearness);
            self.found.truncate(self.k);
            self.floor = self.found[self.k - 1];
        }
    }

    fn nearest(mut self) -> Vec<Neighbour> {
        self.keep_nearest();
        self.found.sort_unstable_by(by_nearness);
        self.found
    }
}

/// The `k` nearest of the bank for every query of a tile, nearest first.
pub(crate) fn nearest(queries: &[f32], bank: &[f32], d: usize, k: usize) -> Vec<Vec<Neighbour>> {
    let rows = queries.len() / d;
    let mut candidates: Vec<Candidates> = (0..rows).map(|_| Candidates::new(k)).collect();
    // Rows a power of two apart would share the same few places of the first cache.
    let stride = d + PADDING;
    let mut padded = vec![0f32; rows * stride];
    padded.chunks_exact_mut(stride).zip(queries.chunks_exact(d)).for_each(|(to, from)| to[..d].copy_from_slice(from));
    let mut tile = vec![0f32; rows * TILE_BANK.min(bank.len() / d)];
    for (i, bank) in bank.chunks(TILE_BANK * d).enumerate() {
        let cols = bank.len() / d;
        let tile = &mut tile[..rows * cols];
        let similarities = &mut MatrixMut::new(tile, rows, cols);
        product(
            Instructions::best(),
            similarities,
            Matrix::with_row_stride(&padded, rows, d, stride),
            Matrix::new(bank, cols, d).t(),
            false,
            false,
        );
        for (candidates, similarities) in candidates.iter_mut().zip(tile.chunks_exact(cols)) {
            candidates.look(similarities, i * TILE_BANK);
        }
    }
    candidates.into_iter().map(Candidates::nearest).collect()
}

/// Votes for every class, summed from the nearest neighbour on.
fn votes(neighbours: &[Neighbour], labels: &[u32], classes: usize, temperature: Option<f64>) -> Vec<f64> {
    let mut votes = vec![0.0; classes];
    for &(similarity, index) in neighbours {
        votes[labels[index] as usize] += temperature.map_or(1.0, |t| (f64::from(similarity) / t).exp());
    }
    votes
}

/// The numbers of some features, checked.
fn rows(argument: &'static str, features: &Features, classes: usize) -> Result<Vec<f32>, EvalError> {
    let (vectors, labels) = (&features.vectors, &features.labels);
    if !matches!(*vectors.dims(), [n, d] if n == labels.len() && n > 0 && d > 0) {
        let expected = format!("[{}, d] with one row a label, and at least one", labels.len());
        return Err(EvalError::Shape { argument, found: vectors.dims().to_vec(), expected });
    }
    if vectors.dtype() != DType::F32 {
        return Err(EvalError::Dtype { argument, found: vectors.dtype() });
    }
    if let Some(&found) = labels.iter().find(|&&label| label as usize >= classes) {
        return Err(EvalError::Label { argument, found, classes });
    }
    let rows = vectors.flatten_all()?.to_vec1::<f32>()?;
    match rows.iter().position(|x| !x.is_finite()) {
        Some(place) => Err(EvalError::NotFinite { argument, row: place / vectors.dim(1)? }),
        None => Ok(rows),
    }
}

#[cfg(test)]
mod tests;
