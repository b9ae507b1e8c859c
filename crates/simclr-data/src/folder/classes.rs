//! What the folders in a folder say about its pictures: splits and classes.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{FolderError, decode, walk::Files};
use crate::Split;

/// Names of the folder beside `train` that is tested on, the first that is there.
const TEST: [&str; 4] = ["test", "val", "valid", "validation"];

/// Names that pictures have. A folder with not one file so named holds something else than a class.
const EXTENSIONS: [&str; 14] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "gif", "tif", "tiff",
    // Pictures that are not read here: better named than passed over.
    "heic", "heif", "avif",
];

/// Where the pictures of a split are: in `train` or the like, or all of them in `path` itself.
pub(super) fn root(path: &Path, split: Split) -> Result<PathBuf, FolderError> {
    if !path.is_dir() {
        let found = match fs::metadata(path) {
            Ok(_) => "a file".to_owned(),
            Err(error) => error.to_string(),
        };
        return Err(FolderError::NotAFolder { path: path.to_owned(), found });
    }
    let train = path.join("train");
    match split {
        Split::Train if train.is_dir() => Ok(train),
        Split::Train => Ok(path.to_owned()),
        Split::Test if train.is_dir() => TEST
            .iter()
            .map(|name| path.join(name))
            .find(|test| test.is_dir())
            .ok_or_else(|| FolderError::NoTestSplit { path: path.to_owned() }),
        Split::Test => Err(FolderError::NoTestSplit { path: path.to_owned() }),
    }
}

/// The classes of the files below `root`, sorted by name: its own folders, as torchvision's `ImageFolder` has it. None, with the
/// reason, if there are pictures beside those folders, or not two of them.
pub(super) fn classes(root: &Path, files: &Files) -> Result<Vec<String>, String> {
    let (mut all, mut of_pictures) = (BTreeSet::new(), BTreeSet::new());
    for index in 0..files.len() {
        let path = files.path(index);
        match class(&path) {
            Some(class) if of_pictures.contains(&class) => {}
            Some(class) => {
                if is_named_picture(&path) {
                    of_pictures.insert(class.clone());
                }
                all.insert(class);
            }
            None if begins_like_a_picture(&root.join(&path)) => {
                return Err(format!("pictures without labels: {} lies in no class folder", path.display()));
            }
            None => {}
        }
    }
    let classes = if of_pictures.is_empty() { all } else { of_pictures };
    match classes.len() {
        0 | 1 => Err("pictures without labels: there are no two class folders".into()),
        _ => Ok(classes.into_iter().collect()),
    }
}

/// The first folder of a path below the root.
pub(super) fn class(path: &Path) -> Option<String> {
    let mut parts = path.iter();
    let first = parts.next()?;
    parts.next().map(|_| first.to_string_lossy().into_owned())
}

/// Whether the name of a file says that it is a picture.
pub(super) fn is_named_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

fn begins_like_a_picture(path: &Path) -> bool {
    let mut first = Vec::new();
    let read = File::open(path).and_then(|file| file.take(decode::MAGIC as u64).read_to_end(&mut first));
    read.is_ok() && decode::is_picture(&first)
}
