//! `simclr-train import` and `export`: weights from and to the files of other programs.

use std::ffi::OsStr;
use std::path::Path;

use candle_core::Device;
use serde_json::json;
use simclr_model::{Model, ModelConfig};
use simclr_ops::Context;

use crate::cli::{ExportArguments, ImportArguments};
use crate::output::Output;
use crate::{Ending, Usage, checkpoint, config};

/// Reads a `.pth` file and writes its weights as safetensors.
pub(crate) fn import(arguments: &ImportArguments, output: &Output) -> anyhow::Result<Ending> {
    let ImportArguments { file, arch, out, .. } = arguments;
    let expected = arch.as_deref().map(config::arch).transpose()?;
    must_be_new(out)?;
    let model = load(file)?;
    if !ModelConfig::of_file(file)?.has_head {
        output.say(format!("{} is an encoder alone: its projection head has initial values", file.display()));
    }
    let found = model.config().arch;
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        return Err(Usage(format!("--arch is {expected}, but {} has the weights of a {found}", file.display())).into());
    }
    write(&model, Format::Safetensors, file, out, output)
}

/// Writes the weights of a checkpoint.
pub(crate) fn export(arguments: &ExportArguments, output: &Output) -> anyhow::Result<Ending> {
    let ExportArguments { checkpoint, format, out, .. } = arguments;
    let format = match format {
        Some(name) => Format::named(name)?,
        None => match out.extension().and_then(OsStr::to_str) {
            Some(name @ ("pth" | "safetensors" | "onnx")) => Format::named(name)?,
            _ => {
                let message = format!("--out is {}, which ends in no format: give --format {FORMATS}", out.display());
                return Err(Usage(message).into());
            }
        },
    };
    must_be_new(out)?;
    let (weights, _) = checkpoint::find(checkpoint)?;
    write(&load(&weights)?, format, &weights, out, output)
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Pth,
    Safetensors,
}

const FORMATS: &str = "pth or safetensors";

impl Format {
    fn named(name: &str) -> Result<Self, Usage> {
        match name {
            "pth" => Ok(Self::Pth),
            "safetensors" => Ok(Self::Safetensors),
            "onnx" => {
                Err(Usage(format!("--format is onnx, which this version does not write yet, expected {FORMATS}")))
            }
            _ => Err(Usage(format!("--format is {name}, expected {FORMATS}"))),
        }
    }
}

/// Weights took hours to train: a file that is there is not replaced because a name was typed twice.
fn must_be_new(out: &Path) -> Result<(), Usage> {
    match out.symlink_metadata() {
        Ok(_) => {
            Err(Usage(format!("--out is {0}, which exists: give another name, or remove it first", out.display())))
        }
        // Whether anything can be written there is seen when it is.
        Err(_) => Ok(()),
    }
}

fn load(weights: &Path) -> anyhow::Result<Model> {
    Ok(Model::load(weights, &Device::Cpu, &Context::new())?)
}

fn write(model: &Model, format: Format, from: &Path, out: &Path, output: &Output) -> anyhow::Result<Ending> {
    match format {
        Format::Pth => model.save_pth(out)?,
        Format::Safetensors => model.save(out)?,
    }
    let ModelConfig { arch, stem, width, feature_dim, hidden_dim, head_layers, head_batch_norm } = model.config();
    let parameters = model.parameter_count();
    let text = format!(
        "{}: {arch}, stem {stem}, width {width}, {feature_dim} features, {parameters} parameters",
        out.display()
    );
    let object = json!({
        "from": from, "out": out, "arch": arch.to_string(), "stem": stem.to_string(), "width": width, "feature_dim": feature_dim,
        "hidden_dim": hidden_dim, "head_layers": head_layers, "head_batch_norm": head_batch_norm, "parameters": parameters,
    });
    output.result(text, &object);
    Ok(Ending::Done)
}
