//! safetensors: the length of a JSON header, the header, the numbers of all tensors.
//! <https://github.com/huggingface/safetensors>

use std::collections::BTreeMap;
use std::io::{Read, Write};

use anyhow::{Context as _, ensure};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::json;

use super::{CHECKPOINT, DATA, ENCODER, FeaturesFile, Rows, SPLIT, read_rows};

/// Readers refuse longer headers.
pub(super) const MOST_HEADER: usize = 100_000_000;

const FEATURES: &str = "features";
const LABELS: &str = "labels";
const PATHS: &str = "paths";
const CLASSES: &str = "classes";

/// The header, padded so that numbers of 8 bytes are aligned: labels come first.
pub(super) fn header(rows: &Rows<'_>) -> anyhow::Result<Vec<u8>> {
    let (n, d) = (rows.pictures.len(), rows.width);
    let (labels, features) = (8 * n, 4 * n * d);
    let paths: Vec<String> = (0..n).map(|index| rows.pictures.place(index)).collect();
    let mut metadata: BTreeMap<&str, String> = rows.about.entries().into();
    metadata.insert(PATHS, serde_json::to_string(&paths)?);
    metadata.insert(CLASSES, serde_json::to_string(rows.pictures.classes())?);
    let header = json!({
        "__metadata__": metadata,
        LABELS: { "dtype": "I64", "shape": [n], "data_offsets": [0, labels] },
        FEATURES: { "dtype": "F32", "shape": [n, d], "data_offsets": [labels, labels + features] },
    });
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

pub(super) fn write(rows: &Rows<'_>, raw: &mut impl Read, file: &mut impl Write) -> anyhow::Result<()> {
    let header = header(rows)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for index in 0..rows.pictures.len() {
        file.write_all(&rows.pictures.label(index).map_or(-1, i64::from).to_le_bytes())?;
    }
    std::io::copy(raw, file)?;
    Ok(())
}

pub(super) fn read(mut file: impl Read, len: u64) -> anyhow::Result<FeaturesFile> {
    let mut size = [0; 8];
    file.read_exact(&mut size)?;
    let size = u64::from_le_bytes(size);
    let left = len.checked_sub(8).and_then(|left| left.checked_sub(size));
    let left = left.filter(|_| size <= MOST_HEADER as u64);
    let left = left.with_context(|| format!("a header of {size} bytes does not fit {len}: the file is damaged"))?;
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header)?;
    let header: Metadata = serde_json::from_slice(&header).context("its header is damaged")?;
    ensure!(header.data_len() as u64 == left, "{left} bytes of numbers, expected {}", header.data_len());
    let info = header.info(FEATURES).with_context(|| format!("there is no tensor `{FEATURES}` in it"))?;
    let (&[rows, width], Dtype::F32) = (&info.shape[..], info.dtype) else {
        anyhow::bail!("`{FEATURES}` is {:?} {:?}, expected F32 in rows", info.dtype, info.shape);
    };
    let features = info.data_offsets;
    let labels = header.info(LABELS).filter(|info| info.dtype == Dtype::I64 && info.shape == [rows]);
    let labels = labels.map(|info| info.data_offsets);

    let mut numbers = None;
    let mut vectors = None;
    let mut at = 0;
    // In the order in which they lie in the file, which is read once.
    let mut tensors = [(features, true), (labels.unwrap_or_default(), false)];
    tensors.sort_by_key(|((start, _), _)| *start);
    for ((start, end), is_features) in tensors {
        std::io::copy(&mut file.by_ref().take((start - at.min(start)) as u64), &mut std::io::sink())?;
        if is_features {
            vectors = Some(read_rows(&mut file, (end - start) as u64, rows, width)?);
        } else if labels.is_some() {
            let mut bytes = vec![0; end - start];
            file.read_exact(&mut bytes)?;
            numbers = Some(bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect::<Vec<i64>>());
        }
        at = end.max(at);
    }
    let vectors = vectors.context("there are no features in it")?;

    let metadata = header.metadata().clone().unwrap_or_default();
    let list = |name: &str| -> anyhow::Result<Option<Vec<String>>> {
        let list = metadata.get(name).map(|text| serde_json::from_str(text)).transpose();
        list.with_context(|| format!("its metadata `{name}` is damaged"))
    };
    let paths = list(PATHS)?;
    if let Some(paths) = &paths {
        ensure!(paths.len() == rows, "{} paths for {rows} rows", paths.len());
    }
    let labels = match (numbers, list(CLASSES)?) {
        (Some(numbers), Some(classes)) => {
            let name = |&label: &i64| -> anyhow::Result<Option<String>> {
                if label == -1 {
                    return Ok(None);
                }
                let class = usize::try_from(label).ok().and_then(|label| classes.get(label));
                class.cloned().map(Some).with_context(|| format!("label {label} of {} classes", classes.len()))
            };
            Some(numbers.iter().map(name).collect::<anyhow::Result<_>>()?)
        }
        _ => None,
    };
    let entry = |name: &str| metadata.get(name).cloned();
    let [encoder_sha256, checkpoint, data, split] = [ENCODER, CHECKPOINT, DATA, SPLIT].map(entry);
    Ok(FeaturesFile { vectors, paths, labels, encoder_sha256, checkpoint, data, split })
}
