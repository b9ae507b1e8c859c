//! The network in candle's own ops, from the parameters of a model: what ours is checked against and measured beside.

use std::collections::HashMap;

use candle_core::{Result, Tensor, Var};
use candle_nn::BatchNorm;

/// The network as candle's ops spell it: NCHW, nothing fused, every gradient from candle.
pub(crate) struct Plain(pub(crate) HashMap<String, Var>);

impl Plain {
    fn conv(&self, x: &Tensor, name: &str, stride: usize) -> Result<Tensor> {
        let weight = &self.0[&format!("{name}.weight")];
        x.conv2d(weight, weight.dim(2)? / 2, stride, 1, 1)
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let field = |field: &str| self.0[&format!("{name}.{field}")].as_tensor().clone();
        let (weight, bias) = (field("weight"), field("bias"));
        let (mean, var) = (weight.zeros_like()?.detach(), weight.ones_like()?.detach());
        BatchNorm::new(x.dim(1)?, mean, var, weight, bias, 1e-5)?.forward_train(x)
    }

    fn block(&self, x: &Tensor, name: &str, convs: usize, stride: usize, strided: usize) -> Result<Tensor> {
        let mut y = x.clone();
        for i in 1..=convs {
            let stride = if i == strided { stride } else { 1 };
            y = self.norm(&self.conv(&y, &format!("{name}.conv{i}"), stride)?, &format!("{name}.bn{i}"))?;
            if i < convs {
                y = y.relu()?;
            }
        }
        let shortcut = match self.0.contains_key(&format!("{name}.downsample.0.weight")) {
            true => {
                self.norm(&self.conv(x, &format!("{name}.downsample.0"), stride)?, &format!("{name}.downsample.1"))?
            }
            false => x.clone(),
        };
        (y + shortcut)?.relu()
    }

    /// Embeddings with rows of unit length, `[n, feature_dim]`, of pictures `[n, 3, h, w]`, with the batch's own statistics.
    pub(crate) fn embed(&self, x: &Tensor, blocks: [usize; 4], bottleneck: bool) -> Result<Tensor> {
        let mut x = self.norm(&self.conv(x, "f.0", 1)?, "f.1")?.relu()?;
        for (layer, count) in blocks.into_iter().enumerate() {
            for block in 0..count {
                let stride = if layer > 0 && block == 0 { 2 } else { 1 };
                let (convs, strided) = if bottleneck { (3, 2) } else { (2, 1) };
                x = self.block(&x, &format!("f.{}.{block}", layer + 3), convs, stride, strided)?;
            }
        }
        let x = x.mean((2, 3))?.matmul(&self.0["g.0.weight"].t()?)?;
        let x = self.norm(&x, "g.1")?.relu()?;
        let x = x.matmul(&self.0["g.3.weight"].t()?)?.broadcast_add(&self.0["g.3.bias"])?;
        x.broadcast_div(&x.sqr()?.sum_keepdim(1)?.sqrt()?)
    }
}
