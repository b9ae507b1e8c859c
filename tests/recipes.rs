//! Presets, files of settings and flags, and what they make of a training.

mod program;

use std::fs;
use std::path::Path;

use program::{end_of, metrics, result, run};

const TINY: &str = "pretrain --data shapes --subset 256 --width 4 --arch resnet18 --batch 32 --epochs 2 --knn-every 0";

fn settings(folder: &Path) -> toml::Table {
    fs::read_to_string(folder.join("config.toml")).unwrap().parse().unwrap()
}

#[test]
fn flags_go_over_a_file_and_a_file_over_a_preset() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let file = dir.path().join("mine.toml");
    fs::write(&file, "temperature = 0.2\nbatch = 16\nhidden_dim = 48\n[augmentation]\nhue = 0.05\n").unwrap();
    let flags = "--data shapes --subset 64 --arch resnet18 --width 4 --batch 32 --epochs 1 --max-steps 1";
    result(&format!("pretrain --preset cifar --config {} {flags} --run {}", file.display(), folder.display()));
    let saved = settings(&folder);
    let float = |name: &str| saved[name].as_float();
    // From the preset, the file and the flags.
    assert_eq!((saved["optimizer"].as_str(), float("weight_decay")), (Some("sgd"), Some(5e-4)));
    assert_eq!((saved["hidden_dim"].as_integer(), float("temperature")), (Some(48), Some(0.2)));
    assert_eq!((saved["batch"].as_integer(), saved["data"].as_str()), (Some(32), Some("shapes")));
    let augmentation = saved["augmentation"].as_table().unwrap();
    assert_eq!(augmentation["hue"].as_float(), Some(0.05));
    assert_eq!(augmentation["crop_scale"].as_array().unwrap()[0].as_float(), Some(0.2));

    // What was saved is a file of settings, and gives the same training.
    let again = dir.path().join("again");
    let config = folder.join("config.toml");
    result(&format!("pretrain --config {} --max-steps 1 --run {}", config.display(), again.display()));
    assert_eq!(settings(&again), saved);
    assert!(end_of(&again).0 == end_of(&folder).0);
    // Typed once more with --resume, preset and file change nothing.
    let more = format!("pretrain --preset cifar --config {} {flags} --resume", file.display());
    result(&format!("{more} --run {}", folder.display()).replace("--max-steps 1", "--max-steps 2"));
}

#[test]
fn a_file_with_mistakes_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.toml");
    for (text, part) in [
        ("optimiser = \"sgd\"", "optimiser is no setting: did you mean optimizer?"),
        ("epochs = 1\nbatch = \"many\"", "line 2"),
        ("optimizer = \"sgd\"\nbeta1 = 0.9", "beta1 belongs to adam and adamw"),
        ("batch = 100\nchunk = 30", "--chunk is 30, expected a divisor of --batch, which is 100"),
    ] {
        fs::write(&file, text).unwrap();
        let ended = run(&format!("pretrain --config {} --run {}", file.display(), dir.path().join("run").display()));
        assert_eq!(ended.status, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
        assert!(!dir.path().join("run").exists());
    }
    let ended = run(&format!("pretrain --config {}", dir.path().join("none.toml").display()));
    assert_eq!(ended.status, Some(1));
    assert!(ended.stderr.contains("none.toml: No such file"), "{}", ended.stderr);
}

#[test]
fn every_optimizer_and_its_schedule_go_through_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mut ends = Vec::new();
    let schedule = "--schedule cosine --warmup 0.5 --clip-norm 5 --log-every 1";
    for (optimizer, flags) in [
        ("adam", "--lr 1e-3"),
        ("adamw", "--lr 1e-3 --weight-decay 0.05"),
        ("sgd", "--lr 0.2 --lr-rule linear --nesterov"),
        ("lars", "--lr 0.1 --lr-rule sqrt --weight-decay 1e-4"),
    ] {
        let [whole, folder] = ["", "-stopped"].map(|end| dir.path().join(format!("{optimizer}{end}")));
        let typed = format!("{TINY} {schedule} --optimizer {optimizer} {flags}");
        result(&format!("{typed} --run {}", whole.display()));
        result(&format!("{typed} --max-steps 5 --run {}", folder.display()));
        result(&format!("pretrain --resume --run {}", folder.display()));
        assert!(end_of(&folder) == end_of(&whole), "{optimizer}");
        let events = metrics(&whole);
        let steps = events.iter().filter(|event| event["event"] == "step");
        let of = |name: &str| -> Vec<f64> { steps.clone().map(|event| event[name].as_f64().unwrap()).collect() };
        let (rates, losses, norms) = (of("lr"), of("loss"), of("grad_norm"));
        assert_eq!(rates.len(), 16);
        // Four steps of warm-up from 0, then down.
        assert!(
            rates[0] == 0.0 && rates[1] < rates[2] && rates[4] > rates[5] && rates[15] < 0.05 * rates[4],
            "{rates:?}"
        );
        assert!(norms.iter().all(|norm| norm.is_finite() && *norm > 0.0), "{norms:?}");
        // The first step has a rate of 0 and moves nothing: all begin alike and go their ways.
        ends.push((losses[..2].to_vec(), losses[15]));
    }
    assert!(ends.windows(2).all(|two| two[0].0 == two[1].0 && two[0].1 != two[1].1), "{ends:?}");
}

#[test]
fn chunks_and_sums_of_batches_train() {
    let dir = tempfile::tempdir().unwrap();
    let [plain, chunked, summed] = ["plain", "chunked", "summed"].map(|name| dir.path().join(name));
    let losses = |folder: &Path, flags: &str| -> Vec<f64> {
        let object = result(&format!("{TINY} {flags} --log-every 1 --run {}", folder.display()));
        assert!(object["pairs_per_s"].as_f64().unwrap() > 0.0);
        let events = metrics(folder);
        events.iter().filter(|event| event["event"] == "step").map(|event| event["loss"].as_f64().unwrap()).collect()
    };
    let plain = losses(&plain, "");
    let chunks = losses(&chunked, "--chunk 16");
    assert_eq!((plain.len(), chunks.len()), (16, 16));
    // The same pictures under a batch norm of half as many: near, and not the same.
    assert!((plain[0] - chunks[0]).abs() < 0.2 && plain[0] != chunks[0], "{plain:?} {chunks:?}");
    assert_eq!(losses(&summed, "--accumulate 3").len(), 4, "8 batches are 2 steps of 3, twice");
}

/// How far each parameter of a run of `steps` steps is from where it began.
fn moved(dir: &Path, name: &str, flags: &str, steps: usize) -> Vec<f64> {
    let plain = "--optimizer sgd --momentum 0 --lr 1 --weight-decay 0";
    let ends = [0, steps].map(|steps| {
        let folder = dir.join(format!("{name}-{steps}"));
        result(&format!("{TINY} {plain} {flags} --max-steps {steps} --run {}", folder.display()));
        let path = folder.join(format!("checkpoints/step-{steps:08}/model.safetensors"));
        let mut tensors: Vec<_> =
            candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap().into_iter().collect();
        tensors.retain(|(name, _)| !name.contains("running_") && !name.contains("num_batches"));
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let numbers = tensors.iter().flat_map(|(_, t)| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        numbers.map(f64::from).collect::<Vec<_>>()
    });
    ends[1].iter().zip(&ends[0]).map(|(end, start)| end - start).collect()
}

fn norm(numbers: &[f64]) -> f64 {
    numbers.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn a_clipped_step_has_the_norm_that_it_may_have() {
    let dir = tempfile::tempdir().unwrap();
    let free = moved(dir.path(), "free", "", 1);
    let clipped = moved(dir.path(), "clipped", "--clip-norm 0.125", 1);
    assert!(norm(&free) > 0.25 && (norm(&clipped) - 0.125).abs() < 1e-4, "{} {}", norm(&free), norm(&clipped));
    let cosine: f64 = free.iter().zip(&clipped).map(|(a, b)| a * b).sum::<f64>() / norm(&free) / norm(&clipped);
    assert!(cosine > 0.9999, "{cosine}");
    // A limit that is not reached changes nothing.
    assert!(moved(dir.path(), "wide", "--clip-norm 1e6", 1) == free);
}

#[test]
fn a_sum_of_two_batches_moves_by_their_mean() {
    let dir = tempfile::tempdir().unwrap();
    let both = moved(dir.path(), "both", "--accumulate 2", 1);
    let first = moved(dir.path(), "first", "", 1);
    // Eight steps of warm-up: the first moves nothing, and the second, of the second batch, goes an eighth of its way.
    let second = moved(dir.path(), "second", "--warmup 1", 2);
    let mean: Vec<f64> = first.iter().zip(&second).map(|(a, b)| (a + 8.0 * b) / 2.0).collect();
    let apart: Vec<f64> = mean.iter().zip(&both).map(|(mean, both)| mean - both).collect();
    assert!(norm(&apart) < 1e-3 * norm(&both) && norm(&both) > 0.1, "{} {}", norm(&apart), norm(&both));
}

#[test]
fn presets_are_listed_and_printed() {
    let listed = run("presets").stdout;
    for name in ["quick", "cs231n", "cifar", "imagenet"] {
        assert!(listed.contains(name), "{listed}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("quick.toml");
    fs::write(&file, run("presets quick").stdout).unwrap();
    // What is printed is a file of settings.
    let flags = "--data shapes --subset 128 --max-steps 1";
    result(&format!("pretrain --config {} {flags} --run {}", file.display(), dir.path().join("run").display()));
}
