//! Batches for training: made by threads of the CPU, or on the GPU that trains.

use candle_core::{DType, Device, Tensor};
use simclr_data::{DeviceSet, Loader, Pictures};
use simclr_model::Model;

use crate::config::Config;
use crate::machine;
use crate::output::Output;

/// The part of a GPU's free memory that pictures may take: activations need the rest.
const SHARE_OF_PICTURES: u64 = 4;

/// Both views of every picture of a batch.
#[derive(Clone, Debug)]
pub(crate) enum Pairs {
    /// `[n, 3, h, w]` each, row `k` of both of one picture.
    Apart([Tensor; 2]),
    /// `[2n, h, w, 3]`, as the model takes it: the left views, then the right ones.
    Map(Tensor),
}

impl Pairs {
    #[cfg(test)]
    pub(crate) fn apart([left, right]: [&Tensor; 2]) -> Self {
        Self::Apart([left.clone(), right.clone()])
    }

    /// How many pictures.
    pub(crate) fn len(&self) -> candle_core::Result<usize> {
        match self {
            Self::Apart([left, _]) => left.dim(0),
            Self::Map(views) => Ok(views.dim(0)? / 2),
        }
    }

    /// The views of `len` pictures from `start` on.
    pub(crate) fn part(&self, start: usize, len: usize) -> candle_core::Result<Self> {
        match self {
            Self::Apart([left, right]) => Ok(Self::Apart([left.narrow(0, start, len)?, right.narrow(0, start, len)?])),
            Self::Map(views) => {
                let n = self.len()?;
                Tensor::cat(&[views.narrow(0, start, len)?, views.narrow(0, n + start, len)?], 0).map(Self::Map)
            }
        }
    }

    /// Both views as one map for `model`.
    pub(crate) fn map(&self, model: &Model) -> candle_core::Result<Tensor> {
        match self {
            Self::Apart([left, right]) => model.nhwc(&Tensor::cat(&[left, right], 0)?),
            Self::Map(views) => Ok(views.clone()),
        }
    }
}

/// A batch as training takes it.
pub(crate) struct Batch {
    pub(crate) pairs: Pairs,
    /// Which pictures of the set these are.
    pub(crate) indices: Vec<usize>,
}

/// The batches of an epoch.
pub(crate) type Batches = Box<dyn Iterator<Item = anyhow::Result<Batch>>>;

/// Where batches come from.
#[derive(Debug)]
pub(crate) struct Feed {
    loader: Loader,
    /// The set for a GPU, and the type of the views that are made there.
    on_gpu: Option<(DeviceSet, DType)>,
}

impl Feed {
    /// Brings the pictures of `loader` to a GPU, if training is on one and they fit beside it; says so if they are sent batch by batch.
    ///
    /// # Errors
    /// If a picture cannot be had, or the GPU does not take them.
    pub(crate) fn new(
        loader: Loader,
        set: &dyn Pictures,
        config: &Config,
        device: &Device,
        output: &Output,
    ) -> anyhow::Result<Self> {
        let Some(free) = machine::free_memory(device) else { return Ok(Self { loader, on_gpu: None }) };
        let dtype = config.context().precision().map_dtype(DType::F32);
        let there = DeviceSet::upload(set, device, free as u64 / SHARE_OF_PICTURES)?;
        if let Some(why) = there.not_resident() {
            output.say(format!("every batch brings its pictures to the GPU, as they do not stay there: {why}"));
        }
        Ok(Self { loader, on_gpu: Some((there, dtype)) })
    }

    /// How many batches an epoch has.
    pub(crate) fn batches_per_epoch(&self) -> usize {
        self.loader.batches_per_epoch()
    }

    /// The batches of `epoch` from `first` on.
    ///
    /// # Errors
    /// If the GPU has not the memory for what they need.
    pub(crate) fn epoch(&self, epoch: u64, first: usize) -> anyhow::Result<Batches> {
        Ok(match &self.on_gpu {
            None => Box::new(self.loader.epoch(epoch, first).map(|batch| {
                let batch = batch?;
                Ok(Batch { pairs: Pairs::Apart([batch.left, batch.right]), indices: batch.indices })
            })),
            Some((set, dtype)) => Box::new(self.loader.device_epoch(set, *dtype, epoch, first)?.map(|batch| {
                let batch = batch?;
                Ok(Batch { pairs: Pairs::Map(batch.views), indices: batch.indices })
            })),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use simclr_model::{Arch, ModelConfig};
    use simclr_ops::Context;
    use simclr_ops::random::stream;

    #[test]
    fn a_map_of_both_views_is_what_they_make_apart() {
        let pictures = |seed: u64| {
            let mut draws = stream(seed, [5, 0, 0]);
            let numbers: Vec<f32> = (0..6 * 3 * 4 * 4).map(|_| draws.normal() as f32).collect();
            Tensor::from_vec(numbers, (6, 3, 4, 4), &Device::Cpu).unwrap()
        };
        let config = ModelConfig { width: 4, ..ModelConfig::new(Arch::ResNet18) };
        let model = Model::new(&config, 3, DType::F32, &Device::Cpu, &Context::new()).unwrap();
        let apart = Pairs::apart([&pictures(1), &pictures(2)]);
        let together = Pairs::Map(apart.map(&model).unwrap());
        let numbers = |pairs: &Pairs| pairs.map(&model).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!((apart.len().unwrap(), together.len().unwrap()), (6, 6));
        for (start, len) in [(0, 6), (2, 3), (5, 1)] {
            let [apart, together] = [&apart, &together].map(|pairs| pairs.part(start, len).unwrap());
            assert_eq!(numbers(&apart), numbers(&together));
        }
    }
}
