//! How an encoder is trained.

use std::path::PathBuf;

use clap::Args;

use super::{AugmentationArguments, DataArguments, DistArguments, MachineArguments};
use crate::output::OutputArguments;

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PretrainArguments {
    /// Settings that go together: quick, cs231n, cifar or imagenet; `simclr-train presets` tells more
    #[arg(long, value_name = "NAME", help_heading = "Recipe")]
    pub(crate) preset: Option<String>,
    /// Settings from a TOML file, over those of a preset; the config.toml of a run is one. Flags go over both
    #[arg(long, value_name = "FILE", help_heading = "Recipe")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) data: DataArguments,
    /// Width and height of the views, in pixels [default: the side of the set's pictures; of a folder's the median shorter side, at most 224]
    #[arg(long, value_name = "PIXELS", help_heading = "Data")]
    pub(crate) size: Option<u32>,
    /// How much of the end of the training split the run itself may ask for labels (kNN while training) [default: 0.1]
    ///
    /// These pictures are trained on like the others; only their labels are held out, to choose the best checkpoint
    /// without the test split.
    #[arg(long, value_name = "SHARE", help_heading = "Data")]
    pub(crate) holdout: Option<f64>,
    #[command(flatten)]
    pub(crate) augmentation: AugmentationArguments,
    /// Threads that make views ahead of the training; 0 makes them between its steps [default: 1; for a folder, all cores]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub(crate) workers: Option<usize>,

    /// The encoder: resnet18, resnet34 or resnet50 [default: resnet18]
    #[arg(long, value_name = "ARCH", help_heading = "Model")]
    pub(crate) arch: Option<String>,
    /// The encoder's first layer: 3x3, or 7x7 with stride and max-pool [default: 3x3 for views of up to 64 pixels, 7x7 beyond]
    #[arg(long, value_name = "STEM", help_heading = "Model")]
    pub(crate) stem: Option<String>,
    /// Channels of the encoder's first layer; 64 in the papers [default: 64]
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub(crate) width: Option<usize>,
    /// Numbers in an embedding, the output of the projection head [default: 128]
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub(crate) feature_dim: Option<usize>,

    /// Width of the hidden layers of the projection head [default: 512]
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub(crate) hidden_dim: Option<usize>,
    /// Linear layers of the projection head [default: 2]
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub(crate) head_layers: Option<usize>,
    /// Whether batch norm follows its hidden layers [default: true]
    #[arg(long, value_name = "BOOL", help_heading = "Model")]
    pub(crate) head_batch_norm: Option<bool>,
    /// Begin with these weights in place of random ones; encoder and sizes are the file's
    #[arg(long, value_name = "FILE", help_heading = "Training")]
    pub(crate) init: Option<PathBuf>,
    /// Passes over the training pictures [default: 100]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) epochs: Option<u64>,
    /// Pictures in a batch, two views of each; all others are negatives. Of several processes each has a part of it [default: 128]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) batch: Option<usize>,
    /// Activations of only so many pictures in memory at once, for another forward pass; the loss is that of the whole batch, batch
    /// norm that of each chunk [default: the whole batch]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) chunk: Option<usize>,
    /// Batches whose gradients make one step; negatives stay within their batch [default: 1]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) accumulate: Option<usize>,
    /// Temperature of NT-Xent [default: 0.5]
    #[arg(long, value_name = "TAU", help_heading = "Training")]
    pub(crate) temperature: Option<f64>,
    /// separate: a forward pass and batch statistics per view (the course); joint: one pass of both [default: separate]
    #[arg(long, value_name = "MODE", help_heading = "Training")]
    pub(crate) views: Option<String>,
    /// Of several processes: whether batch norm is over the pictures of all of them, or of each by itself [default: true]
    #[arg(long, value_name = "BOOL", help_heading = "Training")]
    pub(crate) sync_bn: Option<bool>,
    /// Number format of activations and of the operands of products: f32, bf16, or f16 for GPUs that have no bf16 [default: f32]
    #[arg(long, value_name = "FORMAT", help_heading = "Training")]
    pub(crate) precision: Option<String>,
    /// On a GPU: measure the algorithms of every convolution and take the fastest, even if a run then does not repeat to the bit
    #[arg(long, help_heading = "Training")]
    pub(crate) fast: bool,
    /// What initial values, order and augmentation are drawn from [default: 0]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) seed: Option<u64>,
    /// Leave out a batch whose loss or gradient is not finite; else the run stops there
    #[arg(long, help_heading = "Training")]
    pub(crate) skip_non_finite: bool,
    /// Stop after N steps in all, as if interrupted: `--resume` goes on
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) max_steps: Option<u64>,

    /// adam (L2 in the gradient, the course), adamw, sgd or lars (the paper) [default: adam]
    #[arg(long, value_name = "NAME", help_heading = "Optimizer")]
    pub(crate) optimizer: Option<String>,
    /// Learning rate at its peak [default: 0.001]
    #[arg(long, value_name = "RATE", help_heading = "Optimizer")]
    pub(crate) lr: Option<f64>,
    /// How it follows from the pictures of a step: none, linear (RATE is for 256 of them) or sqrt (RATE is for one) [default: none]
    #[arg(long, value_name = "RULE", help_heading = "Optimizer")]
    pub(crate) lr_rule: Option<String>,
    /// How it goes on: constant, cosine (down to 0) or step (multiplied at milestones) [default: constant]
    #[arg(long, value_name = "NAME", help_heading = "Optimizer")]
    pub(crate) schedule: Option<String>,
    /// Epochs in which it rises from 0 to its peak [default: 0]
    #[arg(long, value_name = "EPOCHS", help_heading = "Optimizer")]
    pub(crate) warmup: Option<f64>,
    /// Step schedule: the epochs at which it is multiplied, as 60,80
    #[arg(long, value_name = "EPOCHS", value_delimiter = ',', help_heading = "Optimizer")]
    pub(crate) milestones: Option<Vec<f64>>,
    /// Step schedule: what it is multiplied by [default: 0.1]
    #[arg(long, value_name = "FACTOR", help_heading = "Optimizer")]
    pub(crate) gamma: Option<f64>,
    /// Weight decay [default: 1e-6]
    #[arg(long, value_name = "RATE", help_heading = "Optimizer")]
    pub(crate) weight_decay: Option<f64>,
    /// Whether biases and batch norm have weight decay too [default: true; for lars, which then does not adapt them either, false]
    #[arg(long, value_name = "BOOL", help_heading = "Optimizer")]
    pub(crate) decay_vectors: Option<bool>,
    /// sgd and lars: share of the velocity that a step keeps [default: 0.9]
    #[arg(long, value_name = "SHARE", help_heading = "Optimizer")]
    pub(crate) momentum: Option<f64>,
    /// sgd and lars: look ahead along the velocity
    #[arg(long, help_heading = "Optimizer")]
    pub(crate) nesterov: bool,
    /// lars: what norms of parameters over those of gradients are multiplied by [default: 0.001]
    #[arg(long, value_name = "FACTOR", help_heading = "Optimizer")]
    pub(crate) trust_coefficient: Option<f64>,
    /// The norm that the gradient of a step has at most [default: any]
    #[arg(long, value_name = "NORM", help_heading = "Optimizer")]
    pub(crate) clip_norm: Option<f64>,

    /// Neighbours that vote in kNN [default: 200]
    #[arg(long, value_name = "K", help_heading = "Evaluation")]
    pub(crate) knn_k: Option<usize>,
    /// Temperature of a neighbour's vote exp(sim / t) [default: 0.5]
    #[arg(long, value_name = "T", help_heading = "Evaluation")]
    pub(crate) knn_temperature: Option<f64>,
    /// Epochs between two kNN tests on the held-out labels; 0 for none [default: 5]
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    pub(crate) knn_every: Option<u64>,

    /// The run folder [default: a new one under runs/]
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    pub(crate) run: Option<PathBuf>,
    /// Go on from the latest good checkpoint of --run, with its settings
    #[arg(long, requires = "run", help_heading = "Run")]
    pub(crate) resume: bool,
    /// Epochs between two checkpoints; the end has one in any case [default: 5]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub(crate) checkpoint_every: Option<u64>,
    /// Minutes between two checkpoints within an epoch; 0 for none [default: 30]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub(crate) checkpoint_minutes: Option<f64>,
    /// Checkpoints that are kept, beside the best [default: 2]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub(crate) keep: Option<usize>,
    /// Steps between two lines of the metrics [default: 10]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub(crate) log_every: Option<u64>,

    #[command(flatten)]
    pub(crate) dist: DistArguments,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Cs231nArguments {
    /// The folder that CIFAR-10 and the weights are in [default: data]
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Only the first N training pictures [default: all]
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub(crate) subset: Option<usize>,
    /// Only the first N test pictures [default: all]
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub(crate) test_subset: Option<usize>,
    /// Weights to begin with [default: pretrained_simclr_model.pth in the data folder, if it is there]
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub(crate) weights: Option<PathBuf>,
    /// The encoder [default: that of the weights, else resnet50]
    #[arg(long, value_name = "ARCH", help_heading = "Model")]
    pub(crate) arch: Option<String>,
    /// Channels of the encoder's first layer [default: that of the weights, else 64]
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub(crate) width: Option<usize>,
    /// Epochs of pretraining on all training pictures where there are no weights [default: 10]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) pretrain_epochs: Option<u64>,
    /// Epochs on the first half of the training pictures [default: 1]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) epochs: Option<u64>,
    /// Pictures in a batch [default: 64]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) batch: Option<usize>,
    /// Learning rate [default: 0.001]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    pub(crate) lr: Option<f64>,
    /// What everything random is drawn from [default: 0]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub(crate) seed: Option<u64>,
    /// Threads that make views ahead of the training; 0 makes them between its steps [default: 1]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub(crate) workers: Option<usize>,
    /// The share of the training pictures whose labels the linear evaluation learns from [default: 0.1]
    #[arg(long, value_name = "SHARE", help_heading = "Linear evaluation")]
    pub(crate) labels: Option<f64>,
    /// Epochs of the linear evaluation [default: 10]
    #[arg(long, value_name = "N", help_heading = "Linear evaluation")]
    pub(crate) linear_epochs: Option<u64>,
    /// Pictures in a batch of the linear evaluation [default: 128]
    #[arg(long, value_name = "N", help_heading = "Linear evaluation")]
    pub(crate) linear_batch: Option<usize>,
    /// Leave the encoder in training mode during the linear evaluation, as the course does
    #[arg(long, help_heading = "Linear evaluation")]
    pub(crate) batch_statistics: bool,
    /// The experiment's folder [default: a new one under runs/]
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    pub(crate) run: Option<PathBuf>,
    /// Go on with the experiment of --run where it was interrupted, with its settings
    #[arg(long, requires = "run", help_heading = "Run")]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

impl Cs231nArguments {
    /// What is said of the training, as `pretrain` takes it.
    pub(crate) fn training(&self) -> PretrainArguments {
        PretrainArguments {
            arch: self.arch.clone(),
            width: self.width,
            epochs: self.epochs,
            batch: self.batch,
            lr: self.lr,
            seed: self.seed,
            data: DataArguments { data_dir: self.data_dir.clone(), ..DataArguments::default() },
            machine: self.machine.clone(),
            ..PretrainArguments::default()
        }
    }
}
