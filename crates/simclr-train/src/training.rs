//! A run in progress: its steps, what is measured of them, and what is kept.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use candle_core::{DType, Device};
use serde_json::json;
use simclr_data::Pictures;
use simclr_eval::{agreement, spread};
use simclr_model::Model;
use simclr_ops::Context;
use simclr_ops::downloads::{Download, Downloads};
use simclr_optim::{Optimizer, Outcome, Report, Reported, Schedule};

use crate::Usage;
use crate::checkpoint::{self, Checkpoints, State};
use crate::config::Config;
use crate::contrast::{Contrast, Contrasted};
use crate::evaluate::sample_batch;
use crate::feed::{Batches, Feed};
use crate::gpu_memory;
use crate::interrupt::Interrupt;
use crate::machine;
use crate::meter::Meter;
use crate::metrics::{Event, Metrics};
use crate::monitor::{Monitor, Seen};
use crate::output::Output;
use crate::progress::Progress;
use crate::ranks::{Agreed, Ranks};
use crate::run_folder::{Lock, RunFolder, now, write_whole};
use crate::warning;

/// Batches in a row that may be left out before the run gives up: parameters that have gone astray do not come back.
const MOST_SKIPPED_IN_A_ROW: u64 = 20;

/// Why training came to an end.
pub(crate) enum Stop {
    Finished,
    Interrupted,
    EnoughSteps,
}

/// A run in progress.
pub(crate) struct Training<'a> {
    config: &'a Config,
    device: &'a Device,
    run: RunFolder,
    /// The first of several processes has it.
    _lock: Option<Lock>,
    ranks: Ranks,
    feed: Feed,
    pub(crate) model: Model,
    contrast: Contrast,
    optimizer: Optimizer,
    schedule: Schedule,
    pub(crate) state: State,
    /// The first of several processes writes them.
    metrics: Option<Metrics>,
    monitor: Monitor,
    checkpoints: Checkpoints,
    /// When the last checkpoint was written, or training began.
    kept: Instant,
    /// Steps whose numbers have not been read, in order; they are not in `state` yet.
    asked: VecDeque<Asked>,
    downloads: Downloads,
}

/// A step that was asked for.
struct Asked {
    report: Report,
    learning_rate: f64,
    /// Which pictures its batches are of.
    pictures: Vec<Vec<usize>>,
    /// Of both views of its last batch, if the step is to be logged.
    embeddings: Option<[Download; 2]>,
}

/// What a step was that is to be logged.
struct Step {
    loss: f64,
    grad_norm: f64,
    learning_rate: f64,
    embeddings: [Download; 2],
}

impl<'a> Training<'a> {
    /// From the newest good checkpoint of the run, or from the start if it has none. Of several processes the first reads, and tells
    /// the others; it alone writes.
    pub(crate) fn begin(
        config: &'a Config,
        (run, lock): (&RunFolder, Option<Lock>),
        (device, ranks): (&'a Device, &Ranks),
        feed: Feed,
        monitor: Monitor,
        output: &Output,
    ) -> anyhow::Result<Self> {
        let ctx = ranks.context(config.context(), config.sync_bn);
        let checkpoints = Checkpoints::new(run.checkpoints(), config.keep);
        let begun = if ranks.is_first() {
            Self::read(config, &checkpoints, device, &ctx, output)
        } else {
            Model::new(&config.model()?, config.seed, DType::F32, device, &ctx)
                .map_err(anyhow::Error::from)
                .and_then(|model| Ok((config.optimizer(&model)?, model)))
                .map(|(optimizer, model)| (model, optimizer, State::default()))
        };
        let (model, mut optimizer, own) = ranks.agree(begun)?;
        gpu_memory::must_fit(config, &model, device, config.batch / ranks.count())?;
        ranks.spread(&model, &mut optimizer)?;
        let state: State = ranks.first_tells(|| Ok(own))?;
        let metrics = if ranks.is_first() { Some(Metrics::open(run, state.events)?) } else { None };
        let schedule = config.schedule(steps_per_epoch(config, feed.batches_per_epoch())?);
        let (contrast, kept, run) = (Contrast::of(config, ranks), Instant::now(), run.clone());
        Ok(Self {
            config,
            device,
            run,
            _lock: lock,
            ranks: ranks.clone(),
            feed,
            model,
            contrast,
            optimizer,
            schedule,
            state,
            metrics,
            monitor,
            checkpoints,
            kept,
            asked: VecDeque::new(),
            downloads: Downloads::default(),
        })
    }

    fn read(
        config: &Config,
        checkpoints: &Checkpoints,
        device: &Device,
        ctx: &Context,
        output: &Output,
    ) -> anyhow::Result<(Model, Optimizer, State)> {
        Ok(match checkpoints.newest_good(|remark| output.say(remark))? {
            Some(path) => {
                let (model, numbers, state) = checkpoint::load(&path, device, ctx)?;
                let mut optimizer = config.optimizer(&model)?;
                optimizer.load_state(&numbers).with_context(|| path.display().to_string())?;
                checkpoints.point_to(&state)?;
                (model, optimizer, state)
            }
            None => {
                let model = match &config.init {
                    Some(path) => {
                        let model = Model::begin(path, &config.model()?, config.seed, device, ctx)?;
                        config.must_be(model.config(), path)?;
                        model
                    }
                    None => Model::new(&config.model()?, config.seed, DType::F32, device, ctx)?,
                };
                let optimizer = config.optimizer(&model)?;
                (model, optimizer, State::default())
            }
        })
    }

    /// Trains to the last epoch, or until somebody or something says stop.
    pub(crate) fn run(
        &mut self,
        interrupt: &Interrupt,
        max_steps: Option<u64>,
        output: &Output,
    ) -> anyhow::Result<Stop> {
        if self.state.step == 0 && self.state.events == 0 && self.monitor.is_due(0, self.config.epochs) {
            self.test(output)?;
        }
        while self.state.epoch < self.config.epochs {
            let mut progress = Progress::new(output, "training", self.schedule.steps, self.state.step);
            let mut meter = Meter::start();
            // Counted randomness: these are the batches that the run would have seen without an interruption.
            let mut batches = self.feed.epoch(self.state.epoch, self.state.batch)?;
            // What fills no step at the end of an epoch is left out.
            while self.batches_asked() + self.config.accumulate <= self.feed.batches_per_epoch() {
                if max_steps.is_some_and(|most| self.steps_asked() >= most) {
                    self.settle_all(&mut progress, &mut meter, output)?;
                    return Ok(Stop::EnoughSteps);
                }
                self.ask(&mut batches, &mut meter)?;
                while self.asked.len() > self.steps_ahead() {
                    self.settle(&mut progress, &mut meter, output)?;
                }
                if self.ranks.any(interrupt.is_asked())? {
                    self.settle_all(&mut progress, &mut meter, output)?;
                    return Ok(Stop::Interrupted);
                }
                let minutes = self.config.checkpoint_minutes;
                if minutes > 0.0 && self.kept.elapsed().as_secs_f64() >= 60.0 * minutes {
                    self.settle_all(&mut progress, &mut meter, output)?;
                    self.save()?;
                }
            }
            self.settle_all(&mut progress, &mut meter, output)?;
            self.end_epoch(&mut progress, output)?;
        }
        Ok(Stop::Finished)
    }

    /// How many steps may be asked for before the numbers of the first are read: with one more, a GPU has always something to do.
    fn steps_ahead(&self) -> usize {
        usize::from(!self.device.is_cpu())
    }

    fn steps_asked(&self) -> u64 {
        self.state.step + self.asked.len() as u64
    }

    /// Batches of this epoch.
    fn batches_asked(&self) -> usize {
        self.state.batch + self.asked.len() * self.config.accumulate
    }

    /// One step of Algorithm 1 of the paper: embed both views, contrast them, follow the gradient. It is not made if a number is not
    /// finite, and nobody waits for that.
    fn ask(&mut self, batches: &mut Batches, meter: &mut Meter) -> anyhow::Result<()> {
        let (mut sum, mut pictures) = (None::<Contrasted>, Vec::new());
        for _ in 0..self.config.accumulate {
            let batch = batches.next().context("an epoch has fewer batches than it said")??;
            self.state.train_seconds += meter.data_came();
            let contrasted = self.contrast.run(&self.model, &self.optimizer, &batch.pairs)?;
            sum = Some(match sum {
                None => contrasted,
                Some(sum) => sum.and(contrasted)?,
            });
            pictures.push(batch.indices);
            self.state.train_seconds += meter.batch_ended(0);
        }
        let contrasted = sum.context("a step has at least one batch")?;
        let embeddings = contrasted.embeddings.clone();
        let learning_rate = self.schedule.at(self.steps_asked());
        self.optimizer.set_learning_rate(learning_rate);
        // If the step before turns out not to be finite the run ends there, and this one must not have moved its parameters.
        let after = self.asked.back().map(|asked| &asked.report).filter(|_| !self.config.skip_non_finite);
        let own = self.config.batch / self.ranks.count();
        let report = self.contrast.step(&mut self.optimizer, contrasted, own, self.config.clip_norm, after)?;
        let is_logged = (self.steps_asked() + 1).is_multiple_of(self.config.log_every);
        let embeddings = is_logged.then(|| -> anyhow::Result<_> {
            let [left, right] = &embeddings;
            Ok([self.downloads.begin(left)?, self.downloads.begin(right)?])
        });
        let embeddings = embeddings.transpose()?;
        self.state.train_seconds += meter.batch_ended(0);
        self.asked.push_back(Asked { report, learning_rate, pictures, embeddings });
        Ok(())
    }

    /// Reads the numbers of the first step that was asked for, and writes down what is to be.
    fn settle(&mut self, progress: &mut Progress, meter: &mut Meter, output: &Output) -> anyhow::Result<()> {
        let Some(Asked { report, learning_rate, pictures, embeddings }) = self.asked.pop_front() else { return Ok(()) };
        let Reported { loss, norm: grad_norm, outcome, loss_scale } = report.read()?;
        self.state.train_seconds += meter.batch_ended(self.config.pictures_per_step());
        match outcome {
            Outcome::Applied => self.state.skipped_in_a_row = 0,
            Outcome::NotFinite => self.leave_out(loss, grad_norm, learning_rate, &pictures, output)?,
            Outcome::Overflowed => output.say(format!(
                "the gradient of step {} is too large for f16 at a loss scale of {loss_scale}; the step is left out, and the scale is \
                 {} now",
                self.state.step + 1,
                loss_scale / 2.0
            )),
        }
        self.state.step += 1;
        self.state.batch += self.config.accumulate;
        let mut event = None;
        if outcome == Outcome::Applied {
            self.state.loss_sum += loss;
            self.state.losses += 1;
            event = embeddings.map(|embeddings| Step { loss, grad_norm, learning_rate, embeddings });
        }
        progress.advance(1, &self.progress(meter));
        if let Some(step) = event {
            let event = self.step_event(step, meter)?;
            self.write(&event)?;
        }
        Ok(())
    }

    /// Reads the numbers of all steps: what is known of the run is all of it then.
    fn settle_all(&mut self, progress: &mut Progress, meter: &mut Meter, output: &Output) -> anyhow::Result<()> {
        while !self.asked.is_empty() {
            self.settle(progress, meter, output)?;
        }
        Ok(())
    }

    /// Writes down what is known of a step whose loss or gradient is not finite; ends the run unless it was asked to go on.
    fn leave_out(
        &mut self,
        loss: f64,
        grad_norm: f64,
        learning_rate: f64,
        indices: &[Vec<usize>],
        output: &Output,
    ) -> anyhow::Result<()> {
        let step = self.state.step + 1;
        let path = self.run.non_finite(step);
        let indices: Vec<Vec<Vec<usize>>> = self.ranks.gather(&indices.to_vec())?;
        // Of each batch what all processes had of it.
        let indices: Vec<Vec<usize>> = (0..indices[0].len())
            .map(|batch| indices.iter().flat_map(|rank| rank[batch].iter().copied()).collect())
            .collect();
        let known = json!({
            "step": step, "epoch": self.state.epoch + 1, "batch": self.state.batch + 1, "seed": self.config.seed,
            "loss": loss.to_string(), "grad_norm": grad_norm.to_string(), "lr": learning_rate,
            "pictures": indices,
        });
        if self.ranks.is_first() {
            write_whole(&path, known.to_string().as_bytes()).with_context(|| path.display().to_string())?;
        }
        let what = if loss.is_finite() { ("gradient", grad_norm) } else { ("loss", loss) };
        let told = format!("the {} of step {step} is {}", what.0, what.1);
        if !self.config.skip_non_finite {
            self.save()?;
        }
        let (run, file) = (self.run.path().display(), path.display());
        if !self.config.skip_non_finite {
            return Err(self.known(anyhow!(
                "{told}; the step was not applied, {file} has its pictures, and a checkpoint was written. A lower --lr, --warmup, \
                 --clip-norm or a higher --temperature may help in a new run; `simclr-train pretrain --run {run} --resume \
                 --skip-non-finite` goes on without this batch"
            )));
        }
        self.state.skipped += 1;
        self.state.skipped_in_a_row += 1;
        output.say(format!("{told}; the batch is left out, {file} has its pictures"));
        if self.state.skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW {
            return Err(self.known(anyhow!(
                "{told}, the {MOST_SKIPPED_IN_A_ROW}th in a row: the parameters are of no use any more. A lower --lr, --warmup or \
                   --clip-norm may help in a new run; earlier checkpoints are in {run}/checkpoints"
            )));
        }
        Ok(())
    }

    /// An error that all processes run into together.
    fn known(&self, error: anyhow::Error) -> anyhow::Error {
        if self.ranks.is_alone() { error } else { Agreed::of(&error).into() }
    }

    fn end_epoch(&mut self, progress: &mut Progress, output: &Output) -> anyhow::Result<()> {
        let loss = self.state.mean_loss();
        self.state.epoch += 1;
        let (epoch, epochs) = (self.state.epoch, self.config.epochs);
        match loss {
            None => progress.say(&format!("Train Epoch: [{epoch}/{epochs}] all of its steps were left out")),
            Some(loss) => {
                progress.say(&format!("Train Epoch: [{epoch}/{epochs}] Loss: {loss:.4}"));
                let warned = warning::of_epoch(loss, self.config.batch, self.state.step, self.state.embedding_std);
                warned.iter().for_each(|text| progress.say(text));
                self.write(&Event::Epoch { step: self.state.step, epoch, loss, time: now() })?;
            }
        }
        if !self.config.sync_bn {
            self.ranks.spread_statistics(&self.model)?;
        }
        self.ranks.must_have_one_model(&self.model, &format!("after epoch {epoch}"))?;
        self.note_algorithms(output)?;
        (self.state.batch, self.state.loss_sum, self.state.losses) = (0, 0.0, 0);
        self.state.last_epoch_loss = loss;
        let last = epoch == epochs;
        let improved = self.monitor.is_due(epoch, epochs) && self.test(output)?;
        if last || improved || epoch.is_multiple_of(self.config.checkpoint_every) {
            self.save()?;
        }
        Ok(())
    }

    /// Writes down which algorithms the convolutions of a GPU were given, or says so if a run that went on has got others. Where they are
    /// measured this may be, and the last ones are kept.
    fn note_algorithms(&self, output: &Output) -> anyhow::Result<()> {
        let lines = self.model.algorithms();
        if lines.is_empty() || !self.ranks.is_first() {
            return Ok(());
        }
        let path = self.run.algorithms();
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        if !self.config.fast && before.lines().any(|known| differs(known, &lines)) {
            output.say(format!(
                "convolutions have other algorithms than {} says: another GPU, driver or cuDNN gives other last bits",
                path.display()
            ));
            return Ok(());
        }
        let kept = before.lines().filter(|known| !differs(known, &lines));
        let all: BTreeSet<&str> = kept.chain(lines.iter().map(String::as_str)).collect();
        if all.iter().copied().eq(before.lines()) {
            return Ok(());
        }
        let text: String = all.into_iter().map(|line| format!("{line}\n")).collect();
        write_whole(&path, text.as_bytes()).with_context(|| path.display().to_string())
    }

    /// The monitor's kNN test; whether it is the best so far.
    fn test(&mut self, output: &Output) -> anyhow::Result<bool> {
        let (step, epoch) = (self.state.step, self.state.epoch);
        let Seen { knn, spread } = self.monitor.test(&self.model, epoch, self.config.epochs, output)?;
        let (top1, top5) = (knn.top1, knn.top5);
        let (feature_std, feature_rank) = (spread.std, spread.effective_rank);
        self.write(&Event::Knn { step, epoch, top1, top5, feature_std, feature_rank, time: now() })?;
        let improved = step > 0 && self.state.best.is_none_or(|(best, _)| top1 > best);
        if improved {
            self.state.best = Some((top1, step));
        }
        Ok(improved)
    }

    /// Keeps everything of an interrupted run, and says how to go on.
    pub(crate) fn keep(&mut self, go_on: &str, output: &Output) -> anyhow::Result<()> {
        if let Some(checkpoint) = self.save()? {
            output.say(format!("interrupted at step {}; checkpoint {}", self.state.step, checkpoint.display()));
        }
        output.say(format!("go on with: {go_on}"));
        Ok(())
    }

    /// Writes a checkpoint, if this is the process that writes.
    pub(crate) fn save(&mut self) -> anyhow::Result<Option<PathBuf>> {
        self.kept = Instant::now();
        let Some(metrics) = &self.metrics else { return Ok(None) };
        self.state.events = metrics.flushed()?;
        let path = self.checkpoints.save(&self.model, &self.optimizer, &self.state)?;
        self.kept = Instant::now();
        Ok(Some(path))
    }

    fn write(&mut self, event: &Event) -> anyhow::Result<()> {
        self.metrics.as_mut().map_or(Ok(()), |metrics| metrics.add(event))
    }

    fn progress(&self, meter: &Meter) -> [(&'static str, String); 4] {
        [
            ("epoch", format!("{}/{}", self.state.epoch + 1, self.config.epochs)),
            ("loss", self.state.mean_loss().map_or("none".into(), |loss| format!("{loss:.4}"))),
            ("pairs_per_s", format!("{:.1}", meter.pairs_per_second())),
            ("data_wait", format!("{:.3}", meter.data_wait_share())),
        ]
    }

    fn step_event(&mut self, step: Step, meter: &mut Meter) -> anyhow::Result<Event> {
        let [left, right] = step.embeddings;
        let (left, right) = (self.ranks.rows(&left.wait()?)?, self.ranks.rows(&right.wait()?)?);
        let (agreement, spread) = (agreement(&left, &right)?, spread(&left)?);
        // Meanwhile a GPU goes on: none of its time is to be missing.
        self.state.train_seconds += meter.batch_ended(0);
        self.state.embedding_std = Some(spread.std);
        let event = Event::Step {
            step: self.state.step,
            epoch: self.state.epoch + 1,
            loss: step.loss,
            mean_loss: self.state.mean_loss().unwrap_or(step.loss),
            lr: step.learning_rate,
            grad_norm: step.grad_norm,
            alignment: agreement.alignment,
            uniformity: agreement.uniformity,
            embedding_std: spread.std,
            embedding_rank: spread.effective_rank,
            pairs_per_s: meter.pairs_per_second(),
            data_wait_share: meter.data_wait_share(),
            peak_mib: machine::peak_mib(),
            time: now(),
        };
        *meter = Meter::start();
        Ok(event)
    }

    /// What the whole run will take, from a few steps and one evaluation batch of a model that is thrown away.
    pub(crate) fn expected_time(&self, train: &Arc<dyn Pictures>, test: usize) -> anyhow::Result<Duration> {
        let config = self.config;
        let ctx = self.ranks.context(config.context(), config.sync_bn);
        let model = Model::new(&config.model()?, config.seed, DType::F32, self.device, &ctx)?;
        let mut optimizer = config.optimizer(&model)?;
        let Some(batch) = self.feed.epoch(0, 0)?.next() else { bail!("the training pictures fill no batch") };
        let batch = batch?;
        let mut step = || -> anyhow::Result<Duration> {
            let began = Instant::now();
            let contrasted = self.contrast.run(&model, &optimizer, &batch.pairs)?;
            self.contrast.step(&mut optimizer, contrasted, config.batch / self.ranks.count(), None, None)?;
            machine::wait_for(self.device)?;
            Ok(began.elapsed())
        };
        step()?;
        let mut times = [step()?, step()?, step()?];
        times.sort_unstable();
        let pictures = sample_batch(train.as_ref(), &config.test_transform()?)?;
        let began = Instant::now();
        model.features(&pictures)?;
        let per_picture = began.elapsed().div_f64(pictures.dim(0)? as f64);
        let batches = self.schedule.steps * config.accumulate as u64;
        let embedded = 2 * (train.len() + test) + self.monitor.pictures_in_all(config.epochs);
        let embedded = embedded.div_ceil(self.ranks.count());
        Ok(times[1].mul_f64(batches as f64) + per_picture.mul_f64(embedded as f64))
    }
}

/// Whether the problem of a line has another algorithm among `lines`.
fn differs(known: &str, lines: &[String]) -> bool {
    let Some((problem, algorithm)) = known.rsplit_once(": ") else { return true };
    let others = lines.iter().filter_map(|line| line.rsplit_once(": "));
    others.into_iter().any(|(other, its)| other == problem && its != algorithm)
}

/// Steps in an epoch.
///
/// # Errors
/// [`Usage`] if an epoch has too few batches for one.
pub(crate) fn steps_per_epoch(config: &Config, batches: usize) -> Result<u64, Usage> {
    let accumulate = config.accumulate;
    match batches / accumulate {
        0 => Err(Usage(format!("--accumulate is {accumulate}, but an epoch has only {batches} batches"))),
        steps => Ok(steps as u64),
    }
}
