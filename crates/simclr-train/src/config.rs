//! The settings of a run, all of them, validated.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use simclr_data::{Normalization, Recipe, TestTransform, TrainTransform};
use simclr_model::{Arch, ModelConfig, Stem};
use simclr_ops::Context;

use crate::Usage;
use crate::cli::{AugmentationArguments, DataArguments, PretrainArguments};
use crate::data_sets::{DataSet, Opened};

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
    /// How the two views go through the model.
    pub(crate) views: Views,
    /// Number format of activations.
    pub(crate) precision: Precision,
    /// Where it runs.
    pub(crate) device: String,
    /// Weights to begin with, in place of random ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) init: Option<PathBuf>,
    /// Passes over the training pictures.
    pub(crate) epochs: u64,
    /// Pictures in a batch.
    pub(crate) batch: usize,
    /// Update rule.
    pub(crate) optimizer: Optimizer,
    /// Learning rate.
    pub(crate) learning_rate: f64,
    /// L2 weight decay.
    pub(crate) weight_decay: f64,
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
    /// Epochs between checkpoints.
    pub(crate) checkpoint_every: u64,
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
}

/// Update rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Optimizer {
    /// Adam with L2 weight decay, as in the course.
    Adam,
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
            views: Views::Separate,
            precision: Precision::F32,
            device: "auto".into(),
            init: None,
            epochs: 100,
            batch: 128,
            optimizer: Optimizer::Adam,
            learning_rate: 1e-3,
            weight_decay: 1e-6,
            temperature: 0.5,
            seed: 0,
            knn_k: 200,
            knn_temperature: 0.5,
            knn_every: 5,
            checkpoint_every: 5,
            augmentation: Recipe::default(),
        }
    }
}

/// The largest views: what is larger is no picture for a ResNet, and its batches fill any memory.
const MAX_SIZE: u32 = 4096;
const SIZES: &str = "a number of pixels from 1 to 4096";

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
            self.optimizer = parse("--optimizer", name, &[("adam", Optimizer::Adam)])?;
        }
        if let Some(name) = &arguments.precision {
            self.precision = precision(name)?;
        }
        if arguments.init.is_some() {
            self.init.clone_from(&arguments.init);
        }
        self.augmentation = recipe(self.augmentation, &arguments.augmentation);
        set(&mut self.holdout, &arguments.holdout);
        set(&mut self.arch, &arguments.arch);
        set(&mut self.stem, &arguments.stem);
        set(&mut self.width, &arguments.width);
        set(&mut self.feature_dim, &arguments.feature_dim);
        set(&mut self.device, &arguments.machine.device);
        set(&mut self.epochs, &arguments.epochs);
        set(&mut self.batch, &arguments.batch);
        set(&mut self.learning_rate, &arguments.lr);
        set(&mut self.weight_decay, &arguments.weight_decay);
        set(&mut self.temperature, &arguments.temperature);
        set(&mut self.seed, &arguments.seed);
        set(&mut self.knn_k, &arguments.knn_k);
        set(&mut self.knn_temperature, &arguments.knn_temperature);
        set(&mut self.knn_every, &arguments.knn_every);
        set(&mut self.checkpoint_every, &arguments.checkpoint_every);
        Ok(self)
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
        check(self.epochs > 0, "--epochs", self.epochs, "at least 1")?;
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
        check(self.holdout > 0.0 && self.holdout < 1.0, "--holdout", self.holdout, "a share between 0 and 1")?;
        self.augmentation.validate().map_err(|error| Usage(error.to_string()))?;
        self.model().map(drop)
    }

    /// These settings with the encoder and the sizes of a model.
    #[must_use]
    pub(crate) fn of_model(self, model: &ModelConfig) -> Self {
        Self {
            arch: model.arch.to_string(),
            stem: model.stem.to_string(),
            width: model.width,
            feature_dim: model.feature_dim,
            ..self
        }
    }

    /// Checks that `model`, which came from the file `path`, is the one of these settings.
    ///
    /// # Errors
    /// [`Usage`] naming both.
    pub(crate) fn must_be(&self, model: &ModelConfig, path: &Path) -> Result<(), Usage> {
        let told = |c: &Self| {
            format!("{} of width {} with {} features and the {} stem", c.arch, c.width, c.feature_dim, c.stem)
        };
        let (found, wanted) = (told(&Self::default().of_model(model)), told(self));
        if found == wanted {
            return Ok(());
        }
        Err(Usage(format!("{} is a {found}, the settings say {wanted}", path.display())))
    }

    /// These settings with what the pictures of `train` suggest, where nothing else was typed: the size of the views, the stem for
    /// it, and how bytes become numbers.
    ///
    /// # Errors
    /// If a picture cannot be had.
    pub(crate) fn fitted(
        self,
        typed_size: Option<u32>,
        typed_stem: Option<&str>,
        train: &Opened,
    ) -> anyhow::Result<Self> {
        let normalization = match train.normalization {
            Some(known) => known,
            None => Normalization::measured(train.pictures.as_ref(), MEASURED)?,
        };
        let size = typed_size.unwrap_or(train.size);
        // Weights to begin with bring their stem.
        let stem = match (typed_stem, &self.init) {
            (None, None) => Stem::for_size(size).to_string(),
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
        Ok(ModelConfig { stem, width: self.width, feature_dim: self.feature_dim, ..ModelConfig::new(arch) })
    }

    /// Where and how its model computes.
    pub(crate) fn context(&self) -> Context {
        Context::new().with_precision(match self.precision {
            Precision::F32 => simclr_ops::Precision::Full,
            Precision::Bf16 => simclr_ops::Precision::Bf16,
        })
    }

    /// From the file of a run.
    ///
    /// # Errors
    /// If the file cannot be read or is not what this program writes.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        read(path, "a run")
    }
}

/// Reads the settings of something from the file `path`.
///
/// # Errors
/// If the file cannot be read or holds something else.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, of: &str) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    toml::from_str(&text).map_err(|error| {
        // toml's own message draws the place over several lines; an error of this program is one.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        anyhow!("{}: line {line}: not the settings of {of}: {}", path.display(), error.message().trim_end())
    })
}

/// Checks that a run in `folder` goes on with the settings that it was begun with.
///
/// # Errors
/// [`Usage`] naming each setting that is another, with both values.
pub(crate) fn must_be_as_saved(folder: &Path, saved: &impl Serialize, now: &impl Serialize) -> anyhow::Result<()> {
    let changed = differences(saved, now)?;
    if changed.is_empty() {
        return Ok(());
    }
    let (folder, changed) = (folder.display(), changed.join("; "));
    Err(Usage(format!("--resume goes on with the settings of {folder}, but {changed}")).into())
}

/// The names of the settings in which two runs differ, with both values: what resuming refuses.
///
/// # Errors
/// If settings cannot be written as TOML.
pub(crate) fn differences(old: &impl Serialize, new: &impl Serialize) -> anyhow::Result<Vec<String>> {
    let [old, new]: [BTreeMap<String, String>; 2] =
        [toml::Table::try_from(old)?, toml::Table::try_from(new)?].map(|table| flat(&table).into_iter().collect());
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    // Another version of the program is not another setting.
    let is_program = |name: &str| name.rsplit('.').next() == Some("program");
    let differing = names.into_iter().filter(|name| !is_program(name) && old.get(*name) != new.get(*name));
    let show = |value: Option<&String>| value.map_or("unset".to_owned(), Clone::clone);
    Ok(differing.map(|name| format!("{name} is {}, was {}", show(new.get(name)), show(old.get(name)))).collect())
}

/// Every setting and its value, those of inner tables as `table.setting`.
pub(crate) fn flat(table: &toml::Table) -> Vec<(String, String)> {
    let rows = table.iter().flat_map(|(key, value)| match value {
        toml::Value::Table(inner) => flat(inner).into_iter().map(|(name, v)| (format!("{key}.{name}"), v)).collect(),
        _ => vec![(key.clone(), value.to_string())],
    });
    rows.collect()
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
    match name {
        "f16" => Err(Usage("--precision is f16, which only GPUs have: f32 or bf16 are here".into())),
        _ => parse("--precision", name, &[("f32", Precision::F32), ("bf16", Precision::Bf16)]),
    }
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
    fn each_mistake_is_named_with_its_value() {
        let ok = Config::default();
        ok.validate().unwrap();
        let wrong = [
            (Config { batch: 1, ..ok.clone() }, "--batch is 1, expected at least 2"),
            (Config { epochs: 0, ..ok.clone() }, "--epochs is 0"),
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
        ];
        for (config, expected) in wrong {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(precision("f16").unwrap_err().to_string().contains("only GPUs"));
        assert!(precision("f99").unwrap_err().to_string().contains("--precision is f99, expected f32 or bf16"));
    }

    #[test]
    fn differences_are_named_with_both_values() {
        let old = Config::default();
        let new = Config { batch: 64, subset: Some(9), program: "other 9".into(), ..old.clone() };
        assert_eq!(differences(&old, &new).unwrap(), ["batch is 64, was 128", "subset is 9, was unset"]);
        assert!(differences(&old, &old).unwrap().is_empty());
    }
}
