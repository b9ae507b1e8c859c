use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// Turns each: the machine's mood changes over minutes, and a median of three leaves out the worst of it.
const TURNS: usize = 3;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A shell command whose last line on stdout is a JSON object with `pairs_per_s`
    #[arg(long, value_name = "CMD")]
    peer: String,
    /// The encoder of our side; the peer's is in its command
    #[arg(long, default_value = "resnet50")]
    arch: String,
    /// Pictures in a batch of our side; the peer's is in its command
    #[arg(long, value_name = "N", default_value = "32")]
    batch: usize,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // Built beforehand: the first turn must not compete with a compiler.
    let mut build = cargo();
    build.args(["build", "--release", "-p", "simclr-train"]);
    let status = build.status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo build --release: {status}");

    let batch = arguments.batch.to_string();
    let mut ours = Vec::new();
    let mut peers = Vec::new();
    for turn in 1..=TURNS {
        let mut our = cargo();
        our.args(["run", "--quiet", "--release", "-p", "simclr-train", "--", "bench", "step"]);
        our.args(["--arch", &arguments.arch, "--batch", &batch, "--json"]);
        ours.push(measure("ours", turn, &mut our)?);
        let mut peer = Command::new("sh");
        peer.args(["-c", &arguments.peer]).current_dir(crate::root());
        peers.push(measure("peer", turn, &mut peer)?);
    }
    let (ours, peers) = (median(ours), median(peers));
    println!("median: ours {ours:.2} pairs/s, peer {peers:.2} pairs/s, ours/peer {:.3}", ours / peers);
    Ok(())
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(crate::root());
    cargo
}

/// Runs a side once and returns its pairs per second.
fn measure(side: &str, turn: usize, command: &mut Command) -> anyhow::Result<f64> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start {side}"))?;
    if !output.status.success() {
        bail!("{side}: {}", output.status);
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    let rate = pairs_per_s(&stdout).with_context(|| format!("{side}, turn {turn}"))?;
    println!("turn {turn} of {TURNS}, {side}: {rate:.2} pairs/s  {}", stdout.trim_end().lines().last().unwrap_or(""));
    Ok(rate)
}

/// `pairs_per_s` of the JSON object on the last line.
fn pairs_per_s(stdout: &str) -> anyhow::Result<f64> {
    let last = stdout.trim_end().lines().last().unwrap_or("");
    let object: Value = serde_json::from_str(last).with_context(|| format!("the last line is not JSON: {last:?}"))?;
    match object["pairs_per_s"].as_f64() {
        Some(rate) if rate > 0.0 => Ok(rate),
        _ => bail!("no positive number pairs_per_s in {last}"),
    }
}

/// Of an odd number of values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::{median, pairs_per_s};

    #[test]
    fn rates_are_on_the_last_line() {
        assert_eq!(pairs_per_s("{\"pairs_per_s\": 1}\nwords\n{\"pairs_per_s\": 2.5}\n").unwrap(), 2.5);
        for broken in ["", "words", "{}", "{\"pairs_per_s\": 0}", "{\"pairs_per_s\": \"2\"}"] {
            assert!(pairs_per_s(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn the_middle_one() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
