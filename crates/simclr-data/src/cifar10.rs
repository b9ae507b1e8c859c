//! CIFAR-10 from its binary files.
//!
//! A file is a row of records; a record is one label byte and 3,072 bytes of picture: 1,024 of red, of green and of blue,
//! each row by row from the top (<https://www.cs.toronto.edu/~kriz/cifar.html>, "binary version").

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use simclr_ops::augment::Picture;

use crate::{DataError, Pictures, Split, pictures::check_index};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const PICTURE: usize = 3 * PLANE;
const RECORD: usize = 1 + PICTURE;
/// Records in each file as it is distributed.
const COMPLETE: usize = 10_000;
const FOLDER: &str = "cifar-10-batches-bin";
const FETCH: &str = "cargo xtask fetch cifar10` or `simclr-train fetch cifar10";
const TRAIN_FILES: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST_FILES: [&str; 1] = ["test_batch.bin"];
const NAMES_FILE: &str = "batches.meta.txt";
const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// One split of CIFAR-10, decoded in memory: ten classes of 32×32 pictures, 50,000 to train and 10,000 to test.
///
/// Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
#[derive(Clone)]
pub struct Cifar10 {
    /// Interleaved RGB, picture after picture.
    pixels: Vec<u8>,
    labels: Vec<u8>,
    classes: Vec<String>,
    remarks: Vec<String>,
}

impl Cifar10 {
    /// Reads a split from `dir`, which holds the folder `cifar-10-batches-bin` or is that folder.
    ///
    /// The files may have any whole number of records; [`Self::remarks`] mentions those without their 10,000.
    ///
    /// # Errors
    /// [`DataError::Missing`] if a file is not there, [`DataError::Read`] if it cannot be read, [`DataError::Empty`],
    /// [`DataError::Truncated`] and [`DataError::Label`] if it is not what it should be.
    pub fn open(dir: &Path, split: Split) -> Result<Self, DataError> {
        let folder = folder(dir);
        let files: &[&str] = match split {
            Split::Train => &TRAIN_FILES,
            Split::Test => &TEST_FILES,
        };
        let mut remarks = Vec::new();
        let classes = class_names(&folder.join(NAMES_FILE), &mut remarks)?;
        let mut set = Self { pixels: Vec::new(), labels: Vec::new(), classes, remarks };
        for file in files {
            set.append(&folder.join(file))?;
        }
        Ok(set)
    }

    /// What is unusual about the files but no error, one sentence each.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Appends the records of one file.
    fn append(&mut self, path: &Path) -> Result<(), DataError> {
        let bytes = read(path)?;
        if bytes.is_empty() {
            return Err(DataError::Empty { path: path.into(), record: RECORD });
        }
        if bytes.len() % RECORD != 0 {
            return Err(DataError::Truncated { path: path.into(), len: bytes.len(), record: RECORD });
        }
        let records = bytes.len() / RECORD;
        self.pixels.reserve(records * PICTURE);
        for (record, bytes) in bytes.chunks_exact(RECORD).enumerate() {
            let (label, planes) = (bytes[0], &bytes[1..]);
            if usize::from(label) >= CLASSES.len() {
                return Err(DataError::Label { path: path.into(), record, found: label, classes: CLASSES.len() });
            }
            self.labels.push(label);
            let (red, rest) = planes.split_at(PLANE);
            let (green, blue) = rest.split_at(PLANE);
            self.pixels.extend(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]));
        }
        if records != COMPLETE {
            self.remarks.push(format!("{}: {records} records, the complete file has {COMPLETE}", path.display()));
        }
        Ok(())
    }
}

impl Pictures for Cifar10 {
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
        "cifar10"
    }
}

impl std::fmt::Debug for Cifar10 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cifar10({} pictures)", self.len())
    }
}

/// Where the files are or would be: `dir` itself if it has the folder's name or one of its files.
fn folder(dir: &Path) -> PathBuf {
    let is_it = dir.file_name().is_some_and(|name| name == FOLDER)
        || TRAIN_FILES.iter().chain(&TEST_FILES).any(|file| dir.join(file).is_file());
    if is_it { dir.to_owned() } else { dir.join(FOLDER) }
}

fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    fs::read(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => DataError::Missing { path: path.into(), fetch: FETCH },
        _ => DataError::Read { path: path.into(), source },
    })
}

/// The ten lines of the names file, or the known names where there is none.
fn class_names(path: &Path, remarks: &mut Vec<String>) -> Result<Vec<String>, DataError> {
    let known = || CLASSES.map(String::from).to_vec();
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(DataError::Missing { .. }) => return Ok(known()),
        Err(other) => return Err(other),
    };
    let text = String::from_utf8_lossy(&bytes);
    let names: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    if names.len() == CLASSES.len() {
        return Ok(names);
    }
    remarks.push(format!(
        "{}: {} names, expected {}; the usual ones are used",
        path.display(),
        names.len(),
        CLASSES.len()
    ));
    Ok(known())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record whose three planes hold `value`, `value + 1` and `value + 2`, but for the first pixel of the last row.
    fn record(label: u8, value: u8) -> Vec<u8> {
        let mut bytes = vec![label];
        for channel in 0..3 {
            bytes.extend([value + channel; PLANE]);
        }
        bytes[1 + 31 * 32] = 200;
        bytes
    }

    /// A data folder whose train files have one record each, labelled 0 to 4, and whose test file has two.
    fn folder_of_tiny_files() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        for (label, file) in TRAIN_FILES.iter().enumerate() {
            fs::write(folder.join(file), record(label as u8, 10 * label as u8)).unwrap();
        }
        fs::write(folder.join(TEST_FILES[0]), [record(9, 100), record(8, 50)].concat()).unwrap();
        dir
    }

    fn error(dir: &Path, split: Split) -> String {
        Cifar10::open(dir, split).unwrap_err().to_string()
    }

    #[test]
    fn reads_records_of_all_files_in_order() {
        let dir = folder_of_tiny_files();
        let train = Cifar10::open(dir.path(), Split::Train).unwrap();
        assert_eq!((train.len(), train.name()), (5, "cifar10"));
        assert_eq!(
            (0..6).map(|i| train.label(i)).collect::<Vec<_>>(),
            [Some(0), Some(1), Some(2), Some(3), Some(4), None]
        );
        let picture = train.picture(3).unwrap();
        assert_eq!((picture.pixel(5, 5), picture.pixel(0, 31)), ([30, 31, 32], [200, 31, 32]));
        let test = Cifar10::open(&dir.path().join(FOLDER), Split::Test).unwrap();
        assert_eq!((test.label(0), test.label(1)), (Some(9), Some(8)));
        assert_eq!(test.picture(1).unwrap().pixel(9, 9), [50, 51, 52]);
        let error = test.picture(2).unwrap_err().to_string();
        assert_eq!(error, "cifar10 has 2 pictures; there is no picture 2 (the first is 0)");
    }

    #[test]
    fn the_files_may_lie_in_a_folder_of_another_name() {
        let dir = folder_of_tiny_files();
        let other = dir.path().join("elsewhere");
        fs::rename(dir.path().join(FOLDER), &other).unwrap();
        assert_eq!(Cifar10::open(&other, Split::Train).unwrap().len(), 5);
    }

    #[test]
    fn an_unusual_number_of_records_is_remarked() {
        let dir = folder_of_tiny_files();
        let remarks = Cifar10::open(dir.path(), Split::Test).unwrap().remarks;
        let path = dir.path().join(FOLDER).join(TEST_FILES[0]);
        assert_eq!(remarks, [format!("{}: 2 records, the complete file has 10000", path.display())]);
        assert_eq!(Cifar10::open(dir.path(), Split::Train).unwrap().remarks().len(), 5);
        fs::write(&path, record(1, 1).repeat(COMPLETE)).unwrap();
        assert!(Cifar10::open(dir.path(), Split::Test).unwrap().remarks().is_empty());
    }

    #[test]
    fn class_names_come_from_the_names_file_if_it_has_ten() {
        let dir = folder_of_tiny_files();
        assert_eq!(Cifar10::open(dir.path(), Split::Test).unwrap().classes(), CLASSES);
        let names = dir.path().join(FOLDER).join(NAMES_FILE);
        fs::write(&names, "a\nb\r\nc\nd\ne\nf\ng\nh\ni\nj\n\n").unwrap();
        let set = Cifar10::open(dir.path(), Split::Test).unwrap();
        assert_eq!(set.classes(), ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]);
        fs::write(&names, "a\nb\n").unwrap();
        let set = Cifar10::open(dir.path(), Split::Test).unwrap();
        assert_eq!(set.classes(), CLASSES);
        assert!(set.remarks()[0].ends_with("batches.meta.txt: 2 names, expected 10; the usual ones are used"));
    }

    #[test]
    fn a_missing_batch_says_what_to_run() {
        let dir = folder_of_tiny_files();
        let path = dir.path().join(FOLDER).join("data_batch_4.bin");
        fs::remove_file(&path).unwrap();
        let expected = format!(
            "{}: no such file; `cargo xtask fetch cifar10` or `simclr-train fetch cifar10` gets it",
            path.display()
        );
        assert_eq!(error(dir.path(), Split::Train), expected);
        let nowhere = dir.path().join("nowhere");
        let expected = nowhere.join(FOLDER).join("data_batch_1.bin");
        assert!(error(&nowhere, Split::Train).starts_with(&format!("{}: no such file", expected.display())));
    }

    #[test]
    fn a_cut_file_names_its_length() {
        let dir = folder_of_tiny_files();
        let path = dir.path().join(FOLDER).join("data_batch_2.bin");
        fs::write(&path, &[record(1, 1), record(2, 2)].concat()[..6145]).unwrap();
        let expected = format!(
            "{}: 6145 bytes is not a whole number of 3073-byte records (the file is cut short or is not CIFAR-10)",
            path.display()
        );
        assert_eq!(error(dir.path(), Split::Train), expected);
    }

    #[test]
    fn a_wrong_label_names_its_record() {
        let dir = folder_of_tiny_files();
        let path = dir.path().join(FOLDER).join(TEST_FILES[0]);
        fs::write(&path, [record(1, 1), record(2, 2), record(10, 2)].concat()).unwrap();
        let expected = format!(
            "{}: record 2 has label 10, expected 0 to 9 (the file is damaged or is not CIFAR-10)",
            path.display()
        );
        assert_eq!(error(dir.path(), Split::Test), expected);
    }

    #[test]
    fn an_empty_file_and_an_unreadable_one_are_errors_of_their_own() {
        let dir = folder_of_tiny_files();
        let path = dir.path().join(FOLDER).join(TEST_FILES[0]);
        fs::write(&path, []).unwrap();
        assert_eq!(
            error(dir.path(), Split::Test),
            format!("{}: the file is empty, expected 3073-byte records", path.display())
        );
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(Cifar10::open(dir.path(), Split::Test), Err(DataError::Read { .. })));
    }
}
