//! The rows of an embedding that is not finished: what an interruption leaves, and the next start goes on from.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use simclr_data::{Normalization, Pictures};

use crate::Usage;
use crate::data_sets;
use crate::output::Output;
use crate::run_folder::write_whole;

/// What rows are of: those of equal values are equal to the bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Of {
    pub(super) program: String,
    pub(super) encoder_sha256: String,
    pub(super) data: String,
    pub(super) data_dir: PathBuf,
    pub(super) split: String,
    /// Pictures of the split, and which of them.
    pub(super) pictures: usize,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Of a folder.
    pub(super) fingerprint: Option<String>,
    pub(super) shorter_side: u32,
    pub(super) size: u32,
    pub(super) normalization: Normalization,
    pub(super) normalize: bool,
    pub(super) width: usize,
}

impl Of {
    /// What tells these rows from others, with what `set` shows of its pictures.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub(super) fn digest(&self, set: &Arc<dyn Pictures>) -> anyhow::Result<String> {
        Ok(format!("{}, encoder {}", data_sets::digest(set)?, &self.encoder_sha256[..16]))
    }
}

/// Rows in a file beside the one that they are for, and a file that says what they are of.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    of: PathBuf,
    file: File,
}

impl Part {
    /// Takes up the rows that are there if they are of the same, whole batches of them, and returns how many these are.
    ///
    /// # Errors
    /// [`Usage`] if another program writes them, or a file of that name is something else; if they cannot be written.
    pub(super) fn open(out: &Path, of: &Of, batch: usize, output: &Output) -> anyhow::Result<(Self, usize)> {
        let beside = |ending: &str| {
            let mut name = out.file_name().unwrap_or_default().to_owned();
            name.push(ending);
            out.with_file_name(name)
        };
        let (path, of_path) = (beside(".part"), beside(".part.json"));
        let cannot = || path.display().to_string();
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.with_context(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("--out is {}, which another program is working on", out.display());
                return Err(Usage(message).into());
            }
            // As with runs: there are file systems without locks.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        let len = file.metadata().with_context(cannot)?.len();
        let row = 4 * of.width as u64;
        let rows = match fs::read(&of_path) {
            Ok(text) if serde_json::from_slice::<Of>(&text).is_ok_and(|there| there == *of) => {
                let rows = ((len / row) as usize).min(of.end - of.start);
                if rows == of.end - of.start { rows } else { rows - rows % batch }
            }
            // What they are of is written before them: these are somebody else's bytes.
            Err(error) if error.kind() == ErrorKind::NotFound && len > 0 => {
                let message = format!("{} is no part of an embedding: give another --out, or remove it", cannot());
                return Err(Usage(message).into());
            }
            Ok(_) if len > 0 => {
                output.say(format!("{} has rows of something else: embedding begins anew", path.display()));
                0
            }
            _ => 0,
        };
        if rows > 0 {
            output.say(format!("{}: {rows} of {} rows are kept", path.display(), of.end - of.start));
        }
        file.set_len(rows as u64 * row).with_context(cannot)?;
        if rows == 0 {
            write_whole(&of_path, &serde_json::to_vec_pretty(of)?).with_context(|| of_path.display().to_string())?;
        }
        file.seek(SeekFrom::End(0)).with_context(cannot)?;
        Ok((Self { path, of: of_path, file }, rows))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds rows.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn append(&mut self, numbers: &[f32]) -> anyhow::Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.file.write_all(&bytes).with_context(|| self.path.display().to_string())
    }

    /// Removes both files: the rows are where they belong.
    ///
    /// # Errors
    /// If that is not possible.
    pub(super) fn remove(self) -> anyhow::Result<()> {
        // In this order: rows without what they are of are taken for somebody else's.
        for path in [&self.path, &self.of] {
            fs::remove_file(path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}
