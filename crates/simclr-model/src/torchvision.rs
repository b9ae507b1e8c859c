//! torchvision's names of a ResNet, which are those of an encoder alone.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};

/// The places of torchvision's modules in the encoder `f`; the max-pool has none.
const PLACES: [(&str, &str); 6] = [
    ("conv1.", "f.0."),
    ("bn1.", "f.1."),
    ("layer1.", "f.3."),
    ("layer2.", "f.4."),
    ("layer3.", "f.5."),
    ("layer4.", "f.6."),
];

/// Whether the tensors have torchvision's names.
pub(crate) fn is_named(tensors: &BTreeMap<String, Tensor>) -> bool {
    tensors.contains_key("conv1.weight") && !tensors.contains_key("f.0.weight")
}

/// The encoder under our names. The classifier `fc` belongs to no encoder and is left out; files from before PyTorch 0.4 do not
/// count batches, which nothing depends on.
pub(crate) fn renamed(tensors: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    let mut encoder = BTreeMap::new();
    for (name, tensor) in tensors {
        let place = PLACES.iter().find_map(|(theirs, ours)| Some(format!("{ours}{}", name.strip_prefix(theirs)?)));
        match place {
            Some(place) => drop(encoder.insert(place, tensor)),
            None if name.starts_with("fc.") => {}
            // What is none of theirs is listed as unexpected later.
            None => drop(encoder.insert(name, tensor)),
        }
    }
    let norms: Vec<String> =
        encoder.keys().filter_map(|name| Some(name.strip_suffix("running_var")?.to_owned())).collect();
    for norm in norms {
        let counter = encoder.entry(format!("{norm}num_batches_tracked"));
        if let std::collections::btree_map::Entry::Vacant(vacant) = counter {
            vacant.insert(Tensor::zeros((), DType::I64, &Device::Cpu)?);
        }
    }
    Ok(encoder)
}

/// The encoder of a state dict under torchvision's names, in its order.
pub(crate) fn named(state: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    let place = |(name, tensor): (String, Tensor)| {
        let theirs = PLACES.iter().find_map(|(theirs, ours)| Some(format!("{theirs}{}", name.strip_prefix(ours)?)))?;
        Some((theirs, tensor))
    };
    state.into_iter().filter_map(place).collect()
}
