//! `simclr-train bench`: what this machine does.

mod augment;
mod breakdown;
mod epoch;
mod infer;
mod knn;
mod loss;
mod messages;
mod roofline;
mod scaling;
mod step;

use candle_core::{Device, Tensor};
use simclr_ops::random::stream;

use crate::cli::BenchCommand;
use crate::output::Output;
use crate::ranks::Ranks;
use crate::{Ending, Usage};

/// Repeats before the clock counts: memory is touched and caches are warm after them.
const WARM_UP: usize = 3;

pub(crate) fn command(command: &BenchCommand, ranks: &Ranks, output: &Output) -> anyhow::Result<Ending> {
    match command {
        BenchCommand::Step(arguments) => step::command(arguments, ranks, output),
        BenchCommand::Infer(arguments) => infer::command(arguments, output),
        BenchCommand::Augment(arguments) => augment::command(arguments, output),
        BenchCommand::Loss(arguments) => loss::command(arguments, output),
        BenchCommand::Knn(arguments) => knn::command(arguments, output),
        BenchCommand::Epoch(arguments) => epoch::command(arguments, output),
        BenchCommand::Messages(arguments) => messages::command(arguments, ranks, output),
        BenchCommand::Scaling(arguments) => scaling::command(arguments, output),
        BenchCommand::Roofline(arguments) => roofline::command(arguments, output),
    }
}

/// Random pictures of 32×32, `[n, 3, 32, 32]`.
fn pictures(n: usize, view: u64, device: &Device) -> anyhow::Result<Tensor> {
    let mut numbers = stream(0, [view, 0, 0]);
    let pixels: Vec<f32> = (0..n * 3 * 32 * 32).map(|_| numbers.normal() as f32).collect();
    Ok(Tensor::from_vec(pixels, (n, 3, 32, 32), device)?)
}

/// The middle one of some times.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// # Errors
/// [`Usage`] for zero.
fn at_least_one(flag: &str, found: usize) -> Result<(), Usage> {
    if found == 0 { Err(Usage(format!("{flag} is 0, expected at least 1"))) } else { Ok(()) }
}

/// For people: a number of MiB that may be unknown.
fn mib(found: Option<u64>) -> String {
    found.map_or("unknown".into(), |mib| mib.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
        assert!(at_least_one("--steps", 0).unwrap_err().to_string().contains("--steps is 0"));
    }
}
