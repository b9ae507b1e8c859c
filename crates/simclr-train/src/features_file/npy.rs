//! NumPy's array file, version 1.0: a header that is a Python dict, then the numbers.
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use std::io::{Read, Write};

use anyhow::{Context as _, ensure};

use super::{FeaturesFile, Rows, read_rows};

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// The numbers begin at a multiple of this.
const ALIGNMENT: usize = 64;

pub(super) fn write(rows: &Rows<'_>, raw: &mut impl Read, file: &mut impl Write) -> anyhow::Result<()> {
    let (n, d) = (rows.pictures.len(), rows.width);
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {d}), }}");
    let before = MAGIC.len() + 4;
    let whole = (before + dict.len() + 1).next_multiple_of(ALIGNMENT);
    file.write_all(MAGIC)?;
    file.write_all(&[1, 0])?;
    file.write_all(&u16::try_from(whole - before)?.to_le_bytes())?;
    writeln!(file, "{dict:<0$}", whole - before - 1)?;
    std::io::copy(raw, file)?;
    Ok(())
}

/// Reads versions 1 to 3 of 32-bit floats in C order.
pub(super) fn read(mut file: impl Read, len: u64) -> anyhow::Result<FeaturesFile> {
    let mut start = [0; 8];
    file.read_exact(&mut start)?;
    let wide = start[6] > 1;
    let mut size = [0; 4];
    file.read_exact(&mut size[..if wide { 4 } else { 2 }]).context("the file is cut short")?;
    let (size, begin) = (u32::from_le_bytes(size), if wide { 12 } else { 10 });
    let left = len.checked_sub(begin + u64::from(size)).context("the file is cut short")?;
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header)?;
    let header = String::from_utf8(header).context("its header is no text")?;
    let value = |name: &str| {
        let (_, after) = header.split_once(&format!("'{name}':"))?;
        Some(after.trim_start())
    };
    let is = |name, expected| value(name).is_some_and(|value| value.starts_with(expected));
    ensure!(
        is("descr", "'<f4'") && is("fortran_order", "False"),
        "expected numbers '<f4' in C order, but its header is {}",
        header.trim_end()
    );
    let shape = value("shape").and_then(|shape| shape.strip_prefix('(')?.split_once(')'));
    let numbers = shape.and_then(|(shape, _)| {
        shape.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.parse::<usize>().ok()).collect()
    });
    let numbers: Vec<usize> = numbers.with_context(|| format!("its header is {}", header.trim_end()))?;
    let &[rows, width] = &numbers[..] else {
        anyhow::bail!("expected rows of numbers, but its shape is {numbers:?}");
    };
    let vectors = read_rows(&mut file, left, rows, width)?;
    let (encoder_sha256, checkpoint, data, split) = (None, None, None, None);
    Ok(FeaturesFile { vectors, paths: None, labels: None, encoder_sha256, checkpoint, data, split })
}
