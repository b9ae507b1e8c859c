//! A linear layer on an encoder's features: what makes a classifier of it.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, Var};
use simclr_ops::random::stream;
use simclr_ops::{Context, autograd};

use crate::error::ModelError;
use crate::model::Model;
use crate::{torchvision, weights};

/// First counter of the stream that its initial values come from: its own, shared with no other draw.
const CLASSIFIER: u64 = u64::from_be_bytes(*b"linear\0\0");

/// The entry of a safetensors file's metadata that describes it.
const METADATA_KEY: &str = "simclr.classifier";

/// One linear layer on features, torchvision's `fc`: from them to a number for each class, before the softmax.
#[derive(Debug)]
pub struct Classifier {
    weight: Var,
    bias: Var,
    ctx: Context,
}

impl Classifier {
    /// With PyTorch's initial distribution, uniform within ±1/√`width`, drawn from `seed`.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn new(
        width: usize,
        classes: usize,
        seed: u64,
        (dtype, device): (DType, &Device),
        ctx: &Context,
    ) -> Result<Self> {
        let mut draws = stream(seed, [CLASSIFIER, 0, 0]);
        let bound = 1.0 / (width as f64).sqrt();
        let mut uniform = |dims: &[usize]| -> Result<Var> {
            let numbers: Vec<f64> = (0..dims.iter().product()).map(|_| bound * (2.0 * draws.uniform() - 1.0)).collect();
            Var::from_tensor(&Tensor::from_vec(numbers, dims, device)?.to_dtype(dtype)?)
        };
        Ok(Self { weight: uniform(&[classes, width])?, bias: uniform(&[classes])?, ctx: ctx.clone() })
    }

    /// The numbers of all classes, in candle's graph.
    ///
    /// # Shapes
    /// `features`: `[n, width]`. Returns `[n, classes]`.
    ///
    /// # Errors
    /// If `features` are not as above.
    pub fn logits(&self, features: &Tensor) -> Result<Tensor> {
        autograd::linear(&self.ctx, features, &self.weight, Some(&self.bias))
    }

    /// What an optimizer updates, under torchvision's names.
    pub fn parameters(&self) -> [(String, Var); 2] {
        [("fc.weight".to_owned(), self.weight.clone()), ("fc.bias".to_owned(), self.bias.clone())]
    }

    /// Writes `encoder` with this layer under torchvision's names, as safetensors; `about` is kept with it, as the metadata's
    /// entry `simclr.classifier`. [`Model::load`] takes the encoder from the file. The file is whole or not there.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the file cannot be written.
    pub fn save(&self, encoder: &Model, about: String, path: &Path) -> std::result::Result<(), ModelError> {
        // One entry: the order of several is random, and equal networks should be equal files. Names and shapes tell the encoder.
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), about)]);
        weights::save_with(path, metadata, &self.with(encoder)?)
    }

    /// [`Self::save`] as a `.pth` file, without a description: `load_state_dict(…, strict=True)` of torchvision's ResNet with as
    /// many classes, whose stem and width are the encoder's.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn save_pth(&self, encoder: &Model, path: &Path) -> std::result::Result<(), ModelError> {
        weights::save_pth(path, &self.with(encoder)?)
    }

    /// The state dict of the whole network, in torchvision's order.
    fn with(&self, encoder: &Model) -> Result<Vec<(String, Tensor)>> {
        let mut state = torchvision::named(encoder.in_order()?);
        state.extend(self.parameters().map(|(name, var)| (name, var.as_detached_tensor())));
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arch, ModelConfig, Stem};

    #[test]
    fn initial_values_fill_pytorch_s_range() {
        let new = |seed| Classifier::new(64, 500, seed, (DType::F32, &Device::Cpu), &Context::new()).unwrap();
        let numbers = |seed| new(seed).weight.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let drawn = numbers(3);
        let largest = drawn.iter().fold(0f32, |most, x| most.max(x.abs()));
        assert!(0.124 < largest && largest <= 0.125, "{largest}");
        assert!(drawn == numbers(3) && drawn != numbers(4));
        assert_eq!(new(0).bias.dims(), [500]);
    }

    #[test]
    fn a_written_network_is_torchvision_s_and_an_encoder_again() {
        let dir = tempfile::tempdir().unwrap();
        for stem in Stem::ALL {
            let config = ModelConfig { width: 2, stem, ..ModelConfig::new(Arch::ResNet18) };
            let model = Model::new(&config, 1, DType::F32, &Device::Cpu, &Context::new()).unwrap();
            let classifier = Classifier::new(16, 3, 1, (DType::F32, &Device::Cpu), &Context::new()).unwrap();
            let (file, pth) = (dir.path().join("a.safetensors"), dir.path().join("a.pth"));
            classifier.save(&model, "three classes".to_owned(), &file).unwrap();
            classifier.save_pth(&model, &pth).unwrap();
            let written = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
            assert_eq!((written["fc.weight"].dims(), written["fc.bias"].dims()), ([3, 16].as_slice(), [3].as_slice()));
            assert!(
                written.contains_key("layer4.1.bn2.num_batches_tracked") && written.len() == 122,
                "{}",
                written.len()
            );
            let bytes = std::fs::read(&file).unwrap();
            assert!(String::from_utf8_lossy(&bytes).contains(r#"{"simclr.classifier":"three classes"}"#));
            let pictures = Tensor::ones((2, 3, 32, 32), DType::F32, &Device::Cpu).unwrap();
            let features = |model: &Model| model.features(&pictures).unwrap().to_vec2::<f32>().unwrap();
            for path in [&file, &pth] {
                let found = ModelConfig::of_file(path).unwrap();
                assert_eq!((found.has_head, found.config.stem, found.config.width), (false, stem, 2));
                let loaded = Model::load(path, &Device::Cpu, &Context::new()).unwrap();
                assert_eq!(features(&loaded), features(&model));
            }
            assert!(std::fs::read(&file).unwrap() == bytes, "equal networks are equal files");
        }
    }
}
