//! Checkpoints: everything a run needs to go on to the same bits.
//!
//! A checkpoint is a folder, written under another name, flushed to the disk and renamed; its manifest has the size and
//! SHA-256 of every file. `latest` and `best` are files that hold a folder's name and are replaced by rename.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use simclr_model::Model;
use simclr_optim::Optimizer;

use crate::cli::DataArguments;
use crate::config::Config;
use crate::run_folder::{RunFolder, write_whole};

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    /// Steps taken in all.
    pub(crate) step: u64,
    /// Epochs finished.
    pub(crate) epoch: u64,
    /// Batches taken of the epoch that has begun.
    pub(crate) batch: usize,
    /// Sum of the losses of the steps of that epoch.
    pub(crate) loss_sum: f64,
    /// How many there are.
    pub(crate) losses: u64,
    /// Mean loss of the last finished epoch.
    pub(crate) last_epoch_loss: Option<f64>,
    /// Best kNN on the held-out labels so far, and the step it was measured at.
    pub(crate) best: Option<(f64, u64)>,
    /// Steps that were left out because a number was not finite, in all and since the last that was not.
    pub(crate) skipped: u64,
    pub(crate) skipped_in_a_row: u64,
    /// Deviation of the embeddings when it was last measured.
    pub(crate) embedding_std: Option<f64>,
    /// Events of the metrics so far.
    pub(crate) events: u64,
    /// Seconds spent training so far, over all parts of the run.
    pub(crate) train_seconds: f64,
}

impl State {
    /// Mean loss of the epoch so far; none before its first step that was applied.
    pub(crate) fn mean_loss(&self) -> Option<f64> {
        (self.losses > 0).then(|| self.loss_sum / self.losses as f64)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const MANIFEST: &str = "manifest.json";
pub(crate) const LATEST: &str = "latest";
const BEST: &str = "best";

/// What a checkpoint is called while another takes its place.
const REPLACED: &str = "replaced";

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
    /// How many are kept beside the best: one to go on from, and others in case that is damaged.
    keep: usize,
}

impl Checkpoints {
    pub(crate) fn new(folder: PathBuf, keep: usize) -> Self {
        Self { folder, keep }
    }

    /// Writes a checkpoint, points `latest` to it (and `best`, if it is), and removes those that are no longer needed.
    ///
    /// # Errors
    /// If it cannot be written whole; older checkpoints are then still there.
    pub(crate) fn save(&self, model: &Model, optimizer: &Optimizer, state: &State) -> anyhow::Result<PathBuf> {
        let name = name(state.step);
        let (whole, part) = (self.folder.join(&name), self.folder.join(format!("{name}.part")));
        let written = self.write(&part, model, optimizer, state);
        if written.is_err() {
            // What is half written is of no use; the error to report is the first one.
            let _ = fs::remove_dir_all(&part);
        }
        written.with_context(|| format!("{}: the checkpoint cannot be written", whole.display()))?;
        self.put(&part, &whole).with_context(|| whole.display().to_string())?;
        self.point_to(state)?;
        self.prune()?;
        Ok(whole)
    }

    /// Gives a written folder its name. One that has the name already is there, under this name or another, until the new one is:
    /// see [`Self::recover`].
    fn put(&self, part: &Path, whole: &Path) -> std::io::Result<()> {
        let old = whole.with_extension(REPLACED);
        if whole.exists() {
            fs::rename(whole, &old)?;
        }
        fs::rename(part, whole)?;
        // The names themselves must be on the disk before anything points to them.
        File::open(&self.folder)?.sync_all()?;
        if old.exists() { fs::remove_dir_all(&old) } else { Ok(()) }
    }

    /// Undoes what a program left that was killed while it wrote a checkpoint, or while one took the place of another.
    fn recover(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let old = entry?.path();
            let extension = old.extension().and_then(|extension| extension.to_str());
            match extension {
                Some(REPLACED) => {
                    let whole = old.with_extension("");
                    if whole.exists() { fs::remove_dir_all(&old)? } else { fs::rename(&old, &whole)? }
                }
                Some("part") if old.is_dir() => fs::remove_dir_all(&old)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn write(&self, part: &Path, model: &Model, optimizer: &Optimizer, state: &State) -> anyhow::Result<()> {
        if part.exists() {
            fs::remove_dir_all(part)?;
        }
        fs::create_dir_all(part)?;
        model.save(&part.join(MODEL))?;
        candle_core::safetensors::save(&optimizer.state(), part.join(OPTIMIZER))?;
        write_whole(&part.join(STATE), &serde_json::to_vec_pretty(state)?)?;
        let files = [MODEL, OPTIMIZER, STATE].map(|file| Ok((file.to_owned(), measure(&part.join(file))?)));
        let files = files.into_iter().collect::<anyhow::Result<_>>()?;
        write_whole(&part.join(MANIFEST), &serde_json::to_vec_pretty(&Manifest { files })?)?;
        // candle does not flush what it writes.
        File::open(part.join(OPTIMIZER))?.sync_all()?;
        Ok(File::open(part)?.sync_all()?)
    }

    /// Points to the checkpoint that training goes on from: whoever wrote it may have been killed before it did.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(crate) fn point_to(&self, state: &State) -> anyhow::Result<()> {
        let name = name(state.step);
        self.point(LATEST, &name)?;
        if state.best.is_some_and(|(_, step)| step == state.step) {
            self.point(BEST, &name)?;
        }
        Ok(())
    }

    fn point(&self, pointer: &str, name: &str) -> anyhow::Result<()> {
        let path = self.folder.join(pointer);
        write_whole(&path, format!("{name}\n").as_bytes()).with_context(|| path.display().to_string())
    }

    fn pointed(&self, pointer: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(pointer)).ok().map(|name| name.trim().to_owned())
    }

    /// Names of all complete checkpoints, oldest first.
    fn names(&self) -> anyhow::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| self.folder.display().to_string()),
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names =
            names.collect::<std::io::Result<Vec<_>>>().with_context(|| self.folder.display().to_string())?;
        let is_whole = |name: &String| {
            let step = name.strip_prefix("step-").filter(|step| step.bytes().all(|byte| byte.is_ascii_digit()));
            step.is_some() && self.folder.join(name).join(MANIFEST).exists()
        };
        names.retain(is_whole);
        // Names have a fixed width, so their order is that of their steps.
        names.sort();
        Ok(names)
    }

    fn prune(&self) -> anyhow::Result<()> {
        let best = self.pointed(BEST);
        let names = self.names()?;
        let old = &names[..names.len().saturating_sub(self.keep)];
        for name in old.iter().filter(|name| Some(*name) != best.as_ref()) {
            let path = self.folder.join(name);
            fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// The newest checkpoint whose files are what its manifest says; `remark` hears of those that are not, which are set aside.
    ///
    /// # Errors
    /// If the folder cannot be read, or there are checkpoints but none is good.
    pub(crate) fn newest_good(&self, mut remark: impl FnMut(String)) -> anyhow::Result<Option<PathBuf>> {
        if self.folder.exists() {
            self.recover().with_context(|| self.folder.display().to_string())?;
        }
        let names = self.names()?;
        for (i, name) in names.iter().enumerate().rev() {
            let path = self.folder.join(name);
            match verify(&path) {
                Ok(()) => {
                    // Training goes on from here: what is damaged must not count as one of those that are kept.
                    for damaged in names[i + 1..].iter().map(|name| self.folder.join(name)) {
                        let aside = damaged.with_extension("damaged");
                        let cleared = if aside.exists() { fs::remove_dir_all(&aside) } else { Ok(()) };
                        cleared
                            .and_then(|()| fs::rename(&damaged, &aside))
                            .with_context(|| damaged.display().to_string())?;
                    }
                    return Ok(Some(path));
                }
                Err(error) => remark(format!("{error:#}; trying the checkpoint before it")),
            }
        }
        ensure!(names.is_empty(), "{}: all {} checkpoints are damaged", self.folder.display(), names.len());
        Ok(None)
    }
}

/// The step of the newest whole checkpoint in a folder, its files unread.
///
/// # Errors
/// If the folder cannot be read.
pub(crate) fn newest_step(folder: &Path) -> anyhow::Result<Option<u64>> {
    let names = Checkpoints::new(folder.to_owned(), 1).names()?;
    Ok(names.last().and_then(|name| name.strip_prefix("step-")?.parse().ok()))
}

/// The checkpoint that a file like `checkpoints/latest` or `checkpoints/best` names, if `path` is one.
///
/// # Errors
/// If that checkpoint is missing or damaged.
pub(crate) fn follow(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    if !path.file_name().is_some_and(|name| name == LATEST || name == BEST) || !path.is_file() {
        return Ok(None);
    }
    let name = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let checkpoint = path.with_file_name(name.trim());
    verify(&checkpoint)?;
    Ok(Some(checkpoint))
}

/// The weights that a path means (a run, a checkpoint or a file of weights), and the settings of their run if it has any.
///
/// # Errors
/// If a run has no checkpoint yet, or the one that is meant is missing or damaged.
pub(crate) fn find(path: &Path) -> anyhow::Result<(PathBuf, Option<Config>)> {
    let run = if path.is_dir() { RunFolder::open(path)? } else { None };
    if let Some((run, config)) = run {
        let latest = follow(&run.checkpoints().join(LATEST))?;
        let latest = latest.with_context(|| format!("{}: the run has no checkpoint yet", path.display()))?;
        return Ok((model_path(&latest), Some(config)));
    }
    let named = follow(path)?;
    if named.is_none() && !path.is_dir() {
        return Ok((path.to_owned(), None));
    }
    let checkpoint = named.unwrap_or_else(|| path.to_owned());
    // A checkpoint lies two folders below its run.
    let run = checkpoint.canonicalize().ok().and_then(|path| Some(path.parent()?.parent()?.to_owned()));
    let config = run.map(|run| RunFolder::open(&run)).transpose()?.flatten().map(|(_, config)| config);
    Ok((model_path(&checkpoint), config))
}

/// What an evaluation is of: the weights that `path` means, and the settings of their run (the defaults if there is none) on the
/// data that was typed.
///
/// # Errors
/// As [`find`]; [`crate::Usage`] for an unknown data set.
pub(crate) fn evaluated(path: &Path, typed: &DataArguments) -> anyhow::Result<(PathBuf, Config)> {
    let (weights, settings) = find(path)?;
    let settings = settings.unwrap_or_default();
    let own = settings.data.clone();
    let evaluated = settings.of_data(typed, None)?;
    // Another data set has another length: the run's subset only belongs to its own.
    let subset = if evaluated.data == own { evaluated.subset } else { typed.subset };
    Ok((weights, Config { subset, ..evaluated }))
}

fn name(step: u64) -> String {
    format!("step-{step:08}")
}

/// Where the model of a checkpoint folder is.
pub(crate) fn model_path(checkpoint: &Path) -> PathBuf {
    checkpoint.join(MODEL)
}

/// Reads a checkpoint back: the model, the optimizer's numbers, where the run stood.
///
/// # Errors
/// If a file is missing or wrong.
pub(crate) fn load(
    checkpoint: &Path,
    device: &Device,
    ctx: &simclr_ops::Context,
) -> anyhow::Result<(Model, HashMap<String, Tensor>, State)> {
    let model = Model::load(&model_path(checkpoint), device, ctx)?;
    let path = checkpoint.join(OPTIMIZER);
    let optimizer = candle_core::safetensors::load(&path, device).with_context(|| path.display().to_string())?;
    let path = checkpoint.join(STATE);
    let text = fs::read(&path).with_context(|| path.display().to_string())?;
    let state = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    Ok((model, optimizer, state))
}

/// Compares every file of a checkpoint with its manifest.
fn verify(checkpoint: &Path) -> anyhow::Result<()> {
    let path = checkpoint.join(MANIFEST);
    let text = fs::read(&path).with_context(|| path.display().to_string())?;
    let manifest: Manifest = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    for (name, expected) in &manifest.files {
        let path = checkpoint.join(name);
        let found = measure(&path)?;
        ensure!(
            found == *expected,
            "{}: the file is damaged: {} bytes with SHA-256 {}, expected {} bytes with {}",
            path.display(),
            found.bytes,
            found.sha256,
            expected.bytes,
            expected.sha256
        );
    }
    Ok(())
}

fn measure(path: &Path) -> anyhow::Result<Entry> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut hasher = Hasher(Sha256::new());
    let bytes = std::io::copy(&mut file, &mut hasher).with_context(|| path.display().to_string())?;
    let sha256 = hasher.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Entry { bytes, sha256 })
}

/// A hash that can be copied to.
struct Hasher(Sha256);

impl std::io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;
    use simclr_model::{Arch, ModelConfig};
    use simclr_ops::Context;

    fn setup() -> (tempfile::TempDir, Checkpoints, Model, Optimizer) {
        let dir = tempfile::tempdir().unwrap();
        let config = ModelConfig { width: 2, ..ModelConfig::new(Arch::ResNet18) };
        let model = Model::new(&config, 0, DType::F32, &Device::Cpu, &Context::new()).unwrap();
        let adam = Optimizer::adam(model.parameters(), 1e-3, 0.0, &Context::new()).unwrap();
        let checkpoints = Checkpoints::new(dir.path().to_owned(), 2);
        (dir, checkpoints, model, adam)
    }

    fn at(step: u64) -> State {
        State { step, ..State::default() }
    }

    #[test]
    fn what_is_saved_comes_back_and_old_ones_go() {
        let (dir, checkpoints, model, adam) = setup();
        let best = State { best: Some((0.5, 1)), loss_sum: 0.1, ..at(1) };
        checkpoints.save(&model, &adam, &best).unwrap();
        for step in 2..=4 {
            checkpoints.save(&model, &adam, &State { best: Some((0.5, 1)), ..at(step) }).unwrap();
        }
        let names = checkpoints.names().unwrap();
        assert_eq!(names, ["step-00000001", "step-00000003", "step-00000004"], "the best and the last two");
        assert_eq!(follow(&dir.path().join(BEST)).unwrap().unwrap(), dir.path().join("step-00000001"));
        let (loaded, optimizer, state) =
            load(&dir.path().join("step-00000001"), &Device::Cpu, &Context::new()).unwrap();
        assert_eq!(state, best);
        assert_eq!(optimizer.len(), adam.state().len());
        assert_eq!(loaded.config(), model.config());
        assert_eq!(follow(&dir.path().join(LATEST)).unwrap().unwrap(), dir.path().join("step-00000004"));
        let all = Checkpoints { keep: 9, ..checkpoints.clone() };
        (5..=7).for_each(|step| drop(all.save(&model, &adam, &State { best: Some((0.5, 1)), ..at(step) }).unwrap()));
        assert_eq!(all.names().unwrap().len(), 6, "--keep 9 keeps all");
    }

    #[test]
    fn a_checkpoint_that_is_replaced_is_there_at_every_moment() {
        let (dir, checkpoints, model, adam) = setup();
        let whole = checkpoints.save(&model, &adam, &at(3)).unwrap();
        // Killed after the old one was set aside: it comes back.
        fs::rename(&whole, whole.with_extension(REPLACED)).unwrap();
        fs::create_dir(dir.path().join("step-00000003.part")).unwrap();
        assert_eq!(checkpoints.newest_good(|_| panic!()).unwrap().as_ref(), Some(&whole));
        // Killed after the new one had its name: the old one goes.
        fs::create_dir(whole.with_extension(REPLACED)).unwrap();
        assert_eq!(checkpoints.newest_good(|_| panic!()).unwrap().as_ref(), Some(&whole));
        assert!(!whole.with_extension(REPLACED).exists());
        let replaced = State { epoch: 1, ..at(3) };
        checkpoints.save(&model, &adam, &replaced).unwrap();
        assert_eq!(load(&whole, &Device::Cpu, &Context::new()).unwrap().2, replaced);
        assert_eq!(checkpoints.names().unwrap(), ["step-00000003"]);
    }

    #[test]
    fn a_damaged_one_is_named_and_the_one_before_it_used() {
        let (dir, checkpoints, model, adam) = setup();
        assert!(checkpoints.newest_good(|_| panic!()).unwrap().is_none());
        assert_eq!(follow(&dir.path().join(LATEST)).unwrap(), None, "there is no such file yet");
        for step in [1, 2] {
            checkpoints.save(&model, &adam, &at(step)).unwrap();
        }
        let damaged = dir.path().join("step-00000002/model.safetensors");
        let mut bytes = fs::read(&damaged).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&damaged, &bytes).unwrap();
        let mut remarks = Vec::new();
        let good = checkpoints.newest_good(|remark| remarks.push(remark)).unwrap().unwrap();
        assert!(good.ends_with("step-00000001"));
        assert!(remarks[0].contains("step-00000002/model.safetensors: the file is damaged"), "{remarks:?}");
        assert!(dir.path().join("step-00000002.damaged").exists(), "nothing is thrown away");
        checkpoints.point_to(&State { best: Some((0.5, 1)), ..at(1) }).unwrap();
        for pointer in [LATEST, BEST] {
            assert_eq!(follow(&dir.path().join(pointer)).unwrap().unwrap(), good);
        }
        for step in [2, 3] {
            checkpoints.save(&model, &adam, &at(step)).unwrap();
        }
        let damaged = dir.path().join("step-00000003/model.safetensors");
        fs::write(&damaged, &bytes).unwrap();
        assert!(follow(&dir.path().join(LATEST)).unwrap_err().to_string().contains("the file is damaged"));
        fs::write(dir.path().join("step-00000002/state.json"), "").unwrap();
        fs::write(dir.path().join("step-00000001/state.json"), "").unwrap();
        let message = checkpoints.newest_good(|_| ()).unwrap_err().to_string();
        assert!(message.contains("all 3 checkpoints are damaged"), "{message}");
    }

    #[test]
    fn a_half_written_folder_is_no_checkpoint() {
        let (dir, checkpoints, model, adam) = setup();
        fs::create_dir(dir.path().join("step-00000009.part")).unwrap();
        fs::create_dir(dir.path().join("step-00000008")).unwrap();
        assert!(checkpoints.newest_good(|_| panic!()).unwrap().is_none());
        checkpoints.save(&model, &adam, &at(9)).unwrap();
        assert!(checkpoints.newest_good(|_| panic!()).unwrap().unwrap().ends_with("step-00000009"));
        assert!(!dir.path().join("step-00000009.part").exists());
    }
}
