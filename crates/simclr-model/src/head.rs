//! The projection head: from features to the embeddings that the loss compares.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use simclr_ops::Context;

use crate::config::ModelConfig;
use crate::layers::{BatchNorm, Linear, Training};

/// Linear layers with batch norm and ReLU between them, under PyTorch's names of the `Sequential` `g`.
///
/// Hidden layers that batch norm follows have no bias (it would be subtracted again), all others have one.
#[derive(Debug)]
pub(crate) struct Head {
    hidden: Vec<(Linear, Option<BatchNorm>)>,
    last: Linear,
}

impl Head {
    pub(crate) fn new(config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let mut hidden = Vec::new();
        // The place in the Sequential: linear, batch norm if any, ReLU.
        let (mut c_in, mut place) = (config.feature_width(), 0);
        for _ in 1..config.head_layers {
            let linear = Linear::new(c_in, config.hidden_dim, !config.head_batch_norm, &vb.pp(place))?;
            let norm = config.head_batch_norm.then(|| BatchNorm::new(config.hidden_dim, &vb.pp(place + 1)));
            hidden.push((linear, norm.transpose()?));
            place += if config.head_batch_norm { 3 } else { 2 };
            c_in = config.hidden_dim;
        }
        Ok(Self { hidden, last: Linear::new(c_in, config.feature_dim, true, &vb.pp(place))? })
    }

    /// `[n, features]` to `[n, feature_dim]`, not normalised; `training` is none for evaluation.
    pub(crate) fn forward(
        &self,
        ctx: &Context,
        features: &Tensor,
        mut training: Option<&mut Training>,
    ) -> Result<Tensor> {
        let mut x = features.clone();
        for (linear, norm) in &self.hidden {
            x = linear.forward(ctx, &x)?;
            x = match norm {
                Some(norm) => norm.forward_rows(ctx, &x, training.as_deref_mut())?,
                // candle's own ReLU passes a gradient where its input is zero; PyTorch's does not. Zeros are made where they are needed: a
                // number would come from the host.
                None => (&x * x.gt(&x.zeros_like()?)?.to_dtype(x.dtype())?)?,
            };
        }
        self.last.forward(ctx, &x)
    }

    pub(crate) fn multiply_adds(&self) -> u64 {
        self.hidden.iter().map(|(linear, _)| linear).chain([&self.last]).map(Linear::multiply_adds).sum()
    }
}
