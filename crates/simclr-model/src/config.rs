//! Which model: architecture, widths, projection head.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use simclr_ops::max_pool2d::MaxPool;

use crate::error::ModelError;
use crate::weights;

/// The encoder: a ResNet (He et al. 2015, arXiv:1512.03385) as in torchvision, with the stride of a bottleneck in its
/// 3×3 convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// Blocks 2, 2, 2, 2 of two 3×3 convolutions.
    ResNet18,
    /// Blocks 3, 4, 6, 3 of two 3×3 convolutions.
    ResNet34,
    /// Blocks 3, 4, 6, 3 of a 3×3 convolution between two 1×1; the encoder of the course and the paper.
    ResNet50,
}

impl Arch {
    /// All of them, in the order of their size.
    pub const ALL: [Self; 3] = [Self::ResNet18, Self::ResNet34, Self::ResNet50];

    /// Blocks in each of the four layers.
    pub(crate) fn blocks(self) -> [usize; 4] {
        match self {
            Self::ResNet18 => [2, 2, 2, 2],
            Self::ResNet34 | Self::ResNet50 => [3, 4, 6, 3],
        }
    }

    /// Whether its blocks are bottlenecks, four times as wide outside as inside.
    pub(crate) fn has_bottlenecks(self) -> bool {
        self == Self::ResNet50
    }

    fn name(self) -> &'static str {
        match self {
            Self::ResNet18 => "resnet18",
            Self::ResNet34 => "resnet34",
            Self::ResNet50 => "resnet50",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Arch {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        let known = Self::ALL.into_iter().find(|arch| arch.name() == name);
        known.ok_or_else(|| ModelError::Arch { found: name.to_owned() })
    }
}

/// The first layer of the encoder, and whether a max-pool follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stem {
    /// A 3×3 convolution with stride 1 and no max-pool: for small pictures, which lose too much otherwise. The course's.
    Small,
    /// A 7×7 convolution with stride 2 and a 3×3 max-pool with stride 2, as for ImageNet: layers see maps of a quarter the side.
    Large,
}

impl Stem {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Small, Self::Large];

    /// The stem for pictures of `size`×`size` pixels: the small one up to 64.
    pub fn for_size(size: u32) -> Self {
        if size <= 64 { Self::Small } else { Self::Large }
    }

    /// Side of its kernel.
    pub(crate) fn kernel(self) -> usize {
        match self {
            Self::Small => 3,
            Self::Large => 7,
        }
    }

    /// Its stride.
    pub(crate) fn stride(self) -> usize {
        match self {
            Self::Small => 1,
            Self::Large => 2,
        }
    }

    /// The max-pool behind it.
    pub(crate) fn pool(self) -> Option<MaxPool> {
        (self == Self::Large).then_some(MaxPool::STEM)
    }
}

impl fmt::Display for Stem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Small => "3x3",
            Self::Large => "7x7",
        })
    }
}

impl FromStr for Stem {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        let known = Self::ALL.into_iter().find(|stem| stem.to_string() == name);
        known.ok_or_else(|| ModelError::Config { field: "stem", found: name.to_owned(), expected: STEMS })
    }
}

/// Everything that decides the names and shapes of a model's parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// The encoder.
    pub arch: Arch,
    /// What its pictures go through first.
    pub stem: Stem,
    /// Channels of the stem and of the first layer inside its blocks; 64 in the papers.
    pub width: usize,
    /// Numbers of an embedding, the output of the projection head; 128 in the course.
    pub feature_dim: usize,
    /// Width of the hidden layers of the projection head; 512 in the course.
    pub hidden_dim: usize,
    /// Linear layers of the projection head, at least 1; 2 in the course.
    pub head_layers: usize,
    /// Whether batch norm follows the hidden layers of the projection head, as in the course.
    pub head_batch_norm: bool,
}

impl ModelConfig {
    /// The course's model with another encoder: width 64, head of 512 with batch norm, 128 features.
    pub fn new(arch: Arch) -> Self {
        Self {
            arch,
            stem: Stem::Small,
            width: 64,
            feature_dim: 128,
            hidden_dim: 512,
            head_layers: 2,
            head_batch_norm: true,
        }
    }

    /// Numbers in a feature vector, the pooled output of the encoder: `8 · width`, four times that for bottlenecks.
    pub fn feature_width(&self) -> usize {
        8 * self.width * if self.arch.has_bottlenecks() { 4 } else { 1 }
    }

    /// The model of a file that [`crate::Model::load`] takes, without the memory and time of making it.
    ///
    /// # Errors
    /// As [`crate::Model::load`].
    pub fn of_file(path: &Path) -> Result<WeightsFile, ModelError> {
        let loaded = weights::load(path)?;
        Ok(WeightsFile { config: loaded.config, has_head: loaded.has_head })
    }

    /// The encoder of this model with the projection head of another.
    #[must_use]
    pub fn with_head_of(&self, other: &Self) -> Self {
        Self { arch: self.arch, stem: self.stem, width: self.width, ..other.clone() }
    }

    /// # Errors
    /// [`ModelError::Config`] naming a size of zero or one that no machine has the memory for.
    pub fn validate(&self) -> Result<(), ModelError> {
        let sizes = [
            ("width", self.width, MAX_SIZE, SIZE),
            ("feature_dim", self.feature_dim, MAX_SIZE, SIZE),
            ("hidden_dim", self.hidden_dim, MAX_SIZE, SIZE),
            ("head_layers", self.head_layers, MAX_HEAD_LAYERS, HEAD_LAYERS),
        ];
        match sizes.into_iter().find(|(_, size, most, _)| !(1..=*most).contains(size)) {
            Some((field, size, _, expected)) => Err(ModelError::Config { field, found: size.to_string(), expected }),
            None => Ok(()),
        }
    }

    /// As the metadata of a weights file: what names and shapes cannot tell, and the rest for people.
    ///
    /// It is one entry, `key=value` with spaces between: the order of several entries in a file is random, and equal
    /// models should be equal files.
    pub(crate) fn to_metadata(&self) -> HashMap<String, String> {
        let Self { arch, stem, width, feature_dim, hidden_dim, head_layers, head_batch_norm } = self;
        let value = format!(
            "arch={arch} stem={stem} width={width} feature_dim={feature_dim} hidden_dim={hidden_dim} \
             head_layers={head_layers} head_batch_norm={head_batch_norm}"
        );
        HashMap::from([(METADATA_KEY.to_owned(), value)])
    }

    /// The inverse of [`Self::to_metadata`]; none if the metadata is not of this program.
    pub(crate) fn from_metadata(metadata: &HashMap<String, String>) -> Result<Option<Self>, ModelError> {
        let Some(entry) = metadata.get(METADATA_KEY) else {
            return Ok(None);
        };
        let entries: HashMap<&str, &str> = entry.split(' ').filter_map(|pair| pair.split_once('=')).collect();
        let config = Self {
            arch: field(&entries, "arch", "resnet18, resnet34 or resnet50")?,
            stem: field(&entries, "stem", STEMS)?,
            width: field(&entries, "width", SIZE)?,
            feature_dim: field(&entries, "feature_dim", SIZE)?,
            hidden_dim: field(&entries, "hidden_dim", SIZE)?,
            head_layers: field(&entries, "head_layers", HEAD_LAYERS)?,
            head_batch_norm: field(&entries, "head_batch_norm", "true or false")?,
        };
        config.validate()?;
        Ok(Some(config))
    }
}

/// What a file of weights is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightsFile {
    /// The model; with the course's head if the file has none.
    pub config: ModelConfig,
    /// Whether it has a projection head: torchvision's files are of an encoder alone.
    pub has_head: bool,
}

/// One of the `entries` of a file's metadata.
fn field<T: FromStr>(
    entries: &HashMap<&str, &str>,
    field: &'static str,
    expected: &'static str,
) -> Result<T, ModelError> {
    let wrong = |found: &str| ModelError::Config { field, found: found.to_owned(), expected };
    let found = entries.get(field).ok_or_else(|| wrong("missing"))?;
    found.parse().map_err(|_| wrong(found))
}

/// Far above any model, far below where the number of its weights would overflow: files may claim anything.
const MAX_SIZE: usize = 16_384;
const SIZE: &str = "a number from 1 to 16384";
const MAX_HEAD_LAYERS: usize = 64;
const HEAD_LAYERS: &str = "a number from 1 to 64";

/// The entry of a safetensors file's metadata that describes the model.
const METADATA_KEY: &str = "simclr.model";

const STEMS: &str = "3x3 or 7x7";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_go_both_ways_and_follow_the_size() {
        for stem in Stem::ALL {
            assert_eq!(stem.to_string().parse::<Stem>().unwrap(), stem);
        }
        assert!("9x9".parse::<Stem>().unwrap_err().to_string().contains("9x9, expected 3x3 or 7x7"));
        assert_eq!(
            [1, 32, 64, 65, 224].map(Stem::for_size),
            [Stem::Small, Stem::Small, Stem::Small, Stem::Large, Stem::Large]
        );
    }

    #[test]
    fn names_go_both_ways() {
        for arch in Arch::ALL {
            assert_eq!(arch.to_string().parse::<Arch>().unwrap(), arch);
        }
        let message = "resnet20".parse::<Arch>().unwrap_err().to_string();
        assert!(message.contains("`resnet20`") && message.contains("resnet18, resnet34, resnet50"), "{message}");
    }

    #[test]
    fn metadata_goes_both_ways_and_its_mistakes_are_named() {
        let config = ModelConfig { width: 16, head_batch_norm: false, ..ModelConfig::new(Arch::ResNet34) };
        let large = ModelConfig { stem: Stem::Large, ..config.clone() };
        assert_eq!(ModelConfig::from_metadata(&large.to_metadata()).unwrap(), Some(large));
        let metadata = config.to_metadata();
        assert_eq!(ModelConfig::from_metadata(&metadata).unwrap(), Some(config));
        let foreign = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        assert_eq!(ModelConfig::from_metadata(&foreign).unwrap(), None);
        let mistakes = [
            ("width=16", "width=0", "`width` is 0"),
            ("width=16", "width=many", "`width` is many"),
            ("width=16", "width=16385", "`width` is 16385, expected a number from 1 to 16384"),
            ("head_layers=2", "head_layers=65", "`head_layers` is 65, expected a number from 1 to 64"),
            ("arch=resnet34", "arch=vgg", "`arch` is vgg, expected resnet18"),
            ("stem=3x3", "stem=5x5", "`stem` is 5x5, expected 3x3 or 7x7"),
            ("stem=3x3", "", "`stem` is missing, expected 3x3 or 7x7"),
            ("head_layers=2", "", "`head_layers` is missing"),
            ("=false", "=maybe", "`head_batch_norm` is maybe, expected true or false"),
        ];
        for (right, wrong, expected) in mistakes {
            let value = metadata[METADATA_KEY].replace(right, wrong);
            let metadata = HashMap::from([(METADATA_KEY.to_owned(), value)]);
            let message = ModelConfig::from_metadata(&metadata).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
