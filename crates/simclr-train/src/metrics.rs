//! What a run measured: one JSON object a line, and the same for TensorBoard.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::run_folder::{RunFolder, write_whole};
use crate::tensorboard::{EventFile, Scalars};

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
        /// Norm of its gradient, before it was clipped.
        grad_norm: f64,
        /// Mean squared distance of the embeddings of the two views of a picture.
        alignment: f64,
        /// Logarithm of the mean Gaussian potential of pairs of pictures.
        uniformity: f64,
        /// Deviation of the embeddings, 1 where they point everywhere.
        embedding_std: f64,
        /// Directions that they fill.
        embedding_rank: f64,
        /// Pairs per second over these steps.
        pairs_per_s: f64,
        /// Share of their time spent waiting for data.
        data_wait_share: f64,
        /// Memory that the program has held at most, where the system tells.
        #[serde(skip_serializing_if = "Option::is_none")]
        peak_mib: Option<u64>,
        /// When, in seconds since 1970.
        time: f64,
    },
    /// The end of an epoch.
    Epoch {
        /// Steps taken in all.
        step: u64,
        /// The epoch, from 1.
        epoch: u64,
        /// The mean loss of the epoch.
        loss: f64,
        /// When, in seconds since 1970.
        time: f64,
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
        /// Deviation of the features, as of unit vectors.
        feature_std: f64,
        /// Directions that they fill.
        feature_rank: f64,
        /// When, in seconds since 1970.
        time: f64,
    },
}

impl Event {
    /// Steps taken when it was measured.
    pub(crate) fn step(&self) -> u64 {
        match *self {
            Self::Step { step, .. } | Self::Epoch { step, .. } | Self::Knn { step, .. } => step,
        }
    }

    /// When it was measured, in seconds since 1970.
    pub(crate) fn time(&self) -> f64 {
        match *self {
            Self::Step { time, .. } | Self::Epoch { time, .. } | Self::Knn { time, .. } => time,
        }
    }

    /// As TensorBoard shows it.
    fn scalars(&self) -> Scalars {
        let values = match *self {
            Self::Step {
                loss,
                lr,
                grad_norm,
                alignment,
                uniformity,
                embedding_std,
                embedding_rank,
                pairs_per_s,
                data_wait_share,
                peak_mib,
                ..
            } => {
                let mut values = vec![
                    ("train/loss", loss),
                    ("train/learning_rate", lr),
                    ("train/gradient_norm", grad_norm),
                    ("embeddings/alignment", alignment),
                    ("embeddings/uniformity", uniformity),
                    ("embeddings/std", embedding_std),
                    ("embeddings/effective_rank", embedding_rank),
                    ("speed/pairs_per_s", pairs_per_s),
                    ("speed/data_wait_share", data_wait_share),
                ];
                values.extend(peak_mib.map(|mib| ("speed/peak_mib", mib as f64)));
                values
            }
            Self::Epoch { loss, .. } => vec![("epoch/loss", loss)],
            Self::Knn { top1, top5, feature_std, feature_rank, .. } => vec![
                ("knn/top1", top1),
                ("knn/top5", top5),
                ("features/std", feature_std),
                ("features/effective_rank", feature_rank),
            ],
        };
        Scalars { time: self.time(), step: self.step(), values }
    }
}

/// The open files.
#[derive(Debug)]
pub(crate) struct Metrics {
    path: PathBuf,
    file: File,
    events: EventFile,
    count: u64,
}

impl Metrics {
    /// Opens the files of a run to append to them, cut back to the first `count` events: those of its checkpoint.
    ///
    /// Steps would not do: at the end of an epoch several events have the same.
    ///
    /// # Errors
    /// If they cannot be read or written.
    pub(crate) fn open(run: &RunFolder, count: u64) -> anyhow::Result<Self> {
        let path = run.metrics();
        let cannot = || path.display().to_string();
        let kept: Vec<Event> = read(&path)?.into_iter().take(count as usize).collect();
        let lines: String = kept.iter().map(line).collect::<Result<_, _>>()?;
        write_whole(&path, lines.as_bytes()).with_context(cannot)?;
        let file = OpenOptions::new().append(true).open(&path).with_context(cannot)?;
        let events = EventFile::create(&run.event_file()?, kept.iter().map(Event::scalars))?;
        Ok(Self { path, file, events, count: kept.len() as u64 })
    }

    /// How many events there are, all of them on the disk: a checkpoint that counts on them is written after this.
    ///
    /// # Errors
    /// If the disk refuses.
    pub(crate) fn flushed(&self) -> anyhow::Result<u64> {
        self.file.sync_data().with_context(|| self.path.display().to_string())?;
        Ok(self.count)
    }

    /// Adds a line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn add(&mut self, event: &Event) -> anyhow::Result<()> {
        self.file.write_all(line(event)?.as_bytes()).with_context(|| self.path.display().to_string())?;
        self.events.add(&event.scalars())?;
        self.count += 1;
        Ok(())
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
        Event::Epoch { step, epoch: step, loss: 0.5, time: 1e9 + step as f64 }
    }

    #[test]
    fn resuming_cuts_back_to_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::at(dir.path());
        let path = run.metrics();
        let mut metrics = Metrics::open(&run, 0).unwrap();
        (1..=5).for_each(|step| metrics.add(&epoch(step)).unwrap());
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "{\"event\":\"epo").unwrap();
        let mut metrics = Metrics::open(&run, 3).unwrap();
        metrics.add(&epoch(9)).unwrap();
        assert_eq!(metrics.flushed().unwrap(), 4);
        assert_eq!(read(&path).unwrap(), [1, 2, 3, 9].map(epoch));
        // The file of events is the one that would have been written without the interruption.
        let other = tempfile::tempdir().unwrap();
        let whole = RunFolder::at(other.path());
        let mut metrics = Metrics::open(&whole, 0).unwrap();
        [1, 2, 3, 9].map(epoch).iter().for_each(|event| metrics.add(event).unwrap());
        let events = |run: &RunFolder| std::fs::read(run.event_file().unwrap()).unwrap();
        assert!(events(&run) == events(&whole) && events(&run).len() > 100);
    }

    #[test]
    fn a_damaged_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, "wat\n{\"event\":\"epoch\",\"step\":1,\"epoch\":1,\"loss\":0.5,\"time\":0}\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("metrics.jsonl: line 1 is no event of a run"));
    }
}
