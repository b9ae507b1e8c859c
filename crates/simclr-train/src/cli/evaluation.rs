//! What an encoder is asked.

use std::path::PathBuf;

use clap::Args;

use super::{DataArguments, DistArguments, MachineArguments};
use crate::output::OutputArguments;

/// An encoder that was trained on ImageNet, with labels or without, to compare with.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Baselines")]
pub(crate) struct ImageNetArguments {
    /// torchvision's weights of a ResNet, like resnet50-11ad3fa6.pth: its frozen features stand beside the others
    #[arg(long, value_name = "FILE")]
    pub(crate) imagenet: Option<PathBuf>,
    /// The side that pictures have for it; smaller is faster and worse [default: 224]
    #[arg(long, value_name = "PIXELS", requires = "imagenet")]
    pub(crate) imagenet_size: Option<u32>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct KnnArguments {
    /// A run folder (its latest checkpoint), RUN/checkpoints/best, a checkpoint folder, a .safetensors or a .pth file
    #[arg(long, value_name = "C")]
    pub(crate) checkpoint: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArguments,
    /// The split that asks: test or train [default: test]
    #[arg(long, value_name = "SPLIT", help_heading = "Data")]
    pub(crate) split: Option<String>,
    /// Neighbours that vote [default: 200]
    #[arg(long, value_name = "K")]
    pub(crate) knn_k: Option<usize>,
    /// Temperature of a vote exp(sim / t) [default: 0.5]
    #[arg(long, value_name = "T")]
    pub(crate) knn_temperature: Option<f64>,
    /// Only the checkpoint, without raw pixels and a random encoder beside it
    #[arg(long)]
    pub(crate) no_baselines: bool,
    #[command(flatten)]
    pub(crate) imagenet: ImageNetArguments,
    /// Write the result as JSON to a file too
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) dist: DistArguments,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LinearArguments {
    /// A run folder (its latest checkpoint), RUN/checkpoints/best, a checkpoint folder, a .safetensors or a .pth file
    #[arg(long, value_name = "C")]
    pub(crate) checkpoint: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArguments,
    /// The labels that are learned from: the first part of the labelled training pictures (10% or 0.1), or so many of each class
    /// drawn by --seed (25-per-class) [default: 10%]
    #[arg(long, value_name = "CHOICE", help_heading = "Data")]
    pub(crate) labels: Option<String>,
    /// Draw N-per-class labels so many times, from --seed on, and show mean and deviation [default: 1]
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub(crate) draws: Option<u64>,
    /// lbfgs: logistic regression on features that are made once, its penalty chosen on held-out training labels; adam: the course's
    /// training on augmented pictures [default: lbfgs, or adam if one of its flags is given]
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    pub(crate) method: Option<String>,
    /// Passes over them [default: 10]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) epochs: Option<u64>,
    /// Pictures in a batch [default: 128]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) batch: Option<usize>,
    /// Learning rate [default: 0.001]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub(crate) lr: Option<f64>,
    /// Weight decay, in the gradient (L2) [default: 1e-6]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub(crate) weight_decay: Option<f64>,
    /// What initial values, order and augmentation are drawn from [default: 0]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) seed: Option<u64>,
    /// Leave the encoder in training mode, as the course does: batches are normalised by their own statistics, and the running
    /// ones drift
    #[arg(long)]
    pub(crate) batch_statistics: bool,
    /// Only the checkpoint, without raw pixels and a random encoder beside it
    #[arg(long)]
    pub(crate) no_baselines: bool,
    #[command(flatten)]
    pub(crate) imagenet: ImageNetArguments,
    /// Write the result as JSON to a file too
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FinetuneArguments {
    /// A run folder (its latest checkpoint), RUN/checkpoints/best, a checkpoint folder, a .safetensors or a .pth file; it is only
    /// read
    #[arg(long, value_name = "C")]
    pub(crate) checkpoint: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArguments,
    /// The labels that are learned from: the first part of the labelled training pictures (10% or 0.1), or so many of each class
    /// drawn by --seed (25-per-class) [default: 10%]
    #[arg(long, value_name = "CHOICE", help_heading = "Data")]
    pub(crate) labels: Option<String>,
    /// Train so many times, from --seed on, N-per-class labels drawn anew, and show mean and deviation [default: 1]
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub(crate) draws: Option<u64>,
    /// Passes over them [default: 60]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) epochs: Option<u64>,
    /// Pictures in a batch at most; the batches of an epoch are as equal as they can be [default: 64]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) batch: Option<usize>,
    /// Learning rate of the first step, which falls to 0 by a cosine [default: 0.2 · batch / 256]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub(crate) lr: Option<f64>,
    /// Weight decay of weights, in the gradient (L2) [default: 0]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub(crate) weight_decay: Option<f64>,
    /// What initial values, order and augmentation are drawn from [default: 0]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) seed: Option<u64>,
    /// Only the checkpoint, without the same training from a random encoder beside it
    #[arg(long)]
    pub(crate) no_baselines: bool,
    /// Write the trained network, encoder and classifier (fc), under torchvision's names: a .safetensors file, with the names of
    /// the classes in its metadata, or a .pth file for torch.load; one that exists is not replaced
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
