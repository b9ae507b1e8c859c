//! Settings that go together.

use std::path::Path;

use crate::config::Config;
use crate::data_sets::DataSet;

/// What a fresh clone runs: some minutes on two cores, and features that are clearly worth something at the end.
///
/// On CIFAR-10 if `data_dir` has it, else on the built-in shapes.
pub(crate) fn quick(data_dir: &Path) -> Config {
    let small = Config {
        data_dir: data_dir.to_owned(),
        width: 16,
        batch: 64,
        epochs: 4,
        // So few steps want bigger ones than the course's hundred epochs.
        learning_rate: 2e-3,
        knn_every: 1,
        ..Config::default()
    };
    if DataSet::Cifar10.is_present(data_dir) {
        Config { data: DataSet::Cifar10, subset: Some(10_000), ..small }
    } else {
        Config { data: DataSet::Shapes, subset: Some(4_000), ..small }
    }
}
