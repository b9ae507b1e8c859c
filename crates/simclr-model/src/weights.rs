//! Weights in and out of safetensors and `.pth` files.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::infer::infer;
use crate::layout::layout;
use crate::{pth, torchvision};

/// Writes `tensors` with the description of their model; the file is whole or not there.
pub(crate) fn save(path: &Path, config: &ModelConfig, tensors: &[(String, Tensor)]) -> Result<(), ModelError> {
    save_with(path, config.to_metadata(), tensors)
}

/// Writes `tensors` with any metadata; the file is whole or not there.
pub(crate) fn save_with(
    path: &Path,
    metadata: HashMap<String, String>,
    tensors: &[(String, Tensor)],
) -> Result<(), ModelError> {
    let data = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let bytes = safetensors::serialize(data, Some(metadata))
        .map_err(|source| ModelError::Format { path: path.to_owned(), source })?;
    write_whole(path, &bytes).map_err(|source| ModelError::Io { path: path.to_owned(), source })
}

/// Writes `tensors` in their order for `torch.load`; the file is whole or not there.
pub(crate) fn save_pth(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), ModelError> {
    let bytes =
        pth::write(tensors).map_err(|source| ModelError::Pth { path: path.to_owned(), source: Box::new(source) })?;
    write_whole(path, &bytes).map_err(|source| ModelError::Io { path: path.to_owned(), source })
}

/// Writes a sibling, flushes it to the disk and renames it: an older file stays until the new one is complete.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    });
    if written.is_err() {
        // Nothing more can be done if this fails too; the first error is the one to report.
        let _ = fs::remove_file(&part);
    }
    written
}

/// What a file has.
pub(crate) struct Loaded {
    /// The model; with the course's head if it has none.
    pub(crate) config: ModelConfig,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    pub(crate) has_head: bool,
}

/// The tensors of a file, whichever of the two formats it has, and the model whose tensors they are, all of them: the one that
/// the file names, or else the one whose names and shapes they have. Under torchvision's names they are an encoder alone.
pub(crate) fn load(path: &Path) -> Result<Loaded, ModelError> {
    let bytes = fs::read(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
    let metadata = |source| ModelError::Metadata { path: path.to_owned(), source: Box::new(source) };
    let (config, tensors) = if pth::is_pth(&bytes) {
        (None, pth::read(&bytes).map_err(|source| ModelError::Pth { path: path.to_owned(), source: Box::new(source) })?)
    } else {
        let format = |source| ModelError::Format { path: path.to_owned(), source };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(format)?;
        let config = header.metadata().as_ref().map(ModelConfig::from_metadata).transpose().map_err(metadata)?;
        (config.flatten(), tensors(&SafeTensors::deserialize(&bytes).map_err(format)?)?)
    };
    let has_head = !torchvision::is_named(&tensors);
    let tensors = if has_head { tensors } else { torchvision::renamed(tensors)? };
    let config = match config {
        Some(config) => config,
        None => infer(&tensors, has_head).map_err(|source| ModelError::Unknown { path: path.to_owned(), source })?,
    };
    config.validate().map_err(metadata)?;
    // Before memory is taken for a model: a file may claim to be of any size.
    let mut expected = layout(&config)?;
    expected.retain(|(name, _)| has_head || !name.starts_with("g."));
    let problems = problems(&tensors, &expected);
    if problems.is_empty() {
        Ok(Loaded { config, tensors, has_head })
    } else {
        Err(ModelError::Entries { path: path.to_owned(), problems })
    }
}

fn tensors(file: &SafeTensors<'_>) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let tensor = |view: &TensorView<'_>| -> Result<Tensor, ModelError> {
        Ok(Tensor::from_raw_buffer(view.data(), view.dtype().try_into()?, view.shape(), &Device::Cpu)?)
    };
    file.iter().map(|(name, view)| Ok((name.to_owned(), tensor(&view)?))).collect()
}

/// Every difference between the names, shapes and types of `found` and those of `expected`.
fn problems(found: &BTreeMap<String, Tensor>, expected: &[(String, Tensor)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, tensor) in expected {
        match found.get(name) {
            None => problems.push(format!("missing {name} {:?}", tensor.dims())),
            Some(other) if other.dims() != tensor.dims() => {
                problems.push(format!("{name} has shape {:?}, expected {:?}", other.dims(), tensor.dims()));
            }
            Some(other) if other.dtype().is_int() != tensor.dtype().is_int() => {
                problems.push(format!("{name} has type {:?}, expected {:?}", other.dtype(), tensor.dtype()));
            }
            Some(_) => {}
        }
    }
    let unexpected = found.keys().filter(|name| !expected.iter().any(|(expected, _)| &expected == name));
    // These names can be anything, control characters among them.
    problems.extend(unexpected.map(|name| format!("unexpected {}", name.escape_debug())));
    problems
}
