//! Gzipped tar archives, unpacked so that nothing can be written outside the one folder they are for.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Component, Path, PathBuf},
};

use flate2::read::GzDecoder;
use tar::{Archive, EntryType};

use crate::{
    FetchError,
    place::{beside, create_folder, remove_folder, rename, sync_folder},
};

/// Headers and padding of more entries than any archive of the catalogue has.
const OVERHEAD: u64 = 1 << 20;

/// Unpacks `archive`, which holds one folder of the name of `folder`, to `folder`.
///
/// Everything goes into `folder` + `.unpacking` first; `files` must then be there with their sizes, and only then does the
/// folder get its name. What an interrupted try left behind is removed.
pub(crate) fn unpack(archive: &Path, folder: &Path, files: &[(String, u64)], limit: u64) -> Result<(), FetchError> {
    let temporary = beside(folder, ".unpacking");
    remove_folder(&temporary)?;
    create_folder(&temporary)?;
    let result = write_entries(archive, folder, &temporary, limit).and_then(|()| match missing(&temporary, files) {
        Some(missing) => Err(FetchError::Incomplete { path: archive.into(), missing }),
        None => rename(&temporary, folder),
    });
    if result.is_err() {
        // The error that counts is the first; the next try removes the folder again.
        let _ = fs::remove_dir_all(&temporary);
    }
    result
}

/// The first of `files` that `folder` lacks or holds with another size.
pub(crate) fn missing(folder: &Path, files: &[(String, u64)]) -> Option<String> {
    files.iter().find_map(|(file, size)| match fs::metadata(folder.join(file)) {
        Ok(found) if found.is_file() && found.len() == *size => None,
        Ok(found) if found.is_file() => Some(format!("{file} has {} bytes, expected {size}", found.len())),
        _ => Some(format!("no file {file}")),
    })
}

fn write_entries(archive: &Path, folder: &Path, temporary: &Path, limit: u64) -> Result<(), FetchError> {
    let broken = |source| FetchError::Archive { path: archive.into(), source };
    let file = File::open(archive).map_err(|source| FetchError::Read { path: archive.into(), source })?;
    // The bound is on what comes out, whatever the headers say: few bytes of gzip can become very many.
    let bounded = GzDecoder::new(BufReader::new(file)).take(limit.saturating_add(OVERHEAD));
    let mut tar = Archive::new(bounded);
    let mut total = 0_u64;
    let mut folders = vec![temporary.to_path_buf()];
    for entry in tar.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        // Remarks of the archiver about all entries: no file of its own.
        if entry.header().entry_type().is_pax_global_extensions() {
            continue;
        }
        let name = entry.path().map_err(broken)?.into_owned();
        let inside = place_inside(&name, folder).map_err(|reason| FetchError::Entry {
            path: archive.into(),
            entry: name.display().to_string(),
            reason,
        })?;
        let path = temporary.join(inside);
        match entry.header().entry_type() {
            EntryType::Directory => {
                create_folder(&path)?;
                folders.push(path);
            }
            EntryType::Regular => {
                let size = entry.size();
                total = total.saturating_add(size);
                if total > limit {
                    return Err(FetchError::Unpacked { path: archive.into(), found: total, limit });
                }
                if let Some(parent) = path.parent() {
                    create_folder(parent)?;
                }
                write_file(&mut entry, &path, size, archive)?;
            }
            _ => {
                return Err(FetchError::Entry {
                    path: archive.into(),
                    entry: name.display().to_string(),
                    reason: "is neither a file nor a folder",
                });
            }
        }
    }
    // To the end of the stream: gzip's own checksum comes last.
    let mut rest = tar.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(broken)?;
    if rest.limit() == 0 {
        return Err(FetchError::Unpacked { path: archive.into(), found: limit.saturating_add(OVERHEAD), limit });
    }
    for folder in folders {
        sync_folder(&folder).map_err(|source| FetchError::Write { path: folder, source })?;
    }
    Ok(())
}

/// Where an entry goes within the folder, or why it may not.
fn place_inside(name: &Path, folder: &Path) -> Result<PathBuf, &'static str> {
    let mut parts = name.components().filter(|part| *part != Component::CurDir);
    if name.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err("would be written outside the folder");
    }
    match parts.next() {
        Some(first) if Some(first.as_os_str()) == folder.file_name() => Ok(parts.collect()),
        _ => Err("is not in the folder that the archive is for"),
    }
}

/// Copies in blocks, so that what cannot be read (the archive) and what cannot be written (the disk) stay apart.
fn write_file(entry: &mut impl Read, path: &Path, size: u64, archive: &Path) -> Result<(), FetchError> {
    let broken = |source| FetchError::Archive { path: archive.into(), source };
    let unwritable = |source| FetchError::Write { path: path.into(), source };
    let mut file = File::create_new(path).map_err(unwritable)?;
    let mut block = vec![0; 1 << 16];
    let mut written = 0;
    loop {
        let read = match entry.read(&mut block) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken(error)),
        };
        io::Write::write_all(&mut file, &block[..read]).map_err(unwritable)?;
        written += read as u64;
    }
    if written != size {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    file.sync_all().map_err(unwritable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_in_their_folder() {
        let folder = Path::new("data/set");
        assert_eq!(place_inside(Path::new("set/a/b.bin"), folder), Ok(PathBuf::from("a/b.bin")));
        assert_eq!(place_inside(Path::new("./set/a.bin"), folder), Ok(PathBuf::from("a.bin")));
        assert_eq!(place_inside(Path::new("set"), folder), Ok(PathBuf::new()));
        for outside in ["set/../../a", "/set/a", "../set/a", "set/b/../../../a"] {
            assert_eq!(
                place_inside(Path::new(outside), folder),
                Err("would be written outside the folder"),
                "{outside}"
            );
        }
        for elsewhere in ["a", "other/a", "", "."] {
            assert!(
                place_inside(Path::new(elsewhere), folder).unwrap_err().contains("not in the folder"),
                "{elsewhere}"
            );
        }
    }
}
