//! PyTorch's `.pth` files: the state dict that `torch.save` writes, read without trusting it and written for `torch.load`.
//!
//! A `.pth` file is a zip archive of stored entries: `archive/data.pkl`, a pickle that describes the object, and
//! `archive/data/0`, `archive/data/1`, …, the numbers of its tensors. A pickle is a program; [`pickle`] runs the few
//! instructions that describe dicts of tensors and calls nothing, so a file can be wrong but not harmful. What a file costs
//! is bounded by its own length.

mod archive;
mod error;
mod object;
mod pickle;
mod state_dict;
#[cfg(test)]
mod tests;
mod view;
mod write;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use archive::Archive;
pub use error::{PickleError, PthError};
pub(crate) use write::write;

/// Whether a file that begins with `bytes` was written by `torch.save`, in its zip form or the one before.
pub(crate) fn is_pth(bytes: &[u8]) -> bool {
    // A safetensors file begins with the length of its header, which can be any bytes, and its header with a brace.
    bytes.get(8) != Some(&b'{') && (bytes.starts_with(b"PK\x03\x04") || is_legacy(bytes))
}

/// Whether the file is a bare pickle, as PyTorch wrote before 1.6.
fn is_legacy(bytes: &[u8]) -> bool {
    matches!(bytes, [0x80, 2..=5, ..])
}

/// At most so many bytes of tensors for each byte of the file: views may overlap, but not without end.
const MAX_EXPANSION: usize = 8;

/// The tensors of a `.pth` file by name, in the types that they are stored in (integers as i64).
///
/// The file holds a state dict or a dict that has one under `state_dict` or `model`. Counters that a FLOP counter left
/// (`total_ops`, `total_params`) are left out, and so is `module.` where it is in front of every name.
///
/// # Errors
/// [`PthError`], whatever the bytes are.
pub(crate) fn read(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, PthError> {
    if is_legacy(bytes) {
        return Err(PthError::Legacy);
    }
    let mut archive = Archive::open(bytes)?;
    let pickle = archive.pickle()?;
    archive.check_byte_order()?;
    let entry = archive.pickle_name();
    let unpickled =
        pickle::run(pickle).map_err(|(at, source)| PthError::Pickle { entry, at, source: source.into() })?;
    let entries = state_dict::entries(&unpickled)?;
    let limit = bytes.len().saturating_mul(MAX_EXPANSION);
    let mut total = 0_usize;
    for (name, view) in &entries {
        total = total.saturating_add(view.bytes());
        if total > limit {
            return Err(PthError::Expansion { name: name.clone(), total, limit, file: bytes.len() });
        }
    }
    // A storage that several tensors share is checked once.
    let mut storages: BTreeMap<&str, &[u8]> = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for (name, view) in entries {
        let storage = view.storage();
        let data = match storages.get(storage.key) {
            Some(data) => data,
            None => {
                let data = archive.storage(storage.key)?;
                storages.entry(storage.key).or_insert(data)
            }
        };
        if storage.bytes() != Some(data.len()) {
            let (entry, found) = (archive.storage_name(storage.key), data.len());
            return Err(PthError::StorageSize { entry, found, elements: storage.len, width: storage.element.width() });
        }
        let tensor =
            view.tensor(data, &Device::Cpu).map_err(|source| PthError::Tensor { name: name.clone(), source })?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}
