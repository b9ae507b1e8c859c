//! What an encoder's features are good for.
//!
//! [`embed`] turns a set of pictures into [`Features`]; [`knn`] says how well the nearest neighbours of one set's features
//! tell the classes of another's. [`agreement`] and [`spread`] say how embeddings lie, without labels. [`linear`] trains one
//! linear layer on the features of a [`FeatureExtractor`] as they come, [`sweep`] a logistic regression on features that are known
//! ([`encode`]). Nothing of this changes an encoder's parameters; [`finetune`] trains them with the layer.

mod clusters;
mod confusion;
mod duplicates;
mod error;
mod extractor;
mod features;
mod finetune;
mod geometry;
#[cfg(test)]
mod groups_of_rows;
mod knn;
mod linear;
mod logistic;
mod neighbours;
mod projection;
mod ranking;
mod ridge;
mod score;
mod sweep;
mod tsne;

pub use clusters::{Clusters, clusters};
pub use confusion::Confusion;
pub use duplicates::{
    DuplicateCount, DuplicateGroup, Duplicates, DuplicatesConfig, DuplicatesMethod, Recall, duplicates,
};
pub use error::EvalError;
pub use extractor::{BatchStatistics, FeatureExtractor, RawPixels};
pub use features::{Features, embed, encode, raw_pixels, vectors};
pub use finetune::{FinetuneConfig, FinetuneEvent, Finetuned, finetune};
pub use geometry::{Agreement, Spread, agreement, spread};
pub use knn::{KnnProtocol, KnnResult, knn};
pub use linear::{LinearConfig, LinearEpoch, LinearEvent, LinearResult, linear};
pub use logistic::{Logistic, LogisticConfig};
pub use neighbours::neighbours;
pub use projection::{Plane, pca};
pub use ridge::{r2, ridge};
pub use score::Score;
pub use sweep::{Swept, Tried, fits, sweep};
pub use tsne::tsne;
