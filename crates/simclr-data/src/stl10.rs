//! STL-10 from its binary files.
//!
//! Adam Coates, Honglak Lee, Andrew Ng, "An Analysis of Single Layer Networks in Unsupervised Feature Learning", 2011;
//! <https://cs.stanford.edu/~acoates/stl10>. A picture is three planes of 96×96 bytes, red, green, blue, each column by column
//! from the left; labels count from 1.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use simclr_ops::augment::Picture;

use crate::{DataError, Pictures, Split, pictures::check_index, positional::read_exact_at};

const SIDE: usize = 96;
const PLANE: usize = SIDE * SIDE;
const PICTURE: usize = 3 * PLANE;

const NAME: &str = "stl10";
const TITLE: &str = "STL-10";
const FOLDER: &str = "stl10_binary";
const FETCH: &str = "`cargo xtask fetch stl10` or `simclr-train fetch stl10`";

const CLASSES: [&str; 10] = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"];

/// Which pictures of the training split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stl10Set {
    /// The 5,000 with a label, then the 100,000 without: what the set was made for.
    Whole,
    /// The 5,000 with a label.
    Labelled,
}

/// One split of STL-10: 96×96 pictures, read when they are asked for, since the unlabelled ones take 2.8 GB.
#[derive(Debug)]
pub struct Stl10 {
    parts: Vec<Part>,
    labels: Vec<u8>,
    classes: Vec<String>,
    folds: PathBuf,
    remarks: Vec<String>,
}

/// A file of pictures.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: File,
    pictures: usize,
}

impl Stl10 {
    /// Opens a split in `dir`, which holds the folder `stl10_binary` or is it. The test split is the same for both sets.
    ///
    /// The files may have any whole number of pictures; [`Self::remarks`] mentions those that are not complete.
    ///
    /// # Errors
    /// [`DataError::Missing`] if a file is not there, [`DataError::Read`] if it cannot be read, [`DataError::Empty`],
    /// [`DataError::Truncated`], [`DataError::Label`] and [`DataError::Counts`] if it is not what it should be.
    pub fn open(set: Stl10Set, dir: &Path, split: Split) -> Result<Self, DataError> {
        let is_it = dir.file_name().is_some_and(|name| name == FOLDER) || dir.join("train_X.bin").is_file();
        let folder = if is_it { dir.to_owned() } else { dir.join(FOLDER) };
        let (pictures, labels, complete) = match split {
            Split::Train => ("train_X.bin", "train_y.bin", 5_000),
            Split::Test => ("test_X.bin", "test_y.bin", 8_000),
        };
        let mut remarks = Vec::new();
        let labelled = Part::open(folder.join(pictures), complete, &mut remarks)?;
        let labels = read_labels(&folder.join(labels), &labelled)?;
        let mut parts = vec![labelled];
        if (set, split) == (Stl10Set::Whole, Split::Train) {
            parts.push(Part::open(folder.join("unlabeled_X.bin"), 100_000, &mut remarks)?);
        }
        let classes = CLASSES.map(String::from).to_vec();
        Ok(Self { parts, labels, classes, folds: folder.join("fold_indices.txt"), remarks })
    }

    /// Whether the set's folder is in `dir`.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(FOLDER).is_dir()
    }

    /// What is unusual about the files but no error, one sentence each.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The ten predefined lists of training pictures with labels, a thousand in each: the official protocol learns from one at a
    /// time and reports the mean.
    ///
    /// # Errors
    /// [`DataError::Missing`] or [`DataError::Read`] if `fold_indices.txt` is not to be had, [`DataError::Folds`] if it does not
    /// have ten lines of training pictures.
    pub fn folds(&self) -> Result<Vec<Vec<usize>>, DataError> {
        let bytes = fs::read(&self.folds).map_err(|source| DataError::unreadable(&self.folds, source, FETCH))?;
        let text = String::from_utf8_lossy(&bytes);
        let wrong = |line: usize, found: String| {
            let (path, pictures) = (self.folds.clone(), self.labels.len());
            DataError::Folds { path, line, found, pictures }
        };
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        if lines.len() != 10 {
            return Err(wrong(lines.len(), format!("{} lines", lines.len())));
        }
        let fold = |(number, line): (usize, &&str)| {
            let index = |word: &str| {
                let index = word.parse::<usize>().ok().filter(|&index| index < self.labels.len());
                index.ok_or_else(|| wrong(number + 1, format!("\"{word}\"")))
            };
            line.split_whitespace().map(index).collect()
        };
        lines.iter().enumerate().map(fold).collect()
    }
}

impl Part {
    /// A file of pictures, of which there are `complete` as it is distributed.
    fn open(path: PathBuf, complete: usize, remarks: &mut Vec<String>) -> Result<Self, DataError> {
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (len, file) = opened.map_err(|source| DataError::unreadable(&path, source, FETCH))?;
        let pictures = (len / PICTURE as u64) as usize;
        if len == 0 {
            return Err(DataError::Empty { path, record: PICTURE });
        }
        if !len.is_multiple_of(PICTURE as u64) {
            return Err(DataError::Truncated { path, len: len as usize, record: PICTURE, set: TITLE });
        }
        if pictures != complete {
            remarks.push(format!("{}: {pictures} pictures, the complete file has {complete}", path.display()));
        }
        Ok(Self { path, file, pictures })
    }

    fn picture(&self, index: usize) -> Result<Picture, DataError> {
        let mut planes = [0; PICTURE];
        read_exact_at(&self.file, &mut planes, (index * PICTURE) as u64)
            .map_err(|source| DataError::Read { path: self.path.clone(), source })?;
        let mut pixels = vec![0; PICTURE];
        for (c, plane) in planes.chunks_exact(PLANE).enumerate() {
            for (x, column) in plane.chunks_exact(SIDE).enumerate() {
                for (y, &byte) in column.iter().enumerate() {
                    pixels[3 * (y * SIDE + x) + c] = byte;
                }
            }
        }
        Ok(Picture::new(SIDE as u32, SIDE as u32, pixels).expect("27,648 bytes are 96 × 96 pixels"))
    }
}

/// The classes of the pictures of a file, counted from 0.
fn read_labels(path: &Path, of: &Part) -> Result<Vec<u8>, DataError> {
    let mut labels = fs::read(path).map_err(|source| DataError::unreadable(path, source, FETCH))?;
    if labels.len() != of.pictures {
        let (path, of, pictures) = (path.to_owned(), of.path.clone(), of.pictures);
        return Err(DataError::Counts { path, labels: labels.len(), of, pictures });
    }
    for (record, label) in labels.iter_mut().enumerate() {
        if !(1..=10).contains(label) {
            return Err(DataError::Stl10Label { path: path.to_owned(), record, found: *label });
        }
        *label -= 1;
    }
    Ok(labels)
}

impl Pictures for Stl10 {
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.pictures).sum()
    }

    fn picture(&self, index: usize) -> Result<Picture, DataError> {
        check_index(NAME, index, self.len())?;
        let labelled = self.parts[0].pictures;
        if index < labelled { self.parts[0].picture(index) } else { self.parts[1].picture(index - labelled) }
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.get(index).map(|&label| u32::from(label))
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self) -> &str {
        NAME
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// Byte of channel `c` at column `x` of row `y` of picture `n`.
    fn byte(n: usize, x: usize, y: usize, c: usize) -> u8 {
        (n * 31 + x * 3 + y * 7 + c * 90) as u8
    }

    fn write(dir: &TempDir, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(dir.path().join(FOLDER)).unwrap();
        fs::write(dir.path().join(FOLDER).join(name), bytes).unwrap();
    }

    fn pictures(numbers: std::ops::Range<usize>) -> Vec<u8> {
        let columns = (0..3).flat_map(|c| (0..SIDE).flat_map(move |x| (0..SIDE).map(move |y| (c, x, y))));
        numbers.flat_map(|n| columns.clone().map(move |(c, x, y)| byte(n, x, y, c))).collect()
    }

    /// Three training pictures, two without a label, two of the test split.
    fn small() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        write(&dir, "train_X.bin", pictures(0..3));
        write(&dir, "train_y.bin", [1, 10, 4]);
        write(&dir, "unlabeled_X.bin", pictures(3..5));
        write(&dir, "test_X.bin", pictures(5..7));
        write(&dir, "test_y.bin", [2, 2]);
        dir
    }

    #[test]
    fn columns_become_rows_and_labels_count_from_zero() {
        let dir = small();
        let set = Stl10::open(Stl10Set::Whole, dir.path(), Split::Train).unwrap();
        assert_eq!((set.len(), set.name(), set.classes()[9].as_str()), (5, "stl10", "truck"));
        let labels: Vec<_> = (0..6).map(|index| set.label(index)).collect();
        assert_eq!(labels, [Some(0), Some(9), Some(3), None, None, None]);
        for n in 0..5 {
            let picture = set.picture(n).unwrap();
            for (x, y) in [(0, 0), (95, 0), (0, 95), (17, 80)] {
                let expected = [0, 1, 2].map(|c| byte(n, x, y, c));
                assert_eq!(picture.pixel(x as u32, y as u32), expected, "picture {n} at {x}, {y}");
            }
        }
        assert!(matches!(set.picture(5), Err(DataError::Index { index: 5, len: 5, .. })));
        assert_eq!(set.remarks().len(), 2);
        assert!(set.remarks()[0].ends_with("train_X.bin: 3 pictures, the complete file has 5000"));
        // The folder itself may be given too.
        let labelled = Stl10::open(Stl10Set::Labelled, &dir.path().join(FOLDER), Split::Train).unwrap();
        assert_eq!((labelled.len(), labelled.picture(2).unwrap()), (3, set.picture(2).unwrap()));
        for set in [Stl10Set::Whole, Stl10Set::Labelled] {
            let test = Stl10::open(set, dir.path(), Split::Test).unwrap();
            assert_eq!(
                (test.len(), test.label(1), test.picture(1).unwrap().pixel(0, 1)[0]),
                (2, Some(1), byte(6, 0, 1, 0))
            );
        }
        assert!(Stl10::is_in(dir.path()) && !Stl10::is_in(&dir.path().join(FOLDER)));
    }

    #[test]
    fn every_wrong_file_is_named() {
        let error = |name: &str, bytes: &[u8]| {
            let dir = small();
            write(&dir, name, bytes);
            Stl10::open(Stl10Set::Whole, dir.path(), Split::Train).unwrap_err().to_string()
        };
        for (name, bytes, expected) in [
            ("train_X.bin", &[][..], "train_X.bin: the file is empty, expected 27648-byte records"),
            ("unlabeled_X.bin", &[0; 100], "unlabeled_X.bin: 100 bytes is not a whole number of 27648-byte records"),
            ("train_y.bin", &[1, 2], "train_y.bin: 2 labels, but "),
            ("train_y.bin", &[1, 0, 2], "train_y.bin: record 1 has label 0, expected 1 to 10"),
            ("train_y.bin", &[1, 2, 11], "train_y.bin: record 2 has label 11, expected 1 to 10"),
        ] {
            let message = error(name, bytes);
            assert!(message.contains(expected), "{message}");
        }
        let dir = small();
        fs::remove_file(dir.path().join(FOLDER).join("unlabeled_X.bin")).unwrap();
        let message = Stl10::open(Stl10Set::Whole, dir.path(), Split::Train).unwrap_err().to_string();
        assert!(message.contains("unlabeled_X.bin: no such file") && message.contains("fetch stl10"), "{message}");
        assert!(Stl10::open(Stl10Set::Labelled, dir.path(), Split::Train).is_ok());
    }

    #[test]
    fn folds_are_ten_lists_of_training_pictures() {
        let dir = small();
        let set = Stl10::open(Stl10Set::Labelled, dir.path(), Split::Train).unwrap();
        assert!(matches!(set.folds(), Err(DataError::Missing { .. })));
        write(&dir, "fold_indices.txt", "0 2 \n".repeat(9) + "1\n");
        let folds = set.folds().unwrap();
        assert_eq!((folds.len(), &folds[0], &folds[9]), (10, &vec![0, 2], &vec![1]));
        for (text, expected) in [
            ("0 1\n".repeat(9), "fold_indices.txt: line 9: 9 lines, expected ten lines of numbers from 0 to 2"),
            ("0 1\n".repeat(9) + "0 3\n", "line 10: \"3\", expected"),
            ("0 x\n".repeat(10), "line 1: \"x\", expected"),
        ] {
            write(&dir, "fold_indices.txt", text);
            let message = set.folds().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
