//! What a set of pictures is.

use simclr_ops::augment::Picture;

use crate::DataError;

/// A set of pictures in a fixed order.
pub trait Pictures: Send + Sync {
    /// How many pictures there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Picture `index`, counted from 0: the same bits at every call.
    ///
    /// # Errors
    /// [`DataError::Index`] if there is no such picture, and whatever keeps the set from giving it.
    fn picture(&self, index: usize) -> Result<Picture, DataError>;

    /// The class of picture `index`, a position in [`Self::classes`]; `None` if nobody has labelled it or it is not there.
    fn label(&self, index: usize) -> Option<u32>;

    /// The names of the classes.
    fn classes(&self) -> &[String];

    /// What to call the set in messages and reports.
    fn name(&self) -> &str;

    /// Where picture `index` is, for people and for files: the path of its file, if it has one of its own; else `name/index`.
    fn place(&self, index: usize) -> String {
        format!("{}/{index}", self.name())
    }
}

/// One of the two parts of a labelled set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is tested on, once, at the end.
    Test,
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}

/// `Ok` if a set called `name` of `len` pictures has picture `index`.
pub(crate) fn check_index(name: &str, index: usize, len: usize) -> Result<(), DataError> {
    if index < len { Ok(()) } else { Err(DataError::Index { name: name.to_owned(), index, len }) }
}
