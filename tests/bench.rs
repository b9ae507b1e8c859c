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
        "fast",
        "gflops",
        "pairs_per_s",
        "peak_mib",
        "precision",
        "ranks",
        "s_per_step",
        "steps",
        "threads",
        "width",
    ];
    measured(&format!("bench step {model}"), &step, &["gflops", "pairs_per_s", "s_per_step"]);
    let infer = ["arch", "batch", "device", "images_per_s", "peak_mib", "precision", "s_per_batch", "threads", "width"];
    measured(&format!("bench infer {model}"), &infer, &["images_per_s", "s_per_batch"]);
    let loss = ["batch", "device", "dim", "form", "peak_mib_above_start", "s", "threads"];
    let knn = ["bank", "dim", "gflops", "k", "peak_mib_above_start", "queries", "s", "threads"];
    measured("bench knn --bank 300 --queries 50 --dim 8 --k 7 --steps 1 --threads 1", &knn, &["s", "gflops"]);
    measured("bench loss --batch 16 --dim 8 --steps 1 --threads 1", &loss, &["s"]);
    for threads in [1, 2] {
        let data = if threads == 2 { "--data shapes --subset 64" } else { "" };
        let flags = format!("bench augment --size 8 --steps 1 --threads {threads} {data}");
        measured(&flags, &["data", "device", "size", "threads", "views_per_s"], &["views_per_s"]);
    }
}

#[test]
fn a_roofline_counts_and_predicts() {
    let typed = "bench roofline --arch resnet18 --batch 512 --precision";
    let [f32, bf16] = ["f32", "bf16"].map(|precision| result(&format!("{typed} {precision}")));
    let sum = |object: &serde_json::Value, name: &str| {
        object["kernels"].as_array().unwrap().iter().map(|kernel| kernel[name].as_f64().unwrap()).sum::<f64>()
    };
    // As much to compute, less to move; and no kernel is faster than its parts.
    assert_eq!(sum(&f32, "operations"), sum(&bf16, "operations"));
    assert!(sum(&f32, "bytes") > 1.8 * sum(&bf16, "bytes"));
    assert!((sum(&bf16, "s") - bf16["s_per_step"].as_f64().unwrap()).abs() < 1e-9);
    assert!(bf16["pairs_per_s"].as_f64().unwrap() > f32["pairs_per_s"].as_f64().unwrap());
    assert_eq!(bf16["measured"], false);
    let refused = program::run("bench roofline --bandwidth 0");
    assert_eq!(refused.status, Some(2));
    assert!(refused.stderr.contains("--bandwidth is 0, expected a finite number above 0"), "{}", refused.stderr);
}

#[test]
fn the_doctor_tells_what_there_is() {
    let doctor = result("doctor --threads 2");
    assert_eq!(doctor["threads"], 2);
    assert!(doctor["instructions"].as_array().unwrap().contains(&"portable".into()));
    assert_eq!(doctor["cuda"].is_null(), !cfg!(feature = "cuda"));
    let text = program::run("doctor");
    assert!(text.status == Some(0) && text.stdout.contains("--device auto is "), "{}", text.stdout);
}

#[test]
fn scaling_is_predicted_from_what_was_measured() {
    let network = "--latency 10 --bandwidth 100 --between-latency 20 --between-bandwidth 25";
    let typed =
        format!("bench scaling --arch resnet18 --width 16 --batch 256 --step-ms 50 --loss-gflops 20000 {network}");
    let object = result(&typed);
    let steps = object["steps"].as_array().unwrap();
    let ranks: Vec<u64> = steps.iter().map(|step| step["ranks"].as_u64().unwrap()).collect();
    assert_eq!(ranks, [1, 2, 4, 8, 16, 32, 64, 128, 256]);
    let efficiency = |i: usize| steps[i]["efficiency"].as_f64().unwrap();
    assert!(efficiency(0) == 1.0 && (1..9).all(|i| efficiency(i) < efficiency(i - 1) && efficiency(i) > 0.0));
    assert_eq!((&object["batch_norms"], &object["parameters"]), (&21.into(), &832_400.into()));
    let without = result(&format!("{typed} --sync-bn false"));
    assert_eq!(without["steps"][8]["s_batch_norm"], 0.0);
    for (wrong, told) in [
        (typed.replace("--step-ms 50", "--step-ms 0"), "--step-ms is 0, expected a finite number above 0"),
        (typed.replace("--bandwidth 100", "--bandwidth inf"), "--bandwidth is inf, expected a finite number above 0"),
        (typed.replace("--batch 256", "--batch 0"), "--batch is 0, expected at least 1"),
        ("bench messages".into(), "one process has nobody to speak to"),
    ] {
        let ended = program::run(&wrong);
        assert!(ended.status == Some(2) && ended.stderr.contains(told), "{wrong}: {}", ended.stderr);
    }
}
