//! `simclr-train finetune`: what the whole network learns from some labels, begun with a checkpoint's encoder.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;
use serde_json::{Value, json};
use simclr_data::{Normalization, Pictures, Recipe, TrainTransform};
use simclr_eval::{Confusion, FinetuneConfig, FinetuneEvent, Finetuned, Score, finetune};
use simclr_model::Model;
use simclr_ops::Context;

use crate::cli::FinetuneArguments;
use crate::config::Config;
use crate::convert::{must_be_new, tell_of_other_shape};
use crate::few_labels::{Draw, Splits, Tests, check_training, draws, labels};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::progress::Progress;
use crate::table::Table;
use crate::{Ending, Usage, checkpoint, machine};

/// Passes over the labelled pictures where nobody says otherwise: the paper's for 1 % of ImageNet's labels.
const EPOCHS: u64 = 60;

/// Pictures in a batch: some steps an epoch where labels are few.
const BATCH: usize = 64;

/// Fine-tunes a checkpoint, and a random encoder beside it.
pub(crate) fn command(arguments: &FinetuneArguments, output: &Output) -> anyhow::Result<Ending> {
    let (weights, settings) = checkpoint::evaluated(&arguments.checkpoint, &arguments.data)?;
    let config = arguments.training(settings.subset)?;
    let labels = labels(arguments.labels.as_deref())?;
    let out = arguments.out.as_deref().map(|path| NetworkFile::new(path, arguments.draws)).transpose()?;
    machine::use_threads(arguments.machine.threads)?;
    let device = machine::device(arguments.machine.device.as_deref().unwrap_or("auto"))?;
    let load = || Model::load(&weights, &device, &Context::new());
    let checkpoint = load()?;
    let fingerprint = checkpoint.fingerprint()?;
    let Splits { train, test } = Splits::open(&settings, arguments.data.cache.as_deref(), output)?;
    let draws = draws(&train, labels, (arguments.draws.unwrap_or(1), config.seed))?;

    let tuning = FineTuning { draws, test, settings: &settings, config, interrupt: Interrupt::listen()?, output };
    let random = match arguments.no_baselines {
        true => Some(None),
        // From scratch: the same training of an encoder that has seen nothing.
        false => tuning
            .run("random", |seed| Ok(Model::new(checkpoint.config(), seed, DType::F32, &device, &Context::new())?))?
            .map(Some),
    };
    let Some(random) = random else { return Ok(tuning.interrupted()) };
    let Some(trained) = tuning.run("trained", |_| Ok(load()?))? else { return Ok(tuning.interrupted()) };
    let columns =
        [format!("{}, fine-tuned on {} labels", settings.data, tuning.labels()), "top-1".into(), "top-5".into()];
    let mut rows = Vec::new();
    let mut object = tuning.to_json(&trained);
    if let Some(random) = &random {
        rows.push(row("random encoder", random));
        object["random_encoder"] = tuning.to_json(random);
    }
    rows.push(row("trained", &trained));
    object["labels_choice"] = json!(labels.to_string());
    object["data"] = json!(settings.data);
    object["checkpoint"] = json!(weights);
    object["encoder_sha256"] = json!(fingerprint);
    object["command"] = json!(output.command());
    object["method"] = json!({
        "optimizer": "sgd", "momentum": FinetuneConfig::MOMENTUM.momentum, "nesterov": FinetuneConfig::MOMENTUM.nesterov,
        "schedule": "cosine", "epochs": config.epochs, "batch": config.batch, "lr": config.learning_rate,
        "weight_decay": config.weight_decay, "seed": config.seed,
    });
    object["out"] = json!(arguments.out);
    output.result(Table { columns: columns.into(), rows }.text(), &object);
    // Last: a full disk costs the network, not the numbers.
    if let (Some(out), Some(network)) = (&out, trained.first()) {
        out.write(network, &settings, train.classes(), output)?;
    }
    Ok(Ending::Done)
}

/// Some labels, and how a network is trained on them.
struct FineTuning<'a> {
    draws: Vec<Draw>,
    test: Arc<dyn Pictures>,
    /// How pictures become numbers.
    settings: &'a Config,
    config: FinetuneConfig,
    interrupt: Interrupt,
    output: &'a Output,
}

/// A trained network and what came of its training.
struct Network {
    seed: u64,
    encoder: Model,
    tuned: Finetuned,
}

impl FineTuning<'_> {
    /// Trains what `begin` gives for the seed of each draw. None if somebody interrupted it.
    fn run(&self, title: &str, begin: impl Fn(u64) -> anyhow::Result<Model>) -> anyhow::Result<Option<Vec<Network>>> {
        let mut networks = Vec::new();
        for draw in &self.draws {
            self.output.say(format!("fine-tuning, {title} encoder, on {} labels, seed {}", self.labels(), draw.seed));
            let encoder = begin(draw.seed)?;
            let Some(tuned) = self.train(&encoder, draw, title)? else { return Ok(None) };
            networks.push(Network { seed: draw.seed, encoder, tuned });
        }
        Ok(Some(networks))
    }

    fn train(&self, encoder: &Model, draw: &Draw, title: &str) -> anyhow::Result<Option<Finetuned>> {
        // Only crops and flips, as the paper does.
        let recipe = Recipe { jitter_probability: 0.0, grayscale_probability: 0.0, ..Recipe::default() };
        let views = TrainTransform::new(recipe, self.settings.size, self.settings.normalization, draw.seed)?;
        let config = FinetuneConfig { seed: draw.seed, ..self.config };
        let pictures = config.epochs.saturating_mul(draw.train.len() as u64) + self.test.len() as u64;
        let mut progress = Progress::new(self.output, title, pictures, 0);
        let mut hear = |event| {
            match event {
                FinetuneEvent::Learned(count) | FinetuneEvent::Tested(count) => progress.advance(count as u64, &[]),
                FinetuneEvent::Epoch(epoch, Score { loss, top1, .. }) => progress.say(&format!(
                    "Train Epoch: [{epoch}/{}] Loss: {loss:.4} ACC@1: {:.2}%",
                    config.epochs,
                    100.0 * top1
                )),
            }
            if self.interrupt.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let test = (self.test.as_ref(), &self.settings.test_transform()?);
        Ok(finetune(encoder, (&draw.train, &views), test, &config, &mut hear)?)
    }

    fn interrupted(&self) -> Ending {
        self.output.say("interrupted: nothing was kept, and the checkpoint is as it was");
        Ending::Interrupted
    }

    /// Pictures that are learned from in each draw.
    fn labels(&self) -> usize {
        self.draws.first().map_or(0, |draw| draw.train.len())
    }

    /// What came of all draws: the tests together, and the mean of every epoch.
    fn to_json(&self, networks: &[Network]) -> Value {
        let mut object = tests(networks).to_json(self.test.classes());
        let draws = networks.iter().map(|Network { seed, tuned, .. }| {
            let Score { loss, top1, top5 } = tuned.test;
            json!({ "seed": seed, "loss": loss, "top1": top1, "top5": top5, "epochs": epochs(&[&tuned.epochs]) })
        });
        object["draws"] = draws.collect();
        object["labels"] = json!(self.labels());
        object["epochs"] = json!(epochs(&networks.iter().map(|network| &network.tuned.epochs).collect::<Vec<_>>()));
        object
    }
}

/// The mean of some trainings, epoch by epoch.
fn epochs(trainings: &[&Vec<Score>]) -> Vec<Value> {
    let count = trainings.iter().map(|epochs| epochs.len()).min().unwrap_or(0);
    let mean = |epoch: usize, of: fn(&Score) -> f64| {
        trainings.iter().map(|epochs| of(&epochs[epoch])).sum::<f64>() / trainings.len() as f64
    };
    let epoch = |i| json!({ "epoch": i + 1, "loss": mean(i, |score| score.loss), "top1": mean(i, |score| score.top1) });
    (0..count).map(epoch).collect()
}

fn tests(networks: &[Network]) -> Tests<'_> {
    Tests(networks.iter().map(|network| &network.tuned.confusion).collect::<Vec<&Confusion>>())
}

fn row(name: &str, networks: &[Network]) -> Vec<String> {
    let [top1, top5] = tests(networks).cells();
    vec![name.to_owned(), top1, top5]
}

/// Where a trained network goes.
struct NetworkFile {
    path: PathBuf,
    is_pth: bool,
}

impl NetworkFile {
    /// What can be wrong with a file is wrong before the training.
    fn new(path: &Path, draws: Option<u64>) -> Result<Self, Usage> {
        let shown = path.display();
        let is_pth = match path.extension().and_then(OsStr::to_str) {
            Some("pth") => true,
            Some("safetensors") => false,
            _ => return Err(Usage(format!("--out is {shown}, expected a name that ends in .pth or .safetensors"))),
        };
        if let Some(draws @ 2..) = draws {
            return Err(Usage(format!("--out is a file for one network, but --draws is {draws}")));
        }
        must_be_new(path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        match folder {
            Some(folder) if !folder.is_dir() => {
                Err(Usage(format!("--out is {shown}, but there is no folder {}", folder.display())))
            }
            _ => Ok(Self { path: path.to_owned(), is_pth }),
        }
    }

    /// The network under torchvision's names, whole or not at all.
    fn write(&self, network: &Network, settings: &Config, classes: &[String], output: &Output) -> anyhow::Result<()> {
        let (Network { encoder, tuned, .. }, shown) = (network, self.path.display());
        must_be_new(&self.path)?;
        if self.is_pth {
            tuned.classifier.save_pth(encoder, &self.path)?;
            output.say(format!("{shown}: pth has no place for the names of classes; safetensors has"));
        } else {
            let Normalization { mean, std } = settings.normalization;
            let about = json!({ "classes": classes, "size": settings.size, "mean": mean, "std": std });
            tuned.classifier.save(encoder, about.to_string(), &self.path)?;
        }
        tell_of_other_shape(encoder, output);
        output.say(format!("{shown}: encoder and classifier, {} classes, under torchvision's names", classes.len()));
        Ok(())
    }
}

impl FinetuneArguments {
    /// The defaults with what was typed in their place.
    fn training(&self, subset: Option<usize>) -> Result<FinetuneConfig, Usage> {
        let batch = self.batch.unwrap_or(BATCH);
        let config = FinetuneConfig {
            epochs: self.epochs.unwrap_or(EPOCHS),
            batch,
            learning_rate: self.lr.unwrap_or(FinetuneConfig::default_learning_rate(batch)),
            weight_decay: self.weight_decay.unwrap_or(0.0),
            seed: self.seed.unwrap_or(0),
        };
        check_training((config.epochs, config.batch), (config.learning_rate, config.weight_decay), subset)?;
        Ok(config)
    }
}
