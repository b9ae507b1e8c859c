//! Data sets by name.

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use simclr_data::{
    Bad, Cifar, CifarSet, DataError, Folder, FolderConfig, FolderError, FolderProgress, Normalization, Pictures,
    Shapes, Split, Stl10, Stl10Set, Subset,
};

use crate::Usage;
use crate::config::Config;
use crate::output::Output;
use crate::progress::Progress;

/// Pictures of `shapes` in each split.
const SHAPES_TRAIN: usize = 10_000;
const SHAPES_TEST: usize = 2_000;

/// What the pictures of `shapes` are drawn from: fixed, so that it is one data set and not one per run.
const SHAPES_SEED: u64 = 0;

/// How the name of a folder of pictures begins.
const FOLDER: &str = "folder:";

/// Side of the views of a folder's pictures at most, where nobody says otherwise: the paper's for ImageNet.
const FOLDER_SIZE: u32 = 224;

/// Pictures that are named on the screen when they cannot be read; a run has all of them in its folder.
const NAMED: usize = 10;

/// A data set that the program knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) enum DataSet {
    /// The built-in one, drawn when it is asked for.
    Shapes,
    /// CIFAR-10 in its binary form.
    Cifar10,
    /// CIFAR-100 in its binary form, in a hundred classes.
    Cifar100,
    /// The same in its twenty superclasses.
    Cifar100Coarse,
    /// STL-10 in its binary form, with its unlabelled pictures.
    Stl10,
    /// The same without them.
    Stl10Labelled,
    /// Anybody's pictures.
    Folder(PathBuf),
}

/// Those that have a name of their own.
const NAMED_SETS: [DataSet; 6] = [
    DataSet::Shapes,
    DataSet::Cifar10,
    DataSet::Cifar100,
    DataSet::Cifar100Coarse,
    DataSet::Stl10,
    DataSet::Stl10Labelled,
];

impl fmt::Display for DataSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shapes => f.write_str("shapes"),
            Self::Cifar10 => f.write_str("cifar10"),
            Self::Cifar100 => f.write_str("cifar100"),
            Self::Cifar100Coarse => f.write_str("cifar100-coarse"),
            Self::Stl10 => f.write_str("stl10"),
            Self::Stl10Labelled => f.write_str("stl10-labelled"),
            Self::Folder(path) => write!(f, "{FOLDER}{}", path.display()),
        }
    }
}

impl FromStr for DataSet {
    type Err = Usage;

    fn from_str(name: &str) -> Result<Self, Usage> {
        if let Some(path) = name.strip_prefix(FOLDER).filter(|path| !path.is_empty()) {
            return Ok(Self::Folder(path.into()));
        }
        NAMED_SETS.into_iter().find(|set| set.to_string() == name).ok_or_else(|| {
            let names: Vec<String> = NAMED_SETS.iter().map(Self::to_string).collect();
            Usage(format!("--data is {name}, expected {} or folder:PATH", names.join(", ")))
        })
    }
}

impl From<DataSet> for String {
    fn from(set: DataSet) -> Self {
        set.to_string()
    }
}

impl TryFrom<String> for DataSet {
    type Error = Usage;

    fn try_from(name: String) -> Result<Self, Usage> {
        name.parse()
    }
}

/// One split of a data set as it was opened.
pub(crate) struct Opened {
    pub(crate) pictures: Arc<dyn Pictures>,
    /// The side of its views, where nobody says otherwise.
    pub(crate) size: u32,
    /// The mean and deviation of its pictures, where they are known.
    pub(crate) normalization: Option<Normalization>,
    /// Which pictures these are, where that may change.
    pub(crate) fingerprint: Option<String>,
    /// Pictures that cannot be read.
    pub(crate) bad: Vec<Bad>,
}

impl Opened {
    /// Makes sure that these are the pictures that a run began with.
    ///
    /// # Errors
    /// If they are others.
    pub(crate) fn must_be(&self, config: &Config) -> anyhow::Result<()> {
        let told = |pictures: &Option<String>| pictures.clone().unwrap_or_else(|| "others".into());
        anyhow::ensure!(
            self.fingerprint == config.pictures,
            "{}: its pictures are not those that the run began with ({}, was {}): put those back, or begin a new run",
            config.data,
            told(&self.fingerprint),
            told(&config.pictures)
        );
        Ok(())
    }
}

/// Where pictures are, and how they are read where that is to be said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    data_dir: &'a Path,
    shorter_side: u32,
    max_bad: f64,
    cache: Option<&'a Path>,
}

impl<'a> Place<'a> {
    /// As some settings say; `cache` is where decoded pictures are kept, if they are.
    pub(crate) fn of(config: &'a Config, cache: Option<&'a Path>) -> Self {
        Self { data_dir: &config.data_dir, shorter_side: config.shorter_side, max_bad: config.max_bad, cache }
    }
}

impl DataSet {
    /// Opens the training split, cut to its first `subset` pictures.
    ///
    /// # Errors
    /// [`Usage`] if it has fewer pictures than that; the set's own errors if its files are not right.
    pub(crate) fn train(&self, place: Place<'_>, subset: Option<usize>, output: &Output) -> anyhow::Result<Opened> {
        let opened = self.open(place, Split::Train, subset, output)?;
        Ok(Opened { pictures: self.cut(opened.pictures, Split::Train, subset)?, ..opened })
    }

    /// Opens the test split, cut to its first `subset` pictures; none if the set has no such split.
    ///
    /// # Errors
    /// As [`Self::train`].
    pub(crate) fn test(
        &self,
        place: Place<'_>,
        subset: Option<usize>,
        output: &Output,
    ) -> anyhow::Result<Option<Arc<dyn Pictures>>> {
        Ok(self.opened_test(place, subset, output)?.map(|opened| opened.pictures))
    }

    /// [`Self::test`] with all that is known of it.
    ///
    /// # Errors
    /// As [`Self::train`].
    pub(crate) fn opened_test(
        &self,
        place: Place<'_>,
        subset: Option<usize>,
        output: &Output,
    ) -> anyhow::Result<Option<Opened>> {
        match self.open(place, Split::Test, subset, output) {
            Ok(opened) => Ok(Some(Opened { pictures: self.cut(opened.pictures, Split::Test, subset)?, ..opened })),
            Err(DataError::Folder(FolderError::NoTestSplit { .. })) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn cut(&self, whole: Arc<dyn Pictures>, split: Split, subset: Option<usize>) -> anyhow::Result<Arc<dyn Pictures>> {
        let len = whole.len();
        match subset {
            None => Ok(whole),
            Some(count) if count > len => {
                Err(Usage(format!("--subset is {count}, but the {split} split of {self} has {len} pictures")).into())
            }
            Some(count) => Ok(Arc::new(Subset::first(whole, count)?)),
        }
    }

    /// The first `limit` pictures of a split at least.
    fn open(&self, place: Place<'_>, split: Split, limit: Option<usize>, output: &Output) -> Result<Opened, DataError> {
        let say = |remarks: &[String]| remarks.iter().for_each(|remark| output.say(remark));
        let opened = |pictures: Arc<dyn Pictures>, size| Opened {
            pictures,
            size,
            normalization: None,
            fingerprint: None,
            bad: Vec::new(),
        };
        let cifar = |set| -> Result<Opened, DataError> {
            let set = Cifar::open(set, place.data_dir, split)?;
            say(set.remarks());
            Ok(opened(Arc::new(set), 32))
        };
        let stl10 = |set| -> Result<Opened, DataError> {
            let set = Stl10::open(set, place.data_dir, split)?;
            say(set.remarks());
            Ok(opened(Arc::new(set), 96))
        };
        // The built-in pictures stand in for CIFAR-10, and the course says how the bytes of that become numbers.
        let as_the_course = |opened| Opened { normalization: Some(Normalization::CIFAR10), ..opened };
        match self {
            Self::Shapes => {
                let len = if split == Split::Train { SHAPES_TRAIN } else { SHAPES_TEST };
                Ok(as_the_course(opened(Arc::new(Self::shapes(split, len)), 32)))
            }
            Self::Cifar10 => cifar(CifarSet::Cifar10).map(as_the_course),
            Self::Cifar100 => cifar(CifarSet::Cifar100),
            Self::Cifar100Coarse => cifar(CifarSet::Cifar100Coarse),
            Self::Stl10 => stl10(Stl10Set::Whole),
            Self::Stl10Labelled => stl10(Stl10Set::Labelled),
            Self::Folder(path) => {
                let folder = open_folder(path, place, split, limit, output)?;
                say(folder.remarks());
                let bad = folder.bad().to_vec();
                for Bad { path, reason } in bad.iter().take(NAMED) {
                    output.say(format!("left out: {}: {reason}", path.display()));
                }
                if bad.len() > NAMED {
                    output.say(format!("left out: {} more", bad.len() - NAMED));
                }
                let (size, normalization) = (folder.median_side().min(FOLDER_SIZE), Some(folder.normalization()));
                let fingerprint = Some(folder.fingerprint().to_owned());
                Ok(Opened { pictures: Arc::new(folder), size, normalization, fingerprint, bad })
            }
        }
    }

    /// The first pictures of the built-in set, with what they were drawn from.
    pub(crate) fn shapes(split: Split, len: usize) -> Shapes {
        Shapes::new(SHAPES_SEED, split, len)
    }

    /// Whether its files are in `data_dir`: what the quick preset looks for.
    pub(crate) fn is_present(&self, data_dir: &Path) -> bool {
        match self {
            Self::Shapes => true,
            Self::Cifar10 => Cifar::is_in(CifarSet::Cifar10, data_dir),
            Self::Cifar100 | Self::Cifar100Coarse => Cifar::is_in(CifarSet::Cifar100, data_dir),
            Self::Stl10 | Self::Stl10Labelled => Stl10::is_in(data_dir),
            Self::Folder(path) => path.is_dir(),
        }
    }

    /// Threads that make its views ahead of the training, where nobody says otherwise: files want to be decoded.
    pub(crate) fn workers(&self) -> usize {
        match self {
            Self::Folder(_) => rayon::current_num_threads(),
            _ => 1,
        }
    }

    /// Its name as a part of a file name.
    pub(crate) fn file_name(&self) -> String {
        match self {
            Self::Folder(path) => {
                path.file_name().map_or_else(|| "folder".into(), |name| name.to_string_lossy().into())
            }
            named => named.to_string(),
        }
    }
}

/// What tells one set of pictures from another: SHA-256 of their number, their labels, and some pictures spread over all of them.
///
/// # Errors
/// If a picture cannot be read.
pub(crate) fn digest(set: &Arc<dyn Pictures>) -> anyhow::Result<String> {
    const LOOKED_AT: usize = 64;
    let mut hash = Sha256::new();
    hash.update(set.len().to_le_bytes());
    for index in 0..set.len() {
        hash.update(set.label(index).map_or(u64::MAX, u64::from).to_le_bytes());
    }
    for index in (0..LOOKED_AT.min(set.len())).map(|i| i * set.len() / LOOKED_AT.min(set.len())) {
        let picture = set.picture(index)?;
        hash.update([picture.width(), picture.height()].map(u32::to_le_bytes).concat());
        hash.update(picture.pixels());
    }
    let hash: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{} pictures of {} ({hash})", set.len(), set.name()))
}

/// Opens a folder of pictures, saying how far that is.
fn open_folder(
    path: &Path,
    place: Place<'_>,
    split: Split,
    limit: Option<usize>,
    output: &Output,
) -> Result<Folder, DataError> {
    let config = FolderConfig {
        shorter_side: Some(place.shorter_side),
        max_bad: place.max_bad,
        limit,
        threads: rayon::current_num_threads(),
        cache: place.cache.map(Path::to_owned),
    };
    let mut progress: Option<(Progress, usize)> = None;
    Folder::open(path, split, &config, &mut |now| {
        if let FolderProgress::Reading(done, total) = now {
            let (bar, before) =
                progress.get_or_insert_with(|| (Progress::new(output, "reading files", total as u64, 0), 0));
            bar.advance((done - *before) as u64, &[]);
            *before = done;
        }
        ControlFlow::Continue(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::OutputArguments;

    #[test]
    fn names_are_known_or_refused() {
        for set in NAMED_SETS.into_iter().chain([DataSet::Folder("some/where".into())]) {
            assert_eq!(set.to_string().parse::<DataSet>().unwrap(), set);
            // Settings files spell it as the flag does.
            assert_eq!(serde_json::to_value(&set).unwrap(), set.to_string());
            assert_eq!(serde_json::from_value::<DataSet>(set.to_string().into()).unwrap(), set);
        }
        for wrong in ["mnist", "folder:", "folder"] {
            let message = wrong.parse::<DataSet>().unwrap_err().to_string();
            let names = "shapes, cifar10, cifar100, cifar100-coarse, stl10, stl10-labelled or folder:PATH";
            assert_eq!(message, format!("--data is {wrong}, expected {names}"));
        }
        assert_eq!(DataSet::Folder("/a/cats".into()).file_name(), "cats");
        assert_eq!(DataSet::Folder("/".into()).file_name(), "folder");
    }

    #[test]
    fn sets_are_told_apart() {
        let digest = |seed, split, len| {
            let set: Arc<dyn Pictures> = Arc::new(Shapes::new(seed, split, len));
            super::digest(&set).unwrap()
        };
        let whole = digest(0, Split::Train, 200);
        assert_eq!(whole, digest(0, Split::Train, 200));
        assert!(whole.starts_with("200 pictures of "), "{whole}");
        let others = [digest(0, Split::Train, 199), digest(1, Split::Train, 200), digest(0, Split::Test, 200)];
        assert!(others.into_iter().all(|other| other != whole));
    }

    #[test]
    fn a_subset_must_fit() {
        let output = Output::new(OutputArguments { quiet: true, json: false }, String::new());
        let config = Config::default();
        let open = |subset| DataSet::Shapes.test(Place::of(&config, None), subset, &output);
        assert_eq!(open(Some(5)).unwrap().unwrap().len(), 5);
        let message = open(Some(2_001)).err().unwrap().to_string();
        assert_eq!(message, "--subset is 2001, but the test split of shapes has 2000 pictures");
    }
}
