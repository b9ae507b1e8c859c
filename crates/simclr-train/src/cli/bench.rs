//! What is typed behind `simclr-train bench`.

use clap::{Args, Subcommand};

use super::{DataArguments, DistArguments, MachineArguments};
use crate::output::OutputArguments;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Time training steps: two views forward, NT-Xent, backward, Adam, on random pictures
    Step(BenchStepArguments),
    /// Time the encoder alone, as it embeds pictures: batch norm folded into its convolutions
    Infer(BenchInferArguments),
    /// Time augmentation alone: pictures in memory to two normalised views of each
    Augment(BenchAugmentArguments),
    /// Time NT-Xent, forward and backward
    Loss(BenchLossArguments),
    /// Time the kNN test on random features: 10,000 against 50,000 of 2,048 numbers is CIFAR-10 under ResNet-50
    Knn(BenchKnnArguments),
    /// Time training from pictures to update, and the share of it that waits for the loader
    Epoch(BenchEpochArguments),
    /// Time sums and gathers between the processes that were started
    Messages(BenchMessagesArguments),
    /// Predict a step on 1 to 256 processes from one process's step and what messages cost
    Scaling(BenchScalingArguments),
    /// Count what the kernels of a step on a GPU compute and move, and the least time that this takes
    Roofline(BenchRooflineArguments),
}

impl BenchCommand {
    /// How results are given.
    pub(super) fn output(&self) -> OutputArguments {
        match self {
            Self::Step(arguments) => arguments.output,
            Self::Infer(arguments) => arguments.output,
            Self::Augment(arguments) => arguments.output,
            Self::Loss(arguments) => arguments.output,
            Self::Knn(arguments) => arguments.output,
            Self::Epoch(arguments) => arguments.output,
            Self::Messages(arguments) => arguments.output,
            Self::Scaling(arguments) => arguments.output,
            Self::Roofline(arguments) => arguments.output,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchModelArguments {
    /// resnet18, resnet34 or resnet50
    #[arg(long, default_value = "resnet50")]
    pub(crate) arch: String,
    /// Channels of the encoder's first layer
    #[arg(long, default_value_t = 64)]
    pub(crate) width: usize,
    /// Number format of activations and of the operands of products: f32, bf16, or f16 for GPUs that have no bf16
    #[arg(long, default_value = "f32")]
    pub(crate) precision: String,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchStepArguments {
    #[command(flatten)]
    pub(crate) model: BenchModelArguments,
    /// Pictures in a batch; of several processes each has a part of it
    #[arg(long, default_value_t = 32)]
    pub(crate) batch: usize,
    /// Of several processes: whether batch norm is over the pictures of all of them
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) sync_bn: bool,
    /// Activations of only so many pictures in memory at once [default: the whole batch]
    #[arg(long, value_name = "N")]
    pub(crate) chunk: Option<usize>,
    /// On a GPU: measure the algorithms of every convolution and take the fastest
    #[arg(long)]
    pub(crate) fast: bool,
    /// Steps that are timed, after three that are not
    #[arg(long, default_value_t = 7)]
    pub(crate) steps: usize,
    /// Show where the time goes, by op and phase, beside what this machine can do at most
    #[arg(long)]
    pub(crate) breakdown: bool,
    #[command(flatten)]
    pub(crate) dist: DistArguments,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchMessagesArguments {
    /// How often each is timed, after three times that are not
    #[arg(long, value_name = "N", default_value_t = 21)]
    pub(crate) repeats: usize,
    #[command(flatten)]
    pub(crate) dist: DistArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchScalingArguments {
    /// resnet18, resnet34 or resnet50
    #[arg(long, default_value = "resnet50")]
    pub(crate) arch: String,
    /// Channels of the encoder's first layer
    #[arg(long, default_value_t = 64)]
    pub(crate) width: usize,
    /// Pictures of one process
    #[arg(long, default_value_t = 512)]
    pub(crate) batch: usize,
    /// What a step of one process on so many pictures takes, in milliseconds: as `bench step` measures it
    #[arg(long, value_name = "MS")]
    pub(crate) step_ms: f64,
    /// Products of the loss, in billions of operations a second: 20 · n² · d over the time that `bench loss` measures of n pictures
    #[arg(long, value_name = "N")]
    pub(crate) loss_gflops: f64,
    /// Whether batch norm is over the pictures of all processes
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) sync_bn: bool,
    /// Processes on one machine
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) per_node: usize,
    /// What a small message costs inside a machine, in microseconds
    #[arg(long, value_name = "US")]
    pub(crate) latency: f64,
    /// Bytes that a process sends inside a machine, in GB/s
    #[arg(long, value_name = "GB")]
    pub(crate) bandwidth: f64,
    /// What a small message costs between machines, in microseconds
    #[arg(long, value_name = "US")]
    pub(crate) between_latency: f64,
    /// Bytes that a process sends to another machine, in GB/s
    #[arg(long, value_name = "GB")]
    pub(crate) between_bandwidth: f64,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchRooflineArguments {
    #[command(flatten)]
    pub(crate) model: BenchModelArguments,
    /// Pictures in a batch
    #[arg(long, default_value_t = 512)]
    pub(crate) batch: usize,
    /// Products of the type of the maps, in trillions of operations a second [default: an H200, bf16]
    #[arg(long, value_name = "N", default_value_t = 790.0, hide_default_value = true)]
    pub(crate) tflops: f64,
    /// Products and sums of f32, in trillions of operations a second [default: an H200]
    #[arg(long, value_name = "N", default_value_t = 50.0, hide_default_value = true)]
    pub(crate) tflops_f32: f64,
    /// Bytes to and from memory, in GB/s [default: an H200]
    #[arg(long, value_name = "GB", default_value_t = 4300.0, hide_default_value = true)]
    pub(crate) bandwidth: f64,
    /// What a kernel costs however small it is, in microseconds
    #[arg(long, value_name = "US", default_value_t = 3.0)]
    pub(crate) launch: f64,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchInferArguments {
    #[command(flatten)]
    pub(crate) model: BenchModelArguments,
    /// Pictures in a batch
    #[arg(long, default_value_t = 64)]
    pub(crate) batch: usize,
    /// Batches that are timed, after three that are not
    #[arg(long, default_value_t = 7)]
    pub(crate) steps: usize,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchAugmentArguments {
    /// A data set in place of 2,000 random pictures in memory; of a folder, decoding is measured too, if there is no --cache
    #[command(flatten)]
    pub(crate) data: DataArguments,
    /// Width and height of the views, and of random pictures [default: 32, or the side of the set's pictures]
    #[arg(long, value_name = "PIXELS")]
    pub(crate) size: Option<u32>,
    /// Threads that make views, or that draw what happens to them if a GPU makes them
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,
    /// cpu, or the GPU that has the pictures and makes the views: cuda[:n]
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: String,
    /// Passes over the pictures that are timed, after three that are not
    #[arg(long, default_value_t = 7)]
    pub(crate) steps: usize,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchLossArguments {
    /// Pairs in a batch
    #[arg(long, default_value_t = 2048)]
    pub(crate) batch: usize,
    /// Numbers of an embedding
    #[arg(long, default_value_t = 128)]
    pub(crate) dim: usize,
    /// nt-xent (what training uses) or vectorized (the course's, with the whole matrix of similarities)
    #[arg(long, default_value = "nt-xent")]
    pub(crate) form: String,
    /// NT-Xent's temperature
    #[arg(long, default_value_t = 0.5)]
    pub(crate) temperature: f64,
    /// Repeats that are timed, after three that are not
    #[arg(long, default_value_t = 9)]
    pub(crate) steps: usize,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchKnnArguments {
    /// Features that vote
    #[arg(long, default_value_t = 50_000)]
    pub(crate) bank: usize,
    /// Features that ask
    #[arg(long, default_value_t = 10_000)]
    pub(crate) queries: usize,
    /// Numbers of a feature
    #[arg(long, default_value_t = 2_048)]
    pub(crate) dim: usize,
    /// Neighbours that vote
    #[arg(long, default_value_t = 200)]
    pub(crate) k: usize,
    /// Repeats that are timed, after one that is not
    #[arg(long, default_value_t = 3)]
    pub(crate) steps: usize,
    /// Compute threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchEpochArguments {
    #[command(flatten)]
    pub(crate) data: DataArguments,
    /// Width and height of the views, in pixels [default: the side of the set's pictures]
    #[arg(long, value_name = "PIXELS", help_heading = "Data")]
    pub(crate) size: Option<u32>,
    #[command(flatten)]
    pub(crate) model: BenchModelArguments,
    /// Pictures in a batch
    #[arg(long, default_value_t = 32)]
    pub(crate) batch: usize,
    /// Stop after so many steps of the epoch, the first three of which are not timed
    #[arg(long, value_name = "N")]
    pub(crate) max_steps: Option<usize>,
    /// Threads that make batches [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
