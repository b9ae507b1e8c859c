//! `simclr-train search`: the pictures that are most like one, by the features that `embed` has written.

mod page;

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use candle_core::Tensor;
use serde_json::json;
use simclr_data::{Picture, read_picture};
use simclr_eval::neighbours;
use simclr_model::Model;
use simclr_ops::Context;

use crate::cli::{DataArguments, SearchArguments};
use crate::features_file::{self, FeaturesFile};
use crate::output::Output;
use crate::run_folder::write_whole;
use crate::table::Table;
use crate::thumbnails::Thumbnails;
use crate::{Ending, Usage, checkpoint, machine};
use page::Page;

/// Shows the nearest pictures of a file of features.
pub(crate) fn command(arguments: &SearchArguments, output: &Output) -> anyhow::Result<Ending> {
    let SearchArguments { like, features, top, out, .. } = arguments;
    if *top == 0 {
        return Err(Usage("--top is 0, expected at least 1".into()).into());
    }
    machine::use_threads(arguments.machine.threads)?;
    let file = features_file::read(features)?;
    let (query, picture) = query(arguments, &file, output)?;
    let nearest = neighbours(&file.vectors, &query, *top)?;
    let nearest = nearest.first().context("a search has one query")?;

    let found: Vec<Found> = nearest.iter().map(|&(cosine, row)| Found::new(&file, row, cosine)).collect();
    if let Some(out) = out {
        let thumbnails = Thumbnails::new(&file, arguments.data_dir.as_deref(), output);
        let page = Page { like, of: picture, found: &found, features, rows: file.vectors.dim(0)? };
        let html = page.html(&thumbnails, output);
        write_whole(out, html.as_bytes()).with_context(|| out.display().to_string())?;
        output.say(format!("{} shows them", out.display()));
    }
    let results: Vec<_> =
        found.iter().map(|f| json!({ "row": f.row, "path": f.path, "label": f.label, "cosine": f.cosine })).collect();
    let object = json!({
        "like": like, "features": features, "rows": file.vectors.dim(0)?, "results": results, "out": out,
    });
    let rows = found.iter().map(|f| vec![f.name(), f.label.clone().unwrap_or_default(), format!("{:.4}", f.cosine)]);
    let columns = [format!("most like {like}"), "label".into(), "cosine".into()].into();
    output.result(Table { columns, rows: rows.collect() }.text(), &object);
    Ok(Ending::Done)
}

/// A picture that was found.
struct Found {
    row: usize,
    path: Option<String>,
    label: Option<String>,
    cosine: f32,
}

impl Found {
    fn new(file: &FeaturesFile, row: usize, cosine: f32) -> Self {
        let path = file.paths.as_ref().map(|paths| paths[row].clone());
        let label = file.labels.as_ref().and_then(|labels| labels[row].clone());
        Self { row, path, label, cosine }
    }

    /// Where it is, or its row where the file does not say.
    fn name(&self) -> String {
        self.path.clone().unwrap_or_else(|| format!("row {}", self.row))
    }
}

/// The features to look for, `[1, d]`: those of a row whose path was typed, else those that the encoder gives a picture, with it.
fn query(
    arguments: &SearchArguments,
    file: &FeaturesFile,
    output: &Output,
) -> anyhow::Result<(Tensor, Option<Picture>)> {
    let SearchArguments { like, features, .. } = arguments;
    if let Some(row) = file.paths.as_ref().and_then(|paths| paths.iter().position(|path| path == like)) {
        return Ok((file.vectors.narrow(0, row, 1)?, None));
    }
    let path = Path::new(like);
    if !path.exists() {
        let message = format!("--like is {like}, which is neither a file nor a path of {}", features.display());
        return Err(Usage(message).into());
    }
    let told = file.checkpoint.as_ref().map(Into::into);
    let Some(checkpoint) = arguments.checkpoint.clone().or(told) else {
        let message =
            format!("{} does not say which encoder its features are of: give --checkpoint", features.display());
        return Err(Usage(message).into());
    };
    let (weights, settings) = checkpoint::evaluated(&checkpoint, &DataArguments::default())?;
    let device = machine::device(arguments.machine.device.as_deref().unwrap_or("auto"))?;
    let model = Model::load(&weights, &device, &Context::new())?;
    match &file.encoder_sha256 {
        Some(expected) => {
            let found = model.fingerprint()?;
            ensure!(
                found == *expected,
                "{}: its features are of an encoder with SHA-256 {expected}, but {} has {found}: embed the pictures again, or give \
                 the checkpoint that it was made with",
                features.display(),
                weights.display()
            );
        }
        None => output.say(format!(
            "{} does not say which encoder its features are of: {} is taken to be it",
            features.display(),
            weights.display()
        )),
    }
    let width = file.vectors.dim(1)?;
    if model.feature_width() != width {
        bail!(
            "{} has features of {width} numbers, but {} gives {}",
            features.display(),
            weights.display(),
            model.feature_width()
        );
    }
    let picture = read_picture(path, Some(settings.shorter_side))?;
    let numbers = settings.test_transform()?.tensor(&picture)?.unsqueeze(0)?.to_device(&device)?;
    let query = model.features(&numbers)?.to_device(&candle_core::Device::Cpu)?;
    Ok((query, Some(picture)))
}
