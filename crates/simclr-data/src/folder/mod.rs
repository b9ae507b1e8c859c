//! Anybody's pictures: a folder of files.

mod cache;
mod classes;
mod decode;
mod error;
mod index;
#[cfg(test)]
mod tests;
mod walk;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};
use simclr_ops::augment::Picture;

pub use error::FolderError;
pub use walk::Bad;

use crate::{DataError, Normalization, Pictures, Split, normalization::ChannelMoments, pictures::check_index};
use cache::{Cache, Pixels, Place};
use index::{Found, Good, look_at_all};
use walk::Files;

/// How a folder is read.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderConfig {
    /// Pictures whose shorter side is longer are resized to it when they are read, and so is what the cache keeps; `None` leaves
    /// them as they are. Twice the side of the views loses little.
    pub shorter_side: Option<u32>,
    /// The share of the pictures that may be unreadable, from 0 to 1: more of them are an error.
    pub max_bad: f64,
    /// No more than so many pictures, the first in order.
    pub limit: Option<usize>,
    /// Threads that look at the files when the folder is opened; nothing depends on it.
    pub threads: usize,
    /// Where decoded pictures are kept, if they are. Only time depends on it.
    pub cache: Option<PathBuf>,
}

impl Default for FolderConfig {
    fn default() -> Self {
        Self { shorter_side: Some(448), max_bad: 0.1, limit: None, threads: 1, cache: None }
    }
}

/// How far opening a folder has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FolderProgress {
    /// So many files were found so far.
    Walking(usize),
    /// So many files were looked at, of so many.
    Reading(usize, usize),
}

/// The pictures of a folder, at any depth: JPEG, PNG, WebP, BMP, GIF and TIFF, told by their content.
///
/// A picture is turned as its EXIF orientation says, laid over white where it is transparent, brought to 8-bit RGB and shrunk to a
/// stated size ([`FolderConfig::shorter_side`]): from there on everything is exact. What cannot be read is left out and listed.
///
/// Opening looks at every file once, and decodes it. Memory holds some fifty bytes and the name of each file, never its pixels.
/// With a cache, decoded pictures are kept on the disk, and neither later epochs nor later runs decode them again.
///
/// The order is that of a hash of each path below the folder, so that the beginning and the end of the set are fair samples, and
/// a new file moves no other. Classes are the first folders below the root, as in torchvision's `ImageFolder`; `train` beside
/// `test`, `val`, `valid` or `validation` are splits.
#[derive(Debug)]
pub struct Folder {
    name: String,
    root: PathBuf,
    files: Files,
    members: Vec<Member>,
    classes: Vec<String>,
    shorter_side: Option<u32>,
    pixels: Option<Arc<Pixels>>,
    bad: Vec<Bad>,
    moments: ChannelMoments,
    median_side: u32,
    fingerprint: String,
    remarks: Vec<String>,
}

/// A picture of the set.
#[derive(Debug)]
struct Member {
    file: u32,
    class: u32,
    len: u64,
    place: Option<Place>,
}

/// The class of a picture without one.
const NO_CLASS: u32 = u32::MAX;

impl Folder {
    /// Opens the folder `path`: walks through it and looks at every file. `progress` hears how far that has come, and may stop it.
    ///
    /// # Errors
    /// [`DataError::Folder`]: if there is no folder or no picture, if more are bad than [`FolderConfig::max_bad`] says, if there
    /// is no such split ([`FolderError::NoTestSplit`]), or a test picture has a class that no training picture has.
    /// [`DataError::Setting`] for a setting that cannot be.
    pub fn open(
        path: &Path,
        split: Split,
        config: &FolderConfig,
        progress: &mut dyn FnMut(FolderProgress) -> ControlFlow<()>,
    ) -> Result<Self, DataError> {
        config.validate()?;
        let root = classes::root(path, split)?;
        let walk = |root: &Path, progress: &mut dyn FnMut(FolderProgress) -> ControlFlow<()>| {
            let seen =
                |count: usize| !count.is_multiple_of(1_000) || progress(FolderProgress::Walking(count)).is_continue();
            Files::walk(root, seen).ok_or(FolderError::Cancelled)
        };
        let (files, mut bad) = walk(&root, progress)?;
        let mut remarks = Vec::new();
        // Both splits number the classes as the training split does.
        let classes = match split {
            Split::Train => classes::classes(&root, &files),
            Split::Test => {
                let train = classes::root(path, Split::Train)?;
                classes::classes(&train, &walk(&train, progress)?.0)
            }
        };
        let classes = classes.unwrap_or_else(|reason| {
            remarks.push(format!("{}: {reason}", root.display()));
            Vec::new()
        });
        let mut cache = None;
        if let Some(dir) = &config.cache {
            match Cache::open(dir, &config.settings()) {
                Ok((opened, said)) => {
                    cache = Some(opened);
                    remarks.extend(said);
                }
                Err(error) => remarks.push(format!("{}: no cache of pictures: {error}", dir.display())),
            }
        }
        let name = format!("folder:{}", path.display());
        let mut folder = Self {
            name,
            root,
            files,
            members: Vec::new(),
            classes,
            shorter_side: config.shorter_side,
            pixels: None,
            bad: Vec::new(),
            moments: ChannelMoments::default(),
            median_side: 0,
            fingerprint: String::new(),
            remarks,
        };
        let said = folder.look_at_files(config, &mut cache, &mut bad, progress)?;
        folder.remarks.extend(said);
        folder.pixels = cache.map(|cache| cache.pixels());
        Ok(folder)
    }

    /// Fills in the members and what was left out.
    fn look_at_files(
        &mut self,
        config: &FolderConfig,
        cache: &mut Option<Cache>,
        bad: &mut Vec<Bad>,
        progress: &mut dyn FnMut(FolderProgress) -> ControlFlow<()>,
    ) -> Result<Vec<String>, DataError> {
        let Self { root, files, members, classes, moments, .. } = self;
        let (mut passed, mut sides, mut odd_class) = (0, Vec::new(), None);
        let total = files.len();
        let mut remarks = look_at_all(
            root,
            files,
            config.shorter_side,
            config.threads,
            cache,
            &mut |done| progress(FolderProgress::Reading(done, total)).is_continue(),
            |file, found| {
                match found {
                    Found::Other => passed += 1,
                    Found::Bad(reason) => bad.push(Bad { path: root.join(files.path(file)), reason }),
                    Found::Picture(Good { width, height, len, moments: own, place }) => {
                        let class = if classes.is_empty() {
                            NO_CLASS
                        } else {
                            let name = classes::class(&files.path(file)).unwrap_or_default();
                            match classes.binary_search(&name) {
                                Ok(class) => class as u32,
                                Err(_) => {
                                    odd_class = Some(name);
                                    return false;
                                }
                            }
                        };
                        moments.add(&own);
                        sides.push(width.min(height));
                        members.push(Member { file: file as u32, class, len, place });
                    }
                }
                config.limit.is_none_or(|limit| members.len() < limit)
            },
        )?;
        if let Some(class) = odd_class {
            return Err(FolderError::UnknownClass { path: root.clone(), class, classes: classes.clone() }.into());
        }
        bad.sort_by(|a, b| a.path.cmp(&b.path));
        let told = |bad: &Bad| format!("{}: {}", bad.path.display(), bad.reason);
        if members.is_empty() {
            let hint = bad.first().map_or_else(|| "JPEG, PNG, WebP, BMP, GIF and TIFF are read".into(), told);
            return Err(FolderError::NoPictures { path: root.clone(), bad: bad.len(), passed, hint }.into());
        }
        let of = members.len() + bad.len();
        if bad.len() as f64 > config.max_bad * of as f64 {
            let first = bad.iter().take(3).map(told).collect::<Vec<_>>().join("; ");
            let (path, limit) = (root.clone(), config.max_bad);
            return Err(FolderError::TooManyBad { path, bad: bad.len(), of, limit, first }.into());
        }
        if passed > 0 {
            remarks.push(format!("{}: {passed} file(s) that are no pictures were passed over", root.display()));
        }
        if !bad.is_empty() {
            remarks.push(format!("{}: {} picture(s) cannot be read and are left out", root.display(), bad.len()));
        }
        let mut hash = Sha256::new();
        for member in &*members {
            hash.update(files.path(member.file as usize).as_os_str().as_encoded_bytes());
            hash.update([0]);
            hash.update(member.len.to_le_bytes());
        }
        let digits: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        self.fingerprint = format!("{} pictures, {digits}", members.len());
        let middle = sides.len() / 2;
        self.median_side = *sides.select_nth_unstable(middle).1;
        self.bad = std::mem::take(bad);
        Ok(remarks)
    }

    /// What was left out, and why, sorted by path.
    pub fn bad(&self) -> &[Bad] {
        &self.bad
    }

    /// What a person should know of the folder: one line each.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The mean and deviation of the pictures, every picture weighing the same.
    pub fn normalization(&self) -> Normalization {
        self.moments.normalization()
    }

    /// The shorter side of the picture in the middle, ordered by it.
    pub fn median_side(&self) -> u32 {
        self.median_side
    }

    /// Which pictures these are: their number, and a hash of the names and lengths of their files.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The file of a picture.
    ///
    /// # Panics
    /// If there is no such picture.
    pub fn path(&self, index: usize) -> PathBuf {
        self.root.join(self.files.path(self.members[index].file as usize))
    }
}

/// The picture of one file as a [`Folder`] has it: decoded, turned, in 8-bit RGB, its shorter side at most `shorter_side`.
///
/// # Errors
/// [`FolderError::NoPicture`] with the reason if it cannot be read.
pub fn read_picture(path: &Path, shorter_side: Option<u32>) -> Result<Picture, DataError> {
    let wrong = |reason: String| FolderError::NoPicture { path: path.to_owned(), reason };
    let about = fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    if !about.is_file() {
        // A pipe would never end.
        return Err(wrong("it is no regular file".into()).into());
    }
    let bytes = index::read(path, about.len()).map_err(wrong)?;
    let bytes = bytes.ok_or_else(|| wrong("its content is no JPEG, PNG, WebP, BMP, GIF or TIFF".into()))?;
    Ok(decode::shrunk(decode::decode(&bytes).map_err(wrong)?, shorter_side))
}

impl FolderConfig {
    fn validate(&self) -> Result<(), DataError> {
        let wrong = |field, found: String, expected| Err(DataError::Setting { field, found, expected });
        match self {
            Self { shorter_side: Some(0), .. } => wrong("shorter side", "0".into(), "at least 1 pixel"),
            Self { limit: Some(0), .. } => wrong("limit", "0".into(), "at least 1 picture"),
            Self { max_bad, .. } if !(0.0..=1.0).contains(max_bad) => {
                wrong("max bad", max_bad.to_string(), "a share from 0 to 1")
            }
            _ => Ok(()),
        }
    }

    /// What decides the bits of a picture, for the cache.
    fn settings(&self) -> Vec<u8> {
        format!("{} {:?}\n", decode::VERSION, self.shorter_side).into_bytes()
    }
}

impl Pictures for Folder {
    fn len(&self) -> usize {
        self.members.len()
    }

    fn picture(&self, index: usize) -> Result<Picture, DataError> {
        check_index(&self.name, index, self.members.len())?;
        let member = &self.members[index];
        if let Some(picture) = member.place.as_ref().and_then(|place| self.pixels.as_ref()?.read(place)) {
            return Ok(picture);
        }
        let path = self.path(index);
        let lost = |reason: String| FolderError::Lost { path: path.clone(), reason };
        let len = fs::metadata(&path).map_err(|error| lost(error.to_string()))?.len();
        if len != member.len {
            return Err(lost(format!("it had {} bytes and has {len}", member.len)).into());
        }
        let bytes = index::read(&path, len).map_err(lost)?.ok_or_else(|| lost("it is no picture".into()))?;
        Ok(decode::shrunk(decode::decode(&bytes).map_err(lost)?, self.shorter_side))
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.members.get(index).map(|member| member.class).filter(|&class| class != NO_CLASS)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self, index: usize) -> String {
        if index < self.members.len() {
            self.path(index).to_string_lossy().into_owned()
        } else {
            format!("{}/{index}", self.name)
        }
    }
}
