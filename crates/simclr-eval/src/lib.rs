//! What an encoder's features are good for.
//!
//! [`embed`] turns a set of pictures into [`Features`]; [`knn`] says how well the nearest neighbours of one set's features
//! tell the classes of another's. [`agreement`] and [`spread`] say how embeddings lie, without labels. [`linear`] trains one linear layer on the features of a [`FeatureExtractor`]. Nothing here
//! changes an encoder's parameters.

mod error;
mod extractor;
mod features;
mod geometry;
mod knn;
mod linear;
mod ranking;

pub use error::EvalError;
pub use extractor::{BatchStatistics, FeatureExtractor, RawPixels};
pub use features::{Features, embed, raw_pixels};
pub use geometry::{Agreement, Spread, agreement, spread};
pub use knn::{KnnProtocol, KnnResult, knn};
pub use linear::{LinearConfig, LinearEpoch, LinearEvent, LinearResult, Score, linear};
