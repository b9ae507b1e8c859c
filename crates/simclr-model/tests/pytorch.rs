//! Whole networks on the CPU against PyTorch: outputs, running statistics, the gradient of every parameter, ten losses of Adam.

#[path = "../../../tests/golden/fixture.rs"]
mod fixture;
#[path = "../../../tests/golden/network.rs"]
mod network;

use candle_core::{DType, Device};
use network::{Encoder, Gradients, Network};
use simclr_model::Arch;
use simclr_ops::{Context, Form};

#[test]
fn resnet18_narrow_in_every_form() {
    let network = Network::load(Encoder::small(Arch::ResNet18));
    compare(&network, 8, Form::Reference, Gradients::Together);
    compare(&network, 8, Form::Fast, Gradients::Alone);
}

#[test]
fn resnet18_as_in_the_papers() {
    compare(&Network::load(Encoder::small(Arch::ResNet18)), 64, Form::Fast, Gradients::Together);
}

#[test]
fn resnet50_narrow_in_every_form() {
    let network = Network::load(Encoder::small(Arch::ResNet50));
    compare(&network, 8, Form::Reference, Gradients::Together);
    compare(&network, 8, Form::Fast, Gradients::Together);
}

#[test]
fn resnet50_as_in_the_course() {
    compare(&Network::load(Encoder::small(Arch::ResNet50)), 64, Form::Fast, Gradients::Together);
}

#[test]
fn the_stem_of_imagenet_in_every_form() {
    for arch in [Arch::ResNet18, Arch::ResNet50] {
        let network = Network::load(Encoder::large(arch));
        compare(&network, 8, Form::Reference, Gradients::Together);
        compare(&network, 8, Form::Fast, Gradients::Together);
    }
}

/// One network and width against the fixture, both view modes and both types.
fn compare(network: &Network, width: usize, form: Form, judged: Gradients) {
    for joint in [false, true] {
        let case = network.case(width, joint);
        let run = |dtype| case.run(dtype, &Device::Cpu, &Context::with_form(form));
        let (truth, what) = (run(DType::F64), format!("{form:?}"));
        case.f64_is_pytorch_s(&truth, &what);
        case.f32_is_near(&truth, &run(DType::F32), judged, &what);
    }
}
