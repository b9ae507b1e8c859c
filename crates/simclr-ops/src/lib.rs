//! Training ops for [candle](candle_core) with their backward, on CPU and CUDA, each with its reference implementation.
//!
//! candle's own convolution and batch norm train slowly; these are the parts it lacks, written so that any candle project
//! could use them. An op is a pair of plain functions, `forward(…) -> (output, saved)` and `backward(saved, grad) ->
//! gradients`. A [`tape`] records such pairs and runs them backwards, freeing as it goes; [`autograd`] wraps a tape as one
//! candle op, so that its gradients join those of everything else in one `GradStore`.
//!
//! `unsafe` of the whole project lives here.
#![allow(unsafe_code)]

pub mod augment;
pub mod autograd;
pub mod batch_norm;
pub mod context;
pub mod contrast;
pub mod conv2d;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod downloads;
pub mod element;
pub mod error;
pub mod exponential;
pub mod global_avg_pool;
pub mod l2_normalize;
pub mod linear;
pub mod max_pool2d;
pub mod peak;
pub mod product;
pub mod profile;
pub mod random;
pub mod storage;
pub mod tape;
pub mod update;
pub mod uploads;

#[cfg(test)]
mod check;
// Choosing an algorithm takes no GPU: it is tested in builds without CUDA, too.
#[cfg(all(test, not(feature = "cuda")))]
#[path = "cuda/choice.rs"]
mod choice;
mod simd;

pub use context::{Context, Form, Precision};
pub use element::Element;
pub use error::OpsError;
