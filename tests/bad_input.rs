//! What is wrong with what the program is given: one message that names it, the right exit status, nothing left behind.

mod program;

use std::fs;
use std::path::Path;
use std::process::Command;

use program::{Ended, program, run, write_cifar10};

const SMALL: &str = "pretrain --data shapes --subset 128 --width 4 --batch 32 --epochs 1 --quiet";

/// `--quiet` leaves only the error: one line that has all of `parts`.
fn refused(ended: &Ended, status: i32, parts: &[&str]) {
    assert_eq!(ended.status, Some(status), "{}", ended.stderr);
    assert_eq!(ended.stdout, "", "a failure has no result");
    assert!(parts.iter().all(|part| ended.stderr.contains(part)), "{parts:?} are not all in: {}", ended.stderr);
    assert!(ended.stderr.starts_with("error: ") && ended.stderr.lines().count() == 1, "{}", ended.stderr);
}

#[test]
fn arguments_are_checked_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    for (flags, parts) in [
        ("--batch 1", &["--batch is 1", "at least 2"][..]),
        ("--batch 0", &["--batch is 0"]),
        ("--batch 129", &["--batch is 129", "128"]),
        ("--subset 10001", &["--subset is 10001", "10000"]),
        ("--subset 0", &["--subset is 0"]),
        ("--temperature 0", &["--temperature is 0", "above 0"]),
        ("--temperature nan", &["--temperature is NaN"]),
        ("--temperature=-0.5", &["--temperature is -0.5"]),
        ("--lr 0", &["--lr is 0"]),
        ("--lr inf", &["--lr is inf"]),
        ("--weight-decay=-1", &["--weight-decay is -1"]),
        ("--epochs 0", &["--epochs is 0"]),
        ("--holdout 1", &["--holdout is 1"]),
        ("--width 0", &["--width is 0"]),
        ("--feature-dim 0", &["--feature-dim is 0"]),
        ("--arch resnet19", &["resnet19", "resnet18", "resnet34", "resnet50"]),
        ("--views both", &["--views is both", "separate", "joint"]),
        ("--optimizer larz", &["--optimizer is larz", "adam or adamw or sgd or lars"]),
        ("--momentum 0.9", &["--momentum belongs to sgd and lars, but --optimizer is adam"]),
        ("--optimizer sgd --momentum 1", &["--momentum is 1, expected from 0 to below 1"]),
        ("--schedule linear", &["--schedule is linear", "constant or cosine or step"]),
        ("--schedule step", &["--schedule is step, expected --milestones"]),
        ("--milestones 1", &["--milestones belongs to the step schedule"]),
        ("--warmup 1", &["--warmup is 1, expected from 0 to below the 1 epochs"]),
        ("--lr-rule log", &["--lr-rule is log", "none or linear or sqrt"]),
        ("--chunk 5", &["--chunk is 5, expected a divisor of --batch, which is 32"]),
        ("--chunk 1", &["--chunk is 1"]),
        ("--accumulate 0", &["--accumulate is 0"]),
        ("--accumulate 5", &["--accumulate is 5, but an epoch has only 4 batches"]),
        ("--clip-norm 0", &["--clip-norm is 0"]),
        ("--keep 0", &["--keep is 0"]),
        ("--head-layers 65", &["`head_layers` is 65"]),
        ("--preset imagnet", &["--preset is imagnet", "did you mean imagenet?"]),
        ("--precision f8", &["--precision is f8", "f32"]),
        ("--precision f16 --device cpu", &["--precision is f16, which GPUs alone compute in", "expected f32 or bf16"]),
        ("--device gpu", &["--device is gpu", "cuda:N"]),
        ("--threads 0", &["--threads is 0"]),
        ("--knn-k 0", &["--knn-k is 0"]),
        ("--knn-temperature 0", &["--knn-temperature is 0"]),
        ("--data mnist", &["--data is mnist", "shapes", "cifar10"]),
    ] {
        // A flag that is there twice is another mistake.
        let name = flags.split([' ', '=']).next().unwrap();
        let mut words: Vec<&str> = SMALL.split(' ').collect();
        if let Some(at) = words.iter().position(|word| *word == name) {
            words.drain(at..at + 2);
        }
        refused(&run(&format!("{} {flags} --run {}", words.join(" "), folder.display())), 2, parts);
        assert!(!folder.exists(), "{flags} left a run folder behind");
    }
}

#[test]
fn the_command_line_itself() {
    for (typed, part) in [
        ("pretrain --no-such-flag", "--no-such-flag"),
        ("no-such-command", "no-such-command"),
        ("pretrain --epochs many", "--epochs"),
        ("pretrain --resume", "--run"),
        ("knn", "--checkpoint"),
        ("--epochs 3 pretrain", "pretrain"),
        ("bench step --steps 0", "--steps is 0, expected at least 1"),
        ("bench infer --steps 0", "--steps is 0, expected at least 1"),
        ("bench augment --size 0", "--size is 0, expected a number of pixels from 1 to 4096"),
        ("augment --out never.png --pictures 0", "--pictures is 0, expected a number from 1 to 100"),
        ("augment --out never.png --views 101", "--views is 101, expected a number from 1 to 100"),
        ("augment --out never.png --first 10000", "--first is 10000, but shapes has 10000 pictures"),
        ("augment --out never.png --size 5000", "--size is 5000, expected a number of pixels from 1 to 4096"),
        ("augment --out never.png --min-crop 0", "recipe.crop_scale is [0, 1]"),
        ("augment --out never.png --blur 2", "recipe.blur_probability is 2, expected a probability from 0 to 1"),
        ("bench augment --threads 0", "--threads is 0, expected at least 1"),
    ] {
        let ended = run(typed);
        assert_eq!(ended.status, Some(2), "{typed}: {}", ended.stderr);
        assert!(ended.stderr.contains(part), "{typed}: {}", ended.stderr);
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let ended = run(&format!("{SMALL} --device cuda --run {}", folder.display()));
    refused(&ended, 1, &["--device is cuda", "this build has no CUDA", "--features cuda"]);
    assert!(!folder.exists());
}

#[test]
fn data_files_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let folder = dir.path().join("run");
    let file = |name: &str| data.join("cifar-10-batches-bin").join(name);
    let cifar = || {
        let flags = "pretrain --data cifar10 --width 4 --batch 8 --epochs 1 --quiet";
        run(&format!("{flags} --data-dir {} --run {}", data.display(), folder.display()))
    };
    refused(&cifar(), 1, &["cifar-10-batches-bin", "fetch cifar10"]);

    write_cifar10(&data, 10);
    let cut = file("data_batch_3.bin");
    fs::write(&cut, &fs::read(&cut).unwrap()[..5_000]).unwrap();
    refused(&cifar(), 1, &["data_batch_3.bin", "5000", "3073"]);

    write_cifar10(&data, 10);
    let wrong = file("test_batch.bin");
    let mut bytes = fs::read(&wrong).unwrap();
    bytes[4 * 3_073] = 10;
    fs::write(&wrong, bytes).unwrap();
    refused(&cifar(), 1, &["test_batch.bin", "10"]);

    write_cifar10(&data, 10);
    fs::remove_file(file("data_batch_5.bin")).unwrap();
    refused(&cifar(), 1, &["data_batch_5.bin"]);

    write_cifar10(&data, 10);
    fs::write(file("data_batch_2.bin"), "").unwrap();
    refused(&cifar(), 1, &["data_batch_2.bin"]);
    assert!(!folder.exists());
}

#[test]
fn checkpoints_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let knn = |checkpoint: &Path| run(&format!("knn --data shapes --quiet --checkpoint {}", checkpoint.display()));
    refused(&knn(&path("nothing")), 1, &["nothing"]);
    refused(&knn(dir.path()), 1, &["model.safetensors"]);
    fs::write(path("text.safetensors"), "no weights").unwrap();
    refused(&knn(&path("text.safetensors")), 1, &["text.safetensors"]);
    fs::create_dir(path("run")).unwrap();
    fs::write(path("run/config.toml"), "epochs = \"many\"").unwrap();
    refused(&knn(&path("run")), 1, &["config.toml"]);
    refused(&run(&format!("pretrain --resume --quiet --run {}", path("run").display())), 1, &["config.toml"]);
}

#[test]
fn a_run_folder_that_cannot_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    for folder in [file.clone(), file.join("run")] {
        refused(&run(&format!("{SMALL} --run {}", folder.display())), 1, &[folder.to_str().unwrap()]);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

/// Runs the program with `options` of a small file system of its own at `folder`; none where that is not allowed.
fn on_file_system(options: &str, folder: &Path, arguments: &str) -> Option<Ended> {
    let mount = |then: &str| {
        let script = format!("mount -t tmpfs -o {options} none {} && {then}", folder.display());
        Command::new("unshare").args(["--mount", "sh", "-c", &script]).output()
    };
    if !mount("true").is_ok_and(|output| output.status.success()) {
        // Only root may mount, and not everywhere.
        #[allow(clippy::print_stderr, reason = "who reads the test's output must know")]
        {
            eprintln!("SKIPPED: unshare --mount is not allowed here; {options} was not tried");
        }
        return None;
    }
    let command = program(arguments);
    let words: Vec<&str> =
        std::iter::once(command.get_program()).chain(command.get_args()).filter_map(|w| w.to_str()).collect();
    Some(mount(&format!("{} </dev/null", words.join(" "))).unwrap().into())
}

#[test]
fn a_read_only_disk() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = format!("{SMALL} --run {}/run", dir.path().display());
    if let Some(ended) = on_file_system("ro", dir.path(), &arguments) {
        refused(&ended, 1, &["/run: the run folder cannot be written", "Read-only file system"]);
    }
}

#[test]
fn a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = format!("{SMALL} --width 16 --run {}/run", dir.path().display()).replace("--width 4 ", "");
    if let Some(ended) = on_file_system("size=256k", dir.path(), &arguments) {
        refused(&ended, 1, &["/run/checkpoints/step-00000004: the checkpoint cannot be written", "No space left"]);
    }
}
