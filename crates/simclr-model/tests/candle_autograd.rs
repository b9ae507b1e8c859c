//! The tape beside candle's own autograd: the same network in candle's primitive ops trains along the same curve.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use simclr_model::{Arch, Model, ModelConfig};
use simclr_ops::random::stream;
use simclr_ops::{Context, Form};

/// The network as candle's ops spell it: NCHW, nothing fused, every gradient from candle.
struct Plain(HashMap<String, Var>);

impl Plain {
    fn conv(&self, x: &Tensor, name: &str, stride: usize) -> Result<Tensor> {
        let weight = &self.0[&format!("{name}.weight")];
        x.conv2d(weight, weight.dim(2)? / 2, stride, 1, 1)
    }

    /// Over every dimension but the second.
    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let channels = x.dim(1)?;
        let rows = x.transpose(0, 1)?.reshape((channels, ()))?;
        let centred = rows.broadcast_sub(&rows.mean_keepdim(1)?)?;
        let std = (centred.sqr()?.mean_keepdim(1)? + 1e-5)?.sqrt()?;
        let column = |field: &str| self.0[&format!("{name}.{field}")].reshape((channels, 1));
        let y = centred.broadcast_div(&std)?.broadcast_mul(&column("weight")?)?.broadcast_add(&column("bias")?)?;
        let mut dims = x.dims().to_vec();
        dims.swap(0, 1);
        y.reshape(dims)?.transpose(0, 1)
    }

    fn block(&self, x: &Tensor, name: &str, convs: usize, stride: usize, strided: usize) -> Result<Tensor> {
        let mut y = x.clone();
        for i in 1..=convs {
            let stride = if i == strided { stride } else { 1 };
            y = self.norm(&self.conv(&y, &format!("{name}.conv{i}"), stride)?, &format!("{name}.bn{i}"))?;
            if i < convs {
                y = y.relu()?;
            }
        }
        let shortcut = match self.0.contains_key(&format!("{name}.downsample.0.weight")) {
            true => {
                self.norm(&self.conv(x, &format!("{name}.downsample.0"), stride)?, &format!("{name}.downsample.1"))?
            }
            false => x.clone(),
        };
        (y + shortcut)?.relu()
    }

    fn embed(&self, x: &Tensor, blocks: [usize; 4], bottleneck: bool) -> Result<Tensor> {
        let mut x = self.norm(&self.conv(x, "f.0", 1)?, "f.1")?.relu()?;
        for (layer, count) in blocks.into_iter().enumerate() {
            for block in 0..count {
                let stride = if layer > 0 && block == 0 { 2 } else { 1 };
                let (convs, strided) = if bottleneck { (3, 2) } else { (2, 1) };
                x = self.block(&x, &format!("f.{}.{block}", layer + 3), convs, stride, strided)?;
            }
        }
        let x = x.mean((2, 3))?.matmul(&self.0["g.0.weight"].t()?)?;
        let x = self.norm(&x, "g.1")?.relu()?;
        let x = x.matmul(&self.0["g.3.weight"].t()?)?.broadcast_add(&self.0["g.3.bias"])?;
        x.broadcast_div(&x.sqr()?.sum_keepdim(1)?.sqrt()?)
    }
}

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
