//! The tape beside candle's own autograd: the same network in candle's primitive ops trains along the same curve.

mod plain;

use candle_core::{DType, Device, Result, Tensor, Var};
use simclr_model::{Arch, Model, ModelConfig};
use simclr_ops::random::stream;
use simclr_ops::{Context, Form};

use plain::Plain;

/// A contrastive objective of the two views' embeddings, in candle's ops.
fn objective(left: &Tensor, right: &Tensor) -> Result<Tensor> {
    let logits = (left.matmul(&right.t()?)? / 0.5)?;
    let positives = (left * right)?.sum(1)?;
    logits.exp()?.sum(1)?.log()?.sub(&(positives / 0.5)?)?.mean_all()
}

fn curves_agree(arch: Arch, blocks: [usize; 4], form: Form, steps: u64, tolerance: f64) {
    let config = ModelConfig { width: 4, feature_dim: 6, hidden_dim: 8, ..ModelConfig::new(arch) };
    let model = Model::new(&config, 3, DType::F64, &Device::Cpu, &Context::with_form(form)).unwrap();
    let copy = |(name, var): &(String, Var)| {
        (name.clone(), Var::from_tensor(&var.as_tensor().copy().unwrap().detach()).unwrap())
    };
    let plain = Plain(model.parameters().iter().map(copy).collect());
    let descend =
        |var: &Var, gradient: &Tensor| var.set(&(var.as_detached_tensor() - (gradient * 1e-4).unwrap()).unwrap());
    let mut first = 0.0;
    for step in 0..steps {
        let mut s = stream(5, [step, 0, 0]);
        // Square: candle 0.11 derives the padding of its transposed convolution from the height alone.
        let mut pictures = || {
            let numbers: Vec<f64> = (0..6 * 3 * 16 * 16).map(|_| s.normal()).collect();
            Tensor::from_vec(numbers, (6, 3, 16, 16), &Device::Cpu).unwrap()
        };
        let (left, right) = (pictures(), pictures());
        let ours = {
            let ((_, left), (_, right)) =
                (model.forward_t(&left, true).unwrap(), model.forward_t(&right, true).unwrap());
            let loss = objective(&left, &right).unwrap();
            let gradients = model.backward(&loss).unwrap();
            for (_, var) in model.parameters() {
                descend(var, gradients.get(var).unwrap()).unwrap();
            }
            loss.to_scalar::<f64>().unwrap()
        };
        let theirs = {
            let embed = |x| plain.embed(x, blocks, arch == Arch::ResNet50).unwrap();
            let loss = objective(&embed(&left), &embed(&right)).unwrap();
            let gradients = loss.backward().unwrap();
            for var in plain.0.values() {
                descend(var, gradients.get(var).unwrap()).unwrap();
            }
            loss.to_scalar::<f64>().unwrap()
        };
        assert!((ours - theirs).abs() < tolerance, "{arch} {form:?} step {step}: {ours} {theirs}");
        if step == 0 {
            first = ours;
        } else {
            assert!((ours - first).abs() > 1e-6, "the curve moves");
        }
    }
}

#[test]
fn resnet18_trains_along_candle_s_curve() {
    for form in [Form::Reference, Form::Fast] {
        curves_agree(Arch::ResNet18, [2, 2, 2, 2], form, 6, 1e-11);
    }
}

#[test]
fn resnet50_trains_along_candle_s_curve() {
    // At its start a ResNet-50 multiplies a difference of rounding by ten with every step: f64 agrees for a few.
    for form in [Form::Reference, Form::Fast] {
        curves_agree(Arch::ResNet50, [3, 4, 6, 3], form, 3, 1e-9);
    }
}
