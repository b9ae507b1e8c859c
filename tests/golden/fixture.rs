//! Where the golden fixtures are, for every test that reads one.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};

/// The tensors of `NAME.safetensors`, on the CPU: of the folder that `SIMCLR_GOLDEN` names, which is for tests that run where there is no
/// checkout, or of this one.
pub(crate) fn load(name: &str) -> HashMap<String, Tensor> {
    let checkout = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let folder = std::env::var_os("SIMCLR_GOLDEN").map_or_else(checkout, PathBuf::from);
    let path = folder.join(format!("{name}.safetensors"));
    candle_core::safetensors::load(&path, &Device::Cpu).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The numbers of a tensor, wherever it is.
#[allow(dead_code, reason = "each test program uses what it needs of this module")]
pub(crate) fn numbers(t: &Tensor) -> Vec<f64> {
    t.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}
