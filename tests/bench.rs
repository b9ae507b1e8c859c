//! The benchmarks of the program: they measure what they say, and say what they measured.

mod program;

use program::result;

/// The fields of an object, in order, and those numbers among them that a measurement must make positive.
fn measured(arguments: &str, fields: &[&str], positive: &[&str]) {
    let object = result(arguments);
    let found: Vec<&String> = object.as_object().unwrap().keys().collect();
    assert_eq!(found, fields, "{arguments}");
    for name in positive {
        assert!(object[name].as_f64().unwrap() > 0.0, "{arguments}: {object}");
    }
}

#[test]
fn every_benchmark_has_its_fields() {
    let model = "--arch resnet18 --width 4 --batch 4 --steps 1 --threads 1";
    let step = [
        "arch",
        "batch",
        "chunk",
        "device",
        "gflops",
        "pairs_per_s",
        "peak_mib",
        "precision",
        "s_per_step",
        "steps",
        "threads",
        "width",
    ];
    measured(&format!("bench step {model}"), &step, &["gflops", "pairs_per_s", "s_per_step"]);
    let infer = ["arch", "batch", "device", "images_per_s", "peak_mib", "precision", "s_per_batch", "threads", "width"];
    measured(&format!("bench infer {model}"), &infer, &["images_per_s", "s_per_batch"]);
    let loss = ["batch", "dim", "form", "peak_mib_above_start", "s", "threads"];
    let knn = ["bank", "dim", "gflops", "k", "peak_mib_above_start", "queries", "s", "threads"];
    measured("bench knn --bank 300 --queries 50 --dim 8 --k 7 --steps 1 --threads 1", &knn, &["s", "gflops"]);
    measured("bench loss --batch 16 --dim 8 --steps 1 --threads 1", &loss, &["s"]);
    for threads in [1, 2] {
        let data = if threads == 2 { "--data shapes --subset 64" } else { "" };
        let flags = format!("bench augment --size 8 --steps 1 --threads {threads} {data}");
        measured(&flags, &["data", "size", "threads", "views_per_s"], &["views_per_s"]);
    }
}
