//! An encoder that does not change, made ready to embed many batches.

use std::sync::{Mutex, PoisonError};

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use simclr_ops::conv2d::{Folded, Threads};
use simclr_ops::global_avg_pool;

use crate::encoder::Encoder;
use crate::model::Model;

/// A model's encoder for evaluation: running statistics, batch norm folded into the convolutions, weights packed.
///
/// The weights are taken from the model when the first pictures come, and again when their size changes: after the model has
/// learned more, freeze it again.
#[derive(Debug)]
pub struct FrozenEncoder<'a> {
    model: &'a Model,
    ready: Mutex<Option<Ready>>,
}

/// The network for pictures of one size.
#[derive(Debug)]
struct Ready {
    size: [usize; 2],
    network: Encoder<Folded>,
}

impl<'a> FrozenEncoder<'a> {
    pub(crate) fn new(model: &'a Model) -> Self {
        Self { model, ready: Mutex::default() }
    }

    /// Features of pictures, not normalised.
    ///
    /// # Shapes
    /// `x`: `[n, 3, h, w]`. Returns `[n, feature_width]`.
    ///
    /// # Errors
    /// If `x` is not as above.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        let pictures = self.model.nhwc(x)?;
        let (_, h, w, _) = pictures.dims4()?;
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = match ready.take() {
            Some(same) if same.size == [h, w] => ready.insert(same),
            _ => ready.insert(Ready { size: [h, w], network: self.model.encoder().fold(self.model.ctx(), [h, w])? }),
        };
        let map = ready.network.depth_first(&pictures)?;
        Ok(global_avg_pool::forward(self.model.ctx(), &map)?.0)
    }
}

/// Pixels of the pictures that pass through the first blocks together.
const GROUP: usize = 4096;

impl Encoder<Folded> {
    /// Some pictures pass through the first blocks, whose maps are larger than their weights, before the next pictures do, a
    /// group for each thread at a time: their maps do not leave the caches. The last blocks take all pictures together.
    ///
    /// A GPU takes all of them at once: no cache of it would hold a group, and small groups would leave it idle.
    fn depth_first(&self, pictures: &Tensor) -> Result<Tensor> {
        if !pictures.device().is_cpu() {
            return self.forward(&mut Threads::All, pictures);
        }
        let (n, h, w, _) = pictures.dims4()?;
        let group = GROUP.div_ceil(h * w);
        let (first, last) =
            self.blocks.split_at(self.blocks.iter().take_while(|b| b.numbers() * group >= b.weights()).count());
        let through_the_first = |start: usize| -> Result<Tensor> {
            let pictures = pictures.narrow(0, start, group.min(n - start))?;
            let stem = self.stem(&mut Threads::One, &pictures)?;
            first.iter().try_fold(stem, |x, block| block.forward(&mut Threads::One, &x))
        };
        // No pictures make a map, too: an empty one.
        let starts: Vec<usize> = (0..n.max(1)).step_by(group).collect();
        let maps: Vec<Tensor> = starts.into_par_iter().map(through_the_first).collect::<Result<_>>()?;
        let all = if let [map] = &maps[..] { map.clone() } else { Tensor::cat(&maps, 0)? };
        last.iter().try_fold(all, |x, block| block.forward(&mut Threads::All, &x))
    }
}
