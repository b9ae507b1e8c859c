//! Reading and writing at a place of a file that many threads share.

use std::{fs::File, io};

#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
}

#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, bytes: &[u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, start)
}

/// Elsewhere a file has one position for all threads: one of them at a time.
#[cfg(not(unix))]
static POSITION: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(not(unix))]
pub(crate) fn read_exact_at(mut file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    let _alone = POSITION.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    io::Seek::seek(&mut file, io::SeekFrom::Start(start))?;
    io::Read::read_exact(&mut file, bytes)
}

#[cfg(not(unix))]
pub(crate) fn write_all_at(mut file: &File, bytes: &[u8], start: u64) -> io::Result<()> {
    let _alone = POSITION.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    io::Seek::seek(&mut file, io::SeekFrom::Start(start))?;
    io::Write::write_all(&mut file, bytes)
}
