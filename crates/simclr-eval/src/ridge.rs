//! Linear regression with a penalty: what can be read off features by a line.

use candle_core::{DType, Device, Tensor};
use nalgebra::DMatrix;

use crate::error::EvalError;

/// Strengths of the penalty that are tried, in parts of the mean variance of a feature.
const PENALTIES: [f64; 7] = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2];

/// Every so manyeth row judges the penalties.
const HELD_OUT: usize = 5;

/// What a ridge regression fitted to training rows says of test rows, for some targets.
///
/// The strength of the penalty is for each target the one that explains most of every fifth training row when fitted to the others;
/// the test rows choose nothing.
///
/// # Shapes
/// `train`: `[n, d]` with `n` values for each target, `test`: `[m, d]`, f32, on the CPU, `n` at least 10. Returns `m` values a target.
///
/// # Errors
/// [`EvalError::Shape`] or [`EvalError::NotFinite`] if they are not as above; [`EvalError::Fit`] if the equations have no solution.
pub fn ridge(train: &Tensor, targets: &[Vec<f64>], test: &Tensor) -> Result<Vec<Vec<f64>>, EvalError> {
    let (n, d) = checked("train", train, 10)?;
    let (m, width) = checked("test", test, 1)?;
    if width != d {
        let expected = format!("[m, {d}] as train");
        return Err(EvalError::Shape { argument: "test", found: vec![m, width], expected });
    }
    if let Some(target) = targets.iter().find(|target| target.len() != n) {
        let expected = format!("[{}, d], a row for each value", target.len());
        return Err(EvalError::Shape { argument: "train", found: vec![n, d], expected });
    }
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = Tensor::from_vec(targets.concat(), (targets.len(), n), &Device::Cpu)?.t()?.contiguous()?;
    let part = |held_out: bool| -> candle_core::Result<(Tensor, Tensor)> {
        let rows: Vec<u32> =
            (0..n as u32).filter(|row| (row % HELD_OUT as u32 == HELD_OUT as u32 - 1) == held_out).collect();
        let rows = Tensor::new(rows, &Device::Cpu)?;
        Ok((train.index_select(&rows, 0)?, wanted.index_select(&rows, 0)?))
    };
    let ((rows, values), (judge_rows, judge_values)) = (part(false)?, part(true)?);
    let truth = columns(&judge_values)?;
    let equations = Equations::new(&rows, &values)?;
    let mut best = vec![(f64::NEG_INFINITY, PENALTIES[0]); targets.len()];
    for penalty in PENALTIES {
        let said = equations.fit(penalty)?.values(&judge_rows)?;
        for (best, (said, truth)) in best.iter_mut().zip(said.iter().zip(&truth)) {
            let score = r2(said, truth);
            if score > best.0 {
                *best = (score, penalty);
            }
        }
    }
    let equations = Equations::new(train, &wanted)?;
    let mut all = vec![Vec::new(); targets.len()];
    for penalty in PENALTIES.into_iter().filter(|penalty| best.iter().any(|(_, chosen)| chosen == penalty)) {
        let said = equations.fit(penalty)?.values(test)?;
        let chosen = all.iter_mut().zip(said).zip(&best).filter(|(_, (_, chosen))| *chosen == penalty);
        chosen.for_each(|((values, said), _)| *values = said);
    }
    Ok(all)
}

/// The share of the variance of true values that others explain: 1 if they are the same, 0 if they do no better than the mean of the
/// truth (or there is no variance), below 0 if they do worse.
pub fn r2(values: &[f64], truth: &[f64]) -> f64 {
    let mean = truth.iter().sum::<f64>() / truth.len() as f64;
    let total: f64 = truth.iter().map(|t| (t - mean).powi(2)).sum();
    let left: f64 = values.iter().zip(truth).map(|(v, t)| (v - t).powi(2)).sum();
    if total > 0.0 { 1.0 - left / total } else { 0.0 }
}

fn checked(argument: &'static str, rows: &Tensor, least: usize) -> Result<(usize, usize), EvalError> {
    let found = rows.dims().to_vec();
    let (&[n, d], true) = (&found[..], found.iter().all(|&size| size > 0) && found[0] >= least) else {
        return Err(EvalError::Shape { argument, found, expected: format!("[n, d], n at least {least}, d above 0") });
    };
    let sums = rows.to_dtype(DType::F64)?.sum(1)?.to_vec1::<f64>()?;
    match sums.iter().position(|sum| !sum.is_finite()) {
        Some(row) => Err(EvalError::NotFinite { argument, row }),
        None => Ok((n, d)),
    }
}

fn columns(values: &Tensor) -> candle_core::Result<Vec<Vec<f64>>> {
    values.t()?.contiguous()?.to_vec2()
}

/// The normal equations of centred rows and the values that are wanted of them.
struct Equations {
    mean: Tensor,
    wanted_mean: Tensor,
    gram: DMatrix<f64>,
    right: DMatrix<f64>,
}

/// One line a target: weights `[d, targets]` and offsets `[1, targets]`.
struct Lines {
    weights: Tensor,
    offsets: Tensor,
}

impl Equations {
    fn new(rows: &Tensor, wanted: &Tensor) -> Result<Self, EvalError> {
        let rows = rows.to_dtype(DType::F64)?;
        let (mean, wanted_mean) = (rows.mean_keepdim(0)?, wanted.mean_keepdim(0)?);
        let rows = rows.broadcast_sub(&mean)?;
        let wanted = wanted.broadcast_sub(&wanted_mean)?;
        let back = rows.t()?.contiguous()?;
        let product = |right: &Tensor| -> candle_core::Result<DMatrix<f64>> {
            let (d, columns) = (back.dim(0)?, right.dim(1)?);
            Ok(DMatrix::from_row_slice(d, columns, &back.matmul(right)?.flatten_all()?.to_vec1::<f64>()?))
        };
        Ok(Self { gram: product(&rows)?, right: product(&wanted)?, mean, wanted_mean })
    }

    fn fit(&self, penalty: f64) -> Result<Lines, EvalError> {
        let (d, targets) = self.right.shape();
        // In parts of the mean variance: features of any scale get the same penalty.
        let scale = (self.gram.trace() / d as f64).max(f64::MIN_POSITIVE.sqrt());
        let matrix = &self.gram + DMatrix::identity(d, d) * (penalty * scale);
        let solved = matrix.cholesky().map(|cholesky| cholesky.solve(&self.right));
        let weights = solved.ok_or_else(|| EvalError::Fit { reason: "the normal equations are singular".into() })?;
        let weights = Tensor::from_slice(weights.transpose().as_slice(), (d, targets), &Device::Cpu)?;
        let offsets = (&self.wanted_mean - self.mean.matmul(&weights)?)?;
        Ok(Lines { weights, offsets })
    }
}

impl Lines {
    /// A column for each target.
    fn values(&self, rows: &Tensor) -> candle_core::Result<Vec<Vec<f64>>> {
        columns(&rows.to_dtype(DType::F64)?.matmul(&self.weights)?.broadcast_add(&self.offsets)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use simclr_ops::random::stream;

    #[test]
    fn a_line_is_found_and_noise_is_not() {
        let (n, m, d) = (400, 200, 6);
        let mut draws = stream(5, [0, 0, 0]);
        let mut set = |count: usize| {
            let rows: Vec<f32> = (0..count * d).map(|_| 100.0 * draws.normal() as f32).collect();
            let line: Vec<f64> = rows.chunks(d).map(|row| 3.0 + f64::from(row[0]) - 2.0 * f64::from(row[4])).collect();
            let half: Vec<f64> = line.iter().map(|x| x + 223.6 * draws.normal()).collect();
            let noise: Vec<f64> = line.iter().map(|_| draws.normal()).collect();
            (Tensor::from_vec(rows, (count, d), &Device::Cpu).unwrap(), vec![line, half, noise, vec![1.0; count]])
        };
        let (train, test) = (set(n), set(m));
        let said = ridge(&train.0, &train.1, &test.0).unwrap();
        let r2: Vec<f64> = said.iter().zip(&test.1).map(|(said, truth)| r2(said, truth)).collect();
        assert!(r2[0] > 0.999_999, "{r2:?}");
        // As much noise as line: half of the variance.
        assert!((r2[1] - 0.5).abs() < 0.1 && r2[2].abs() < 0.1 && r2[3] == 0.0, "{r2:?}");
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let zeros = |dims: [usize; 2]| Tensor::zeros(&dims, DType::F32, &Device::Cpu).unwrap();
        let refused = |train: [usize; 2], values: usize, test: [usize; 2]| {
            ridge(&zeros(train), &[vec![0.0; values]], &zeros(test)).unwrap_err().to_string()
        };
        assert!(refused([12, 2], 11, [5, 2]).contains("train has shape [12, 2], expected [11, d]"));
        assert!(refused([9, 2], 9, [5, 2]).contains("at least 10"));
        assert!(refused([12, 2], 12, [5, 3]).contains("test has shape [5, 3], expected [m, 2]"));
        let nan = (zeros([12, 2]) + f64::NAN).unwrap();
        assert!(matches!(ridge(&nan, &[], &nan), Err(EvalError::NotFinite { argument: "train", row: 0 })));
        // Features that are all the same say nothing, and are no error.
        let values: Vec<f64> = (0..12).map(f64::from).collect();
        let said = ridge(&zeros([12, 2]), std::slice::from_ref(&values), &zeros([12, 2])).unwrap();
        assert!(r2(&said[0], &values).abs() < 1e-9, "{said:?}");
    }
}
