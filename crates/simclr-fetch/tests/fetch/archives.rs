use std::{fs, io::Write, path::Path};

use flate2::{Compression, write::GzEncoder};
use simclr_fetch::{Checksum, Content, FetchError, Hash, Source, Status};
use tempfile::tempdir;

use crate::{
    PATIENCE, bytes, names, quietly,
    server::{Answer, Server},
};

const LIMIT: u64 = 100_000;

/// A ustar entry, written by hand: the tar crate refuses to write the names that are tried here.
fn entry(name: &str, kind: u8, link: &str, body: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", body.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut entry = header.to_vec();
    entry.extend_from_slice(body);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

/// A gzipped archive of these entries.
fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = entries.concat();
    tar.resize(tar.len() + 1024, 0);
    gzip(&tar)
}

fn good() -> Vec<Vec<u8>> {
    vec![
        entry("set/", b'5', "", b""),
        entry("set/a.bin", b'0', "", &bytes(5_000)),
        entry("set/b.bin", b'0', "", b"xyz"),
    ]
}

fn source(archive: &[u8], urls: &[&str]) -> Source {
    Source {
        name: "set.tar.gz".into(),
        urls: urls.iter().map(|&url| url.into()).collect(),
        size: None,
        limit: 1 << 20,
        checksum: Checksum::of(Hash::Md5, archive),
        content: Content::TarGz {
            folder: "set".into(),
            files: vec![("a.bin".into(), 5_000), ("b.bin".into(), 3)],
            limit: LIMIT,
        },
        patience: PATIENCE,
    }
}

/// What comes of an archive that passes its checksum.
fn unpack(archive: &[u8], dir: &Path) -> Result<simclr_fetch::Outcome, FetchError> {
    let given = dir.join("given.tar.gz");
    fs::write(&given, archive).unwrap();
    quietly(&source(archive, &[]), &dir.join("data"), Some(&given))
}

/// Why it is refused. Nothing may be left, inside the data folder or outside.
fn refused(archive: &[u8]) -> FetchError {
    let dir = tempdir().unwrap();
    let error = unpack(archive, dir.path()).unwrap_err();
    assert_eq!(names(dir.path()), ["data", "given.tar.gz"], "{error}");
    assert!(names(&dir.path().join("data")).is_empty(), "{error}");
    error
}

#[test]
fn downloaded_unpacked_and_then_complete() {
    let (dir, archive) = (tempdir().unwrap(), archive(&good()));
    let server = Server::start(vec![Answer { body: archive.clone(), ..Answer::default() }]);
    let source = source(&archive, &[&server.url]);
    let outcome = quietly(&source, dir.path(), None).unwrap();
    assert_eq!(outcome.status, Status::Downloaded { url: server.url.clone(), bytes: archive.len() as u64 });
    assert_eq!(outcome.path, dir.path().join("set"));
    assert_eq!(names(dir.path()), ["set"]);
    assert_eq!(names(&outcome.path), ["a.bin", "b.bin"]);
    assert_eq!(fs::read(outcome.path.join("a.bin")).unwrap(), bytes(5_000));
    server.requests();
    assert_eq!(quietly(&source, dir.path(), None).unwrap().status, Status::AlreadyComplete);
}

#[test]
fn an_interrupted_unpacking_needs_no_new_download() {
    let (dir, archive) = (tempdir().unwrap(), archive(&good()));
    let downloaded = dir.path().join("set.tar.gz");
    fs::write(&downloaded, &archive).unwrap();
    fs::create_dir(dir.path().join("set.unpacking")).unwrap();
    fs::write(dir.path().join("set.unpacking/a.bin"), b"half").unwrap();
    let outcome = quietly(&source(&archive, &[]), dir.path(), None).unwrap();
    assert_eq!(outcome.status, Status::FromFile { file: downloaded });
    assert_eq!(names(dir.path()), ["set"]);
}

#[test]
fn an_archive_on_disk_is_checked_and_kept() {
    let (dir, archive) = (tempdir().unwrap(), archive(&good()));
    let outcome = unpack(&archive, dir.path()).unwrap();
    assert_eq!(names(&outcome.path), ["a.bin", "b.bin"]);
    assert_eq!(fs::read(dir.path().join("given.tar.gz")).unwrap(), archive);

    let other = tempdir().unwrap();
    let given = other.path().join("given.tar.gz");
    fs::write(&given, b"not it").unwrap();
    let error = quietly(&source(&archive, &[]), &other.path().join("data"), Some(&given)).unwrap_err();
    assert!(matches!(error, FetchError::Checksum { hash: Hash::Md5, .. }), "{error}");
}

#[test]
fn a_folder_that_is_not_complete_is_left_alone() {
    let (dir, archive) = (tempdir().unwrap(), archive(&good()));
    fs::create_dir(dir.path().join("set")).unwrap();
    fs::write(dir.path().join("set/a.bin"), bytes(5_000)).unwrap();
    let error = quietly(&source(&archive, &[]), dir.path(), None).unwrap_err();
    assert!(matches!(&error, FetchError::Occupied { missing, .. } if missing == "no file b.bin"), "{error}");
    fs::write(dir.path().join("set/b.bin"), b"four").unwrap();
    let error = quietly(&source(&archive, &[]), dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("b.bin has 4 bytes, expected 3") && error.contains("move it away"), "{error}");
    assert_eq!(fs::read(dir.path().join("set/a.bin")).unwrap(), bytes(5_000));
}

#[test]
fn entries_that_would_escape_are_refused() {
    for name in ["../escaped", "set/../../escaped", "/escaped", "escaped", "other/escaped"] {
        let error = refused(&archive(&[good(), vec![entry(name, b'0', "", b"boo")]].concat()));
        assert!(matches!(&error, FetchError::Entry { entry, .. } if entry == name), "{error}");
    }
}

#[test]
fn links_are_refused() {
    for (kind, target) in [(b'2', "../.."), (b'2', "/etc"), (b'1', "set/a.bin"), (b'3', "")] {
        let error = refused(&archive(&[good(), vec![entry("set/link", kind, target, b"")]].concat()));
        assert!(
            matches!(&error, FetchError::Entry { reason, .. } if *reason == "is neither a file nor a folder"),
            "{error}"
        );
    }
}

#[test]
fn archives_cut_short_are_refused() {
    let tar = good().concat();
    let whole = archive(&good());
    let cut = [
        whole[..whole.len() / 2].to_vec(),
        // Only gzip's checksum and length are missing.
        whole[..whole.len() - 8].to_vec(),
        // Complete gzip around half an entry.
        gzip(&tar[..2_000]),
        b"no archive at all".to_vec(),
        Vec::new(),
    ];
    for archive in cut {
        let error = refused(&archive);
        assert!(matches!(error, FetchError::Archive { .. }), "{error}");
    }
}

#[test]
fn archives_that_lack_files_are_refused() {
    let error = refused(&archive(&good()[..2]));
    assert!(matches!(&error, FetchError::Incomplete { missing, .. } if missing == "no file b.bin"), "{error}");
    let error = refused(&archive(&[]));
    assert!(matches!(error, FetchError::Incomplete { .. }), "{error}");
}

#[test]
fn archives_that_unpack_to_too_much_are_refused() {
    let zeros = vec![0; LIMIT as usize];
    let error = refused(&archive(&[good(), vec![entry("set/zeros", b'0', "", &zeros)]].concat()));
    assert!(matches!(error, FetchError::Unpacked { found: 105_003, limit: LIMIT, .. }), "{error}");
    // Behind the end of the archive, where no header counts it.
    let mut tar = good().concat();
    tar.resize(tar.len() + 1024, 0);
    tar.resize(tar.len() + (4 << 20), 1);
    let error = refused(&gzip(&tar));
    assert!(matches!(error, FetchError::Unpacked { limit: LIMIT, .. }), "{error}");
}
