//! Whole networks and their training as `golden_network.py` has them, on any device, and how far from PyTorch's they may be.
//!
//! The script says what the fixture holds and how float32 can be judged at all. Float64 must agree with PyTorch's float64; float32 may
//! be three times as far from float64 as PyTorch's own float32 is.

use std::collections::{BTreeMap, HashMap};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use simclr_loss::nt_xent;
use simclr_model::{Arch, Model, ModelConfig, Stem};
use simclr_ops::Context;
use simclr_optim::Optimizer;

use super::fixture::{self, numbers};

const PICTURES: usize = 4;
const TAU: f64 = 0.5;
const LOSSES: usize = 10;

/// The share of a batch in running statistics.
const MOMENTUM: f64 = 0.1;

/// Of float64 against PyTorch's: sums of some thousand terms in another order, through up to fifty layers.
const F64_TOLERANCE: f64 = 1e-8;

/// How much further from the truth than PyTorch's our float32 may be.
const F32_FACTOR: f64 = 3.0;

/// How far of its length a gradient may jump: one activation on the other side of a ReLU moves those of the narrow ResNet-50 by 0.03 at most.
const JUMP: f64 = 0.1;

/// And the losses of the steps that follow from it, relative to them.
const LOSS_AFTER_JUMP: f64 = 1e-5;

/// A tensor's numbers.
type Numbers = Vec<f64>;

/// What a training shows: of every kind, tensors by name.
pub(crate) struct Run {
    outputs: BTreeMap<String, Numbers>,
    gradients: BTreeMap<String, Numbers>,
    statistics: BTreeMap<String, Numbers>,
    losses: Numbers,
    on_cpu: bool,
}

impl Run {
    fn kinds(&self) -> [(&'static str, &BTreeMap<String, Numbers>); 3] {
        [("outputs", &self.outputs), ("statistics", &self.statistics), ("gradients", &self.gradients)]
    }
}

/// How near to the truth gradients of float32 must be. Outputs and statistics do not jump.
#[derive(Clone, Copy, PartialEq)]
#[allow(dead_code, reason = "each test program uses what it needs of this module")]
pub(crate) enum Gradients {
    /// No activation is so near to zero that float32 could put it on the other side of a ReLU: every tensor by itself.
    Alone,
    /// A few are, the same as in PyTorch: a tensor may be off as much as the whole gradient is.
    Together,
    /// A few are, and sums in an order that is not known beforehand may choose others than PyTorch.
    Jump,
}

/// Of what a fixture is.
#[derive(Clone, Copy)]
pub(crate) struct Encoder {
    arch: Arch,
    stem: Stem,
}

impl Encoder {
    /// With the stem of CIFAR.
    pub(crate) fn small(arch: Arch) -> Self {
        Self { arch, stem: Stem::Small }
    }

    /// With the stem of ImageNet.
    pub(crate) fn large(arch: Arch) -> Self {
        Self { arch, stem: Stem::Large }
    }

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

/// The fixture of an encoder.
pub(crate) struct Network {
    encoder: Encoder,
    golden: HashMap<String, Tensor>,
}

impl Network {
    pub(crate) fn load(encoder: Encoder) -> Self {
        Self { encoder, golden: fixture::load(&format!("network_{encoder}")) }
    }

    /// The part of one width; `joint`: both views in one batch.
    pub(crate) fn case(&self, width: usize, joint: bool) -> Case<'_> {
        Case { network: self, width, joint }
    }
}

/// A training of the fixture.
pub(crate) struct Case<'a> {
    network: &'a Network,
    width: usize,
    joint: bool,
}

impl std::fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of width {}, {}", self.network.encoder, self.width, self.mode())
    }
}

impl Case<'_> {
    fn mode(&self) -> &'static str {
        if self.joint { "joint" } else { "separate" }
    }

    fn stored(&self, name: &str) -> &Tensor {
        &self.network.golden[&format!("{}.{}.{name}", self.width, self.mode())]
    }

    /// Asserts that a training in float64 is PyTorch's in float64. `what` says in a message where it ran.
    pub(crate) fn f64_is_pytorch_s(&self, truth: &Run, what: &str) {
        for (kind, tensors) in truth.kinds() {
            let rows = self.stored(kind).to_vec2::<f64>().unwrap();
            assert_eq!(rows.len(), tensors.len(), "{self}, {what}: {kind}");
            for ((name, tensor), row) in tensors.iter().zip(rows) {
                let [first, second, length] = row[..] else { panic!("{kind} has rows of {}", row.len()) };
                for (k, want) in [first, second].into_iter().enumerate() {
                    let direction = formula(&format!("direction.{k}.{name}"), tensor.len());
                    let got: f64 = tensor.iter().zip(direction).map(|(t, d)| t * d).sum();
                    assert!(
                        (got - want).abs() <= F64_TOLERANCE * length,
                        "{self}, {what}: {kind} {name}: {got}, PyTorch {want}"
                    );
                }
            }
        }
        for (step, (got, want)) in truth.losses.iter().zip(numbers(self.stored("losses"))).enumerate() {
            assert!((got - want).abs() <= F64_TOLERANCE, "{self}, {what}: loss {step} is {got}, PyTorch's {want}");
        }
    }

    /// Asserts that a training in float32 is not much further from `truth`, the same in float64, than PyTorch's is.
    pub(crate) fn f32_is_near(&self, truth: &Run, single: &Run, judged: Gradients, what: &str) {
        let whole_distance = numbers(self.stored("gradient_distance"))[0];
        let whole_norm = norm(truth.gradients.values().flatten().copied());
        for ((kind, of_truth), (_, of_single)) in truth.kinds().into_iter().zip(single.kinds()) {
            let distances = numbers(self.stored(&format!("{kind}_distance")));
            assert_eq!((distances.len(), of_single.len()), (of_truth.len(), of_truth.len()), "{self}, {what}: {kind}");
            for ((name, tensor), distance) in of_truth.iter().zip(distances) {
                let length = norm(tensor.iter().copied());
                let shared = match judged {
                    Gradients::Together if kind == "gradients" => whole_distance / whole_norm * length,
                    Gradients::Jump if kind == "gradients" => JUMP / F32_FACTOR * length,
                    _ => 0.0,
                };
                // A GPU adds up in f32 what cancels in a mean: its rounding is that of the deviation, of which a batch has its share.
                let mean = name.strip_suffix("running_mean").filter(|_| !single.on_cpu);
                let layer = mean.map(|layer| &of_truth[&format!("{layer}running_var")]);
                let spread = layer.map_or(0.0, |variance| MOMENTUM * norm(variance.iter().map(|v| v.sqrt())));
                // PyTorch may be lucky with a small tensor: half a unit in the last place is always allowed.
                let rounding = (length + spread) * f64::from(f32::EPSILON) / 2.0;
                let allowed = F32_FACTOR * f64::max(distance, shared) + rounding;
                let off = norm(tensor.iter().zip(&of_single[name]).map(|(a, b)| a - b));
                assert!(
                    off <= allowed,
                    "{self}, {what}: f32 {kind} {name} is off by {off}, PyTorch's by {distance}, allowed {allowed}"
                );
            }
        }
        let off = norm(truth.losses.iter().zip(&single.losses).map(|(a, b)| a - b));
        // The loss itself comes as float32, with half a unit in the last place of 2 each.
        let rounding = (LOSSES as f64).sqrt() * f64::from(f32::EPSILON);
        let jump = if judged == Gradients::Jump { LOSS_AFTER_JUMP * norm(truth.losses.iter().copied()) } else { 0.0 };
        let allowed = f64::max(F32_FACTOR * numbers(self.stored("losses_distance"))[0], jump) + rounding;
        assert!(off <= allowed, "{self}, {what}: f32 losses are off by {off}, allowed {allowed}");
    }

    /// The training of the fixture.
    pub(crate) fn run(&self, dtype: DType, device: &Device, ctx: &Context) -> Run {
        let Encoder { arch, stem } = self.network.encoder;
        let config = ModelConfig { width: self.width, stem, ..ModelConfig::new(arch) };
        let model = Model::new(&config, 0, dtype, device, ctx).unwrap();
        let start = model.state().into_iter().map(|(name, tensor)| {
            // The number of batches has no part in it.
            if tensor.dtype() != dtype {
                return tensor.copy().unwrap();
            }
            on(device, dtype, initial(&name, tensor.dims()), tensor.dims())
        });
        model.set_state(&start.collect::<Vec<_>>()).unwrap();
        let number = self.network.golden[&format!("{}.pictures", self.width)].to_scalar::<i64>().unwrap();
        let size = self.network.encoder.size();
        let dims = [PICTURES, 3, size, size];
        let [left, right] = ["left", "right"].map(|side| {
            let values = formula(&format!("pictures.{number}.{side}"), dims.iter().product());
            on(device, dtype, values.iter().map(|v| (v * 1.7) as f32).collect(), &dims)
        });
        // Features and outputs of both views, one after the other.
        let embed = |train: bool| -> (Tensor, Tensor) {
            if self.joint {
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
                gradients.extend(
                    model.parameters().iter().map(|(name, var)| (name.clone(), numbers(store.get(var).unwrap()))),
                );
                let running = model.state().into_iter().filter(|(name, _)| name.contains(".running_"));
                statistics.extend(running.map(|(name, tensor)| (name, numbers(&tensor))));
            }
            adam.step(&store).unwrap();
        }
        Run { outputs, gradients, statistics, losses, on_cpu: device.is_cpu() }
    }
}

/// Values that are float32 in any case, as a tensor of `dtype` on `device`.
fn on(device: &Device, dtype: DType, values: Vec<f32>, dims: &[usize]) -> Tensor {
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap().to_device(device).unwrap()
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

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}
