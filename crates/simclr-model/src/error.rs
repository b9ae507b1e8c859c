//! What can be wrong with a model or its file.

use std::path::PathBuf;

use crate::infer::InferError;
use crate::pth::PthError;

/// Why a model could not be made, loaded or saved.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// No such encoder.
    #[error("unknown architecture `{found}`, expected one of resnet18, resnet34, resnet50")]
    Arch {
        /// The name given.
        found: String,
    },
    /// A size or setting that no model can have.
    #[error("model setting `{field}` is {found}, expected {expected}")]
    Config {
        /// The setting.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no safetensors file, and begins like no `.pth` file.
    #[error("{}: not a safetensors file and not a .pth file: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: safetensors::SafeTensorError,
    },
    /// The file is no `.pth` file that can be read, or cannot be written as one.
    #[error("{}: {source}", path.display())]
    Pth {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<PthError>,
    },
    /// The file does not say which model it belongs to, and its tensors do not either.
    #[error("{}: not a model that this program knows: {source}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// How they differ.
        source: InferError,
    },
    /// What the file says of its model is wrong.
    #[error("{}: {source}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<ModelError>,
    },
    /// The file's tensors are not those of its model.
    #[error("{}: its tensors are not those of the model: {}", path.display(), problems.join("; "))]
    Entries {
        /// The file.
        path: PathBuf,
        /// Every missing, unexpected or misshapen tensor.
        problems: Vec<String>,
    },
    /// More weights than the format holds.
    #[error("{}: the model has more than 2 GiB of weights, which is the most that an ONNX file holds", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
