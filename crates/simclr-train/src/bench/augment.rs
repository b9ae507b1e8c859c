//! Augmentation alone: pictures in memory to two normalised views of each, as the loader makes them.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use simclr_data::{DataError, Loader, LoaderConfig, Normalization, Picture, Pictures, Recipe, TrainTransform};
use simclr_ops::random::stream;

use super::{WARM_UP, at_least_one, median};
use crate::Ending;
use crate::cli::BenchAugmentArguments;
use crate::output::Output;

/// Pictures of a pass, and of a batch.
const PICTURES: usize = 2_000;
const BATCH: usize = 250;

pub(super) fn command(arguments: &BenchAugmentArguments, output: &Output) -> anyhow::Result<Ending> {
    at_least_one("--size", arguments.size as usize)?;
    at_least_one("--threads", arguments.threads)?;
    at_least_one("--steps", arguments.steps)?;
    let (size, threads) = (arguments.size, arguments.threads);
    let transform = TrainTransform::new(Recipe::default(), size, Normalization::CIFAR10, 0)?;
    // One thread is this one.
    let workers = if threads == 1 { 0 } else { threads };
    let config = LoaderConfig { batch: BATCH, workers, ..LoaderConfig::default() };
    let loader = Loader::new(Arc::new(Noise::new(size)), transform, config)?;
    let mut times = Vec::new();
    for pass in 0..WARM_UP + arguments.steps {
        let began = Instant::now();
        for batch in loader.epoch(pass as u64, 0) {
            batch?;
        }
        if pass >= WARM_UP {
            times.push(began.elapsed().as_secs_f64());
        }
    }
    let views_per_s = (2 * PICTURES) as f64 / median(times);
    let object = json!({ "threads": threads, "size": size, "views_per_s": views_per_s });
    let threads = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
    let text = format!("the course's views of {size}x{size} pixels, {threads}: {views_per_s:.0} views/s");
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
