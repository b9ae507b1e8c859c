//! The losses of a short training on the GPU in f32, in bf16, and on the CPU.

use std::path::Path;

use serde_json::{Value, json};

use super::{Losses, differences, trained};

/// What is trained, and at which width: more than an epoch. It ends before the last one does, and so without what is asked of the features.
const RECIPE: (&str, &str) = ("--subset 5120 --batch 64 --epochs 2 --max-steps 100", "16");
const SMALL: (&str, &str) = ("--subset 1024 --batch 32 --epochs 2 --max-steps 40", "4");

/// How far two curves may be apart in the mean of all steps, relative to the loss. At the usual rate they part by rounding alone: on the CPU
/// bf16 is 0.016 from f32 with [`RECIPE`], and a training that learns nothing 0.07.
const APART: f64 = 0.05;

/// The curves, and how far they are apart.
pub(super) fn curves(folder: &Path, scratch: &Path, small: bool) -> anyhow::Result<Value> {
    let (recipe, width) = if small { SMALL } else { RECIPE };
    let train = |device: &str, precision: &str| {
        let model = ["--data", "shapes", "--seed", "1", "--arch", "resnet18", "--width", width];
        let form = ["--device", device, "--precision", precision];
        let arguments: Vec<&str> = model.into_iter().chain(recipe.split_whitespace()).chain(form).collect();
        trained(folder, &scratch.join(format!("curve-{device}-{precision}")), &arguments)
    };
    let (full, half) = (train("cuda", "f32")?, train("cuda", "bf16")?);
    let mut all = json!({ "cuda f32": full, "cuda bf16": half, "bf16 from f32": apart(&full, &half) });
    println!("losses of {} steps in bf16: {} from those in f32 in the mean", full.len(), all["bf16 from f32"]["mean"]);
    if !small {
        let cpu = train("cpu", "f32")?;
        all["f32 from the cpu"] = apart(&cpu, &full);
        all["cpu f32"] = json!(cpu);
        println!(
            "losses of {} steps in f32: {} from the CPU's in the mean",
            cpu.len(),
            all["f32 from the cpu"]["mean"]
        );
    }
    Ok(all)
}

/// The largest and the mean difference, relative to the number, and whether the mean one is allowed.
fn apart(want: &Losses, got: &Losses) -> Value {
    let differences = differences(want, got);
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    let largest = differences.iter().copied().fold(0.0, f64::max);
    let ok = want.len() == got.len() && mean <= APART;
    json!({ "largest": largest, "mean": mean, "allowed mean": APART, "ok": ok })
}

/// Whether all that were trained are near enough.
pub(super) fn is_ok(curves: &Value) -> bool {
    curves["bf16 from f32"]["ok"] == true && curves["f32 from the cpu"]["ok"] != false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_near_in_the_mean_and_as_long() {
        let curve = |losses: &[f64]| (1..).zip(losses.iter().copied()).collect::<Losses>();
        let apart = |want: &[f64], got: &[f64]| super::apart(&curve(want), &curve(got));
        let near = apart(&[2.0, 4.0, 1.0, 1.0], &[2.0, 4.2, 1.0, 1.0]);
        assert!((near["mean"].as_f64().unwrap() - 0.0125).abs() < 1e-12, "{near}");
        assert!((near["largest"].as_f64().unwrap() - 0.05).abs() < 1e-12 && near["ok"] == true, "{near}");
        assert_eq!(apart(&[2.0, 4.0], &[2.0, 4.5])["ok"], false);
        assert_eq!([apart(&[2.0, 4.0], &[2.0])["ok"].clone(), apart(&[], &[])["ok"].clone()], [false, false]);
        assert_eq!(apart(&[2.0], &[f64::NAN])["ok"], false);
    }

    #[test]
    fn every_curve_that_was_trained_counts() {
        let report =
            |half: bool, cpu: Value| is_ok(&json!({ "bf16 from f32": { "ok": half }, "f32 from the cpu": cpu }));
        assert!(report(true, Value::Null) && report(true, json!({ "ok": true })));
        assert!(!report(false, Value::Null) && !report(true, json!({ "ok": false })) && !is_ok(&Value::Null));
    }
}
