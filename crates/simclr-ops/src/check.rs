//! What the tests of all ops share: random tensors, closeness, and the finite-difference check of a gradient.

use candle_core::{DType, Device, Tensor};

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
        here.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
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

/// The first GPU, as the program opens it, for tests of CUDA forms; where there is none the test passes, and says that it was skipped. tests/stand_in is one.
#[cfg(feature = "cuda")]
pub(crate) fn gpu() -> Option<Device> {
    use std::io::Write as _;
    match crate::cuda::open(0) {
        Ok(device) => Some(device),
        Err(error) => {
            let name = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(std::io::stderr(), "!! SKIPPED {name}: there is no GPU here ({error})");
            None
        }
    }
}

/// The types that maps are kept in on a GPU.
#[cfg(feature = "cuda")]
pub(crate) const MAPS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// [`random`] numbers on both, see [`rounded_on_both`].
#[cfg(feature = "cuda")]
pub(crate) fn on_both(dims: &[usize], seed: u64, dtype: DType, device: &Device) -> [Tensor; 2] {
    rounded_on_both(&random(dims, seed), dtype, device)
}

/// Numbers rounded to `dtype`, on the CPU and on a device; those of f16 are of f32 on the CPU, which computes in no f16.
#[cfg(feature = "cuda")]
pub(crate) fn rounded_on_both(numbers: &Tensor, dtype: DType, device: &Device) -> [Tensor; 2] {
    let rounded = numbers.to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap();
    let there = rounded.to_device(device).unwrap();
    let here = if dtype == DType::F16 { rounded.to_dtype(DType::F32).unwrap() } else { rounded };
    [here, there]
}
