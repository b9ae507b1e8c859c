//! The main job: sample, augment, encode, contrast, step, report.

use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use candle_core::Device;
use serde::{Deserialize, Serialize};
use simclr_data::{Bad, Loader, LoaderConfig, Pictures};
use simclr_model::ModelConfig;

use crate::checkpoint::State;
use crate::cli::PretrainArguments;
use crate::config::{Config, Given, Precision};
use crate::data_sets::{self, Place};
use crate::feed::Feed;
use crate::interrupt::Interrupt;
use crate::machine;
use crate::monitor::Monitor;
use crate::output::Output;
use crate::progress::human;
use crate::ranks::Ranks;
use crate::run_folder::RunFolder;
use crate::settings::{self, Draft, differences, must_be_as_saved};
use crate::study::Study;
use crate::summary::{self, Outcome};
use crate::training::{Stop, Training, steps_per_epoch};
use crate::{Ending, Usage, preset};

/// `simclr-train` without a command, and `simclr-train pretrain`.
///
/// Of several processes the first reads the settings and the run, and writes; what it decides, the others are told.
pub(crate) fn command(
    arguments: &PretrainArguments,
    quick: bool,
    ranks: &Ranks,
    output: &Output,
) -> anyhow::Result<Ending> {
    let quick = quick && arguments.preset.is_none() && arguments.config.is_none();
    let Plan { config, given, saved, finished } = ranks.first_tells(|| Plan::of(arguments, quick, ranks.count()))?;
    if let Some(path) = arguments.run.as_ref().filter(|_| finished) {
        // It may be where only the first of several processes can see it.
        return if ranks.is_first() {
            summary::already_finished(&RunFolder::at(path), output)
        } else {
            Ok(Ending::Done)
        };
    }
    let resumed = saved.is_some();
    let opened = Opening { config, given, resumed, ranks }.open(arguments, output);
    let Pictured { config, device, train, test, bad, feed, steps } = ranks.agree(opened)?;
    ranks.must_match("data set", || data_sets::digest(&train))?;
    ranks.must_match("test split", || test.as_ref().map_or_else(|| Ok("none".into()), data_sets::digest))?;
    // What the pictures had their say in.
    ranks.must_match("view of its pictures", || {
        let Config { size, stem, normalization, .. } = &config;
        Ok(format!("{size} pixels, the {stem} stem, normalised by {normalization:?}"))
    })?;

    let mut lock = None;
    let path = ranks.first_tells(|| {
        let (run, own) = match (saved, &arguments.run) {
            (Some(saved), Some(path)) => {
                let run = RunFolder::at(path);
                let own = run.lock()?;
                if saved != config {
                    run.rewrite(&config)?;
                }
                (run, own)
            }
            (_, path) => {
                let path = path.clone().unwrap_or_else(|| RunFolder::fresh_path(&config));
                let (run, own) = RunFolder::create(&path, &config)?;
                run.list_left_out(&bad)?;
                (run, own)
            }
        };
        lock = Some(own);
        Ok(run.path().to_owned())
    })?;
    let run = RunFolder::at(&path);
    let interrupt = Interrupt::listen()?;
    let monitor = Monitor::held_out(&config, &train, output)?.over(ranks);
    let mut training = Training::begin(&config, (&run, lock), (&device, ranks), feed, monitor, output)?;
    if !ranks.is_alone() {
        let (count, own) = (ranks.count(), config.batch / ranks.count());
        let norm = if config.sync_bn { "all of them together" } else { "each by itself" };
        output.say(format!(
            "{count} processes, each with {own} pictures of a batch and {} threads; batch norm over {norm}",
            rayon::current_num_threads()
        ));
        ranks.idle().iter().for_each(|remark| output.say(remark));
    }
    if !resumed {
        output.say(format!(
            "{} with the {} stem, {} parameters, on {} pictures of {} at {} pixels (labels unseen); batch {}, {}, {} epochs of {} steps; run {}",
            config.arch,
            config.stem,
            training.model.parameter_count(),
            train.len(),
            config.data,
            config.size,
            config.batch,
            settings::flat_name(&config.optimizer),
            config.epochs,
            steps,
            run.path().display()
        ));
        output.say(format!("training runs on {}", machine::describe(&device)));
        if config.precision == Precision::Bf16 && device.is_cpu() {
            output.say("bf16 halves the memory of activations; a CPU multiplies in f32 here, so a step takes about as long as with f32");
        }
        if quick {
            let expected = training.expected_time(&train, test.as_ref().map_or(0, |test| test.len()))?;
            output.say(format!(
                "this is the quick preset: about {} on this machine (see `simclr-train pretrain --help` for more)",
                human(expected)
            ));
        }
    } else {
        output.say(format!("going on with {} from step {}", run.path().display(), training.state.step));
    }
    config.remark_on_fast(&device).iter().for_each(|remark| output.say(remark));
    match training.run(&interrupt, arguments.max_steps, output)? {
        Stop::Finished => interrupt.at_once(true),
        Stop::Interrupted => {
            training.keep(&format!("simclr-train pretrain --run {} --resume", run.path().display()), output)?;
            return Ok(Ending::Interrupted);
        }
        Stop::EnoughSteps => {
            training.save()?;
            return summary::stopped(&run, &training.state, &config, ranks, output);
        }
    }

    // The test split is looked at here, once, after everything was chosen.
    if !ranks.is_first() {
        Study::assist(&training.model, &train, test, (&config, &device), ranks, output)?;
        return Ok(Ending::Done);
    }
    let study = Study::of(&training.model, &train, test, None, (&config, &device), ranks, output)?;
    let outcome = Outcome {
        state: training.state.clone(),
        pictures_per_step: config.pictures_per_step(),
        pictures: train.len(),
        ranks: ranks.count(),
        study,
    };
    summary::finish(&run, &config, &outcome, train.as_ref(), output)?;
    Ok(Ending::Done)
}

/// What the settings and the run on the disk come to.
#[derive(Serialize, Deserialize)]
struct Plan {
    config: Config,
    given: Given,
    /// The settings of the run that goes on.
    saved: Option<Config>,
    /// Whether that run has nothing left to do.
    finished: bool,
}

impl Plan {
    fn of(arguments: &PretrainArguments, quick: bool, ranks: usize) -> anyhow::Result<Self> {
        let saved = match (&arguments.run, arguments.resume) {
            (Some(path), true) => RunFolder::open(path)?,
            _ => None,
        };
        let (config, given) = put_together(arguments, quick, saved.as_ref().map(|(_, config)| config))?;
        config.validate()?;
        config.validate_for(ranks)?;
        let config = config.resolved();
        if let Some((run, saved)) = &saved {
            must_be_as_saved(run.path(), &saved.clone().resolved(), &config)?;
        }
        let finished = saved.as_ref().is_some_and(|(run, _)| run.result().exists());
        Ok(Self { config, given, saved: saved.map(|(_, saved)| saved), finished })
    }
}

/// What a process opens for itself.
struct Opening<'a> {
    config: Config,
    given: Given,
    resumed: bool,
    ranks: &'a Ranks,
}

/// Settings that the pictures have had their say in, and the pictures.
struct Pictured {
    config: Config,
    device: Device,
    train: Arc<dyn Pictures>,
    test: Option<Arc<dyn Pictures>>,
    bad: Vec<Bad>,
    feed: Feed,
    /// Steps of an epoch.
    steps: u64,
}

impl Opening<'_> {
    fn open(self, arguments: &PretrainArguments, output: &Output) -> anyhow::Result<Pictured> {
        let Self { config, given, resumed, ranks } = self;
        machine::use_threads(arguments.machine.threads.or(ranks.threads()))?;
        let device = machine::training_device(&config.device, ranks.is_alone())?;
        machine::must_compute_in(config.precision, &device)?;
        let place = Place::of(&config, arguments.data.cache.as_deref());
        let open = || -> anyhow::Result<_> {
            Ok((config.data.train(place, config.subset, output)?, config.data.test(place, None, output)?))
        };
        // What the first one decodes, the others find in the cache.
        let (opened, test) = if arguments.data.cache.is_some() { ranks.one_by_one(open)?? } else { open()? };
        if resumed {
            opened.must_be(&config)?;
        }
        let config = if resumed { config.clone() } else { config.clone().fitted(given, &opened)? };
        let (train, bad) = (opened.pictures, opened.bad);
        let loader = loader(&config, &train, arguments.workers, ranks)?;
        let steps = steps_per_epoch(&config, loader.batches_per_epoch())?;
        let feed = Feed::new(loader, train.as_ref(), &config, &device, output)?;
        Ok(Pictured { config, device, train, test, bad, feed, steps })
    }
}

/// Trains one stage of an experiment to its end and returns where it stands, or none if it was interrupted.
///
/// A stage is a run of its own in the folder `path`; it goes on from its newest checkpoint if it has one. `go_on` is the command
/// that an interrupted experiment goes on with.
pub(crate) fn stage(
    config: &Config,
    path: &Path,
    train: &Arc<dyn Pictures>,
    monitor: Monitor,
    interrupt: &Interrupt,
    (workers, go_on): (Option<usize>, &str),
    output: &Output,
) -> anyhow::Result<Option<(RunFolder, State)>> {
    let (run, lock) = match RunFolder::open(path)? {
        None => RunFolder::create(path, config)?,
        Some((run, saved)) => {
            let changed = differences(&saved, config)?;
            if !changed.is_empty() {
                bail!("{} has other settings: {}", path.display(), changed.join("; "));
            }
            let lock = run.lock()?;
            (run, lock)
        }
    };
    let device = machine::device(&config.device)?;
    let alone = Ranks::alone();
    let loader = loader(config, train, workers, &alone)?;
    let feed = Feed::new(loader, train.as_ref(), config, &device, output)?;
    let mut training = Training::begin(config, (&run, Some(lock)), (&device, &alone), feed, monitor, output)?;
    interrupt.at_once(false);
    let stop = training.run(interrupt, None, output)?;
    if let Stop::Interrupted = stop {
        training.keep(go_on, output)?;
        return Ok(None);
    }
    interrupt.at_once(true);
    Ok(Some((run, training.state)))
}

/// What the preset, the file and the flags come to, over the settings of the run that goes on or the defaults; and what of it
/// was asked for.
fn put_together(arguments: &PretrainArguments, quick: bool, saved: Option<&Config>) -> anyhow::Result<(Config, Given)> {
    let preset = arguments.preset.as_deref().or(quick.then_some(preset::QUICK));
    let data_dir = arguments.data.data_dir.clone().unwrap_or_else(|| Config::default().data_dir);
    let mut draft = match (saved, preset) {
        // The preset of a run is among its settings: it is only asked for again if somebody types it again.
        (Some(saved), _) => match &arguments.preset {
            Some(name) => Draft::new(saved)?.with_text(preset::text(name)?, &format!("the preset {name}"))?,
            None => Draft::new(saved)?,
        },
        (None, Some(name)) => preset::draft(name, &data_dir)?,
        (None, None) => Draft::new(&Config::default())?,
    };
    if let Some(path) = &arguments.config {
        draft = draft.with_file(path)?;
    }
    let given = |name: &str| draft.given.contains(name);
    let given = Given {
        size: given("size") || arguments.size.is_some(),
        stem: given("stem") || arguments.stem.is_some(),
        normalization: given("normalization"),
    };
    let base = draft.config()?;
    let init = arguments.init.as_ref().or(base.init.as_ref()).cloned();
    let config = match init.filter(|_| saved.is_none()) {
        // The file says what it is; what is typed beside it must agree.
        Some(path) => {
            let file = ModelConfig::of_file(&path)?;
            let own = |config: &Config| -> Result<ModelConfig, Usage> {
                Ok(if file.has_head { file.config.clone() } else { file.config.with_head_of(&config.model()?) })
            };
            let config = base.clone().of_model(&own(&base)?).overridden(arguments)?;
            config.must_be(&own(&config)?, &path)?;
            config
        }
        None => base.overridden(arguments)?,
    };
    Ok((config, given))
}

/// What makes the batches of a run, or the share of them that is this process's.
pub(crate) fn loader(
    config: &Config,
    train: &Arc<dyn Pictures>,
    workers: Option<usize>,
    ranks: &Ranks,
) -> anyhow::Result<Loader> {
    if config.batch > train.len() {
        let (batch, set, len) = (config.batch, &config.data, train.len());
        return Err(Usage(format!("--batch is {batch}, but the training pictures of {set} are {len}")).into());
    }
    let settings = LoaderConfig {
        batch: config.batch,
        workers: workers.unwrap_or(config.data.workers()),
        share: ranks.share_of_batches(config.chunk),
        ..LoaderConfig::default()
    };
    Ok(Loader::new(train.clone(), config.train_transform()?, settings)?)
}
