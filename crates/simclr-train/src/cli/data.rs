//! Which pictures, and what is done to them.

use std::path::PathBuf;

use clap::Args;
use simclr_fetch::Origin;

use crate::output::OutputArguments;

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
