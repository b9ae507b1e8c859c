//! What the tests of all ops share: random tensors, closeness, and the finite-difference check of a gradient.

use candle_core::{Device, Tensor};

use crate::context::{Context, Form};
use crate::error::OpsError;
use crate::product::Instructions;
use crate::random::stream;

/// A context of every form: the reference, and the fast one with all the instructions that this CPU has.
pub(crate) fn forms() -> impl Iterator<Item = Context> {
    let fast = Instructions::available().map(|instructions| Context::new().with_instructions(instructions));
    std::iter::once(Context::with_form(Form::Reference)).chain(fast)
}

/// Standard normal numbers in f64.
pub(crate) fn random(dims: &[usize], seed: u64) -> Tensor {
    let mut s = stream(seed, [7; 3]);
    let numbers: Vec<f64> = (0..dims.iter().product()).map(|_| s.normal()).collect();
    Tensor::from_vec(numbers, dims, &Device::Cpu).unwrap()
}

/// Panics unless every `|got - want| <= tolerance · (1 + |want|)`.
pub(crate) fn close(got: &Tensor, want: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let numbers = |t: &Tensor| -> Vec<f64> {
        let here = t.to_device(&Device::Cpu).unwrap();
        here.to_dtype(candle_core::DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    for (i, (g, w)) in numbers(got).iter().zip(numbers(want)).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "{what}: element {i} is {g}, expected {w}");
    }
}

/// Compares the gradients that `backward(arguments, grad)` gives with central differences of `forward`, every element.
pub(crate) fn finite_differences(
    arguments: &[Tensor],
    forward: impl Fn(&[Tensor]) -> Result<Tensor, OpsError>,
    backward: impl Fn(&[Tensor], &Tensor) -> Result<Vec<Tensor>, OpsError>,
) {
    let step = 1e-5;
    let dims = forward(arguments).unwrap().dims().to_vec();
    let grad = random(&dims, 99);
    let objective =
        |a: &[Tensor]| -> f64 { (forward(a).unwrap() * &grad).unwrap().sum_all().unwrap().to_scalar().unwrap() };
    let gradients = backward(arguments, &grad).unwrap();
    assert_eq!(gradients.len(), arguments.len(), "one gradient an argument");
    for (i, argument) in arguments.iter().enumerate() {
        let numbers: Vec<f64> = argument.flatten_all().unwrap().to_vec1().unwrap();
        let slopes: Vec<f64> = (0..numbers.len())
            .map(|j| {
                let at = |x: f64| {
                    let mut moved = numbers.clone();
                    moved[j] = x;
                    let mut moved_arguments = arguments.to_vec();
                    moved_arguments[i] = Tensor::from_vec(moved, argument.dims(), &Device::Cpu).unwrap();
                    objective(&moved_arguments)
                };
                (at(numbers[j] + step) - at(numbers[j] - step)) / (2.0 * step)
            })
            .collect();
        let slopes = Tensor::from_vec(slopes, argument.dims(), &Device::Cpu).unwrap();
        // Truncation error step², rounding error 1e-16 / step, both well below.
        close(&gradients[i], &slopes, 1e-7, &format!("gradient of argument {i}"));
    }
}

/// The first GPU, for tests of CUDA forms; where there is none the test passes, and says that it was skipped. tests/stand_in is one.
#[cfg(feature = "cuda")]
pub(crate) fn gpu() -> Option<Device> {
    use std::io::Write as _;
    match Device::new_cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            let name = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(std::io::stderr(), "!! SKIPPED {name}: there is no GPU here ({error})");
            None
        }
    }
}

/// Random numbers of `dtype` on the CPU and the same on a device.
#[cfg(feature = "cuda")]
pub(crate) fn on_both(dims: &[usize], seed: u64, dtype: candle_core::DType, device: &Device) -> [Tensor; 2] {
    let host = random(dims, seed).to_dtype(candle_core::DType::F32).unwrap().to_dtype(dtype).unwrap();
    let there = host.to_device(device).unwrap();
    [host, there]
}
