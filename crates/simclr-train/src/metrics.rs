//! What a run measured, one JSON object a line.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::run_folder::write_whole;

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// Some steps.
    Step {
        /// Steps taken in all.
        step: u64,
        /// The epoch, from 1.
        epoch: u64,
        /// The loss of the last of these steps.
        loss: f64,
        /// The mean loss of the epoch so far.
        mean_loss: f64,
        /// Learning rate of the step.
        lr: f64,
        /// Pairs per second over these steps.
        pairs_per_s: f64,
        /// Share of their time spent waiting for data.
        data_wait_share: f64,
    },
    /// The end of an epoch.
    Epoch {
        /// Steps taken in all.
        step: u64,
        /// The epoch, from 1.
        epoch: u64,
        /// The mean loss of the epoch.
        loss: f64,
    },
    /// A kNN test: on the held-out labels, or as the course does on the test split.
    Knn {
        /// Steps taken in all; 0 is before training.
        step: u64,
        /// Epochs finished.
        epoch: u64,
        /// Top-1 accuracy, a fraction.
        top1: f64,
        /// Top-5 accuracy, a fraction.
        top5: f64,
    },
}

impl Event {
    fn step(&self) -> u64 {
        match *self {
            Self::Step { step, .. } | Self::Epoch { step, .. } | Self::Knn { step, .. } => step,
        }
    }
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file to append to it, cut back to what was measured up to `step`.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub(crate) fn open(path: &Path, step: u64) -> anyhow::Result<Self> {
        let cannot = || path.display().to_string();
        let kept: String =
            read(path)?.iter().filter(|event| event.step() <= step).map(line).collect::<Result<_, _>>()?;
        write_whole(path, kept.as_bytes()).with_context(cannot)?;
        let file = OpenOptions::new().append(true).open(path).with_context(cannot)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn add(&mut self, event: &Event) -> anyhow::Result<()> {
        self.file.write_all(line(event)?.as_bytes()).with_context(|| self.path.display().to_string())
    }
}

fn line(event: &Event) -> serde_json::Result<String> {
    Ok(serde_json::to_string(event)? + "\n")
}

/// All whole lines of the file; none if there is no file. A last line that was cut short is left out: its writer was killed.
///
/// # Errors
/// If the file cannot be read, or a line that is not the last is no event.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Event>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let lines: Vec<String> =
        BufReader::new(file).lines().collect::<Result<_, _>>().with_context(|| path.display().to_string())?;
    let mut events = Vec::with_capacity(lines.len());
    for (i, text) in lines.iter().enumerate() {
        match serde_json::from_str(text) {
            Ok(event) => events.push(event),
            Err(_) if i + 1 == lines.len() => {}
            Err(error) => {
                return Err(error).with_context(|| format!("{}: line {} is no event of a run", path.display(), i + 1));
            }
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(step: u64) -> Event {
        Event::Epoch { step, epoch: step, loss: 0.5 }
    }

    #[test]
    fn resuming_cuts_back_to_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, 0).unwrap();
        (1..=5).for_each(|step| metrics.add(&epoch(step)).unwrap());
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "{\"event\":\"epo").unwrap();
        let mut metrics = Metrics::open(&path, 3).unwrap();
        metrics.add(&epoch(9)).unwrap();
        assert_eq!(read(&path).unwrap(), [1, 2, 3, 9].map(epoch));
    }

    #[test]
    fn a_damaged_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, "wat\n{\"event\":\"epoch\",\"step\":1,\"epoch\":1,\"loss\":0.5}\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("metrics.jsonl: line 1 is no event of a run"));
    }
}
