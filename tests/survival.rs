//! Runs that are interrupted, killed, damaged or out of space, and go on.

mod program;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use program::{Ended, SMALL, end_of, program, result, run};

#[test]
fn a_resumed_run_ends_in_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let expected = result(&format!("{SMALL} --run {}", whole.display()));
    let expected_end = end_of(&whole);
    let same = |folder: &Path| {
        let object = result(&format!("pretrain --resume --run {}", folder.display()));
        for field in ["loss", "steps", "knn_top1", "knn_top1_random", "knn"] {
            assert_eq!(object[field], expected[field], "{field} of {}", folder.display());
        }
        assert!(end_of(folder) == expected_end, "{}: other weights or metrics", folder.display());
    };

    // Stopped in the middle of an epoch, twice.
    let folder = dir.path().join("stopped");
    for steps in [5, 13] {
        let resume = if steps == 5 { SMALL } else { "pretrain --resume" };
        let object = result(&format!("{resume} --run {} --max-steps {steps}", folder.display()));
        assert_eq!((&object["steps"], &object["finished"]), (&steps.into(), &false.into()));
    }
    same(&folder);

    #[cfg(unix)]
    for (signal, events) in [("INT", 1), ("TERM", 4), ("KILL", 8)] {
        let folder = dir.path().join(signal);
        let ended = signalled(&folder, signal, events);
        if signal == "KILL" {
            assert_eq!(ended.status, None, "{}", ended.stderr);
            // What a killed writer leaves behind.
            fs::create_dir_all(folder.join("checkpoints/step-00000099.part")).unwrap();
        } else {
            assert_eq!(ended.status, Some(130), "{}", ended.stderr);
            let hint = format!("go on with: simclr-train pretrain --run {} --resume", folder.display());
            assert!(ended.stderr.contains(&hint), "{}", ended.stderr);
        }
        assert!(!folder.join("result.json").exists());
        same(&folder);
    }
}

/// A run with its output kept, when its metrics have `events` lines.
fn started(arguments: &str, folder: &Path, events: usize) -> Child {
    let child = program(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    let written = || fs::read_to_string(folder.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    while written() < events {
        assert!(began.elapsed() < Duration::from_secs(120), "the run does not write its metrics");
        sleep(Duration::from_millis(2));
    }
    child
}

#[cfg(unix)]
fn send(signal: &str, child: &Child) {
    let status = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// Starts a run and sends it a signal when its metrics have `events` lines.
#[cfg(unix)]
fn signalled(folder: &Path, signal: &str, events: usize) -> Ended {
    let child = started(&format!("{SMALL} --run {}", folder.display()), folder, events);
    send(signal, &child);
    child.wait_with_output().unwrap().into()
}

/// Runs `typed` to its end, and once more with `parts` of it killed at random moments (in the middle of steps, tests, checkpoints and
/// starts) within `most` of their start, each with other threads: both must end in the same bits.
#[cfg(unix)]
fn killed(typed: &str, parts: u64, most: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let [whole, folder] = ["whole", "killed"].map(|name| dir.path().join(name));
    let expected = result(&format!("{typed} --run {}", whole.display()));
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut random = seed;
    let mut kills = 0;
    for part in 0..parts {
        let arguments = if folder.join("config.toml").exists() {
            format!("pretrain --resume --run {} --threads {}", folder.display(), 1 + part % 3)
        } else {
            format!("{typed} --run {}", folder.display())
        };
        let mut child = program(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        sleep(Duration::from_millis(40 + (random >> 33) % most.as_millis() as u64));
        let signal = if part % 4 == 3 { "TERM" } else { "KILL" };
        if child.try_wait().unwrap().is_none() {
            send(signal, &child);
            kills += 1;
        }
        child.wait().unwrap();
    }
    assert!(kills >= parts / 4, "seed {seed}: only {kills} kills found it alive");
    let object = result(&format!("pretrain --resume --run {}", folder.display()));
    for field in ["loss", "steps", "knn_top1", "knn_top1_random", "knn"] {
        assert_eq!(object[field], expected[field], "{field}, seed {seed}");
    }
    assert!(end_of(&folder) == end_of(&whole), "seed {seed}: other weights or metrics after {kills} kills");
    let left: Vec<_> = fs::read_dir(folder.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with("part")), "{left:?}");
}

/// Checkpoints all the time, so that many a kill finds one half written.
#[cfg(unix)]
const BUSY: &str = "--accumulate 2 --checkpoint-minutes 0.0005 --log-every 1 --keep 3";

#[cfg(unix)]
#[test]
fn killed_at_random_moments_it_ends_in_the_same_bits() {
    killed(&format!("{SMALL} {BUSY}"), 12, Duration::from_millis(700));
}

/// By hand: `cargo test --release -p simclr-train --test survival -- --ignored`, some minutes.
#[cfg(unix)]
#[test]
#[ignore = "a long campaign"]
fn killed_two_hundred_times_it_ends_in_the_same_bits() {
    let typed =
        "pretrain --data shapes --subset 2000 --width 16 --batch 50 --epochs 12 --knn-every 1 --checkpoint-every 1";
    killed(
        &format!("{typed} {BUSY} --optimizer lars --lr 0.5 --schedule cosine --warmup 2"),
        200,
        Duration::from_millis(1200),
    );
}

/// A limit on the size of files is to the program what a full disk is: a write that fails in the middle.
#[cfg(unix)]
#[test]
fn a_checkpoint_that_does_not_fit_costs_nothing_but_itself() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, folder] = ["whole", "full"].map(|name| dir.path().join(name));
    result(&format!("{SMALL} --run {}", whole.display()));
    result(&format!("{SMALL} --run {} --max-steps 10", folder.display()));
    let before = end_of(&folder);
    // 200 blocks of 512 or 1,024 bytes: metrics fit, a model of 1.1 MB does not.
    let limited = format!("ulimit -f 200; trap '' XFSZ; exec \"$0\" pretrain --resume --run {}", folder.display());
    let shell = Command::new("sh").args(["-c", &limited, env!("CARGO_BIN_EXE_simclr-train")]).output().unwrap();
    let ended: Ended = shell.into();
    assert_eq!(ended.status, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("step-00000016: the checkpoint cannot be written"), "{}", ended.stderr);
    assert!(ended.stderr.contains("File too large"), "{}", ended.stderr);
    let now = end_of(&folder);
    assert!(now.0 == before.0 && now.1 == before.1, "the checkpoint before is untouched");
    result(&format!("pretrain --resume --run {}", folder.display()));
    assert!(end_of(&folder) == end_of(&whole));
}

#[cfg(unix)]
#[test]
fn two_programs_do_not_work_on_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let status = || result(&format!("status {}", folder.display()));
    let first =
        started(&format!("{SMALL} --epochs 500 --run {}", folder.display()).replace("--epochs 3 ", ""), &folder, 2);
    let second = run(&format!("pretrain --resume --run {}", folder.display()));
    assert_eq!(second.status, Some(2), "{}", second.stderr);
    let told = format!("which another program is working on (process {})", first.id());
    assert!(second.stderr.contains(&told), "{}", second.stderr);
    let object = status();
    assert_eq!((&object["state"], &object["running"]), (&"running".into(), &true.into()));
    assert!(object["step"].as_u64().unwrap() > 0 || object["knn_held_out"].is_number(), "{object}");
    send("TERM", &first);
    let ended: Ended = first.wait_with_output().unwrap().into();
    assert_eq!(ended.status, Some(130), "{}", ended.stderr);
    let object = status();
    assert_eq!((&object["state"], &object["running"]), (&"stopped".into(), &false.into()));
    assert!(object["checkpoint"].as_u64().unwrap() > 0, "{object}");
    // Its lock went with it; there is nothing to do for one step in all.
    let third = result(&format!("pretrain --resume --run {} --max-steps 1", folder.display()));
    assert_eq!(third["steps"], object["checkpoint"], "{third}");
    let message = run(&format!("status {}", dir.path().join("nothing").display())).stderr;
    assert!(message.contains("nothing: there is no run here"), "{message}");
}

#[test]
fn from_a_damaged_checkpoint_it_goes_back_to_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, folder] = ["whole", "damaged"].map(|name| dir.path().join(name));
    result(&format!("{SMALL} --run {}", whole.display()));
    result(&format!("{SMALL} --run {} --max-steps 19", folder.display()));
    let damaged = folder.join("checkpoints/step-00000019/optimizer.safetensors");
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&damaged, bytes).unwrap();
    let ended = run(&format!("pretrain --resume --run {}", folder.display()));
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    let told = "step-00000019/optimizer.safetensors: the file is damaged";
    assert!(ended.stderr.contains(told) && ended.stderr.contains("from step 16"), "{}", ended.stderr);
    assert!(end_of(&folder) == end_of(&whole));
}

#[test]
fn a_step_that_is_not_finite_is_not_applied() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    // The first step throws the parameters out of what f32 can multiply.
    let typed = format!("{SMALL} --lr 1e30 --run {}", folder.display()).replace("--knn-every 1", "--knn-every 0");
    let ended = run(&typed);
    assert_eq!(ended.status, Some(1), "{}", ended.stderr);
    for part in ["of step 2 is", "was not applied", "--resume --skip-non-finite", "A lower --lr"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    let record = fs::read_to_string(folder.join("non_finite-step-00000002.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!((&record["step"], &record["seed"], &record["epoch"]), (&2.into(), &0.into(), &1.into()));
    assert_eq!(record["pictures"][0].as_array().unwrap().len(), 64, "{record}");
    let (model, ..) = end_of(&folder);
    // Asked to go on, it leaves batches out, but not for ever.
    let ended = run(&format!("pretrain --resume --skip-non-finite --run {}", folder.display()));
    assert_eq!(ended.status, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("the 20th in a row"), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("the batch is left out").count(), 20, "{}", ended.stderr);
    assert!(end_of(&folder).0 == model, "nothing was moved, running statistics neither");
}

#[test]
fn changed_settings_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    result(&format!("{SMALL} --max-steps 1 --run {}", folder.display()));
    let before = end_of(&folder);
    let ended = run(&format!("pretrain --resume --run {} --lr 0.5 --batch 64 --epochs 9", folder.display()));
    assert_eq!(ended.status, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("epochs") && ended.stderr.contains("learning_rate"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("batch"), "--batch 64 changes nothing: {}", ended.stderr);
    // Without --resume, a folder that has a run is never written to.
    let ended = run(&format!("{SMALL} --run {}", folder.display()));
    assert_eq!(ended.status, Some(2));
    assert!(ended.stderr.contains("has a run already"), "{}", ended.stderr);
    assert!(end_of(&folder) == before);
}

#[test]
fn what_does_not_change_the_result_may_change() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    result(&format!("{SMALL} --max-steps 1 --run {}", folder.display()));
    let flags = "--keep 5 --log-every 3 --checkpoint-minutes 0";
    result(&format!("pretrain --resume --run {} --max-steps 7 {flags}", folder.display()));
    result(&format!("pretrain --resume --run {}", folder.display()));
    let whole = dir.path().join("whole");
    result(&format!("{SMALL} --run {}", whole.display()));
    let (end, expected) = (end_of(&folder), end_of(&whole));
    assert!((end.0, end.1, end.2) == (expected.0, expected.1, expected.2));
    let config: toml::Table = fs::read_to_string(folder.join("config.toml")).unwrap().parse().unwrap();
    assert_eq!((config["keep"].as_integer(), config["log_every"].as_integer()), (Some(5), Some(3)));
}
