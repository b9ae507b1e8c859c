//! `simclr-train status RUN`: how a run stands.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::checkpoint;
use crate::cli::StatusArguments;
use crate::config::Config;
use crate::metrics::{self, Event};
use crate::output::Output;
use crate::progress::human;
use crate::run_folder::{RunFolder, now};
use crate::{Ending, cs231n, warning};

pub(crate) fn command(arguments: &StatusArguments, output: &Output) -> anyhow::Result<Ending> {
    let opened = RunFolder::open(&arguments.run)?;
    let (run, config) = opened.with_context(|| {
        format!("{}: there is no run here: a run is a folder with a config.toml", arguments.run.display())
    })?;
    let status = Status::of(&run, &config)?;
    output.result(status.text(&run, &config), &status.to_json(run.path()));
    Ok(Ending::Done)
}

/// What the files of a run tell.
struct Status {
    state: &'static str,
    /// Who is working on it.
    worker: Option<String>,
    /// The last step whose measures are known, and when they were taken.
    step: u64,
    epoch: u64,
    measured: Option<f64>,
    loss: Option<f64>,
    last_epoch_loss: Option<f64>,
    knn: Option<f64>,
    best: Option<(f64, u64)>,
    pairs_per_s: Option<f64>,
    /// The step of the newest checkpoint.
    checkpoint: Option<u64>,
    warning: Option<String>,
    result: Option<Value>,
}

impl Status {
    fn of(run: &RunFolder, config: &Config) -> anyhow::Result<Self> {
        let worker = run.worker();
        let result = match std::fs::read_to_string(run.result()) {
            Ok(text) => Some(serde_json::from_str(&text).with_context(|| run.result().display().to_string())?),
            Err(_) => None,
        };
        let checkpoint = checkpoint::newest_step(&run.checkpoints())?;
        let state = match (&result, &worker, checkpoint) {
            (Some(_), ..) => "finished",
            (None, Some(_), _) => "running",
            (None, None, Some(_)) => "stopped",
            (None, None, None) => "stopped before its first checkpoint",
        };
        let mut status = Self {
            state,
            worker,
            step: 0,
            epoch: 0,
            measured: None,
            loss: None,
            last_epoch_loss: None,
            knn: None,
            best: None,
            pairs_per_s: None,
            checkpoint,
            warning: None,
            result,
        };
        let mut embedding_std = None;
        for event in metrics::read(&run.metrics())? {
            status.measured = Some(event.time());
            match event {
                Event::Step { step, epoch, mean_loss, pairs_per_s, embedding_std: std, .. } => {
                    (status.step, status.epoch) = (step, epoch);
                    (status.loss, status.pairs_per_s, embedding_std) = (Some(mean_loss), Some(pairs_per_s), Some(std));
                }
                Event::Epoch { step, epoch, loss, .. } => {
                    (status.step, status.epoch) = (step, epoch);
                    (status.loss, status.last_epoch_loss) = (Some(loss), Some(loss));
                    status.warning = warning::of_epoch(loss, config.batch, step, embedding_std);
                }
                Event::Knn { step, top1, .. } => {
                    status.knn = Some(top1);
                    if step > 0 && status.best.is_none_or(|(best, _)| top1 > best) {
                        status.best = Some((top1, step));
                    }
                }
            }
        }
        Ok(status)
    }

    fn text(&self, run: &RunFolder, config: &Config) -> String {
        let path = run.path().display();
        let mut lines = vec![format!(
            "{path}: {}{}; {} of width {} on {}, batch {}",
            self.state,
            self.worker.as_deref().unwrap_or_default(),
            config.arch,
            config.width,
            config.data,
            config.batch
        )];
        let ago = |time: f64| human(Duration::from_secs_f64((now() - time).max(0.0)));
        match self.measured {
            None => lines.push("nothing was measured yet".into()),
            Some(time) => {
                let (epoch, epochs) = (self.epoch.max(1), config.epochs);
                lines.push(format!("step {}, epoch {epoch} of {epochs}; last measured {} ago", self.step, ago(time)));
            }
        }
        let percent = |x: f64| format!("{:.2} %", 100.0 * x);
        if let Some(loss) = self.loss.or(self.last_epoch_loss) {
            let last =
                self.last_epoch_loss.map_or(String::new(), |last| format!(", of the last whole epoch {last:.4}"));
            lines.push(format!("mean loss {loss:.4}{last}"));
        }
        if let Some(knn) = self.knn {
            let best =
                self.best.map_or(String::new(), |(best, step)| format!(", best {} at step {step}", percent(best)));
            lines.push(format!("kNN on held-out labels {}{best}", percent(knn)));
        }
        if let Some(pairs) = self.pairs_per_s {
            lines.push(format!("{pairs:.1} pairs/s"));
        }
        lines.push(match self.checkpoint {
            Some(step) => format!("newest checkpoint: step {step}"),
            None => "no checkpoint yet".into(),
        });
        lines.extend(self.warning.clone());
        if self.result.is_some() {
            lines.push(format!("see {}", run.report().display()));
        } else if self.worker.is_none() {
            // A stage of an experiment goes on with the experiment.
            let whole = run.path().parent().filter(|parent| parent.join(cs231n::FILE).exists());
            lines.push(match whole {
                Some(whole) => format!("go on with: simclr-train cs231n --run {} --resume", whole.display()),
                None => format!("go on with: simclr-train pretrain --run {path} --resume"),
            });
        }
        lines.join("\n")
    }

    fn to_json(&self, run: &Path) -> Value {
        json!({
            "run": run, "state": self.state, "running": self.worker.is_some(), "finished": self.result.is_some(),
            "step": self.step, "epoch": self.epoch, "loss": self.loss.or(self.last_epoch_loss), "measured": self.measured,
            "knn_held_out": self.knn, "best": self.best.map(|(top1, step)| json!({ "top1": top1, "step": step })),
            "pairs_per_s": self.pairs_per_s, "checkpoint": self.checkpoint, "warning": self.warning, "result": self.result,
        })
    }
}
