//! A state dict as `torch.save` writes it.

use std::io::{Cursor, Write};

use candle_core::{DType, Layout, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::error::PthError;

/// PyTorch aligns storages so that they can be mapped; its own reader does not ask for it.
const ALIGNMENT: u16 = 64;

/// The bytes of a `.pth` file with `tensors` in their order, for `torch.load(…, weights_only=True)`: the same for the same
/// tensors.
///
/// Tensors are f32, f64 or i64.
///
/// # Errors
/// [`PthError::TensorType`], or [`PthError::Tensor`] if one cannot be read from its device.
pub(crate) fn write(tensors: &[(String, Tensor)]) -> Result<Vec<u8>, PthError> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let mut entry = |name: &str, content: &[u8]| {
        let name = format!("archive/{name}");
        // A time would make every file another.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .large_file(u32::try_from(content.len()).is_err())
            .with_alignment(ALIGNMENT);
        let written = archive.start_file(&*name, options).and_then(|()| Ok(archive.write_all(content)?));
        written.map_err(|source| PthError::Entry { entry: name, source })
    };
    entry("data.pkl", &pickle(tensors)?)?;
    entry("byteorder", b"little")?;
    for (key, (name, tensor)) in tensors.iter().enumerate() {
        entry(&format!("data/{key}"), &elements(name, tensor)?)?;
    }
    entry("version", b"3\n")?;
    Ok(archive.finish().map_err(|source| PthError::Zip { source })?.into_inner())
}

/// An `OrderedDict` of tensors, each the whole of a storage of its own.
fn pickle(tensors: &[(String, Tensor)]) -> Result<Vec<u8>, PthError> {
    // PROTO 2; the empty OrderedDict; MARK, for the items.
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (key, (name, tensor)) in tensors.iter().enumerate() {
        text(&mut pickle, name);
        pickle.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut pickle, "storage");
        let class = match tensor.dtype() {
            DType::F32 => "FloatStorage",
            DType::F64 => "DoubleStorage",
            DType::I64 => "LongStorage",
            other => return Err(PthError::TensorType { name: name.clone(), found: other.as_str() }),
        };
        pickle.extend_from_slice(format!("ctorch\n{class}\n").as_bytes());
        text(&mut pickle, &key.to_string());
        text(&mut pickle, "cpu");
        integer(&mut pickle, tensor.elem_count());
        // The persistent id ends; then offset, shape, strides, no gradient, no hooks.
        pickle.extend_from_slice(b"tQK\0");
        tuple(&mut pickle, tensor.dims());
        tuple(&mut pickle, Layout::contiguous(tensor.shape()).stride());
        pickle.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    // SETITEMS, STOP.
    pickle.extend_from_slice(b"u.");
    Ok(pickle)
}

/// BINUNICODE.
fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    // Names are those of a model's layers, far shorter than 4 GiB.
    pickle.extend_from_slice(&(text.len() as u32).to_le_bytes());
    pickle.extend_from_slice(text.as_bytes());
}

/// LONG1, of eight bytes.
fn integer(pickle: &mut Vec<u8>, value: usize) {
    pickle.extend_from_slice(&[0x8a, 8]);
    pickle.extend_from_slice(&(value as u64).to_le_bytes());
}

/// MARK, integers, TUPLE.
fn tuple(pickle: &mut Vec<u8>, values: &[usize]) {
    pickle.push(b'(');
    for &value in values {
        integer(pickle, value);
    }
    pickle.push(b't');
}

/// The elements of a tensor in memory order, little-endian.
fn elements(name: &str, tensor: &Tensor) -> Result<Vec<u8>, PthError> {
    fn bytes<const N: usize, T: candle_core::WithDType>(
        tensor: &Tensor,
        to_bytes: impl Fn(T) -> [u8; N],
    ) -> candle_core::Result<Vec<u8>> {
        Ok(tensor.flatten_all()?.to_vec1::<T>()?.into_iter().flat_map(to_bytes).collect())
    }
    let bytes = match tensor.dtype() {
        DType::F32 => bytes(tensor, f32::to_le_bytes),
        DType::F64 => bytes(tensor, f64::to_le_bytes),
        DType::I64 => bytes(tensor, i64::to_le_bytes),
        other => return Err(PthError::TensorType { name: name.to_owned(), found: other.as_str() }),
    };
    bytes.map_err(|source| PthError::Tensor { name: name.to_owned(), source })
}
