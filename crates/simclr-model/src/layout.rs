//! Names, shapes and types of a model's tensors, without the memory of their values.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::config::ModelConfig;
use crate::encoder::Encoder;
use crate::head::Head;

/// The state dict of a model of `config`, in PyTorch's order; each tensor is one zero, spread over its shape.
///
/// It is what a file is held against before anything of its size is allocated.
pub(crate) fn layout(config: &ModelConfig) -> Result<Vec<(String, Tensor)>> {
    let recorder = Recorder::default();
    let vb = VarBuilder::from_backend(Box::new(recorder.clone()), DType::F32, Device::Cpu);
    Encoder::new(config, &vb.pp("f"))?;
    Head::new(config, &vb.pp("g"))?;
    let mut entries = recorder.entries.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *entries))
}

/// Gives a model the tensors that it asks for, and notes them.
#[derive(Clone, Default)]
struct Recorder {
    entries: Arc<Mutex<Vec<(String, Tensor)>>>,
}

impl SimpleBackend for Recorder {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = Tensor::zeros((), dtype, device)?.broadcast_as(shape)?;
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push((name.to_owned(), tensor.clone()));
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name}: a model asks for its tensors by their shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Arch;

    #[test]
    fn names_shapes_and_their_order_are_pytorch_s() {
        for arch in Arch::ALL {
            let path = format!("{}/../../tests/golden/state_dict_{arch}.txt", env!("CARGO_MANIFEST_DIR"));
            let golden = std::fs::read_to_string(&path).unwrap();
            let want: Vec<&str> = golden.lines().filter_map(|line| line.strip_prefix("entry ")).collect();
            let layout = layout(&ModelConfig::new(arch)).unwrap();
            let got: Vec<String> = layout.iter().map(|(name, t)| format!("{name} {:?}", t.dims())).collect();
            assert_eq!(got, want, "{arch}");
        }
    }

    #[test]
    fn the_largest_model_takes_no_memory() {
        let config = ModelConfig { width: 16_384, ..ModelConfig::new(Arch::ResNet50) };
        config.validate().unwrap();
        let weights: usize = layout(&config).unwrap().iter().map(|(_, t)| t.elem_count()).sum();
        assert!(weights > 1 << 40, "{weights}");
    }
}
