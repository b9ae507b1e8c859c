//! Adam against PyTorch's, and its numbers out and in again.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use simclr_ops::{Context, Form};
use simclr_optim::{Adam, AdamConfig, OptimError};

const NAMES: [&str; 3] = ["matrix", "vector", "scalar"];

fn golden() -> HashMap<String, Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/adam.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn parameters(golden: &HashMap<String, Tensor>, dtype: DType) -> Vec<(String, Var)> {
    let var = |name: &&str| Var::from_tensor(&golden[&format!("start.{name}")].to_dtype(dtype).unwrap()).unwrap();
    NAMES.iter().map(|name| (name.to_string(), var(name))).collect()
}

fn gradients(golden: &HashMap<String, Tensor>, parameters: &[(String, Var)], step: usize) -> GradStore {
    let mut store = GradStore::default();
    for (name, var) in parameters {
        let gradient = golden[&format!("grad.{name}")].get(step).unwrap().to_dtype(var.dtype()).unwrap();
        store.insert(var, gradient);
    }
    store
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn fifty_steps_are_pytorch_s() {
    let golden = golden();
    for form in [Form::Reference, Form::Fast] {
        for (dtype, kind, tolerance) in [(DType::F64, "f64", 1e-12), (DType::F32, "f32", 1e-6)] {
            for decay in ["0.0", "0.01"] {
                let parameters = parameters(&golden, dtype);
                let weight_decay = decay.parse().unwrap();
                let config = AdamConfig { learning_rate: 1e-2, weight_decay, ..AdamConfig::default() };
                let mut adam = Adam::new(&parameters, config, &Context::with_form(form)).unwrap();
                for step in 0..50 {
                    if step == 25 {
                        adam.set_learning_rate(1e-3);
                    }
                    adam.step(&gradients(&golden, &parameters, step)).unwrap();
                    if step % 10 == 9 {
                        for (name, var) in &parameters {
                            let want = numbers(&golden[&format!("{kind}.{decay}.{step}.{name}")]);
                            for (g, w) in numbers(var).iter().zip(&want) {
                                let close = (g - w).abs() <= tolerance * (1.0 + w.abs());
                                assert!(close, "{form:?} {kind} decay {decay} step {step} {name}: {g} {w}");
                            }
                        }
                    }
                }
                assert_eq!((adam.steps(), adam.learning_rate()), (50, 1e-3));
            }
        }
    }
}

#[test]
fn going_on_from_saved_numbers_gives_the_same_bits() {
    let golden = golden();
    let (whole, broken) = (parameters(&golden, DType::F32), parameters(&golden, DType::F32));
    let config = AdamConfig { weight_decay: 1e-2, ..AdamConfig::default() };
    let new = |parameters: &[(String, Var)]| Adam::new(parameters, config, &Context::new()).unwrap();
    let (mut one, mut first) = (new(&whole), new(&broken));
    for step in 0..20 {
        one.step(&gradients(&golden, &whole, step)).unwrap();
    }
    for step in 0..11 {
        first.step(&gradients(&golden, &broken, step)).unwrap();
    }
    let mut second = new(&broken);
    second.load_state(&first.state()).unwrap();
    assert_eq!(second.steps(), 11);
    for step in 11..20 {
        second.step(&gradients(&golden, &broken, step)).unwrap();
    }
    for ((name, a), (_, b)) in whole.iter().zip(&broken) {
        assert_eq!(numbers(a), numbers(b), "{name}");
    }
    // The copy is a copy: moving on did not move what was saved from.
    assert_eq!(first.steps(), 11);
    assert_ne!(numbers(&first.state()["exp_avg.matrix"]), numbers(&second.state()["exp_avg.matrix"]));
}

#[test]
fn a_parameter_without_gradient_is_named_and_nothing_moves() {
    let golden = golden();
    let parameters = parameters(&golden, DType::F32);
    let mut adam = Adam::new(&parameters, AdamConfig::default(), &Context::new()).unwrap();
    let mut store = gradients(&golden, &parameters, 0);
    store.remove(&parameters[1].1);
    let error = adam.step(&store).unwrap_err();
    assert!(matches!(&error, OptimError::NoGradient { name } if name == "vector"), "{error}");
    assert_eq!(error.to_string(), "the loss gives no gradient for parameter vector");
    assert_eq!(numbers(&parameters[0].1), numbers(&golden["start.matrix"].to_dtype(DType::F32).unwrap()));
    assert_eq!(adam.steps(), 0);
}

#[test]
fn saved_numbers_that_do_not_fit_are_all_listed() {
    let golden = golden();
    let parameters = parameters(&golden, DType::F32);
    let mut adam = Adam::new(&parameters, AdamConfig::default(), &Context::new()).unwrap();
    let mut state = adam.state();
    state.remove("exp_avg.vector");
    state.insert("exp_avg.other".into(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
    state.insert("exp_avg_sq.matrix".into(), Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap());
    state.insert("step".into(), Tensor::new(-3i64, &Device::Cpu).unwrap());
    let message = adam.load_state(&state).unwrap_err().to_string();
    for part in [
        "missing exp_avg.vector",
        "unexpected exp_avg.other",
        "exp_avg_sq.matrix is F32 of shape [2, 2], expected F32 of [3, 4]",
        "step is -3",
    ] {
        assert!(message.contains(part), "{message}");
    }
}
