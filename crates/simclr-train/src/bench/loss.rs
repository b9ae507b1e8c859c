//! NT-Xent forward and backward, alone.

use std::time::Instant;

use candle_core::{Tensor, Var};
use serde_json::json;
use simclr_loss::{nt_xent, simclr_loss_vectorized};
use simclr_ops::random::stream;

use super::{WARM_UP, at_least_one, median, mib};
use crate::cli::BenchLossArguments;
use crate::output::Output;
use crate::{Ending, Usage, machine};

pub(super) fn command(arguments: &BenchLossArguments, output: &Output) -> anyhow::Result<Ending> {
    let BenchLossArguments { batch, dim, steps, temperature, .. } = *arguments;
    at_least_one("--batch", batch)?;
    at_least_one("--dim", dim)?;
    at_least_one("--steps", steps)?;
    let loss = match arguments.form.as_str() {
        "nt-xent" => nt_xent,
        "vectorized" => simclr_loss_vectorized,
        form => return Err(Usage(format!("--form is {form}, expected nt-xent or vectorized")).into()),
    };
    machine::use_threads(arguments.machine.threads)?;
    let device = machine::device(arguments.machine.device.as_deref().unwrap_or("auto"))?;
    let views = |view: u64| -> anyhow::Result<Var> {
        let mut numbers = stream(0, [view, 0, 0]);
        let rows: Vec<f32> = (0..batch * dim).map(|_| numbers.normal() as f32).collect();
        Ok(Var::from_tensor(&Tensor::from_vec(rows, (batch, dim), &device)?)?)
    };
    let (left, right) = (views(0)?, views(1)?);
    let (start, mut times) = (machine::peak_mib_of(&device), Vec::new());
    for i in 0..WARM_UP + steps {
        let began = Instant::now();
        loss(&left, &right, temperature)?.backward()?;
        machine::wait_for(&device)?;
        if i >= WARM_UP {
            times.push(began.elapsed().as_secs_f64());
        }
    }
    let (seconds, threads) = (median(times), rayon::current_num_threads());
    let above = machine::peak_mib_of(&device).zip(start).map(|(peak, start)| peak - start);
    let object = json!({
        "batch": batch, "dim": dim, "form": arguments.form, "device": machine::name(&device), "threads": threads, "s": seconds, "peak_mib_above_start": above,
    });
    let text = format!(
        "{} of 2 x {batch} views of {dim}, forward and backward, on {}: {:.2} ms, {} MiB above the start",
        arguments.form,
        machine::describe(&device),
        1e3 * seconds,
        mib(above)
    );
    output.result(text, &object);
    Ok(Ending::Done)
}
