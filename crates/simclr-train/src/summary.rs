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
use crate::figure::plot::{self, Plot};
use crate::metrics::{self, Event};
use crate::output::Output;
use crate::progress::human;
use crate::ranks::Ranks;
use crate::report::{self, Report, Section};
use crate::run_folder::{RunFolder, write_whole};
use crate::settings;
use crate::sheet::{self, Sheet};
use crate::study::{Judged, Linear, Study};
use crate::table::Table;

/// What a finished run reached.
pub(crate) struct Outcome {
    pub(crate) state: State,
    pub(crate) pictures_per_step: usize,
    pub(crate) pictures: usize,
    /// Processes that worked on the last part of it.
    pub(crate) ranks: usize,
    pub(crate) study: Study,
}

impl Outcome {
    /// As a terminal shows it.
    fn text(&self) -> String {
        let seconds = human(Duration::from_secs_f64(self.state.train_seconds));
        format!(
            "{}\n\ntrained {seconds} at {:.1} pairs/s; mean loss of the last epoch {:.4}",
            self.table().text(),
            self.pairs_per_second(),
            self.state.last_epoch_loss.unwrap_or(f64::NAN)
        )
    }

    fn plots(&self, events: &[Event]) -> Vec<Plot> {
        let whole = events.iter().find_map(|event| match event {
            Event::Epoch { step, epoch, .. } => Some(*step as f64 / *epoch as f64),
            _ => None,
        });
        let steps_per_epoch = whole.unwrap_or(self.state.step.max(1) as f64);
        report::plots(events, steps_per_epoch, self.study.judged.as_ref())
    }

    fn pairs_per_second(&self) -> f64 {
        (self.state.step * self.pictures_per_step as u64) as f64 / self.state.train_seconds
    }

    fn to_json(&self, run: &Path) -> Value {
        let mut object = json!({
            "run": run, "finished": true, "epochs": self.state.epoch, "steps": self.state.step,
            "loss": self.state.last_epoch_loss, "knn_top1": null, "knn_top1_random": null,
            "pairs_per_s": self.pairs_per_second(), "seconds": self.state.train_seconds, "ranks": self.ranks,
        });
        if let Some(Judged { knn, .. }) = &self.study.judged {
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
        self.study.add_to(&mut object);
        object
    }

    fn table(&self) -> Table {
        let percent = |x: f64| format!("{:.2} %", 100.0 * x);
        let Some(Judged { asked, knn, linear, .. }) = &self.study.judged else {
            let loss = self.state.last_epoch_loss.map_or(String::new(), |loss| format!("{loss:.4}"));
            let columns = ["no labels to judge by", "mean loss of the last epoch"].map(String::from).into();
            return Table { columns, rows: vec![vec![format!("{} pictures", self.pictures), loss]] };
        };
        let mut columns = vec![format!("{asked} top-1 / top-5 of {} pictures", knn.trained[0].queries)];
        columns.extend(knn.named().into_iter().map(|(name, _)| name.to_owned()));
        let cell = |top1: f64, top5: f64| format!("{} / {}", percent(top1), percent(top5));
        let mut rows: Vec<Vec<String>> = Vec::new();
        for (i, result) in knn.trained.iter().enumerate() {
            let cells = knn.named().into_iter().map(|(_, results)| cell(results[i].top1, results[i].top5));
            rows.push(std::iter::once(describe(&result.protocol)).chain(cells).collect());
        }
        if let Some(labels) = linear.trained.as_ref().map(|linear| linear.labels) {
            let cells = linear.named().into_iter().map(|(_, linear)| {
                linear
                    .as_ref()
                    .map_or("–".into(), |Linear { confusion, .. }| cell(confusion.top1(), confusion.top5()))
            });
            rows.push(std::iter::once(format!("linear, on {labels} labels")).chain(cells).collect());
        }
        Table { columns, rows }
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
    let events = metrics::read(&run.metrics())?;
    let object = outcome.to_json(run.path());
    // A page that cannot be made costs the page: what the run reached is still told.
    let page = report(run, config, outcome, &events, train).and_then(|report| {
        write(&run.curves(), plot::svg(&outcome.plots(&events)).as_bytes())?;
        write(&run.report(), report::html(&report).as_bytes())
    });
    match page {
        Ok(()) => output
            .say(format!("{} has the curves, a map of the pictures and what the numbers mean", run.report().display())),
        Err(error) => {
            output.say(format!("no report: {error:#}; `simclr-train report {}` makes one", run.path().display()))
        }
    }
    write(&run.result(), object.to_string().as_bytes())?;
    output.result(outcome.text(), &object);
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
pub(crate) fn stopped(
    run: &RunFolder,
    state: &State,
    config: &Config,
    ranks: &Ranks,
    output: &Output,
) -> anyhow::Result<Ending> {
    let mean_loss = state.mean_loss().or(state.last_epoch_loss);
    let pairs_per_s = (state.step * config.pictures_per_step() as u64) as f64 / state.train_seconds;
    let object = json!({
        "run": run.path(), "finished": false, "epochs": state.epoch, "steps": state.step, "loss": mean_loss,
        "pairs_per_s": pairs_per_s, "seconds": state.train_seconds, "ranks": ranks.count(),
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

/// The report of a run that has reached something.
///
/// # Errors
/// If pictures cannot be read.
pub(crate) fn report(
    run: &RunFolder,
    config: &Config,
    outcome: &Outcome,
    events: &[Event],
    train: &dyn Pictures,
) -> anyhow::Result<Report> {
    let definitions = report::definitions();
    let Study { encoder_sha256, judged, factors, gallery } = &outcome.study;
    let mut sections = Vec::new();
    sections.extend(judged.as_ref().map(|judged| report::comparison(judged, &definitions)));
    if let Some(gallery) = gallery {
        sections.push(report::map(&gallery.map)?);
        if !gallery.groups.is_empty() {
            sections.push(report::groups(gallery)?);
        }
        sections.push(report::neighbours(gallery)?);
    }
    sections.extend(judged.as_ref().map(report::confusion));
    if !factors.is_empty() {
        sections.push(report::factors(factors, &definitions));
    }
    sections.push(report::curves(&outcome.plots(events)));
    sections.push(Section::pairs(&sheet::drawn(train, &config.train_transform()?, &Sheet::REPORT)?)?);
    sections.push(report::time(events, outcome.state.train_seconds, outcome.pairs_per_second(), config));
    let best = outcome.state.best.map(|(top1, step)| {
        format!(
            "The best checkpoint by kNN on held-out labels is that of step {step}: {:.2} %. The results above are of the last one.",
            100.0 * top1
        )
    });
    let begun = config.init.as_ref().map(|init| {
        format!(
            "Training began with the weights of {}: whatever those had seen, labels too, is in the results.",
            init.display()
        )
    });
    let held_out = judged.as_ref().filter(|judged| judged.asked != "test").map(|_| {
        "There is no test split: the pictures that are asked about are the end of the training split, whose labels were not used, but which \
         was trained on."
            .to_owned()
    });
    let files = format!(
        "The run's folder is {}; its metrics.jsonl has every number of the curves. All of this is of the encoder of step {}, SHA-256 \
         {encoder_sha256}; no evaluation changed a bit of it.",
        run.path().display(),
        outcome.state.step
    );
    Ok(Report {
        title: format!("{} on {}", config.arch, config.data),
        summary: format!(
            "A {} of width {} learned from {} pictures of {} without seeing a label: {} epochs of batch {}, {} steps, {} of \
             training at {:.1} pairs per second.",
            config.arch,
            config.width,
            outcome.pictures,
            config.data,
            outcome.state.epoch,
            config.batch,
            outcome.state.step,
            human(Duration::from_secs_f64(outcome.state.train_seconds)),
            outcome.pairs_per_second()
        ),
        command: settings::command(config, &run.config())?,
        results: outcome.table(),
        settings: settings::flat(&toml::Table::try_from(config)?),
        notes: best.into_iter().chain(begun).chain(held_out).chain([files]).collect(),
        sections,
        definitions,
    })
}
