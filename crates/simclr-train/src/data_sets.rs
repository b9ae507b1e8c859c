//! Data sets by name.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use simclr_data::{Cifar, CifarSet, Pictures, Shapes, Split, Subset};

use crate::Usage;
use crate::output::Output;

/// Pictures of `shapes` in each split.
const SHAPES_TRAIN: usize = 10_000;
const SHAPES_TEST: usize = 2_000;

/// What the pictures of `shapes` are drawn from: fixed, so that it is one data set and not one per run.
const SHAPES_SEED: u64 = 0;

/// A data set that the program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DataSet {
    /// The built-in one, drawn when it is asked for.
    Shapes,
    /// CIFAR-10 in its binary form.
    Cifar10,
    /// CIFAR-100 in its binary form, in a hundred classes.
    Cifar100,
    /// The same in its twenty superclasses.
    Cifar100Coarse,
}

impl std::fmt::Display for DataSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shapes => "shapes",
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Cifar100Coarse => "cifar100-coarse",
        })
    }
}

impl FromStr for DataSet {
    type Err = Usage;

    fn from_str(name: &str) -> Result<Self, Usage> {
        let expected = "shapes, cifar10, cifar100 or cifar100-coarse";
        [Self::Shapes, Self::Cifar10, Self::Cifar100, Self::Cifar100Coarse]
            .into_iter()
            .find(|set| set.to_string() == name)
            .ok_or_else(|| Usage(format!("--data is {name}, expected {expected}")))
    }
}

impl DataSet {
    /// Opens one split, cut to its first `subset` pictures.
    ///
    /// # Errors
    /// [`Usage`] if the split has fewer pictures than that; the set's own errors if its files are not right.
    pub(crate) fn open(
        self,
        data_dir: &Path,
        split: Split,
        subset: Option<usize>,
        output: &Output,
    ) -> anyhow::Result<Arc<dyn Pictures>> {
        let whole: Arc<dyn Pictures> = match (self.cifar(), split) {
            (None, Split::Train) => Arc::new(Shapes::new(SHAPES_SEED, split, SHAPES_TRAIN)),
            (None, Split::Test) => Arc::new(Shapes::new(SHAPES_SEED, split, SHAPES_TEST)),
            (Some(set), _) => {
                let set = Cifar::open(set, data_dir, split)?;
                set.remarks().iter().for_each(|remark| output.say(remark));
                Arc::new(set)
            }
        };
        let len = whole.len();
        match subset {
            None => Ok(whole),
            Some(count) if count > len => {
                Err(Usage(format!("--subset is {count}, but the {split} split of {self} has {len} pictures")).into())
            }
            Some(count) => Ok(Arc::new(Subset::first(whole, count)?)),
        }
    }

    /// The side of its pictures.
    pub(crate) fn size(self) -> u32 {
        match self {
            Self::Shapes | Self::Cifar10 | Self::Cifar100 | Self::Cifar100Coarse => 32,
        }
    }

    /// Whether its files are in `data_dir`: what the quick preset looks for.
    pub(crate) fn is_present(self, data_dir: &Path) -> bool {
        self.cifar().is_none_or(|set| Cifar::is_in(set, data_dir))
    }

    /// Which of the sets in CIFAR's form it is.
    fn cifar(self) -> Option<CifarSet> {
        match self {
            Self::Shapes => None,
            Self::Cifar10 => Some(CifarSet::Cifar10),
            Self::Cifar100 => Some(CifarSet::Cifar100),
            Self::Cifar100Coarse => Some(CifarSet::Cifar100Coarse),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::OutputArguments;

    #[test]
    fn names_are_known_or_refused() {
        for set in [DataSet::Shapes, DataSet::Cifar10, DataSet::Cifar100, DataSet::Cifar100Coarse] {
            assert_eq!(set.to_string().parse::<DataSet>().unwrap(), set);
            // Settings files spell it as the flag does.
            assert_eq!(serde_json::to_value(set).unwrap(), set.to_string());
        }
        let message = "mnist".parse::<DataSet>().unwrap_err().to_string();
        assert_eq!(message, "--data is mnist, expected shapes, cifar10, cifar100 or cifar100-coarse");
    }

    #[test]
    fn a_subset_must_fit() {
        let output = Output::new(OutputArguments { quiet: true, json: false });
        let open = |subset| DataSet::Shapes.open(Path::new("."), Split::Test, subset, &output);
        assert_eq!(open(Some(5)).unwrap().len(), 5);
        let message = open(Some(2_001)).err().unwrap().to_string();
        assert_eq!(message, "--subset is 2001, but the test split of shapes has 2000 pictures");
    }
}
