//! A run is a folder.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use simclr_data::Bad;

use crate::Usage;
use crate::config::Config;

/// Paths inside a run's folder.
#[derive(Clone, Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Makes a new folder with the settings of the run, which is this process's until the lock is dropped.
    ///
    /// # Errors
    /// [`Usage`] if `path` is a run already, or another process is making one; if nothing can be written there.
    pub(crate) fn create(path: &Path, config: &Config) -> anyhow::Result<(Self, Lock)> {
        let run = Self::at(path);
        let must_be_new = || {
            let message = format!(
                "--run is {0}, which has a run already: give another folder, or go on with --run {0} --resume",
                path.display()
            );
            if run.config().exists() { Err(Usage(message)) } else { Ok(()) }
        };
        must_be_new()?;
        let cannot = || format!("{}: the run folder cannot be written", path.display());
        fs::create_dir_all(run.checkpoints()).with_context(cannot)?;
        let lock = run.lock().map_err(|error| if error.is::<Usage>() { error } else { error.context(cannot()) })?;
        // Somebody may have been faster.
        must_be_new()?;
        write_whole(&run.config(), toml::to_string(config)?.as_bytes()).with_context(cannot)?;
        Ok((run, lock))
    }

    /// Writes the settings of the run again: some may change when it goes on.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn rewrite(&self, config: &Config) -> anyhow::Result<()> {
        let path = self.config();
        write_whole(&path, toml::to_string(config)?.as_bytes()).with_context(|| path.display().to_string())
    }

    /// Takes the run for this process, until what it returns is dropped or the process ends, however it ends.
    ///
    /// # Errors
    /// [`Usage`] if another process has it; if the file cannot be written.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.lock_file();
        let cannot = || path.display().to_string();
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).with_context(cannot)?;
        let mut locked = file.try_lock();
        // Whoever asks for the status of the run has the lock for a moment.
        for _ in 0..3 {
            if matches!(locked, Err(TryLockError::WouldBlock)) {
                std::thread::sleep(Duration::from_millis(50));
                locked = file.try_lock();
            }
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let (path, owner) = (self.path.display(), owner(&mut file));
                return Err(Usage(format!("--run is {path}, which another program is working on{owner}")).into());
            }
            // There are file systems without locks; there, whoever starts two programs on a run is not stopped.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).with_context(cannot)?;
        Ok(Lock { _file: file })
    }

    /// Whether a process is working on the run, and which, as ` (process 7)`.
    pub(crate) fn worker(&self) -> Option<String> {
        let mut file = File::open(self.lock_file()).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(owner(&mut file)),
            _ => None,
        }
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// What TensorBoard reads. Its name says when the run began, so that it stays the same when the run goes on.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub(crate) fn event_file(&self) -> anyhow::Result<PathBuf> {
        const PREFIX: &str = "events.out.tfevents.";
        let cannot = || self.path.display().to_string();
        for entry in fs::read_dir(&self.path).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(PREFIX) && name.ends_with(".part") {
                // Of a writer that was killed.
                fs::remove_file(entry.path()).with_context(|| entry.path().display().to_string())?;
            } else if name.starts_with(PREFIX) {
                return Ok(entry.path());
            }
        }
        Ok(self.path.join(format!("{PREFIX}{:010}.simclr", now() as u64)))
    }

    /// Lists the pictures that the run goes without, if there are any.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn list_left_out(&self, bad: &[Bad]) -> anyhow::Result<()> {
        if bad.is_empty() {
            return Ok(());
        }
        let path = self.path.join("left_out.txt");
        let lines: String = bad.iter().map(|bad| format!("{}: {}\n", bad.path.display(), bad.reason)).collect();
        write_whole(&path, lines.as_bytes()).with_context(|| path.display().to_string())
    }

    /// The paths of `path`, whatever is there.
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// An existing run and its settings, or none if there is nothing yet.
    ///
    /// # Errors
    /// If the folder holds something that is no run, or cannot be read.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Option<(Self, Config)>> {
        let run = Self::at(path);
        match fs::metadata(run.config()) {
            Ok(_) => Ok(Some((run.clone(), Config::load(&run.config())?))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => bail!("{}: {error}", run.config().display()),
        }
    }

    /// A new name under `runs/`: what is trained on what, and when it began (UTC).
    pub(crate) fn fresh_path(config: &Config) -> PathBuf {
        Self::fresh_named(&format!("{}-{}", config.data.file_name(), config.arch))
    }

    /// A new name under `runs/` that begins with `what`.
    pub(crate) fn fresh_named(what: &str) -> PathBuf {
        let name = format!("{what}-{}", timestamp(now() as u64));
        let runs = Path::new("runs");
        // Two runs may begin in one second.
        (1..)
            .map(|i| runs.join(if i == 1 { name.clone() } else { format!("{name}-{i}") }))
            .find(|p| !p.exists())
            .unwrap_or_else(|| runs.join(&name))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    pub(crate) fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The result of a finished run, as `--json` prints it: it is there when there is nothing left to do.
    pub(crate) fn result(&self) -> PathBuf {
        self.path.join("result.json")
    }

    /// What is known of a step that was not applied because a number was not finite.
    pub(crate) fn non_finite(&self, step: u64) -> PathBuf {
        self.path.join(format!("non_finite-step-{step:08}.json"))
    }

    /// Which algorithms the convolutions of a GPU were given.
    pub(crate) fn algorithms(&self) -> PathBuf {
        self.path.join("algorithms.txt")
    }

    pub(crate) fn curves(&self) -> PathBuf {
        self.path.join("curves.svg")
    }

    pub(crate) fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }
}

/// A run is one process's for as long as this lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Who has a lock, as ` (process 7)`; nothing where it does not say.
fn owner(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(process)) => format!(" (process {process})"),
        _ => String::new(),
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Writes a file that is either the old one or the new one, whatever happens in between.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let written = File::create(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    });
    if written.is_err() {
        // On a full disk it would be in the way of what comes next; the error to report is the first one.
        let _ = fs::remove_file(&part);
    }
    written
}

/// `20261123-201501` of seconds since 1970, in UTC.
fn timestamp(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days, for days after 1970.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_calendar_does() {
        assert_eq!(timestamp(0), "19700101-000000");
        assert_eq!(timestamp(951_782_400), "20000229-000000");
        assert_eq!(timestamp(1_798_761_599), "20261231-235959");
    }

    #[test]
    fn a_run_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/run");
        assert!(RunFolder::open(&path).unwrap().is_none());
        let config = Config { batch: 32, ..Config::default() };
        drop(RunFolder::create(&path, &config).unwrap());
        assert_eq!(RunFolder::open(&path).unwrap().unwrap().1, config);
        let message = RunFolder::create(&path, &config).unwrap_err().to_string();
        assert!(message.contains("has a run already") && message.contains("--resume"), "{message}");
    }

    #[test]
    fn a_run_is_one_program_s() {
        let dir = tempfile::tempdir().unwrap();
        let (run, lock) = RunFolder::create(&dir.path().join("run"), &Config::default()).unwrap();
        let message = run.lock().unwrap_err().to_string();
        let told = format!("which another program is working on (process {})", std::process::id());
        assert!(message.contains(&told), "{message}");
        assert!(run.worker().unwrap().contains("process"));
        drop(lock);
        assert!(run.worker().is_none());
        run.lock().unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = RunFolder::create(&dir.path().join("file/run"), &Config::default()).unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains("file/run: the run folder cannot be written: Not a directory"), "{message}");
    }
}
