//! Many processes are one: what `mpirun` starts trains, evaluates and embeds as one process does, and ends as one.
#![allow(clippy::print_stderr, reason = "how far ranks are from one process is worth seeing, with --nocapture")]

mod program;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use program::{Ended, end_of, metrics, mpirun, program, result};
use serde_json::Value;

/// At a learning rate at which PyTorch, too, agrees with itself to about 1e-6 (ResNet-18) over ten steps.
const TEN_STEPS: &str = "pretrain --data shapes --subset 320 --width 8 --batch 32 --epochs 2 --lr 1e-5 --log-every 1";

fn ended(command: &mut Command) -> Ended {
    command.output().expect("mpirun of Open MPI, which this feature is built against").into()
}

/// Runs in `ranks` processes to the result.
fn result_of(ranks: usize, arguments: &str) -> Value {
    let ended = ended(&mut mpirun(ranks, &format!("{arguments} --json")));
    assert_eq!(ended.status, Some(0), "{ranks} ranks: {arguments}\n{}", ended.stderr);
    assert_eq!(ended.stdout.lines().count(), 1, "one of them has the result: {}", ended.stdout);
    serde_json::from_str(&ended.stdout).unwrap()
}

fn numbers(run: &Path, event: &str, field: &str) -> Vec<f64> {
    let events = metrics(run).into_iter().filter(|found| found["event"] == event);
    events.map(|found| found[field].as_f64().unwrap()).collect()
}

/// All parameters of a run's newest checkpoint, running statistics apart.
fn parameters(run: &Path) -> Vec<f64> {
    let latest = fs::read_to_string(run.join("checkpoints/latest")).unwrap();
    let path = run.join("checkpoints").join(latest.trim()).join("model.safetensors");
    let tensors: HashMap<String, Tensor> = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let mut names: Vec<&String> =
        tensors.keys().filter(|name| !name.contains("running") && !name.contains("tracked")).collect();
    names.sort();
    let numbers =
        |name: &String| tensors[name].to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    names.into_iter().flat_map(numbers).collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

fn far(a: &[f64], b: &[f64]) -> f64 {
    assert!(!a.is_empty() && a.len() == b.len(), "{} {}", a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| f64::max(most, (a - b).abs()))
}

#[test]
fn ranks_have_the_curve_of_one_process() {
    let dir = tempfile::tempdir().unwrap();
    // A step that moves nothing.
    let begin = dir.path().join("begin");
    let still = TEN_STEPS.replace("1e-5", "1e-30");
    result(&format!("{still} --optimizer sgd --max-steps 1 --run {}", begin.display()));
    let begun = parameters(&begin);
    for views in ["separate", "joint"] {
        let run = |ranks: usize| dir.path().join(format!("{views}-{ranks}"));
        let typed = |ranks: usize| format!("{TEN_STEPS} --max-steps 10 --views {views} --run {}", run(ranks).display());
        let one = result(&typed(0));
        assert_eq!(one["ranks"], 1);
        for ranks in [1, 2, 4] {
            let all = result_of(ranks, &typed(ranks));
            assert_eq!((&all["ranks"], &all["steps"]), (&ranks.into(), &10.into()));
            let losses = |ranks: usize| numbers(&run(ranks), "step", "loss");
            let of_losses = far(&losses(ranks), &losses(0));
            // How far the parameters are apart, of how far they have come.
            let of_parameters =
                distance(&parameters(&run(ranks)), &parameters(&run(0))) / distance(&parameters(&run(0)), &begun);
            eprintln!("{views}, {ranks} ranks: losses {of_losses:.1e}, parameters {of_parameters:.1e}");
            assert!(losses(0).len() == 10 && of_losses <= 1e-5, "{views}, {ranks} ranks: losses off by {of_losses:e}");
            assert!(of_parameters <= 0.05, "{views}, {ranks} ranks: parameters off by {of_parameters:e}");
            // Sums over a batch are taken in another order; where there is none, there is no difference.
            let before = |ranks: usize| {
                ["top1", "feature_std", "feature_rank"].map(|field| numbers(&run(ranks), "knn", field)[0])
            };
            assert_eq!(before(ranks), before(0), "an encoder that both have is judged alike, to the bit");
            if ranks == 1 {
                assert!(end_of(&run(1)) == end_of(&run(0)), "one rank is one process, to the bit");
            }
        }
    }
}

#[test]
fn a_run_goes_on_in_other_numbers_of_processes() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, parts, again] = ["whole", "parts", "again"].map(|name| dir.path().join(name));
    result(&format!("{TEN_STEPS} --max-steps 10 --run {}", whole.display()));
    for (ranks, steps) in [(2, 3), (4, 6), (1, 8)] {
        let typed = if steps == 3 { TEN_STEPS } else { "pretrain --resume" };
        let object = result_of(ranks, &format!("{typed} --run {} --max-steps {steps}", parts.display()));
        assert_eq!((&object["steps"], &object["finished"]), (&steps.into(), &false.into()));
    }
    // And alone, without a launcher.
    result(&format!("pretrain --resume --run {} --max-steps 10", parts.display()));
    let losses = |run: &Path| numbers(run, "step", "loss");
    let of_losses = far(&losses(&parts), &losses(&whole));
    assert!(losses(&whole).len() == 10 && of_losses <= 1e-5, "the same pictures in the same order: {of_losses:e}");

    // In the same number the bits are the same, interrupted or not, to the end of the run.
    let typed = format!("{TEN_STEPS} --run {}", again.display());
    result_of(2, &format!("{typed} --max-steps 4"));
    result_of(2, &format!("pretrain --resume --run {}", again.display()));
    let straight = dir.path().join("straight");
    result_of(2, &format!("{TEN_STEPS} --run {}", straight.display()));
    assert!(end_of(&again) == end_of(&straight), "other weights or metrics");
}

#[test]
fn chunks_accumulation_and_a_batch_norm_of_each_work_in_many() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str| dir.path().join(name);
    let typed = |flags: &str, name: &str| format!("{TEN_STEPS} --max-steps 10 {flags} --run {}", run(name).display());
    result(&typed("--chunk 16 --accumulate 2", "one"));
    result_of(2, &typed("--chunk 16 --accumulate 2", "two"));
    let of_losses = far(&numbers(&run("one"), "step", "loss"), &numbers(&run("two"), "step", "loss"));
    assert!(of_losses <= 1e-5, "{of_losses:e}");
    // A batch norm of each of two processes is that of two chunks; its running statistics are the first one's.
    result(&typed("--chunk 16", "chunks"));
    result_of(2, &typed("--sync-bn false", "own"));
    let of_losses = far(&numbers(&run("chunks"), "step", "loss"), &numbers(&run("own"), "step", "loss"));
    assert!(of_losses <= 1e-5, "{of_losses:e}");
}

#[test]
fn evaluation_is_shared_and_the_same_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    result(&format!("{TEN_STEPS} --max-steps 2 --run {}", run.display()));
    let knn = format!("knn --checkpoint {} --data shapes --subset 300", run.display());
    let (one, three) = (result(&knn), result_of(3, &knn));
    for field in
        ["top1", "top5", "protocols", "confusion", "per_class", "raw_pixels", "random_encoder", "queries", "bank"]
    {
        assert_eq!(one[field], three[field], "{field}");
    }
    // 320 pictures are two and a half batches: of four processes one has none.
    for ranks in [2, 4] {
        let embed =
            |name: &str| format!("embed --checkpoint {} --out {}", run.display(), dir.path().join(name).display());
        let file = |name: &str| fs::read(dir.path().join(name)).unwrap();
        let (one, many) = (format!("one-{ranks}.npy"), format!("many-{ranks}.npy"));
        assert_eq!(result(&embed(&one))["rows"], 320);
        assert_eq!(result_of(ranks, &embed(&many))["rows"], 320);
        assert!(file(&one) == file(&many), "{ranks} processes write other rows");
        assert!(!dir.path().join(format!("{many}.part")).exists());
    }
    let messages = result_of(2, "bench messages --repeats 3");
    assert!(messages["s_small_sum"].as_f64().unwrap() > 0.0 && messages["large_sums"].as_array().unwrap().len() == 2);
    let step = result_of(2, "bench step --arch resnet18 --width 4 --batch 8 --steps 2");
    let traffic = &step["communication"];
    assert_eq!(step["ranks"], 2);
    // Forward and backward of 20 batch norms and that of the head; embeddings and the sums of their rows.
    assert_eq!(
        (&traffic["batch_norm"]["calls_per_step"], &traffic["embeddings"]["calls_per_step"]),
        (&42.0.into(), &2.0.into())
    );
    let bytes = traffic["gradients"]["bytes_per_step"].as_f64().unwrap();
    assert!(bytes > 100_000.0, "four bytes for every parameter: {bytes}");
    let chunked = result_of(2, "bench step --arch resnet18 --width 4 --batch 8 --chunk 4 --steps 2");
    assert_eq!(chunked["communication"]["gradients"]["bytes_per_step"], traffic["gradients"]["bytes_per_step"]);
}

/// Starts a long run in `ranks` processes and returns when it writes its metrics.
fn started(ranks: usize, run: &Path) -> std::process::Child {
    let typed = format!("{} --epochs 50 --run {}", TEN_STEPS.replace(" --epochs 2", ""), run.display());
    let child = mpirun(ranks, &typed).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count()) < 5 {
        assert!(began.elapsed() < Duration::from_secs(120), "the run does not write its metrics");
        sleep(Duration::from_millis(10));
    }
    child
}

/// The process of rank `rank` of a run.
fn process(run: &Path, rank: usize) -> u32 {
    let environment = |process: &str| fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
    let command = |process: &str| fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let has = |bytes: &[u8], text: &str| bytes.split(|&byte| byte == 0).any(|part| part == text.as_bytes());
    let mut processes =
        fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let found = processes.find(|process| {
        has(&command(process), &run.display().to_string())
            && has(&environment(process), &format!("OMPI_COMM_WORLD_RANK={rank}"))
    });
    found.expect("a process of that rank").parse().unwrap()
}

#[cfg(target_os = "linux")]
fn send(signal: &str, process: u32) {
    assert!(Command::new("kill").args([format!("-{signal}"), process.to_string()]).status().unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn a_rank_that_dies_ends_all_and_the_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let child = started(2, &run);
    let killed = Instant::now();
    send("KILL", process(&run, 1));
    let ended: Ended = child.wait_with_output().unwrap().into();
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    assert_ne!(ended.status, Some(0));
    assert!(ended.stderr.contains("rank 1") && ended.stderr.contains("signal 9"), "{}", ended.stderr);

    // It begins anew, as it had no checkpoint yet; another signal finds it, and it keeps what it has.
    fs::remove_file(run.join("metrics.jsonl")).unwrap();
    let mut resumed = mpirun(4, &format!("pretrain --resume --run {}", run.display()));
    let child = resumed.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count()) < 3 {
        assert!(began.elapsed() < Duration::from_secs(120), "the run does not write its metrics");
        sleep(Duration::from_millis(10));
    }
    send("USR1", child.id());
    let ended: Ended = child.wait_with_output().unwrap().into();
    assert_eq!(ended.stderr.matches("interrupted at step").count(), 1, "{}", ended.stderr);
    let kept = numbers(&run, "step", "step");
    let step =
        ended.stderr.split("interrupted at step ").nth(1).unwrap().split(';').next().unwrap().parse::<f64>().unwrap();
    assert_eq!(kept.last(), Some(&step), "all processes stopped after the same step");
    let told = result_of(2, &format!("pretrain --resume --run {} --max-steps {}", run.display(), step as u64 + 1));
    assert_eq!(told["steps"], step as u64 + 1);
}

#[test]
fn what_does_not_fit_together_is_named_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let run = format!("--run {}", path("refused"));
    let refused = |mut command: Command, status: i32, told: &[&str]| {
        let ended = ended(&mut command);
        assert_eq!(ended.status, Some(status), "{}", ended.stderr);
        assert_eq!(ended.stderr.matches("error: ").count(), 1, "one of them says it: {}", ended.stderr);
        told.iter().for_each(|told| assert!(ended.stderr.contains(told), "{told}: {}", ended.stderr));
        assert!(!dir.path().join("refused").exists(), "a run that was refused left its folder behind");
    };
    // Settings that cannot be shared, a data set that none of them has, work that is not theirs.
    let typed = |flags: &str| format!("{TEN_STEPS} {run} {flags}");
    refused(mpirun(3, &typed("")), 2, &["--batch is 32, expected a multiple of 3: it is shared by 3 processes"]);
    refused(mpirun(2, &typed("--chunk 2 --sync-bn false")), 2, &["--chunk is 2, expected at least 4"]);
    refused(mpirun(2, &format!("pretrain --data cifar10 --data-dir {} {run}", path("none"))), 1, &["cifar-10"]);
    refused(mpirun(2, &format!("pretrain --data cats {run}")), 2, &["--data is cats"]);
    refused(mpirun(2, "linear --checkpoint somewhere"), 2, &["the work of one process, but 2 were started"]);
    refused(mpirun(2, &typed("--no-such-flag")), 2, &["--no-such-flag"]);
    refused(mpirun(2, "knn --checkpoint nowhere --split x"), 2, &["--split is x, expected test or train"]);
    refused(mpirun(2, "bench step --batch 3"), 2, &["--batch is 3, expected a multiple of 2"]);
    // One process of MPI ends as any other.
    refused(mpirun(1, &typed("").replace("--batch 32", "--batch 1")), 2, &["--batch is 1, expected at least 2"]);
    let ended = ended(&mut mpirun(1, &typed("").replace("--batch 32", "--batch 1")));
    assert!(!ended.stderr.contains("MPI_ABORT"), "{}", ended.stderr);
    refused(mpirun(2, &typed("--dist tcp")), 2, &["--dist is tcp, expected auto, none, mpi or nccl"]);

    // Other settings, another build and other data on one of them.
    let two = |first: &[&str], second: &[&str]| {
        let mut command = mpirun(1, "");
        command.args(first).arg(":").args(["-n", "1"]).args(second);
        command
    };
    let typed = typed("");
    let typed: Vec<&str> = typed.split_whitespace().collect();
    let program = env!("CARGO_BIN_EXE_simclr-train");
    let other: Vec<&str> =
        [program].into_iter().chain(typed.iter().map(|word| if *word == "1e-5" { "1e-4" } else { *word })).collect();
    refused(two(&typed, &other), 1, &["rank 1 of 2", "another command line", "--lr 1e-4"]);
    let build = path("other-build");
    fs::copy(program, &build).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&build).unwrap();
    std::io::Write::write_all(&mut file, b" ").unwrap();
    drop(file);
    let same: Vec<&str> = [build.as_str()].into_iter().chain(typed.iter().copied()).collect();
    refused(two(&typed, &same), 1, &["rank 1 of 2", "another program", "(build "]);
    for (folder, records) in [("a", 20), ("b", 21)] {
        program::write_cifar10(&dir.path().join(folder).join("data"), records);
    }
    let cifar = format!("pretrain --data cifar10 --width 4 --batch 16 --epochs 1 {run}");
    let cifar: Vec<&str> = cifar.split_whitespace().collect();
    let [a, b] = ["a", "b"].map(path);
    let mut command = Command::new("mpirun");
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.args(["--oversubscribe", "-n", "1", "-wdir", &a, program]).args(&cifar);
    command.args([":", "-n", "1", "-wdir", &b, program]).args(&cifar);
    refused(command, 1, &["rank 1 of 2", "another data set", "105 pictures", "where rank 0", "100 pictures"]);
}

#[test]
fn one_process_needs_no_launcher() {
    // A build with MPI starts by hand as any other.
    let ended: Ended = program("presets").output().unwrap().into();
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    // Processes that are told to know nothing of each other are each alone.
    let dir = tempfile::tempdir().unwrap();
    let ended = self::ended(&mut mpirun(
        2,
        &format!("pretrain --dist none --data shapes --batch 1 --run {}", dir.path().display()),
    ));
    assert_eq!(ended.stderr.matches("error: --batch is 1").count(), 2, "{}", ended.stderr);
}

/// A folder of pictures without labels.
fn write_folder(folder: &Path, pictures: u32) {
    fs::create_dir_all(folder).unwrap();
    for n in 0..pictures {
        let picture =
            image::RgbImage::from_fn(24, 24, |x, y| image::Rgb([(x * (n + 3)) as u8, (y * 9) as u8, (n * 7) as u8]));
        picture.save(folder.join(format!("{n}.png"))).unwrap();
    }
}

#[test]
fn an_error_of_one_rank_is_said_once_and_ends_all() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
    [&a, &b].iter().for_each(|folder| write_folder(&folder.join("pictures"), 40));
    let run = dir.path().join("run");
    let program = env!("CARGO_BIN_EXE_simclr-train");
    let typed = format!(
        "pretrain --data folder:pictures --width 4 --batch 8 --epochs 500 --log-every 1 --workers 0 --run {}",
        run.display()
    );
    let mut command = mpirun(1, "");
    // Each in a folder of its own: the second loses its pictures while it trains.
    let at = |folder: &Path| ["-wdir".to_owned(), folder.display().to_string(), program.to_owned()];
    let mut arguments: Vec<String> = ["--oversubscribe", "-n", "1"].map(str::to_owned).into();
    arguments.extend(at(&a).into_iter().chain(typed.split_whitespace().map(str::to_owned)));
    arguments.extend([":", "-n", "1"].map(str::to_owned));
    arguments.extend(at(&b).into_iter().chain(typed.split_whitespace().map(str::to_owned)));
    let mut fresh = Command::new("mpirun");
    fresh.args(&arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    fresh.envs(command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))));
    command = fresh;
    let child = command.spawn().unwrap();
    let began = Instant::now();
    while fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count()) < 3 {
        assert!(began.elapsed() < Duration::from_secs(120), "the run does not write its metrics");
        sleep(Duration::from_millis(10));
    }
    fs::remove_dir_all(b.join("pictures")).unwrap();
    let gone = Instant::now();
    let ended: Ended = child.wait_with_output().unwrap().into();
    assert!(gone.elapsed() < Duration::from_secs(30), "{:?}", gone.elapsed());
    assert_eq!(ended.status, Some(1), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("error: ").count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("error: rank 1 of 2 (") && ended.stderr.contains(".png"), "{}", ended.stderr);
}

#[test]
fn ends_of_every_kind_are_agreed_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    // Pictures without labels, one to a rank and batch, in bf16, with a batch norm of each or of all; to the end.
    write_folder(&path("pictures"), 13);
    let pictures = path("pictures");
    let unlabelled = |run: &Path, flags: &str| {
        format!("pretrain --data folder:{} --width 4 --epochs 2 {flags} --run {}", pictures.display(), run.display())
    };
    for (name, ranks, flags) in [("one-each", 4, "--batch 4 --precision bf16"), ("own", 2, "--batch 8 --sync-bn false")]
    {
        let object = result_of(ranks, &unlabelled(&path(name), flags));
        assert_eq!((&object["finished"], &object["knn_top1"]), (&true.into(), &Value::Null), "{name}");
        assert!(path(name).join("report.html").exists());
    }
    // What is finished says so once more; what is there is not written over.
    let again = result_of(2, &format!("pretrain --resume --run {}", path("own").display()));
    assert_eq!(again["finished"], true);
    let there = ended(&mut mpirun(2, &unlabelled(&path("own"), "--batch 8")));
    assert_eq!((there.status, there.stderr.matches("has a run already").count()), (Some(2), 1), "{}", there.stderr);
    let too_many = ended(&mut mpirun(2, &unlabelled(&path("never"), "--batch 4 --accumulate 4")));
    assert_eq!((too_many.status, too_many.stderr.matches("--accumulate is 4").count()), (Some(2), 1));
    assert!(!path("never").exists());

    // A loss that is not finite ends all with a checkpoint, or moves none of them.
    let wild = path("wild");
    let typed = format!("{} --knn-every 0 --run {}", TEN_STEPS.replace("1e-5", "1e30"), wild.display());
    let stopped = ended(&mut mpirun(2, &typed));
    assert_eq!((stopped.status, stopped.stderr.matches("was not applied").count()), (Some(1), 1), "{}", stopped.stderr);
    let known: Value = serde_json::from_slice(&fs::read(wild.join("non_finite-step-00000002.json")).unwrap()).unwrap();
    assert_eq!(known["pictures"][0].as_array().unwrap().len(), 32, "the pictures of all processes");
    let on = format!("pretrain --resume --skip-non-finite --max-steps 4 --run {}", wild.display());
    assert_eq!(result_of(2, &on)["steps"], 4);

    // Fewer pictures are asked about than there are processes; rows of an embedding that is interrupted are kept by others.
    let quick = result_of(
        4,
        &format!("--data shapes --subset 40 --batch 16 --epochs 1 --width 4 --run {}", path("quick").display()),
    );
    assert_eq!((&quick["finished"], &quick["ranks"]), (&true.into(), &4.into()));
    let checkpoint = path("quick");
    let knn = format!("knn --checkpoint {} --data folder:{}", checkpoint.display(), labelled(&path("labelled")));
    for field in ["top1", "confusion", "queries"] {
        assert_eq!(result(&knn)[field], result_of(4, &knn)[field], "{field}");
    }
}

/// A folder with two classes, of which two pictures are asked about.
fn labelled(folder: &Path) -> String {
    for (split, class, pictures) in [("train", "a", 5), ("train", "b", 6), ("test", "a", 1), ("test", "b", 1)] {
        write_folder(&folder.join(split).join(class), pictures);
    }
    folder.display().to_string()
}
