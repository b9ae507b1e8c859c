//! How a run ended: the result on stdout, the plot and the report in its folder.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use simclr_data::Pictures;
use simclr_eval::KnnResult;

use crate::Ending;
use crate::checkpoint::State;
use crate::config::Config;
use crate::evaluate::{describe, to_json};
use crate::metrics::{self, Event};
use crate::output::Output;
use crate::plot::{self, Plot, Series};
use crate::progress::human;
use crate::report::{self, Report};
use crate::run_folder::{RunFolder, write_whole};
use crate::settings;
use crate::sheet::{self, Sheet};
use crate::table::Table;

/// What a finished run reached.
pub(crate) struct Outcome {
    pub(crate) state: State,
    pub(crate) pictures_per_step: usize,
    pub(crate) pictures: usize,
    /// None without labels.
    pub(crate) knn: Option<Knn>,
}

/// How its features classify. Each list has one result per protocol, the course's first.
pub(crate) struct Knn {
    pub(crate) raw_pixels: Vec<KnnResult>,
    pub(crate) random: Vec<KnnResult>,
    pub(crate) trained: Vec<KnnResult>,
}

impl Outcome {
    fn pairs_per_second(&self) -> f64 {
        (self.state.step * self.pictures_per_step as u64) as f64 / self.state.train_seconds
    }

    fn to_json(&self, run: &Path) -> Value {
        let mut object = json!({
            "run": run, "finished": true, "epochs": self.state.epoch, "steps": self.state.step,
            "loss": self.state.last_epoch_loss, "knn_top1": null, "knn_top1_random": null,
            "pairs_per_s": self.pairs_per_second(), "seconds": self.state.train_seconds,
        });
        if let Some(knn) = &self.knn {
            let (trained, random, raw) = (&knn.trained[0], &knn.random[0], &knn.raw_pixels[0]);
            let all = |results: &[KnnResult]| -> Value { results.iter().map(to_json).collect() };
            object["knn_top1"] = json!(trained.top1);
            object["knn_top5"] = json!(trained.top5);
            object["knn_top1_random"] = json!(random.top1);
            object["knn_top1_raw_pixels"] = json!(raw.top1);
            object["knn"] = json!({
                "trained": all(&knn.trained), "random": all(&knn.random), "raw_pixels": all(&knn.raw_pixels),
            });
        }
        object
    }

    fn table(&self) -> Table {
        let percent = |x: f64| format!("{:.2} %", 100.0 * x);
        let Some(knn) = &self.knn else {
            let loss = self.state.last_epoch_loss.map_or(String::new(), |loss| format!("{loss:.4}"));
            let columns = ["no labels to judge by", "mean loss of the last epoch"].map(String::from).into();
            return Table { columns, rows: vec![vec![format!("{} pictures", self.pictures), loss]] };
        };
        let mut columns = vec![format!("test top-1 / top-5 of {} pictures", knn.trained[0].queries)];
        columns.extend(["raw pixels", "random encoder", "trained"].map(String::from));
        let rows = knn.trained.iter().zip(&knn.random).zip(&knn.raw_pixels).map(|((trained, random), raw)| {
            let cell = |r: &KnnResult| format!("{} / {}", percent(r.top1), percent(r.top5));
            vec![describe(&trained.protocol), cell(raw), cell(random), cell(trained)]
        });
        Table { columns, rows: rows.collect() }
    }
}

/// Prints the result and writes `result.json`, `curves.svg` and `report.html`; the last of them makes the run finished.
pub(crate) fn finish(
    run: &RunFolder,
    config: &Config,
    outcome: &Outcome,
    train: &dyn Pictures,
    output: &Output,
) -> anyhow::Result<()> {
    let plots = plots(&metrics::read(&run.metrics())?, outcome);
    let report =
        report(run, config, outcome, plots, Some(sheet::png(train, &config.train_transform()?, &Sheet::REPORT)?))?;
    let object = outcome.to_json(run.path());
    write(&run.curves(), plot::svg(&report.plots).as_bytes())?;
    write(&run.report(), report::html(&report).as_bytes())?;
    write(&run.result(), object.to_string().as_bytes())?;
    output.say(format!("{} has the curves, the settings and what the numbers mean", run.report().display()));
    let seconds = human(Duration::from_secs_f64(outcome.state.train_seconds));
    let text = format!(
        "{}\n\ntrained {seconds} at {:.1} pairs/s; mean loss of the last epoch {:.4}",
        outcome.table().text(),
        outcome.pairs_per_second(),
        outcome.state.last_epoch_loss.unwrap_or(f64::NAN)
    );
    output.result(text, &object);
    Ok(())
}

/// What `--resume` says of a run that has nothing left to do: its result once more.
pub(crate) fn already_finished(run: &RunFolder, output: &Output) -> anyhow::Result<Ending> {
    let path = run.result();
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let object: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    output.result(format!("{} is finished; see {}", run.path().display(), run.report().display()), &object);
    Ok(Ending::Done)
}

/// What a run says that `--max-steps` stopped.
pub(crate) fn stopped(run: &RunFolder, state: &State, config: &Config, output: &Output) -> anyhow::Result<Ending> {
    let mean_loss = state.mean_loss().or(state.last_epoch_loss);
    let pairs_per_s = (state.step * config.pictures_per_step() as u64) as f64 / state.train_seconds;
    let object = json!({
        "run": run.path(), "finished": false, "epochs": state.epoch, "steps": state.step, "loss": mean_loss,
        "pairs_per_s": pairs_per_s, "seconds": state.train_seconds,
    });
    let run = run.path().display();
    let loss = mean_loss.unwrap_or(f64::NAN);
    output.result(
        format!(
            "stopped after {} steps: mean loss of the epoch {loss:.4}, {pairs_per_s:.2} pairs/s\n\
             go on with: simclr-train pretrain --run {run} --resume",
            state.step
        ),
        &object,
    );
    Ok(Ending::Done)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_whole(path, bytes).with_context(|| path.display().to_string())
}

/// The loss of every epoch, and kNN on the held-out labels with the baselines beside it.
fn plots(events: &[Event], outcome: &Outcome) -> Vec<Plot> {
    let steps_per_epoch = outcome.state.step as f64 / outcome.state.epoch.max(1) as f64;
    let mut steps = Series { name: "single steps".into(), points: Vec::new() };
    let mut epochs = Series { name: "mean of the epoch".into(), points: Vec::new() };
    let mut knn = Series { name: "held-out labels".into(), points: Vec::new() };
    for event in events {
        match *event {
            Event::Step { step, loss, .. } => steps.points.push((step as f64 / steps_per_epoch, loss)),
            Event::Epoch { epoch, loss, .. } => epochs.points.push((epoch as f64, loss)),
            Event::Knn { epoch, top1, .. } => knn.points.push((epoch as f64, 100.0 * top1)),
        }
    }
    let plot = |title: &str, y_label: &str, series, baselines| Plot {
        title: title.into(),
        x_label: "epoch".into(),
        y_label: y_label.into(),
        series,
        baselines,
    };
    let mut plots = vec![plot("Contrastive loss (NT-Xent)", "nats per view", vec![epochs, steps], Vec::new())];
    if !knn.points.is_empty() {
        let baseline = |name: &str, results: &[KnnResult]| (name.to_owned(), 100.0 * results[0].top1);
        let baselines = outcome
            .knn
            .iter()
            .flat_map(|knn| [baseline("raw pixels (test)", &knn.raw_pixels), baseline("trained (test)", &knn.trained)]);
        let baselines = baselines.collect();
        plots.push(plot("kNN top-1", "%", vec![knn], baselines));
    }
    plots
}

fn report(
    run: &RunFolder,
    config: &Config,
    outcome: &Outcome,
    plots: Vec<Plot>,
    sheet_png: Option<Vec<u8>>,
) -> anyhow::Result<Report> {
    let best = outcome.state.best.map(|(top1, step)| {
        format!("The best checkpoint by kNN on held-out training labels is that of step {step}: {:.2} %. The test results above are of the last one.", 100.0 * top1)
    });
    Ok(Report {
        title: format!("{} on {}", config.arch, config.data),
        summary: format!(
            "A {} of width {} learned from {} pictures of {} without seeing a label: {} epochs of batch {}, {} steps, {} of \
             training at {:.1} pairs per second on {} threads of a CPU.",
            config.arch,
            config.width,
            outcome.pictures,
            config.data,
            outcome.state.epoch,
            config.batch,
            outcome.state.step,
            human(Duration::from_secs_f64(outcome.state.train_seconds)),
            outcome.pairs_per_second(),
            rayon::current_num_threads()
        ),
        command: settings::command(config, &run.config())?,
        results: outcome.table(),
        settings: settings::flat(&toml::Table::try_from(config)?),
        plots,
        notes: best
            .into_iter()
            .chain([format!(
                "The run's folder is {}; its metrics.jsonl has every number of the curves.",
                run.path().display()
            )])
            .collect(),
        definitions: DEFINITIONS.map(|(term, meaning)| (term.to_owned(), meaning.to_owned())).into(),
        sheet_png,
    })
}

const DEFINITIONS: [(&str, &str); 7] = [
    ("pair", "One picture with its two random views, both through the encoder, forward and backward, and the update."),
    (
        "NT-Xent",
        "The contrastive loss: how hard it is to find, among all views of the batch, the other view of the same \
      picture, in nats. Guessing gives ln(2n − 1) for a batch of n pictures; lower is better.",
    ),
    (
        "kNN",
        "A picture of the test split is given the label that its k nearest training pictures vote for; near is the cosine \
      of their features. Nothing is trained for it. k = 200 with votes exp(sim / 0.5) is the course's protocol, k = 10 with \
      equal votes that of the literature.",
    ),
    ("top-1, top-5", "How often the true label has the most votes, or is among the five with the most."),
    ("raw pixels", "The same kNN on the pixels themselves: what can be had without an encoder."),
    ("random encoder", "The same kNN with the encoder as it was before training: what its architecture alone gives."),
    (
        "held-out labels",
        "The end of the training split. Its pictures are trained on like the others, its labels are used to \
      follow the training and to choose the best checkpoint; the test split is looked at once, at the end.",
    ),
];
