//! What tells the sets apart: folder, files, labels, names.

use super::CifarSet;
use crate::Split;

/// The form of a set.
#[derive(Debug)]
pub(super) struct Layout {
    /// As `--data` and reports call it.
    pub(super) name: &'static str,
    /// As its authors call it.
    pub(super) title: &'static str,
    pub(super) folder: &'static str,
    /// The commands that download it.
    pub(super) fetch: &'static str,
    train: (&'static [&'static str], usize),
    test: (&'static [&'static str], usize),
    /// The names of the classes of each label byte of a record.
    pub(super) labels: &'static [&'static [&'static str]],
    /// The label that counts.
    pub(super) label: usize,
    /// The file with the names of its classes.
    pub(super) names_file: &'static str,
}

impl Layout {
    pub(super) fn of(set: CifarSet) -> &'static Self {
        match set {
            CifarSet::Cifar10 => &CIFAR10,
            CifarSet::Cifar100 => &CIFAR100,
            CifarSet::Cifar100Coarse => &CIFAR100_COARSE,
        }
    }

    /// The files of a split, and how many records each has when it is complete.
    pub(super) fn files(&self, split: Split) -> (&'static [&'static str], usize) {
        match split {
            Split::Train => self.train,
            Split::Test => self.test,
        }
    }

    /// Those of both splits.
    pub(super) fn all_files(&self) -> impl Iterator<Item = &'static str> {
        self.train.0.iter().chain(self.test.0).copied()
    }
}

const CIFAR10: Layout = Layout {
    name: "cifar10",
    title: "CIFAR-10",
    folder: "cifar-10-batches-bin",
    fetch: "cargo xtask fetch cifar10` or `simclr-train fetch cifar10",
    train: (
        &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
        10_000,
    ),
    test: (&["test_batch.bin"], 10_000),
    labels: &[&NAMES_OF_10],
    label: 0,
    names_file: "batches.meta.txt",
};

const CIFAR100: Layout = Layout {
    name: "cifar100",
    title: "CIFAR-100",
    folder: "cifar-100-binary",
    fetch: "cargo xtask fetch cifar100` or `simclr-train fetch cifar100",
    train: (&["train.bin"], 50_000),
    test: (&["test.bin"], 10_000),
    labels: &[&NAMES_OF_20, &NAMES_OF_100],
    label: 1,
    names_file: "fine_label_names.txt",
};

const CIFAR100_COARSE: Layout =
    Layout { name: "cifar100-coarse", label: 0, names_file: "coarse_label_names.txt", ..CIFAR100 };

const NAMES_OF_10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

const NAMES_OF_20: [&str; 20] = [
    "aquatic_mammals",
    "fish",
    "flowers",
    "food_containers",
    "fruit_and_vegetables",
    "household_electrical_devices",
    "household_furniture",
    "insects",
    "large_carnivores",
    "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores",
    "medium_mammals",
    "non-insect_invertebrates",
    "people",
    "reptiles",
    "small_mammals",
    "trees",
    "vehicles_1",
    "vehicles_2",
];

const NAMES_OF_100: [&str; 100] = [
    "apple",
    "aquarium_fish",
    "baby",
    "bear",
    "beaver",
    "bed",
    "bee",
    "beetle",
    "bicycle",
    "bottle",
    "bowl",
    "boy",
    "bridge",
    "bus",
    "butterfly",
    "camel",
    "can",
    "castle",
    "caterpillar",
    "cattle",
    "chair",
    "chimpanzee",
    "clock",
    "cloud",
    "cockroach",
    "couch",
    "crab",
    "crocodile",
    "cup",
    "dinosaur",
    "dolphin",
    "elephant",
    "flatfish",
    "forest",
    "fox",
    "girl",
    "hamster",
    "house",
    "kangaroo",
    "keyboard",
    "lamp",
    "lawn_mower",
    "leopard",
    "lion",
    "lizard",
    "lobster",
    "man",
    "maple_tree",
    "motorcycle",
    "mountain",
    "mouse",
    "mushroom",
    "oak_tree",
    "orange",
    "orchid",
    "otter",
    "palm_tree",
    "pear",
    "pickup_truck",
    "pine_tree",
    "plain",
    "plate",
    "poppy",
    "porcupine",
    "possum",
    "rabbit",
    "raccoon",
    "ray",
    "road",
    "rocket",
    "rose",
    "sea",
    "seal",
    "shark",
    "shrew",
    "skunk",
    "skyscraper",
    "snail",
    "snake",
    "spider",
    "squirrel",
    "streetcar",
    "sunflower",
    "sweet_pepper",
    "table",
    "tank",
    "telephone",
    "television",
    "tiger",
    "tractor",
    "train",
    "trout",
    "tulip",
    "turtle",
    "wardrobe",
    "whale",
    "willow_tree",
    "wolf",
    "woman",
    "worm",
];
