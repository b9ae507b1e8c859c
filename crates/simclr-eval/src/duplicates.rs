//! Rows that are nearly the same, for finding pictures that a set has more than once.

mod cells;
mod links;
mod survey;
mod tiles;

use candle_core::Tensor;

use crate::error::EvalError;
use crate::neighbours::unit_rows;
use cells::Cells;
use links::Links;
use survey::Survey;

/// Cosines are sums in f32: what is this little below a threshold has reached it, so that a threshold of 1 finds copies.
const ROUNDING: f64 = 1e-6;

/// What is looked for, and how far it is looked.
#[derive(Clone, Debug, PartialEq)]
pub struct DuplicatesConfig {
    /// Rows of at least this cosine are linked; without one, [`Duplicates::suggested`] is taken.
    pub threshold: Option<f64>,
    /// Thresholds at which pairs and groups are counted as well.
    pub counted: Vec<f64>,
    /// All pairs are compared of at most so many rows; of more, those of near cells ([`DuplicatesMethod::Cells`]).
    pub exact_up_to: usize,
}

/// Which pairs were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicatesMethod {
    /// All.
    Exact,
    /// Some rows, drawn once and for all, are the centres of cells; a row lies in the cell of the centre that is nearest to it, and is
    /// compared with the rows of the cells of the centres that are nearest to it (an inverted file, as in Jégou, Douze and Schmid 2011).
    Cells {
        /// How many centres there are.
        cells: usize,
        /// In how many cells a row looks, its own included.
        probes: usize,
    },
}

/// Rows that are linked with one another, be it by way of others of them (single linkage).
#[derive(Clone, Debug, PartialEq)]
pub struct DuplicateGroup {
    /// The rows, at least two, in order.
    pub rows: Vec<usize>,
    /// The least cosine of a linked pair: not of any two of the group, which may be less alike than the threshold.
    pub least: f32,
    /// The greatest cosine of a linked pair.
    pub greatest: f32,
}

/// What a threshold would find.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DuplicateCount {
    /// The threshold.
    pub threshold: f64,
    /// Pairs of rows that reach it, among those compared.
    pub pairs: u64,
    /// Groups that they make.
    pub groups: usize,
    /// Rows in these groups.
    pub rows: usize,
    /// If not all pairs were compared: how many of those of a sample were found.
    pub recall: Option<Recall>,
}

/// How much an approximation finds, measured: for rows drawn at random all pairs are compared after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recall {
    /// Rows drawn.
    pub rows: usize,
    /// Pairs of one of them with any row that reach the threshold.
    pub pairs: u64,
    /// Those of these pairs whose rows are in one group.
    pub found: u64,
}

impl Recall {
    /// Found of those there are; none, if there are none.
    pub fn share(&self) -> Option<f64> {
        (self.pairs > 0).then(|| self.found as f64 / self.pairs as f64)
    }
}

/// What [`duplicates`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Duplicates {
    /// The cosine from which on rows are linked.
    pub threshold: f64,
    /// The threshold that the data suggest: `1 - (1 - usual) / 10`.
    pub suggested: f64,
    /// The median, over rows drawn at random, of the cosine of a row and the tenth nearest to it.
    pub usual: f32,
    /// Groups: the largest first, of equally large ones that with the greater cosine, then that with the first row.
    pub groups: Vec<DuplicateGroup>,
    /// One for the threshold and each of those counted, ascending.
    pub counts: Vec<DuplicateCount>,
    /// The cosines of rows and the row nearest to each, ascending: of all rows, or of the sampled ones if not all pairs were compared.
    pub nearest: Vec<f32>,
    /// Which pairs were compared.
    pub method: DuplicatesMethod,
    /// How many cosines were taken to find the groups.
    pub comparisons: u64,
}

/// Finds the groups of rows that are nearly the same.
///
/// Two rows are linked if their cosine is at least the threshold; groups are the connected components. Pairs are never stored, so
/// memory is that of a copy of the rows and some numbers for each of them, however many pairs there are; the result does not
/// depend on the number of threads. A row of zeros is like nothing. `progress` is told now and then, from any thread, how many
/// comparisons were made more, and of how many altogether.
///
/// # Shapes
/// `rows`: `[n, d]`, f32, on the CPU, with `n >= 2`, `d >= 1`.
///
/// # Errors
/// [`EvalError::Shape`], [`EvalError::Dtype`] or [`EvalError::NotFinite`] if the rows are not as above, [`EvalError::Threshold`]
/// unless all thresholds are above 0 and at most 1.
pub fn duplicates(
    rows: &Tensor,
    config: &DuplicatesConfig,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Duplicates, EvalError> {
    for &found in config.threshold.iter().chain(&config.counted) {
        if !(found > 0.0 && found <= 1.0) {
            return Err(EvalError::Threshold { found });
        }
    }
    let (numbers, d) = unit_rows("rows", rows)?;
    let n = numbers.len() / d;
    if n < 2 || u32::try_from(n).is_err() {
        let expected = format!("[n, d], n from 2 to {}", u32::MAX);
        return Err(EvalError::Shape { argument: "rows", found: vec![n, d], expected });
    }

    let survey = Survey::of(&numbers, d);
    let threshold = config.threshold.unwrap_or(survey.suggested());
    let links = Links::new(n, threshold, &config.counted);
    let all = n as u64 * (n as u64 - 1) / 2;
    // Where most rows are alike, cells can cost more than all pairs.
    let cells = (n > config.exact_up_to).then(|| Cells::of(&numbers, d)).filter(|cells| cells.comparisons() < all);
    let (method, comparisons) = match &cells {
        None => {
            tiles::compare_all(&numbers, d, &links, progress);
            (DuplicatesMethod::Exact, all)
        }
        Some(cells) => {
            cells.compare(&numbers, d, &links, progress);
            let method = DuplicatesMethod::Cells { cells: cells.cells(), probes: cells.probes() };
            (method, cells.comparisons())
        }
    };
    let recall = cells.is_some().then(|| survey::recall(&numbers, d, &links));
    let mut nearest = if cells.is_some() { survey.nearest.clone() } else { links.nearest() };
    nearest.sort_unstable_by(f32::total_cmp);
    Ok(Duplicates {
        threshold,
        suggested: survey.suggested(),
        usual: survey.usual,
        groups: links.groups(),
        counts: links.counts(recall.as_deref()),
        nearest,
        method,
        comparisons,
    })
}

#[cfg(test)]
mod tests;
