//! Initial values: torchvision's distributions from our own seeded numbers.
//!
//! Each tensor has its own stream, named by the tensor, so that the values of one do not depend on which others there are.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarMap;
use simclr_ops::random::stream;

/// First counter of the streams of initial values: no epoch has this number, so no augmentation shares one.
const INITIAL_VALUES: u64 = u64::MAX;

/// The first convolution of the encoder.
const STEM: &str = "f.0.weight";

/// Fills the convolutions and linear layers of `variables`; batch norm has its constants already.
///
/// - Convolution: normal with variance 2 / (c_out · k_h · k_w) (`kaiming_normal_(mode="fan_out", nonlinearity="relu")`,
///   as torchvision's ResNet).
/// - The 3×3 stem: uniform within ±1/√(c_in · k_h · k_w), PyTorch's default for a convolution: the course, and everybody who
///   trains on small pictures, puts a new one in the place of torchvision's.
/// - Linear, weight and bias: uniform within ±1/√c_in (PyTorch's default).
pub(crate) fn initialize(variables: &VarMap, seed: u64) -> Result<()> {
    let entries = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (name, var) in entries.iter() {
        let mut numbers = stream(seed, [INITIAL_VALUES, fnv1a(name), 0]);
        let fill = |draw: &mut dyn FnMut() -> f64| -> Result<()> {
            let values: Vec<f64> = (0..var.elem_count()).map(|_| draw()).collect();
            var.set(
                &Tensor::from_vec(values, var.shape(), &Device::Cpu)?.to_dtype(var.dtype())?.to_device(var.device())?,
            )
        };
        match (var.dtype(), var.dims()) {
            (DType::I64, _) => {}
            (_, &[_, c_in, 3, 3]) if name == STEM => {
                let bound = 1.0 / ((c_in * 9) as f64).sqrt();
                fill(&mut || bound * (2.0 * numbers.uniform() - 1.0))?;
            }
            (_, &[c_out, _, k_h, k_w]) => {
                let std = (2.0 / (c_out * k_h * k_w) as f64).sqrt();
                fill(&mut || std * numbers.normal())?;
            }
            (_, &[_, c_in]) => {
                let bound = 1.0 / (c_in as f64).sqrt();
                fill(&mut || bound * (2.0 * numbers.uniform() - 1.0))?;
            }
            (_, _) => {
                // The bias of a linear layer has a matrix beside it; that of a batch norm has not.
                let weight = name.strip_suffix(".bias").and_then(|layer| entries.get(&format!("{layer}.weight")));
                if let Some(&[_, c_in]) = weight.map(|weight| weight.dims()) {
                    let bound = 1.0 / (c_in as f64).sqrt();
                    fill(&mut || bound * (2.0 * numbers.uniform() - 1.0))?;
                }
            }
        }
    }
    Ok(())
}

/// A fixed hash of a name: the standard library's may change.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
