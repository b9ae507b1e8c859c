//! Features and embeddings of pictures, to compare with another program's.
//!
//! `features WEIGHTS PICTURES OUT`: WEIGHTS is a safetensors or `.pth` file, PICTURES a safetensors file whose tensor
//! `pictures` has shape `[n, 3, h, w]`; OUT gets the tensors `feature` and `out` of [`Model::forward_t`] in evaluation.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use simclr_model::Model;
use simclr_ops::Context;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, pictures, out] = arguments.as_slice() else {
        return Err("usage: features WEIGHTS PICTURES OUT".into());
    };
    let model = Model::load(Path::new(weights), &Device::Cpu, &Context::new())?;
    let file = candle_core::safetensors::load(pictures, &Device::Cpu)?;
    let pictures = file.get("pictures").ok_or("there is no tensor `pictures`")?.to_dtype(DType::F32)?;
    let (feature, embedding) = model.forward_t(&pictures, false)?;
    let tensors: HashMap<&str, Tensor> = HashMap::from([("feature", feature), ("out", embedding)]);
    Ok(candle_core::safetensors::save(&tensors, out)?)
}
