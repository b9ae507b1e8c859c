//! Whether a batch fits into the memory of a GPU, told before training begins and not an hour later.

use anyhow::bail;
use candle_core::Device;
use simclr_model::{LayerSizes, Model};

use crate::config::Config;

/// Memory in which cuDNN's algorithms work, beside what a step keeps.
const WORKSPACE: usize = 1 << 30;

/// What a step takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// Whatever the batch: parameters and what goes with them.
    fixed: usize,
    /// For each picture whose activations are in memory at once.
    per_pair: usize,
}

impl Need {
    /// That of training `model` on pictures of `size` pixels.
    pub(crate) fn of(model: &Model, size: usize, moments: usize) -> Self {
        let width = model.map_dtype().size_in_bytes();
        let sizes: Vec<usize> = model.layers(size, size).iter().map(LayerSizes::numbers_out).collect();
        // Every convolution's output and what batch norm makes of it are kept; on the way back there are a gradient, the one that is being
        // made of it, and that of a shortcut.
        let kept = 2 * sizes.iter().sum::<usize>() + 3 * sizes.iter().max().copied().unwrap_or(0);
        // Parameters and gradients in f32, what the optimizer remembers, and weights and their gradients as products take them.
        let of_a_parameter = 4 * (2 + moments) + 2 * width;
        Self { fixed: model.parameter_count() * of_a_parameter + WORKSPACE, per_pair: 2 * kept * width }
    }

    /// The largest batch that fits into so many bytes.
    fn fits(self, free: usize) -> usize {
        free.saturating_sub(self.fixed) / self.per_pair.max(1)
    }

    /// # Errors
    /// If `batch` pictures at once need more than the `free` bytes, with the batch that would fit.
    fn must_fit(self, batch: usize, free: usize) -> anyhow::Result<()> {
        let needed = self.fixed + batch * self.per_pair;
        if needed <= free {
            return Ok(());
        }
        let gb = |bytes: usize| bytes as f64 / 1e9;
        let (needed, free_gb, fits) = (gb(needed), gb(free), self.fits(free));
        let way_out = match fits {
            0 | 1 => "a smaller model, --precision bf16 (or f16) or another GPU may do".to_owned(),
            _ => format!("--batch {fits} fits, and so does this batch with --chunk {}", chunk(batch, fits)),
        };
        bail!(
            "a batch of {batch} needs about {needed:.1} GB of GPU memory, of which {free_gb:.1} GB are free: {way_out}"
        );
    }
}

/// The largest part of a batch of at most `fits` pictures that all parts can have.
fn chunk(batch: usize, fits: usize) -> usize {
    (2..=fits.min(batch)).rev().find(|&part| batch.is_multiple_of(part)).unwrap_or(fits)
}

/// # Errors
/// If the GPU that training is to run on has not the memory for it.
pub(crate) fn must_fit(config: &Config, model: &Model, device: &Device, own: usize) -> anyhow::Result<()> {
    let Some(free) = crate::machine::free_memory(device) else { return Ok(()) };
    let at_once = config.chunk.map_or(own, |chunk| chunk.min(own));
    Need::of(model, config.size as usize, config.rule().moments().len()).must_fit(at_once, free)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use simclr_model::{Arch, ModelConfig};
    use simclr_ops::{Context, Precision};

    use super::*;

    const NEED: Need = Need { fixed: 1000, per_pair: 10 };

    #[test]
    fn the_batch_that_fits_is_told() {
        NEED.must_fit(100, 2000).unwrap();
        let message = NEED.must_fit(120, 2000).unwrap_err().to_string();
        assert!(message.starts_with("a batch of 120 needs about") && message.contains("--batch 100 fits"), "{message}");
        assert!(message.contains("--chunk 60"), "{message}");
        let message = NEED.must_fit(120, 900).unwrap_err().to_string();
        assert!(message.contains("a smaller model"), "{message}");
        assert_eq!((chunk(512, 300), chunk(7, 3)), (256, 3));
    }

    #[test]
    fn half_the_width_is_half_the_maps() {
        let config = ModelConfig { width: 8, ..ModelConfig::new(Arch::ResNet18) };
        let need = |precision| {
            let ctx = Context::new().with_precision(precision);
            let model = Model::new(&config, 0, DType::F32, &Device::Cpu, &ctx).unwrap();
            Need::of(&model, 32, 2)
        };
        let full = need(Precision::Full);
        for half in [Precision::Bf16, Precision::F16].map(need) {
            assert_eq!(full.per_pair, 2 * half.per_pair);
            assert!(full.fixed > half.fixed && half.fixed > WORKSPACE);
        }
    }
}
