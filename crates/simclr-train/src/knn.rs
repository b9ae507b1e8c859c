//! `simclr-train knn`: evaluate a checkpoint.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use candle_core::{DType, Device};
use serde_json::json;
use simclr_data::Split;
use simclr_model::Model;
use simclr_ops::Context;

use crate::checkpoint;
use crate::cli::KnnArguments;
use crate::config::Config;
use crate::data_sets::{self, Place};
use crate::evaluate::{KnnSets, add_classes, describe, frozen, to_json};
use crate::imagenet::ImageNet;
use crate::output::Output;
use crate::ranks::Ranks;
use crate::run_folder::write_whole;
use crate::table::Table;
use crate::{Ending, Usage, machine};

/// What is evaluated, and with what.
struct Opened {
    settings: Config,
    weights: PathBuf,
    model: Model,
    imagenet: Option<ImageNet>,
    device: Device,
    sets: KnnSets,
    classes: Vec<String>,
    k: usize,
    temperature: f64,
}

fn open(arguments: &KnnArguments, ranks: &Ranks, output: &Output) -> anyhow::Result<Opened> {
    let (weights, settings) = checkpoint::evaluated(&arguments.checkpoint, &arguments.data)?;
    let Config { data, subset, .. } = settings.clone();
    let split = match arguments.split.as_deref() {
        None | Some("test") => Split::Test,
        Some("train") => Split::Train,
        Some(other) => return Err(Usage(format!("--split is {other}, expected test or train")).into()),
    };
    let (k, temperature) =
        (arguments.knn_k.unwrap_or(settings.knn_k), arguments.knn_temperature.unwrap_or(settings.knn_temperature));
    Config { knn_k: k, knn_temperature: temperature, subset, ..Config::default() }.validate()?;
    machine::use_threads(arguments.machine.threads.or(ranks.threads()))?;
    let device = machine::device(arguments.machine.device.as_deref().unwrap_or("auto"))?;

    let model = Model::load(&weights, &device, &Context::new())?;
    let imagenet = ImageNet::of(&arguments.imagenet, &device)?;
    let place = Place::of(&settings, arguments.data.cache.as_deref());
    let bank = data.train(place, subset, output)?.pictures;
    let queries = if split == Split::Train { Some(bank.clone()) } else { data.test(place, None, output)? };
    if split == Split::Train {
        output.say("each training picture finds itself as its nearest neighbour: this is no measure of quality");
    }
    let Some(sets) = KnnSets::last(&bank, queries, &settings, output)? else {
        bail!("{data} has no labels, and kNN votes by them");
    };
    let classes = bank.classes().to_vec();
    Ok(Opened { settings, weights, model, imagenet, device, sets, classes, k, temperature })
}

/// Classifies a split by its neighbours in the training split.
pub(crate) fn command(arguments: &KnnArguments, ranks: &Ranks, output: &Output) -> anyhow::Result<Ending> {
    let Opened { settings, weights, model, imagenet, device, sets, classes, k, temperature } =
        ranks.agree(open(arguments, ranks, output))?;
    let data = &settings.data;
    ranks.must_match("data set", || data_sets::digest(&sets.bank))?;
    ranks.must_match("set of queries", || data_sets::digest(&sets.queries))?;
    ranks.must_have_one_model(&model, "at the start")?;
    if let Some(imagenet) = &imagenet {
        ranks.must_have_one_model(&imagenet.model, "of --imagenet")?;
    }
    let sets = sets.over(ranks);
    let protocols = sets.protocols(k, temperature, output);
    let test = |sets: &KnnSets, model: &Model, title: &str| {
        frozen(model, title, output, |encoder| {
            sets.test(|pictures| encoder.features(pictures), &protocols, title, output)
        })
    };
    let mut columns = Vec::new();
    if !arguments.no_baselines {
        let random = Model::new(model.config(), settings.seed, DType::F32, &device, &Context::new())?;
        // The pixels of all are more than the others should hold: they wait for its results with the next encoder.
        if ranks.is_first() {
            columns.push(("raw pixels", sets.alone().test_raw_pixels(&protocols, output)?));
        }
        columns.push(("random encoder", test(&sets, &random, "random")?));
    }
    if let Some(ImageNet { model, transform }) = imagenet {
        let sets = sets.seen_as(transform);
        columns.push((ImageNet::NAME, test(&sets, &model, "ImageNet")?));
    }
    let fingerprint = model.fingerprint()?;
    let results = test(&sets, &model, "trained")?;

    let mut object = to_json(&results[0]);
    add_classes(&mut object, &results[0].confusion, &classes);
    object["checkpoint"] = json!(weights);
    object["encoder_sha256"] = json!(fingerprint);
    object["command"] = json!(output.command());
    object["data"] = json!(data);
    object["protocols"] = results.iter().map(to_json).collect();
    for (name, results) in &columns {
        object[name.replace(' ', "_").to_lowercase()] = results.iter().map(to_json).collect();
    }
    if let Some(path) = arguments.out.as_ref().filter(|_| ranks.is_first()) {
        write_whole(path, object.to_string().as_bytes()).with_context(|| path.display().to_string())?;
    }
    columns.push(("trained", results));
    let percent = |x: f64| format!("{:.2} %", 100.0 * x);
    let rows = protocols.iter().enumerate().map(|(i, protocol)| {
        let cells =
            columns.iter().map(|(_, results)| format!("{} / {}", percent(results[i].top1), percent(results[i].top5)));
        std::iter::once(describe(protocol)).chain(cells).collect()
    });
    let rows = rows.collect();
    let asked = format!("{data}, top-1 / top-5 of {} pictures against {}", sets.queries.len(), sets.bank.len());
    let columns = std::iter::once(asked).chain(columns.iter().map(|(name, _)| (*name).to_owned())).collect();
    output.result(Table { columns, rows }.text(), &object);
    Ok(Ending::Done)
}
