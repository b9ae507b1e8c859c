//! `simclr-train import` and `export`: weights from and to the files of other programs.

use std::ffi::OsStr;
use std::path::Path;

use candle_core::Device;
use serde_json::json;
use simclr_data::Normalization;
use simclr_model::{Model, ModelConfig, OnnxInput, Stem};
use simclr_ops::Context;

use crate::cli::{ExportArguments, ImportArguments};
use crate::config::Config;
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
    model.save(out)?;
    tell(&model, file, out, output)
}

/// Writes the weights of a checkpoint.
pub(crate) fn export(arguments: &ExportArguments, output: &Output) -> anyhow::Result<Ending> {
    let ExportArguments { checkpoint, out, .. } = arguments;
    let form = Form::of(arguments)?;
    must_be_new(out)?;
    let (weights, settings) = checkpoint::find(checkpoint)?;
    let model = load(&weights)?;
    match form {
        Form::Pth(Names::Course) => model.save_pth(out)?,
        Form::Pth(Names::Torchvision) => model.save_torchvision_pth(out)?,
        Form::Safetensors(Names::Course) => model.save(out)?,
        Form::Safetensors(Names::Torchvision) => model.save_torchvision(out)?,
        Form::Onnx { pixels } => {
            if settings.is_none() {
                output.say(format!(
                    "{} does not say how pictures were normalised: mean and deviation are the course's, of CIFAR-10",
                    weights.display()
                ));
            }
            onnx(&model, &weights, &settings.unwrap_or_default(), pixels, out)?;
        }
    }
    if matches!(form, Form::Pth(Names::Torchvision) | Form::Safetensors(Names::Torchvision)) {
        tell_of_other_shape(&model, output);
    }
    tell(&model, &weights, out, output)
}

/// The encoder as ONNX, with what a reader of the file may want to know.
fn onnx(model: &Model, weights: &Path, settings: &Config, pixels: bool, out: &Path) -> anyhow::Result<()> {
    let Normalization { mean, std } = settings.normalization;
    let input = if pixels { OnnxInput::Pixels { mean, std } } else { OnnxInput::Normalized };
    let ModelConfig { arch, stem, width, .. } = model.config();
    let remarks = [
        ("arch", arch.to_string()),
        ("stem", stem.to_string()),
        ("width", width.to_string()),
        ("checkpoint", weights.display().to_string()),
        ("sha256", model.fingerprint()?),
        ("size", settings.size.to_string()),
        ("mean", json!(mean).to_string()),
        ("std", json!(std).to_string()),
    ];
    Ok(model.save_onnx(out, input, &remarks.map(|(key, value)| (key.to_owned(), value)))?)
}

/// What is written.
#[derive(Clone, Copy, Debug)]
enum Form {
    Pth(Names),
    Safetensors(Names),
    Onnx { pixels: bool },
}

/// What the tensors are called.
#[derive(Clone, Copy, Debug)]
enum Names {
    Course,
    Torchvision,
}

const FORMATS: &str = "pth, safetensors or onnx";

impl Form {
    fn of(ExportArguments { format, names, input, out, .. }: &ExportArguments) -> Result<Self, Usage> {
        let named = match format {
            Some(name) => name.as_str(),
            None => out.extension().and_then(OsStr::to_str).unwrap_or_default(),
        };
        let form = match named {
            "pth" => Self::Pth,
            "safetensors" => Self::Safetensors,
            "onnx" => |_| Self::Onnx { pixels: false },
            _ if format.is_none() => {
                let message = format!("--out is {}, which ends in no format: give --format {FORMATS}", out.display());
                return Err(Usage(message));
            }
            other => return Err(Usage(format!("--format is {other}, expected {FORMATS}"))),
        };
        let form = form(match names.as_deref() {
            None | Some("course") => Names::Course,
            Some("torchvision") => Names::Torchvision,
            Some(other) => return Err(Usage(format!("--names is {other}, expected course or torchvision"))),
        });
        match (form, input.as_deref()) {
            (Self::Onnx { .. }, _) if names.is_some() => {
                Err(Usage("--names belongs to --format pth and safetensors, but --format is onnx".into()))
            }
            (Self::Onnx { .. }, None | Some("normalized")) => Ok(Self::Onnx { pixels: false }),
            (Self::Onnx { .. }, Some("pixels")) => Ok(Self::Onnx { pixels: true }),
            (Self::Onnx { .. }, Some(other)) => {
                Err(Usage(format!("--input is {other}, expected normalized or pixels")))
            }
            (_, Some(_)) => Err(Usage(format!("--input belongs to --format onnx, but --format is {named}"))),
            (form, None) => Ok(form),
        }
    }
}

/// Says where torchvision's model of the same name is another one.
pub(crate) fn tell_of_other_shape(model: &Model, output: &Output) {
    let ModelConfig { arch, stem, width, .. } = model.config();
    if (*stem, *width) != (Stem::Large, 64) {
        output.say(format!(
            "torchvision's {arch} has the 7x7 stem and width 64, this one the {stem} stem and width {width}: change the model there \
             before the weights are loaded"
        ));
    }
}

/// Weights took hours to train: a file that is there is not replaced because a name was typed twice.
pub(crate) fn must_be_new(out: &Path) -> Result<(), Usage> {
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

/// The result: what was written where.
fn tell(model: &Model, from: &Path, out: &Path, output: &Output) -> anyhow::Result<Ending> {
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
