//! The strength of the penalty of a logistic regression, chosen without the test set.

use candle_core::{DType, Tensor};
use nalgebra::DMatrix;
use simclr_ops::random::stream;

use crate::confusion::Confusion;
use crate::error::EvalError;
use crate::logistic::{Logistic, LogisticConfig, check};

/// First counter of the stream that the held-out pictures are drawn from.
const HELD_OUT: u64 = u64::from_be_bytes(*b"heldout\0");

/// Inverse strengths that are tried, from strong to weak.
const STRENGTHS: [f64; 10] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4];

/// Operations that the basis of few rows may take.
const MOST_FOR_BASIS: usize = 10_000_000_000;

/// The share of every class that the strengths are judged by.
const SHARE: f64 = 0.2;

/// A classifier and how its strength was chosen.
#[derive(Clone, Debug)]
pub struct Swept {
    /// Fitted to all training pictures.
    pub classifier: Logistic,
    /// The inverse strength of its penalty.
    pub strength: f64,
    /// Every strength that was tried; empty where there were too few pictures to hold some out.
    pub tried: Vec<Tried>,
}

/// How a strength did on training pictures that the classifier did not see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tried {
    /// The inverse strength of the penalty.
    pub strength: f64,
    /// Mean cross entropy, in nats.
    pub loss: f64,
    /// Accuracy.
    pub top1: f64,
}

/// Fits a logistic regression to all rows, with the strength whose cross entropy on a held-out fifth of every class is least when
/// fitted to the rest; of equal ones, the strongest penalty.
///
/// By the loss and not by the accuracy: of some dozen held-out pictures many strengths have the same accuracy, the strongest of
/// which may be one that hardly tells classes apart.
///
/// `progress` hears of every fit, of which there are [`fits`] at most.
///
/// # Shapes
/// As [`Logistic::fit`].
///
/// # Errors
/// As [`Logistic::fit`].
pub fn sweep(
    features: &Tensor,
    labels: &[u32],
    classes: usize,
    seed: u64,
    progress: &mut dyn FnMut(),
) -> Result<Swept, EvalError> {
    check(features, labels, classes)?;
    let config = |strength| LogisticConfig { strength, ..LogisticConfig::default() };
    let mut tried = Vec::new();
    let fewer = fewer_columns(features)?;
    let features = fewer.as_ref().map_or(features, |(rows, _)| rows);
    if let Some((fit_on, judge_by)) = split(labels, classes, seed) {
        let part = |rows: &[u32]| -> Result<(Tensor, Vec<u32>), EvalError> {
            let index = Tensor::new(rows, features.device())?;
            Ok((features.index_select(&index, 0)?, rows.iter().map(|&row| labels[row as usize]).collect()))
        };
        let (fit_features, fit_labels) = part(&fit_on)?;
        let (judge_features, judge_labels) = part(&judge_by)?;
        let mut last: Option<Logistic> = None;
        for strength in STRENGTHS {
            // A weaker penalty begins where a stronger one ended.
            let fitted = Logistic::fit(&fit_features, &fit_labels, classes, &config(strength), last.as_ref())?;
            let scores = fitted.scores(&judge_features)?;
            let top1 = Confusion::of_scores(&scores, &judge_labels)?.top1();
            tried.push(Tried { strength, loss: cross_entropy(&scores, &judge_labels)?, top1 });
            last = Some(fitted);
            progress();
        }
    }
    let better = |best: Tried, next: Tried| if next.loss < best.loss { next } else { best };
    let strength = tried.iter().copied().reduce(better).map_or(1.0, |best| best.strength);
    let mut classifier = Logistic::fit(features, labels, classes, &config(strength), None)?;
    if let Some((_, basis)) = &fewer {
        classifier = classifier.behind(basis);
    }
    progress();
    Ok(Swept { classifier, strength, tried })
}

/// Rows of far more numbers than there are rows, by their coordinates in the space that they span, and its basis `[d, n]`.
///
/// The weights that the penalty makes smallest lie in that space, so the classifier is the same, found in a fraction of the time.
fn fewer_columns(features: &Tensor) -> Result<Option<(Tensor, DMatrix<f64>)>, EvalError> {
    let (n, d) = features.dims2()?;
    // The basis is made on one thread: some seconds are worth it, minutes are not.
    if 2 * n > d || 2 * d * n * n > MOST_FOR_BASIS {
        return Ok(None);
    }
    let numbers = features.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    // A row of candle's is a column of nalgebra's: the transpose, X' = Q R, so that X Q = R'.
    let (basis, triangle) = DMatrix::from_vec(d, n, numbers).qr().unpack();
    let rows = Tensor::from_slice(triangle.as_slice(), (n, n), features.device())?.to_dtype(DType::F32)?;
    Ok(Some((rows, basis)))
}

/// Mean over the rows of `scores`, in nats.
fn cross_entropy(scores: &Tensor, labels: &[u32]) -> Result<f64, EvalError> {
    let index = Tensor::new(labels, scores.device())?.unsqueeze(1)?;
    let own = scores.gather(&index, 1)?.squeeze(1)?;
    Ok((scores.log_sum_exp(1)? - own)?.mean_all()?.to_scalar()?)
}

/// Fits that a [`sweep`] takes at most.
pub const fn fits() -> usize {
    STRENGTHS.len() + 1
}

/// Rows to fit to and rows to judge by, of every class a fifth; none if no class has two.
fn split(labels: &[u32], classes: usize, seed: u64) -> Option<(Vec<u32>, Vec<u32>)> {
    let mut of_class = vec![Vec::new(); classes];
    for (row, &label) in labels.iter().enumerate() {
        of_class.get_mut(label as usize)?.push(row as u32);
    }
    let (mut fit_on, mut judge_by) = (Vec::new(), Vec::new());
    for (class, mut rows) in of_class.into_iter().enumerate() {
        stream(seed, [HELD_OUT, class as u64, 0]).shuffle(&mut rows);
        let held_out = if rows.len() < 2 { 0 } else { ((rows.len() as f64 * SHARE).round() as usize).max(1) };
        judge_by.extend(rows.drain(..held_out));
        fit_on.extend(rows);
    }
    fit_on.sort_unstable();
    judge_by.sort_unstable();
    (!judge_by.is_empty()).then_some((fit_on, judge_by))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_fifth_of_every_class_is_held_out() {
        let labels: Vec<u32> = (0..100).map(|i| i % 4).collect();
        let (fit_on, judge_by) = split(&labels, 4, 7).unwrap();
        assert_eq!((fit_on.len(), judge_by.len()), (80, 20));
        for class in 0..4 {
            assert_eq!(judge_by.iter().filter(|&&row| labels[row as usize] == class).count(), 5);
        }
        let mut all: Vec<u32> = fit_on.iter().chain(&judge_by).copied().collect();
        all.sort_unstable();
        assert!(all.iter().enumerate().all(|(i, &row)| i as u32 == row));
        assert_eq!(split(&labels, 4, 7), Some((fit_on.clone(), judge_by)));
        assert_ne!(split(&labels, 4, 8).unwrap().0, fit_on, "the seed decides which");
        assert_eq!(split(&[0, 1, 2], 3, 0), None, "one of each is too few");
    }

    #[test]
    fn noise_wants_a_stronger_penalty_than_signal() {
        let mut draws = stream(3, [0, 0, 0]);
        // Two classes; one column tells them apart, or thirty columns of noise surround it.
        let mut rows = |columns: usize, distance: f64| {
            let numbers: Vec<f32> = (0..120 * columns)
                .map(|i| {
                    let sign = if (i / columns).is_multiple_of(2) { 1.0 } else { -1.0 };
                    (draws.normal() + if i % columns == 0 { sign * distance } else { 0.0 }) as f32
                })
                .collect();
            Tensor::from_vec(numbers, (120, columns), &Device::Cpu).unwrap()
        };
        let (clear, noisy) = (rows(1, 3.0), rows(60, 1.0));
        let labels: Vec<u32> = (0..120).map(|i| i % 2).collect();
        let mut count = 0;
        let swept = sweep(&clear, &labels, 2, 0, &mut || count += 1).unwrap();
        assert_eq!((count, swept.tried.len()), (fits(), 10));
        let accuracy = |swept: &Swept, features: &Tensor| {
            Confusion::of_scores(&swept.classifier.scores(features).unwrap(), &labels).unwrap().top1()
        };
        assert!(accuracy(&swept, &clear) > 0.99);
        let swept = sweep(&noisy, &labels, 2, 0, &mut || ()).unwrap();
        let best = swept.tried.iter().copied().reduce(|a, b| if b.loss < a.loss { b } else { a }).unwrap();
        assert!(swept.strength == best.strength && best.strength < 1e3, "{:?}", swept.tried);
        assert!(best.top1 < 1.0 && best.top1 > 0.6, "some of the noise cannot be known: {:?}", swept.tried);
        let one = Tensor::new(&[[1f32], [-1.0]], &Device::Cpu).unwrap();
        assert!(sweep(&one, &[0, 1], 2, 0, &mut || ()).unwrap().tried.is_empty());
    }

    #[test]
    fn few_pictures_are_no_reason_to_guess() {
        // Ten pictures of each of two classes, well apart: four are held out, and every penalty gets them right, the strongest too.
        let mut draws = stream(5, [0, 0, 0]);
        let numbers: Vec<f32> =
            (0..20 * 4).map(|i| (0.3 * draws.normal() + if (i / 4) % 2 == 0 { 1.0 } else { -1.0 }) as f32).collect();
        let features = Tensor::from_vec(numbers, (20, 4), &Device::Cpu).unwrap();
        let labels: Vec<u32> = (0..20).map(|i| i % 2).collect();
        let swept = sweep(&features, &labels, 2, 0, &mut || ()).unwrap();
        assert!(swept.tried.iter().all(|tried| tried.top1 == 1.0), "{:?}", swept.tried);
        let loss = cross_entropy(&swept.classifier.scores(&features).unwrap(), &labels).unwrap();
        assert!(swept.strength >= 1.0 && loss < 0.1, "strength {}, loss {loss}", swept.strength);
    }

    #[test]
    fn rows_of_many_numbers_have_the_same_classifier() {
        let (n, d) = (30, 200);
        let mut draws = stream(8, [0, 0, 0]);
        let mut rows: Vec<f32> = (0..n * d).map(|_| draws.normal() as f32).collect();
        // One row twice: what they span has fewer directions than there are rows.
        let (first, others) = rows.split_at_mut(d);
        others[..d].copy_from_slice(first);
        let labels: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
        let features = Tensor::from_vec(rows, (n, d), &Device::Cpu).unwrap();
        let swept = sweep(&features, &labels, 3, 0, &mut || ()).unwrap();
        let config = LogisticConfig { strength: swept.strength, ..LogisticConfig::default() };
        let whole = Logistic::fit(&features, &labels, 3, &config, None).unwrap();
        let difference = (swept.classifier.scores(&features).unwrap() - whole.scores(&features).unwrap()).unwrap();
        let largest = difference.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(largest < 1e-3, "{largest}");
        assert_eq!(swept.classifier.parameters().unwrap().0.dims(), [3, d]);
    }

    #[test]
    fn cross_entropy_is_that_of_the_labels() {
        let scores = Tensor::new(&[[0f64, 0.0], [3f64.ln(), 0.0]], &Device::Cpu).unwrap();
        let expected = (2f64.ln() + 4f64.ln()) / 2.0;
        assert!((cross_entropy(&scores, &[0, 1]).unwrap() - expected).abs() < 1e-12);
    }
}
