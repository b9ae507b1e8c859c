//! Every convolution of ResNet-50 on 32×32 pictures: GFLOP/s of its three products, and what they cost a training step.
//!
//! `cargo run --release -p simclr-ops --example conv2d_layers`. Layers run alone, on both views of 32 pictures, so that caches are kinder to
//! them than in a step; `simclr-train bench step --breakdown` shows the step. The memory of the system's allocator is kept, if
//! glibc is told to: `MALLOC_TRIM_THRESHOLD_=-1 MALLOC_MMAP_THRESHOLD_=8000000000`.
#![allow(clippy::print_stdout, reason = "a benchmark")]

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use simclr_ops::conv2d::{self, Window};
use simclr_ops::profile::Profile;
use simclr_ops::{Context, OpsError};

const BATCH: usize = 64;
const REPEATS: u32 = 5;

/// How often in the network, side of the input, channels in and out, kernel, stride.
const LAYERS: [(u32, usize, usize, usize, usize, usize); 23] = [
    (1, 32, 3, 64, 3, 1),
    (1, 32, 64, 64, 1, 1),
    (3, 32, 64, 64, 3, 1),
    (4, 32, 64, 256, 1, 1),
    (2, 32, 256, 64, 1, 1),
    (1, 32, 256, 128, 1, 1),
    (1, 32, 128, 128, 3, 2),
    (1, 32, 256, 512, 1, 2),
    (3, 16, 128, 128, 3, 1),
    (4, 16, 128, 512, 1, 1),
    (3, 16, 512, 128, 1, 1),
    (1, 16, 512, 256, 1, 1),
    (1, 16, 256, 256, 3, 2),
    (1, 16, 512, 1024, 1, 2),
    (5, 8, 256, 256, 3, 1),
    (6, 8, 256, 1024, 1, 1),
    (5, 8, 1024, 256, 1, 1),
    (1, 8, 1024, 512, 1, 1),
    (1, 8, 512, 512, 3, 2),
    (1, 8, 1024, 2048, 1, 2),
    (2, 4, 512, 512, 3, 1),
    (3, 4, 512, 2048, 1, 1),
    (2, 4, 2048, 512, 1, 1),
];

fn main() -> Result<(), OpsError> {
    let profile = Arc::new(Profile::default());
    let ctx = Context::new().with_profile(profile.clone());
    let mut totals = [0.0; 3];
    for (count, side, c_in, c_out, kernel, stride) in LAYERS {
        let x = Tensor::ones((BATCH, side, side, c_in), DType::F32, &Device::Cpu)?;
        let weight = Tensor::ones((c_out, c_in, kernel, kernel), DType::F32, &Device::Cpu)?;
        for round in 0..=REPEATS {
            if round == 1 {
                profile.clear();
            }
            let (y, saved) = conv2d::forward(&ctx, &x, &weight, Window { stride, padding: kernel / 2 })?;
            // The pictures want no gradient.
            conv2d::backward(&ctx, &saved, &y, c_in > 3)?;
        }
        let entries = profile.entries();
        let mut line = format!("{count} x {side:2}x{side:<2} {c_in:4} -> {c_out:4}, {kernel}x{kernel} / {stride}:");
        for (phase, total) in ["forward", "dX", "dW"].into_iter().zip(&mut totals) {
            let Some(entry) = entries.get(&("conv2d", phase)) else { continue };
            let seconds = entry.time.as_secs_f64();
            let step = 1e3 * seconds / f64::from(REPEATS) * f64::from(count);
            *total += step;
            line += &format!("  {phase} {:4.0} GFLOP/s {step:6.1} ms", entry.operations as f64 / seconds / 1e9);
        }
        println!("{line}");
    }
    let peak = simclr_ops::peak::f32_operations_per_second() / 1e9;
    let [forward, dx, dw] = totals;
    println!("a step: forward {forward:.0} ms, dX {dx:.0} ms, dW {dw:.0} ms; the machine's peak {peak:.0} GFLOP/s");
    Ok(())
}
