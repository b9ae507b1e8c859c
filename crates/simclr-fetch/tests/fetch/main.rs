//! Downloads from a server on the loopback: every way in which one can go well or wrong.

mod archives;
mod downloads;
mod server;

use std::path::Path;

use simclr_fetch::{Checksum, Content, FetchError, Hash, Outcome, Source, fetch_source};

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
    }
}

fn quietly(source: &Source, dir: &Path, from: Option<&Path>) -> Result<Outcome, FetchError> {
    fetch_source(source, dir, from, &mut |_, _| ())
}

/// Names in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
