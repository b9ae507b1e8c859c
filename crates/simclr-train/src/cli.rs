//! The command line, as it is typed.

mod bench;
mod data;
mod evaluation;
mod features;
mod runs;
mod training;
mod weights;

use clap::{Parser, Subcommand};

use crate::output::OutputArguments;
pub(crate) use bench::{
    BenchAugmentArguments, BenchCommand, BenchEpochArguments, BenchInferArguments, BenchKnnArguments,
    BenchLossArguments, BenchMessagesArguments, BenchRooflineArguments, BenchScalingArguments, BenchStepArguments,
};
pub(crate) use data::{AugmentArguments, AugmentationArguments, DataArguments, FetchArguments};
pub(crate) use evaluation::{FinetuneArguments, ImageNetArguments, KnnArguments, LinearArguments};
pub(crate) use features::{DuplicatesArguments, EmbedArguments, SearchArguments};
pub(crate) use runs::{
    DistArguments, DoctorArguments, MachineArguments, PresetsArguments, ReportArguments, StatusArguments,
};
pub(crate) use training::{Cs231nArguments, PretrainArguments};
pub(crate) use weights::{ExportArguments, ImportArguments};

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
    /// What was typed of the processes that work on the command together; none of a command that is one process's work.
    pub(crate) fn dist(&self) -> Option<&DistArguments> {
        match &self.command {
            None => Some(&self.quick.dist),
            Some(Command::Pretrain(arguments)) => Some(&arguments.dist),
            Some(Command::Knn(arguments)) => Some(&arguments.dist),
            Some(Command::Embed(arguments)) => Some(&arguments.dist),
            Some(Command::Bench(BenchCommand::Step(arguments))) => Some(&arguments.dist),
            Some(Command::Bench(BenchCommand::Messages(arguments))) => Some(&arguments.dist),
            Some(_) => None,
        }
    }

    pub(crate) fn output(&self) -> OutputArguments {
        match &self.command {
            None => self.quick.output,
            Some(Command::Pretrain(arguments)) => arguments.output,
            Some(Command::Knn(arguments)) => arguments.output,
            Some(Command::Linear(arguments)) => arguments.output,
            Some(Command::Finetune(arguments)) => arguments.output,
            Some(Command::Cs231n(arguments)) => arguments.output,
            Some(Command::Import(arguments)) => arguments.output,
            Some(Command::Export(arguments)) => arguments.output,
            Some(Command::Embed(arguments)) => arguments.output,
            Some(Command::Search(arguments)) => arguments.output,
            Some(Command::Duplicates(arguments)) => arguments.output,
            Some(Command::Augment(arguments)) => arguments.output,
            Some(Command::Status(arguments)) => arguments.output,
            Some(Command::Doctor(arguments)) => arguments.output,
            Some(Command::Report(arguments)) => arguments.output,
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
    /// Train a checkpoint's encoder and a linear layer on some labels and test them
    ///
    /// As the paper fine-tunes (appendix B.5): SGD with Nesterov momentum, crops and flips alone, no weight decay. The same training
    /// from a random encoder stands beside it. The test split is looked at once, after the last epoch; the checkpoint is only read.
    Finetune(FinetuneArguments),
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
    /// Find the pictures that a set has more than once, or nearly, by the features that `embed` has written
    ///
    /// Two pictures are linked if the cosine of their features is at least --threshold; a group is all pictures that are linked with one
    /// another, be it by way of others (single linkage): two of a large group may be less alike. Without --threshold it comes
    /// from the data: ten times nearer than usual, in 1 - cosine, where usual is the tenth nearest of the median picture. What other
    /// thresholds would find is told, too. Groups whose labels differ are marked. Nothing is ever removed.
    Duplicates(DuplicatesArguments),
    /// Draw pictures of a data set beside their augmented views, with the parameters that made them
    Augment(AugmentArguments),
    /// Write the report of a run again, from its newest checkpoint; with --plots every figure of it as a file
    ///
    /// Everything that it shows of features is made anew: kNN and a linear classifier, the map, neighbours.
    Report(ReportArguments),
    /// Tell how a run stands, while it trains too
    Status(StatusArguments),
    /// Tell what this machine has and this build can use: CPU, GPUs, driver, cuDNN, precisions
    Doctor(DoctorArguments),
    /// List the presets, or print the file of one: a start for a --config of your own
    Presets(PresetsArguments),
    /// Measure this machine
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Download a data set or weights into the data folder, checked and resumable
    Fetch(FetchArguments),
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
