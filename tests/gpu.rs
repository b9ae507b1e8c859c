//! The program on a GPU, in a build with `--features cuda`; where there is none, the tests pass and say that they were skipped.
//!
//! `tests/stand_in` plays a GPU where there is none: `.ci/run` starts these tests with it.

mod program;

use std::io::Write as _;
use std::path::Path;

use program::{end_of, program, result, run};
use serde_json::Value;

/// Whether there is a GPU; says so if not.
fn has_gpu(test: &str) -> bool {
    let doctor = result("doctor");
    let found = doctor["auto"] == "cuda:0";
    if !found {
        let _ = writeln!(std::io::stderr(), "!! SKIPPED {test}: there is no GPU here ({})", doctor["cuda"]);
    }
    found
}

const SMALL: &str =
    "pretrain --data shapes --subset 256 --arch resnet18 --width 8 --batch 32 --epochs 2 --knn-every 1 --log-every 1";

fn losses(run: &Path) -> Vec<f64> {
    let metrics = program::metrics(run);
    metrics.iter().filter(|event| event["event"] == "step").map(|event| event["loss"].as_f64().unwrap()).collect()
}

#[test]
fn ten_losses_are_those_of_the_cpu() {
    if !has_gpu("ten_losses_are_those_of_the_cpu") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let train = |device: &str, more: &str| {
        let run = scratch.path().join(format!("{device} {more}").replace([' ', '-'], "_"));
        // At larger rates Adam makes of the sign of a gradient that is nothing but rounding a step as large as any other.
        result(&format!("{SMALL} --lr 1e-5 --max-steps 10 --device {device} {more} --run {}", run.display()));
        losses(&run)
    };
    let mut full = Vec::new();
    for (more, far) in [
        ("", 1e-5),
        ("--views joint", 1e-5),
        ("--chunk 16", 1e-5),
        ("--optimizer lars", 1e-5),
        ("--precision bf16", 5e-3),
    ] {
        let gpu = train("cuda", more);
        // bf16 is compared with what f32 comes to.
        let cpu = if more.contains("bf16") { full.clone() } else { train("cpu", more) };
        if more.is_empty() {
            full.clone_from(&cpu);
        }
        assert_eq!((cpu.len(), gpu.len()), (10, 10));
        for (cpu, gpu) in cpu.iter().zip(&gpu) {
            assert!((cpu - gpu).abs() <= far * cpu, "{more}: {cpu} and {gpu}");
        }
    }
}

#[test]
fn a_run_goes_on_with_the_same_bits() {
    if !has_gpu("a_run_goes_on_with_the_same_bits") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let (whole, parts) = (at("whole"), at("parts"));
    result(&format!("{SMALL} --device cuda --run {}", whole.display()));
    result(&format!("{SMALL} --device cuda --max-steps 5 --run {}", parts.display()));
    result(&format!("pretrain --run {} --resume", parts.display()));
    assert!(end_of(&whole) == end_of(&parts), "the parts are not the whole");
    let algorithms = |run: &Path| std::fs::read_to_string(run.join("algorithms.txt")).unwrap();
    assert!(algorithms(&whole).contains("Forward") && algorithms(&whole) == algorithms(&parts));
}

#[test]
fn a_fast_run_says_what_it_measured_and_goes_on() {
    if !has_gpu("a_fast_run_says_what_it_measured_and_goes_on") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let said = |typed: &str| {
        let ended = run(typed);
        assert_eq!(ended.status, Some(0), "{typed}\n{}", ended.stderr);
        let of_fast = ended.stderr.lines().filter(|line| line.contains("--fast"));
        of_fast.map(str::to_owned).collect::<Vec<_>>().join("\n")
    };
    let (fast, plain) = (at("fast"), at("plain"));
    let algorithms = |run: &Path| std::fs::read_to_string(run.join("algorithms.txt")).unwrap();
    // Past the end of the first epoch, where algorithms are kept.
    let told = said(&format!("{SMALL} --lr 1e-5 --device cuda --fast --max-steps 9 --run {}", fast.display()));
    assert!(told.contains("are measured on this GPU") && told.contains("not repeat to the bit"), "{told}");
    assert!(std::fs::read_to_string(fast.join("config.toml")).unwrap().contains("fast = true"));
    let before = algorithms(&fast);
    assert!(before.lines().all(|line| line.contains(", measured ")), "{before}");
    let resumed = run(&format!("pretrain --run {} --resume", fast.display()));
    assert_eq!(resumed.status, Some(0), "{}", resumed.stderr);
    assert!(resumed.stderr.contains("--fast") && !resumed.stderr.contains("other algorithms"), "{}", resumed.stderr);
    let after = algorithms(&fast);
    let problems =
        |text: &str| text.lines().map(|line| line.rsplit_once(": ").unwrap().0.to_owned()).collect::<Vec<_>>();
    assert!(problems(&before).iter().all(|problem| problems(&after).contains(problem)), "{before}\n{after}");
    let mut once = problems(&after);
    once.dedup();
    assert_eq!(once, problems(&after), "a problem has two algorithms");

    assert_eq!(said(&format!("{SMALL} --lr 1e-5 --device cuda --run {}", plain.display())), "");
    assert!(!algorithms(&plain).contains("measured"));
    assert_eq!((losses(&fast).len(), losses(&plain).len()), (16, 16));
    for (fast, plain) in losses(&fast).iter().zip(&losses(&plain)) {
        assert!((fast - plain).abs() < 1e-2 * plain, "{fast} and {plain}");
    }
    if result("doctor")["cuda"]["devices"][0]["name"] == "stand-in" {
        assert!(before != after && after.contains("not deterministic"), "{before}\n{after}");
    }
    let told = said(&format!("{SMALL} --device cpu --fast --max-steps 1 --run {}", at("cpu").display()));
    assert_eq!(told, "--fast has no effect on the CPU: it measures the convolutions of a GPU");
    let refused = run(&format!("pretrain --run {} --resume --fast", plain.display()));
    assert!(refused.status == Some(2) && refused.stderr.contains("fast is true, was false"), "{}", refused.stderr);
}

#[test]
fn a_step_reads_its_loss_and_the_norm_of_its_gradient() {
    let test = "a_step_reads_its_loss_and_the_norm_of_its_gradient";
    if !has_gpu(test) || result("doctor")["cuda"]["devices"][0]["name"] != "stand-in" {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    // What is counted for so many steps.
    let counted = |steps: usize| {
        let (run, counts) =
            (scratch.path().join(format!("run-{steps}")), scratch.path().join(format!("counts-{steps}")));
        let flags = "--knn-every 0 --log-every 100 --device cuda";
        let typed = "pretrain --data shapes --subset 320 --arch resnet18 --width 4 --batch 32 --epochs 1";
        let mut program = program(&format!("{typed} {flags} --max-steps {steps} --run {}", run.display()));
        assert!(program.env("STAND_IN_COUNTS", &counts).output().unwrap().status.success());
        serde_json::from_slice::<Value>(&std::fs::read(counts).unwrap()).unwrap()
    };
    let (few, many) = (counted(3), counted(7));
    let of_a_step = |name: &str| (many[name].as_f64().unwrap() - few[name].as_f64().unwrap()) / 4.0;
    assert_eq!((of_a_step("memcpy_dtoh"), of_a_step("augment_views_f32"), of_a_step("update_move")), (2.0, 1.0, 1.0));
    assert!(of_a_step("synchronize") <= 2.0 && of_a_step("memcpy_htod") <= 4.0, "{many}");
}

#[test]
fn an_evaluation_is_that_of_the_cpu() {
    if !has_gpu("an_evaluation_is_that_of_the_cpu") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    result(&format!("{SMALL} --device cpu --run {}", run.display()));
    let knn = |device: &str| {
        let found = result(&format!("knn --checkpoint {} --data shapes --subset 512 --device {device}", run.display()));
        ["top1", "top5"].map(|name| found[name].as_f64().unwrap())
    };
    // Sums in another order may exchange two neighbours that are equally far.
    let [cpu, gpu] = ["cpu", "cuda"].map(knn);
    assert!(cpu.iter().zip(&gpu).all(|(cpu, gpu)| (cpu - gpu).abs() < 0.01), "{cpu:?} {gpu:?}");
}

#[test]
fn benchmarks_say_where_they_ran() {
    if !has_gpu("benchmarks_say_where_they_ran") {
        return;
    }
    let model = "--arch resnet18 --width 4 --batch 4 --steps 1 --device cuda";
    let step = format!("step {model}");
    for command in
        [step.clone(), format!("{step} --precision bf16"), format!("{step} --fast"), format!("infer {model}")]
    {
        let object: Value = result(&format!("bench {command}"));
        assert_eq!(object["device"], "cuda:0", "{command}");
    }
    assert_eq!(result("bench augment --size 8 --steps 1 --device cuda")["device"], "cuda:0");
    assert_eq!(result("bench loss --batch 16 --dim 8 --steps 1 --device cuda:0")["device"], "cuda:0");
}

#[test]
fn a_gpu_that_cannot_be_used_is_told() {
    let ended = run("bench step --device cuda:99 --batch 4 --width 4 --arch resnet18");
    assert_eq!(ended.status, Some(1));
    assert!(ended.stderr.contains("no CUDA device"), "{}", ended.stderr);
    if !has_gpu("a_gpu_that_cannot_be_used_is_told") || result("doctor")["cuda"]["devices"][0]["name"] != "stand-in" {
        return;
    }
    // What only a stand-in can pretend.
    let told = |variable: &str, value: &str, arguments: &str| {
        let output = program(arguments).env(variable, value).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{variable}={value}");
        String::from_utf8(output.stderr).unwrap()
    };
    let step = "bench step --device cuda --batch 4 --width 4 --arch resnet18 --steps 1";
    let old = told("STAND_IN_COMPUTE_CAP", "70", step);
    assert!(
        old.contains("has compute capability 7.0, but this program was built for 9.0")
            && old.contains("CUDA_COMPUTE_CAP=70"),
        "{old}"
    );
    let none = told("STAND_IN_DEVICES", "0", step);
    assert!(none.contains("--device is cuda: there is no CUDA device here"), "{none}");
    let scratch = tempfile::tempdir().unwrap();
    let refused = scratch.path().join("run");
    let pretrain = format!(
        "pretrain --data shapes --subset 512 --arch resnet18 --batch 256 --epochs 1 --device cuda --run {}",
        refused.display()
    );
    let small = told("STAND_IN_MEMORY", "2000000000", &pretrain);
    assert!(small.contains("a batch of 256 needs about") && small.contains("fits"), "{small}");
    let auto = program("doctor --json").env("STAND_IN_DEVICES", "0").output().unwrap();
    let auto: Value = serde_json::from_slice(&auto.stdout).unwrap();
    assert_eq!(auto["auto"], "cpu");
}
