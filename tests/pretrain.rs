//! Training runs of the real program, from the start to the result.

mod program;

use std::fs;

use program::{Ended, SMALL, end_of, metrics, program, result, run, write_cifar10, write_cifar100};
use serde_json::Value;

#[test]
fn cifar_100_is_learned_from_and_judged_by_either_labels() {
    let dir = tempfile::tempdir().unwrap();
    write_cifar100(dir.path(), 40);
    let (data, folder) = (dir.path().display(), dir.path().join("run"));
    let flags = "pretrain --data cifar100 --width 4 --batch 8 --epochs 1";
    let object = result(&format!("{flags} --data-dir {data} --run {}", folder.display()));
    assert_eq!((&object["steps"], &object["finished"]), (&5.into(), &true.into()));
    // A run says its set by itself; its labels may be others.
    let top1 =
        |flags: &str| result(&format!("knn --checkpoint {} {flags}", folder.display()))["top1"].as_f64().unwrap();
    assert_eq!(top1(""), object["knn_top1"].as_f64().unwrap());
    assert!(
        top1(&format!("--data cifar100-coarse --data-dir {data}")) >= top1(""),
        "pairs of classes are less to tell apart"
    );
}

#[test]
fn bf16_learns_as_f32_does() {
    let dir = tempfile::tempdir().unwrap();
    let losses = |precision: &str| -> Vec<f64> {
        let folder = dir.path().join(precision);
        let arguments = format!("{SMALL} --precision {precision} --run {}", folder.display());
        let Ended { status, stderr, .. } = run(&arguments);
        assert_eq!(status, Some(0), "{stderr}");
        assert_eq!(stderr.contains("a CPU multiplies in f32 here"), precision == "bf16", "{stderr}");
        metrics(&folder).iter().filter(|e| e["event"] == "epoch").map(|e| e["loss"].as_f64().unwrap()).collect()
    };
    let [f32, bf16] = ["f32", "bf16"].map(losses);
    assert_eq!(bf16.len(), 3);
    assert!(f32 != bf16, "the flag changes the numbers");
    // From the same initial values and views; 24 steps do not carry roundings of 2^-9 far.
    assert!(f32.iter().zip(&bf16).all(|(a, b)| (a - b).abs() < 0.03 * a), "{f32:?} {bf16:?}");
}

#[test]
fn a_run_trains_evaluates_and_reports() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let object = result(&format!("{SMALL} --run {}", folder.display()));
    assert_eq!((&object["epochs"], &object["steps"], &object["finished"]), (&3.into(), &24.into(), &true.into()));
    assert_eq!(object["run"], folder.to_str().unwrap());
    let number = |name: &str| object[name].as_f64().unwrap_or_else(|| panic!("{name} in {object}"));
    assert!(number("pairs_per_s") > 0.0 && number("seconds") > 0.0);

    let losses: Vec<f64> =
        metrics(&folder).iter().filter(|e| e["event"] == "epoch").map(|e| e["loss"].as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 3);
    assert_eq!(losses[2], number("loss"), "the loss of the result is the mean of the last epoch");
    // ln(2·64 − 1) is what guessing gives; a first epoch of 8 steps may still be above it.
    assert!(losses[2] < 127f64.ln() && losses[2] < losses[0], "{losses:?}");

    for protocol in [0, 1] {
        let accuracy = |encoder: &str| object["knn"][encoder][protocol]["top1"].as_f64().unwrap();
        assert!(accuracy("trained") > accuracy("raw_pixels"), "{object}");
    }
    let again = result(&format!("knn --checkpoint {}", folder.display()));
    assert_eq!(
        (&again["top1"], &again["top5"]),
        (&object["knn_top1"], &object["knn_top5"]),
        "the saved encoder is the trained one"
    );
    assert_eq!((&again["bank"], &again["queries"], &again["k"]), (&512.into(), &2_000.into(), &200.into()));
    let confusion = again["confusion"].as_array().unwrap();
    let right: u64 = (0..10).map(|class| confusion[class][class].as_u64().unwrap()).sum();
    assert!((right as f64 / 2_000.0 - again["top1"].as_f64().unwrap()).abs() < 1e-12, "{again}");
    assert_eq!(again["per_class"].as_object().unwrap().len(), 10);
    for (name, baseline) in [("raw_pixels", "raw_pixels"), ("random_encoder", "random")] {
        assert_eq!(again[name][0]["top1"], object["knn"][baseline][0]["top1"], "{name}");
    }
    // The file of the best checkpoint and a bare weights file work too.
    for checkpoint in ["checkpoints/best", "checkpoints/step-00000024/model.safetensors"] {
        let path = folder.join(checkpoint);
        let data = "--data shapes --subset 512";
        assert!(result(&format!("knn --checkpoint {} {data}", path.display()))["top1"].as_f64().unwrap() > 0.1);
    }

    let report = fs::read_to_string(folder.join("report.html")).unwrap();
    let top1 = format!("{:.2} %", 100.0 * number("knn_top1"));
    assert!(report.contains(&top1) && report.contains("data:image/png;base64,"), "the report shows {top1}");
    assert!(fs::read_to_string(folder.join("curves.svg")).unwrap().contains("<polyline"));
    let saved: Value = serde_json::from_str(&fs::read_to_string(folder.join("result.json")).unwrap()).unwrap();
    assert_eq!(saved, object);

    // A finished run has nothing to go on with: it says its result once more, at once.
    assert_eq!(result(&format!("pretrain --resume --run {}", folder.display())), object);
}

#[test]
fn threads_and_workers_do_not_change_a_bit() {
    let dir = tempfile::tempdir().unwrap();
    let end = |name: &str, flags: &str| {
        let folder = dir.path().join(name);
        result(&format!("{SMALL} --max-steps 6 --run {} {flags}", folder.display()));
        end_of(&folder)
    };
    assert!(end("a", "--threads 1 --workers 1") == end("b", "--threads 3 --workers 4"));
}

#[test]
fn the_quick_preset_takes_cifar10_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let small = format!("--subset 40 --batch 8 --width 4 --max-steps 2 --data-dir {}", dir.path().display());
    let data = |name: &str| {
        let folder = dir.path().join(name);
        let ended = run(&format!("{small} --run {}", folder.display()));
        assert_eq!(ended.status, Some(0), "{}", ended.stderr);
        let config: toml::Table = fs::read_to_string(folder.join("config.toml")).unwrap().parse().unwrap();
        (config["data"].as_str().unwrap().to_owned(), ended.stderr)
    };
    let (name, said) = data("without");
    assert_eq!(name, "shapes");
    assert!(said.contains("quick preset: about "), "{said}");
    write_cifar10(dir.path(), 10);
    let (name, said) = data("with");
    assert_eq!(name, "cifar10");
    assert!(said.contains("data_batch_1.bin") && said.contains("10000"), "files this short deserve a remark: {said}");
}

#[test]
fn help_needs_no_reader_and_says_how_to_begin() {
    let ended = run("--help");
    assert_eq!(ended.status, Some(0));
    for word in ["pretrain", "knn", "--json", "fetch cifar10", "130"] {
        assert!(ended.stdout.contains(word), "{word} is missing in:\n{}", ended.stdout);
    }
    // A pipe that nobody reads is no reason to panic.
    let mut child =
        program("--help").stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let _: Ended = child.wait_with_output().unwrap().into();
}
