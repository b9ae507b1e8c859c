//! Optimizers as `golden_optim.py` runs them: fifty steps of three small tensors, on any device.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use simclr_ops::Context;
use simclr_optim::{Betas, Group, Momentum, Optimizer, Rule};

use super::fixture::{self, numbers};

const NAMES: [&str; 3] = ["matrix", "vector", "scalar"];

pub(crate) fn golden() -> HashMap<String, Tensor> {
    fixture::load("optim")
}

/// The parameters as the script begins with them.
pub(crate) fn parameters(golden: &HashMap<String, Tensor>, dtype: DType, device: &Device) -> Vec<(String, Var)> {
    let start = |name: &str| golden[&format!("start.{name}")].to_dtype(dtype).unwrap().to_device(device).unwrap();
    NAMES.iter().map(|name| (name.to_string(), Var::from_tensor(&start(name)).unwrap())).collect()
}

/// The gradients of a step.
pub(crate) fn gradients(golden: &HashMap<String, Tensor>, parameters: &[(String, Var)], step: usize) -> GradStore {
    let mut store = GradStore::default();
    for (name, var) in parameters {
        let gradient = golden[&format!("grad.{name}")].get(step).unwrap().to_dtype(var.dtype()).unwrap();
        store.insert(var, gradient.to_device(var.device()).unwrap());
    }
    store
}

/// Asserts that every optimizer of the script moves the parameters as there, each number to `tolerance` · (1 + |number|).
pub(crate) fn fifty_steps(
    golden: &HashMap<String, Tensor>,
    dtype: DType,
    device: &Device,
    ctx: &Context,
    tolerance: f64,
) {
    let kind = dtype.as_str();
    for (optimizer, rule, learning_rate, decay) in rules() {
        let parameters = parameters(golden, dtype, device);
        let mut optim = Optimizer::new(rule, &groups(&rule, &parameters, decay), learning_rate, ctx).unwrap();
        for step in 0..50 {
            if step == 25 {
                optim.set_learning_rate(learning_rate / 10.0);
            }
            optim.step(&gradients(golden, &parameters, step)).unwrap();
            if step % 10 == 9 {
                for (name, var) in &parameters {
                    let want = numbers(&golden[&format!("{kind}.{optimizer}.{step}.{name}")]);
                    for (g, w) in numbers(var).iter().zip(&want) {
                        let close = (g - w).abs() <= tolerance * (1.0 + w.abs());
                        assert!(close, "{:?} {kind} {optimizer} step {step} {name}: {g} {w}", ctx.form());
                    }
                }
            }
        }
        assert_eq!((optim.steps().unwrap(), optim.learning_rate()), (50, learning_rate / 10.0));
    }
}

/// The optimizers of the script: rule, learning rate, weight decay.
pub(crate) fn rules() -> [(&'static str, Rule, f64, f64); 8] {
    let plain = Momentum { momentum: 0.0, nesterov: false };
    let nesterov = Momentum { momentum: 0.9, nesterov: true };
    let lars = |momentum| Rule::Lars { momentum, trust_coefficient: 1e-3 };
    [
        ("adam", Rule::ADAM, 1e-2, 0.0),
        ("adam-decay", Rule::ADAM, 1e-2, 1e-2),
        ("adamw", Rule::AdamW(Betas::default()), 1e-2, 1e-2),
        ("sgd", Rule::Sgd(plain), 1e-2, 0.0),
        ("sgd-momentum", Rule::Sgd(Momentum::default()), 1e-2, 1e-2),
        ("sgd-nesterov", Rule::Sgd(nesterov), 1e-2, 1e-2),
        ("lars", lars(Momentum::default()), 1.0, 1e-2),
        ("lars-nesterov", lars(nesterov), 1.0, 1e-2),
    ]
}

/// One group, or for LARS those of SimCLR.
pub(crate) fn groups(rule: &Rule, parameters: &[(String, Var)], weight_decay: f64) -> Vec<Group> {
    match rule {
        Rule::Lars { .. } => Group::without_vectors(parameters, weight_decay),
        _ => Group::all(parameters, weight_decay),
    }
}
