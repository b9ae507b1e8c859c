//! `bench roofline`: what a step on a GPU computes and moves, kernel by kernel, and the least time that this takes.
//!
//! A model, not a measurement (Williams et al. 2009, the roofline): a kernel takes as long as its operations at the rate of products,
//! or as its bytes at the rate of memory, whichever is more, and the time of a launch; nothing is overlapped, and no cache spares a byte.

use candle_core::{DType, Device};
use serde_json::json;
use simclr_model::{LayerSizes, Model, ModelConfig};
use simclr_ops::Context;

use super::at_least_one;
use crate::cli::BenchRooflineArguments;
use crate::config::{Config, Precision, arch, precision};
use crate::output::Output;
use crate::table::Table;
use crate::{Ending, Usage};

/// What a GPU does.
#[derive(Clone, Copy, Debug)]
struct Chip {
    /// Operations a second in products of the type of the maps.
    products: f64,
    /// The same in f32.
    products_f32: f64,
    /// Bytes a second.
    memory: f64,
    /// Seconds between two kernels.
    launch: f64,
}

/// All launches of one kind of kernel.
#[derive(Clone, Copy, Debug, Default)]
struct Kernel {
    launches: usize,
    operations: f64,
    bytes: f64,
    seconds: f64,
}

/// The kernels of a step by their names, in the order in which the first of each comes.
struct Kernels<'a> {
    chip: &'a Chip,
    rows: Vec<(&'static str, Kernel)>,
}

impl Kernels<'_> {
    /// One more launch, of so many operations at `rate` and so many bytes.
    fn add(&mut self, name: &'static str, rate: f64, operations: f64, bytes: f64) {
        let at = self.rows.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            self.rows.push((name, Kernel::default()));
            self.rows.len() - 1
        });
        let kernel = &mut self.rows[at].1;
        kernel.launches += 1;
        kernel.operations += operations;
        kernel.bytes += bytes;
        kernel.seconds += (operations / rate).max(bytes / self.chip.memory) + self.chip.launch;
    }
}

/// The sizes of a step.
struct Step<'a> {
    layers: &'a [LayerSizes],
    /// Pictures, of each two views.
    batch: usize,
    /// Bytes of a number of a map.
    width: f64,
    parameters: f64,
    features: f64,
    hidden: f64,
    dim: f64,
    size: usize,
}

/// The kernels of a step.
fn kernels(step: &Step<'_>, chip: &Chip) -> Vec<(&'static str, Kernel)> {
    let (tensor, plain) = (chip.products, chip.products_f32);
    let views = 2.0 * step.batch as f64;
    let b = step.width;
    let mut of = Kernels { chip, rows: Vec::new() };
    let pixels = 3.0 * (step.size * step.size) as f64;
    // Pictures and views once each; resize and colours are a few hundred operations a number.
    of.add("augmentation", plain, views * pixels * 300.0, views * pixels * (1.0 + b));
    for (i, layer) in step.layers.iter().enumerate() {
        let (x, y) = (views * layer.numbers_in() as f64, views * layer.numbers_out() as f64);
        let weights = (layer.c_in * layer.c_out * layer.kernel * layer.kernel) as f64;
        let operations = 2.0 * views * layer.multiply_adds as f64;
        let product = b * (x + y + weights);
        let residual = if layer.has_residual { 1.0 } else { 0.0 };
        of.add("weights to and from their order", plain, 0.0, weights * (4.0 + b));
        of.add("convolution, forward", tensor, operations, product);
        of.add("batch norm, moments", plain, 3.0 * y, b * y);
        of.add("batch norm, normalise", plain, 2.0 * y, b * y * (2.0 + residual));
        // With a residual the output is read for the ReLU's mask, and what passed it is written.
        of.add("batch norm, gradient sums", plain, 4.0 * y, b * y * (2.0 + 2.0 * residual));
        of.add("batch norm, dX", plain, 5.0 * y, b * y * 3.0);
        // Sums of blocks, forward and backward, and the running statistics: next to nothing, but launched.
        for _ in 0..3 {
            of.add("batch norm, of channels", plain, 0.0, 0.0);
        }
        of.add("convolution, dW", tensor, operations, product);
        of.add("weights to and from their order", plain, 0.0, weights * (4.0 + b));
        // Nobody asks for the gradient of the pictures.
        if i > 0 {
            of.add("convolution, dX", tensor, operations, product);
        }
    }
    let last = step.layers.last().map_or(0, LayerSizes::numbers_out) as f64;
    for _ in 0..2 {
        of.add("pooling", plain, views * last, views * (b * last + 4.0 * step.features));
    }
    // Two linear layers, each three products.
    for (c_in, c_out) in [(step.features, step.hidden), (step.hidden, step.dim)] {
        for _ in 0..3 {
            let bytes = 4.0 * (views * (c_in + c_out) + c_in * c_out);
            of.add("head", plain, 2.0 * views * c_in * c_out, bytes);
        }
    }
    // Similarities twice, forward and backward, and their product with the rows; the matrix stays in a cache, a tile at a time.
    for _ in 0..3 {
        of.add("loss", plain, 2.0 * views * views * step.dim, 4.0 * 2.0 * views * step.dim);
    }
    // The norm of all gradients, what is done about it, and Adam, which reads parameter, gradient and two moments and writes three of them.
    of.add("optimizer", plain, 2.0 * step.parameters, 4.0 * step.parameters);
    of.add("optimizer", plain, 0.0, 0.0);
    of.add("optimizer", plain, 12.0 * step.parameters, 4.0 * 7.0 * step.parameters);
    of.rows
}

pub(super) fn command(arguments: &BenchRooflineArguments, output: &Output) -> anyhow::Result<Ending> {
    at_least_one("--batch", arguments.batch)?;
    at_least_one("--width", arguments.model.width)?;
    let positive = |flag: &str, number: f64| -> Result<f64, Usage> {
        if number.is_finite() && number > 0.0 {
            return Ok(number);
        }
        Err(Usage(format!("{flag} is {number}, expected a finite number above 0")))
    };
    let chip = Chip {
        products: 1e12 * positive("--tflops", arguments.tflops)?,
        products_f32: 1e12 * positive("--tflops-f32", arguments.tflops_f32)?,
        memory: 1e9 * positive("--bandwidth", arguments.bandwidth)?,
        launch: 1e-6 * positive("--launch", arguments.launch)?,
    };
    let precision = precision(&arguments.model.precision)?;
    let config = ModelConfig { width: arguments.model.width, ..ModelConfig::new(arch(&arguments.model.arch)?) };
    let model = Model::new(&config, 0, DType::F32, &Device::Cpu, &Context::new())?;
    let size = Config::default().size as usize;
    let layers = model.layers(size, size);
    let (width, rates) = match precision {
        Precision::F32 => (4.0, Chip { products: chip.products_f32, ..chip }),
        Precision::Bf16 | Precision::F16 => (2.0, chip),
    };
    let step = Step {
        layers: &layers,
        batch: arguments.batch,
        width,
        parameters: model.parameter_count() as f64,
        features: model.feature_width() as f64,
        hidden: config.hidden_dim as f64,
        dim: config.feature_dim as f64,
        size,
    };
    let kernels = kernels(&step, &rates);
    let total = kernels.iter().fold(Kernel::default(), |sum, (_, kernel)| Kernel {
        launches: sum.launches + kernel.launches,
        operations: sum.operations + kernel.operations,
        bytes: sum.bytes + kernel.bytes,
        seconds: sum.seconds + kernel.seconds,
    });
    let pairs_per_s = arguments.batch as f64 / total.seconds;
    let row = |name: &str, kernel: &Kernel| {
        let Kernel { launches, operations, bytes, seconds } = *kernel;
        let cells = [
            launches.to_string(),
            format!("{:.1}", operations / 1e9),
            format!("{:.1}", bytes / 1e6),
            format!("{:.3}", 1e3 * seconds),
            format!("{:.1} %", 100.0 * seconds / total.seconds),
        ];
        std::iter::once(name.to_owned()).chain(cells).collect::<Vec<_>>()
    };
    let columns = ["kernels", "launches", "GFLOP", "MB", "ms at least", "of the step"].map(String::from).into();
    let rows = kernels.iter().map(|(name, kernel)| row(name, kernel)).chain([row("all", &total)]).collect();
    let objects: Vec<_> = kernels
        .iter()
        .map(|(name, kernel)| {
            let Kernel { launches, operations, bytes, seconds } = kernel;
            json!({ "kernels": name, "launches": launches, "operations": operations, "bytes": bytes, "s": seconds })
        })
        .collect();
    let object = json!({
        "arch": arguments.model.arch, "width": arguments.model.width, "batch": arguments.batch, "precision": precision,
        "kernels": objects, "s_per_step": total.seconds, "pairs_per_s": pairs_per_s, "measured": false,
    });
    let text = format!(
        "{}\n\npredicted, not measured: {} (width {}), batch {}, {}: at most {pairs_per_s:.0} pairs/s, at least {:.2} ms a step",
        Table { columns, rows }.text(),
        arguments.model.arch,
        arguments.model.width,
        arguments.batch,
        arguments.model.precision,
        1e3 * total.seconds,
    );
    output.result(text, &object);
    Ok(Ending::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHIP: Chip = Chip { products: 1e12, products_f32: 1e11, memory: 1e9, launch: 1e-6 };

    #[test]
    fn a_kernel_takes_the_longer_of_its_two_times() {
        let mut of = Kernels { chip: &CHIP, rows: Vec::new() };
        of.add("one", 1e12, 2e12, 1e9);
        of.add("other", 1e12, 0.0, 0.0);
        of.add("one", 1e12, 1e12, 3e9);
        let [("one", kernel), ("other", _)] = of.rows[..] else { panic!("{:?}", of.rows) };
        assert!((kernel.seconds - (2.0 + 3.0 + 2e-6)).abs() < 1e-12);
        assert_eq!((kernel.launches, kernel.operations, kernel.bytes), (2, 3e12, 4e9));
    }

    #[test]
    fn the_operations_of_a_step_are_those_that_bench_step_counts() {
        let model =
            Model::new(&ModelConfig::new(simclr_model::Arch::ResNet18), 0, DType::F32, &Device::Cpu, &Context::new())
                .unwrap();
        let layers = model.layers(32, 32);
        let (batch, width) = (4, 2.0);
        let step = Step {
            layers: &layers,
            batch,
            width,
            parameters: 1.0,
            features: 512.0,
            hidden: 512.0,
            dim: 128.0,
            size: 32,
        };
        let found = kernels(&step, &CHIP);
        let operations = |name: &str| found.iter().find(|(found, _)| *found == name).unwrap().1.operations;
        let convolutions: u64 = layers.iter().map(|layer| layer.multiply_adds).sum();
        let once = 2.0 * 2.0 * batch as f64 * convolutions as f64;
        assert_eq!(operations("convolution, forward"), once);
        assert_eq!(operations("convolution, dW"), once);
        let stem = 2.0 * 2.0 * batch as f64 * layers[0].multiply_adds as f64;
        assert_eq!(operations("convolution, dX"), once - stem);
        assert_eq!(operations("head"), 3.0 * 2.0 * 8.0 * (512.0 * 512.0 + 512.0 * 128.0));
    }
}
