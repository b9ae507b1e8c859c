//! Which model a state dict belongs to, from its names and shapes: a `.pth` file does not say.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::config::{Arch, ModelConfig, Stem};

/// Why a state dict is none of a model of ours.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// No encoder.
    #[error("it has no tensor f.0.weight, the stem of the encoder; its first is {}", first.as_deref().unwrap_or("missing: there is none at all"))]
    NoStem {
        /// The first name that it has.
        first: Option<String>,
    },
    /// Another stem.
    #[error(
        "the stem f.0.weight has shape {found:?}, expected [width, 3, 3, 3] or, with a max-pool after it, [width, 3, 7, 7]"
    )]
    Stem {
        /// Its shape.
        found: Vec<usize>,
    },
    /// A ResNet with other blocks.
    #[error(
        "its layers f.3 to f.6 have {found:?} {kind}, expected [2, 2, 2, 2] basic blocks (resnet18), \
         [3, 4, 6, 3] basic blocks (resnet34) or [3, 4, 6, 3] bottlenecks (resnet50)"
    )]
    Blocks {
        /// Blocks in each layer.
        found: [usize; 4],
        /// What blocks they are.
        kind: &'static str,
    },
    /// No projection head.
    #[error("it has no tensor g.N.weight of two dimensions: the projection head is missing")]
    NoHead,
}

/// Architecture and sizes of the model whose state dict has these names and shapes; of an encoder alone (`has_head` is false), with
/// the course's head.
///
/// Only what decides between models is looked at; whether all tensors are there is seen by holding them against the model's.
/// What the names cannot tell, hidden width and batch norm of a head of one layer, is as in the course.
pub(crate) fn infer(tensors: &BTreeMap<String, Tensor>, has_head: bool) -> Result<ModelConfig, InferError> {
    let (width, stem) = match tensors.get("f.0.weight").map(Tensor::dims) {
        Some(&[width, 3, 3, 3]) => (width, Stem::Small),
        Some(&[width, 3, 7, 7]) => (width, Stem::Large),
        Some(found) => return Err(InferError::Stem { found: found.to_vec() }),
        None => return Err(InferError::NoStem { first: tensors.keys().next().cloned() }),
    };
    let has_bottlenecks = tensors.contains_key("f.3.0.conv3.weight");
    let blocks = |layer: usize| {
        (0..tensors.len()).take_while(|block| tensors.contains_key(&format!("f.{layer}.{block}.conv1.weight"))).count()
    };
    let found = [3, 4, 5, 6].map(blocks);
    let arch = Arch::ALL.into_iter().find(|arch| (arch.blocks(), arch.has_bottlenecks()) == (found, has_bottlenecks));
    let kind = if has_bottlenecks { "bottlenecks" } else { "basic blocks" };
    let arch = arch.ok_or(InferError::Blocks { found, kind })?;

    if !has_head {
        return Ok(ModelConfig { stem, width, ..ModelConfig::new(arch) });
    }
    // The linear layers of the head, by their place in the Sequential.
    let mut linear: Vec<(usize, usize)> = Vec::new();
    for (name, tensor) in tensors {
        let place = name.strip_prefix("g.").and_then(|rest| rest.strip_suffix(".weight")).map(str::parse);
        if let (Some(Ok(place)), &[c_out, _]) = (place, tensor.dims()) {
            linear.push((place, c_out));
        }
    }
    linear.sort_unstable();
    let (Some(&(first, hidden_dim)), Some(&(_, feature_dim))) = (linear.first(), linear.last()) else {
        return Err(InferError::NoHead);
    };
    let config = ModelConfig { stem, width, feature_dim, head_layers: linear.len(), ..ModelConfig::new(arch) };
    Ok(if linear.len() == 1 {
        config
    } else {
        let head_batch_norm = tensors.contains_key(&format!("g.{}.weight", first + 1));
        ModelConfig { hidden_dim, head_batch_norm, ..config }
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::layout::layout;

    fn state(config: &ModelConfig) -> BTreeMap<String, Tensor> {
        layout(config).unwrap().into_iter().collect()
    }

    #[test]
    fn every_model_is_known_by_its_state_dict() {
        for arch in Arch::ALL {
            let course = ModelConfig::new(arch);
            let plain =
                ModelConfig { head_batch_norm: false, width: 2, feature_dim: 5, hidden_dim: 6, ..course.clone() };
            for config in [
                ModelConfig { head_layers: 12, ..course.clone() },
                ModelConfig { head_layers: 1, ..course.clone() },
                ModelConfig { head_layers: 3, ..plain.clone() },
                ModelConfig { stem: Stem::Large, ..plain.clone() },
                course,
                plain,
            ] {
                assert_eq!(infer(&state(&config), true).unwrap(), config);
            }
        }
    }

    #[test]
    fn what_is_no_model_of_ours_is_told_apart() {
        let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        let message = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
            let mut tensors = state(&ModelConfig { width: 2, ..ModelConfig::new(Arch::ResNet50) });
            change(&mut tensors);
            infer(&tensors, true).unwrap_err().to_string()
        };
        let five = message(&|tensors| drop(tensors.insert("f.0.weight".into(), zeros(&[64, 3, 5, 5]))));
        assert!(five.contains("f.0.weight has shape [64, 3, 5, 5], expected [width, 3, 3, 3] or, with"), "{five}");
        let other = message(&|tensors| *tensors = [("fc.weight".into(), zeros(&[2, 2]))].into());
        assert!(other.contains("no tensor f.0.weight") && other.contains("its first is fc.weight"), "{other}");
        let empty = message(&|tensors| tensors.clear());
        assert!(empty.contains("no tensor f.0.weight") && empty.contains("none at all"), "{empty}");
        let deep = message(&|tensors| drop(tensors.insert("f.5.6.conv1.weight".into(), zeros(&[2, 2, 1, 1]))));
        assert!(deep.contains("[3, 4, 7, 3] bottlenecks, expected [2, 2, 2, 2] basic blocks (resnet18)"), "{deep}");
        let headless = message(&|tensors| tensors.retain(|name, _| !name.starts_with("g.")));
        assert!(headless.contains("no tensor g.N.weight"), "{headless}");
    }
}
