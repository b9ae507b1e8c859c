//! What can be wrong with a data set, a setting or a batch.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why pictures could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file of the data set is not there.
    #[error("{}: no such file; `{fetch}` gets it", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The commands that download it.
        fetch: &'static str,
    },
    /// A file is there but cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file without a single byte.
    #[error("{}: the file is empty, expected {record}-byte records", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// Bytes of one record.
        record: usize,
    },
    /// A file that ends inside a record.
    #[error("{}: {len} bytes is not a whole number of {record}-byte records (the file is cut short or is not {set})", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// How many bytes it has.
        len: usize,
        /// Bytes of one record.
        record: usize,
        /// The set that it should be of.
        set: &'static str,
    },
    /// A record whose label is no class.
    #[error("{}: record {record} has label {found}, expected 0 to {} (the file is damaged or is not {set})", path.display(), classes - 1)]
    Label {
        /// The file.
        path: PathBuf,
        /// Which record, from 0.
        record: usize,
        /// Its label byte.
        found: u8,
        /// How many classes there are.
        classes: usize,
        /// The set that it should be of.
        set: &'static str,
    },
    /// A label of STL-10 that is no class.
    #[error("{}: record {record} has label {found}, expected 1 to 10 (the file is damaged or is not STL-10)", path.display())]
    Stl10Label {
        /// The file.
        path: PathBuf,
        /// Which record, from 0.
        record: usize,
        /// Its label.
        found: u8,
    },
    /// A file of labels that does not belong to its pictures.
    #[error("{}: {labels} labels, but {} has {pictures} pictures", path.display(), of.display())]
    Counts {
        /// The file of labels.
        path: PathBuf,
        /// How many it has.
        labels: usize,
        /// The file of pictures.
        of: PathBuf,
        /// How many it has.
        pictures: usize,
    },
    /// A file of folds that is none.
    #[error("{}: line {line}: {found}, expected ten lines of numbers from 0 to {}", path.display(), pictures - 1)]
    Folds {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is there.
        found: String,
        /// How many labelled training pictures there are.
        pictures: usize,
    },
    /// A folder of pictures is not right.
    #[error(transparent)]
    Folder(#[from] crate::folder::FolderError),
    /// A picture was asked for that the set does not have.
    #[error("{name} has {len} pictures; there is no picture {index} (the first is 0)")]
    Index {
        /// The set.
        name: String,
        /// What was asked for.
        index: usize,
        /// How many there are.
        len: usize,
    },
    /// A part of a set was asked for that is empty or reaches beyond its end.
    #[error("pictures {start}..{end} of {name}: the set has {len} pictures, and a part of it must have at least one")]
    Range {
        /// The set.
        name: String,
        /// First picture of the part.
        start: usize,
        /// The picture after its last.
        end: usize,
        /// How many the set has.
        len: usize,
    },
    /// A label was needed and the picture has none.
    #[error("picture {index} of {name} has no label, and a pair has one")]
    Unlabelled {
        /// The set.
        name: String,
        /// Which picture.
        index: usize,
    },
    /// A choice of labels that the set does not have.
    #[error("labels {choice} of {name}: found {found}, and not one is chosen or a class has too few")]
    Labels {
        /// The set.
        name: String,
        /// What was asked for.
        choice: crate::Labels,
        /// What there is.
        found: String,
    },
    /// Not a picture has a label, and labels were needed.
    #[error("{name} has {len} pictures and not one label")]
    NoLabels {
        /// The set.
        name: String,
        /// How many pictures it has.
        len: usize,
    },
    /// A setting that cannot be.
    #[error("{field} is {found}, expected {expected}")]
    Setting {
        /// The field, with the struct it belongs to.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// NT-Xent has no negatives, and batch norm no variance, in a batch of one.
    #[error("batch is {batch}, expected at least 2: the other pictures of the batch are the negatives")]
    BatchTooSmall {
        /// The batch size asked for.
        batch: usize,
    },
    /// No full batch can be made.
    #[error("batch is {batch}, but {name} has only {pictures} pictures: choose a batch of at most {pictures}")]
    BatchTooLarge {
        /// The batch size asked for.
        batch: usize,
        /// How many pictures there are.
        pictures: usize,
        /// The set.
        name: String,
    },
    /// Processes that train together need equal parts of a batch.
    #[error(
        "{ranks} processes cannot have equal parts of a batch of {batch}{}: choose a multiple of {ranks}",
        chunk.map_or(String::new(), |chunk| format!(" in chunks of {chunk}"))
    )]
    Share {
        /// Pictures of a batch, over all processes.
        batch: usize,
        /// Those of them that go through a model together.
        chunk: Option<usize>,
        /// Processes.
        ranks: usize,
    },
    /// A batch needs pictures of one size.
    #[error(
        "picture {index} of {name} is {found:?} pixels (width, height), the batch before it {expected:?}: a batch needs one size"
    )]
    Size {
        /// The set.
        name: String,
        /// Which picture.
        index: usize,
        /// Its width and height.
        found: (u32, u32),
        /// Those of the first picture of the batch.
        expected: (u32, u32),
    },
    /// Pictures on a device are not those that batches are made of.
    #[error("the device has {found}, expected {expected}")]
    Resident {
        /// What is there.
        found: String,
        /// The set that should be.
        expected: String,
    },
    /// A worker thread could not be started.
    #[error("cannot start a loader thread: {0}")]
    Thread(#[source] io::Error),
    /// Views could not be made on a device.
    #[error(transparent)]
    Views(#[from] simclr_ops::OpsError),
    /// candle could not make a tensor.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl DataError {
    /// Why a file of a set that `fetch` gets cannot be read.
    pub(crate) fn unreadable(path: &Path, source: io::Error, fetch: &'static str) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path, fetch },
            _ => Self::Read { path, source },
        }
    }
}
