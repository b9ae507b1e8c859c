//! Loss and accuracies of classifiers, batch by batch.

use candle_core::{DType, Device, Tensor};
use candle_nn::loss::cross_entropy;
use simclr_data::{Batch, Pictures};

use crate::error::EvalError;
use crate::ranking::{Hits, rank};

/// Mean loss and accuracies over a set, as fractions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Mean cross entropy, in nats.
    pub loss: f64,
    /// Share of the pictures whose class came first.
    pub top1: f64,
    /// Share of the pictures whose class was among the first five.
    pub top5: f64,
}

/// Mean loss and hits of one batch.
pub(crate) struct BatchScore {
    pub(crate) loss: f64,
    hits: Hits,
    count: usize,
}

impl BatchScore {
    /// Of what a classifier says, `[n, classes]`; and the mean cross entropy of it as a tensor, to follow its gradient.
    pub(crate) fn of(logits: &Tensor, labels: &[u32]) -> Result<(Self, Tensor), EvalError> {
        let loss = cross_entropy(logits, &Tensor::new(labels, &Device::Cpu)?)?;
        let mut hits = Hits::default();
        for (logits, &label) in logits.to_dtype(DType::F64)?.to_vec2::<f64>()?.iter().zip(labels) {
            hits.add(rank(logits, label as usize));
        }
        let value = loss.to_dtype(DType::F64)?.to_scalar()?;
        Ok((Self { loss: value, hits, count: labels.len() }, loss))
    }
}

/// Batches of any size, as one mean.
#[derive(Default)]
pub(crate) struct Tally {
    loss: f64,
    hits: Hits,
    count: usize,
}

impl Tally {
    pub(crate) fn add(&mut self, batch: &BatchScore) {
        self.loss += batch.loss * batch.count as f64;
        self.hits.top1 += batch.hits.top1;
        self.hits.top5 += batch.hits.top5;
        self.count += batch.count;
    }

    pub(crate) fn score(&self) -> Score {
        let count = self.count as f64;
        Score { loss: self.loss / count, top1: self.hits.top1 as f64 / count, top5: self.hits.top5 as f64 / count }
    }
}

/// The classes of a batch of `set`.
///
/// # Errors
/// [`EvalError::Unlabelled`] or [`EvalError::Label`] for a picture without one below `classes`.
pub(crate) fn labels(batch: &Batch, set: &dyn Pictures, classes: usize) -> Result<Vec<u32>, EvalError> {
    let labelled = batch.indices.iter().zip(&batch.labels).map(|(&index, label)| match *label {
        None => Err(EvalError::Unlabelled { set: set.name().to_owned(), index }),
        Some(found) if found as usize >= classes => Err(EvalError::Label { argument: "pictures", found, classes }),
        Some(label) => Ok(label),
    });
    labelled.collect()
}

/// How a classifier's training is described, checked.
///
/// # Errors
/// [`EvalError::Setting`] naming the setting that cannot be, `of` the training.
pub(crate) fn check_training(
    of: &'static str,
    (epochs, batch): (u64, usize),
    (learning_rate, weight_decay): (f64, f64),
) -> Result<(), EvalError> {
    let check = |holds: bool, field, found: String, expected| {
        if holds { Ok(()) } else { Err(EvalError::Setting { of, field, found, expected }) }
    };
    check(epochs > 0, "epochs", "0".into(), "at least 1")?;
    check(batch > 0, "batch", "0".into(), "at least 1")?;
    let positive = learning_rate.is_finite() && learning_rate > 0.0;
    check(positive, "learning_rate", learning_rate.to_string(), "a finite number above 0")?;
    let not_negative = weight_decay.is_finite() && weight_decay >= 0.0;
    check(not_negative, "weight_decay", weight_decay.to_string(), "a finite number from 0 up")
}
