//! What an encoder's features are good for.
//!
//! [`embed`] turns a set of pictures into [`Features`]; [`knn`] says how well the nearest neighbours of one set's features
//! tell the classes of another's. Nothing here trains or changes an encoder.

mod error;
mod features;
mod knn;

pub use error::EvalError;
pub use features::{Features, embed, raw_pixels};
pub use knn::{KnnProtocol, KnnResult, knn};
