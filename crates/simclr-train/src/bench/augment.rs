//! Augmentation alone: pictures in memory to two normalised views of each, as the loader makes them.

use std::sync::Arc;
use std::time::Instant;

use candle_core::DType;
use serde_json::json;
use simclr_data::{DataError, DeviceSet, Loader, LoaderConfig, Picture, Pictures};
use simclr_ops::random::stream;

use super::{WARM_UP, at_least_one, median};
use crate::Ending;
use crate::cli::BenchAugmentArguments;
use crate::config::{Config, Given};
use crate::data_sets::Place;
use crate::machine;
use crate::output::Output;

/// Random pictures of a pass.
const PICTURES: usize = 2_000;

/// Pictures of a batch: fewer if they are large, as in training.
const BATCH: usize = 250;
const BATCH_PIXELS: usize = 1 << 21;

pub(super) fn command(arguments: &BenchAugmentArguments, output: &Output) -> anyhow::Result<Ending> {
    let mut config = Config::default().of_data(&arguments.data, arguments.size)?;
    config.validate()?;
    at_least_one("--threads", arguments.threads)?;
    at_least_one("--steps", arguments.steps)?;
    let threads = arguments.threads;
    machine::use_threads(Some(threads))?;
    let device = machine::device(&arguments.device)?;
    let (set, name): (Arc<dyn Pictures>, _) = match &arguments.data.data {
        Some(_) => {
            let opened =
                config.data.train(Place::of(&config, arguments.data.cache.as_deref()), config.subset, output)?;
            config = config.fitted(Given { size: arguments.size.is_some(), ..Given::default() }, &opened)?;
            (opened.pictures, config.data.to_string())
        }
        None => (Arc::new(Noise::new(config.size)), "noise".to_owned()),
    };
    // One thread is this one.
    let workers = if threads == 1 { 0 } else { threads };
    let size = config.size as usize;
    let batch = (BATCH_PIXELS / (size * size)).clamp(2, BATCH).min(set.len());
    let settings = LoaderConfig { batch, workers, ..LoaderConfig::default() };
    let loader = Loader::new(set.clone(), config.train_transform()?, settings)?;
    let there = (!device.is_cpu()).then(|| DeviceSet::upload(set.as_ref(), &device, u64::MAX)).transpose()?;
    let views = 2 * batch * loader.batches_per_epoch();
    let mut times = Vec::new();
    for pass in 0..WARM_UP + arguments.steps {
        let began = Instant::now();
        match &there {
            None => loader.epoch(pass as u64, 0).try_for_each(|batch| batch.map(drop))?,
            Some(set) => {
                loader.device_epoch(set, DType::F32, pass as u64, 0)?.try_for_each(|batch| batch.map(drop))?;
                machine::wait_for(&device)?;
            }
        }
        if pass >= WARM_UP {
            times.push(began.elapsed().as_secs_f64());
        }
    }
    let views_per_s = views as f64 / median(times);
    let object = json!({ "data": name, "device": machine::name(&device), "threads": threads, "size": size, "views_per_s": views_per_s });
    let threads = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
    let by = if device.is_cpu() { threads } else { format!("{}, {threads}", machine::describe(&device)) };
    let text = format!("the course's views of {name} at {size}x{size} pixels, {by}: {views_per_s:.0} views/s");
    output.result(text, &object);
    Ok(Ending::Done)
}

/// Random pictures in memory.
struct Noise(Vec<Picture>);

impl Noise {
    fn new(size: u32) -> Self {
        let picture = |i: usize| {
            let mut numbers = stream(0, [i as u64, 0, 0]);
            let bytes = (0..3 * size * size).map(|_| numbers.below(256) as u8).collect();
            Picture::new(size, size, bytes).expect("three bytes a pixel")
        };
        Self((0..PICTURES).map(picture).collect())
    }
}

impl Pictures for Noise {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn picture(&self, index: usize) -> Result<Picture, DataError> {
        let none = || DataError::Index { name: self.name().to_owned(), index, len: self.len() };
        self.0.get(index).cloned().ok_or_else(none)
    }

    fn label(&self, _: usize) -> Option<u32> {
        None
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn name(&self) -> &str {
        "noise"
    }
}
