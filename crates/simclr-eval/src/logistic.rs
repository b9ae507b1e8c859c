//! Multinomial logistic regression by L-BFGS: the linear classifier of features that are known once and for all.

use std::cell::RefCell;

use argmin::core::{CostFunction, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use candle_core::{DType, Device, Tensor};
use nalgebra::{DMatrix, DVector};

use crate::error::EvalError;

/// Rows that are widened to f64 at once.
const ROWS: usize = 2_048;

/// Numbers that are widened once and kept, 512 MiB of them; of more, the rows are widened again at every step.
const KEPT: usize = 1 << 26;

/// Steps that L-BFGS remembers.
const MEMORY: usize = 10;

/// How a classifier is fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogisticConfig {
    /// Inverse strength of the L2 penalty on the weights, scikit-learn's `C`: the sum of all cross entropies counts `C` times, half
    /// the squared norm of the weights once; biases are free.
    pub strength: f64,
    /// The norm of the gradient of the mean cross entropy at which it is done.
    pub tolerance: f64,
    /// Steps after which it is done in any case.
    pub iterations: u64,
}

impl Default for LogisticConfig {
    fn default() -> Self {
        Self { strength: 1.0, tolerance: 1e-5, iterations: 1_000 }
    }
}

/// A fitted classifier.
#[derive(Clone, Debug)]
pub struct Logistic {
    /// Rows of the weights and the bias behind them, class by class: `classes · (d + 1)` numbers.
    numbers: Vec<f64>,
    classes: usize,
    /// Steps that it took.
    pub iterations: u64,
}

impl Logistic {
    /// Fits `scikit-learn`'s `LogisticRegression` (multinomial, L2) in f64, beginning with `start` or with zeros.
    ///
    /// # Shapes
    /// `features`: `[n, d]`, f32, on the CPU, one label below `classes` for each row.
    ///
    /// # Errors
    /// [`EvalError::Shape`], [`EvalError::Label`], [`EvalError::NotFinite`] or [`EvalError::Setting`] for arguments that are not as
    /// above; [`EvalError::Fit`] if the line search finds no way down.
    pub fn fit(
        features: &Tensor,
        labels: &[u32],
        classes: usize,
        config: &LogisticConfig,
        start: Option<&Self>,
    ) -> Result<Self, EvalError> {
        check(features, labels, classes)?;
        if !(config.strength.is_finite() && config.strength > 0.0) {
            let found = config.strength.to_string();
            return Err(EvalError::Setting {
                of: "linear evaluation",
                field: "strength",
                found,
                expected: "a finite number above 0",
            });
        }
        let d = features.dim(1)?;
        let begin = start.filter(|start| start.numbers.len() == classes * (d + 1));
        let begin = begin.map_or_else(|| vec![0.0; classes * (d + 1)], |start| start.numbers.clone());
        let penalty = 1.0 / (config.strength * labels.len() as f64);
        let widened = if features.elem_count() <= KEPT { features.to_dtype(DType::F64)? } else { features.clone() };
        let problem = Problem { features: &widened, labels, classes, d, penalty, last: RefCell::default() };
        let fit = |error: argmin::core::Error| EvalError::Fit { reason: error.to_string() };
        let solver = LBFGS::new(MoreThuenteLineSearch::new(), MEMORY)
            .with_tolerance_grad(config.tolerance)
            .and_then(|solver| solver.with_tolerance_cost(1e-12))
            .map_err(fit)?;
        let executor = Executor::new(problem, solver)
            .configure(|state| state.param(begin).max_iters(config.iterations))
            .timer(false);
        let mut result = executor.run().map_err(fit)?;
        let iterations = result.state.get_iter();
        let numbers = result.state.take_best_param().ok_or(EvalError::Fit { reason: "it took no step".into() })?;
        Ok(Self { numbers, classes, iterations })
    }

    /// The scores of every class for every row.
    ///
    /// # Shapes
    /// `features`: `[n, d]`. Returns `[n, classes]`, f64.
    ///
    /// # Errors
    /// If `d` is not that of the features it was fitted to.
    pub fn scores(&self, features: &Tensor) -> Result<Tensor, EvalError> {
        let (n, d) = features.dims2()?;
        let parts = (0..n).step_by(ROWS).map(|start| {
            let rows = features.narrow(0, start, ROWS.min(n - start))?.to_dtype(DType::F64)?;
            logits(&rows, &self.numbers, self.classes, d)
        });
        let parts: Vec<Tensor> = parts.collect::<candle_core::Result<_>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// The classifier of rows `x` of which this one knows `x · basis`, `[d, n]` with columns at right angles and of length 1.
    pub(crate) fn behind(&self, basis: &DMatrix<f64>) -> Self {
        let (d, n) = basis.shape();
        let mut numbers = Vec::with_capacity(self.classes * (d + 1));
        for own in self.numbers.chunks_exact(n + 1) {
            numbers.extend((basis * DVector::from_column_slice(&own[..n])).iter());
            numbers.push(own[n]);
        }
        Self { numbers, classes: self.classes, iterations: self.iterations }
    }

    /// Weights `[classes, d]` and biases `[classes]`, f64, as `coef_` and `intercept_`.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn parameters(&self) -> candle_core::Result<(Tensor, Tensor)> {
        let d = self.numbers.len() / self.classes - 1;
        let all = Tensor::from_slice(&self.numbers, (self.classes, d + 1), &Device::Cpu)?;
        Ok((all.narrow(1, 0, d)?.contiguous()?, all.narrow(1, d, 1)?.flatten_all()?))
    }
}

pub(crate) fn check(features: &Tensor, labels: &[u32], classes: usize) -> Result<(), EvalError> {
    let dims = features.dims();
    if dims.len() != 2 || dims[0] != labels.len() || dims[0] == 0 || dims[1] == 0 {
        let expected = format!("[{}, d], a row for each label", labels.len());
        return Err(EvalError::Shape { argument: "features", found: dims.to_vec(), expected });
    }
    if features.dtype() != DType::F32 {
        return Err(EvalError::Dtype { argument: "features", found: features.dtype() });
    }
    if let Some(&found) = labels.iter().find(|label| **label as usize >= classes) {
        return Err(EvalError::Label { argument: "features", found, classes });
    }
    let sums = features.sum(1)?.to_vec1::<f32>()?;
    match sums.iter().position(|sum| !sum.is_finite()) {
        Some(row) => Err(EvalError::NotFinite { argument: "features", row }),
        None => Ok(()),
    }
}

fn logits(rows: &Tensor, numbers: &[f64], classes: usize, d: usize) -> candle_core::Result<Tensor> {
    let all = Tensor::from_slice(numbers, (classes, d + 1), &Device::Cpu)?;
    let (weight, bias) = (all.narrow(1, 0, d)?, all.narrow(1, d, 1)?);
    rows.matmul(&weight.t()?.contiguous()?)?.broadcast_add(&bias.t()?)
}

/// Mean cross entropy and penalty, of parameters as [`Logistic`] has them.
struct Problem<'a> {
    features: &'a Tensor,
    labels: &'a [u32],
    classes: usize,
    d: usize,
    penalty: f64,
    /// The last parameters, their cost and gradient: both are asked for one after the other, and made together.
    last: RefCell<Option<Evaluated>>,
}

#[derive(Clone)]
struct Evaluated {
    numbers: Vec<f64>,
    cost: f64,
    gradient: Vec<f64>,
}

impl Problem<'_> {
    fn evaluate(&self, numbers: &[f64]) -> candle_core::Result<Evaluated> {
        if let Some(last) = self.last.borrow().as_ref().filter(|last| last.numbers == numbers) {
            return Ok(last.clone());
        }
        let (n, k, row) = (self.labels.len(), self.classes, self.d + 1);
        let (mut cost, mut gradient) = (0.0, vec![0.0; k * row]);
        for start in (0..n).step_by(ROWS) {
            let len = ROWS.min(n - start);
            let rows = self.features.narrow(0, start, len)?.to_dtype(DType::F64)?;
            let mut errors: Vec<f64> = logits(&rows, numbers, k, self.d)?.flatten_all()?.to_vec1()?;
            for (scores, &label) in errors.chunks_exact_mut(k).zip(&self.labels[start..]) {
                // Softmax minus the truth, from scores.
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let own = scores[label as usize];
                scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
                let sum: f64 = scores.iter().sum();
                cost += sum.ln() + largest - own;
                scores.iter_mut().for_each(|score| *score /= sum);
                scores[label as usize] -= 1.0;
            }
            let errors = Tensor::from_vec(errors, (len, k), &Device::Cpu)?;
            let weights: Vec<f64> = errors.t()?.contiguous()?.matmul(&rows)?.flatten_all()?.to_vec1()?;
            let biases: Vec<f64> = errors.sum(0)?.to_vec1()?;
            for (class, bias) in biases.into_iter().enumerate() {
                let (own, from) = (&mut gradient[class * row..][..row], &weights[class * self.d..][..self.d]);
                own.iter_mut().zip(from).for_each(|(sum, term)| *sum += term);
                own[self.d] += bias;
            }
        }
        cost /= n as f64;
        for (gradient, number) in gradient.chunks_exact_mut(row).zip(numbers.chunks_exact(row)) {
            gradient.iter_mut().for_each(|g| *g /= n as f64);
            for (g, w) in gradient.iter_mut().zip(&number[..self.d]) {
                *g += self.penalty * w;
                cost += 0.5 * self.penalty * w * w;
            }
        }
        let evaluated = Evaluated { numbers: numbers.to_vec(), cost, gradient };
        *self.last.borrow_mut() = Some(evaluated.clone());
        Ok(evaluated)
    }
}

impl CostFunction for Problem<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, numbers: &Vec<f64>) -> Result<f64, argmin::core::Error> {
        Ok(self.evaluate(numbers)?.cost)
    }
}

impl Gradient for Problem<'_> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, numbers: &Vec<f64>) -> Result<Vec<f64>, argmin::core::Error> {
        Ok(self.evaluate(numbers)?.gradient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> std::collections::HashMap<String, Tensor> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/logistic.safetensors");
        candle_core::safetensors::load(path, &Device::Cpu).unwrap()
    }

    fn labels(golden: &std::collections::HashMap<String, Tensor>) -> Vec<u32> {
        golden["labels"].to_vec1::<i64>().unwrap().iter().map(|label| *label as u32).collect()
    }

    #[test]
    fn coefficients_are_scikit_learn_s() {
        let golden = golden();
        let mut start = None;
        for strength in ["0.01", "1", "100"] {
            let config =
                LogisticConfig { strength: strength.parse().unwrap(), tolerance: 1e-9, ..LogisticConfig::default() };
            let fitted = Logistic::fit(&golden["features"], &labels(&golden), 4, &config, start.as_ref()).unwrap();
            let (weight, bias) = fitted.parameters().unwrap();
            let mut wanted = golden[&format!("{strength}.bias")].to_vec1::<f64>().unwrap();
            // Only differences of biases matter; both are centred here.
            let mut found = bias.to_vec1::<f64>().unwrap();
            for biases in [&mut wanted, &mut found] {
                let mean = biases.iter().sum::<f64>() / 4.0;
                biases.iter_mut().for_each(|bias| *bias -= mean);
            }
            let weights = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            found.extend(weights(&weight));
            wanted.extend(weights(&golden[&format!("{strength}.weight")]));
            for (found, wanted) in found.iter().zip(&wanted) {
                assert!((found - wanted).abs() < 1e-4 * (1.0 + wanted.abs()), "C = {strength}: {found} {wanted}");
            }
            assert!(fitted.iterations > 1);
            start = Some(fitted);
        }
    }

    #[test]
    fn scores_of_many_rows_are_those_of_few() {
        let golden = golden();
        let fitted = Logistic::fit(&golden["features"], &labels(&golden), 4, &LogisticConfig::default(), None).unwrap();
        let many = Tensor::cat(&vec![golden["features"].clone(); 20], 0).unwrap();
        let (few, all) = (fitted.scores(&golden["features"]).unwrap(), fitted.scores(&many).unwrap());
        assert_eq!(all.dims(), [2400, 4]);
        let close = (all.narrow(0, 2280, 120).unwrap() - few).unwrap().abs().unwrap().max_all().unwrap();
        assert!(close.to_scalar::<f64>().unwrap() < 1e-12);
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        let fit = |features: &Tensor, labels: &[u32], strength: f64| {
            let config = LogisticConfig { strength, ..LogisticConfig::default() };
            Logistic::fit(features, labels, 2, &config, None).unwrap_err().to_string()
        };
        assert!(fit(&zeros(&[3, 2]), &[0, 1], 1.0).contains("features has shape [3, 2], expected [2, d]"));
        assert!(fit(&zeros(&[2, 2]), &[0, 2], 1.0).contains("features has label 2, expected 0 to 1"));
        assert!(fit(&zeros(&[2, 2]), &[0, 1], 0.0).contains("strength"));
        let nan = (zeros(&[2, 2]) + f64::NAN).unwrap();
        assert!(fit(&nan, &[0, 1], 1.0).contains("feature 0 of features is not finite"));
    }
}
