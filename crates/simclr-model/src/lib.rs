//! ResNet encoders and the projection head of SimCLR, with PyTorch's parameter names.
//!
//! [`Model`] is the course's: an encoder `f` whose pooled features are what one keeps, and a projection head `g` whose
//! outputs the contrastive loss compares. A [`Classifier`] is what takes the head's place when classes are learned.

mod classifier;
mod config;
mod encoder;
mod error;
mod frozen;
mod head;
mod infer;
mod init;
mod layers;
mod layout;
mod model;
mod onnx;
mod pth;
mod statistics;
mod torchvision;
mod weights;

pub use classifier::Classifier;
pub use config::{Arch, ModelConfig, Stem, WeightsFile};
pub use encoder::LayerSizes;
pub use error::ModelError;
pub use frozen::FrozenEncoder;
pub use infer::InferError;
pub use layers::Mode;
pub use model::Model;
pub use onnx::OnnxInput;
pub use pth::{PickleError, PthError};
pub use statistics::PassStatistics;
