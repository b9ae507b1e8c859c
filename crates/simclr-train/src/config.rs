//! The settings of a run, all of them, validated.

use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::{Deserialize, Serialize};
use simclr_data::{Normalization, Recipe, TestTransform, TrainTransform};
use simclr_model::{Arch, ModelConfig, Stem};
use simclr_ops::Context;
use simclr_optim::{Betas, Decay, Group, Momentum, Rule};

use crate::cli::{AugmentationArguments, DataArguments, PretrainArguments};
use crate::data_sets::{DataSet, Opened};
use crate::{Usage, settings};

/// Everything that decides the result of a run. Saved with it, and the start of a resumed one.
///
/// Threads and workers are not here: results do not depend on them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The program that wrote this.
    pub(crate) program: String,
    /// The data set's name.
    pub(crate) data: DataSet,
    /// The folder that data sets are in.
    pub(crate) data_dir: PathBuf,
    /// Only the first pictures of the training split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subset: Option<usize>,
    /// Which pictures of a folder the run began with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pictures: Option<String>,
    /// The shorter side of a folder's pictures at most, in pixels.
    pub(crate) shorter_side: u32,
    /// The share of a folder's pictures that may be unreadable.
    pub(crate) max_bad: f64,
    /// Width and height of the views, in pixels.
    pub(crate) size: u32,
    /// How bytes become numbers.
    pub(crate) normalization: Normalization,
    /// The share of the training split whose labels the run may ask for.
    pub(crate) holdout: f64,
    /// The encoder.
    pub(crate) arch: String,
    /// Its first layer.
    pub(crate) stem: String,
    /// Channels of its first layer.
    pub(crate) width: usize,
    /// Numbers in an embedding.
    pub(crate) feature_dim: usize,
    /// Width of the hidden layers of the projection head.
    pub(crate) hidden_dim: usize,
    /// Linear layers of the projection head.
    pub(crate) head_layers: usize,
    /// Whether batch norm follows its hidden layers.
    pub(crate) head_batch_norm: bool,
    /// How the two views go through the model.
    pub(crate) views: Views,
    /// Of several processes: whether batch norm is over the pictures of all of them.
    pub(crate) sync_bn: bool,
    /// Number format of activations.
    pub(crate) precision: Precision,
    /// Where it runs.
    pub(crate) device: String,
    /// Whether convolutions on a GPU are the fastest that it was measured to have, even if they give other bits every time.
    pub(crate) fast: bool,
    /// Weights to begin with, in place of random ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) init: Option<PathBuf>,
    /// Passes over the training pictures.
    pub(crate) epochs: u64,
    /// Pictures in a batch: each is contrasted with all others.
    pub(crate) batch: usize,
    /// Pictures of a batch whose activations are in memory at once; unset for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chunk: Option<usize>,
    /// Batches whose gradients make one step.
    pub(crate) accumulate: usize,
    /// Update rule.
    pub(crate) optimizer: Optimizer,
    /// SGD and LARS: share of the velocity that a step keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) momentum: Option<f64>,
    /// SGD and LARS: whether a step looks ahead along its velocity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nesterov: Option<bool>,
    /// LARS: what the norm of a parameter over its gradient's is multiplied by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trust_coefficient: Option<f64>,
    /// Adam and AdamW: decay of the mean of gradients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) beta1: Option<f64>,
    /// Adam and AdamW: decay of the mean of squared gradients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) beta2: Option<f64>,
    /// Adam and AdamW: what is added to the root of the mean of squares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) eps: Option<f64>,
    /// Learning rate at its peak, before the rule.
    pub(crate) learning_rate: f64,
    /// How it follows from the pictures of a step.
    pub(crate) learning_rate_rule: LearningRateRule,
    /// How it goes on after the warm-up.
    pub(crate) schedule: Schedule,
    /// Epochs in which it rises from 0.
    pub(crate) warmup: f64,
    /// Schedule `step`: the epochs at which it is multiplied by `gamma`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) milestones: Option<Vec<f64>>,
    /// Schedule `step`: what it is multiplied by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gamma: Option<f64>,
    /// Weight decay.
    pub(crate) weight_decay: f64,
    /// Whether it holds for biases and batch norm too; if not, LARS does not adapt these either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) decay_vectors: Option<bool>,
    /// The norm that the gradient of a step has at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) clip_norm: Option<f64>,
    /// Temperature of NT-Xent.
    pub(crate) temperature: f64,
    /// What initial values, order and augmentation are drawn from.
    pub(crate) seed: u64,
    /// Neighbours that vote in kNN.
    pub(crate) knn_k: usize,
    /// Temperature of a neighbour's vote.
    pub(crate) knn_temperature: f64,
    /// Epochs between kNN tests on the held-out labels; 0 for none.
    pub(crate) knn_every: u64,
    /// Whether a batch whose loss or gradient is not finite is left out, in place of ending the run.
    pub(crate) skip_non_finite: bool,
    /// Epochs between checkpoints.
    pub(crate) checkpoint_every: u64,
    /// Minutes between checkpoints within an epoch; 0 for none.
    pub(crate) checkpoint_minutes: f64,
    /// Checkpoints that are kept beside the best.
    pub(crate) keep: usize,
    /// Steps between two lines of the metrics.
    pub(crate) log_every: u64,
    /// The distribution of views.
    pub(crate) augmentation: Recipe,
}

/// How the two views of a batch go through the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Views {
    /// A forward pass and batch statistics per view, as the course does.
    Separate,
    /// One forward pass of both.
    Joint,
}

/// Number format of activations and of the operands of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Precision {
    /// Single precision throughout.
    F32,
    /// bf16 between layers and as operands of products; parameters, statistics, sums and the loss in f32.
    Bf16,
    /// The same with f16, for GPUs that have no bf16.
    F16,
}

/// Update rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Optimizer {
    /// Adam with L2 weight decay, as in the course.
    Adam,
    /// Adam with decoupled weight decay.
    AdamW,
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Layer-wise adaptive rates, as in the paper.
    Lars,
}

/// How the learning rate follows from the pictures of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LearningRateRule {
    /// It does not.
    None,
    /// In proportion: it is meant for 256 of them.
    Linear,
    /// By their square root.
    Sqrt,
}

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Schedule {
    /// It stays.
    Constant,
    /// Half a cosine down to 0.
    Cosine,
    /// Multiplied at milestones.
    #[serde(rename = "step")]
    Steps,
}

/// What was asked for of that which else follows from the pictures.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Given {
    pub(crate) size: bool,
    pub(crate) stem: bool,
    pub(crate) normalization: bool,
}

impl Default for Config {
    /// The course's training, with ResNet-18 on the built-in data.
    fn default() -> Self {
        Self {
            program: program(),
            data: DataSet::Shapes,
            data_dir: PathBuf::from("data"),
            subset: None,
            pictures: None,
            shorter_side: 448,
            max_bad: 0.1,
            size: 32,
            normalization: Normalization::CIFAR10,
            holdout: 0.1,
            arch: Arch::ResNet18.to_string(),
            stem: Stem::Small.to_string(),
            width: 64,
            feature_dim: 128,
            hidden_dim: 512,
            head_layers: 2,
            head_batch_norm: true,
            views: Views::Separate,
            sync_bn: true,
            precision: Precision::F32,
            device: "auto".into(),
            fast: false,
            init: None,
            epochs: 100,
            batch: 128,
            chunk: None,
            accumulate: 1,
            optimizer: Optimizer::Adam,
            momentum: None,
            nesterov: None,
            trust_coefficient: None,
            beta1: None,
            beta2: None,
            eps: None,
            learning_rate: 1e-3,
            learning_rate_rule: LearningRateRule::None,
            schedule: Schedule::Constant,
            warmup: 0.0,
            milestones: None,
            gamma: None,
            weight_decay: 1e-6,
            decay_vectors: None,
            clip_norm: None,
            temperature: 0.5,
            seed: 0,
            knn_k: 200,
            knn_temperature: 0.5,
            knn_every: 5,
            skip_non_finite: false,
            checkpoint_every: 5,
            checkpoint_minutes: 30.0,
            keep: 2,
            log_every: 10,
            augmentation: Recipe::default(),
        }
    }
}

/// The largest views: what is larger is no picture for a ResNet, and its batches fill any memory.
const MAX_SIZE: u32 = 4096;
const SIZES: &str = "a number of pixels from 1 to 4096";

/// More than anybody has the time for.
const MAX_EPOCHS: u64 = 1_000_000;

/// Pictures whose mean and deviation stand for those of their set.
const MEASURED: usize = 10_000;

/// A recipe of views with what was typed in its place.
pub(crate) fn recipe(base: Recipe, typed: &AugmentationArguments) -> Recipe {
    Recipe {
        crop_scale: [typed.min_crop.unwrap_or(base.crop_scale[0]), base.crop_scale[1]],
        jitter_probability: if typed.no_color_jitter { 0.0 } else { base.jitter_probability },
        grayscale_probability: typed.grayscale.unwrap_or(base.grayscale_probability),
        blur_probability: typed.blur.unwrap_or(base.blur_probability),
        solarize_probability: typed.solarize.unwrap_or(base.solarize_probability),
        ..base
    }
}

/// Name and version of this program.
pub(crate) fn program() -> String {
    concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned()
}

impl Config {
    /// These settings with what was typed in their place.
    ///
    /// # Errors
    /// [`Usage`] for a name that is none.
    pub(crate) fn overridden(mut self, arguments: &PretrainArguments) -> Result<Self, Usage> {
        fn set<T: Clone>(setting: &mut T, argument: &Option<T>) {
            if let Some(value) = argument {
                setting.clone_from(value);
            }
        }
        self = self.of_data(&arguments.data, arguments.size)?;
        if let Some(name) = &arguments.views {
            self.views = parse("--views", name, &[("separate", Views::Separate), ("joint", Views::Joint)])?;
        }
        if let Some(name) = &arguments.optimizer {
            let known = [
                ("adam", Optimizer::Adam),
                ("adamw", Optimizer::AdamW),
                ("sgd", Optimizer::Sgd),
                ("lars", Optimizer::Lars),
            ];
            let optimizer = parse("--optimizer", name, &known)?;
            self = self.with_optimizer(optimizer);
        }
        if let Some(name) = &arguments.lr_rule {
            let known = [
                ("none", LearningRateRule::None),
                ("linear", LearningRateRule::Linear),
                ("sqrt", LearningRateRule::Sqrt),
            ];
            self.learning_rate_rule = parse("--lr-rule", name, &known)?;
        }
        if let Some(name) = &arguments.schedule {
            let known = [("constant", Schedule::Constant), ("cosine", Schedule::Cosine), ("step", Schedule::Steps)];
            let schedule = parse("--schedule", name, &known)?;
            if schedule != self.schedule && self.schedule == Schedule::Steps {
                // They belonged to that one.
                self = Self { milestones: None, gamma: None, ..self };
            }
            self.schedule = schedule;
        }
        if let Some(name) = &arguments.precision {
            self.precision = precision(name)?;
        }
        let or = |typed: &Option<f64>, setting: Option<f64>| typed.or(setting);
        self.init = arguments.init.clone().or(self.init);
        self.chunk = arguments.chunk.or(self.chunk);
        self.momentum = or(&arguments.momentum, self.momentum);
        self.nesterov = if arguments.nesterov { Some(true) } else { self.nesterov };
        self.trust_coefficient = or(&arguments.trust_coefficient, self.trust_coefficient);
        self.milestones = arguments.milestones.clone().or(self.milestones);
        self.gamma = or(&arguments.gamma, self.gamma);
        self.decay_vectors = arguments.decay_vectors.or(self.decay_vectors);
        self.clip_norm = or(&arguments.clip_norm, self.clip_norm);
        self.skip_non_finite |= arguments.skip_non_finite;
        self.fast |= arguments.fast;
        self.augmentation = recipe(self.augmentation, &arguments.augmentation);
        set(&mut self.sync_bn, &arguments.sync_bn);
        set(&mut self.holdout, &arguments.holdout);
        set(&mut self.arch, &arguments.arch);
        set(&mut self.stem, &arguments.stem);
        set(&mut self.width, &arguments.width);
        set(&mut self.feature_dim, &arguments.feature_dim);
        set(&mut self.hidden_dim, &arguments.hidden_dim);
        set(&mut self.head_layers, &arguments.head_layers);
        set(&mut self.head_batch_norm, &arguments.head_batch_norm);
        set(&mut self.device, &arguments.machine.device);
        set(&mut self.epochs, &arguments.epochs);
        set(&mut self.batch, &arguments.batch);
        set(&mut self.accumulate, &arguments.accumulate);
        set(&mut self.learning_rate, &arguments.lr);
        set(&mut self.warmup, &arguments.warmup);
        set(&mut self.weight_decay, &arguments.weight_decay);
        set(&mut self.temperature, &arguments.temperature);
        set(&mut self.seed, &arguments.seed);
        set(&mut self.knn_k, &arguments.knn_k);
        set(&mut self.knn_temperature, &arguments.knn_temperature);
        set(&mut self.knn_every, &arguments.knn_every);
        set(&mut self.checkpoint_every, &arguments.checkpoint_every);
        set(&mut self.checkpoint_minutes, &arguments.checkpoint_minutes);
        set(&mut self.keep, &arguments.keep);
        set(&mut self.log_every, &arguments.log_every);
        Ok(self)
    }

    /// These settings with another optimizer; what belonged to the one before is not meant for it.
    fn with_optimizer(self, optimizer: Optimizer) -> Self {
        let has_betas = |optimizer| matches!(optimizer, Optimizer::Adam | Optimizer::AdamW);
        let (before, is_lars) = (self.optimizer, |optimizer| optimizer == Optimizer::Lars);
        let mut new = Self { optimizer, ..self };
        if has_betas(before) && !has_betas(optimizer) {
            new = Self { beta1: None, beta2: None, eps: None, ..new };
        }
        if !has_betas(before) && optimizer != before {
            new = Self { momentum: None, nesterov: None, trust_coefficient: None, ..new };
        }
        if is_lars(before) != is_lars(optimizer) {
            new.decay_vectors = None;
        }
        new
    }

    /// These settings with what was typed about pictures in their place: which they are, and how they are read.
    ///
    /// # Errors
    /// [`Usage`] for an unknown data set.
    pub(crate) fn of_data(self, typed: &DataArguments, size: Option<u32>) -> Result<Self, Usage> {
        let twice = size.map(|size| size.saturating_mul(2));
        Ok(Self {
            data: typed.data.as_deref().map_or(Ok(self.data), str::parse)?,
            data_dir: typed.data_dir.clone().unwrap_or(self.data_dir),
            subset: typed.subset.or(self.subset),
            size: size.unwrap_or(self.size),
            shorter_side: typed.shorter_side.or(twice).unwrap_or(self.shorter_side),
            max_bad: typed.max_bad.unwrap_or(self.max_bad),
            ..self
        })
    }

    /// These settings with everything said that the optimizer and the schedule leave to their defaults.
    #[must_use]
    pub(crate) fn resolved(self) -> Self {
        let (betas, momentum) = (Betas::default(), Momentum::default());
        let has_betas = matches!(self.optimizer, Optimizer::Adam | Optimizer::AdamW);
        let is = |holds: bool, setting: Option<f64>, default: f64| setting.or(holds.then_some(default));
        Self {
            momentum: is(!has_betas, self.momentum, momentum.momentum),
            nesterov: self.nesterov.or((!has_betas).then_some(momentum.nesterov)),
            trust_coefficient: is(self.optimizer == Optimizer::Lars, self.trust_coefficient, 1e-3),
            beta1: is(has_betas, self.beta1, betas.beta1),
            beta2: is(has_betas, self.beta2, betas.beta2),
            eps: is(has_betas, self.eps, betas.eps),
            gamma: is(self.schedule == Schedule::Steps, self.gamma, 0.1),
            decay_vectors: self.decay_vectors.or(Some(self.optimizer != Optimizer::Lars)),
            ..self
        }
    }

    /// Checks every setting that can be checked without the data.
    ///
    /// # Errors
    /// [`Usage`] naming the first flag that is wrong, its value and what is expected.
    pub(crate) fn validate(&self) -> Result<(), Usage> {
        let positive =
            |flag, value: f64| check(value.is_finite() && value > 0.0, flag, value, "a finite number above 0");
        check(self.batch >= 2, "--batch", self.batch, "at least 2: the other pictures of a batch are the negatives")?;
        check((1..=MAX_SIZE).contains(&self.size), "--size", self.size, SIZES)?;
        check(self.shorter_side > 0, "--shorter-side", self.shorter_side, "at least 1 pixel")?;
        check((0.0..=1.0).contains(&self.max_bad), "--max-bad", self.max_bad, "a share from 0 to 1")?;
        check((1..=MAX_EPOCHS).contains(&self.epochs), "--epochs", self.epochs, "at least 1, and at most a million")?;
        for (flag, found) in [
            ("--seed", self.seed),
            ("--knn-every", self.knn_every),
            ("--checkpoint-every", self.checkpoint_every),
            ("--log-every", self.log_every),
            ("--keep", self.keep as u64),
            ("--accumulate", self.accumulate as u64),
            ("--knn-k", self.knn_k as u64),
        ] {
            // What a TOML file can hold.
            check(i64::try_from(found).is_ok(), flag, found, "at most 9223372036854775807")?;
        }
        check(self.width > 0, "--width", self.width, "at least 1")?;
        check(self.feature_dim > 0, "--feature-dim", self.feature_dim, "at least 1")?;
        check(self.subset != Some(0), "--subset", 0, "at least 1")?;
        check(self.knn_k > 0, "--knn-k", self.knn_k, "at least 1")?;
        check(self.checkpoint_every > 0, "--checkpoint-every", self.checkpoint_every, "at least 1")?;
        positive("--temperature", self.temperature)?;
        positive("--knn-temperature", self.knn_temperature)?;
        positive("--lr", self.learning_rate)?;
        let decay = self.weight_decay;
        check(decay.is_finite() && decay >= 0.0, "--weight-decay", decay, "a finite number from 0 up")?;
        check(self.accumulate > 0, "--accumulate", self.accumulate, "at least 1 batch")?;
        if let Some(chunk) = self.chunk {
            check(chunk >= 2, "--chunk", chunk, "at least 2 pictures: batch norm needs more than one")?;
            let fits = self.batch.is_multiple_of(chunk);
            check(fits, "--chunk", chunk, &format!("a divisor of --batch, which is {}", self.batch))?;
        }
        check(self.keep > 0, "--keep", self.keep, "at least 1")?;
        check(self.log_every > 0, "--log-every", self.log_every, "at least 1")?;
        let minutes = self.checkpoint_minutes;
        check(minutes.is_finite() && minutes >= 0.0, "--checkpoint-minutes", minutes, "a finite number from 0 up")?;
        self.clip_norm.map_or(Ok(()), |norm| positive("--clip-norm", norm))?;
        self.validate_optimizer()?;
        self.validate_schedule()?;
        check(self.holdout > 0.0 && self.holdout < 1.0, "--holdout", self.holdout, "a share between 0 and 1")?;
        self.augmentation.validate().map_err(|error| Usage(error.to_string()))?;
        self.normalization.validate().map_err(|error| Usage(error.to_string()))?;
        self.model()?.validate().map_err(|error| Usage(error.to_string()))
    }

    /// Checks that so many processes can have equal parts of a batch.
    ///
    /// # Errors
    /// [`Usage`] naming the flag whose number they do not divide.
    pub(crate) fn validate_for(&self, ranks: usize) -> Result<(), Usage> {
        if ranks == 1 {
            return Ok(());
        }
        for (flag, pictures) in [("--batch", Some(self.batch)), ("--chunk", self.chunk)] {
            let Some(pictures) = pictures else { continue };
            let expected = format!("a multiple of {ranks}: it is shared by {ranks} processes");
            check(pictures.is_multiple_of(ranks), flag, pictures, &expected)?;
            let expected =
                format!("at least {}: batch norm of each of {ranks} processes needs two pictures", 2 * ranks);
            check(self.sync_bn || pictures >= 2 * ranks, flag, pictures, &expected)?;
        }
        Ok(())
    }

    /// Checks that the optimizer has what is said of it, and that it can be.
    fn validate_optimizer(&self) -> Result<(), Usage> {
        let name = settings::flat_name(&self.optimizer);
        let has_betas = matches!(self.optimizer, Optimizer::Adam | Optimizer::AdamW);
        let belongs = |holds: bool, is_set: bool, setting: &str, to: &str| {
            let message = || format!("{setting} belongs to {to}, but --optimizer is {name}");
            if is_set && !holds { Err(Usage(message())) } else { Ok(()) }
        };
        belongs(!has_betas, self.momentum.is_some(), "--momentum", "sgd and lars")?;
        belongs(!has_betas, self.nesterov == Some(true), "--nesterov", "sgd and lars")?;
        let is_lars = self.optimizer == Optimizer::Lars;
        belongs(is_lars, self.trust_coefficient.is_some(), "--trust-coefficient", "lars")?;
        for (setting, value) in [("beta1", self.beta1), ("beta2", self.beta2), ("eps", self.eps)] {
            belongs(has_betas, value.is_some(), setting, "adam and adamw")?;
        }
        let share = |setting, value: Option<f64>| {
            value.map_or(Ok(()), |value| check((0.0..1.0).contains(&value), setting, value, "from 0 to below 1"))
        };
        share("--momentum", self.momentum)?;
        share("beta1", self.beta1)?;
        share("beta2", self.beta2)?;
        for (setting, value) in [("--trust-coefficient", self.trust_coefficient), ("eps", self.eps)] {
            let holds = value.is_none_or(|value| value.is_finite() && value > 0.0);
            check(holds, setting, value.unwrap_or_default(), "a finite number above 0")?;
        }
        let looks_ahead_at_nothing = self.nesterov == Some(true) && self.momentum == Some(0.0);
        check(!looks_ahead_at_nothing, "--momentum", 0, "above 0 with --nesterov, which looks ahead along it")
    }

    /// Checks that the schedule has what it needs and nothing else.
    fn validate_schedule(&self) -> Result<(), Usage> {
        let epochs = self.epochs as f64;
        let warms_up = (0.0..epochs).contains(&self.warmup);
        check(warms_up, "--warmup", self.warmup, &format!("from 0 to below the {epochs} epochs of the run"))?;
        let steps = self.schedule == Schedule::Steps;
        for (is_set, flag) in [(self.milestones.is_some(), "--milestones"), (self.gamma.is_some(), "--gamma")] {
            if is_set && !steps {
                let name = settings::flat_name(&self.schedule);
                return Err(Usage(format!("{flag} belongs to the step schedule, but --schedule is {name}")));
            }
        }
        let milestones = self.milestones.as_deref().unwrap_or_default();
        check(
            !steps || !milestones.is_empty(),
            "--schedule",
            "step",
            "--milestones beside it: the epochs of its steps",
        )?;
        let told = milestones.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        let rises = milestones.is_sorted_by(|a, b| a < b) && milestones.iter().all(|m| (0.0..epochs).contains(m));
        check(rises, "--milestones", told, &format!("rising epochs below the {epochs} of the run"))?;
        let gamma = self.gamma.unwrap_or(0.1);
        check(gamma.is_finite() && gamma > 0.0, "--gamma", gamma, "a finite number above 0")?;
        let peak = self.schedule(1).peak;
        let last = peak * gamma.powi(milestones.len().try_into().unwrap_or(i32::MAX));
        let rates = "one that its rule and schedule leave a finite number";
        check(peak.is_finite() && last.is_finite(), "--lr", self.learning_rate, rates)
    }

    /// The update rule, with what is left unsaid as its source has it.
    pub(crate) fn rule(&self) -> Rule {
        let (betas, usual) = (Betas::default(), Momentum::default());
        let betas = Betas {
            beta1: self.beta1.unwrap_or(betas.beta1),
            beta2: self.beta2.unwrap_or(betas.beta2),
            eps: self.eps.unwrap_or(betas.eps),
        };
        let momentum = Momentum {
            momentum: self.momentum.unwrap_or(usual.momentum),
            nesterov: self.nesterov.unwrap_or(usual.nesterov),
        };
        match self.optimizer {
            Optimizer::Adam => Rule::Adam(betas),
            Optimizer::AdamW => Rule::AdamW(betas),
            Optimizer::Sgd => Rule::Sgd(momentum),
            Optimizer::Lars => Rule::Lars { momentum, trust_coefficient: self.trust_coefficient.unwrap_or(1e-3) },
        }
    }

    /// The optimizer over the parameters of `model`.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(crate) fn optimizer(&self, model: &simclr_model::Model) -> anyhow::Result<simclr_optim::Optimizer> {
        let groups = match self.decay_vectors {
            Some(false) => Group::without_vectors(model.parameters(), self.weight_decay),
            _ => Group::all(model.parameters(), self.weight_decay),
        };
        let optimizer = simclr_optim::Optimizer::new(self.rule(), &groups, self.learning_rate, &self.context())?;
        self.scaling(optimizer)
    }

    /// `optimizer` with a scale of the loss, where gradients are kept in f16.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub(crate) fn scaling(&self, optimizer: simclr_optim::Optimizer) -> anyhow::Result<simclr_optim::Optimizer> {
        Ok(if self.precision == Precision::F16 { optimizer.with_loss_scale()? } else { optimizer })
    }

    /// Pictures that make a step.
    pub(crate) fn pictures_per_step(&self) -> usize {
        self.batch * self.accumulate
    }

    /// The learning rate of every step of a run whose epochs have `steps_per_epoch`.
    pub(crate) fn schedule(&self, steps_per_epoch: u64) -> simclr_optim::Schedule {
        let pictures = self.pictures_per_step() as f64;
        let factor = match self.learning_rate_rule {
            LearningRateRule::None => 1.0,
            LearningRateRule::Linear => pictures / 256.0,
            LearningRateRule::Sqrt => pictures.sqrt(),
        };
        let steps = |epochs: f64| (epochs * steps_per_epoch as f64).round() as u64;
        let decay = match self.schedule {
            Schedule::Constant => Decay::Constant,
            Schedule::Cosine => Decay::Cosine { last: 0.0 },
            Schedule::Steps => {
                let at = self.milestones.iter().flatten().map(|&epoch| steps(epoch)).collect();
                Decay::Steps { at, factor: self.gamma.unwrap_or(0.1) }
            }
        };
        simclr_optim::Schedule {
            peak: self.learning_rate * factor,
            warmup: steps(self.warmup),
            steps: self.epochs * steps_per_epoch,
            decay,
        }
    }

    /// These settings with the encoder and the sizes of a model.
    #[must_use]
    pub(crate) fn of_model(self, model: &ModelConfig) -> Self {
        Self {
            arch: model.arch.to_string(),
            stem: model.stem.to_string(),
            width: model.width,
            feature_dim: model.feature_dim,
            hidden_dim: model.hidden_dim,
            head_layers: model.head_layers,
            head_batch_norm: model.head_batch_norm,
            ..self
        }
    }

    /// Checks that `model`, which came from the file `path`, is the one of these settings.
    ///
    /// # Errors
    /// [`Usage`] naming both.
    pub(crate) fn must_be(&self, model: &ModelConfig, path: &Path) -> Result<(), Usage> {
        let told = |c: &Self| {
            let norm = if c.head_batch_norm { "with" } else { "without" };
            format!(
                "{} of width {} with {} features and the {} stem, and a head of {} layers, {} wide, {norm} batch norm",
                c.arch, c.width, c.feature_dim, c.stem, c.head_layers, c.hidden_dim
            )
        };
        let (found, wanted) = (told(&Self::default().of_model(model)), told(self));
        if found == wanted {
            return Ok(());
        }
        Err(Usage(format!("{} is a {found}, the settings say {wanted}", path.display())))
    }

    /// These settings with what the pictures of `train` suggest, where nothing else was `given`: the size of the views, the stem
    /// for it, and how bytes become numbers.
    ///
    /// # Errors
    /// If a picture cannot be had.
    pub(crate) fn fitted(self, given: Given, train: &Opened) -> anyhow::Result<Self> {
        let normalization = match train.normalization {
            _ if given.normalization => self.normalization,
            Some(known) => known,
            None => Normalization::measured(train.pictures.as_ref(), MEASURED)?,
        };
        let size = if given.size { self.size } else { train.size };
        // Weights to begin with bring their stem.
        let stem = match &self.init {
            None if !given.stem => Stem::for_size(size).to_string(),
            _ => self.stem.clone(),
        };
        Ok(Self { size, stem, normalization, pictures: train.fingerprint.clone(), ..self })
    }

    /// How views are made.
    ///
    /// # Errors
    /// If a setting of the augmentation cannot be.
    pub(crate) fn train_transform(&self) -> anyhow::Result<TrainTransform> {
        Ok(TrainTransform::new(self.augmentation.clone(), self.size, self.normalization, self.seed)?)
    }

    /// How pictures are evaluated.
    ///
    /// # Errors
    /// If the normalization cannot be.
    pub(crate) fn test_transform(&self) -> anyhow::Result<TestTransform> {
        Ok(TestTransform::new(Some(self.size), self.normalization)?)
    }

    /// The model that these settings mean.
    ///
    /// # Errors
    /// [`Usage`] for an unknown encoder.
    pub(crate) fn model(&self) -> Result<ModelConfig, Usage> {
        let arch = arch(&self.arch)?;
        let stem = self.stem.parse().map_err(|_| {
            let stems: Vec<String> = Stem::ALL.iter().map(Stem::to_string).collect();
            Usage(format!("--stem is {}, expected {}", self.stem, stems.join(" or ")))
        })?;
        Ok(ModelConfig {
            arch,
            stem,
            width: self.width,
            feature_dim: self.feature_dim,
            hidden_dim: self.hidden_dim,
            head_layers: self.head_layers,
            head_batch_norm: self.head_batch_norm,
        })
    }

    /// Where and how its model computes.
    pub(crate) fn context(&self) -> Context {
        let ctx = if self.fast { Context::new().with_measured_convolutions() } else { Context::new() };
        ctx.with_precision(match self.precision {
            Precision::F32 => simclr_ops::Precision::Full,
            Precision::Bf16 => simclr_ops::Precision::Bf16,
            Precision::F16 => simclr_ops::Precision::F16,
        })
    }

    /// What there is to say of `--fast` where the model computes on `device`.
    pub(crate) fn remark_on_fast(&self, device: &Device) -> Option<&'static str> {
        let remark = match device {
            Device::Cpu => "--fast has no effect on the CPU: it measures the convolutions of a GPU",
            _ => {
                "--fast: convolutions are measured on this GPU and the fastest are taken, so that a run will not repeat to the bit"
            }
        };
        self.fast.then_some(remark)
    }

    /// From the file of a run.
    ///
    /// # Errors
    /// If the file cannot be read or is not what this program writes.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        settings::read(path, "a run")
    }
}

fn check(holds: bool, flag: &str, found: impl std::fmt::Display, expected: &str) -> Result<(), Usage> {
    if holds { Ok(()) } else { Err(Usage(format!("{flag} is {found}, expected {expected}"))) }
}

/// One of a few names.
fn parse<T: Copy>(flag: &str, found: &str, known: &[(&str, T)]) -> Result<T, Usage> {
    let names = || known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ");
    let value = known.iter().find(|(name, _)| *name == found).map(|(_, value)| *value);
    value.ok_or_else(|| Usage(format!("{flag} is {found}, expected {}", names())))
}

/// The precision of a flag.
///
/// # Errors
/// [`Usage`] for one that is unknown.
pub(crate) fn precision(name: &str) -> Result<Precision, Usage> {
    let known = [("f32", Precision::F32), ("bf16", Precision::Bf16), ("f16", Precision::F16)];
    parse("--precision", name, &known)
}

/// The encoder of a flag.
///
/// # Errors
/// [`Usage`] for an unknown one.
pub(crate) fn arch(name: &str) -> Result<Arch, Usage> {
    name.parse().map_err(|_| Usage(format!("--arch is {name}, expected resnet18, resnet34 or resnet50")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_go_through_their_file() {
        let config = Config { subset: Some(7), views: Views::Joint, temperature: 0.07, ..Config::default() };
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
        assert!(toml::from_str::<Config>(&format!("wat = 1\n{text}")).unwrap_err().to_string().contains("wat"));
    }

    #[test]
    fn fast_says_that_it_has_no_effect_on_the_cpu() {
        let fast = Config { fast: true, ..Config::default() };
        assert!(fast.remark_on_fast(&Device::Cpu).unwrap().contains("--fast has no effect on the CPU"));
        assert_eq!(Config::default().remark_on_fast(&Device::Cpu), None);
    }

    #[test]
    fn processes_need_equal_parts() {
        let ok = Config::default();
        assert!([1, 2, 4, 64, 128].map(|ranks| ok.validate_for(ranks).is_ok()) == [true; 5]);
        for (config, ranks, told) in [
            (ok.clone(), 3, "--batch is 128, expected a multiple of 3: it is shared by 3 processes"),
            (Config { chunk: Some(2), ..ok.clone() }, 4, "--chunk is 2, expected a multiple of 4"),
            (Config { sync_bn: false, ..ok.clone() }, 128, "--batch is 128, expected at least 256: batch norm of each"),
        ] {
            let message = config.validate_for(ranks).unwrap_err().to_string();
            assert!(message.starts_with(told), "{message}");
        }
    }

    #[test]
    fn each_mistake_is_named_with_its_value() {
        let ok = Config::default();
        let sgd = Config { optimizer: Optimizer::Sgd, ..ok.clone() };
        let steps = Config { schedule: Schedule::Steps, ..ok.clone() };
        for config in [&ok, &sgd, &Config { optimizer: Optimizer::Lars, ..ok.clone() }] {
            config.validate().unwrap();
            config.clone().resolved().validate().unwrap();
        }
        let wrong = [
            (Config { batch: 1, ..ok.clone() }, "--batch is 1, expected at least 2"),
            (Config { epochs: 0, ..ok.clone() }, "--epochs is 0"),
            (
                Config { epochs: u64::MAX, ..ok.clone() },
                "--epochs is 18446744073709551615, expected at least 1, and at most a million",
            ),
            (
                Config { seed: u64::MAX, ..ok.clone() },
                "--seed is 18446744073709551615, expected at most 9223372036854775807",
            ),
            (
                Config { learning_rate: 1e308, learning_rate_rule: LearningRateRule::Sqrt, ..ok.clone() },
                "expected one that its rule",
            ),
            (Config { temperature: 0.0, ..ok.clone() }, "--temperature is 0, expected a finite number above 0"),
            (Config { temperature: f64::NAN, ..ok.clone() }, "--temperature is NaN"),
            (Config { learning_rate: -1.0, ..ok.clone() }, "--lr is -1"),
            (Config { weight_decay: f64::INFINITY, ..ok.clone() }, "--weight-decay is inf"),
            (Config { width: 0, ..ok.clone() }, "--width is 0"),
            (Config { feature_dim: 0, ..ok.clone() }, "--feature-dim is 0"),
            (Config { subset: Some(0), ..ok.clone() }, "--subset is 0"),
            (Config { holdout: 1.0, ..ok.clone() }, "--holdout is 1, expected a share between 0 and 1"),
            (Config { knn_k: 0, ..ok.clone() }, "--knn-k is 0"),
            (Config { checkpoint_every: 0, ..ok.clone() }, "--checkpoint-every is 0"),
            (Config { arch: "vgg".into(), ..ok.clone() }, "--arch is vgg, expected resnet18"),
            (Config { head_layers: 65, ..ok.clone() }, "`head_layers` is 65, expected a number from 1 to 64"),
            (Config { chunk: Some(1), ..ok.clone() }, "--chunk is 1, expected at least 2 pictures"),
            (Config { chunk: Some(48), ..ok.clone() }, "--chunk is 48, expected a divisor of --batch, which is 128"),
            (Config { accumulate: 0, ..ok.clone() }, "--accumulate is 0"),
            (Config { keep: 0, ..ok.clone() }, "--keep is 0"),
            (Config { log_every: 0, ..ok.clone() }, "--log-every is 0"),
            (Config { checkpoint_minutes: -1.0, ..ok.clone() }, "--checkpoint-minutes is -1"),
            (Config { clip_norm: Some(0.0), ..ok.clone() }, "--clip-norm is 0"),
            (
                Config { momentum: Some(0.9), ..ok.clone() },
                "--momentum belongs to sgd and lars, but --optimizer is adam",
            ),
            (Config { nesterov: Some(true), ..ok.clone() }, "--nesterov belongs to sgd and lars"),
            (
                Config { trust_coefficient: Some(1.0), ..sgd.clone() },
                "--trust-coefficient belongs to lars, but --optimizer is sgd",
            ),
            (Config { beta1: Some(0.5), ..sgd.clone() }, "beta1 belongs to adam and adamw"),
            (Config { beta2: Some(1.0), ..ok.clone() }, "beta2 is 1, expected from 0 to below 1"),
            (Config { momentum: Some(-0.1), ..sgd.clone() }, "--momentum is -0.1"),
            (
                Config { momentum: Some(0.0), nesterov: Some(true), ..sgd.clone() },
                "--momentum is 0, expected above 0 with --nesterov",
            ),
            (Config { warmup: 100.0, ..ok.clone() }, "--warmup is 100, expected from 0 to below the 100 epochs"),
            (
                Config { milestones: Some(vec![1.0]), ..ok.clone() },
                "--milestones belongs to the step schedule, but --schedule is constant",
            ),
            (Config { schedule: Schedule::Steps, ..ok.clone() }, "--schedule is step, expected --milestones beside it"),
            (
                Config { milestones: Some(vec![9.0, 3.0]), ..steps.clone() },
                "--milestones is 9,3, expected rising epochs below the 100",
            ),
            (Config { gamma: Some(0.0), milestones: Some(vec![9.0]), ..steps.clone() }, "--gamma is 0"),
        ];
        for (config, expected) in wrong {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(precision("f99").unwrap_err().to_string().contains("--precision is f99, expected f32 or bf16 or f16"));
    }

    #[test]
    fn another_optimizer_keeps_what_did_not_belong_to_the_one_before() {
        let base = Config { momentum: Some(0.8), decay_vectors: Some(false), ..Config::default() };
        let sgd = base.with_optimizer(Optimizer::Sgd);
        assert_eq!((sgd.momentum, sgd.decay_vectors), (Some(0.8), Some(false)), "said for sgd, before it was chosen");
        let lars = sgd.resolved().with_optimizer(Optimizer::Lars);
        assert_eq!((lars.momentum, lars.nesterov, lars.decay_vectors), (None, None, None));
        let adamw = Config { beta1: Some(0.8), ..Config::default() }.with_optimizer(Optimizer::AdamW);
        assert_eq!(adamw.beta1, Some(0.8));
        assert_eq!(adamw.with_optimizer(Optimizer::Sgd).beta1, None);
    }

    #[test]
    fn learning_rates_follow_from_the_batch_and_the_epochs() {
        let rate = |rule, accumulate| {
            let config =
                Config { learning_rate_rule: rule, learning_rate: 0.1, batch: 64, accumulate, ..Config::default() };
            config.schedule(10).peak
        };
        assert_eq!(rate(LearningRateRule::None, 4), 0.1);
        assert!((rate(LearningRateRule::Linear, 1) - 0.025).abs() < 1e-15);
        assert!((rate(LearningRateRule::Linear, 4) - 0.1).abs() < 1e-15);
        assert!((rate(LearningRateRule::Sqrt, 1) - 0.8).abs() < 1e-15);
        let config = Config { epochs: 8, warmup: 0.5, milestones: Some(vec![1.0, 2.25]), ..Config::default() };
        let schedule = Config { schedule: Schedule::Steps, ..config }.schedule(10);
        assert_eq!((schedule.warmup, schedule.steps), (5, 80));
        assert_eq!(schedule.decay, Decay::Steps { at: vec![10, 23], factor: 0.1 });
    }
}
