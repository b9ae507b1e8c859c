//! Optimizers against PyTorch's and SimCLR's, and their numbers out and in again.

#[path = "../../../tests/golden/fixture.rs"]
mod fixture;
#[path = "../../../tests/golden/optim.rs"]
mod optim;

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use fixture::numbers;
use optim::{golden, gradients, groups, rules};
use simclr_ops::{Context, Form};
use simclr_optim::{Group, Momentum, OptimError, Optimizer, Outcome, Rule, Scale};

fn parameters(golden: &HashMap<String, Tensor>, dtype: DType) -> Vec<(String, Var)> {
    optim::parameters(golden, dtype, &Device::Cpu)
}

#[test]
fn fifty_steps_are_those_of_pytorch_and_of_simclr_s_lars() {
    let golden = golden();
    for form in [Form::Reference, Form::Fast] {
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-6)] {
            optim::fifty_steps(&golden, dtype, &Device::Cpu, &Context::with_form(form), tolerance);
        }
    }
}

#[test]
fn a_clipped_norm_is_pytorch_s() {
    let golden = golden();
    let parameters = parameters(&golden, DType::F64);
    let ctx = Context::new();
    let plain = Rule::Sgd(Momentum { momentum: 0.0, nesterov: false });
    let mut sgd = Optimizer::new(plain, &Group::all(&parameters, 0.0), 1.0, &ctx).unwrap();
    let gradients = sgd.gradients(&gradients(&golden, &parameters, 0)).unwrap();
    let norm = gradients.norm(&ctx).unwrap();
    let want: f64 = golden["clip.norm"].to_scalar().unwrap();
    assert!((norm - want).abs() <= 1e-14 * want && norm > 1.0, "{norm} {want}");
    sgd.apply(&gradients, 1.0 / (norm + 1e-6)).unwrap();
    for (name, var) in &parameters {
        let moved: Vec<f64> = numbers(&golden[&format!("start.{name}")]);
        let by = numbers(&golden[&format!("clip.grad.{name}")]);
        for ((start, by), end) in moved.iter().zip(by).zip(numbers(var)) {
            assert!((start - by - end).abs() < 1e-14, "{name}");
        }
    }
}

#[test]
fn summed_gradients_of_two_batches_move_as_their_mean() {
    let golden = golden();
    let (summed, mean) = (parameters(&golden, DType::F64), parameters(&golden, DType::F64));
    let new = |parameters: &[(String, Var)]| Optimizer::adam(parameters, 1e-2, 1e-2, &Context::new()).unwrap();
    let (mut a, mut b) = (new(&summed), new(&mean));
    let first = gradients(&golden, &summed, 0);
    let mut sum = a.gradients(&first).unwrap();
    sum.add(&a.gradients(&gradients(&golden, &summed, 1)).unwrap()).unwrap();
    a.apply(&sum, 0.5).unwrap();
    let mut store = GradStore::default();
    for (name, var) in &mean {
        let grad = |step| golden[&format!("grad.{name}")].get(step).unwrap();
        store.insert(var, ((grad(0) + grad(1)).unwrap() * 0.5).unwrap());
    }
    b.step(&store).unwrap();
    for ((name, a), (_, b)) in summed.iter().zip(&mean) {
        assert_eq!(numbers(a), numbers(b), "{name}");
    }
    // The sum was made in memory of its own.
    let untouched = first.get(&summed[0].1).unwrap();
    assert_eq!(numbers(untouched), numbers(&golden["grad.matrix"].get(0).unwrap()));
}

#[test]
fn groups_have_their_own_decay_and_rate() {
    let golden = golden();
    let parameters = parameters(&golden, DType::F64);
    let group = |i: usize, weight_decay, learning_rate_scale| Group {
        parameters: vec![parameters[i].clone()],
        weight_decay,
        learning_rate_scale,
        is_adapted: true,
    };
    let plain = Rule::Sgd(Momentum { momentum: 0.0, nesterov: false });
    let groups = [group(0, 0.5, 1.0), group(1, 0.0, 10.0), group(2, 0.0, 0.0)];
    let mut sgd = Optimizer::new(plain, &groups, 0.1, &Context::new()).unwrap();
    sgd.step(&gradients(&golden, &parameters, 0)).unwrap();
    for ((name, var), (decay, rate)) in parameters.iter().zip([(0.5, 0.1), (0.0, 1.0), (0.0, 0.0)]) {
        let start = numbers(&golden[&format!("start.{name}")]);
        let grad = numbers(&golden[&format!("grad.{name}")].get(0).unwrap());
        for ((p, g), got) in start.iter().zip(grad).zip(numbers(var)) {
            assert!((p - rate * (g + decay * p) - got).abs() < 1e-12, "{name}");
        }
    }
}

#[test]
fn going_on_from_saved_numbers_gives_the_same_bits() {
    let golden = golden();
    for (optimizer, rule, learning_rate, decay) in rules() {
        let (whole, broken) = (parameters(&golden, DType::F32), parameters(&golden, DType::F32));
        let new = |parameters: &[(String, Var)]| {
            Optimizer::new(rule, &groups(&rule, parameters, decay), learning_rate, &Context::new()).unwrap()
        };
        let (mut one, mut first) = (new(&whole), new(&broken));
        for step in 0..20 {
            one.step(&gradients(&golden, &whole, step)).unwrap();
        }
        for step in 0..11 {
            first.step(&gradients(&golden, &broken, step)).unwrap();
        }
        let mut second = new(&broken);
        second.load_state(&first.state()).unwrap();
        assert_eq!(second.steps().unwrap(), 11);
        for step in 11..20 {
            second.step(&gradients(&golden, &broken, step)).unwrap();
        }
        for ((name, a), (_, b)) in whole.iter().zip(&broken) {
            assert_eq!(numbers(a), numbers(b), "{optimizer} {name}");
        }
        // The copy is a copy: moving on did not move what was saved from.
        assert_eq!(first.steps().unwrap(), 11);
        let moment = format!("{}.matrix", rule.moments()[0]);
        assert_ne!(numbers(&first.state()[&moment]), numbers(&second.state()[&moment]), "{optimizer}");
    }
}

#[test]
fn a_parameter_without_gradient_is_named_and_nothing_moves() {
    let golden = golden();
    let parameters = parameters(&golden, DType::F32);
    let mut adam = Optimizer::adam(&parameters, 1e-3, 0.0, &Context::new()).unwrap();
    let mut store = gradients(&golden, &parameters, 0);
    store.remove(&parameters[1].1);
    let error = adam.step(&store).unwrap_err();
    assert!(matches!(&error, OptimError::NoGradient { name } if name == "vector"), "{error}");
    assert_eq!(error.to_string(), "the loss gives no gradient for parameter vector");
    assert_eq!(numbers(&parameters[0].1), numbers(&golden["start.matrix"].to_dtype(DType::F32).unwrap()));
    assert_eq!(adam.steps().unwrap(), 0);
}

#[test]
fn saved_numbers_that_do_not_fit_are_all_listed() {
    let golden = golden();
    let parameters = parameters(&golden, DType::F32);
    let mut adam = Optimizer::adam(&parameters, 1e-3, 0.0, &Context::new()).unwrap();
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

#[test]
fn steps_that_are_left_out_do_not_count() {
    let golden = golden();
    let [loss, bad] = [1.5, f64::NAN].map(|loss| Tensor::new(loss, &Device::Cpu).unwrap());
    let scale = Scale { mean: 0.5, max_norm: Some(1.0) };
    for (name, rule, learning_rate, decay) in rules() {
        let (plain, finite) = (parameters(&golden, DType::F64), parameters(&golden, DType::F64));
        let new = |parameters: &[(String, Var)]| {
            Optimizer::new(rule, &groups(&rule, parameters, decay), learning_rate, &Context::new()).unwrap()
        };
        let (mut a, mut b) = (new(&plain), new(&finite));
        for step in 0..20 {
            let summed = a.gradients(&gradients(&golden, &plain, step)).unwrap();
            let norm = summed.norm(&Context::new()).unwrap() * 0.5;
            let of_b = b.gradients(&gradients(&golden, &finite, step)).unwrap();
            let left_out = b.apply_if_finite(&of_b, scale, &bad, None).unwrap().read().unwrap();
            assert_eq!(left_out.outcome, Outcome::NotFinite);
            a.apply(&summed, scale.of(norm)).unwrap();
            match step {
                // One with its number on the host between those that are counted beside the parameters.
                5 => b.apply(&of_b, scale.of(norm)).unwrap(),
                _ => {
                    let made = b.apply_if_finite(&of_b, scale, &loss, None).unwrap().read().unwrap();
                    assert_eq!((made.loss, made.norm, made.outcome), (1.5, norm, Outcome::Applied));
                }
            }
        }
        assert_eq!((b.steps().unwrap(), numbers(&b.state()["step"])), (20, vec![20.0]));
        for ((parameter, a), (_, b)) in plain.iter().zip(&finite) {
            assert_eq!(numbers(a), numbers(b), "{name} {parameter}");
        }
        // The number is part of what is saved, and a copy.
        let state = b.state();
        let of_b = b.gradients(&gradients(&golden, &finite, 20)).unwrap();
        b.apply_if_finite(&of_b, scale, &loss, None).unwrap();
        let mut c = new(&finite);
        c.load_state(&state).unwrap();
        assert_eq!((b.steps().unwrap(), c.steps().unwrap()), (21, 20));
    }
}

#[test]
fn gradients_of_a_scaled_loss_move_as_those_of_the_loss() {
    let golden = golden();
    let [loss, other] = [1.5, 1.25].map(|loss| Tensor::new(loss, &Device::Cpu).unwrap());
    let scale = Scale { mean: 1.0, max_norm: Some(1.0) };
    let (name, rule, learning_rate, decay) = rules()[0];
    let (plain, scaled) = (parameters(&golden, DType::F64), parameters(&golden, DType::F64));
    let new = |parameters: &[(String, Var)]| {
        Optimizer::new(rule, &groups(&rule, parameters, decay), learning_rate, &Context::new()).unwrap()
    };
    let (mut a, mut b) = (new(&plain), new(&scaled).with_loss_scale().unwrap());
    let by = numbers(&b.scaled(&loss).unwrap())[0] / 1.5;
    assert_eq!((by, numbers(&a.scaled(&loss).unwrap())), (65536.0, vec![1.5]));
    for step in 0..3 {
        let of_a = a.gradients(&gradients(&golden, &plain, step)).unwrap();
        let of_b = b.gradients(&gradients(&golden, &scaled, step)).unwrap();
        let of_b = of_b.replaced(of_b.tensors().iter().map(|t| (t * by).unwrap()).collect()).unwrap();
        let made = [a.apply_if_finite(&of_a, scale, &loss, None), b.apply_if_finite(&of_b, scale, &loss, None)];
        let [plain, scaled] = made.map(|report| report.unwrap().read().unwrap());
        assert_eq!((plain.norm, plain.loss_scale, scaled.norm, scaled.loss_scale), (plain.norm, 1.0, plain.norm, by));
    }
    // A power of two costs no bit.
    for ((parameter, a), (_, b)) in plain.iter().zip(&scaled) {
        assert_eq!(numbers(a), numbers(b), "{name} {parameter}");
    }
    // The scale is part of what is saved, and a copy.
    let state = b.state();
    assert_eq!(numbers(&state["loss_scale"]), [65536.0, 3.0]);
    let mut c = new(&scaled).with_loss_scale().unwrap();
    c.load_state(&state).unwrap();
    let of_b = b.gradients(&gradients(&golden, &scaled, 3)).unwrap();
    b.apply_if_finite(&of_b, scale, &other, None).unwrap();
    assert_eq!([&b, &c].map(|optimizer| numbers(&optimizer.state()["loss_scale"])[1]), [4.0, 3.0]);
    let message = a.load_state(&state).unwrap_err().to_string();
    assert!(message.contains("unexpected loss_scale"), "{message}");
}
