//! Writes down the views that a run trains on: what another program needs to follow it step by step.
//!
//!     cargo run --release -p simclr-data --example dump_views -- --data-dir DIR --subset N --batch B --steps K --seed S --out FILE
//!
//! They are those of `simclr-train pretrain --data cifar10` with the same numbers and its own recipe of views: `left` and `right`,
//! `[steps, batch, 3, 32, 32]`, f32, normalised, in a safetensors file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Tensor;
use simclr_data::{
    Cifar, CifarSet, Loader, LoaderConfig, Normalization, Pictures, Recipe, Split, Subset, TrainTransform,
};

const USAGE: &str = "dump_views --data-dir DIR --subset N --batch B --steps K --seed S --out FILE";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let typed: HashMap<&str, &str> = words.chunks_exact(2).map(|two| (two[0].as_str(), two[1].as_str())).collect();
    let of = |flag: &str| typed.get(flag).copied().ok_or_else(|| format!("{flag} is missing: {USAGE}"));
    let (batch, steps): (usize, usize) = (of("--batch")?.parse()?, of("--steps")?.parse()?);

    let set: Arc<dyn Pictures> = Arc::new(Cifar::open(CifarSet::Cifar10, Path::new(of("--data-dir")?), Split::Train)?);
    let set: Arc<dyn Pictures> = Arc::new(Subset::first(set, of("--subset")?.parse()?)?);
    let transform = TrainTransform::new(Recipe::default(), 32, Normalization::CIFAR10, of("--seed")?.parse()?)?;
    let loader = Loader::new(set, transform, LoaderConfig { batch, ..LoaderConfig::default() })?;

    let (mut left, mut right) = (Vec::new(), Vec::new());
    let epochs = steps.div_ceil(loader.batches_per_epoch()) as u64;
    for batch in (0..epochs).flat_map(|epoch| loader.epoch(epoch, 0)).take(steps) {
        let batch = batch?;
        left.push(batch.left);
        right.push(batch.right);
    }
    let views = HashMap::from([("left", Tensor::stack(&left, 0)?), ("right", Tensor::stack(&right, 0)?)]);
    candle_core::safetensors::save(&views, PathBuf::from(of("--out")?))?;
    Ok(())
}
