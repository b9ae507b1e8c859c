//! A run is a folder.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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
    /// Makes a new folder with the settings of the run.
    ///
    /// # Errors
    /// [`Usage`] if `path` is a run already; if nothing can be written there.
    pub(crate) fn create(path: &Path, config: &Config) -> anyhow::Result<Self> {
        let run = Self::at(path);
        if run.config().exists() {
            return Err(Usage(format!(
                "--run is {0}, which has a run already: give another folder, or go on with --run {0} --resume",
                path.display()
            ))
            .into());
        }
        let cannot = || format!("{}: the run folder cannot be written", path.display());
        fs::create_dir_all(run.checkpoints()).with_context(cannot)?;
        write_whole(&run.config(), toml::to_string(config)?.as_bytes()).with_context(cannot)?;
        Ok(run)
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
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let name = format!("{what}-{}", timestamp(seconds));
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

    pub(crate) fn curves(&self) -> PathBuf {
        self.path.join("curves.svg")
    }

    pub(crate) fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }
}

/// Writes a file that is either the old one or the new one, whatever happens in between.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let mut file = fs::File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
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
        RunFolder::create(&path, &config).unwrap();
        assert_eq!(RunFolder::open(&path).unwrap().unwrap().1, config);
        let message = RunFolder::create(&path, &config).unwrap_err().to_string();
        assert!(message.contains("has a run already") && message.contains("--resume"), "{message}");
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
