//! `bench messages`: what sums and gathers cost between the processes that were started: what `bench scaling` asks for.

use std::time::Instant;

use serde_json::json;

use super::{WARM_UP, at_least_one, median};
use crate::cli::BenchMessagesArguments;
use crate::output::Output;
use crate::ranks::Ranks;
use crate::table::Table;
use crate::{Ending, Usage};

/// Numbers of a small sum: two for each of 256 channels and two views.
const SMALL: usize = 1_024;

/// Numbers of a large sum: a bucket of gradients, and the gradients of a ResNet-50.
const LARGE: [usize; 2] = [1 << 20, 24_620_000];

/// Numbers that a process gives to a gather: the embeddings of both views of 256 pictures.
const ROWS: usize = 2 * 256 * 128;

pub(super) fn command(arguments: &BenchMessagesArguments, ranks: &Ranks, output: &Output) -> anyhow::Result<Ending> {
    at_least_one("--repeats", arguments.repeats)?;
    if ranks.is_alone() {
        return Err(Usage("one process has nobody to speak to: start several, as with mpirun -n 2".into()).into());
    }
    let group = ranks.group();
    let time = |run: &mut dyn FnMut() -> anyhow::Result<()>| -> anyhow::Result<f64> {
        let mut times = Vec::new();
        for i in 0..WARM_UP + arguments.repeats {
            // From one moment on for all of them: nobody is measured waiting for another.
            group.barrier()?;
            let began = Instant::now();
            run()?;
            if i >= WARM_UP {
                times.push(began.elapsed().as_secs_f64());
            }
        }
        Ok(median(times))
    };
    let count = ranks.count() as f64;
    let small = time(&mut || Ok(group.sum(&mut [1.0; SMALL])?))?;
    let gather = time(&mut || group.all_gather(bytemuck::cast_slice(&[1f32; ROWS])).map(drop).map_err(Into::into))?;
    let mut rows = vec![
        row(&format!("sum of {SMALL} numbers (f64)"), small, 8.0 * SMALL as f64),
        row(&format!("gather of {ROWS} numbers (f32) of each"), gather, 4.0 * (count - 1.0) * ROWS as f64),
    ];
    let mut larges = Vec::new();
    for numbers in LARGE {
        let large = time(&mut || {
            let sums = group.start_sum(vec![1.0; numbers])?.wait()?;
            anyhow::ensure!(sums.iter().all(|&sum| f64::from(sum) == count), "a sum of ones is not their number");
            Ok(())
        })?;
        // A ring passes every byte on twice, but for a process's own part of it.
        let bytes = 2.0 * (count - 1.0) / count * 4.0 * numbers as f64;
        rows.push(row(&format!("sum of {numbers} numbers (f32)"), large, bytes));
        larges.push(json!({ "numbers": numbers, "s": large, "gb_per_s": bytes / large / 1e9 }));
    }
    let object = json!({
        "ranks": ranks.count(), "s_small_sum": small, "s_gather": gather, "large_sums": larges, "repeats": arguments.repeats,
    });
    let columns = [format!("{} processes", ranks.count()), "µs".into(), "GB/s".into()].into();
    output.result(Table { columns, rows }.text(), &object);
    Ok(Ending::Done)
}

fn row(what: &str, seconds: f64, bytes: f64) -> Vec<String> {
    vec![what.to_owned(), format!("{:.0}", 1e6 * seconds), format!("{:.2}", bytes / seconds / 1e9)]
}
