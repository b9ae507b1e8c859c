//! The command line, as it is typed.

mod bench;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use simclr_fetch::Origin;

use crate::output::OutputArguments;
pub(crate) use bench::{
    BenchAugmentArguments, BenchCommand, BenchEpochArguments, BenchInferArguments, BenchKnnArguments,
    BenchLossArguments, BenchStepArguments,
};

/// SimCLR: learn picture features without labels, and see what they are good for
///
/// Without a command it runs the `quick` preset: it trains a small encoder on CIFAR-10 if the data folder has it, else on
/// the built-in `shapes`, and shows what was learned. Any flag of `pretrain` may be given with it.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  simclr-train                                            the quick preset, some minutes
  simclr-train fetch cifar10                              get CIFAR-10 into data/
  simclr-train pretrain --data cifar10 --arch resnet18    the full form
  simclr-train pretrain --preset cifar                    a published recipe
  simclr-train pretrain --run runs/NAME --resume          go on after an interruption
  simclr-train knn --checkpoint runs/NAME                 evaluate again
  simclr-train knn --checkpoint weights.pth               evaluate weights from PyTorch
  simclr-train export --checkpoint runs/NAME --out a.pth  give them to PyTorch
  simclr-train cs231n                                     the course's experiment

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted (a checkpoint was written)."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) quick: PretrainArguments,
}

impl Cli {
    pub(crate) fn output(&self) -> OutputArguments {
        match &self.command {
            None => self.quick.output,
            Some(Command::Pretrain(arguments)) => arguments.output,
            Some(Command::Knn(arguments)) => arguments.output,
            Some(Command::Linear(arguments)) => arguments.output,
            Some(Command::Cs231n(arguments)) => arguments.output,
            Some(Command::Import(arguments)) => arguments.output,
            Some(Command::Export(arguments)) => arguments.output,
            Some(Command::Embed(arguments)) => arguments.output,
            Some(Command::Search(arguments)) => arguments.output,
            Some(Command::Augment(arguments)) => arguments.output,
            Some(Command::Status(arguments)) => arguments.output,
            Some(Command::Presets(arguments)) => arguments.output,
            Some(Command::Bench(command)) => command.output(),
            Some(Command::Fetch(arguments)) => arguments.output,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train an encoder on pictures without their labels, then evaluate it with kNN
    ///
    /// Writes a run folder: config.toml (all settings), metrics.jsonl, checkpoints/, curves.svg and report.html.
    Pretrain(Box<PretrainArguments>),
    /// Classify the test split by the nearest neighbours of its features in the training split
    Knn(KnnArguments),
    /// Train one linear layer on a frozen encoder's features and test it
    ///
    /// Raw pixels and a random encoder are evaluated beside it. It learns from the labels of the first tenth of the training
    /// pictures, as the course does; `--method adam` is the course's training, ten epochs of Adam.
    Linear(LinearArguments),
    /// The course's experiment on CIFAR-10, start to end (Stanford CS231n, assignment 3)
    ///
    /// Continues the pretraining of the course's weights for an epoch, tests by kNN, evaluates linearly with and without
    /// pretraining, and shows the results beside those of two students. Without the weights it pretrains first.
    Cs231n(Box<Cs231nArguments>),
    /// Convert weights from PyTorch to safetensors
    ///
    /// Reads the state dict of the course's model (torch.save, zip form); the encoder and its sizes are told from the names
    /// and shapes of its tensors. Other commands read a .pth file too: --checkpoint FILE.pth.
    Import(ImportArguments),
    /// Write the weights of a checkpoint for other programs
    Export(ExportArguments),
    /// Turn the pictures of a data set into features, one row each, in a file for other programs
    ///
    /// Memory does not grow with the set. When it is interrupted, the same command goes on.
    Embed(EmbedArguments),
    /// Find the pictures that are most like one, among those that `embed` has written features of
    ///
    /// Every row is compared, none is left out. --like is a picture, or the path of a row as the file has it.
    Search(SearchArguments),
    /// Draw pictures of a data set beside their augmented views, with the parameters that made them
    Augment(AugmentArguments),
    /// Tell how a run stands, while it trains too
    Status(StatusArguments),
    /// List the presets, or print the file of one: a start for a --config of your own
    Presets(PresetsArguments),
    /// Measure this machine
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Download a data set or weights into the data folder, checked and resumable
    Fetch(FetchArguments),
}

/// Which pictures.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct DataArguments {
    /// The data set: shapes (built in), cifar10, cifar100, cifar100-coarse, stl10, stl10-labelled, or folder:PATH, anybody's
    /// pictures at any depth [default: shapes]
    #[arg(long, value_name = "NAME")]
    pub(crate) data: Option<String>,
    /// The folder that data sets are in [default: data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Only the first N pictures of the training split [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) subset: Option<usize>,
    /// Keep a folder's decoded pictures in DIR, so that no file is decoded twice; it may be deleted at any time
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Shrink a folder's pictures until their shorter side is no longer than this [default: twice the size of the views, or 448]
    #[arg(long, value_name = "PIXELS")]
    pub(crate) shorter_side: Option<u32>,
    /// The share of a folder's pictures that may be unreadable [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    pub(crate) max_bad: Option<f64>,
}

/// What views are; the rest of the recipe is in the settings of a run.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Augmentation")]
pub(crate) struct AugmentationArguments {
    /// Least area of a crop, as a share of the picture's [default: 0.08]
    #[arg(long, value_name = "SHARE")]
    pub(crate) min_crop: Option<f64>,
    /// Views keep their colours: an ablation that shows the colour shortcut
    #[arg(long)]
    pub(crate) no_color_jitter: bool,
    /// How often a view loses its colours [default: 0.2]
    #[arg(long, value_name = "PROBABILITY")]
    pub(crate) grayscale: Option<f64>,
    /// How often a view is blurred; 0.5 in the paper's recipe for ImageNet [default: 0]
    #[arg(long, value_name = "PROBABILITY")]
    pub(crate) blur: Option<f64>,
    /// How often the light channels of a view turn into their negative [default: 0]
    #[arg(long, value_name = "PROBABILITY")]
    pub(crate) solarize: Option<f64>,
}

/// Where it runs.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct MachineArguments {
    /// auto, cpu or cuda[:n] [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Compute threads; results do not depend on it [default: all cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

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
    /// Pictures in a batch, two views of each; all others are negatives [default: 128]
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
    /// Number format of activations and of the operands of products: f32 or bf16 [default: f32]
    #[arg(long, value_name = "FORMAT", help_heading = "Training")]
    pub(crate) precision: Option<String>,
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
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
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
    /// Write the result as JSON to a file too
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) out: Option<PathBuf>,
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
    /// Write the result as JSON to a file too
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) out: Option<PathBuf>,
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

#[derive(Clone, Debug, Args)]
pub(crate) struct SearchArguments {
    /// The picture, or the path of a row of --features
    #[arg(long, value_name = "PICTURE")]
    pub(crate) like: String,
    /// A file that `embed` has written: Parquet, npy or safetensors
    #[arg(long, value_name = "FILE")]
    pub(crate) features: PathBuf,
    /// The encoder that the features are of [default: as the file says]
    #[arg(long, value_name = "C")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// How many are shown
    #[arg(long, value_name = "K", default_value_t = 10)]
    pub(crate) top: usize,
    /// An HTML page to write, with small pictures in it
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// The folder that a named data set is in, for the small pictures [default: data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct AugmentArguments {
    #[command(flatten)]
    pub(crate) data: DataArguments,
    /// Width and height of the views, in pixels [default: the side of the set's pictures; of a folder's the median shorter side, at most 224]
    #[arg(long, value_name = "PIXELS", help_heading = "Data")]
    pub(crate) size: Option<u32>,
    #[command(flatten)]
    pub(crate) augmentation: AugmentationArguments,
    /// What views are drawn from [default: 0]
    #[arg(long, value_name = "N", help_heading = "Augmentation")]
    pub(crate) seed: Option<u64>,
    /// The epoch whose views these are
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Augmentation")]
    pub(crate) epoch: u64,
    /// The first picture, counted from 0
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Sheet")]
    pub(crate) first: usize,
    /// Pictures, one in a row
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Sheet")]
    pub(crate) pictures: usize,
    /// Views of each; training takes two
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = "Sheet")]
    pub(crate) views: u32,
    /// The PNG file to write
    #[arg(long, value_name = "FILE", help_heading = "Sheet")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

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

#[derive(Clone, Debug, Args)]
pub(crate) struct EmbedArguments {
    /// A run folder (its latest checkpoint), RUN/checkpoints/best, a checkpoint folder, a .safetensors or a .pth file
    #[arg(long, value_name = "C")]
    pub(crate) checkpoint: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArguments,
    /// The split: train or test; of test, all pictures unless --subset is given here [default: train]
    #[arg(long, value_name = "SPLIT", help_heading = "Data")]
    pub(crate) split: Option<String>,
    /// Only the I-th of N consecutive parts, counted from 1: together they are the whole
    #[arg(long, value_name = "I/N", help_heading = "Data")]
    pub(crate) shard: Option<String>,
    /// Rows of unit length: their products are cosines
    #[arg(long)]
    pub(crate) normalize: bool,
    /// parquet (paths, labels and vectors), safetensors (the same) or npy (vectors alone) [default: as the name of --out ends]
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    pub(crate) format: Option<String>,
    /// The file to write; one that exists is not replaced
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct StatusArguments {
    /// The run folder
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PresetsArguments {
    /// The preset whose file is printed
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FetchArguments {
    /// cifar10, cifar100, stl10 (2.6 GB), weights (the course's pretrained model), or all but stl10
    #[arg(default_value = "cifar10")]
    pub(crate) item: String,
    /// The folder that data sets go to
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub(crate) data_dir: PathBuf,
    /// A copy of the official file on this machine, or the address of a mirror; checked like a download
    #[arg(long, value_name = "FILE-OR-URL")]
    pub(crate) from: Option<Origin>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_takes_the_flags_of_pretrain() {
        let cli = Cli::try_parse_from(["simclr-train", "--epochs", "3", "--json"]).unwrap();
        assert!(cli.command.is_none() && cli.output().json);
        assert_eq!(cli.quick.epochs, Some(3));
        assert!(Cli::try_parse_from(["simclr-train", "pretrain", "--resume"]).is_err(), "--resume needs --run");
        assert!(Cli::try_parse_from(["simclr-train", "pretrain", "--wat"]).is_err());
    }
}
