//! The main job: sample, augment, encode, contrast, step, report.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use candle_core::{DType, Device, Tensor};
use simclr_data::{Loader, LoaderConfig, Normalization, PairBatch, Pictures, Split, TrainTransform};
use simclr_loss::nt_xent;
use simclr_model::Model;
use simclr_ops::Context;
use simclr_optim::{Adam, AdamConfig};

use crate::checkpoint::{self, Checkpoints, State};
use crate::cli::PretrainArguments;
use crate::config::{Config, Views};
use crate::evaluate::{KnnSets, sample_batch};
use crate::interrupt::Interrupt;
use crate::machine;
use crate::metrics::{Event, Metrics};
use crate::output::Output;
use crate::progress::{Progress, human};
use crate::run_folder::RunFolder;
use crate::summary::{self, Outcome};
use crate::{Ending, Usage, preset};

/// Side of the views.
const SIZE: u32 = 32;

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
    let config = base.clone().overridden(arguments)?;
    config.validate()?;
    if let Some((run, _)) = &saved {
        let changed = base.differences(&config)?;
        if !changed.is_empty() {
            let run = run.path().display();
            return Err(
                Usage(format!("--resume goes on with the settings of {run}, but {}", changed.join("; "))).into()
            );
        }
    }
    machine::use_threads(arguments.machine.threads)?;
    let device = machine::device(&config.device)?;
    let train = config.data.open(&config.data_dir, Split::Train, config.subset, output)?;
    let test = config.data.open(&config.data_dir, Split::Test, None, output)?;
    let loader = loader(&config, &train, arguments.workers)?;

    let (run, fresh) = match saved {
        Some((run, _)) if run.result().exists() => return summary::already_finished(&run, output),
        Some((run, _)) => (run, false),
        None => {
            let path = arguments.run.clone().unwrap_or_else(|| RunFolder::fresh_path(&config));
            (RunFolder::create(&path, &config)?, true)
        }
    };
    let interrupt = Interrupt::listen()?;
    let mut training = Training::begin(&config, &run, &device, loader, output)?;
    if fresh {
        output.say(format!(
            "{}, {} parameters, on {} pictures of {} (labels unseen); batch {}, {} epochs of {} steps; run {}",
            config.arch,
            training.model.parameter_count(),
            train.len(),
            config.data,
            config.batch,
            config.epochs,
            training.loader.batches_per_epoch(),
            run.path().display()
        ));
        if quick {
            let expected = training.expected_time(&train, &test)?;
            output.say(format!(
                "this is the quick preset: about {} on this machine (see `simclr-train pretrain --help` for more)",
                human(expected)
            ));
        }
    } else {
        output.say(format!("going on with {} from step {}", run.path().display(), training.state.step));
    }
    let held_out = KnnSets::held_out(&train, config.holdout)?;
    match training.run(&held_out, &interrupt, arguments.max_steps, output)? {
        Stop::Finished => {}
        Stop::Interrupted => {
            let checkpoint = training.save()?;
            let run = run.path().display();
            output.say(format!("interrupted at step {}; checkpoint {}", training.state.step, checkpoint.display()));
            output.say(format!("go on with: simclr-train pretrain --run {run} --resume"));
            return Ok(Ending::Interrupted);
        }
        Stop::EnoughSteps => {
            training.save()?;
            return summary::stopped(&run, &training.state, &config, output);
        }
    }

    // The test split is looked at here, once, after everything was chosen.
    let final_sets = KnnSets { bank: train.clone(), queries: test };
    let protocols = final_sets.protocols(config.knn_k, config.knn_temperature, output);
    let random = Model::new(&config.model()?, config.seed, DType::F32, &device, &Context::new())?;
    let outcome = Outcome {
        state: training.state.clone(),
        batch: config.batch,
        pictures: train.len(),
        raw_pixels: final_sets.test_raw_pixels(&protocols, output)?,
        random: final_sets.test_model(&random, &protocols, "random", output)?,
        trained: final_sets.test_model(&training.model, &protocols, "trained", output)?,
    };
    summary::finish(&run, &config, &outcome, train.as_ref(), &transform(&config)?, output)?;
    Ok(Ending::Done)
}

fn loader(config: &Config, train: &Arc<dyn Pictures>, workers: Option<usize>) -> anyhow::Result<Loader> {
    if config.batch > train.len() {
        let (batch, set, len) = (config.batch, config.data, train.len());
        return Err(Usage(format!("--batch is {batch}, but the training pictures of {set} are {len}")).into());
    }
    let settings = LoaderConfig { batch: config.batch, workers: workers.unwrap_or(1), ..LoaderConfig::default() };
    Ok(Loader::new(train.clone(), transform(config)?, settings)?)
}

/// How views are made.
fn transform(config: &Config) -> anyhow::Result<TrainTransform> {
    Ok(TrainTransform::new(config.augmentation.clone(), SIZE, Normalization::CIFAR10, config.seed)?)
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
    optimizer: Adam,
    state: State,
    metrics: Metrics,
    checkpoints: Checkpoints,
}

impl<'a> Training<'a> {
    /// From the newest good checkpoint of the run, or from the start if it has none.
    fn begin(
        config: &'a Config,
        run: &RunFolder,
        device: &'a Device,
        loader: Loader,
        output: &Output,
    ) -> anyhow::Result<Self> {
        let (ctx, checkpoints) = (Context::new(), Checkpoints::new(run.checkpoints()));
        let settings = AdamConfig {
            learning_rate: config.learning_rate,
            weight_decay: config.weight_decay,
            ..AdamConfig::default()
        };
        let (model, optimizer, state) = match checkpoints.newest_good(|remark| output.say(remark))? {
            Some(path) => {
                let (model, numbers, state) = checkpoint::load(&path, device, &ctx)?;
                let mut optimizer = Adam::new(model.parameters(), settings, &ctx)?;
                optimizer.load_state(&numbers).with_context(|| path.display().to_string())?;
                (model, optimizer, state)
            }
            None => {
                let model = Model::new(&config.model()?, config.seed, DType::F32, device, &ctx)?;
                let optimizer = Adam::new(model.parameters(), settings, &ctx)?;
                (model, optimizer, State::default())
            }
        };
        let metrics = Metrics::open(&run.metrics(), state.step)?;
        Ok(Self { config, device, loader, model, optimizer, state, metrics, checkpoints })
    }

    /// Trains to the last epoch, or until somebody or something says stop.
    fn run(
        &mut self,
        held_out: &KnnSets,
        interrupt: &Interrupt,
        max_steps: Option<u64>,
        output: &Output,
    ) -> anyhow::Result<Stop> {
        if self.state.step == 0 {
            self.test_held_out(held_out, output)?;
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
            self.end_epoch(held_out, &mut progress, output)?;
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

    fn end_epoch(&mut self, held_out: &KnnSets, progress: &mut Progress, output: &Output) -> anyhow::Result<()> {
        let loss = self.mean_loss();
        self.state.epoch += 1;
        let (epoch, epochs) = (self.state.epoch, self.config.epochs);
        progress.say(&format!("Train Epoch: [{epoch}/{epochs}] Loss: {loss:.4}"));
        self.metrics.add(&Event::Epoch { step: self.state.step, epoch, loss })?;
        (self.state.batch, self.state.loss_sum, self.state.last_epoch_loss) = (0, 0.0, Some(loss));
        let last = epoch == epochs;
        let tested = self.config.knn_every > 0 && (last || epoch.is_multiple_of(self.config.knn_every));
        let improved = tested && self.test_held_out(held_out, output)?;
        if last || improved || epoch.is_multiple_of(self.config.checkpoint_every) {
            self.save()?;
        }
        Ok(())
    }

    /// kNN on the held-out labels; whether it is the best so far.
    fn test_held_out(&mut self, held_out: &KnnSets, output: &Output) -> anyhow::Result<bool> {
        if self.config.knn_every == 0 {
            return Ok(false);
        }
        let [protocol, _] = held_out.protocols(self.config.knn_k, self.config.knn_temperature, &Output::silent());
        let top1 = held_out.test_model(&self.model, &[protocol], "held-out kNN", output)?[0].top1;
        let (step, epoch) = (self.state.step, self.state.epoch);
        self.metrics.add(&Event::Knn { step, epoch, top1 })?;
        let of = if step == 0 { "the random encoder".to_owned() } else { format!("epoch {epoch}") };
        output.say(format!("kNN on held-out training labels, {of}: {:.2} %", 100.0 * top1));
        let improved = step > 0 && self.state.best.is_none_or(|(best, _)| top1 > best);
        if improved {
            self.state.best = Some((top1, step));
        }
        Ok(improved)
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
    fn expected_time(&self, train: &Arc<dyn Pictures>, test: &Arc<dyn Pictures>) -> anyhow::Result<Duration> {
        let (config, ctx) = (self.config, Context::new());
        let model = Model::new(&config.model()?, config.seed, DType::F32, self.device, &ctx)?;
        let mut optimizer = Adam::new(model.parameters(), AdamConfig::default(), &ctx)?;
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
        let pictures = sample_batch(train.as_ref())?;
        let began = Instant::now();
        model.features(&pictures)?;
        let per_picture = began.elapsed().div_f64(pictures.dim(0)? as f64);
        let steps = self.loader.batches_per_epoch() as u64 * config.epochs;
        let held_out = KnnSets::held_out(train, config.holdout)?;
        let tests = config.epochs.checked_div(config.knn_every).map_or(0, |tests| tests + 1);
        let embedded = 2 * (train.len() + test.len()) + tests as usize * (held_out.bank.len() + held_out.queries.len());
        Ok(times[1].mul_f64(steps as f64) + per_picture.mul_f64(embedded as f64))
    }
}

/// NT-Xent of a batch of pairs.
pub(crate) fn contrast(model: &Model, left: &Tensor, right: &Tensor, config: &Config) -> anyhow::Result<Tensor> {
    let (left, right) = match config.views {
        Views::Separate => (model.forward_t(left, true)?.1, model.forward_t(right, true)?.1),
        Views::Joint => {
            let n = left.dim(0)?;
            let out = model.forward_t(&Tensor::cat(&[left, right], 0)?, true)?.1;
            (out.narrow(0, 0, n)?, out.narrow(0, n, n)?)
        }
    };
    Ok(nt_xent(&left, &right, config.temperature)?)
}

/// Speed over the steps since it was started.
struct Meter {
    last: Instant,
    wait: Duration,
    work: Duration,
    pairs: usize,
}

impl Meter {
    fn start() -> Self {
        Self { last: Instant::now(), wait: Duration::ZERO, work: Duration::ZERO, pairs: 0 }
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        let lap = now - self.last;
        self.last = now;
        lap
    }

    /// Seconds spent waiting for a batch.
    fn data_came(&mut self) -> f64 {
        let lap = self.lap();
        self.wait += lap;
        lap.as_secs_f64()
    }

    /// Seconds that the step took.
    fn step_ended(&mut self, pairs: usize) -> f64 {
        let lap = self.lap();
        self.work += lap;
        self.pairs += pairs;
        lap.as_secs_f64()
    }

    fn pairs_per_second(&self) -> f64 {
        self.pairs as f64 / (self.wait + self.work).as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn data_wait_share(&self) -> f64 {
        self.wait.as_secs_f64() / (self.wait + self.work).as_secs_f64().max(f64::MIN_POSITIVE)
    }
}
