//! From a catalogue entry to the file or folder that it stands for.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{
    Content, Failure, FetchError, Item, Origin, Source,
    download::Part,
    place::{Lock, beside, create_folder, remove_file, rename},
    unpack::{missing, unpack},
};

/// What [`fetch`] made sure of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The file, or the folder of an unpacked archive.
    pub path: PathBuf,
    /// How it came there.
    pub status: Status,
}

/// How something came to be there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// It was there and complete; nothing was done. A file was compared by checksum, a folder by the sizes of its files.
    AlreadyComplete,
    /// It was downloaded.
    Downloaded {
        /// From where.
        url: String,
        /// Bytes that came over the network in this call: less than the file if an earlier try had some of it.
        bytes: u64,
    },
    /// It was made from a file that was there already: the one given, or a complete archive in the data folder.
    FromFile {
        /// That file.
        file: PathBuf,
    },
}

/// Makes sure that `item` is complete in `data_dir`, which is created where it is missing.
///
/// With `from`, it comes from that file, which is left as it is, or from that address alone; both go through the same
/// checks. `progress` is called while a download runs, with the bytes of the file that are there and the size of the whole
/// where it is known.
///
/// # Errors
/// [`FetchError::Unavailable`] if no address gives the file, with the reason of each; [`FetchError::Checksum`] and
/// [`FetchError::Size`] if `from` is another file; [`FetchError::Archive`], [`FetchError::Entry`], [`FetchError::Unpacked`]
/// and [`FetchError::Incomplete`] if an archive is not what it should be; [`FetchError::Occupied`] if the folder is there
/// but lacks files; [`FetchError::Busy`] if another process fetches the same thing; [`FetchError::Read`] and
/// [`FetchError::Write`] for the disk. A failed download leaves at most a `.part` behind, with which the next call goes on.
pub fn fetch(
    item: Item,
    data_dir: &Path,
    from: Option<&Origin>,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<Outcome, FetchError> {
    fetch_source(&item.source(), data_dir, from, progress)
}

/// [`fetch`] for something that is not in the catalogue.
///
/// # Errors
/// Those of [`fetch`].
pub fn fetch_source(
    source: &Source,
    data_dir: &Path,
    from: Option<&Origin>,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<Outcome, FetchError> {
    create_folder(data_dir)?;
    let mirrored;
    let (source, from) = match from {
        None => (source, None),
        Some(Origin::File(file)) => (source, Some(file.as_path())),
        Some(Origin::Url(url)) => {
            mirrored = Source { urls: vec![url.clone()], ..source.clone() };
            (&mirrored, None)
        }
    };
    let _lock = Lock::take(data_dir.join(format!(".{}.lock", source.name)))?;
    match &source.content {
        Content::File => fetch_file(source, data_dir.join(&source.name), from, progress),
        Content::TarGz { folder, files, limit } => {
            let path = data_dir.join(folder);
            if path.exists() {
                return match missing(&path, files) {
                    None => Ok(Outcome { path, status: Status::AlreadyComplete }),
                    Some(missing) => Err(FetchError::Occupied { path, missing }),
                };
            }
            let archive = data_dir.join(&source.name);
            let status = match from {
                Some(file) => {
                    verify(source, file)?;
                    unpack(file, &path, files, *limit)?;
                    Status::FromFile { file: file.into() }
                }
                None => {
                    // Complete, but not unpacked: an earlier call was interrupted between the two.
                    let Outcome { path: file, status } = fetch_file(source, archive.clone(), None, progress)?;
                    unpack(&file, &path, files, *limit)?;
                    remove_file(&archive)?;
                    match status {
                        Status::AlreadyComplete => Status::FromFile { file },
                        status => status,
                    }
                }
            };
            Ok(Outcome { path, status })
        }
    }
}

fn fetch_file(
    source: &Source,
    target: PathBuf,
    from: Option<&Path>,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<Outcome, FetchError> {
    // A file of that name that is not the right one gives way to the right one, once that is complete.
    if target.exists() && verify(source, &target).is_ok() {
        return Ok(Outcome { path: target, status: Status::AlreadyComplete });
    }
    let status = match from {
        Some(file) => {
            verify(source, file)?;
            let copy = beside(&target, ".copying");
            copy_file(file, &copy)?;
            rename(&copy, &target)?;
            Status::FromFile { file: file.into() }
        }
        None => download(source, &target, progress)?,
    };
    Ok(Outcome { path: target, status })
}

/// Tries the addresses in their order until one gives the right bytes.
fn download(source: &Source, target: &Path, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<Status, FetchError> {
    let part = Part::new(target, source);
    let mut failures = Vec::new();
    for url in &source.urls {
        match download_verified(source, &part, url, progress) {
            Ok(bytes) => {
                rename(part.path(), target)?;
                part.finish()?;
                return Ok(Status::Downloaded { url: url.clone(), bytes });
            }
            // The disk is the same for every address.
            Err(error @ (FetchError::Write { .. } | FetchError::Read { .. })) => return Err(error),
            Err(cause) => failures.push(Failure { url: url.clone(), cause }),
        }
    }
    Err(FetchError::Unavailable { name: source.name.clone(), failures })
}

/// Downloads and compares. Wrong bytes are removed; if some of them came from an earlier try, the file is downloaded whole
/// once more: they may have been the wrong ones.
fn download_verified(
    source: &Source,
    part: &Part,
    url: &str,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<u64, FetchError> {
    let mut bytes = 0;
    loop {
        let transfer = part.download(url, progress)?;
        bytes += transfer.bytes;
        match verify(source, part.path()) {
            Ok(()) => return Ok(bytes),
            Err(error @ FetchError::Read { .. }) => return Err(error),
            Err(error) => {
                part.discard()?;
                if !transfer.resumed {
                    return Err(error);
                }
            }
        }
    }
}

/// Compares size and checksum of a whole file.
fn verify(source: &Source, path: &Path) -> Result<(), FetchError> {
    if let Some(expected) = source.size {
        let found = fs::metadata(path).map_err(|source| FetchError::Read { path: path.into(), source })?.len();
        if found != expected {
            return Err(FetchError::Size { path: path.into(), found, expected });
        }
    }
    source.checksum.check(path)
}

fn copy_file(from: &Path, to: &Path) -> Result<(), FetchError> {
    let unwritable = |source| FetchError::Write { path: to.into(), source };
    let mut reader = File::open(from).map_err(|source| FetchError::Read { path: from.into(), source })?;
    let mut writer = File::create(to).map_err(unwritable)?;
    io::copy(&mut reader, &mut writer).map_err(unwritable)?;
    writer.sync_all().map_err(unwritable)
}
