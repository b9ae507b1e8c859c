//! Training steps on random pictures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use serde_json::json;
use simclr_dist::Measured;
use simclr_model::{Model, ModelConfig};
use simclr_ops::profile::Profile;
use simclr_optim::Optimizer;

use super::breakdown::{self, Peak};
use super::{WARM_UP, at_least_one, median, mib, pictures};
use crate::cli::BenchStepArguments;
use crate::config::{Config, arch, precision};
use crate::contrast::Contrast;
use crate::feed::Pairs;
use crate::output::Output;
use crate::ranks::Ranks;
use crate::table::Table;
use crate::{Ending, Usage, machine};

/// The settings that were typed, checked.
fn settings(arguments: &BenchStepArguments, ranks: &Ranks) -> anyhow::Result<(Config, Device)> {
    let config = Config {
        arch: arguments.model.arch.clone(),
        width: arguments.model.width,
        batch: arguments.batch,
        chunk: arguments.chunk,
        sync_bn: arguments.sync_bn,
        precision: precision(&arguments.model.precision)?,
        fast: arguments.fast,
        ..Config::default()
    };
    config.validate()?;
    config.validate_for(ranks.count())?;
    at_least_one("--steps", arguments.steps)?;
    machine::use_threads(arguments.machine.threads.or(ranks.threads()))?;
    let device = machine::training_device(arguments.machine.device.as_deref().unwrap_or("auto"), ranks.is_alone())?;
    machine::must_compute_in(config.precision, &device)?;
    if arguments.breakdown && !device.is_cpu() {
        let told = "--breakdown times the ops of the CPU, expected --device cpu: a GPU is still at work when an op has returned";
        return Err(Usage(format!("{told}; bench roofline counts its kernels")).into());
    }
    Ok((config, device))
}

pub(super) fn command(arguments: &BenchStepArguments, ranks: &Ranks, output: &Output) -> anyhow::Result<Ending> {
    let (config, device) = ranks.agree(settings(arguments, ranks))?;
    config.remark_on_fast(&device).iter().for_each(|remark| output.say(remark));
    let measured = Arc::new(Measured::new(ranks.group().clone()));
    let ranks = &ranks.over(measured.clone());
    let model_config = ModelConfig { width: config.width, ..ModelConfig::new(arch(&config.arch)?) };
    let profile = Arc::new(Profile::default());
    let ctx = ranks.context(config.context(), config.sync_bn);
    let ctx = if arguments.breakdown { ctx.with_profile(profile.clone()) } else { ctx };
    let model = Model::new(&model_config, 0, DType::F32, &device, &ctx)?;
    let mut optimizer = config.scaling(Optimizer::adam(model.parameters(), 1e-3, 0.0, &ctx)?)?;
    let own = config.batch / ranks.count();
    let [left, right] = [0, 1].map(|view| pictures(own, 2 * ranks.rank() as u64 + view, &device));
    let views = Pairs::Apart([left?, right?]);

    let contrast = Contrast::of(&config, ranks);
    let (mut times, mut loss_time) = (Vec::new(), Duration::ZERO);
    for i in 0..WARM_UP + arguments.steps {
        if i == WARM_UP {
            profile.clear();
            measured.take();
            loss_time = Duration::ZERO;
        }
        let began = Instant::now();
        let contrasted = contrast.run(&model, &optimizer, &views)?;
        loss_time += contrasted.loss_time;
        contrast.step(&mut optimizer, contrasted, own, None, None)?;
        machine::wait_for(&device)?;
        if i >= WARM_UP {
            times.push(began.elapsed().as_secs_f64());
        }
    }
    let traffic = measured.take();
    let total = Duration::from_secs_f64(times.iter().sum());
    let seconds = median(times);
    let pairs_per_s = config.batch as f64 / seconds;
    // Forward, gradient of inputs and gradient of weights are two operations a multiply-add each, for both views.
    let operations = 2.0 * 3.0 * 2.0 * model.multiply_adds(32, 32) as f64;
    let gflops = operations * pairs_per_s / 1e9;
    let mut object = json!({
        "arch": config.arch, "width": config.width, "batch": config.batch, "chunk": config.chunk, "precision": config.precision, "fast": config.fast,
        "device": machine::name(&device), "threads": rayon::current_num_threads(), "steps": arguments.steps, "s_per_step": seconds, "pairs_per_s": pairs_per_s,
        "peak_mib": machine::peak_mib_of(&device), "gflops": gflops, "ranks": ranks.count(),
    });
    let mut text = format!(
        "{} (width {}), batch {}, {}, on {}: {pairs_per_s:.2} pairs/s, {seconds:.3} s a step, {gflops:.0} GFLOP/s, {} MiB at most",
        config.arch,
        config.width,
        config.batch,
        arguments.model.precision,
        machine::describe(&device),
        mib(machine::peak_mib_of(&device)),
    );
    if !ranks.is_alone() {
        let steps = arguments.steps as f64;
        let costs = [("batch_norm", traffic.sums), ("gradients", traffic.large_sums), ("embeddings", traffic.gathers)];
        let rows = costs.map(|(of, cost)| {
            let (calls, bytes, waited) =
                (cost.calls as f64 / steps, cost.bytes as f64 / steps, cost.waited.as_secs_f64() / steps);
            object["communication"][of] =
                json!({ "calls_per_step": calls, "bytes_per_step": bytes, "s_waited_per_step": waited });
            let share = 100.0 * waited / (total.as_secs_f64() / steps);
            let cells = [
                of.replace('_', " "),
                format!("{calls:.0}"),
                format!("{:.3}", bytes / 1e6),
                format!("{:.2}", 1e3 * waited),
            ];
            cells.into_iter().chain([format!("{share:.1} %")]).collect()
        });
        let columns =
            ["sums and gathers of", "calls a step", "MB a step", "ms waited", "of the step"].map(String::from).into();
        let count = ranks.count();
        text = format!(
            "{count} processes with {own} pictures each: {text}\n\n{}",
            Table { columns, rows: rows.into() }.text()
        );
    }
    if arguments.breakdown {
        let (rows, peak) = (breakdown::rows(&profile, loss_time, total), Peak::measure());
        object["breakdown"] = breakdown::to_json(&rows, arguments.steps, &peak);
        text = format!("{text}\n\n{}", breakdown::table(&rows, arguments.steps, &peak).text());
    }
    output.result(text, &object);
    Ok(Ending::Done)
}
