//! Whole networks against PyTorch: outputs, running statistics, the gradient of every parameter, ten losses of Adam.
//!
//! `tests/golden/golden_network.py` says what the fixture holds and how float32 can be judged at all. Float64 must agree with
//! PyTorch's float64; float32 may be three times as far from float64 as PyTorch's own float32 is.

use std::collections::{BTreeMap, HashMap};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use simclr_loss::nt_xent;
use simclr_model::{Arch, Model, ModelConfig, Stem};
use simclr_ops::storage::modify;
use simclr_ops::{Context, Form};
use simclr_optim::Optimizer;

const PICTURES: usize = 4;
const TAU: f64 = 0.5;
const LOSSES: usize = 10;

/// Of float64 against PyTorch's: sums of some thousand terms in another order, through up to fifty layers.
const F64_TOLERANCE: f64 = 1e-8;

/// How much further from the truth than PyTorch's our float32 may be.
const F32_FACTOR: f64 = 3.0;

/// A tensor's numbers.
type Numbers = Vec<f64>;

/// What a training shows: of every kind, tensors by name.
struct Run {
    outputs: BTreeMap<String, Numbers>,
    gradients: BTreeMap<String, Numbers>,
    statistics: BTreeMap<String, Numbers>,
    losses: Numbers,
}

#[test]
fn resnet18_narrow_in_every_form() {
    let golden = golden(Arch::ResNet18);
    for joint in [false, true] {
        compare(&golden, Arch::ResNet18, 8, joint, Form::Reference, false);
        compare(&golden, Arch::ResNet18, 8, joint, Form::Fast, true);
    }
}

#[test]
fn resnet18_as_in_the_papers() {
    let golden = golden(Arch::ResNet18);
    for joint in [false, true] {
        compare(&golden, Arch::ResNet18, 64, joint, Form::Fast, false);
    }
}

#[test]
fn resnet50_narrow_in_every_form() {
    let golden = golden(Arch::ResNet50);
    for joint in [false, true] {
        compare(&golden, Arch::ResNet50, 8, joint, Form::Reference, false);
        compare(&golden, Arch::ResNet50, 8, joint, Form::Fast, false);
    }
}

#[test]
fn resnet50_as_in_the_course() {
    let golden = golden(Arch::ResNet50);
    for joint in [false, true] {
        compare(&golden, Arch::ResNet50, 64, joint, Form::Fast, false);
    }
}

#[test]
fn the_stem_of_imagenet_in_every_form() {
    for arch in [Arch::ResNet18, Arch::ResNet50] {
        let large = Encoder { arch, stem: Stem::Large };
        let golden = golden(large);
        for joint in [false, true] {
            compare(&golden, large, 8, joint, Form::Reference, false);
            compare(&golden, large, 8, joint, Form::Fast, false);
        }
    }
}

/// Of what a fixture is.
#[derive(Clone, Copy)]
struct Encoder {
    arch: Arch,
    stem: Stem,
}

impl From<Arch> for Encoder {
    fn from(arch: Arch) -> Self {
        Self { arch, stem: Stem::Small }
    }
}

impl Encoder {
    /// Side of its pictures.
    fn size(self) -> usize {
        if self.stem == Stem::Large { 50 } else { 16 }
    }
}

impl std::fmt::Display for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.arch, if self.stem == Stem::Large { "-7x7" } else { "" })
    }
}

fn golden(encoder: impl Into<Encoder>) -> HashMap<String, Tensor> {
    let encoder = encoder.into();
    let path = format!("{}/../../tests/golden/network_{encoder}.safetensors", env!("CARGO_MANIFEST_DIR"));
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// One network, width and view mode against the fixture, in both types. `alone`: no activation is so near to zero that float32
/// could put it on the other side, so that every gradient is judged by itself.
fn compare(
    golden: &HashMap<String, Tensor>,
    encoder: impl Into<Encoder>,
    width: usize,
    joint: bool,
    form: Form,
    alone: bool,
) {
    let encoder = encoder.into();
    let mode = if joint { "joint" } else { "separate" };
    let what = format!("{encoder} of width {width}, {mode}, {form:?}");
    let stored = |name: &str| &golden[&format!("{width}.{mode}.{name}")];
    let number = golden[&format!("{width}.pictures")].to_scalar::<i64>().unwrap();
    let run = |dtype| run(encoder, width, number, joint, dtype, &Context::with_form(form));

    let (truth, single) = (run(DType::F64), run(DType::F32));
    let whole_distance = numbers(stored("gradient_distance"))[0];
    let whole_norm = norm(truth.gradients.values().flatten().copied());
    for (kind, of_truth, of_single) in [
        ("outputs", &truth.outputs, &single.outputs),
        ("statistics", &truth.statistics, &single.statistics),
        ("gradients", &truth.gradients, &single.gradients),
    ] {
        let rows = stored(kind).to_vec2::<f64>().unwrap();
        let distances = numbers(stored(&format!("{kind}_distance")));
        assert_eq!(rows.len(), of_truth.len(), "{what}: {kind}");
        for (((name, tensor), row), distance) in of_truth.iter().zip(rows).zip(distances) {
            let [first, second, length] = row[..] else { panic!("{kind} has rows of {}", row.len()) };
            for (k, want) in [first, second].into_iter().enumerate() {
                let got: f64 = tensor
                    .iter()
                    .zip(formula(&format!("direction.{k}.{name}"), tensor.len()))
                    .map(|(t, d)| t * d)
                    .sum();
                assert!((got - want).abs() <= F64_TOLERANCE * length, "{what}: {kind} {name}: {got}, PyTorch {want}");
            }
            let shared = if kind == "gradients" && !alone { whole_distance / whole_norm * length } else { 0.0 };
            // PyTorch may be lucky with a small tensor: half a unit in the last place is always allowed.
            let allowed = F32_FACTOR * f64::max(distance, shared) + length * f64::from(f32::EPSILON) / 2.0;
            let off = norm(tensor.iter().zip(&of_single[name]).map(|(a, b)| a - b));
            assert!(
                off <= allowed,
                "{what}: f32 {kind} {name} is off by {off}, PyTorch's by {distance}, allowed {allowed}"
            );
        }
    }
    for (step, (got, want)) in truth.losses.iter().zip(numbers(stored("losses"))).enumerate() {
        assert!((got - want).abs() <= F64_TOLERANCE, "{what}: loss {step} is {got}, PyTorch's {want}");
    }
    let off = norm(truth.losses.iter().zip(&single.losses).map(|(a, b)| a - b));
    // The loss itself comes as float32, with half a unit in the last place of 2 each.
    let allowed = F32_FACTOR * numbers(stored("losses_distance"))[0] + (LOSSES as f64).sqrt() * f64::from(f32::EPSILON);
    assert!(off <= allowed, "{what}: f32 losses are off by {off}, allowed {allowed}");
}

/// The training of the fixture.
fn run(encoder: Encoder, width: usize, number: i64, joint: bool, dtype: DType, ctx: &Context) -> Run {
    let size = encoder.size();
    let config = ModelConfig { width, stem: encoder.stem, ..ModelConfig::new(encoder.arch) };
    let model = Model::new(&config, 0, dtype, &Device::Cpu, ctx).unwrap();
    for (name, tensor) in model.state().iter().filter(|(_, tensor)| tensor.dtype() == dtype) {
        let values = initial(name, tensor.dims());
        match dtype {
            DType::F64 => {
                modify::<f64>(tensor, |t| t.iter_mut().zip(&values).for_each(|(t, &v)| *t = f64::from(v))).unwrap()
            }
            _ => modify::<f32>(tensor, |t| t.copy_from_slice(&values)).unwrap(),
        }
    }
    let [left, right] = ["left", "right"].map(|side| {
        let values = formula(&format!("pictures.{number}.{side}"), PICTURES * 3 * size * size);
        let values: Vec<f32> = values.iter().map(|v| (v * 1.7) as f32).collect();
        Tensor::from_vec(values, (PICTURES, 3, size, size), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    });
    // Features and outputs of both views, one after the other.
    let embed = |train: bool| -> (Tensor, Tensor) {
        if joint {
            return model.forward_t(&Tensor::cat(&[&left, &right], 0).unwrap(), train).unwrap();
        }
        let (one, two) = (model.forward_t(&left, train).unwrap(), model.forward_t(&right, train).unwrap());
        (Tensor::cat(&[one.0, two.0], 0).unwrap(), Tensor::cat(&[one.1, two.1], 0).unwrap())
    };

    let mut outputs = BTreeMap::new();
    let mut keep = |mode: &str, (feature, out): &(Tensor, Tensor)| {
        outputs.insert(format!("{mode}.feature"), numbers(feature));
        outputs.insert(format!("{mode}.out"), numbers(out));
    };
    keep("eval", &embed(false));
    let mut adam = Optimizer::adam(model.parameters(), 1e-5, 1e-6, ctx).unwrap();
    let (mut losses, mut gradients, mut statistics) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for step in 0..LOSSES {
        let embedded = embed(true);
        let view = |first| embedded.1.narrow(0, first, PICTURES).unwrap();
        let loss = nt_xent(&view(0), &view(PICTURES), TAU).unwrap();
        losses.push(numbers(&loss)[0]);
        let store: GradStore = model.backward(&loss).unwrap();
        if step == 0 {
            keep("train", &embedded);
            gradients
                .extend(model.parameters().iter().map(|(name, var)| (name.clone(), numbers(store.get(var).unwrap()))));
            let running = model.state().into_iter().filter(|(name, _)| name.contains(".running_"));
            statistics.extend(running.map(|(name, tensor)| (name, numbers(&tensor))));
        }
        adam.step(&store).unwrap();
    }
    Run { outputs, gradients, statistics, losses }
}

/// Weights of the size that keeps activations at their size; statistics and shifts that are not neutral. Exact in both types.
fn initial(name: &str, dims: &[usize]) -> Vec<f32> {
    let values = formula(name, dims.iter().product());
    if let [_, rest @ ..] = dims
        && !rest.is_empty()
    {
        let scale = (6.0 / rest.iter().product::<usize>() as f64).sqrt();
        return values.into_iter().map(|v| (v * scale) as f32).collect();
    }
    let (scale, shift) = match name.rsplit('.').next() {
        Some("weight") => (0.2, 1.0),
        Some("bias") => (0.2, 0.0),
        Some("running_mean") => (0.1, 0.0),
        Some("running_var") => (0.5, 1.0),
        _ => panic!("{name}"),
    };
    values.into_iter().map(|v| (v * scale + shift) as f32).collect()
}

/// Numbers of [-1, 1) that depend on a name and a place: splitmix64 from the FNV-1a hash of the name.
fn formula(name: &str, count: usize) -> Numbers {
    let key =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |key, byte| (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let number = |place: u64| {
        let mut x = key.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        2.0 * ((x >> 11) as f64 * (0.5f64).powi(53)) - 1.0
    };
    (1..=count as u64).map(number).collect()
}

fn numbers(tensor: &Tensor) -> Numbers {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}
