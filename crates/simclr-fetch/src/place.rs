//! Names that appear only when what they name is complete: locks, renames and what makes them last.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::FetchError;

/// `path` with `suffix` behind its file name: beside it, so that a rename stays within one file system.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(crate) fn create_folder(path: &Path) -> Result<(), FetchError> {
    fs::create_dir_all(path).map_err(|source| FetchError::Write { path: path.into(), source })
}

/// Gives a complete file or folder its final name, in a way that survives a power cut.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FetchError> {
    let failed = |source| FetchError::Write { path: to.into(), source };
    fs::rename(from, to).map_err(failed)?;
    if let Some(folder) = to.parent() {
        sync_folder(folder).map_err(failed)?;
    }
    Ok(())
}

/// Makes the names in a folder last.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    // The parent of a bare file name is "", which cannot be opened.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    // Elsewhere a folder cannot be opened as a file, and a rename needs no help.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Removes a file, or does nothing if it is not there.
pub(crate) fn remove_file(path: &Path) -> Result<(), FetchError> {
    absent_is_fine(path, fs::remove_file(path))
}

/// Removes a folder with all that is in it, or does nothing if it is not there.
pub(crate) fn remove_folder(path: &Path) -> Result<(), FetchError> {
    absent_is_fine(path, fs::remove_dir_all(path))
}

fn absent_is_fine(path: &Path, result: io::Result<()>) -> Result<(), FetchError> {
    match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(FetchError::Write { path: path.into(), source }),
        _ => Ok(()),
    }
}

/// Held while one thing is being fetched: two processes must not write one `.part`.
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// # Errors
    /// [`FetchError::Busy`] if another process holds it.
    pub(crate) fn take(path: PathBuf) -> Result<Self, FetchError> {
        let unwritable = |source| FetchError::Write { path: path.clone(), source };
        let file = File::options().create(true).append(true).open(&path).map_err(unwritable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, _file: file }),
            Err(TryLockError::WouldBlock) => Err(FetchError::Busy { path }),
            Err(TryLockError::Error(source)) => Err(unwritable(source)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A lock file that stays behind locks nobody out: the lock itself ends with the process.
        let _ = fs::remove_file(&self.path);
    }
}
