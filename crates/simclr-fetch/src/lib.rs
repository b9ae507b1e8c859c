//! Checked, resumable downloads of data sets and weights.
//!
//! [`fetch`] puts one [`Item`] of the catalogue into a data folder: it downloads what is missing, goes on where an earlier
//! try was cut, compares the checksum of the whole file, unpacks archives, and only then gives the result its name. What
//! carries its final name is therefore complete; what is not ends in `.part` or `.unpacking` and never blocks the next try.
//!
//! ```no_run
//! use std::path::Path;
//! use simclr_fetch::{Item, fetch};
//!
//! let outcome = fetch(Item::Cifar10, Path::new("data"), None, &mut |_done, _total| ())?;
//! assert!(outcome.path.ends_with("cifar-10-batches-bin"));
//! # Ok::<(), simclr_fetch::FetchError>(())
//! ```

mod catalogue;
mod checksum;
mod download;
mod error;
mod fetch;
mod origin;
mod place;
mod unpack;

pub use catalogue::{Content, Item, Source, wanted};
pub use checksum::{Checksum, Hash};
pub use error::{Failure, FetchError};
pub use fetch::{Outcome, Status, fetch, fetch_source};
pub use origin::Origin;
