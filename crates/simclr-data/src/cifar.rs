//! CIFAR-10 and CIFAR-100 from their binary files.
//!
//! A file is a row of records; a record is one label byte (CIFAR-100: two, the coarse label and the fine one) and 3,072 bytes of
//! picture: 1,024 of red, of green and of blue, each row by row from the top (<https://www.cs.toronto.edu/~kriz/cifar.html>,
//! "binary version").

mod layout;

use std::{
    fs,
    path::{Path, PathBuf},
};

use simclr_ops::augment::Picture;

use crate::{DataError, Pictures, Split, pictures::check_index};
use layout::Layout;

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const PICTURE: usize = 3 * PLANE;

/// The sets that come in this form. Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CifarSet {
    /// Ten classes of 6,000 pictures.
    Cifar10,
    /// A hundred classes of 600 pictures.
    Cifar100,
    /// The pictures of [`Self::Cifar100`] in its twenty superclasses.
    Cifar100Coarse,
}

/// One split of CIFAR-10 or CIFAR-100, decoded in memory: 32×32 pictures, 50,000 to train and 10,000 to test.
#[derive(Clone)]
pub struct Cifar {
    layout: &'static Layout,
    /// Interleaved RGB, picture after picture.
    pixels: Vec<u8>,
    labels: Vec<u8>,
    classes: Vec<String>,
    remarks: Vec<String>,
}

impl Cifar {
    /// Reads a split from `dir`, which holds the set's folder (`cifar-10-batches-bin`, `cifar-100-binary`) or is that folder.
    ///
    /// The files may have any whole number of records; [`Self::remarks`] mentions those that are not complete.
    ///
    /// # Errors
    /// [`DataError::Missing`] if a file is not there, [`DataError::Read`] if it cannot be read, [`DataError::Empty`],
    /// [`DataError::Truncated`] and [`DataError::Label`] if it is not what it should be.
    pub fn open(set: CifarSet, dir: &Path, split: Split) -> Result<Self, DataError> {
        let layout = Layout::of(set);
        let folder = folder(layout, dir);
        let (files, complete) = layout.files(split);
        let mut remarks = Vec::new();
        let classes = class_names(layout, &folder, &mut remarks)?;
        let mut set = Self { layout, pixels: Vec::new(), labels: Vec::new(), classes, remarks };
        for file in files {
            set.append(&folder.join(file), complete)?;
        }
        Ok(set)
    }

    /// Whether the set's folder is in `dir`.
    pub fn is_in(set: CifarSet, dir: &Path) -> bool {
        dir.join(Layout::of(set).folder).is_dir()
    }

    /// What is unusual about the files but no error, one sentence each.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Appends the records of one file, of which there are `complete` as it is distributed.
    fn append(&mut self, path: &Path, complete: usize) -> Result<(), DataError> {
        let Layout { title, labels, label, .. } = *self.layout;
        let record = labels.len() + PICTURE;
        let bytes = read(self.layout, path)?;
        if bytes.is_empty() {
            return Err(DataError::Empty { path: path.into(), record });
        }
        if bytes.len() % record != 0 {
            return Err(DataError::Truncated { path: path.into(), len: bytes.len(), record, set: title });
        }
        let records = bytes.len() / record;
        self.pixels.reserve(records * PICTURE);
        for (i, record) in bytes.chunks_exact(record).enumerate() {
            let (found, planes) = record.split_at(labels.len());
            for (&found, names) in found.iter().zip(labels) {
                let classes = names.len();
                if usize::from(found) >= classes {
                    return Err(DataError::Label { path: path.into(), record: i, found, classes, set: title });
                }
            }
            self.labels.push(found[label]);
            let (red, rest) = planes.split_at(PLANE);
            let (green, blue) = rest.split_at(PLANE);
            self.pixels.extend(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]));
        }
        if records != complete {
            self.remarks.push(format!("{}: {records} records, the complete file has {complete}", path.display()));
        }
        Ok(())
    }
}

impl Pictures for Cifar {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn picture(&self, index: usize) -> Result<Picture, DataError> {
        check_index(self.name(), index, self.len())?;
        let pixels = self.pixels[index * PICTURE..][..PICTURE].to_vec();
        Ok(Picture::new(SIDE as u32, SIDE as u32, pixels).expect("3,072 bytes are 32 × 32 pixels"))
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.get(index).map(|&label| u32::from(label))
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self) -> &str {
        self.layout.name
    }
}

impl std::fmt::Debug for Cifar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cifar({}, {} pictures)", self.layout.name, self.len())
    }
}

/// Where the files are or would be: `dir` itself if it has the folder's name or one of its files.
fn folder(layout: &Layout, dir: &Path) -> PathBuf {
    let is_it = dir.file_name().is_some_and(|name| name == layout.folder)
        || layout.all_files().any(|file| dir.join(file).is_file());
    if is_it { dir.to_owned() } else { dir.join(layout.folder) }
}

fn read(layout: &Layout, path: &Path) -> Result<Vec<u8>, DataError> {
    fs::read(path).map_err(|source| DataError::unreadable(path, source, layout.fetch))
}

/// The lines of the names file, or the known names where there is none.
fn class_names(layout: &Layout, folder: &Path, remarks: &mut Vec<String>) -> Result<Vec<String>, DataError> {
    let names = layout.labels[layout.label];
    let known = || names.iter().map(|&name| name.to_owned()).collect();
    let path = folder.join(layout.names_file);
    let bytes = match read(layout, &path) {
        Ok(bytes) => bytes,
        Err(DataError::Missing { .. }) => return Ok(known()),
        Err(other) => return Err(other),
    };
    let text = String::from_utf8_lossy(&bytes);
    let found: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    if found.len() == names.len() {
        return Ok(found);
    }
    remarks.push(format!(
        "{}: {} names, expected {}; the usual ones are used",
        path.display(),
        found.len(),
        names.len()
    ));
    Ok(known())
}

#[cfg(test)]
mod tests;
