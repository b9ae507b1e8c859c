//! What can be wrong with a folder of pictures.

use std::{io, path::PathBuf};

/// Why a folder gives no pictures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// There is no folder at the path.
    #[error("{}: {found}, expected a folder of pictures", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// A folder without a picture that can be read.
    #[error("{}: not one picture was found ({bad} could not be read, {passed} files are none); {hint}", path.display())]
    NoPictures {
        /// The folder.
        path: PathBuf,
        /// Pictures that cannot be read.
        bad: usize,
        /// Files that are no pictures.
        passed: usize,
        /// The first picture that cannot be read and why, or what is expected.
        hint: String,
    },
    /// More pictures cannot be read than the caller accepts.
    #[error(
        "{}: {bad} of {of} pictures cannot be read, more than the {limit} that are accepted; the first: {first}",
        path.display()
    )]
    TooManyBad {
        /// The folder.
        path: PathBuf,
        /// Pictures that cannot be read.
        bad: usize,
        /// Pictures in all.
        of: usize,
        /// The accepted share.
        limit: f64,
        /// The first few of them with their reasons.
        first: String,
    },
    /// A folder that is not divided into training and test pictures.
    #[error("{}: there is no test split: neither test, val, valid nor validation is a folder beside train", path.display())]
    NoTestSplit {
        /// The folder.
        path: PathBuf,
    },
    /// A test picture of a class that the training pictures do not have.
    #[error("{}: the class {class} has no training pictures; there are {}", path.display(), classes.join(", "))]
    UnknownClass {
        /// The folder of the test split.
        path: PathBuf,
        /// The name of the odd class.
        class: String,
        /// The classes of the training split.
        classes: Vec<String>,
    },
    /// A file that is no picture, or a damaged one.
    #[error("{}: {reason}", path.display())]
    NoPicture {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A picture that was good when the folder was opened cannot be read any more.
    #[error("{}: could be read when the folder was opened, and cannot now: {reason}", path.display())]
    Lost {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The caller asked to stop.
    #[error("reading the folder was interrupted")]
    Cancelled,
    /// The system has no thread to give.
    #[error("cannot start a thread to read pictures: {0}")]
    Thread(#[source] io::Error),
}
