//! Linear evaluation: how much of the classes one linear layer can read from features.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use simclr_data::{Batch, Pictures, TestTransform, TrainTransform, augmented_batches, batches};
use simclr_ops::random::stream;
use simclr_ops::{Context, autograd};
use simclr_optim::Optimizer;

use crate::error::EvalError;
use crate::extractor::FeatureExtractor;
use crate::ranking::{Hits, rank};

/// First counter of the stream that the classifier's initial values come from: its own, shared with no other draw.
const CLASSIFIER: u64 = u64::from_be_bytes(*b"linear\0\0");

/// How the classifier is trained: Adam with L2, as the course does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearConfig {
    /// Passes over the training pictures.
    pub epochs: u64,
    /// Pictures in a batch; the last of an epoch has what is left.
    pub batch: usize,
    /// Learning rate.
    pub learning_rate: f64,
    /// L2 weight decay, in the gradient.
    pub weight_decay: f64,
    /// What the classifier's initial values are drawn from.
    pub seed: u64,
}

impl LinearConfig {
    /// The course's: ten epochs in batches of 128, learning rate 1e-3, weight decay 1e-6.
    pub const COURSE: Self = Self { epochs: 10, batch: 128, learning_rate: 1e-3, weight_decay: 1e-6, seed: 0 };
}

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

/// One epoch of a linear evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearEpoch {
    /// Which, from 1.
    pub epoch: u64,
    /// Over the training pictures as they went by, before each batch's update.
    pub train: Score,
    /// Over the test pictures, after the epoch.
    pub test: Score,
}

/// What a linear evaluation came to.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearResult {
    /// Every epoch in its order; at least one.
    pub epochs: Vec<LinearEpoch>,
    /// Pictures whose labels were learned from.
    pub labels: usize,
    /// Pictures that were tested.
    pub queries: usize,
}

impl LinearResult {
    /// The result: the test after the last epoch, which nothing was chosen by.
    pub fn last(&self) -> Score {
        self.epochs[self.epochs.len() - 1].test
    }

    /// The best test of all epochs by top-1, as the course reports it: chosen on the test set, and so a little too good.
    pub fn best(&self) -> Score {
        let better = |a: Score, b: Score| if b.top1 > a.top1 { b } else { a };
        self.epochs.iter().map(|epoch| epoch.test).reduce(better).unwrap_or(self.last())
    }
}

/// What a linear evaluation is doing.
#[derive(Clone, Copy, Debug)]
pub enum LinearEvent {
    /// Some more pictures were encoded.
    Encoded(usize),
    /// An epoch ended.
    Epoch(LinearEpoch),
}

/// Trains one linear layer on the features of augmented training pictures and tests it on those of unchanged test pictures
/// after every epoch.
///
/// Features are taken as they come, not normalised; the extractor gets no gradient. `progress` hears of every batch and epoch.
///
/// # Errors
/// [`EvalError::Unlabelled`] or [`EvalError::Label`] for a picture without a class below `classes`, [`EvalError::Empty`] for a
/// set without pictures, [`EvalError::Setting`] for a setting that cannot be, [`EvalError::Diverged`] if the loss is no longer
/// finite, and what reading and encoding report.
pub fn linear(
    extractor: &dyn FeatureExtractor,
    train: (&dyn Pictures, &TrainTransform),
    test: (&dyn Pictures, &TestTransform),
    classes: usize,
    config: &LinearConfig,
    progress: &mut dyn FnMut(LinearEvent),
) -> Result<LinearResult, EvalError> {
    config.validate()?;
    let (train_set, train_transform) = train;
    let mut classifier: Option<Classifier> = None;
    let mut fixed_test: Option<Vec<(Tensor, Vec<u32>)>> = None;
    let mut epochs = Vec::new();
    for epoch in 0..config.epochs {
        let mut train_score = Tally::default();
        for batch in augmented_batches(train_set, train_transform, config.batch, epoch) {
            let batch = batch?;
            let labels = labels(&batch, train_set, classes)?;
            let features = detached(extractor.training(&batch.pictures)?)?;
            progress(LinearEvent::Encoded(labels.len()));
            let classifier = match &mut classifier {
                Some(classifier) => classifier,
                none => none.insert(Classifier::new(features.dim(1)?, classes, config)?),
            };
            let score = classifier.learn(&features, &labels)?;
            if !score.loss.is_finite() {
                return Err(EvalError::Diverged { epoch: epoch + 1 });
            }
            train_score.add(score);
        }
        let classifier = classifier.as_ref().ok_or_else(|| EvalError::Empty { set: train_set.name().to_owned() })?;

        // Features that do not drift are the same after every epoch: once is enough.
        let test_features = match fixed_test.take().filter(|_| !extractor.drifts()) {
            Some(features) => features,
            None => encode_test(extractor, test, classes, config.batch, progress)?,
        };
        let mut test_score = Tally::default();
        for (features, labels) in &test_features {
            test_score.add(classifier.test(features, labels)?);
        }
        fixed_test = Some(test_features);
        let ended = LinearEpoch { epoch: epoch + 1, train: train_score.score(), test: test_score.score() };
        progress(LinearEvent::Epoch(ended));
        epochs.push(ended);
    }
    Ok(LinearResult { epochs, labels: train_set.len(), queries: test.0.len() })
}

impl LinearConfig {
    fn validate(&self) -> Result<(), EvalError> {
        let check = |holds: bool, field, found: String, expected| {
            if holds { Ok(()) } else { Err(EvalError::Setting { field, found, expected }) }
        };
        let Self { epochs, batch, learning_rate, weight_decay, .. } = *self;
        check(epochs > 0, "epochs", "0".into(), "at least 1")?;
        check(batch > 0, "batch", "0".into(), "at least 1")?;
        let positive = learning_rate.is_finite() && learning_rate > 0.0;
        check(positive, "learning_rate", learning_rate.to_string(), "a finite number above 0")?;
        let not_negative = weight_decay.is_finite() && weight_decay >= 0.0;
        check(not_negative, "weight_decay", weight_decay.to_string(), "a finite number from 0 up")
    }
}

/// One linear layer, PyTorch's `nn.Linear`, and its optimizer.
struct Classifier {
    weight: Var,
    bias: Var,
    optimizer: Optimizer,
    ctx: Context,
}

impl Classifier {
    /// With PyTorch's initial distribution: uniform within ±1/√width.
    fn new(width: usize, classes: usize, config: &LinearConfig) -> Result<Self, EvalError> {
        let ctx = Context::new();
        let mut draws = stream(config.seed, [CLASSIFIER, 0, 0]);
        let bound = 1.0 / (width as f64).sqrt();
        let mut uniform =
            |count: usize| -> Vec<f32> { (0..count).map(|_| (bound * (2.0 * draws.uniform() - 1.0)) as f32).collect() };
        let weight = Var::from_vec(uniform(classes * width), (classes, width), &Device::Cpu)?;
        let bias = Var::from_vec(uniform(classes), classes, &Device::Cpu)?;
        let parameters = [("weight".to_owned(), weight.clone()), ("bias".to_owned(), bias.clone())];
        let optimizer = Optimizer::adam(&parameters, config.learning_rate, config.weight_decay, &ctx)?;
        Ok(Self { optimizer, weight, bias, ctx })
    }

    fn logits(&self, features: &Tensor) -> candle_core::Result<Tensor> {
        autograd::linear(&self.ctx, features, &self.weight, Some(&self.bias))
    }

    /// One update; the score is that of before.
    fn learn(&mut self, features: &Tensor, labels: &[u32]) -> Result<BatchScore, EvalError> {
        let logits = self.logits(features)?;
        let loss = cross_entropy(&logits, &Tensor::new(labels, &Device::Cpu)?)?;
        let score = BatchScore::new(&loss, &logits, labels)?;
        if score.loss.is_finite() {
            self.optimizer.step(&loss.backward()?)?;
        }
        Ok(score)
    }

    fn test(&self, features: &Tensor, labels: &[u32]) -> Result<BatchScore, EvalError> {
        let logits = self.logits(features)?.detach();
        let loss = cross_entropy(&logits, &Tensor::new(labels, &Device::Cpu)?)?;
        BatchScore::new(&loss, &logits, labels)
    }
}

/// Mean loss and hits of one batch.
struct BatchScore {
    loss: f64,
    hits: Hits,
    count: usize,
}

impl BatchScore {
    fn new(loss: &Tensor, logits: &Tensor, labels: &[u32]) -> Result<Self, EvalError> {
        let mut hits = Hits::default();
        for (logits, &label) in logits.to_vec2::<f32>()?.iter().zip(labels) {
            hits.add(rank(logits, label as usize));
        }
        Ok(Self { loss: f64::from(loss.to_scalar::<f32>()?), hits, count: labels.len() })
    }
}

/// Batches of any size, as one mean.
#[derive(Default)]
struct Tally {
    loss: f64,
    hits: Hits,
    count: usize,
}

impl Tally {
    fn add(&mut self, batch: BatchScore) {
        self.loss += batch.loss * batch.count as f64;
        self.hits.top1 += batch.hits.top1;
        self.hits.top5 += batch.hits.top5;
        self.count += batch.count;
    }

    fn score(&self) -> Score {
        let count = self.count as f64;
        Score { loss: self.loss / count, top1: self.hits.top1 as f64 / count, top5: self.hits.top5 as f64 / count }
    }
}

/// Features and labels of the whole test set, batch by batch.
fn encode_test(
    extractor: &dyn FeatureExtractor,
    (set, transform): (&dyn Pictures, &TestTransform),
    classes: usize,
    batch: usize,
    progress: &mut dyn FnMut(LinearEvent),
) -> Result<Vec<(Tensor, Vec<u32>)>, EvalError> {
    if set.is_empty() {
        return Err(EvalError::Empty { set: set.name().to_owned() });
    }
    let encode = |batch: Result<Batch, simclr_data::DataError>| {
        let batch = batch?;
        let labels = labels(&batch, set, classes)?;
        let features = detached(extractor.testing(&batch.pictures)?)?;
        progress(LinearEvent::Encoded(labels.len()));
        Ok((features, labels))
    };
    batches(set, transform, batch).map(encode).collect()
}

/// Features as rows of f32 on the CPU, outside every graph.
fn detached(features: Tensor) -> candle_core::Result<Tensor> {
    features.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()
}

fn labels(batch: &Batch, set: &dyn Pictures, classes: usize) -> Result<Vec<u32>, EvalError> {
    let labelled = batch.indices.iter().zip(&batch.labels).map(|(&index, label)| match *label {
        None => Err(EvalError::Unlabelled { set: set.name().to_owned(), index }),
        Some(found) if found as usize >= classes => Err(EvalError::Label { argument: "pictures", found, classes }),
        Some(label) => Ok(label),
    });
    labelled.collect()
}

#[cfg(test)]
mod tests;
