//! Runs on the disk, and the machine.

use std::path::PathBuf;

use clap::Args;

use super::ImageNetArguments;
use crate::output::OutputArguments;

/// Where it runs.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct MachineArguments {
    /// auto, cpu or cuda[:n] [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Compute threads; results do not depend on it [default: all cores; of several processes on them its part]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

/// How it finds the processes that were started together with it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct DistArguments {
    /// How processes that were started together work together: auto (as the launcher tells), none, mpi or nccl [default: auto]
    #[arg(long, value_name = "BACKEND")]
    pub(crate) dist: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Compute threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
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
pub(crate) struct ReportArguments {
    /// The run folder
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// The page to write [default: report.html in the run folder]
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) out: Option<PathBuf>,
    /// Write every figure of it to a folder too, as SVG (what is drawn) and PNG (what is made of pictures)
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(crate) plots: Option<PathBuf>,
    /// The folder that data sets are in [default: as the run says]
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Keep a folder's decoded pictures in DIR, so that no file is decoded twice
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    pub(crate) cache: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) imagenet: ImageNetArguments,
    #[command(flatten)]
    pub(crate) machine: MachineArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}
