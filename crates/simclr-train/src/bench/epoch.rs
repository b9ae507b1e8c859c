//! Training as it is, from pictures to update: how much of the time it waits for the loader.

use candle_core::DType;
use serde_json::json;
use simclr_model::Model;
use simclr_optim::Optimizer;

use super::{WARM_UP, mib};
use crate::cli::BenchEpochArguments;
use crate::config::{Config, Given, precision};
use crate::contrast::Contrast;
use crate::data_sets::Place;
use crate::feed::Feed;
use crate::meter::Meter;
use crate::output::Output;
use crate::pretrain::loader;
use crate::ranks::Ranks;
use crate::{Ending, Usage, machine};

pub(super) fn command(arguments: &BenchEpochArguments, output: &Output) -> anyhow::Result<Ending> {
    let config = Config {
        arch: arguments.model.arch.clone(),
        width: arguments.model.width,
        batch: arguments.batch,
        precision: precision(&arguments.model.precision)?,
        ..Config::default().of_data(&arguments.data, arguments.size)?
    };
    config.validate()?;
    machine::use_threads(arguments.machine.threads)?;
    let device = machine::device(arguments.machine.device.as_deref().unwrap_or("auto"))?;
    machine::must_compute_in(config.precision, &device)?;
    let opened = config.data.train(Place::of(&config, arguments.data.cache.as_deref()), config.subset, output)?;
    let config = config.fitted(Given { size: arguments.size.is_some(), ..Given::default() }, &opened)?;
    let train = opened.pictures;
    let loader = loader(&config, &train, arguments.workers, &Ranks::alone())?;
    let feed = Feed::new(loader, train.as_ref(), &config, &device, output)?;
    let steps = feed.batches_per_epoch().min(arguments.max_steps.unwrap_or(usize::MAX));
    if steps <= WARM_UP {
        return Err(
            Usage(format!("an epoch has {steps} steps, expected more than {WARM_UP}, which are not timed")).into()
        );
    }
    let ctx = config.context();
    let model = Model::new(&config.model()?, config.seed, DType::F32, &device, &ctx)?;
    let mut optimizer = config.scaling(Optimizer::adam(model.parameters(), 1e-3, 0.0, &ctx)?)?;
    let contrast = Contrast::of(&config, &Ranks::alone());
    let mut meter = Meter::start();
    for (i, batch) in feed.epoch(0, 0)?.take(steps).enumerate() {
        if i == WARM_UP {
            meter = Meter::start();
        }
        let batch = batch?;
        meter.data_came();
        let contrasted = contrast.run(&model, &optimizer, &batch.pairs)?;
        contrast.step(&mut optimizer, contrasted, config.batch, None, None)?;
        machine::wait_for(&device)?;
        meter.batch_ended(config.batch);
    }
    let (threads, peak_mib) = (rayon::current_num_threads(), machine::peak_mib_of(&device));
    let (pairs_per_s, share) = (meter.pairs_per_second(), meter.data_wait_share());
    let object = json!({
        "data": config.data.to_string(), "arch": config.arch, "width": config.width, "batch": config.batch,
        "precision": config.precision, "device": machine::name(&device), "threads": threads, "workers": arguments.workers.unwrap_or(1),
        "steps": steps - WARM_UP, "pairs_per_s": pairs_per_s, "data_wait_share": share, "peak_mib": peak_mib,
    });
    let text = format!(
        "{} on {}, batch {}, {}, {threads} threads: {pairs_per_s:.2} pairs/s over {} steps, {:.2} % of the time waiting for data, {} MiB at most",
        config.arch,
        config.data,
        config.batch,
        arguments.model.precision,
        steps - WARM_UP,
        100.0 * share,
        mib(peak_mib),
    );
    output.result(text, &object);
    Ok(Ending::Done)
}
