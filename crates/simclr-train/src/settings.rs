//! Settings in layers: the defaults, a preset, a file, then what was typed; each may say less than all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use simclr_data::{Normalization, Recipe};

use crate::Usage;
use crate::config::Config;
use crate::data_sets::DataSet;

/// The flag of every setting that has one of its own, in the order in which a command names them.
pub(crate) const FLAGS: [(&str, &str); 48] = [
    ("data", "--data"),
    ("data_dir", "--data-dir"),
    ("subset", "--subset"),
    ("shorter_side", "--shorter-side"),
    ("max_bad", "--max-bad"),
    ("size", "--size"),
    ("holdout", "--holdout"),
    ("augmentation.crop_scale", "--min-crop"),
    ("augmentation.jitter_probability", "--no-color-jitter"),
    ("augmentation.grayscale_probability", "--grayscale"),
    ("augmentation.blur_probability", "--blur"),
    ("augmentation.solarize_probability", "--solarize"),
    ("arch", "--arch"),
    ("stem", "--stem"),
    ("width", "--width"),
    ("feature_dim", "--feature-dim"),
    ("hidden_dim", "--hidden-dim"),
    ("head_layers", "--head-layers"),
    ("head_batch_norm", "--head-batch-norm"),
    ("init", "--init"),
    ("views", "--views"),
    ("sync_bn", "--sync-bn"),
    ("precision", "--precision"),
    ("device", "--device"),
    ("fast", "--fast"),
    ("epochs", "--epochs"),
    ("batch", "--batch"),
    ("chunk", "--chunk"),
    ("accumulate", "--accumulate"),
    ("optimizer", "--optimizer"),
    ("momentum", "--momentum"),
    ("nesterov", "--nesterov"),
    ("trust_coefficient", "--trust-coefficient"),
    ("learning_rate", "--lr"),
    ("learning_rate_rule", "--lr-rule"),
    ("schedule", "--schedule"),
    ("warmup", "--warmup"),
    ("milestones", "--milestones"),
    ("gamma", "--gamma"),
    ("weight_decay", "--weight-decay"),
    ("decay_vectors", "--decay-vectors"),
    ("clip_norm", "--clip-norm"),
    ("temperature", "--temperature"),
    ("seed", "--seed"),
    ("skip_non_finite", "--skip-non-finite"),
    ("knn_k", "--knn-k"),
    ("knn_temperature", "--knn-temperature"),
    ("knn_every", "--knn-every"),
];

/// Settings that the run itself decides or finds out: nobody asks for them.
const FOUND: [&str; 3] = ["program", "pictures", "normalization"];

/// Settings that do not change what a run computes, but for a batch that would end it: it may go on with others.
const FREE: [&str; 5] = ["keep", "checkpoint_every", "checkpoint_minutes", "log_every", "skip_non_finite"];

/// Settings that only have a meaning with a certain optimizer or schedule: another one in a later layer drops them.
const OF_OPTIMIZER: [&str; 7] = ["momentum", "nesterov", "trust_coefficient", "beta1", "beta2", "eps", "decay_vectors"];
const OF_SCHEDULE: [&str; 2] = ["milestones", "gamma"];

/// Settings as they are put together.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    table: toml::Table,
    /// What a preset or a file says itself: the pictures have no say in it.
    pub(crate) given: BTreeSet<String>,
}

impl Draft {
    /// The defaults, of which nothing is given.
    ///
    /// # Errors
    /// If settings cannot be written as TOML.
    pub(crate) fn new(defaults: &Config) -> anyhow::Result<Self> {
        Ok(Self { table: toml::Table::try_from(defaults)?, given: BTreeSet::new() })
    }

    /// These with the settings of the file `path` in their place: a few, or the config.toml of a run.
    ///
    /// # Errors
    /// If the file cannot be read; [`Usage`] for what is no setting.
    pub(crate) fn with_file(self, path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        self.with_text(&text, &path.display().to_string())
    }

    /// These with the settings of a TOML text in their place; `origin` is what errors call it.
    ///
    /// # Errors
    /// [`Usage`] for what is no setting, or no value of one.
    pub(crate) fn with_text(mut self, text: &str, origin: &str) -> anyhow::Result<Self> {
        let wrong = |error: &toml::de::Error| Usage(said(text, origin, error));
        let mut layer: toml::Table = text.parse().map_err(|error| wrong(&error))?;
        known(&layer, "", fields::<Config>(), origin)?;
        for (name, expected) in [("augmentation", fields::<Recipe>()), ("normalization", fields::<Normalization>())] {
            if let Some(toml::Value::Table(inner)) = layer.get(name) {
                known(inner, &format!("{name}."), expected, origin)?;
            }
        }
        // Values by themselves first: this error knows its line.
        toml::from_str::<Config>(text).map_err(|error| wrong(&error))?;
        // What a run found out, the next one finds out for itself.
        ["program", "pictures"].iter().for_each(|name| drop(layer.remove(*name)));
        for (decides, dependent) in [("optimizer", &OF_OPTIMIZER[..]), ("schedule", &OF_SCHEDULE[..])] {
            if layer.get(decides).is_some_and(|value| self.table.get(decides) != Some(value)) {
                dependent.iter().for_each(|name| drop(self.table.remove(*name)));
            }
        }
        // A folder's pictures are kept at twice the size of the views, unless something else is said.
        if let (Some(size), false) =
            (layer.get("size").and_then(toml::Value::as_integer), layer.contains_key("shorter_side"))
        {
            layer.insert("shorter_side".into(), size.saturating_mul(2).min(u32::MAX.into()).into());
        }
        self.given.extend(layer.keys().cloned());
        for (name, value) in layer {
            match (self.table.get_mut(&name), value) {
                (Some(toml::Value::Table(old)), toml::Value::Table(new)) => old.extend(new),
                (_, value) => drop(self.table.insert(name, value)),
            }
        }
        Ok(self)
    }

    /// What they come to.
    ///
    /// # Errors
    /// [`Usage`] if they are not settings.
    pub(crate) fn config(&self) -> Result<Config, Usage> {
        self.table.clone().try_into().map_err(|error: toml::de::Error| Usage(error.message().trim_end().to_owned()))
    }
}

/// Reads the settings of something from the file `path`.
///
/// # Errors
/// If the file cannot be read or holds something else.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, of: &str) -> anyhow::Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let told = |error| anyhow!("{}", said(&text, &format!("{}: not the settings of {of}", path.display()), &error));
    toml::from_str(&text).map_err(told)
}

/// toml's own message draws the place over several lines; an error of this program is one.
fn said(text: &str, origin: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let message: Vec<&str> = error.message().split('\n').map(str::trim).filter(|part| !part.is_empty()).collect();
    format!("{origin}: line {line}: {}", message.join(", "))
}

/// Checks that all keys of a table are among the `expected`.
fn known(table: &toml::Table, prefix: &str, expected: &[&str], origin: &str) -> Result<(), Usage> {
    let Some(key) = table.keys().find(|key| !expected.contains(&key.as_str())) else { return Ok(()) };
    let near = match of_flag(key) {
        Some(setting) => format!(": did you mean {setting}?"),
        None => nearest(key, expected.iter().copied())
            .map_or_else(String::new, |near| format!(": did you mean {prefix}{near}?")),
    };
    let near = if near.is_empty() { format!("; there are {}", expected.join(", ")) } else { near };
    Err(Usage(format!("{origin}: {prefix}{key} is no setting{near}")))
}

/// The setting of the flag that is called `name`, with or without its dashes.
fn of_flag(name: &str) -> Option<&'static str> {
    let name = name.trim_start_matches('-').replace('_', "-");
    FLAGS.iter().find(|(_, flag)| flag.trim_start_matches('-') == name).map(|(setting, _)| *setting)
}

/// The candidate that is most like `name`, if one is like it at all.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = candidates.map(|candidate| (strsim::jaro_winkler(name, candidate), candidate));
    likeness.filter(|(likeness, _)| *likeness > 0.75).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

/// The names of a struct's fields, as its `Deserialize` asks for them.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    struct Names<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Names<'_> {
        type Error = serde::de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("only the names are asked for"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut names: &'static [&'static str] = &[];
    let _ = T::deserialize(Names(&mut names));
    names
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
    let does_not_matter = |name: &str| {
        let last = name.rsplit('.').next().unwrap_or(name);
        last == "program" || FREE.contains(&last)
    };
    let differing = names.into_iter().filter(|name| !does_not_matter(name) && old.get(*name) != new.get(*name));
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

/// A setting as it is typed.
pub(crate) fn flat_name(setting: &impl Serialize) -> String {
    toml::Value::try_from(setting)
        .map_or_else(|_| String::new(), |value| value.to_string().trim_matches('"').to_owned())
}

/// The command that runs these settings again: with a flag for each that is not the default, or with the file of settings `saved`
/// where flags cannot say all.
///
/// # Errors
/// If settings cannot be written as TOML.
pub(crate) fn command(config: &Config, saved: &Path) -> anyhow::Result<String> {
    let table = |config: &Config| -> anyhow::Result<BTreeMap<String, String>> {
        Ok(flat(&toml::Table::try_from(config)?).into_iter().collect())
    };
    let (settings, defaults) = (table(config)?, table(&Config::default().resolved())?);
    // What only the defaults have belongs to another optimizer or schedule.
    let is_told = |name: &str| !FOUND.iter().any(|found| name.split('.').next() == Some(found));
    let differs = |name: &str| settings.get(name) != defaults.get(name);
    let whole = format!("simclr-train pretrain --config {}", saved.display());
    let mut words = vec!["simclr-train pretrain".to_owned()];
    let differing: BTreeSet<&str> =
        settings.keys().map(String::as_str).filter(|name| is_told(name) && differs(name)).collect();
    let is_own =
        !matches!(config.data, DataSet::Cifar10 | DataSet::Shapes) || config.normalization == Normalization::CIFAR10;
    if !is_own || differing.iter().any(|name| !FREE.contains(name) && !FLAGS.iter().any(|(setting, _)| setting == name))
    {
        return Ok(whole);
    }
    for (setting, flag) in FLAGS {
        // What is trained on what, and for how long, is always said; and so is what else would follow from the pictures.
        let always = ["data", "size", "arch", "stem", "epochs", "batch"].contains(&setting)
            || setting == "shorter_side" && matches!(config.data, DataSet::Folder(_));
        let Some(value) = settings.get(setting).filter(|_| always || differing.contains(setting)) else { continue };
        let value = value.trim_matches('"');
        words.push(match setting {
            "augmentation.crop_scale" => match value.trim_matches(['[', ']']).split_once(", ") {
                Some((least, "1.0")) => format!("{flag} {least}"),
                _ => return Ok(whole),
            },
            "augmentation.jitter_probability" if value == "0.0" => flag.to_owned(),
            "augmentation.jitter_probability" => return Ok(whole),
            "milestones" => format!("{flag} {}", value.trim_matches(['[', ']']).replace(", ", ",")),
            "nesterov" | "skip_non_finite" | "fast" if value == "false" => continue,
            "nesterov" | "skip_non_finite" | "fast" => flag.to_owned(),
            _ => format!("{flag} {value}"),
        });
    }
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::{Optimizer, Schedule, Views};
    use clap::{CommandFactory, Parser};

    fn draft() -> Draft {
        Draft::new(&Config::default()).unwrap()
    }

    #[test]
    fn layers_say_what_they_say_and_leave_the_rest() {
        let preset =
            draft().with_text("optimizer = \"lars\"\nmomentum = 0.8\nsize = 64\n[augmentation]\nhue = 0.2", "a");
        let preset = preset.unwrap();
        let config = preset.config().unwrap();
        assert_eq!((config.optimizer, config.momentum, config.size), (Optimizer::Lars, Some(0.8), 64));
        assert_eq!((config.augmentation.hue, config.augmentation.brightness), (0.2, 0.4));
        assert!(preset.given.contains("size") && !preset.given.contains("stem"));
        // Another optimizer has no use for what belonged to the first.
        let file = preset.clone().with_text("optimizer = \"adamw\"\n[augmentation]\nbrightness = 0.1", "b").unwrap();
        let config = file.config().unwrap();
        assert_eq!((config.optimizer, config.momentum, config.size), (Optimizer::AdamW, None, 64));
        assert_eq!((config.augmentation.hue, config.augmentation.brightness), (0.2, 0.1));
        let same = preset.with_text("optimizer = \"lars\"", "b").unwrap();
        assert_eq!(same.config().unwrap().momentum, Some(0.8));
    }

    #[test]
    fn what_a_run_saves_is_a_file_of_settings() {
        let config = Config {
            optimizer: Optimizer::Sgd,
            schedule: Schedule::Steps,
            milestones: Some(vec![3.0]),
            pictures: Some("sha256:1".into()),
            program: "older".into(),
            chunk: Some(16),
            ..Config::default()
        }
        .resolved();
        let text = toml::to_string(&config).unwrap();
        let read = draft().with_text(&text, "config.toml").unwrap().config().unwrap();
        let found_out_anew = Config { pictures: None, program: Config::default().program, ..config };
        assert_eq!(read, found_out_anew);
    }

    #[test]
    fn mistakes_are_named_with_their_file_and_line_and_the_right_name() {
        let message = |text: &str| draft().with_text(text, "my.toml").unwrap_err().to_string();
        for (text, expected) in [
            ("optimiser = \"sgd\"", "my.toml: optimiser is no setting: did you mean optimizer?"),
            ("lr = 1", "my.toml: lr is no setting: did you mean learning_rate?"),
            ("min_crop = 1", "my.toml: min_crop is no setting: did you mean augmentation.crop_scale?"),
            ("temprature = 1.0", "did you mean temperature?"),
            ("xyzzy = 1", "xyzzy is no setting; there are program, data, "),
            (
                "[augmentation]\ncrop_scales = [0.1, 1.0]",
                "augmentation.crop_scales is no setting: did you mean augmentation.crop_scale?",
            ),
            ("batch = 4\nepochs = \"many\"", "my.toml: line 2: invalid type: string \"many\", expected u64"),
            (
                "\n\noptimizer = \"sdg\"",
                "my.toml: line 3: unknown variant `sdg`, expected one of `adam`, `adamw`, `sgd`, `lars`",
            ),
            ("batch = ", "my.toml: line 1: "),
        ] {
            let found = message(text);
            assert!(found.contains(expected) && !found.contains('\n'), "{found}");
        }
    }

    #[test]
    fn every_flag_is_one_of_pretrain_and_every_setting_is_one() {
        let command = Cli::command();
        let pretrain = command.find_subcommand("pretrain").unwrap();
        let flags: Vec<_> = pretrain.get_arguments().filter_map(|a| a.get_long()).map(|l| format!("--{l}")).collect();
        for (setting, flag) in FLAGS {
            assert!(flags.iter().any(|known| known == flag), "{flag}");
            let known = match setting.strip_prefix("augmentation.") {
                Some(inner) => fields::<Recipe>().contains(&inner),
                None => fields::<Config>().contains(&setting),
            };
            assert!(known, "{setting}");
        }
        for name in FOUND.iter().chain(&FREE).chain(&OF_OPTIMIZER).chain(&OF_SCHEDULE) {
            assert!(fields::<Config>().contains(name), "{name}");
        }
    }

    #[test]
    fn the_command_of_a_report_gives_the_same_settings() {
        let config = Config {
            subset: Some(4000),
            size: 24,
            stem: "7x7".into(),
            width: 16,
            batch: 64,
            chunk: Some(32),
            accumulate: 2,
            views: Views::Joint,
            optimizer: Optimizer::Sgd,
            nesterov: Some(true),
            schedule: Schedule::Steps,
            milestones: Some(vec![50.0, 75.5]),
            warmup: 2.5,
            clip_norm: Some(1.5),
            learning_rate: 3e-4,
            hidden_dim: 256,
            head_batch_norm: false,
            init: Some("a.safetensors".into()),
            seed: 7,
            knn_every: 2,
            skip_non_finite: true,
            fast: true,
            shorter_side: 48,
            augmentation: Recipe {
                jitter_probability: 0.0,
                blur_probability: 0.5,
                solarize_probability: 0.125,
                crop_scale: [0.2, 1.0],
                grayscale_probability: 0.1,
                ..Default::default()
            },
            ..Config::default()
        }
        .resolved();
        let parsed = |typed: &str| {
            let cli = Cli::try_parse_from(typed.split(' ')).unwrap();
            let Some(Command::Pretrain(arguments)) = cli.command else { panic!("{typed}") };
            arguments
        };
        let typed = command(&config, Path::new("config.toml")).unwrap();
        assert_eq!(Config::default().overridden(&parsed(&typed)).unwrap().resolved(), config, "{typed}");
        for optimizer in [Optimizer::AdamW, Optimizer::Sgd, Optimizer::Lars] {
            let config = Config { optimizer, schedule: Schedule::Cosine, size: 96, ..Config::default() }.resolved();
            let typed = command(&config, Path::new("config.toml")).unwrap();
            let parsed = Config::default().overridden(&parsed(&typed)).unwrap().resolved();
            assert_eq!(Config { shorter_side: config.shorter_side, ..parsed }, config, "{typed}");
            assert!(!typed.contains("nesterov"), "{typed}");
        }
        let odd = Config { beta1: Some(0.8), ..Config::default() }.resolved();
        let typed = command(&odd, Path::new("runs/a/config.toml")).unwrap();
        assert_eq!(typed, "simclr-train pretrain --config runs/a/config.toml");
        assert_eq!(parsed(&typed).config.as_deref(), Some(Path::new("runs/a/config.toml")));
    }

    #[test]
    fn differences_are_named_with_both_values() {
        let old = Config::default();
        let new = Config { batch: 64, subset: Some(9), program: "other 9".into(), keep: 9, ..old.clone() };
        assert_eq!(differences(&old, &new).unwrap(), ["batch is 64, was 128", "subset is 9, was unset"]);
        assert!(differences(&old, &old).unwrap().is_empty());
    }
}
