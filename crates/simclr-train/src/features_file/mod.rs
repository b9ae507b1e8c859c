//! Files of features: one row for each picture, and what is known of it.

mod npy;
mod parquet;
mod safetensors;

use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use candle_core::{Device, Tensor};
use simclr_data::Pictures;

use crate::Usage;

/// How a file of features is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Paths, class names and vectors in columns, for pandas, DuckDB and Spark.
    Parquet,
    /// NumPy's array file: the vectors alone.
    Npy,
    /// Vectors and class numbers, paths and names in the metadata.
    Safetensors,
}

pub(crate) const FORMATS: &str = "parquet, npy or safetensors";

impl Format {
    const ALL: [Self; 3] = [Self::Parquet, Self::Npy, Self::Safetensors];

    /// The format called `name`, which is how its files end.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.to_string() == name)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parquet => "parquet",
            Self::Npy => "npy",
            Self::Safetensors => "safetensors",
        })
    }
}

/// What a file of features says of itself, beside its rows.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) encoder_sha256: String,
    pub(crate) data: String,
    pub(crate) split: String,
    pub(crate) checkpoint: String,
    pub(crate) normalized: bool,
}

impl About {
    /// As names and values.
    fn entries(&self) -> [(&'static str, String); 5] {
        [
            (ENCODER, self.encoder_sha256.clone()),
            (DATA, self.data.clone()),
            (SPLIT, self.split.clone()),
            (CHECKPOINT, self.checkpoint.clone()),
            ("normalized", self.normalized.to_string()),
        ]
    }
}

const ENCODER: &str = "encoder_sha256";
const CHECKPOINT: &str = "checkpoint";
const DATA: &str = "data";
const SPLIT: &str = "split";

/// The rows of a file that is to be written.
pub(crate) struct Rows<'a> {
    /// The picture of every row.
    pub(crate) pictures: &'a dyn Pictures,
    /// Numbers in a row.
    pub(crate) width: usize,
    pub(crate) about: About,
}

impl Rows<'_> {
    /// Class names by picture, where they are known.
    fn label(&self, index: usize) -> Option<&str> {
        Some(self.pictures.classes().get(self.pictures.label(index)? as usize)?.as_str())
    }
}

/// Refuses what a format cannot hold, before any picture is embedded.
///
/// # Errors
/// [`Usage`] if there are more paths than readers of safetensors accept.
pub(crate) fn check(format: Format, rows: &Rows<'_>) -> anyhow::Result<()> {
    if format == Format::Safetensors {
        let (len, most) = (safetensors::header(rows)?.len(), safetensors::MOST_HEADER);
        if len > most {
            let message = format!(
                "--format is safetensors, but {} paths make a header of {len} bytes, of at most {most}: give parquet",
                rows.pictures.len()
            );
            return Err(Usage(message).into());
        }
    }
    Ok(())
}

/// Writes a file that is whole or not there. The numbers stream through from the file `raw`, which has nothing but them (`f32`,
/// little endian).
///
/// # Errors
/// If something cannot be read or written.
pub(crate) fn write(format: Format, rows: &Rows<'_>, raw: &Path, path: &Path) -> anyhow::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part.whole");
    let unfinished = path.with_file_name(name);
    let written = || -> anyhow::Result<()> {
        let mut raw = BufReader::with_capacity(1 << 20, File::open(raw)?);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&unfinished)?);
        match format {
            Format::Npy => npy::write(rows, &mut raw, &mut file)?,
            Format::Safetensors => safetensors::write(rows, &mut raw, &mut file)?,
            Format::Parquet => parquet::write(rows, &mut raw, &mut file)?,
        }
        file.flush()?;
        file.get_ref().sync_all()?;
        Ok(fs::rename(&unfinished, path)?)
    }();
    if written.is_err() {
        // On a full disk it would be in the way; the error to report is the first one.
        let _ = fs::remove_file(&unfinished);
    }
    written.with_context(|| path.display().to_string())
}

/// A file of features that was read back.
#[derive(Debug)]
pub(crate) struct FeaturesFile {
    /// `[n, d]`, f32, on the CPU.
    pub(crate) vectors: Tensor,
    /// Where the picture of each row is.
    pub(crate) paths: Option<Vec<String>>,
    /// The class name of each row, where it is known.
    pub(crate) labels: Option<Vec<Option<String>>>,
    pub(crate) encoder_sha256: Option<String>,
    pub(crate) checkpoint: Option<String>,
    /// The data set and the split that the pictures are of.
    pub(crate) data: Option<String>,
    pub(crate) split: Option<String>,
}

/// Reads a file of features; its format is told from its content.
///
/// # Errors
/// Naming the file, if it cannot be read, is none of the three or is damaged.
pub(crate) fn read(path: &Path) -> anyhow::Result<FeaturesFile> {
    let read = || -> anyhow::Result<FeaturesFile> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut begin = Vec::new();
        file.by_ref().take(9).read_to_end(&mut begin)?;
        file.seek(SeekFrom::Start(0))?;
        if begin.starts_with(parquet::MAGIC) {
            parquet::read(file.into_inner())
        } else if begin.starts_with(npy::MAGIC) {
            npy::read(file, len)
        } else if begin.get(8) == Some(&b'{') {
            safetensors::read(file, len)
        } else {
            bail!("no file of features: it is not {FORMATS}");
        }
    };
    read().with_context(|| path.display().to_string())
}

/// The rows that the rest of a file, `left` bytes long, must be.
fn read_rows(file: &mut impl Read, left: u64, rows: usize, width: usize) -> anyhow::Result<Tensor> {
    let bytes = rows.checked_mul(width).and_then(|numbers| numbers.checked_mul(4));
    ensure!(
        bytes.is_some_and(|bytes| bytes as u64 == left),
        "{rows} rows of {width} numbers do not fit {left} bytes: the file is damaged"
    );
    let mut numbers = Vec::with_capacity(rows * width);
    let mut buffer = vec![0; 4 * width.clamp(1, 1 << 16)];
    let mut todo = 4 * rows * width;
    while todo > 0 {
        let part = &mut buffer[..todo.min(4 * width.clamp(1, 1 << 16))];
        file.read_exact(part)?;
        numbers.extend(floats(part));
        todo -= part.len();
    }
    tensor(numbers, rows, width)
}

/// A file of no rows or of rows of no numbers says nothing.
fn tensor(numbers: Vec<f32>, rows: usize, width: usize) -> anyhow::Result<Tensor> {
    ensure!(rows > 0 && width > 0, "{rows} rows of {width} numbers: there are no features in it");
    Ok(Tensor::from_vec(numbers, (rows, width), &Device::Cpu)?)
}

/// Numbers of their little-endian bytes.
fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests;
