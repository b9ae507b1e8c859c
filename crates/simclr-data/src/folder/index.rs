//! Every file once: what it is, and how large.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    FolderError,
    cache::{Cache, Content, Place, Stat},
    decode::{self, decode, shrunk},
    walk::Files,
};
use crate::normalization::ChannelMoments;

/// Files that are looked at between two words to the caller and two frames of the cache.
const BLOCK: usize = 1_024;

/// The longest file that is read: longer ones are films or archives, or no use as pictures.
const LONGEST: u64 = 1 << 30;

/// What a file turned out to be.
#[derive(Debug)]
pub(super) enum Found {
    Picture(Good),
    Bad(String),
    /// Nothing that claims to be a picture.
    Other,
}

/// A picture that can be read.
#[derive(Debug)]
pub(super) struct Good {
    pub(super) width: u32,
    pub(super) height: u32,
    /// The length of its file, by which a change is noticed.
    pub(super) len: u64,
    pub(super) moments: ChannelMoments,
    pub(super) place: Option<Place>,
}

/// Looks at the files in their order, many at a time, and gives them to `found` in order until it has enough.
///
/// # Errors
/// [`FolderError::Cancelled`] if `progress`, which hears how many files are done, says so; [`FolderError::Thread`].
pub(super) fn look_at_all(
    root: &Path,
    files: &Files,
    shorter: Option<u32>,
    threads: usize,
    cache: &mut Option<Cache>,
    progress: &mut dyn FnMut(usize) -> bool,
    mut found: impl FnMut(usize, Found) -> bool,
) -> Result<Vec<String>, FolderError> {
    let mut remarks = Vec::new();
    for start in (0..files.len()).step_by(BLOCK) {
        let end = files.len().min(start + BLOCK);
        let block =
            block(start..end, threads, |index| look_at(&root.join(files.path(index)), shorter, cache.as_ref()))?;
        let mut enough = false;
        for (index, file) in (start..end).zip(block) {
            enough = !found(index, file);
            if enough {
                break;
            }
        }
        remarks.extend(cache.as_mut().and_then(Cache::flush));
        if !progress(end) {
            return Err(FolderError::Cancelled);
        }
        if enough {
            break;
        }
    }
    Ok(remarks)
}

/// `make` of every number, on threads, in order.
fn block<T: Send>(
    range: std::ops::Range<usize>,
    threads: usize,
    make: impl Fn(usize) -> T + Sync,
) -> Result<Vec<T>, FolderError> {
    let next = AtomicUsize::new(range.start);
    let made = Mutex::new(Vec::with_capacity(range.len()));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= range.end {
                break;
            }
            let one = make(index);
            made.lock().unwrap_or_else(PoisonError::into_inner).push((index, one));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(range.len()) {
            thread::Builder::new().name("folder".into()).spawn_scoped(scope, work).map_err(FolderError::Thread)?;
        }
        work();
        Ok(())
    })?;
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_unstable_by_key(|(index, _)| *index);
    Ok(made.into_iter().map(|(_, one)| one).collect())
}

fn look_at(path: &Path, shorter: Option<u32>, cache: Option<&Cache>) -> Found {
    let stat = match fs::metadata(path) {
        Ok(metadata) => Stat::of(&metadata),
        Err(error) => return Found::Bad(error.to_string()),
    };
    let known = cache.and_then(|cache| cache.by_path(path, stat));
    if let Some(content) = known {
        return from_cache(content, stat);
    }
    let bytes = match read(path, stat.len) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Found::Other,
        Err(reason) => return Found::Bad(reason),
    };
    let keyed = cache.map(|cache| (cache, cache.key(&bytes)));
    let remember = |content| {
        if let Some((cache, key)) = keyed {
            cache.remember(path, stat, key, content);
        }
    };
    if let Some(content) = keyed.and_then(|(cache, key)| cache.by_key(&key)) {
        remember(content.clone());
        return from_cache(content, stat);
    }
    match decode(&bytes) {
        Ok(picture) => {
            let picture = shrunk(picture, shorter);
            let (width, height, moments) = (picture.width(), picture.height(), ChannelMoments::of(&picture));
            let place = cache.and_then(|cache| cache.store(&picture));
            if let Some(place) = place {
                remember(Content::Picture(place, moments));
            }
            Found::Picture(Good { width, height, len: stat.len, moments, place })
        }
        Err(reason) => {
            remember(Content::Bad(reason.clone()));
            Found::Bad(reason)
        }
    }
}

fn from_cache(content: &Content, stat: Stat) -> Found {
    match content {
        Content::Picture(place, moments) => {
            let Place { width, height, .. } = *place;
            Found::Picture(Good { width, height, len: stat.len, moments: *moments, place: Some(*place) })
        }
        Content::Bad(reason) => Found::Bad(reason.clone()),
    }
}

/// The bytes of a file, if it is a picture by its content, or says so by its name.
pub(super) fn read(path: &Path, len: u64) -> Result<Option<Vec<u8>>, String> {
    let told = |error: std::io::Error| error.to_string();
    let mut file = File::open(path).map_err(told)?;
    let mut bytes = Vec::with_capacity(len.min(LONGEST) as usize + 1);
    file.by_ref().take(decode::MAGIC as u64).read_to_end(&mut bytes).map_err(told)?;
    if !decode::is_picture(&bytes) {
        return match (super::classes::is_named_picture(path), bytes.is_empty()) {
            (false, _) => Ok(None),
            (true, true) => Err("the file is empty".into()),
            (true, false) => Err("its content is no JPEG, PNG, WebP, BMP, GIF or TIFF".into()),
        };
    }
    if len > LONGEST {
        return Err(format!("{len} bytes, more than the {LONGEST} that are read"));
    }
    file.take(LONGEST).read_to_end(&mut bytes).map_err(told)?;
    Ok(Some(bytes))
}
