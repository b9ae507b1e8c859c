//! The program on a GPU, in a build with `--features cuda`; where there is none, the tests pass and say that they were skipped.
//!
//! `tests/stand_in` plays a GPU where there is none: `.ci/run` starts these tests with it.

mod program;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use program::{end_of, program, result, run};
use serde_json::{Value, json};

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

/// The loss of every step that was made.
fn losses_by_step(run: &Path) -> BTreeMap<u64, f64> {
    let metrics = program::metrics(run);
    let steps = metrics.iter().filter(|event| event["event"] == "step");
    steps.map(|event| (event["step"].as_u64().unwrap(), event["loss"].as_f64().unwrap())).collect()
}

fn losses(run: &Path) -> Vec<f64> {
    losses_by_step(run).into_values().collect()
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
        losses_by_step(&run)
    };
    let mut full = BTreeMap::new();
    for (more, far) in [
        ("", 1e-5),
        ("--views joint", 1e-5),
        ("--chunk 16", 1e-5),
        ("--optimizer lars", 1e-5),
        ("--precision bf16", 5e-3),
        ("--precision f16", 1e-3),
    ] {
        let gpu = train("cuda", more);
        // Narrow maps are compared with what f32 comes to.
        let cpu = if more.contains("precision") { full.clone() } else { train("cpu", more) };
        if more.is_empty() {
            full.clone_from(&cpu);
        }
        // In f16 some steps may overflow, until the loss has its scale.
        let left_out = if more.contains("f16") { 4 } else { 0 };
        assert!(cpu.len() == 10 && (10 - left_out..=10).contains(&gpu.len()), "{more}: {cpu:?} {gpu:?}");
        for (step, gpu) in &gpu {
            let cpu = cpu[step];
            assert!((cpu - gpu).abs() <= far * cpu, "{more}, step {step}: {cpu} and {gpu}");
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
fn a_run_in_f16_goes_on_with_its_loss_scale() {
    if !has_gpu("a_run_in_f16_goes_on_with_its_loss_scale") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let (whole, parts) = (at("whole"), at("parts"));
    let typed = format!("{SMALL} --precision f16 --accumulate 2 --device cuda");
    result(&format!("{typed} --max-steps 4 --run {}", whole.display()));
    result(&format!("{typed} --max-steps 3 --run {}", parts.display()));
    result(&format!("pretrain --run {} --resume --max-steps 4", parts.display()));
    // Where there is no GPU it can be looked at nevertheless.
    let looked_at = run(&format!("report {} --device cpu --out {}", parts.display(), at("report.html").display()));
    assert!(
        looked_at.status == Some(0) && looked_at.stderr.contains("in f16, which cpu has not"),
        "{}",
        looked_at.stderr
    );
    let [whole, parts] = [whole, parts].map(|run| end_of(&run));
    assert!(whole.0 == parts.0 && whole.1 == parts.1, "the parts are not the whole");
    let optimizer = candle_core::safetensors::load_buffer(&whole.1, &candle_core::Device::Cpu).unwrap();
    let scale = optimizer["loss_scale"].to_vec1::<f64>().unwrap();
    assert!(scale[0] >= 1.0 && scale[0].log2().fract() == 0.0 && scale[1] <= 4.0, "{scale:?}");
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
fn a_step_waits_for_none_of_its_numbers() {
    let test = "a_step_waits_for_none_of_its_numbers";
    if !has_gpu(test) || result("doctor")["cuda"]["devices"][0]["name"] != "stand-in" {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    // What is counted for so many steps.
    let counted = |steps: usize, more: &str| {
        let name = format!("{steps} {more}").replace([' ', '-'], "_");
        let (run, counts) = (scratch.path().join(&name), scratch.path().join(format!("counts {name}")));
        let flags = "--knn-every 0 --log-every 2 --device cuda";
        let typed = "pretrain --data shapes --subset 320 --arch resnet18 --width 4 --batch 32 --epochs 1";
        let mut program = program(&format!("{typed} {flags} {more} --max-steps {steps} --run {}", run.display()));
        assert!(program.env("STAND_IN_COUNTS", &counts).output().unwrap().status.success());
        serde_json::from_slice::<Value>(&std::fs::read(counts).unwrap()).unwrap()
    };
    for (more, followed) in [("", 21.0), ("--chunk 16 --clip-norm 1", 42.0), ("--head-batch-norm false", 20.0)] {
        let (few, many) = (counted(4, more), counted(8, more));
        let of_a_step = |name: &str| (many[name].as_f64().unwrap() - few[name].as_f64().unwrap()) / 4.0;
        assert_eq!(["augment_views_f32", "update_move"].map(of_a_step), [1.0, 1.0]);
        // What comes back is its report, a step later, and both embeddings of every other one, which are logged; its views and its table
        // leave from page-locked memory. The host waits for what comes back alone, and asks of all that memory whether it is free.
        let copies = ["memcpy_dtoh", "memcpy_dtoh_pinned", "memcpy_htod", "memcpy_htod_pinned", "synchronize"];
        assert_eq!(copies.map(of_a_step), [0.0, 2.0, 0.0, 2.0, 6.0], "{more}: {many}");
        // The running statistics follow where they are.
        assert_eq!(of_a_step("batch_norm_follow"), followed);
    }
}

#[test]
fn a_step_that_is_not_finite_is_not_applied() {
    if !has_gpu("a_step_that_is_not_finite_is_not_applied") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("run");
    // The first step throws the parameters out of what f32 can multiply. The next ones are asked for before that is known.
    let typed = SMALL.replace("--epochs 2 --knn-every 1", "--epochs 4 --knn-every 0");
    let ended = run(&format!("{typed} --lr 1e30 --device cuda --run {}", folder.display()));
    assert_eq!(ended.status, Some(1), "{}", ended.stderr);
    for part in ["of step 2 is", "was not applied", "--resume --skip-non-finite"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    let (model, optimizer, ..) = end_of(&folder);
    let ended = run(&format!("pretrain --resume --skip-non-finite --run {}", folder.display()));
    assert_eq!(ended.status, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("the 20th in a row"), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("the batch is left out").count(), 20, "{}", ended.stderr);
    let end = end_of(&folder);
    assert!(end.0 == model && end.1 == optimizer, "nothing was moved, running statistics neither");
    let whole = scratch.path().join("one");
    result(&format!("{typed} --lr 1e30 --device cuda --max-steps 1 --run {}", whole.display()));
    assert!(end_of(&whole).0 == end.0, "it ended where the first step did");
}

#[test]
fn pictures_that_do_not_stay_on_the_gpu_give_the_same_losses() {
    if !has_gpu("pictures_that_do_not_stay_on_the_gpu_give_the_same_losses") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("pictures");
    std::fs::create_dir(&folder).unwrap();
    for n in 0..24u32 {
        let shade = |x: u32, y: u32| image::Rgb([(x * 9 + n) as u8, (y * 7) as u8, (x * y + 11 * n) as u8]);
        image::RgbImage::from_fn(30 + n % 3, 28, shade).save(folder.join(format!("{n}.png"))).unwrap();
    }
    let train = |device: &str| {
        let run_folder = scratch.path().join(device);
        let typed = "--arch resnet18 --width 4 --size 16 --batch 8 --epochs 2 --knn-every 0 --log-every 1 --lr 1e-5";
        let ended = run(&format!(
            "pretrain --data folder:{} {typed} --device {device} --run {}",
            folder.display(),
            run_folder.display()
        ));
        assert_eq!(ended.status, Some(0), "{}", ended.stderr);
        (losses(&run_folder), ended.stderr)
    };
    let [(cpu, _), (gpu, said)] = ["cpu", "cuda"].map(train);
    assert!(said.contains("every batch brings its pictures to the GPU") && said.contains("pixels"), "{said}");
    assert!(cpu.len() >= 4 && cpu.len() == gpu.len(), "{cpu:?} {gpu:?}");
    for (cpu, gpu) in cpu.iter().zip(&gpu) {
        assert!((cpu - gpu).abs() < 1e-5 * cpu, "{cpu} {gpu}");
    }
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
    let commands = ["step", "step --precision bf16", "step --fast", "infer", "infer --precision f16"];
    for command in commands {
        let object: Value = result(&format!("bench {command} {model}"));
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
    let doctor = |variable: &str, value: &str| -> Value {
        let output = program("doctor --json").env(variable, value).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(doctor("STAND_IN_DEVICES", "0")["auto"], "cpu");
    let old = doctor("STAND_IN_COMPUTE_CAP", "75");
    assert_eq!(old["cuda"]["devices"][0]["precisions"], json!(["f32", "f16"]));
    assert_eq!((&old["auto"], &old["precisions"]), (&json!("cpu"), &json!(["f32", "bf16"])));
    assert_eq!(result("doctor")["precisions"], json!(["f32", "bf16", "f16"]));
}
