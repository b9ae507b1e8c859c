//! What features are used for.

use std::path::PathBuf;

use clap::Args;

use super::{DataArguments, DistArguments, MachineArguments};
use crate::output::OutputArguments;

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
    pub(crate) dist: DistArguments,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
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
pub(crate) struct DuplicatesArguments {
    /// A file that `embed` has written: Parquet, npy or safetensors
    #[arg(long, value_name = "FILE")]
    pub(crate) features: PathBuf,
    /// The cosine of features from which on two pictures are linked, above 0 and at most 1: 1 is the same direction
    /// [default: from the data]
    #[arg(long, value_name = "COSINE", allow_negative_numbers = true)]
    pub(crate) threshold: Option<f64>,
    /// Of more pictures than this not all pairs are compared, but those in near cells; how many that finds is measured
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(crate) exact_up_to: usize,
    /// Compare all pairs, however many pictures there are
    #[arg(long, conflicts_with = "exact_up_to")]
    pub(crate) exact: bool,
    /// An HTML page to write, with small pictures in it
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) out: Option<PathBuf>,
    /// A list to write of the pictures that could go, one path a line: all of each group but its first
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) remove_list: Option<PathBuf>,
    /// The folder that a named data set is in, for the small pictures [default: data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
