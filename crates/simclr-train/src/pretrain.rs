//! The main job: sample, augment, encode, contrast, step, report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use candle_core::{DType, Device, Tensor};
use simclr_data::{Loader, LoaderConfig, PairBatch, Pictures};
use simclr_eval::KnnResult;
use simclr_loss::nt_xent;
use simclr_model::{Model, ModelConfig};
use simclr_optim::Optimizer;

use crate::checkpoint::{self, Checkpoints, State};
use crate::cli::PretrainArguments;
use crate::config::{Config, Precision, Views, differences, must_be_as_saved};
use crate::data_sets::Place;
use crate::evaluate::{KnnSets, sample_batch};
use crate::interrupt::Interrupt;
use crate::machine;
use crate::meter::Meter;
use crate::metrics::{Event, Metrics};
use crate::monitor::Monitor;
use crate::output::Output;
use crate::progress::{Progress, human};
use crate::run_folder::RunFolder;
use crate::summary::{self, Knn, Outcome};
use crate::{Ending, Usage, preset};

/// Steps between two lines of the metrics.
const STEPS_PER_EVENT: u64 = 10;

/// `simclr-train` without a command, and `simclr-train pretrain`.
pub(crate) fn command(arguments: &PretrainArguments, quick: bool, output: &Output) -> anyhow::Result<Ending> {
    let saved = match (&arguments.run, arguments.resume) {
        (Some(path), true) => RunFolder::open(path)?,
        _ => None,
    };
    let base = match (&saved, quick) {
        (Some((_, config)), _) => config.clone(),
        (None, true) => preset::quick(&arguments.data.data_dir.clone().unwrap_or_else(|| Config::default().data_dir)),
        (None, false) => Config::default(),
    };
    let config = match &arguments.init {
        // The file says what it is; what is typed beside it must agree.
        Some(path) if saved.is_none() => {
            let model = ModelConfig::of_file(path)?;
            let config = base.clone().of_model(&model).overridden(arguments)?;
            config.must_be(&model, path)?;
            config
        }
        _ => base.clone().overridden(arguments)?,
    };
    config.validate()?;
    if let Some((run, _)) = &saved {
        must_be_as_saved(run.path(), &base, &config)?;
    }
    machine::use_threads(arguments.machine.threads)?;
    let device = machine::device(&config.device)?;
    let place = Place::of(&config, arguments.data.cache.as_deref());
    let opened = config.data.train(place, config.subset, output)?;
    let test = config.data.test(place, None, output)?;
    if saved.is_some() && opened.fingerprint != config.pictures {
        let told = |pictures: &Option<String>| pictures.clone().unwrap_or_else(|| "others".into());
        bail!(
            "{}: its pictures are not those that the run began with ({}, was {}): put those back, or begin a new run",
            config.data,
            told(&opened.fingerprint),
            told(&config.pictures)
        );
    }
    let config = if saved.is_some() {
        config.clone()
    } else {
        config.clone().fitted(arguments.size, arguments.stem.as_deref(), &opened)?
    };
    let (train, bad) = (opened.pictures, opened.bad);
    let loader = loader(&config, &train, arguments.workers)?;

    let (run, fresh) = match saved {
        Some((run, _)) if run.result().exists() => return summary::already_finished(&run, output),
        Some((run, _)) => (run, false),
        None => {
            let path = arguments.run.clone().unwrap_or_else(|| RunFolder::fresh_path(&config));
            let run = RunFolder::create(&path, &config)?;
            run.list_left_out(&bad)?;
            (run, true)
        }
    };
    let interrupt = Interrupt::listen()?;
    let monitor = Monitor::held_out(&config, &train, output)?;
    let mut training = Training::begin(&config, &run, &device, loader, monitor, output)?;
    if fresh {
        output.say(format!(
            "{} with the {} stem, {} parameters, on {} pictures of {} at {} pixels (labels unseen); batch {}, {} epochs of {} steps; run {}",
            config.arch,
            config.stem,
            training.model.parameter_count(),
            train.len(),
            config.data,
            config.size,
            config.batch,
            config.epochs,
            training.loader.batches_per_epoch(),
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
    let knn = match KnnSets::last(&train, test, &config, output)? {
        None => None,
        Some(sets) => {
            let protocols = sets.protocols(config.knn_k, config.knn_temperature, output);
            let random = Model::new(&config.model()?, config.seed, DType::F32, &device, &config.context())?;
            Some(Knn {
                raw_pixels: sets.test_raw_pixels(&protocols, output)?,
                random: sets.test_model(&random, &protocols, "random", output)?,
                trained: sets.test_model(&training.model, &protocols, "trained", output)?,
            })
        }
    };
    let outcome = Outcome { state: training.state.clone(), batch: config.batch, pictures: train.len(), knn };
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
    let run = match RunFolder::open(path)? {
        None => RunFolder::create(path, config)?,
        Some((run, saved)) => {
            let changed = differences(&saved, config)?;
            if !changed.is_empty() {
                bail!("{} has other settings: {}", path.display(), changed.join("; "));
            }
            run
        }
    };
    let device = machine::device(&config.device)?;
    let loader = loader(config, train, workers)?;
    let mut training = Training::begin(config, &run, &device, loader, monitor, output)?;
    interrupt.at_once(false);
    let stop = training.run(interrupt, None, output)?;
    if let Stop::Interrupted = stop {
        training.keep(go_on, output)?;
        return Ok(None);
    }
    interrupt.at_once(true);
    Ok(Some((run, training.state)))
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

/// Why training came to an end.
enum Stop {
    Finished,
    Interrupted,
    EnoughSteps,
}

/// A run in progress.
struct Training<'a> {
    config: &'a Config,
    device: &'a Device,
    loader: Loader,
    model: Model,
    optimizer: Optimizer,
    state: State,
    metrics: Metrics,
    monitor: Monitor,
    checkpoints: Checkpoints,
}

impl<'a> Training<'a> {
    /// From the newest good checkpoint of the run, or from the start if it has none.
    fn begin(
        config: &'a Config,
        run: &RunFolder,
        device: &'a Device,
        loader: Loader,
        monitor: Monitor,
        output: &Output,
    ) -> anyhow::Result<Self> {
        let (ctx, checkpoints) = (config.context(), Checkpoints::new(run.checkpoints()));
        let adam = |model: &Model| Optimizer::adam(model.parameters(), config.learning_rate, config.weight_decay, &ctx);
        let (model, optimizer, state) = match checkpoints.newest_good(|remark| output.say(remark))? {
            Some(path) => {
                let (model, numbers, state) = checkpoint::load(&path, device, &ctx)?;
                let mut optimizer = adam(&model)?;
                optimizer.load_state(&numbers).with_context(|| path.display().to_string())?;
                (model, optimizer, state)
            }
            None => {
                let model = match &config.init {
                    Some(path) => {
                        let model = Model::load(path, device, &ctx)?;
                        config.must_be(model.config(), path)?;
                        model
                    }
                    None => Model::new(&config.model()?, config.seed, DType::F32, device, &ctx)?,
                };
                let optimizer = adam(&model)?;
                (model, optimizer, State::default())
            }
        };
        let metrics = Metrics::open(&run.metrics(), state.step)?;
        Ok(Self { config, device, loader, model, optimizer, state, metrics, monitor, checkpoints })
    }

    /// Trains to the last epoch, or until somebody or something says stop.
    fn run(&mut self, interrupt: &Interrupt, max_steps: Option<u64>, output: &Output) -> anyhow::Result<Stop> {
        if self.state.step == 0 && self.monitor.is_due(0, self.config.epochs) {
            self.test(output)?;
        }
        let steps = self.loader.batches_per_epoch() as u64 * self.config.epochs;
        while self.state.epoch < self.config.epochs {
            let mut progress = Progress::new(output, "training", steps, self.state.step);
            let mut meter = Meter::start();
            // Counted randomness: these are the batches that the run would have seen without an interruption.
            for batch in self.loader.epoch(self.state.epoch, self.state.batch) {
                let batch = batch?;
                let waited = meter.data_came();
                let loss = self.step(&batch)?;
                self.state.train_seconds += waited + meter.step_ended(self.config.batch);
                progress.advance(1, &self.describe(&meter));
                if self.state.step.is_multiple_of(STEPS_PER_EVENT) {
                    self.metrics.add(&self.step_event(loss, &mut meter))?;
                }
                if interrupt.is_asked() {
                    return Ok(Stop::Interrupted);
                }
                if max_steps.is_some_and(|most| self.state.step >= most) {
                    return Ok(Stop::EnoughSteps);
                }
            }
            self.end_epoch(&mut progress, output)?;
        }
        Ok(Stop::Finished)
    }

    /// One step of Algorithm 1 of the paper: embed both views, contrast them, follow the gradient.
    fn step(&mut self, batch: &PairBatch) -> anyhow::Result<f64> {
        let (left, right) = (batch.left.to_device(self.device)?, batch.right.to_device(self.device)?);
        let loss = contrast(&self.model, &left, &right, self.config)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        if !value.is_finite() {
            bail!(
                "the loss of step {} is {value} (epoch {}, batch {}, pictures {:?}); the step was not applied: a lower \
                 --lr or a higher --temperature may help",
                self.state.step + 1,
                self.state.epoch + 1,
                self.state.batch + 1,
                batch.indices
            );
        }
        let gradients = self.model.backward(&loss)?;
        self.optimizer.step(&gradients)?;
        self.state.step += 1;
        self.state.batch += 1;
        self.state.loss_sum += value;
        Ok(value)
    }

    fn end_epoch(&mut self, progress: &mut Progress, output: &Output) -> anyhow::Result<()> {
        let loss = self.mean_loss();
        self.state.epoch += 1;
        let (epoch, epochs) = (self.state.epoch, self.config.epochs);
        progress.say(&format!("Train Epoch: [{epoch}/{epochs}] Loss: {loss:.4}"));
        self.metrics.add(&Event::Epoch { step: self.state.step, epoch, loss })?;
        (self.state.batch, self.state.loss_sum, self.state.last_epoch_loss) = (0, 0.0, Some(loss));
        let last = epoch == epochs;
        let improved = self.monitor.is_due(epoch, epochs) && self.test(output)?;
        if last || improved || epoch.is_multiple_of(self.config.checkpoint_every) {
            self.save()?;
        }
        Ok(())
    }

    /// The monitor's kNN test; whether it is the best so far.
    fn test(&mut self, output: &Output) -> anyhow::Result<bool> {
        let (step, epoch) = (self.state.step, self.state.epoch);
        let KnnResult { top1, top5, .. } = self.monitor.test(&self.model, epoch, self.config.epochs, output)?;
        self.metrics.add(&Event::Knn { step, epoch, top1, top5 })?;
        let improved = step > 0 && self.state.best.is_none_or(|(best, _)| top1 > best);
        if improved {
            self.state.best = Some((top1, step));
        }
        Ok(improved)
    }

    /// Keeps everything of an interrupted run, and says how to go on.
    fn keep(&self, go_on: &str, output: &Output) -> anyhow::Result<()> {
        let checkpoint = self.save()?;
        output.say(format!("interrupted at step {}; checkpoint {}", self.state.step, checkpoint.display()));
        output.say(format!("go on with: {go_on}"));
        Ok(())
    }

    fn save(&self) -> anyhow::Result<PathBuf> {
        self.checkpoints.save(&self.model, &self.optimizer, &self.state)
    }

    fn mean_loss(&self) -> f64 {
        self.state.loss_sum / self.state.batch.max(1) as f64
    }

    fn describe(&self, meter: &Meter) -> String {
        format!(
            "epoch {}/{}, loss {:.4}, {:.1} pairs/s, {:.1} % waiting for data",
            self.state.epoch + 1,
            self.config.epochs,
            self.mean_loss(),
            meter.pairs_per_second(),
            100.0 * meter.data_wait_share()
        )
    }

    fn step_event(&self, loss: f64, meter: &mut Meter) -> Event {
        let event = Event::Step {
            step: self.state.step,
            epoch: self.state.epoch + 1,
            loss,
            mean_loss: self.mean_loss(),
            lr: self.optimizer.learning_rate(),
            pairs_per_s: meter.pairs_per_second(),
            data_wait_share: meter.data_wait_share(),
        };
        *meter = Meter::start();
        event
    }

    /// What the whole run will take, from a few steps and one evaluation batch of a model that is thrown away.
    fn expected_time(&self, train: &Arc<dyn Pictures>, test: usize) -> anyhow::Result<Duration> {
        let (config, ctx) = (self.config, self.config.context());
        let model = Model::new(&config.model()?, config.seed, DType::F32, self.device, &ctx)?;
        let mut optimizer = Optimizer::adam(model.parameters(), 1e-3, 0.0, &ctx)?;
        let Some(batch) = self.loader.epoch(0, 0).next() else { bail!("the training pictures fill no batch") };
        let batch = batch?;
        let mut step = || -> anyhow::Result<Duration> {
            let began = Instant::now();
            let loss = contrast(&model, &batch.left, &batch.right, config)?;
            optimizer.step(&model.backward(&loss)?)?;
            Ok(began.elapsed())
        };
        step()?;
        let mut times = [step()?, step()?, step()?];
        times.sort_unstable();
        let pictures = sample_batch(train.as_ref(), &config.test_transform()?)?;
        let began = Instant::now();
        model.features(&pictures)?;
        let per_picture = began.elapsed().div_f64(pictures.dim(0)? as f64);
        let steps = self.loader.batches_per_epoch() as u64 * config.epochs;
        let embedded = 2 * (train.len() + test) + self.monitor.pictures_in_all(config.epochs);
        Ok(times[1].mul_f64(steps as f64) + per_picture.mul_f64(embedded as f64))
    }
}

/// NT-Xent of a batch of pairs.
pub(crate) fn contrast(model: &Model, left: &Tensor, right: &Tensor, config: &Config) -> anyhow::Result<Tensor> {
    let (left, right) = embed(model, left, right, config.views)?;
    Ok(nt_xent(&left, &right, config.temperature)?)
}

/// The embeddings of both views of a batch, in training.
pub(crate) fn embed(model: &Model, left: &Tensor, right: &Tensor, views: Views) -> anyhow::Result<(Tensor, Tensor)> {
    Ok(match views {
        Views::Separate => model.forward_views(left, right)?,
        Views::Joint => {
            let n = left.dim(0)?;
            let out = model.forward_t(&Tensor::cat(&[left, right], 0)?, true)?.1;
            (out.narrow(0, 0, n)?, out.narrow(0, n, n)?)
        }
    })
}
