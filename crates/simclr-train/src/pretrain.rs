//! The main job: sample, augment, encode, contrast, step, report.

use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use simclr_data::{Loader, LoaderConfig, Pictures};
use simclr_model::ModelConfig;

use crate::checkpoint::State;
use crate::cli::PretrainArguments;
use crate::config::{Config, Given, Precision};
use crate::data_sets::Place;
use crate::interrupt::Interrupt;
use crate::machine;
use crate::monitor::Monitor;
use crate::output::Output;
use crate::progress::human;
use crate::run_folder::RunFolder;
use crate::settings::{self, Draft, differences, must_be_as_saved};
use crate::study::Study;
use crate::summary::{self, Outcome};
use crate::training::{Stop, Training, steps_per_epoch};
use crate::{Ending, Usage, preset};

/// `simclr-train` without a command, and `simclr-train pretrain`.
pub(crate) fn command(arguments: &PretrainArguments, quick: bool, output: &Output) -> anyhow::Result<Ending> {
    let quick = quick && arguments.preset.is_none() && arguments.config.is_none();
    let saved = match (&arguments.run, arguments.resume) {
        (Some(path), true) => RunFolder::open(path)?,
        _ => None,
    };
    let (config, given) = put_together(arguments, quick, saved.as_ref().map(|(_, config)| config))?;
    config.validate()?;
    let config = config.resolved();
    if let Some((run, saved)) = &saved {
        must_be_as_saved(run.path(), &saved.clone().resolved(), &config)?;
    }
    machine::use_threads(arguments.machine.threads)?;
    let device = machine::device(&config.device)?;
    let place = Place::of(&config, arguments.data.cache.as_deref());
    let opened = config.data.train(place, config.subset, output)?;
    let test = config.data.test(place, None, output)?;
    if saved.is_some() {
        opened.must_be(&config)?;
    }
    let config = if saved.is_some() { config.clone() } else { config.clone().fitted(given, &opened)? };
    let (train, bad) = (opened.pictures, opened.bad);
    let loader = loader(&config, &train, arguments.workers)?;
    let steps = steps_per_epoch(&config, &loader)?;

    let (run, lock, fresh) = match saved {
        Some((run, _)) if run.result().exists() => return summary::already_finished(&run, output),
        Some((run, saved)) => {
            let lock = run.lock()?;
            if saved != config {
                run.rewrite(&config)?;
            }
            (run, lock, false)
        }
        None => {
            let path = arguments.run.clone().unwrap_or_else(|| RunFolder::fresh_path(&config));
            let (run, lock) = RunFolder::create(&path, &config)?;
            run.list_left_out(&bad)?;
            (run, lock, true)
        }
    };
    let interrupt = Interrupt::listen()?;
    let monitor = Monitor::held_out(&config, &train, output)?;
    let mut training = Training::begin(&config, (&run, lock), &device, loader, monitor, output)?;
    if fresh {
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
        if config.precision == Precision::Bf16 {
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
    match training.run(&interrupt, arguments.max_steps, output)? {
        Stop::Finished => interrupt.at_once(true),
        Stop::Interrupted => {
            training.keep(&format!("simclr-train pretrain --run {} --resume", run.path().display()), output)?;
            return Ok(Ending::Interrupted);
        }
        Stop::EnoughSteps => {
            training.save()?;
            return summary::stopped(&run, &training.state, &config, output);
        }
    }

    // The test split is looked at here, once, after everything was chosen.
    let study = Study::of(&training.model, &train, test, None, (&config, &device), output)?;
    let outcome = Outcome {
        state: training.state.clone(),
        pictures_per_step: config.pictures_per_step(),
        pictures: train.len(),
        study,
    };
    summary::finish(&run, &config, &outcome, train.as_ref(), output)?;
    Ok(Ending::Done)
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
    let loader = loader(config, train, workers)?;
    let mut training = Training::begin(config, (&run, lock), &device, loader, monitor, output)?;
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

pub(crate) fn loader(config: &Config, train: &Arc<dyn Pictures>, workers: Option<usize>) -> anyhow::Result<Loader> {
    if config.batch > train.len() {
        let (batch, set, len) = (config.batch, &config.data, train.len());
        return Err(Usage(format!("--batch is {batch}, but the training pictures of {set} are {len}")).into());
    }
    let settings = LoaderConfig {
        batch: config.batch,
        workers: workers.unwrap_or(config.data.workers()),
        ..LoaderConfig::default()
    };
    Ok(Loader::new(train.clone(), config.train_transform()?, settings)?)
}
