//! The encoder alone, as it embeds pictures: running statistics, batch norm folded into the convolutions.

use std::time::Instant;

use candle_core::DType;
use serde_json::json;
use simclr_model::{Model, ModelConfig};

use super::{WARM_UP, at_least_one, median, mib, pictures};
use crate::cli::BenchInferArguments;
use crate::config::{Config, arch, precision};
use crate::output::Output;
use crate::{Ending, machine};

pub(super) fn command(arguments: &BenchInferArguments, output: &Output) -> anyhow::Result<Ending> {
    at_least_one("--batch", arguments.batch)?;
    at_least_one("--width", arguments.model.width)?;
    at_least_one("--steps", arguments.steps)?;
    let config = Config { precision: precision(&arguments.model.precision)?, ..Config::default() };
    let model_config = ModelConfig { width: arguments.model.width, ..ModelConfig::new(arch(&arguments.model.arch)?) };
    machine::use_threads(arguments.machine.threads)?;
    let device = machine::device(arguments.machine.device.as_deref().unwrap_or("auto"))?;
    machine::must_compute_in(config.precision, &device)?;
    let model = Model::new(&model_config, 0, DType::F32, &device, &config.context())?;
    let encoder = model.freeze();
    let pictures = pictures(arguments.batch, 0, &device)?;
    let mut times = Vec::new();
    for i in 0..WARM_UP + arguments.steps {
        let began = Instant::now();
        encoder.features(&pictures)?;
        machine::wait_for(&device)?;
        if i >= WARM_UP {
            times.push(began.elapsed().as_secs_f64());
        }
    }
    let seconds = median(times);
    let images_per_s = arguments.batch as f64 / seconds;
    let (threads, peak_mib) = (rayon::current_num_threads(), machine::peak_mib_of(&device));
    let object = json!({
        "arch": arguments.model.arch, "width": arguments.model.width, "batch": arguments.batch, "precision": config.precision, "device": machine::name(&device),
        "threads": threads, "s_per_batch": seconds, "images_per_s": images_per_s, "peak_mib": peak_mib,
    });
    let text = format!(
        "{} (width {}), batch {}, {}, on {}: {images_per_s:.1} images/s, {} MiB at most",
        arguments.model.arch,
        arguments.model.width,
        arguments.batch,
        arguments.model.precision,
        machine::describe(&device),
        mib(peak_mib),
    );
    output.result(text, &object);
    Ok(Ending::Done)
}
