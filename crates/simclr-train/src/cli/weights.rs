//! Weights in and out.

use std::path::PathBuf;

use clap::Args;

use crate::output::OutputArguments;

#[derive(Clone, Debug, Args)]
pub(crate) struct ImportArguments {
    /// The .pth file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The encoder that it must have: resnet18, resnet34 or resnet50 [default: whichever it has]
    #[arg(long, value_name = "ARCH")]
    pub(crate) arch: Option<String>,
    /// The .safetensors file to write; one that exists is not replaced
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ExportArguments {
    /// A run folder (its latest checkpoint), RUN/checkpoints/best, a checkpoint folder, a .safetensors or a .pth file
    #[arg(long, value_name = "C")]
    pub(crate) checkpoint: PathBuf,
    /// pth (for torch.load), safetensors, or onnx (the encoder alone, batch norm folded) [default: as the name of --out ends]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// pth, safetensors: the course's names, or torchvision's, of the encoder alone: course or torchvision [default: course]
    #[arg(long, value_name = "NAMES")]
    pub(crate) names: Option<String>,
    /// onnx: what it takes: normalized numbers [n, 3, h, w], or pixels, bytes [n, h, w, 3], which it normalises itself [default:
    /// normalized]
    #[arg(long, value_name = "INPUT")]
    pub(crate) input: Option<String>,
    /// The file to write; one that exists is not replaced
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
