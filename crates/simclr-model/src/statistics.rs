//! What batch norm saw of a batch, until its running statistics follow.

use candle_core::{Result, Tensor, Var};
use simclr_ops::batch_norm::{BatchStatistics, Running};
use simclr_ops::update::Report;

/// The statistics of a batch in every layer that has batch norm, which the running ones have yet to follow: see
/// [`Model::forward_map`](crate::Model::forward_map).
#[derive(Debug, Default)]
#[must_use = "running statistics follow when they are told to"]
pub struct PassStatistics(Vec<OfLayer>);

#[derive(Debug)]
struct OfLayer {
    batch: BatchStatistics,
    mean: Tensor,
    var: Tensor,
    batches: Var,
    momentum: f64,
}

impl PassStatistics {
    pub(crate) fn add(&mut self, batch: BatchStatistics, running: Running<'_>) {
        let Running { mean, var, batches, momentum } = running;
        let (mean, var, batches) = (mean.clone(), var.clone(), batches.clone());
        self.0.push(OfLayer { batch, mean, var, batches, momentum });
    }

    /// Lets the running statistics of the model follow.
    ///
    /// # Errors
    /// If the device fails.
    pub fn follow(self) -> Result<()> {
        self.follow_step(None)
    }

    /// The same if `report` says that the step was made, which the host need not know yet.
    ///
    /// # Errors
    /// As [`Self::follow`].
    pub fn follow_if_made(self, report: &Report) -> Result<()> {
        self.follow_step(Some(report))
    }

    fn follow_step(self, report: Option<&Report>) -> Result<()> {
        self.0.iter().try_for_each(|OfLayer { batch, mean, var, batches, momentum }| {
            Ok(batch.follow(Running { mean, var, batches, momentum: *momentum }, report)?)
        })
    }
}
