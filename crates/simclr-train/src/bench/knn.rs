//! The kNN test alone, on random features.

use std::time::Instant;

use candle_core::{Device, Tensor};
use serde_json::json;
use simclr_eval::{Features, KnnProtocol, knn};
use simclr_ops::random::stream;
use simclr_ops::{Context, l2_normalize};

use super::{at_least_one, median, mib};
use crate::cli::BenchKnnArguments;
use crate::output::Output;
use crate::{Ending, machine};

/// CIFAR-10's.
const CLASSES: usize = 10;

pub(super) fn command(arguments: &BenchKnnArguments, output: &Output) -> anyhow::Result<Ending> {
    let BenchKnnArguments { bank, queries, dim, k, steps, .. } = *arguments;
    for (flag, found) in [("--bank", bank), ("--queries", queries), ("--dim", dim), ("--k", k), ("--steps", steps)] {
        at_least_one(flag, found)?;
    }
    machine::use_threads(arguments.threads)?;
    let features = |rows: usize, which: u64| -> anyhow::Result<Features> {
        let mut numbers = stream(0, [which, 0, 0]);
        let vectors: Vec<f32> = (0..rows * dim).map(|_| numbers.normal() as f32).collect();
        let vectors = Tensor::from_vec(vectors, (rows, dim), &Device::Cpu)?;
        let labels = (0..rows).map(|row| (row % CLASSES) as u32).collect();
        Ok(Features { vectors: l2_normalize::forward(&Context::new(), &vectors)?.0, labels })
    };
    let (bank_features, query_features) = (features(bank, 0)?, features(queries, 1)?);
    let start = machine::peak_mib();
    let protocols = [KnnProtocol { k, temperature: Some(0.5) }];
    let mut times = Vec::new();
    // The first is not timed.
    for i in 0..=steps {
        let began = Instant::now();
        knn(&bank_features, &query_features, CLASSES, &protocols)?;
        if i > 0 {
            times.push(began.elapsed().as_secs_f64());
        }
    }
    let (seconds, threads) = (median(times), rayon::current_num_threads());
    let above = machine::peak_mib().zip(start).map(|(peak, start)| peak - start);
    let gflops = 2.0 * bank as f64 * queries as f64 * dim as f64 / seconds / 1e9;
    let object = json!({
        "bank": bank, "queries": queries, "dim": dim, "k": k, "threads": threads, "s": seconds, "gflops": gflops,
        "peak_mib_above_start": above,
    });
    let text = format!(
        "kNN of {queries} against {bank} features of {dim}, k = {k}, {threads} threads: {seconds:.2} s, {gflops:.0} GFLOP/s, \
         {} MiB above the features",
        mib(above)
    );
    output.result(text, &object);
    Ok(Ending::Done)
}
