//! Downloads from a server on the loopback: every way in which one can go well or wrong.

mod archives;
mod downloads;
mod server;

use std::{path::Path, time::Duration};

use simclr_fetch::{Checksum, Content, FetchError, Hash, Origin, Outcome, Source, fetch_source};

/// Longer than any answer of the loopback takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes without a pattern that a cut or a doubled block could reproduce.
fn bytes(len: u64) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

/// A file of these bytes, to be had at these addresses.
fn file(body: &[u8], urls: &[&str]) -> Source {
    Source {
        name: "file.bin".into(),
        urls: urls.iter().map(|&url| url.into()).collect(),
        size: Some(body.len() as u64),
        limit: body.len() as u64,
        checksum: Checksum::of(Hash::Sha256, body),
        content: Content::File,
        patience: PATIENCE,
    }
}

fn quietly(source: &Source, dir: &Path, from: Option<&Path>) -> Result<Outcome, FetchError> {
    let from = from.map(|file| Origin::File(file.into()));
    fetch_source(source, dir, from.as_ref(), &mut |_, _| ())
}

/// Names in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
