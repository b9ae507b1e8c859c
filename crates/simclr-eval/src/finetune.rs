//! Fine-tuning: what a whole network learns from some labels, begun with an encoder.

use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::Tensor;
use simclr_data::{Pictures, TestTransform, TrainTransform, batches, even_batches_ahead};
use simclr_model::{Classifier, Model};
use simclr_ops::Context;
use simclr_optim::{Decay, Group, Momentum, Optimizer, Rule, Schedule};

use crate::confusion::Confusion;
use crate::error::EvalError;
use crate::score::{BatchScore, Score, Tally, check_training, labels};

/// What errors call it.
const FINE_TUNING: &str = "fine-tuning";

/// Pictures that are tested at once.
const TEST_BATCH: usize = 128;

/// Threads that make views ahead.
const WORKERS: usize = 1;

/// How a network is fine-tuned: by SGD with Nesterov momentum 0.9 and a learning rate that falls to 0 by half a cosine, step by
/// step, without warm-up (Chen et al. 2020, arXiv:2002.05709, appendix B.5; the cosine is in the paper's code).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FinetuneConfig {
    /// Passes over the labelled pictures.
    pub epochs: u64,
    /// Pictures in a batch at most; those of an epoch are as equal as they can be.
    pub batch: usize,
    /// Learning rate of the first step.
    pub learning_rate: f64,
    /// L2 weight decay, in the gradient of weights; biases and batch norm have none.
    pub weight_decay: f64,
    /// What the classifier's initial values are drawn from.
    pub seed: u64,
}

impl FinetuneConfig {
    /// What a step keeps of the velocity.
    pub const MOMENTUM: Momentum = Momentum { momentum: 0.9, nesterov: true };

    /// A learning rate for batches of at most so many pictures: 0.2 for 256, in proportion.
    ///
    /// The paper has 0.05 for 256, with batches of 4,096 and so many labels that they make a thousand steps. Few labels make few and
    /// small ones: four times that did better on pictures of CIFAR-10's training split that nothing else had seen.
    pub fn default_learning_rate(batch: usize) -> f64 {
        0.2 * batch as f64 / 256.0
    }
}

/// What fine-tuning is doing.
#[derive(Clone, Copy, Debug)]
pub enum FinetuneEvent {
    /// So many pictures were learned from.
    Learned(usize),
    /// Epoch `.0`, from 1, ended; over its pictures as they went by, before each step.
    Epoch(u64, Score),
    /// So many pictures were tested.
    Tested(usize),
}

/// What fine-tuning came to; the encoder is the model's.
#[derive(Debug)]
pub struct Finetuned {
    /// The layer that was put on the encoder's features.
    pub classifier: Classifier,
    /// Every epoch in its order, as in [`FinetuneEvent::Epoch`].
    pub epochs: Vec<Score>,
    /// The test, after the last epoch: nothing was chosen by it.
    pub test: Score,
    /// Which classes were taken for which in it.
    pub confusion: Confusion,
}

/// Trains the encoder of `model` and a new linear layer on its features (not normalised, as [`crate::linear`] takes them) to tell
/// the classes of augmented training pictures, and tests both once, at the end, on unchanged test pictures.
///
/// Batch norm is in training mode while it learns. The model is another one afterwards; its projection head has no part in it.
/// `heard` hears of every batch and epoch; where it breaks off, the result is none and the model half trained.
///
/// # Errors
/// [`EvalError::Unlabelled`] or [`EvalError::Label`] for a picture without a class of the training set, [`EvalError::Empty`] for a
/// set without pictures, [`EvalError::Setting`] for a setting that cannot be, [`EvalError::Diverged`] if the loss or its gradient
/// is no longer finite, and what reading and encoding report.
pub fn finetune(
    model: &Model,
    (train, train_transform): (&Arc<dyn Pictures>, &TrainTransform),
    (test, test_transform): (&dyn Pictures, &TestTransform),
    config: &FinetuneConfig,
    heard: &mut dyn FnMut(FinetuneEvent) -> ControlFlow<()>,
) -> Result<Option<Finetuned>, EvalError> {
    let FinetuneConfig { epochs, batch, learning_rate, weight_decay, .. } = *config;
    check_training(FINE_TUNING, (epochs, batch), (learning_rate, weight_decay))?;
    for set in [train.as_ref(), test] {
        if set.is_empty() {
            return Err(EvalError::Empty { set: set.name().to_owned() });
        }
    }
    let classes = train.classes().len();
    let mut learner = Learner::new(model, classes, train.len().div_ceil(batch) as u64, config)?;
    let mut scores = Vec::new();
    for epoch in 0..epochs {
        let mut tally = Tally::default();
        for batch in even_batches_ahead(train.clone(), train_transform.clone(), batch, epoch, WORKERS)? {
            let batch = batch?;
            let score = learner.learn(&batch.pictures, &labels(&batch, train.as_ref(), classes)?)?;
            tally.add(&score.ok_or(EvalError::Diverged { of: FINE_TUNING, epoch: epoch + 1 })?);
            if heard(FinetuneEvent::Learned(batch.indices.len())).is_break() {
                return Ok(None);
            }
        }
        scores.push(tally.score());
        if heard(FinetuneEvent::Epoch(epoch + 1, tally.score())).is_break() {
            return Ok(None);
        }
    }

    let encoder = model.freeze();
    let (mut tally, mut confusion) = (Tally::default(), Confusion::new(classes));
    for batch in batches(test, test_transform, TEST_BATCH) {
        let batch = batch?;
        let logits = learner.classifier.logits(&encoder.features(&batch.pictures)?)?.detach();
        let labels = labels(&batch, test, classes)?;
        let (score, _) = BatchScore::of(&logits, &labels)?;
        if !score.loss.is_finite() {
            return Err(EvalError::Diverged { of: FINE_TUNING, epoch: epochs });
        }
        tally.add(&score);
        confusion.merge(&Confusion::of_scores(&logits, &labels)?);
        if heard(FinetuneEvent::Tested(batch.indices.len())).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(Finetuned { classifier: learner.classifier, epochs: scores, test: tally.score(), confusion }))
}

/// A network and what moves it.
struct Learner<'a> {
    model: &'a Model,
    classifier: Classifier,
    optimizer: Optimizer,
    schedule: Schedule,
    ctx: Context,
}

impl<'a> Learner<'a> {
    /// For `steps` steps in each epoch.
    fn new(model: &'a Model, classes: usize, steps: u64, config: &FinetuneConfig) -> Result<Self, EvalError> {
        let ctx = Context::new();
        let mut parameters = model.encoder_parameters();
        let (_, first) = &parameters[0];
        let place = (first.dtype(), first.device());
        let classifier = Classifier::new(model.feature_width(), classes, config.seed, place, &ctx)?;
        parameters.extend(classifier.parameters());
        let groups = Group::without_vectors(&parameters, config.weight_decay);
        let optimizer = Optimizer::new(Rule::Sgd(FinetuneConfig::MOMENTUM), &groups, config.learning_rate, &ctx)?;
        let (peak, steps, decay) =
            (config.learning_rate, steps.saturating_mul(config.epochs), Decay::Cosine { last: 0.0 });
        let schedule = Schedule { peak, warmup: 0, steps, decay };
        Ok(Self { model, classifier, optimizer, schedule, ctx })
    }

    /// One step; the score is that of before. None, and no step, if the loss or its gradient is not finite.
    fn learn(&mut self, pictures: &Tensor, labels: &[u32]) -> Result<Option<BatchScore>, EvalError> {
        let logits = self.classifier.logits(&self.model.features_t(pictures, true)?)?;
        let (score, loss) = BatchScore::of(&logits, labels)?;
        if !score.loss.is_finite() {
            return Ok(None);
        }
        let gradients = self.optimizer.gradients(&self.model.backward(&loss)?)?;
        if !gradients.norm(&self.ctx)?.is_finite() {
            return Ok(None);
        }
        self.optimizer.set_learning_rate(self.schedule.at(self.optimizer.steps()?));
        self.optimizer.apply(&gradients, 1.0)?;
        Ok(Some(score))
    }
}

#[cfg(test)]
mod tests;
