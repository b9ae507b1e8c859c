//! The real program, as a user starts it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The program with the arguments of a command line that has no quotes in it.
pub(crate) fn program(arguments: &str) -> Command {
    // `cargo xtask gpu-check` also runs tests where nothing was built.
    let path = std::env::var_os("SIMCLR_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_simclr-train").into());
    let mut program = Command::new(path);
    program.args(arguments.split_whitespace()).stdin(Stdio::null());
    program
}

/// The same in `ranks` processes that `mpirun` of Open MPI starts, more of them than cores if need be.
#[allow(dead_code, reason = "each test program uses what it needs of this module")]
pub(crate) fn mpirun(ranks: usize, arguments: &str) -> Command {
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--oversubscribe", "-n", &ranks.to_string(), env!("CARGO_BIN_EXE_simclr-train")]);
    mpirun.args(arguments.split_whitespace()).stdin(Stdio::null());
    mpirun.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    mpirun
}

/// What it said and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let ended = Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        ended
    }
}

pub(crate) fn run(arguments: &str) -> Ended {
    program(arguments).output().unwrap().into()
}

/// Runs it to its result, the object on the last line of stdout.
#[allow(dead_code, reason = "each test program uses what it needs of this module")]
pub(crate) fn result(arguments: &str) -> Value {
    let ended = run(&format!("{arguments} --json"));
    assert_eq!(ended.status, Some(0), "{arguments}\n{}", ended.stderr);
    serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap()
}

/// Small enough for a test, big enough that a signal finds it still running.
#[allow(dead_code, reason = "each test program uses what it needs of this module")]
pub(crate) const SMALL: &str =
    "pretrain --data shapes --subset 512 --width 8 --batch 64 --epochs 3 --knn-every 1 --checkpoint-every 1";

/// Model and optimizer of a run's newest checkpoint, the model of its best, and its metrics without what was measured with a clock.
#[allow(dead_code, reason = "each test program uses what it needs of this module")]
pub(crate) fn end_of(run: &Path) -> (Vec<u8>, Vec<u8>, Option<Vec<u8>>, Vec<Value>) {
    let file = |pointer: &str, name: &str| {
        let checkpoint = fs::read_to_string(run.join("checkpoints").join(pointer)).ok()?;
        Some(fs::read(run.join("checkpoints").join(checkpoint.trim()).join(name)).unwrap())
    };
    let latest = |name: &str| file("latest", name).unwrap();
    (latest("model.safetensors"), latest("optimizer.safetensors"), file("best", "model.safetensors"), metrics(run))
}

/// The lines of a run's metrics without what was measured with a clock.
#[allow(dead_code, reason = "each test program uses what it needs of this module")]
pub(crate) fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let without_clock = |line: &str| {
        let mut event: Value = serde_json::from_str(line).unwrap();
        let fields = event.as_object_mut().unwrap();
        ["pairs_per_s", "data_wait_share", "peak_mib", "time"].iter().for_each(|name| drop(fields.remove(*name)));
        event
    };
    text.lines().map(without_clock).collect()
}

/// CIFAR-10 in its binary form with `records` pictures of a formula in every file.
#[allow(dead_code, reason = "each test program uses what it needs of this module")]
pub(crate) fn write_cifar10(data_dir: &Path, records: u32) {
    let names = (1..=5).map(|i| format!("data_batch_{i}.bin")).chain(["test_batch.bin".to_owned()]);
    write_cifar(&data_dir.join("cifar-10-batches-bin"), names, records, |label| vec![label]);
}

/// The same of CIFAR-100: coarse labels are two fine ones each.
#[allow(dead_code, reason = "each test program uses what it needs of this module")]
pub(crate) fn write_cifar100(data_dir: &Path, records: u32) {
    let names = ["train.bin", "test.bin"].map(str::to_owned).into_iter();
    write_cifar(&data_dir.join("cifar-100-binary"), names, records, |label| vec![label / 2, label]);
}

fn write_cifar(folder: &Path, names: impl Iterator<Item = String>, records: u32, labels: impl Fn(u8) -> Vec<u8>) {
    fs::create_dir_all(folder).unwrap();
    for (file, name) in names.enumerate() {
        let mut bytes = Vec::new();
        for record in 0..records {
            let label = (record + file as u32) % 10;
            bytes.extend(labels(label as u8));
            bytes.extend((0..3_072u32).map(|i| (i * (label + 1) / 7 + 13 * record) as u8));
        }
        fs::write(folder.join(name), bytes).unwrap();
    }
}
