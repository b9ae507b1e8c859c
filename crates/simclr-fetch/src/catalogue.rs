//! What can be fetched, from where, and how to know that it came whole.

use std::{fmt, str::FromStr, time::Duration};

use crate::{Checksum, FetchError, Hash, Origin};

/// For the servers of the catalogue: long enough for a slow one, short enough to be waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something that the project knows how to fetch.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// CIFAR-10 in its binary version: the folder `cifar-10-batches-bin`.
    Cifar10,
    /// CIFAR-100 in its binary version: the folder `cifar-100-binary`.
    Cifar100,
    /// STL-10 in its binary version: the folder `stl10_binary`, 2.6 GB to fetch and 3.1 GB there.
    Stl10,
    /// The encoder that the course pretrained: `pretrained_simclr_model.pth`.
    Weights,
}

impl Item {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cifar10, Self::Cifar100, Self::Stl10, Self::Weights];

    /// Where it comes from and what it must be.
    pub fn source(self) -> Source {
        match self {
            Self::Cifar10 => cifar(
                "cifar-10-binary.tar.gz",
                "c32a1d4ab5d03f1284b67883e8d87530",
                "cifar-10-batches-bin",
                &[
                    ("data_batch_1.bin", 30_730_000),
                    ("data_batch_2.bin", 30_730_000),
                    ("data_batch_3.bin", 30_730_000),
                    ("data_batch_4.bin", 30_730_000),
                    ("data_batch_5.bin", 30_730_000),
                    ("test_batch.bin", 30_730_000),
                ],
            ),
            Self::Cifar100 => cifar(
                "cifar-100-binary.tar.gz",
                "03b5dce01913d631647c71ecec9e9cb8",
                "cifar-100-binary",
                &[("train.bin", 153_700_000), ("test.bin", 30_740_000)],
            ),
            Self::Stl10 => Source {
                name: "stl10_binary.tar.gz".into(),
                urls: vec!["http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz".into()],
                size: None,
                limit: 4 << 30,
                // As torchvision has it; the set's page gives none.
                checksum: Checksum::new(Hash::Md5, "91f7769df0f17e558f3565bffb0c7dfb"),
                content: Content::TarGz {
                    folder: "stl10_binary".into(),
                    files: [
                        ("train_X.bin", 138_240_000),
                        ("train_y.bin", 5_000),
                        ("test_X.bin", 221_184_000),
                        ("test_y.bin", 8_000),
                        ("unlabeled_X.bin", 2_764_800_000),
                    ]
                    .map(|(file, size)| (file.into(), size))
                    .into(),
                    limit: 4 << 30,
                },
                patience: PATIENCE,
            },
            Self::Weights => Source {
                name: "pretrained_simclr_model.pth".into(),
                urls: vec![
                    "http://downloads.cs.stanford.edu/downloads/cs231n/pretrained_simclr_model.pth".into(),
                    "http://cs231n.stanford.edu/2025/storage/a3/pretrained_simclr_model.pth".into(),
                ],
                size: Some(98_808_459),
                limit: 98_808_459,
                checksum: Checksum::new(
                    Hash::Sha256,
                    "67af1a5c191bc1016b5a3456268e3d3b85be8022b6aa517798b0a9936d3ba8ba",
                ),
                content: Content::File,
                patience: PATIENCE,
            },
        }
    }
}

/// An archive of <https://www.cs.toronto.edu/~kriz/cifar.html>, whose page gives the MD5.
fn cifar(name: &str, md5: &str, folder: &str, files: &[(&str, u64)]) -> Source {
    Source {
        name: name.into(),
        urls: vec![format!("https://www.cs.toronto.edu/~kriz/{name}")],
        size: None,
        limit: 1 << 30,
        checksum: Checksum::new(Hash::Md5, md5),
        content: Content::TarGz {
            folder: folder.into(),
            files: files.iter().map(|&(file, size)| (file.into(), size)).collect(),
            limit: 1 << 30,
        },
        patience: PATIENCE,
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Stl10 => "stl10",
            Self::Weights => "weights",
        })
    }
}

impl FromStr for Item {
    type Err = FetchError;

    fn from_str(name: &str) -> Result<Self, FetchError> {
        Self::ALL
            .into_iter()
            .find(|item| item.to_string() == name)
            .ok_or_else(|| FetchError::UnknownItem { found: name.into() })
    }
}

/// One file that can be downloaded, and what is made of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Its file name, in the data folder too.
    pub name: String,
    /// Where it can be had; tried in this order.
    pub urls: Vec<String>,
    /// Its size in bytes, where that is known.
    pub size: Option<u64>,
    /// No more than this many bytes are downloaded.
    pub limit: u64,
    /// Of the whole file.
    pub checksum: Checksum,
    /// What the file is.
    pub content: Content,
    /// A connection that stays silent for so long is given up.
    pub patience: Duration,
}

/// What a name on a command line means: one item, or `all` of them but STL-10, whose size nobody should meet by surprise.
///
/// # Errors
/// [`FetchError::UnknownItem`] for another name, [`FetchError::OneOrigin`] for `all` from one place.
pub fn wanted(name: &str, from: Option<&Origin>) -> Result<Vec<Item>, FetchError> {
    match name {
        "all" if from.is_some() => Err(FetchError::OneOrigin),
        "all" => Ok(Item::ALL.into_iter().filter(|&item| item != Item::Stl10).collect()),
        _ => Ok(vec![name.parse()?]),
    }
}

/// What a downloaded file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// The file is what is wanted.
    File,
    /// A gzipped tar archive of one folder; what is wanted is the folder.
    TarGz {
        /// The folder in the archive and in the data folder.
        folder: String,
        /// Files that must be in it, with their sizes in bytes.
        files: Vec<(String, u64)>,
        /// No more than this many bytes are unpacked.
        limit: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for item in Item::ALL {
            assert_eq!(item.to_string().parse::<Item>().unwrap(), item);
        }
        let error = "cifar-10".parse::<Item>().unwrap_err().to_string();
        assert_eq!(
            error,
            "nothing called \"cifar-10\" can be fetched: choose cifar10, cifar100, stl10, weights or all"
        );
    }

    #[test]
    fn checksums_have_the_length_of_their_hash() {
        for item in Item::ALL {
            let checksum = item.source().checksum;
            let digits = match checksum.hash() {
                Hash::Md5 => 32,
                Hash::Sha256 => 64,
            };
            assert_eq!(checksum.hex().len(), digits, "{item}");
            assert!(checksum.hex().bytes().all(|b| b.is_ascii_hexdigit()), "{item}");
        }
    }
}
