//! Data sets by name.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use simclr_data::{Cifar10, Pictures, Shapes, Split, Subset};

use crate::Usage;
use crate::output::Output;

/// Pictures of `shapes` in each split.
const SHAPES_TRAIN: usize = 10_000;
const SHAPES_TEST: usize = 2_000;

/// What the pictures of `shapes` are drawn from: fixed, so that it is one data set and not one per run.
const SHAPES_SEED: u64 = 0;

/// A data set that the program knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DataSet {
    /// The built-in one, drawn when it is asked for.
    Shapes,
    /// CIFAR-10 in its binary form.
    Cifar10,
}

impl std::fmt::Display for DataSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shapes => "shapes",
            Self::Cifar10 => "cifar10",
        })
    }
}

impl FromStr for DataSet {
    type Err = Usage;

    fn from_str(name: &str) -> Result<Self, Usage> {
        [Self::Shapes, Self::Cifar10]
            .into_iter()
            .find(|set| set.to_string() == name)
            .ok_or_else(|| Usage(format!("--data is {name}, expected shapes or cifar10")))
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
        let whole: Arc<dyn Pictures> = match (self, split) {
            (Self::Shapes, Split::Train) => Arc::new(Shapes::new(SHAPES_SEED, split, SHAPES_TRAIN)),
            (Self::Shapes, Split::Test) => Arc::new(Shapes::new(SHAPES_SEED, split, SHAPES_TEST)),
            (Self::Cifar10, _) => {
                let set = Cifar10::open(data_dir, split)?;
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

    /// Whether its files are in `data_dir`: what the quick preset looks for.
    pub(crate) fn is_present(self, data_dir: &Path) -> bool {
        match self {
            Self::Shapes => true,
            Self::Cifar10 => data_dir.join("cifar-10-batches-bin").is_dir(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::OutputArguments;

    #[test]
    fn names_are_known_or_refused() {
        assert_eq!("cifar10".parse::<DataSet>().unwrap(), DataSet::Cifar10);
        let message = "mnist".parse::<DataSet>().unwrap_err().to_string();
        assert_eq!(message, "--data is mnist, expected shapes or cifar10");
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
