//! Canonical pictures kept on the disk, so that a file is decoded once.
//!
//! Two files that only grow. `pictures.bin` has the pixels, one picture behind the other. `index.bin` is a log of frames; each
//! says of some files what they are: a picture by the hash of its content and of the settings, where its pixels are and their
//! checksum, or why it is none. A frame is written when the pixels that it speaks of are on the disk, and has a checksum: what is
//! interrupted or damaged ends the log there, and is written anew. So the whole may be deleted or interrupted at any time, and
//! no bit of a picture ever depends on it.
//!
//! A file is known again by path, size and time of change; where these are new, by its content. Pixels are read by positional
//! reads: a picture owns its bytes, so that a memory map would save no copy, and a map of a file that somebody truncates ends
//! the process.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use sha2::{Digest as _, Sha256};
use simclr_ops::augment::Picture;

use crate::{
    normalization::ChannelMoments,
    positional::{read_exact_at, write_all_at},
};

/// The beginning of the log; another version is another word.
const MAGIC: [u8; 8] = *b"simclr-1";

/// What a file is known by: the hash of its content and the settings, cut to 128 bits.
pub(super) type Key = [u8; 16];

/// What a file looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) len: u64,
    /// Nanoseconds since 1970; 0 where the system does not tell, and then nothing is known again by it.
    pub(super) changed: u64,
}

/// Where the pixels of a picture are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    start: u64,
    pub(super) width: u32,
    pub(super) height: u32,
    crc: u32,
}

/// What a content turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// Its moments are here too: a set is opened again without a look at its pixels.
    Picture(Place, ChannelMoments),
    Bad(String),
}

/// What is known of a file.
#[derive(Debug)]
struct Known {
    path: Key,
    stat: Stat,
    key: Key,
    content: Content,
}

/// The pixels: to be read by many threads at once.
#[derive(Debug)]
pub(super) struct Pixels(File);

/// A cache that is open.
#[derive(Debug)]
pub(super) struct Cache {
    pixels: Arc<Pixels>,
    settings: Vec<u8>,
    by_path: HashMap<Key, (Stat, Key)>,
    by_key: HashMap<Key, Content>,
    /// None if another process writes, or writing failed.
    writer: Option<Writer>,
    failed: AtomicBool,
}

#[derive(Debug)]
struct Writer {
    log: File,
    /// Where the next pixels go.
    end: Mutex<u64>,
    /// What the next frame says.
    pending: Mutex<Vec<Known>>,
}

impl Cache {
    /// Opens the cache in `dir` for pictures of some settings, or begins it. What there is to say of it is in the second result.
    ///
    /// # Errors
    /// If the folder or its files cannot be made.
    pub(super) fn open(dir: &Path, settings: &[u8]) -> io::Result<(Self, Vec<String>)> {
        let mut remarks = Vec::new();
        fs::create_dir_all(dir)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut log = options.open(dir.join("index.bin"))?;
        let pixels = options.open(dir.join("pictures.bin"))?;
        let writes = log.try_lock().is_ok();
        if !writes {
            remarks.push(format!("{}: another process writes to this cache; it is read only here", dir.display()));
        }
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)?;
        let there = pixels.metadata()?.len();
        let mut cache = Self {
            pixels: Arc::new(Pixels(pixels)),
            settings: settings.to_vec(),
            by_path: HashMap::new(),
            by_key: HashMap::new(),
            writer: None,
            failed: AtomicBool::new(false),
        };
        let (mut good, mut end) = (0, 0);
        if bytes.starts_with(&MAGIC) {
            good = MAGIC.len();
            while let Some((known, rest)) = frame(&bytes[good..]) {
                for known in known {
                    if let Content::Picture(place, _) = &known.content {
                        end = end.max(place.end());
                    }
                    cache.learn(&known, there);
                }
                good = bytes.len() - rest;
            }
        }
        if good < bytes.len() {
            let lost = bytes.len() - good;
            remarks.push(format!(
                "{}: {lost} bytes of its index are damaged or of another version, and are made again",
                dir.display()
            ));
        }
        if writes {
            log.set_len(good as u64)?;
            log.seek(io::SeekFrom::End(0))?;
            if good == 0 {
                log.write_all(&MAGIC)?;
            }
            cache.pixels.0.set_len(end.min(there))?;
            cache.writer = Some(Writer { log, end: Mutex::new(end.min(there)), pending: Mutex::default() });
        }
        Ok((cache, remarks))
    }

    /// The pixels, for whoever keeps places.
    pub(super) fn pixels(&self) -> Arc<Pixels> {
        self.pixels.clone()
    }

    /// What a content is known by.
    pub(super) fn key(&self, bytes: &[u8]) -> Key {
        cut(Sha256::new_with_prefix(&self.settings).chain_update(bytes))
    }

    /// What is known of a file that has not changed since.
    pub(super) fn by_path(&self, path: &Path, stat: Stat) -> Option<&Content> {
        let (known, key) = self.by_path.get(&self.path_key(path))?;
        if *known == stat && stat.changed != 0 { self.by_key.get(key) } else { None }
    }

    /// What is known of a content.
    pub(super) fn by_key(&self, key: &Key) -> Option<&Content> {
        self.by_key.get(key)
    }

    /// Keeps the pixels of a picture, if that is possible.
    pub(super) fn store(&self, picture: &Picture) -> Option<Place> {
        let writer = self.writer.as_ref().filter(|_| !self.failed.load(Ordering::Relaxed))?;
        let bytes = picture.pixels();
        let start = {
            let mut end = writer.end.lock().unwrap_or_else(PoisonError::into_inner);
            let start = *end;
            *end += bytes.len() as u64;
            start
        };
        if write_all_at(&self.pixels.0, bytes, start).is_err() {
            self.failed.store(true, Ordering::Relaxed);
            return None;
        }
        let crc = crc32fast::hash(bytes);
        Some(Place { start, width: picture.width(), height: picture.height(), crc })
    }

    /// Remembers what a file is, from the next [`Self::flush`] on. A picture must have been stored.
    pub(super) fn remember(&self, path: &Path, stat: Stat, key: Key, content: Content) {
        if let Some(writer) = &self.writer {
            let known = Known { path: self.path_key(path), stat, key, content };
            writer.pending.lock().unwrap_or_else(PoisonError::into_inner).push(known);
        }
    }

    /// Writes a frame of what is to be remembered; a remark if that fails, and with it the cache as something to write to.
    pub(super) fn flush(&mut self) -> Option<String> {
        let there = self.pixels.0.metadata().map_or(0, |metadata| metadata.len());
        let writer = self.writer.as_mut()?;
        let pending = std::mem::take(writer.pending.get_mut().unwrap_or_else(PoisonError::into_inner));
        let written = if self.failed.load(Ordering::Relaxed) {
            Err(io::Error::other("the pixels could not be written"))
        } else if pending.is_empty() {
            return None;
        } else {
            self.pixels.0.sync_data().and_then(|()| writer.log.write_all(&to_frame(&pending)))
        };
        pending.iter().for_each(|known| self.learn(known, there));
        let error = written.err()?;
        self.writer = None;
        Some(format!("the cache of pictures is given up: {error}"))
    }

    fn learn(&mut self, known: &Known, there: u64) {
        let whole = match &known.content {
            Content::Picture(place, _) => place.end() <= there,
            Content::Bad(_) => true,
        };
        if whole {
            self.by_path.insert(known.path, (known.stat, known.key));
            self.by_key.insert(known.key, known.content.clone());
        }
    }

    fn path_key(&self, path: &Path) -> Key {
        cut(Sha256::new_with_prefix(&self.settings).chain_update(path.as_os_str().as_encoded_bytes()))
    }
}

impl Stat {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        let changed = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        Self { len: metadata.len(), changed: changed.map_or(0, |time| time.as_nanos() as u64) }
    }
}

impl Pixels {
    /// The picture at a place; none if it is not there as it was written.
    pub(super) fn read(&self, place: &Place) -> Option<Picture> {
        let mut bytes = vec![0; place.len()];
        read_exact_at(&self.0, &mut bytes, place.start).ok()?;
        if crc32fast::hash(&bytes) != place.crc {
            return None;
        }
        Picture::new(place.width, place.height, bytes).ok()
    }
}

impl Place {
    fn len(&self) -> usize {
        3 * self.width as usize * self.height as usize
    }

    fn end(&self) -> u64 {
        self.start.saturating_add(self.len() as u64)
    }
}

fn cut(hash: Sha256) -> Key {
    hash.finalize()[..16].try_into().expect("a digest has 32 bytes")
}

/// The length of what follows, its checksum, and some files.
fn to_frame(known: &[Known]) -> Vec<u8> {
    let mut body = Vec::new();
    for Known { path, stat, key, content } in known {
        body.extend_from_slice(path);
        body.extend_from_slice(&stat.len.to_le_bytes());
        body.extend_from_slice(&stat.changed.to_le_bytes());
        body.extend_from_slice(key);
        match content {
            Content::Bad(reason) => {
                body.push(1);
                body.extend_from_slice(&(reason.len() as u32).to_le_bytes());
                body.extend_from_slice(reason.as_bytes());
            }
            Content::Picture(Place { start, width, height, crc }, moments) => {
                body.push(2);
                body.extend_from_slice(&start.to_le_bytes());
                for number in [width, height, crc] {
                    body.extend_from_slice(&number.to_le_bytes());
                }
                for number in moments.mean.iter().chain(&moments.square) {
                    body.extend_from_slice(&number.to_le_bytes());
                }
            }
        }
    }
    let mut frame = (body.len() as u64).to_le_bytes().to_vec();
    frame.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    frame.extend(body);
    frame
}

/// The files of the first frame, and how many bytes are behind it; none if it is not whole.
fn frame(mut bytes: &[u8]) -> Option<(Vec<Known>, usize)> {
    let len = usize::try_from(u64::from_le_bytes(take(&mut bytes)?)).ok()?;
    let crc = u32::from_le_bytes(take(&mut bytes)?);
    let mut body = bytes.get(..len)?;
    let rest = bytes.len() - len;
    if crc32fast::hash(body) != crc {
        return None;
    }
    let mut files = Vec::new();
    while !body.is_empty() {
        let path = take(&mut body)?;
        let stat = Stat { len: u64::from_le_bytes(take(&mut body)?), changed: u64::from_le_bytes(take(&mut body)?) };
        let key = take(&mut body)?;
        let content = match take::<1>(&mut body)? {
            [1] => {
                let len = u32::from_le_bytes(take(&mut body)?) as usize;
                let (reason, rest) = body.split_at_checked(len)?;
                body = rest;
                Content::Bad(String::from_utf8(reason.to_vec()).ok()?)
            }
            [2] => {
                let start = u64::from_le_bytes(take(&mut body)?);
                let [width, height, crc] =
                    [take(&mut body)?, take(&mut body)?, take(&mut body)?].map(u32::from_le_bytes);
                if width == 0 || height == 0 {
                    return None;
                }
                let mut three = || Some([take(&mut body)?, take(&mut body)?, take(&mut body)?].map(f64::from_le_bytes));
                let moments = ChannelMoments { pictures: 1, mean: three()?, square: three()? };
                Content::Picture(Place { start, width, height, crc }, moments)
            }
            _ => return None,
        };
        files.push(Known { path, stat, key, content });
    }
    Some((files, rest))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}
