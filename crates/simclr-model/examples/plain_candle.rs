//! Training steps in plain candle, its own conv2d and BatchNorm, beside ours: pairs per second of both.
//!
//! `cargo run --release -p simclr-model --example plain_candle [resnet50|resnet18] [batch, 8] [steps, 3]`. Both have two views
//! forward, NT-Xent, backward and Adam, on random pictures of 32×32, from the same parameters, with the allocator of the system; its
//! memory is kept, if glibc is told to: `MALLOC_TRIM_THRESHOLD_=-1 MALLOC_MMAP_THRESHOLD_=8000000000`.
#![allow(clippy::print_stdout, reason = "a benchmark")]

#[path = "../tests/plain/mod.rs"]
mod plain;

use std::error::Error;
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer as _, ParamsAdamW};
use simclr_loss::nt_xent;
use simclr_model::{Arch, Model, ModelConfig};
use simclr_ops::Context;
use simclr_ops::random::stream;
use simclr_optim::Optimizer;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arch: Arch = arguments.first().map_or("resnet50", String::as_str).parse()?;
    let batch: usize = arguments.get(1).map_or("8", String::as_str).parse()?;
    let steps: usize = arguments.get(2).map_or("3", String::as_str).parse()?;
    let (blocks, bottleneck) = match arch {
        Arch::ResNet18 => ([2, 2, 2, 2], false),
        Arch::ResNet34 => ([3, 4, 6, 3], false),
        Arch::ResNet50 => ([3, 4, 6, 3], true),
    };
    let ctx = Context::new();
    let model = Model::new(&ModelConfig::new(arch), 0, DType::F32, &Device::Cpu, &ctx)?;
    let copy = |(name, var): &(String, Var)| -> Result<_, candle_core::Error> {
        Ok((name.clone(), Var::from_tensor(&var.as_tensor().copy()?.detach())?))
    };
    let plain = plain::Plain(model.parameters().iter().map(copy).collect::<Result<_, _>>()?);
    let pictures = |view| {
        let mut numbers = stream(0, [view, 0, 0]);
        let pixels: Vec<f32> = (0..batch * 3 * 32 * 32).map(|_| numbers.normal() as f32).collect();
        Tensor::from_vec(pixels, (batch, 3, 32, 32), &Device::Cpu)
    };
    let (left, right) = (pictures(0)?, pictures(1)?);

    let mut adam = Optimizer::adam(model.parameters(), 1e-3, 0.0, &ctx)?;
    let ours = pairs_per_second(batch, steps, || {
        let (left, right) = model.forward_views(&left, &right)?;
        let loss = nt_xent(&left, &right, 0.5)?;
        adam.step(&model.backward(&loss)?)?;
        Ok(loss.to_scalar::<f32>()?)
    })?;
    let settings = ParamsAdamW { lr: 1e-3, weight_decay: 1e-6, ..ParamsAdamW::default() };
    let mut adam = AdamW::new(plain.0.values().cloned().collect(), settings)?;
    let theirs = pairs_per_second(batch, steps, || {
        let embed = |x| plain.embed(x, blocks, bottleneck);
        let loss = nt_xent(&embed(&left)?, &embed(&right)?, 0.5)?;
        adam.step(&loss.backward()?)?;
        Ok(loss.to_scalar::<f32>()?)
    })?;
    println!(
        "{arch}, batch {batch}: plain candle {theirs:.2} pairs/s, ours {ours:.2} pairs/s, {:.1} times as fast",
        ours / theirs
    );
    Ok(())
}

/// The median of some steps, after one that is not timed.
fn pairs_per_second(
    batch: usize,
    steps: usize,
    mut step: impl FnMut() -> Result<f32, Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    step()?;
    let mut times = Vec::new();
    for _ in 0..steps.max(1) {
        let began = Instant::now();
        step()?;
        times.push(began.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(batch as f64 / times[times.len() / 2])
}
