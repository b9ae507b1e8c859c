//! PyTorch's and torchvision's numbers against the forms for a GPU, in a build with `--features cuda`; where there is no GPU, the tests
//! pass and say that they were skipped.
//!
//! The fixtures are those that hold the forms for the CPU, and so is what is asked of f32: it is said with each. Rounding is the same on a
//! GPU, but for fused multiply-adds, which round less often; only sums are in another order.

#[path = "golden/fixture.rs"]
mod fixture;
#[path = "golden/loss.rs"]
mod loss;
#[path = "golden/network.rs"]
mod network;
#[path = "golden/optim.rs"]
mod optim;
#[path = "golden/augment.rs"]
mod torchvision;

use std::io::Write as _;

use candle_core::{DType, Device, Tensor};
use network::{Encoder, Gradients, Network};
use simclr_loss::nt_xent;
use simclr_model::Arch;
use simclr_ops::augment::{Adjustment, Crop, Jitter, Numbers, PackedViews, Picture, ViewParameters, make_views};
use simclr_ops::uploads::Uploads;
use simclr_ops::{Context, cuda};
use torchvision::{COLOURS_SIDE, STEPS, all_colours, crc};

/// The first GPU, as the program opens it; says so if there is none.
fn gpu(test: &str) -> Option<Device> {
    let say_skipped = |error: &cuda::DeviceError| {
        let _ = writeln!(std::io::stderr(), "!! SKIPPED {test}: there is no GPU here ({error})");
    };
    cuda::open(0).inspect_err(say_skipped).ok()
}

/// One network against the fixture, both view modes. The truth is float64 on the CPU, itself held against PyTorch's; float32 on the GPU
/// may be as far from it as on the CPU, but for what jumps.
fn compare(device: &Device, network: &Network, width: usize, judged: Gradients) {
    for joint in [false, true] {
        let case = network.case(width, joint);
        let truth = case.run(DType::F64, &Device::Cpu, &Context::new());
        case.f64_is_pytorch_s(&truth, "on the CPU");
        let single = case.run(DType::F32, device, &Context::new());
        case.f32_is_near(&truth, &single, judged, "on the GPU");
    }
}

#[test]
fn resnet18_narrow() {
    let Some(device) = gpu("resnet18_narrow") else { return };
    compare(&device, &Network::load(Encoder::small(Arch::ResNet18)), 8, Gradients::Alone);
}

#[test]
fn resnet50_narrow() {
    let Some(device) = gpu("resnet50_narrow") else { return };
    compare(&device, &Network::load(Encoder::small(Arch::ResNet50)), 8, Gradients::Jump);
}

#[test]
fn the_stem_of_imagenet() {
    let Some(device) = gpu("the_stem_of_imagenet") else { return };
    for arch in [Arch::ResNet18, Arch::ResNet50] {
        compare(&device, &Network::load(Encoder::large(arch)), 8, Gradients::Jump);
    }
}

/// Not on `tests/stand_in`, whose plain loops take minutes for what a GPU does in a blink.
#[test]
fn networks_as_in_the_papers() {
    let Some(device) = gpu("networks_as_in_the_papers") else { return };
    if cuda::gpu(0).unwrap().name == "stand-in" {
        return;
    }
    for arch in [Arch::ResNet18, Arch::ResNet50] {
        compare(&device, &Network::load(Encoder::small(arch)), 64, Gradients::Jump);
    }
}

#[test]
fn the_loss_and_its_gradients() {
    let Some(device) = gpu("the_loss_and_its_gradients") else { return };
    let golden = loss::Golden::load();
    let mut compared = 0;
    for case in golden.cases() {
        let narrow = |name: &str| case.get(name).to_dtype(DType::F32).unwrap().to_device(&device).unwrap();
        let (want, want_gradients) = case.wanted();
        let (got, gradients) = loss::value_and_gradients(nt_xent, &narrow("left"), &narrow("right"), case.tau());
        // As on the CPU; below a temperature of 0.1, by which similarities that are rounded to 6e-8 are divided, in its proportion.
        let tolerance = 1e-7 / case.tau().min(0.1);
        assert!((got - want).abs() <= tolerance * want.abs() + 1e-7, "case {}: {got}, PyTorch {want}", case.i);
        // Of the largest: the parts of a small one cancel.
        let largest = want_gradients.iter().fold(0.0, |most: f64, g| most.max(g.abs()));
        for (got, want) in gradients.iter().zip(&want_gradients) {
            let far = (got - want).abs();
            assert!(far <= 10.0 * tolerance * largest + 1e-7, "gradient of case {}: {got}, PyTorch {want}", case.i);
        }
        assert_eq!(gradients.len(), want_gradients.len());
        compared += 1;
    }
    assert_eq!(compared, 7);
}

#[test]
fn fifty_steps_of_every_optimizer() {
    let Some(device) = gpu("fifty_steps_of_every_optimizer") else { return };
    // PyTorch's float32: fifty steps, each rounded to 6e-8 a few times.
    optim::fifty_steps(&optim::golden(), DType::F32, &device, &Context::new(), 1e-6);
}

/// Views of a picture, on the GPU and back: the bytes of each.
fn views(device: &Device, source: &Picture, size: u32, views: &[ViewParameters]) -> Vec<Vec<u8>> {
    let (width, height) = (source.width() as usize, source.height() as usize);
    let pictures = Tensor::from_slice(source.pixels(), (1, height, width, 3), device).unwrap();
    let packed = PackedViews::new(size as usize, (width, height), views.iter().map(|&view| (0, view))).unwrap();
    let made = make_views(&pictures, &packed, Numbers::Bytes, &Uploads::default()).unwrap();
    let bytes: Vec<u8> = made.flatten_all().unwrap().to_vec1().unwrap();
    bytes.chunks(bytes.len() / views.len()).map(<[u8]>::to_vec).collect()
}

/// The parameters up to a step and no further.
fn up_to(step: usize, whole: ViewParameters) -> ViewParameters {
    let jitter = whole.jitter.filter(|_| step >= 2).map(|jitter| {
        let keep =
            |adjustment: Adjustment| jitter.order.iter().position(|&other| other == adjustment).unwrap() + 2 <= step;
        Jitter {
            order: jitter.order,
            brightness: jitter.brightness.filter(|_| keep(Adjustment::Brightness)),
            contrast: jitter.contrast.filter(|_| keep(Adjustment::Contrast)),
            saturation: jitter.saturation.filter(|_| keep(Adjustment::Saturation)),
            hue: jitter.hue.filter(|_| keep(Adjustment::Hue)),
        }
    });
    ViewParameters { flip: whole.flip && step >= 1, jitter, grayscale: whole.grayscale && step + 1 == STEPS, ..whole }
}

/// To the bit. The views of a GPU are square: the cases that are not are left to the CPU.
#[test]
fn every_step_of_every_square_view() {
    let Some(device) = gpu("every_step_of_every_square_view") else { return };
    let mut seen = [0; STEPS];
    for (number, case) in torchvision::Golden::load().cases().into_iter().enumerate() {
        if case.width != case.height {
            continue;
        }
        let steps: Vec<usize> = (0..STEPS).filter(|&step| case.crcs[step] != -1).collect();
        let parameters: Vec<_> = steps.iter().map(|&step| up_to(step, case.parameters)).collect();
        for (step, bytes) in steps.into_iter().zip(views(&device, &case.source, case.width, &parameters)) {
            assert_eq!(crc(bytes), case.crcs[step], "case {number}, step {step}: {:?}", case.parameters);
            seen[step] += 1;
        }
    }
    assert!(seen.iter().all(|&count| count >= 40), "{seen:?}");
}

/// To the bit, all 16.7 million. Views are 1024 pixels a side at most, so that all colours are sixteen of them, and the contrast, which asks
/// for the mean of the whole, is left to the cases above.
#[test]
fn every_colour() {
    let Some(device) = gpu("every_colour") else { return };
    let side = 1024;
    let bytes = all_colours();
    let pictures: Vec<Picture> =
        bytes.chunks(3 * 1024 * 1024).map(|part| Picture::new(side, side, part.to_vec()).unwrap()).collect();
    assert_eq!(pictures.len() as u32 * side * side, COLOURS_SIDE * COLOURS_SIDE);
    let steps = torchvision::Golden::load().colour_steps();
    let pointwise: Vec<_> =
        steps.into_iter().filter(|(step, _)| step.jitter.is_none_or(|jitter| jitter.contrast.is_none())).collect();
    assert!(pointwise.len() >= 20);
    for (step, expected) in pointwise {
        let step = ViewParameters { crop: Crop::whole(side, side), ..step };
        let made = pictures.iter().flat_map(|picture| views(&device, picture, side, &[step]).concat());
        assert_eq!(crc(made), expected, "{step:?}");
    }
}

#[test]
fn every_byte_is_solarized() {
    let Some(device) = gpu("every_byte_is_solarized") else { return };
    let golden = torchvision::Golden::load();
    let grays = Picture::new(16, 16, (0..=255).flat_map(|gray| [gray; 3]).collect()).unwrap();
    let thresholds: Vec<i64> = golden.values("solarize_thresholds");
    let solarized = |&threshold: &i64| ViewParameters {
        crop: Crop::whole(16, 16),
        flip: false,
        jitter: None,
        grayscale: false,
        blur: None,
        solarize: Some(threshold as u8),
    };
    let parameters: Vec<_> = thresholds.iter().map(solarized).collect();
    let made = views(&device, &grays, 16, &parameters);
    let found: Vec<i64> = made.into_iter().map(|bytes| crc(bytes.into_iter().step_by(3))).collect();
    assert!(found == golden.values::<i64>("solarize_crcs") && found.len() >= 5, "{thresholds:?}: {found:?}");
}
