//! Linear evaluation: how much of the classes one linear layer can read from features.

use candle_core::{DType, Device, Tensor};
use simclr_data::{Batch, Pictures, TestTransform, TrainTransform, augmented_batches, batches};
use simclr_model::Classifier;
use simclr_ops::Context;
use simclr_optim::Optimizer;

use crate::error::EvalError;
use crate::extractor::FeatureExtractor;
use crate::score::{BatchScore, Score, Tally, check_training, labels};

/// What errors call it.
const LINEAR: &str = "linear evaluation";

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
    let LinearConfig { learning_rate, weight_decay, .. } = *config;
    check_training(LINEAR, (config.epochs, config.batch), (learning_rate, weight_decay))?;
    let (train_set, train_transform) = train;
    let mut learner: Option<Learner> = None;
    let mut fixed_test: Option<Vec<(Tensor, Vec<u32>)>> = None;
    let mut epochs = Vec::new();
    for epoch in 0..config.epochs {
        let mut train_score = Tally::default();
        for batch in augmented_batches(train_set, train_transform, config.batch, epoch) {
            let batch = batch?;
            let labels = labels(&batch, train_set, classes)?;
            let features = detached(extractor.training(&batch.pictures)?)?;
            progress(LinearEvent::Encoded(labels.len()));
            let learner = match &mut learner {
                Some(learner) => learner,
                none => none.insert(Learner::new(features.dim(1)?, classes, config)?),
            };
            let score = learner.learn(&features, &labels)?;
            if !score.loss.is_finite() {
                return Err(EvalError::Diverged { of: LINEAR, epoch: epoch + 1 });
            }
            train_score.add(&score);
        }
        let learner = learner.as_ref().ok_or_else(|| EvalError::Empty { set: train_set.name().to_owned() })?;

        // Features that do not drift are the same after every epoch: once is enough.
        let test_features = match fixed_test.take().filter(|_| !extractor.drifts()) {
            Some(features) => features,
            None => encode_test(extractor, test, classes, config.batch, progress)?,
        };
        let mut test_score = Tally::default();
        for (features, labels) in &test_features {
            test_score.add(&learner.test(features, labels)?);
        }
        fixed_test = Some(test_features);
        let ended = LinearEpoch { epoch: epoch + 1, train: train_score.score(), test: test_score.score() };
        progress(LinearEvent::Epoch(ended));
        epochs.push(ended);
    }
    Ok(LinearResult { epochs, labels: train_set.len(), queries: test.0.len() })
}

/// One linear layer and its optimizer.
struct Learner {
    classifier: Classifier,
    optimizer: Optimizer,
}

impl Learner {
    fn new(width: usize, classes: usize, config: &LinearConfig) -> Result<Self, EvalError> {
        let ctx = Context::new();
        let classifier = Classifier::new(width, classes, config.seed, (DType::F32, &Device::Cpu), &ctx)?;
        let optimizer = Optimizer::adam(&classifier.parameters(), config.learning_rate, config.weight_decay, &ctx)?;
        Ok(Self { classifier, optimizer })
    }

    /// One update; the score is that of before.
    fn learn(&mut self, features: &Tensor, labels: &[u32]) -> Result<BatchScore, EvalError> {
        let (score, loss) = BatchScore::of(&self.classifier.logits(features)?, labels)?;
        if score.loss.is_finite() {
            self.optimizer.step(&loss.backward()?)?;
        }
        Ok(score)
    }

    fn test(&self, features: &Tensor, labels: &[u32]) -> Result<BatchScore, EvalError> {
        Ok(BatchScore::of(&self.classifier.logits(features)?.detach(), labels)?.0)
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

#[cfg(test)]
mod tests;
