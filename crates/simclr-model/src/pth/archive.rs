//! The zip archive around a `.pth` file.

use std::io::Cursor;

use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

use super::error::PthError;

/// Entries of an archive that lies in memory, each checked before it is given out.
///
/// The central directory says what there is; local headers only say where the content begins, since PyTorch leaves their
/// sizes empty.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder that all entries are in, whatever its name.
    folder: String,
}

/// The object itself; everything else is named by it.
const PICKLE: &str = "data.pkl";

/// ResNet-50's takes 60 KB. A pickle of this size cannot make the machine hold more than some hundred times as much.
const MAX_PICKLE: usize = 1 << 20;

impl<'a> Archive<'a> {
    /// # Errors
    /// If the bytes are no archive, it is ambiguous (entries that overlap or share a name), or it has not one pickle.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, PthError> {
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip = ZipArchive::with_config(config, Cursor::new(bytes)).map_err(|source| PthError::Zip { source })?;
        let mut archive = Self { bytes, zip, folder: String::new() };
        if archive.zip.has_duplicate_names() {
            return Err(PthError::DuplicateEntries);
        }
        if archive.zip.has_overlapping_entries().map_err(|source| PthError::Zip { source })? {
            return Err(PthError::OverlappingEntries);
        }
        let names = archive.zip.file_names_raw().filter_map(|name| str::from_utf8(name).ok());
        // A name with control characters would do more than be shown in a message.
        let is_name = |folder: &&str| !folder.contains(|c: char| c == '/' || c.is_control());
        let folders = names.filter_map(|name| name.strip_suffix(PICKLE)?.strip_suffix('/')).filter(is_name);
        let mut folders = folders.map(str::to_owned);
        let (first, more) = (folders.next(), folders.count());
        archive.folder = match (first, more) {
            (Some(folder), 0) => folder,
            (first, more) => return Err(PthError::Pickles { found: usize::from(first.is_some()) + more }),
        };
        Ok(archive)
    }

    pub(super) fn pickle_name(&self) -> String {
        self.name(PICKLE)
    }

    pub(super) fn pickle(&mut self) -> Result<&'a [u8], PthError> {
        let entry = self.pickle_name();
        let content = self.content(&entry)?;
        if content.len() > MAX_PICKLE {
            return Err(PthError::PickleSize { entry, found: content.len(), limit: MAX_PICKLE });
        }
        Ok(content)
    }

    pub(super) fn storage_name(&self, key: &str) -> String {
        self.name(&format!("data/{key}"))
    }

    /// The numbers of the storage that the pickle calls `key`.
    pub(super) fn storage(&mut self, key: &str) -> Result<&'a [u8], PthError> {
        self.content(&self.storage_name(key))
    }

    /// Files from before the entry existed are little-endian, like the machines that wrote them.
    pub(super) fn check_byte_order(&mut self) -> Result<(), PthError> {
        let entry = self.name("byteorder");
        if self.zip.index_for_name_raw(entry.as_bytes()).is_none() {
            return Ok(());
        }
        match self.content(&entry)? {
            b"little" => Ok(()),
            other => {
                let found = String::from_utf8_lossy(&other[..other.len().min(16)]).escape_debug().to_string();
                Err(PthError::ByteOrder { found })
            }
        }
    }

    fn name(&self, entry: &str) -> String {
        format!("{}/{entry}", self.folder)
    }

    /// The whole content of an entry, with its checksum verified.
    fn content(&mut self, entry: &str) -> Result<&'a [u8], PthError> {
        let name = || entry.to_owned();
        let index = self.zip.index_for_name_raw(entry.as_bytes());
        let index = index.ok_or_else(|| PthError::MissingEntry { entry: name() })?;
        let failed = |source| PthError::Entry { entry: name(), source };
        let file = self.zip.by_index_raw(index).map_err(failed)?;
        if file.encrypted() {
            return Err(PthError::Encrypted { entry: name() });
        }
        if file.compression() != CompressionMethod::Stored {
            return Err(PthError::Compressed { entry: name(), method: file.compression().to_string() });
        }
        let (stored, size, expected) = (file.compressed_size(), file.size(), file.crc32());
        if stored != size {
            return Err(PthError::StoredSize { entry: name(), stored, size });
        }
        let start = file.data_start().unwrap_or(u64::MAX);
        let range = usize::try_from(start).ok().zip(start.checked_add(size).and_then(|end| usize::try_from(end).ok()));
        let content = range.and_then(|(start, end)| self.bytes.get(start..end));
        let content =
            content.ok_or_else(|| PthError::OutOfFile { entry: name(), start, size, file: self.bytes.len() })?;
        let found = crc32fast::hash(content);
        if found != expected {
            return Err(PthError::Checksum { entry: name(), found, expected });
        }
        Ok(content)
    }
}
