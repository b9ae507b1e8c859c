//! Everything that needs a GPU, in one command, with one report: tests, PyTorch's numbers, ten losses beside the CPU's, the losses of a
//! training in bf16 beside those in f32, benchmarks.
//!
//! On a machine with Rust it builds what it runs; `--pack DIR` puts that into a folder, which `--executables DIR` runs on a machine that
//! has neither Rust nor this repository.

mod curves;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

/// The program, among the executables.
const PROGRAM: &str = "simclr-train";

/// Crates whose unit tests have a part for GPUs.
const TESTED: [&str; 4] = ["simclr-ops", "simclr-data", "simclr-model", "simclr-loss"];

/// The tests that hold PyTorch's numbers against a GPU, among the executables, and the folder of those numbers beside it.
const GOLDEN: &str = "golden_gpu";
const FIXTURES: &str = "golden";

/// The loss of every step that was made.
type Losses = BTreeMap<u64, f64>;

/// The tests of the program on a GPU, among the executables.
const PROGRAM_TESTS: &str = "gpu";

/// How far ten losses on a GPU may be from those of the CPU: f32 sums in another order, bf16 rounds to eight bits and f16 to
/// eleven; and how many steps may be left out: in f16 until the loss has its scale.
const FAR: [(&str, f64, usize); 3] = [("f32", 1e-5, 0), ("bf16", 1e-2, 0), ("f16", 2e-3, 4)];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build what would be run and put it into this folder, instead of running it
    #[arg(long, value_name = "DIR", conflicts_with = "executables")]
    pack: Option<PathBuf>,
    /// Run what lies in this folder, instead of building it
    #[arg(long, value_name = "DIR")]
    executables: Option<PathBuf>,
    /// Where the report goes, a JSON file
    #[arg(long, value_name = "FILE", default_value = "gpu-check.json")]
    out: PathBuf,
    /// A shell command of another program that trains, to run beside every benchmark of training: {arch}, {batch} are put in, and
    /// the last line of its stdout is a JSON object with `pairs_per_s`
    #[arg(long, value_name = "CMD")]
    peer: Option<String>,
    /// The same for the loss: {batch} is put in, the object has `s`
    #[arg(long, value_name = "CMD")]
    peer_loss: Option<String>,
    /// Tests and losses alone
    #[arg(long)]
    no_bench: bool,
    /// Small models, which take minutes where there is no real GPU; the curve of the CPU is left out
    #[arg(long)]
    small: bool,
    /// What cargo builds with
    #[arg(last = true, default_values = ["--release", "--features", "simclr-train/cuda"])]
    cargo: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(folder) = &arguments.pack {
        return pack(folder, &arguments.cargo);
    }
    let scratch = tempfile::tempdir()?;
    let folder = match &arguments.executables {
        Some(folder) => folder.clone(),
        None => {
            pack(scratch.path(), &arguments.cargo)?;
            scratch.path().to_owned()
        }
    };
    // A GPU may be lent once: what goes wrong is written down, and the rest is done.
    let mut report = json!({ "device": device(&folder)? });
    report["tests"] = tests(&folder);
    report["golden"] = or_error(golden(&folder));
    report["program"] = or_error(program_tests(&folder));
    report["losses"] = or_error(losses(&folder, scratch.path(), arguments.small));
    report["curves"] = or_error(curves::curves(&folder, scratch.path(), arguments.small));
    if !arguments.no_bench {
        report["benchmarks"] = benchmarks(&folder, arguments);
    }
    let ok = is_ok(&report);
    report["ok"] = ok.into();
    // Beside its place and renamed: a report is whole or not there.
    let part = arguments.out.with_extension("part");
    let place = || arguments.out.display().to_string();
    fs::write(&part, format!("{report:#}\n")).with_context(place)?;
    fs::rename(&part, &arguments.out).with_context(place)?;
    println!("{}", arguments.out.display());
    ensure!(ok, "not all is well: see {}", arguments.out.display());
    Ok(())
}

/// Builds the program and the tests and copies them, and PyTorch's numbers.
fn pack(folder: &Path, flags: &[String]) -> anyhow::Result<()> {
    fs::create_dir_all(folder.join(FIXTURES)).with_context(|| folder.display().to_string())?;
    // All at once: of another choice of packages cargo would compile candle again. The program is built for the tests of PyTorch's numbers.
    let packages = TESTED.iter().flat_map(|name| ["-p", name]).chain(["-p", PROGRAM]);
    let mut build = cargo();
    build.args(["test", "--no-run", "--lib", "--test", GOLDEN, "--test", PROGRAM_TESTS, "--message-format", "json"]);
    build.args(packages).args(flags);
    let output = build.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo test --no-run: {}", output.status);
    let found = executables(&String::from_utf8_lossy(&output.stdout));
    let copy = |name: &str, is_test: bool| {
        let built = found.iter().find(|(target, test, _)| target == name && *test == is_test);
        let (_, _, path) = built.with_context(|| format!("cargo built no {name}"))?;
        fs::copy(path, folder.join(name)).with_context(|| path.display().to_string())
    };
    for name in TESTED {
        copy(&name.replace('-', "_"), true)?;
    }
    copy(GOLDEN, true)?;
    copy(PROGRAM_TESTS, true)?;
    copy(PROGRAM, false)?;
    let numbers = crate::root().join("tests/golden");
    for entry in fs::read_dir(&numbers).with_context(|| numbers.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let to = folder.join(FIXTURES).join(path.file_name().unwrap_or_default());
            fs::copy(&path, to).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(crate::root());
    cargo
}

/// Name, whether it is a test, and place of every executable in cargo's messages.
fn executables(messages: &str) -> Vec<(String, bool, PathBuf)> {
    let objects = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found = objects.filter_map(|object| {
        let path = object["executable"].as_str()?;
        let name = object["target"]["name"].as_str()?;
        Some((name.to_owned(), object["profile"]["test"] == true, PathBuf::from(path)))
    });
    found.collect()
}

/// What came of a part, or what went wrong, for the report.
fn or_error(part: anyhow::Result<Value>) -> Value {
    part.unwrap_or_else(|error| {
        println!("{error:#}");
        json!({ "error": format!("{error:#}") })
    })
}

/// What the program says of the GPU.
fn device(folder: &Path) -> anyhow::Result<Value> {
    let doctor = last_object(&program(folder, &["doctor", "--json"])?)?;
    let devices = doctor["cuda"]["devices"].as_array().map_or(0, Vec::len);
    ensure!(devices > 0, "there is no CUDA device here: {}", doctor["cuda"]);
    println!("{}", doctor["cuda"]["devices"][0]);
    Ok(doctor)
}

/// Runs the tests of CUDA forms.
fn tests(folder: &Path) -> Value {
    let run = |name: String| {
        let outcome = tested(&name, Command::new(folder.join(&name)).args(["cuda", "device::"]));
        (name, or_error(outcome))
    };
    TESTED.map(|name| run(name.replace('-', "_"))).into_iter().collect::<serde_json::Map<_, _>>().into()
}

/// Holds the GPU against PyTorch's numbers.
fn golden(folder: &Path) -> anyhow::Result<Value> {
    let numbers = folder.join(FIXTURES);
    let numbers = numbers.canonicalize().with_context(|| numbers.display().to_string())?;
    tested(GOLDEN, Command::new(folder.join(GOLDEN)).env("SIMCLR_GOLDEN", numbers))
}

/// Runs the tests of the program: runs that go on, steps that are left out, other precisions, pictures that are sent.
fn program_tests(folder: &Path) -> anyhow::Result<Value> {
    let program = folder.join(PROGRAM);
    let program = program.canonicalize().with_context(|| program.display().to_string())?;
    tested(PROGRAM_TESTS, Command::new(folder.join(PROGRAM_TESTS)).env("SIMCLR_PROGRAM", program))
}

/// Runs tests, one after another: they share a GPU.
fn tested(name: &str, command: &mut Command) -> anyhow::Result<Value> {
    let output = command.args(["--test-threads", "1", "--nocapture"]).output().context(name.to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let mut outcome = outcome(&text).with_context(|| format!("{name}: {}\n{text}", output.status))?;
    if !is_well(&outcome) {
        outcome["said"] = text.into();
    }
    println!("{name}: {} passed, {} failed, {} skipped", outcome["passed"], outcome["failed"], outcome["skipped"]);
    Ok(outcome)
}

/// Whether tests ran, and all that did passed.
fn is_well(outcome: &Value) -> bool {
    outcome["failed"] == 0 && outcome["skipped"] == 0 && outcome["passed"].as_u64() > Some(0)
}

/// The counts of a test executable's last line, and the tests that said they were skipped.
fn outcome(text: &str) -> anyhow::Result<Value> {
    let line = text.lines().find(|line| line.starts_with("test result:")).context("no test result")?;
    let count = |what: &str| -> Option<u64> {
        line.split([';', '.']).find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
    };
    let (Some(passed), Some(failed)) = (count("passed"), count("failed")) else { bail!("not understood: {line}") };
    let skipped = text.lines().filter(|line| line.contains("!! SKIPPED")).count();
    Ok(json!({ "passed": passed, "failed": failed, "skipped": skipped }))
}

/// The losses of the first ten steps, on the CPU and on the GPU in both precisions, from the same start on the same views.
fn losses(folder: &Path, scratch: &Path, small: bool) -> anyhow::Result<Value> {
    let width = if small { "4" } else { "16" };
    let train = |device: &str, precision: &str| -> anyhow::Result<Losses> {
        let run = scratch.join(format!("losses-{device}-{precision}"));
        let data = ["--data", "shapes", "--subset", "704", "--arch", "resnet18", "--width", width];
        // At larger rates Adam makes of the sign of a gradient that is nothing but rounding a step as large as any other.
        let steps = ["--batch", "64", "--epochs", "1", "--lr", "1e-5", "--max-steps", "10"];
        trained(folder, &run, &[&data[..], &steps, &["--device", device, "--precision", precision]].concat())
    };
    let cpu = train("cpu", "f32")?;
    let mut all = json!({ "cpu f32": cpu });
    for (precision, far, left_out) in FAR {
        let gpu = train("cuda", precision)?;
        let worst = differences(&cpu, &gpu).into_iter().fold(0.0, f64::max);
        println!("losses of ten steps in {precision}: {worst:.1e} from the CPU's at most");
        all[format!("cuda {precision}")] = json!(gpu);
        all[format!("{precision} from the cpu")] =
            json!({ "worst": worst, "allowed": far, "ok": worst <= far && gpu.len() + left_out >= 10 });
    }
    Ok(all)
}

/// The losses of all steps of a training, which is a run in a new folder.
fn trained(folder: &Path, run: &Path, arguments: &[&str]) -> anyhow::Result<Losses> {
    let place = run.display().to_string();
    let told = ["--log-every", "1", "--knn-every", "0", "--json", "--run", &place];
    program(folder, &[&["pretrain"], arguments, &told].concat())?;
    let metrics = run.join("metrics.jsonl");
    Ok(losses_of(&fs::read_to_string(&metrics).with_context(|| metrics.display().to_string())?))
}

/// The losses of the steps in a run's metrics.
fn losses_of(metrics: &str) -> Losses {
    let events = metrics.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let steps = events.filter(|event| event["event"] == "step");
    steps.filter_map(|event| Some((event["step"].as_u64()?, event["loss"].as_f64()?))).collect()
}

/// Of every step of `got` how far its loss is from the one of `want`, relative to that; infinitely far where there is none.
fn differences(want: &Losses, got: &Losses) -> Vec<f64> {
    let difference =
        |(step, got): (&u64, &f64)| want.get(step).map_or(f64::INFINITY, |want| (want - got).abs() / want.abs());
    got.iter().map(difference).collect()
}

/// Ours, the peer's beside it where one is named, and their ratio.
fn benchmarks(folder: &Path, arguments: &Arguments) -> Value {
    let (batch, width, pairs) = if arguments.small { ("8", "4", "64") } else { ("512", "64", "4096") };
    let ours = |command: &[&str]| {
        last_object(&program(folder, &[&["bench"], command, &["--device", "cuda", "--json"]].concat())?)
    };
    let theirs = |peer: &Option<String>, arch: &str, batch: &str| {
        peer.as_ref().map(|peer| shell(&peer.replace("{arch}", arch).replace("{batch}", batch))).transpose()
    };
    let step = |(arch, precision): (&str, &str)| -> anyhow::Result<Value> {
        let model = ["step", "--arch", arch, "--batch", batch, "--width", width, "--precision", precision];
        let peer = if precision == "bf16" { theirs(&arguments.peer, arch, batch)? } else { None };
        Ok(row(&format!("step {arch} {precision}"), ours(&model)?, peer, "pairs_per_s"))
    };
    let loss = || -> anyhow::Result<Value> {
        let peer = theirs(&arguments.peer_loss, "", pairs)?;
        Ok(row("nt_xent", ours(&["loss", "--batch", pairs])?, peer, "s"))
    };
    let augment = || Ok(row("augment", ours(&["augment"])?, None, "views_per_s"));
    let steps = [("resnet50", "bf16"), ("resnet18", "bf16"), ("resnet50", "f32"), ("resnet18", "f32")].map(step);
    let rows = steps.into_iter().chain([loss(), augment()]).map(|row| {
        let row = or_error(row);
        println!("{}: {} {}", row["what"], row["figure"], row["ratio"]);
        row
    });
    rows.collect()
}

/// A benchmark; `ratio` is above 1 where ours is faster.
fn row(what: &str, ours: Value, peer: Option<Value>, figure: &str) -> Value {
    let number = |object: &Value| object[figure].as_f64();
    let ratio = peer.as_ref().and_then(|peer| {
        let (ours, peer) = (number(&ours)?, number(peer)?);
        Some(if figure == "s" { peer / ours } else { ours / peer })
    });
    json!({ "what": what, "figure": number(&ours), "ratio": ratio, "ours": ours, "peer": peer })
}

fn is_ok(report: &Value) -> bool {
    let tests = report["tests"].as_object().map_or(vec![], |tests| tests.values().collect());
    let losses_ok =
        FAR.iter().all(|(precision, ..)| report["losses"][format!("{precision} from the cpu")]["ok"] == true);
    let tests_ok = !tests.is_empty() && tests.into_iter().chain([&report["golden"], &report["program"]]).all(is_well);
    let measured = report["benchmarks"].as_array().is_none_or(|rows| rows.iter().all(|row| row["error"].is_null()));
    tests_ok && losses_ok && curves::is_ok(&report["curves"]) && measured
}

/// What the program prints on stdout.
fn program(folder: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let path = folder.join(PROGRAM);
    let output = Command::new(&path).args(arguments).output().with_context(|| path.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{PROGRAM} {}: {}\n{}", arguments.join(" "), output.status, said.trim_end());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shell(command: &str) -> anyhow::Result<Value> {
    let output =
        Command::new("sh").args(["-c", command]).stderr(Stdio::inherit()).output().context("cannot start sh")?;
    ensure!(output.status.success(), "{command}: {}", output.status);
    last_object(&String::from_utf8_lossy(&output.stdout))
}

fn last_object(stdout: &str) -> anyhow::Result<Value> {
    let last = stdout.trim_end().lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("the last line is not JSON: {last:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_tests_are_counted_and_skipped_ones_seen() {
        let text = "running 3 tests\n!! SKIPPED a: there is no GPU here\ntest result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; \
                    7 filtered out; finished in 0.00s\n";
        assert_eq!(outcome(text).unwrap(), json!({ "passed": 2, "failed": 1, "skipped": 1 }));
        assert!(outcome("Segmentation fault").is_err());
    }

    #[test]
    fn executables_are_found_in_the_messages_of_cargo() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"simclr_ops"},"profile":{"test":true},"executable":"/a/b"}
{"reason":"compiler-artifact","target":{"name":"serde"},"profile":{"test":false},"executable":null}
not json"#;
        assert_eq!(executables(messages), [("simclr_ops".to_owned(), true, PathBuf::from("/a/b"))]);
    }

    #[test]
    fn all_is_well_only_if_tests_ran_and_losses_agree() {
        let losses = losses_of(
            "{\"event\":\"step\",\"step\":1,\"loss\":2.0}\n{\"event\":\"knn\"}\n{\"event\":\"step\",\"step\":3,\"loss\":1.0}\n",
        );
        assert_eq!(losses, Losses::from([(1, 2.0), (3, 1.0)]));
        let from = |got: &[(u64, f64)]| differences(&losses, &got.iter().copied().collect());
        assert_eq!((from(&[(3, 1.5)]), from(&[(1, 2.0), (2, 1.0)])), (vec![0.5], vec![0.0, f64::INFINITY]));
        let well = json!({ "ok": true });
        let report = |passed: u64, skipped: u64| {
            json!({
                "tests": { "a": { "passed": passed, "failed": 0, "skipped": skipped } },
                "golden": { "passed": 1, "failed": 0, "skipped": 0 },
                "program": { "passed": 1, "failed": 0, "skipped": 0 },
                "losses": { "f32 from the cpu": well, "bf16 from the cpu": well, "f16 from the cpu": well },
                "curves": { "bf16 from f32": well },
            })
        };
        assert!(is_ok(&report(3, 0)) && !is_ok(&report(3, 1)) && !is_ok(&report(0, 0)) && !is_ok(&json!({})));
        for part in ["golden", "program", "curves"] {
            let mut without = report(3, 0);
            without[part].take();
            assert!(!is_ok(&without), "{part}");
        }
        let measured = |row: Value| {
            let mut with = report(3, 0);
            with["benchmarks"] = json!([row]);
            is_ok(&with)
        };
        assert!(measured(row("", json!({}), None, "s")) && !measured(or_error(Err(anyhow::anyhow!("no memory")))));
    }

    #[test]
    fn a_ratio_above_one_is_ours_faster() {
        let ratio = |ours: f64, peer: f64, figure: &str| {
            row("", json!({ figure: ours }), Some(json!({ figure: peer })), figure)["ratio"].clone()
        };
        assert_eq!((ratio(3.0, 2.0, "pairs_per_s"), ratio(1.0, 2.0, "s")), (json!(1.5), json!(2.0)));
        assert_eq!(row("", json!({}), None, "s")["ratio"], Value::Null);
    }
}
