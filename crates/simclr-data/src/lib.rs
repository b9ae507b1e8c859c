//! Pictures in, batches of two augmented views out.
//!
//! A set of pictures is anything that is [`Pictures`]: [`Cifar`] and [`Stl10`] from their binary files, a [`Folder`] of
//! anybody's, the built-in [`Shapes`], or a [`Subset`] of another. A [`TrainTransform`] says what a view is and a [`Loader`] makes batches of two views of each
//! picture on worker threads; [`batches`] goes through a set once, in order and unchanged but for the normalisation, for
//! evaluation. With a [`DeviceSet`] the same batches are made on a device ([`Loader::device_epoch`]).
//!
//! Nothing here draws from a shared generator. What happens to picture `i` in epoch `e`, view `v`, is a function of
//! (seed, e, i, v), and the order of an epoch one of (seed, e): not of the number of workers, the batch size or where a run
//! was resumed.
//!
//! ```
//! use std::sync::Arc;
//! use simclr_data::{Loader, LoaderConfig, Shapes, Split, compute_train_transform};
//!
//! let set = Arc::new(Shapes::new(1, Split::Train, 64));
//! let config = LoaderConfig { batch: 16, ..LoaderConfig::default() };
//! let loader = Loader::new(set, compute_train_transform(7), config)?;
//! for batch in loader.epoch(0, 0) {
//!     let batch = batch?;
//!     assert_eq!(batch.left.dims(), [16, 3, 32, 32]);
//! }
//! # Ok::<(), simclr_data::DataError>(())
//! ```

mod batches;
mod cifar;
mod device;
mod error;
mod folder;
mod labels;
mod loader;
mod normalization;
mod pair;
mod pictures;
mod positional;
mod prefetch;
mod recipe;
mod shapes;
mod stl10;
mod subset;
mod torch;
mod transform;

pub use batches::{Batch, Batches, augmented_batches, batches, batches_ahead, even_batches_ahead};
pub use cifar::{Cifar, CifarSet};
pub use device::{DeviceBatch, DeviceBatches, DeviceSet, NotResident};
pub use error::DataError;
pub use folder::{Bad, Folder, FolderConfig, FolderError, FolderProgress, read_picture};
pub use labels::Labels;
pub use loader::{EpochBatches, Loader, LoaderConfig, PairBatch, Share, epoch_order};
pub use normalization::Normalization;
pub use pair::CifarPair;
pub use pictures::{Pictures, Split};
pub use recipe::Recipe;
pub use shapes::{Background, ShapeFactors, Shapes, Texture};
pub use simclr_ops::augment::{Adjustment, Augmenter, Crop, Jitter, Picture, ViewParameters};
pub use stl10::{Stl10, Stl10Set};
pub use subset::Subset;
pub use torch::{TorchBatch, TorchSampler, torch_batches};
pub use transform::{TestTransform, TrainTransform, compute_test_transform, compute_train_transform};
