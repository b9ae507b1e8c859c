//! `simclr-train report RUN`: the report of a run once more, and its figures as files.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::{Report, html};
use crate::checkpoint;
use crate::cli::ReportArguments;
use crate::config::Precision;
use crate::data_sets::Place;
use crate::figure::Figure;
use crate::imagenet::ImageNet;
use crate::output::Output;
use crate::ranks::Ranks;
use crate::run_folder::{RunFolder, write_whole};
use crate::settings::flat_name;
use crate::study::Study;
use crate::summary::{self, Outcome};
use crate::{Ending, machine, metrics};

pub(crate) fn command(arguments: &ReportArguments, output: &Output) -> anyhow::Result<Ending> {
    let path = &arguments.run;
    let opened = RunFolder::open(path)?;
    let (run, mut config) = opened
        .with_context(|| format!("{}: there is no run here: a run is a folder with a config.toml", path.display()))?;
    if let Some(data_dir) = &arguments.data_dir {
        config.data_dir.clone_from(data_dir);
    }
    let alone = Ranks::alone();
    machine::use_threads(arguments.machine.threads)?;
    let device = machine::device(arguments.machine.device.as_deref().unwrap_or(&config.device))?;
    let mut judged = config.clone();
    if !Precision::of(machine::capability(&device)?).contains(&config.precision) {
        judged.precision = Precision::F32;
        let (precision, name) = (flat_name(&config.precision), machine::name(&device));
        output.say(format!("the run is in {precision}, which {name} has not: features are computed in f32"));
    }
    // Only read: somebody may be training it.
    let Some(newest) = checkpoint::follow(&run.checkpoints().join(checkpoint::LATEST))? else {
        bail!("{}: the run has no checkpoint yet, and a report is about one", path.display());
    };
    let (model, _, state) = checkpoint::load(&newest, &device, &judged.context())?;
    let imagenet = ImageNet::of(&arguments.imagenet, &device)?;
    let place = Place::of(&config, arguments.cache.as_deref());
    let opened = config.data.train(place, config.subset, output)?;
    opened.must_be(&config)?;
    let train = opened.pictures;
    let test = config.data.test(place, None, output)?;
    let study = Study::of(&model, &train, test, imagenet.as_ref(), (&judged, &device), &alone, output)?;
    let (pictures_per_step, pictures) = (config.pictures_per_step(), train.len());
    let outcome = Outcome { state, pictures_per_step, pictures, ranks: alone.count(), study };
    // What was measured up to the checkpoint.
    let mut events = metrics::read(&run.metrics())?;
    events.truncate(outcome.state.events as usize);
    let report = summary::report(&run, &config, &outcome, &events, train.as_ref())?;

    let out = arguments.out.clone().unwrap_or_else(|| run.report());
    write_whole(&out, html(&report).as_bytes()).with_context(|| out.display().to_string())?;
    let mut files = Vec::new();
    if let Some(folder) = &arguments.plots {
        files = write_figures(&report, folder)?;
        output.say(format!("{} figures in {}", files.len(), folder.display()));
    }
    let object = json!({
        "run": run.path(), "report": out, "checkpoint": newest, "plots": files, "step": outcome.state.step,
    });
    output.result(format!("{} shows what the checkpoint {} is good for", out.display(), newest.display()), &object);
    Ok(Ending::Done)
}

/// Every figure of a report as a file of its own; their names.
fn write_figures(report: &Report, folder: &Path) -> anyhow::Result<Vec<String>> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut files = Vec::new();
    for (name, figure) in report.sections.iter().flat_map(|section| &section.figures) {
        let (ending, bytes) = match figure {
            Figure::Svg(text) => ("svg", text.as_bytes()),
            Figure::Png(bytes) => ("png", bytes.as_slice()),
        };
        let path = folder.join(format!("{name}.{ending}"));
        write_whole(&path, bytes).with_context(|| path.display().to_string())?;
        files.push(format!("{name}.{ending}"));
    }
    Ok(files)
}
