//! `simclr-train cs231n`: the course's experiment, start to end.
//!
//! Stanford CS231n, assignment 3, self-supervised learning: continue the pretraining of the published weights for an epoch, test
//! by kNN, evaluate linearly with and without pretraining, and compare.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use candle_core::DType;
use serde::{Deserialize, Serialize};
use simclr_data::{Labels, Pictures, Subset};
use simclr_eval::LinearConfig;
use simclr_model::{Model, ModelConfig};
use simclr_ops::Context;

use crate::checkpoint::{self, State};
use crate::cli::Cs231nArguments;
use crate::config::{Config, program};
use crate::course_report::{self, Findings};
use crate::data_sets::{DataSet, Place};
use crate::few_labels::labels;
use crate::interrupt::Interrupt;
use crate::linear::LinearTest;
use crate::metrics::{self, Event};
use crate::monitor::Monitor;
use crate::output::Output;
use crate::run_folder::{RunFolder, write_whole};
use crate::{Ending, Usage, machine, pretrain, settings, summary};

/// The file name of the course's weights in the data folder.
const WEIGHTS: &str = "pretrained_simclr_model.pth";

/// Everything that decides the result of the experiment; the defaults are the course's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Experiment {
    /// The program that wrote this.
    pub(crate) program: String,
    /// Weights to begin with; without them the encoder is pretrained first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weights: Option<PathBuf>,
    /// Epochs of that pretraining.
    pub(crate) pretrain_epochs: u64,
    /// Pictures of the training split that the experiment knows of; all if unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subset: Option<usize>,
    /// Pictures of the test split; all if unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) test_subset: Option<usize>,
    /// The share of the training pictures whose labels the linear evaluation learns from.
    pub(crate) labels: f64,
    /// Epochs of the linear evaluation.
    pub(crate) linear_epochs: u64,
    /// Pictures in a batch of the linear evaluation.
    pub(crate) linear_batch: usize,
    /// Whether the linear evaluation leaves the encoder in training mode, as the course does.
    pub(crate) batch_statistics: bool,
    /// How the encoder is trained, in both stages but for epochs and pictures.
    pub(crate) training: Config,
}

/// Runs it, stage by stage; each stage is a run of its own in the experiment's folder.
pub(crate) fn command(arguments: &Cs231nArguments, output: &Output) -> anyhow::Result<Ending> {
    let folder = arguments.run.clone().unwrap_or_else(|| RunFolder::fresh_named("cs231n"));
    let saved = if arguments.resume { Experiment::load(&folder)? } else { None };
    let experiment = match &saved {
        Some(saved) => saved.clone().overridden(arguments)?,
        None => Experiment::new(arguments, output)?,
    };
    experiment.validate()?;
    machine::use_threads(arguments.machine.threads)?;
    let device = machine::device(&experiment.training.device)?;
    machine::must_compute_in(experiment.training.precision, &device)?;
    let place = Place::of(&experiment.training, None);
    let train = DataSet::Cifar10.train(place, experiment.subset, output)?.pictures;
    let test = DataSet::Cifar10.test(place, experiment.test_subset, output)?.context("CIFAR-10 has a test split")?;
    let linear = experiment.linear(&train, &test)?;
    match saved {
        Some(saved) => settings::must_be_as_saved(&folder, &saved, &experiment)?,
        None => experiment.save(&folder)?,
    }
    let whole = RunFolder::at(&folder);
    if whole.result().exists() {
        return summary::already_finished(&whole, output);
    }
    let interrupt = Interrupt::listen()?;
    interrupt.at_once(true);
    let go_on = format!("simclr-train cs231n --run {} --resume", folder.display());

    // Pretraining, unless somebody did it for us.
    let init = match &experiment.weights {
        Some(weights) => weights.clone(),
        None => {
            let epochs = experiment.pretrain_epochs;
            output.say(format!(
                "there are no pretrained weights (`simclr-train fetch weights` gets the course's): the encoder is pretrained \
                 for {epochs} epochs first. The course's had about 18 hours on a GPU: expect lower accuracies than the published"
            ));
            let config = Config { epochs, subset: experiment.subset, ..experiment.training.clone() };
            let path = folder.join("pretraining");
            let monitor = Monitor::held_out(&config, &train, output)?;
            let way = (arguments.workers, go_on.as_str());
            match pretrain::stage(&config, &path, &train, monitor, &interrupt, way, output)? {
                Some((run, state)) => best_weights(&run, &state)?,
                None => return Ok(Ending::Interrupted),
            }
        }
    };

    // One more epoch on the first half, then kNN on the test split, as in the course.
    let half = train.len() / 2;
    let config = Config { init: Some(init), subset: Some(half), ..experiment.training.clone() };
    let half: Arc<dyn Pictures> = Arc::new(Subset::first(train.clone(), half)?);
    output.say(format!(
        "continuing for {} epoch(s) on {} pictures; the best epoch is chosen by kNN on the test split, as the course does",
        config.epochs,
        half.len()
    ));
    let path = folder.join("continued");
    let monitor = Monitor::course(&config, train.clone(), test.clone())?;
    let way = (arguments.workers, go_on.as_str());
    let Some((run, state)) = pretrain::stage(&config, &path, &half, monitor, &interrupt, way, output)? else {
        return Ok(Ending::Interrupted);
    };

    // Linear evaluation, with and without pretraining.
    let weights = best_weights(&run, &state)?;
    let trained = Model::load(&weights, &device, &Context::new())?;
    let random = Model::new(trained.config(), experiment.training.seed, DType::F32, &device, &Context::new())?;
    let findings = Findings {
        continued_loss: state.last_epoch_loss.context("the continued training has no loss")?,
        knn: best_knn(&run, &state)?,
        linear_raw_pixels: linear.raw_pixels(output)?,
        linear_random: linear.encoder(&random, "random", output)?,
        linear_trained: linear.encoder(&trained, "trained", output)?,
        parameters: trained.parameter_count(),
        multiply_adds: trained.multiply_adds(experiment.training.size as usize, experiment.training.size as usize),
        train_pictures: train.len(),
        test_pictures: test.len(),
        seconds_per_epoch: state.train_seconds / config.epochs as f64,
        steps_per_epoch: state.step / config.epochs,
    };
    course_report::finish(&folder, &experiment, &findings, output)?;
    Ok(Ending::Done)
}

impl Experiment {
    /// The course's experiment with the weights that are there and what was typed. Encoder and sizes are those of the weights.
    fn new(arguments: &Cs231nArguments, output: &Output) -> anyhow::Result<Self> {
        let data_dir = arguments.data_dir.clone().unwrap_or_else(|| Config::default().data_dir);
        let weights = match &arguments.weights {
            Some(path) => Some(path.clone()),
            None => Some(data_dir.join(WEIGHTS)).filter(|path| path.is_file()),
        };
        let training = Config {
            data: DataSet::Cifar10,
            data_dir,
            arch: "resnet50".into(),
            epochs: 1,
            batch: 64,
            ..Config::default()
        };
        let course = Self {
            program: program(),
            weights: weights.clone(),
            pretrain_epochs: 10,
            subset: None,
            test_subset: None,
            labels: 0.1,
            linear_epochs: LinearConfig::COURSE.epochs,
            linear_batch: LinearConfig::COURSE.batch,
            batch_statistics: false,
            training,
        };
        let Some(path) = weights else { return Ok(course.overridden(arguments)?) };
        output.say(format!("the encoder begins with the weights of {}", path.display()));
        let model = ModelConfig::of_file(&path)?.config;
        let training = course.training.clone().of_model(&model);
        let experiment = Self { training, ..course }.overridden(arguments)?;
        experiment.training.must_be(&model, &path)?;
        Ok(experiment)
    }

    /// The same with what was typed in its place.
    fn overridden(self, arguments: &Cs231nArguments) -> Result<Self, Usage> {
        Ok(Self {
            weights: arguments.weights.clone().or(self.weights),
            pretrain_epochs: arguments.pretrain_epochs.unwrap_or(self.pretrain_epochs),
            subset: arguments.subset.or(self.subset),
            test_subset: arguments.test_subset.or(self.test_subset),
            labels: arguments.labels.unwrap_or(self.labels),
            linear_epochs: arguments.linear_epochs.unwrap_or(self.linear_epochs),
            linear_batch: arguments.linear_batch.unwrap_or(self.linear_batch),
            batch_statistics: arguments.batch_statistics || self.batch_statistics,
            training: self.training.overridden(&arguments.training())?.resolved(),
            program: self.program,
        })
    }

    /// Checks what can be checked without the data.
    fn validate(&self) -> Result<(), Usage> {
        for (flag, count) in [
            ("--pretrain-epochs", Some(self.pretrain_epochs)),
            ("--subset", self.subset.map(|n| n as u64)),
            ("--test-subset", self.test_subset.map(|n| n as u64)),
            ("--linear-epochs", Some(self.linear_epochs)),
            ("--linear-batch", Some(self.linear_batch as u64)),
        ] {
            if count == Some(0) {
                return Err(Usage(format!("{flag} is 0, expected at least 1")));
            }
        }
        labels(Some(&self.labels.to_string()))?;
        self.training.validate()
    }

    fn linear(&self, train: &Arc<dyn Pictures>, test: &Arc<dyn Pictures>) -> anyhow::Result<LinearTest> {
        let config = LinearConfig {
            epochs: self.linear_epochs,
            batch: self.linear_batch,
            seed: self.training.seed,
            ..LinearConfig::COURSE
        };
        LinearTest::new(train, Labels::First(self.labels), test.clone(), &self.training, config, self.batch_statistics)
    }

    fn load(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(FILE);
        if path.exists() { settings::read(&path, "an experiment").map(Some) } else { Ok(None) }
    }

    fn save(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(FILE);
        if path.exists() {
            let folder = folder.display();
            return Err(Usage(format!(
                "--run is {folder}, which has an experiment already: give another folder, or go on with --resume"
            ))
            .into());
        }
        let cannot = || format!("{}: the run folder cannot be written", folder.display());
        std::fs::create_dir_all(folder).with_context(cannot)?;
        write_whole(&path, toml::to_string(self)?.as_bytes()).with_context(cannot)
    }
}

/// The settings of an experiment, in its folder.
pub(crate) const FILE: &str = "cs231n.toml";

/// The weights of a stage's best checkpoint.
fn best_weights(run: &RunFolder, state: &State) -> anyhow::Result<PathBuf> {
    let pointer = if state.best.is_some() { "best" } else { "latest" };
    let path = run.checkpoints().join(pointer);
    let checkpoint = checkpoint::follow(&path)?;
    Ok(checkpoint::model_path(&checkpoint.with_context(|| format!("{}: no such checkpoint", path.display()))?))
}

/// Top-1 and top-5 of the best checkpoint, as they were measured when it was chosen.
fn best_knn(run: &RunFolder, state: &State) -> anyhow::Result<[f64; 2]> {
    let best = state.best.map(|(_, step)| step);
    let found = metrics::read(&run.metrics())?.into_iter().find_map(|event| match event {
        Event::Knn { step, top1, top5, .. } if Some(step) == best => Some([top1, top5]),
        _ => None,
    });
    found.with_context(|| format!("{}: no kNN test of the best checkpoint", run.metrics().display()))
}
