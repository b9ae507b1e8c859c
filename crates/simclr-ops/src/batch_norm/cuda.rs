//! On a GPU: sums over rows by blocks, which are folded in a fixed order; statistics and gradients never leave the device, unless
//! other processes have a share in them.

use candle_core::{CudaDevice, DType, Device, Tensor};

use super::{BatchNorm, Gradients, OP, Running};
use crate::context::Context;
use crate::cuda::{Argument, Grid, Kernels, empty, kernels, pointer, suffix};
use crate::error::OpsError;
use crate::update::Report;

const KERNELS: Kernels = kernels!("batch_norm");

/// Threads of a block, as in the kernels.
const THREADS: usize = 256;
/// Blocks that keep a GPU busy, and rows that a thread should have before there are more.
const BLOCKS: usize = 1024;
const ROWS_OF_A_THREAD: usize = 8;

/// Threads that fold the chunks of a channel, and channels of a block that folds, as in the kernels.
const FOLDERS: usize = 16;
const FOLDED: usize = 32;

/// Arrays of one number a channel that a group has: mean, variance, scale, shift.
const ARRAYS: usize = 4;

/// Phases of the kernel that makes statistics of sums.
const FOLD: i32 = 1;
const FINISH: i32 = 2;

/// Where the ReLU's mask comes from, as in the kernels.
const NO_MASK: i32 = 0;
const OUTPUT: i32 = 1;
const AFFINE: i32 = 2;

/// Mean, variance, scale and shift of every channel of each group, on the device.
#[derive(Clone, Debug)]
pub(crate) struct OfGroups {
    /// `[groups, ARRAYS, channels]`, f32.
    numbers: Tensor,
    pub(super) groups: usize,
    pub(super) channels: usize,
    /// Values per channel and group, over all processes.
    pub(super) count: usize,
}

impl OfGroups {
    /// One group with scale and shift alone: what inference needs.
    pub(crate) fn of_affine(device: &CudaDevice, [scale, shift]: [&[f64]; 2]) -> Result<Self, OpsError> {
        let channels = scale.len();
        let unused = vec![0.0; 2 * channels];
        let numbers = [&unused, scale, shift].concat().into_iter().map(|number| number as f32).collect();
        let numbers = Tensor::from_vec::<_, f32>(numbers, (1, ARRAYS, channels), &Device::Cuda(device.clone()))?;
        Ok(Self { numbers, groups: 1, channels, count: 0 })
    }

    /// See [`super::BatchStatistics::follow`].
    pub(super) fn follow(&self, running: Running<'_>, step: Option<&Report>) -> Result<(), OpsError> {
        let (groups, channels) = (self.groups, self.channels);
        let arguments = [
            Argument::Pointer(pointer(OP, "running mean", running.mean, DType::F32)?),
            Argument::Pointer(pointer(OP, "running var", running.var, DType::F32)?),
            Argument::Pointer(pointer(OP, "number of batches", running.batches, DType::I64)?),
            Argument::Pointer(pointer(OP, "statistics", &self.numbers, DType::F32)?),
            Argument::Pointer(step.map_or(Ok(0), |report| pointer(OP, "report", report.numbers(), DType::F64))?),
            Argument::size(groups),
            Argument::size(channels),
            Argument::Double(self.count as f64),
            Argument::Double(running.momentum),
        ];
        let grid = Grid::one_for_each(channels);
        let device = self.numbers.device().as_cuda_device()?;
        // SAFETY: these are the arguments of the kernel, and the shapes were checked by the caller.
        unsafe { KERNELS.launch(device, "batch_norm_follow", grid, &arguments) }
    }

    /// The numbers of one of the arrays of a group, read back.
    pub(super) fn read(&self, group: usize, array: usize) -> Result<Vec<f64>, OpsError> {
        Ok(self.numbers.get(group)?.get(array)?.to_dtype(DType::F64)?.to_vec1()?)
    }
}

/// How the rows and channels of a map are shared out.
struct Cut {
    groups: usize,
    /// Of a group.
    rows: usize,
    channels: usize,
    /// Parts of the rows of a group, each of which has a sum.
    chunks: usize,
    grid: Grid,
    suffix: String,
}

impl Cut {
    fn of(x: &Tensor, groups: usize) -> Result<Self, OpsError> {
        let channels = x.dims()[x.rank() - 1];
        let rows = x.elem_count() / channels / groups;
        let name = suffix(OP, "x", x.dtype())?;
        let widest = 16 / x.dtype().size_in_bytes();
        let (pack, form) = if channels.is_multiple_of(widest) { (widest, "pack") } else { (1, "one") };
        let packs = channels / pack;
        let width = packs.next_power_of_two().min(32);
        let height = THREADS / width;
        let across = packs.div_ceil(width);
        // Cut by shape alone: the same sums on any GPU.
        let chunks = (BLOCKS / (across * groups)).min(rows / (height * ROWS_OF_A_THREAD)).max(1);
        let grid = Grid { blocks: [across, chunks, groups], threads: [width, height], shared: 0 };
        Ok(Self { groups, rows, channels, chunks, grid, suffix: format!("{name}_{form}") })
    }

    /// Numbers for `[Σ, Σ]` of every chunk, per channel.
    fn partial(&self, device: &CudaDevice) -> Result<Tensor, OpsError> {
        // SAFETY: every block writes its part before they are folded.
        unsafe { empty((self.groups, self.chunks, 2, self.channels), DType::F32, device) }
    }

    fn sums(&self, device: &CudaDevice) -> Result<Tensor, OpsError> {
        // SAFETY: they are written when the chunks are folded, and read after that.
        unsafe { empty((self.groups, 2, self.channels), DType::F64, device) }
    }

    /// A column of threads for every channel, of all groups or of each of so many.
    fn folding(&self, groups: usize) -> Grid {
        Grid { blocks: [self.channels.div_ceil(FOLDED), groups, 1], threads: [FOLDED, FOLDERS], shared: 0 }
    }
}

/// See [`super::forward`].
pub(super) fn forward(
    ctx: &Context,
    device: &CudaDevice,
    x: &Tensor,
    [weight, bias]: [&Tensor; 2],
    residual: Option<&Tensor>,
    config: BatchNorm,
) -> Result<(Tensor, OfGroups), OpsError> {
    let cut = Cut::of(x, config.groups)?;
    let alone = ctx.reduction().is_alone();
    let count = if alone { cut.rows } else { count_of_all(ctx, cut.rows)? };
    if count < 2 {
        return Err(OpsError::OneValuePerChannel { count });
    }
    let (partial, mut sums) = (cut.partial(device)?, cut.sums(device)?);
    // SAFETY: the kernels below write all of them.
    let numbers = unsafe { empty((cut.groups, ARRAYS, cut.channels), DType::F32, device) }?;
    let made_of =
        [pointer(OP, "x", x, x.dtype())?, pointer(OP, "partial sums", &partial, DType::F32)?].map(Argument::Pointer);
    let affine = [
        pointer(OP, "statistics", &numbers, DType::F32)?,
        pointer(OP, "weight", weight, DType::F32)?,
        pointer(OP, "bias", bias, DType::F32)?,
    ]
    .map(Argument::Pointer);
    let sizes = [Argument::Long(cut.rows as i64), Argument::size(cut.channels)];
    let finish = |sums: &Tensor, phase: i32| {
        let sums = [Argument::Pointer(pointer(OP, "sums", sums, DType::F64)?)];
        let numbers = [
            Argument::size(cut.chunks),
            Argument::Double(count as f64),
            Argument::Double(config.eps),
            Argument::Int(phase),
        ];
        let arguments = [&made_of[..], &sums, &affine, &sizes, &numbers].concat();
        let kernel = format!("batch_norm_statistics_{}", suffix(OP, "x", x.dtype())?);
        // SAFETY: these are the arguments of the kernel; shapes were checked, and partial sums are as `cut` says.
        unsafe { KERNELS.launch(device, &kernel, cut.folding(cut.groups), &arguments) }
    };
    let arguments = [made_of, sizes].concat();
    // SAFETY: as above.
    unsafe { KERNELS.launch(device, &format!("batch_norm_moments_{}", cut.suffix), cut.grid, &arguments) }?;
    if alone {
        finish(&sums, FOLD | FINISH)?;
    } else {
        finish(&sums, FOLD)?;
        sums = sum_over_all(ctx, &sums)?;
        finish(&sums, FINISH)?;
    }
    let statistics = OfGroups { numbers, groups: cut.groups, channels: cut.channels, count };
    let y = normalise(device, x, &statistics, residual, config.relu)?;
    Ok((y, statistics))
}

/// Batch norm with given scale and shift of every channel, as at inference.
pub(super) fn inference(
    device: &CudaDevice,
    x: &Tensor,
    affine: [Vec<f64>; 2],
    residual: Option<&Tensor>,
    relu: bool,
) -> Result<Tensor, OpsError> {
    let [scale, shift] = &affine;
    normalise(device, x, &OfGroups::of_affine(device, [scale, shift])?, residual, relu)
}

/// `relu(x · scale + shift + residual)`, residual and ReLU each optional.
pub(crate) fn normalise(
    device: &CudaDevice,
    x: &Tensor,
    statistics: &OfGroups,
    residual: Option<&Tensor>,
    relu: bool,
) -> Result<Tensor, OpsError> {
    let cut = Cut::of(x, statistics.groups)?;
    // SAFETY: the kernel writes every number.
    let y = unsafe { empty(x.shape(), x.dtype(), device) }?;
    let arguments = [
        Argument::Pointer(pointer(OP, "x", x, x.dtype())?),
        Argument::Pointer(residual.map_or(Ok(0), |residual| pointer(OP, "residual", residual, x.dtype()))?),
        Argument::Pointer(pointer(OP, "y", &y, x.dtype())?),
        Argument::Pointer(pointer(OP, "statistics", &statistics.numbers, DType::F32)?),
        Argument::Long(cut.rows as i64),
        Argument::size(cut.channels),
        Argument::Int(relu.into()),
    ];
    // SAFETY: these are the arguments of the kernel, and the shapes were checked.
    unsafe { KERNELS.launch(device, &format!("batch_norm_normalise_{}", cut.suffix), cut.grid, &arguments) }?;
    Ok(y)
}

/// What a backward pass is given.
pub(super) struct Passed<'a> {
    pub(super) x: &'a Tensor,
    /// The output, where it says what passed the ReLU.
    pub(super) y: Option<&'a Tensor>,
    pub(super) statistics: &'a OfGroups,
    pub(super) has_residual: bool,
    pub(super) config: BatchNorm,
}

/// See [`super::backward_in_place`].
pub(super) fn backward_in_place(
    ctx: &Context,
    device: &CudaDevice,
    passed: &Passed<'_>,
    grad: Tensor,
) -> Result<Gradients, OpsError> {
    let Passed { x, y, statistics, has_residual, config } = *passed;
    let cut = Cut::of(x, config.groups)?;
    let (partial, mut sums) = (cut.partial(device)?, cut.sums(device)?);
    let mask = match y {
        Some(_) => OUTPUT,
        None if config.relu => AFFINE,
        None => NO_MASK,
    };
    let dtype = x.dtype();
    let [x_at, grad_at] = [pointer(OP, "x", x, dtype)?, pointer(OP, "grad", &grad, dtype)?].map(Argument::Pointer);
    let of_group = Argument::Pointer(pointer(OP, "statistics", &statistics.numbers, DType::F32)?);
    let partial_at = Argument::Pointer(pointer(OP, "partial sums", &partial, DType::F32)?);
    let sums_at = Argument::Pointer(pointer(OP, "sums", &sums, DType::F64)?);
    let (rows, channels) = (Argument::Long(cut.rows as i64), Argument::size(cut.channels));
    let (count, eps) = (Argument::Double(statistics.count as f64), Argument::Double(config.eps));
    let arguments = [
        x_at,
        Argument::Pointer(y.map_or(Ok(0), |y| pointer(OP, "y", y, dtype))?),
        grad_at,
        // What passes the ReLU is the gradient of the residual.
        if has_residual && mask != NO_MASK { grad_at } else { Argument::Pointer(0) },
        of_group,
        partial_at,
        rows,
        channels,
        Argument::Int(mask),
    ];
    // SAFETY: these are the arguments of the kernel; the shapes were checked, and partial sums are as `cut` says. So for the others.
    unsafe { KERNELS.launch(device, &format!("batch_norm_gradient_sums_{}", cut.suffix), cut.grid, &arguments) }?;
    // SAFETY: the kernel writes both.
    let [weight, bias] =
        unsafe { [empty(cut.channels, DType::F32, device)?, empty(cut.channels, DType::F32, device)?] };
    let arguments = [
        partial_at,
        sums_at,
        of_group,
        Argument::Pointer(pointer(OP, "gradient of weight", &weight, DType::F32)?),
        Argument::Pointer(pointer(OP, "gradient of bias", &bias, DType::F32)?),
        channels,
        Argument::size(cut.groups),
        Argument::size(cut.chunks),
        eps,
    ];
    // The gradients of weight and bias are this process's share; the mean of the batch is over all processes.
    // SAFETY: as above.
    unsafe { KERNELS.launch(device, "batch_norm_fold_gradients", cut.folding(1), &arguments) }?;
    if !ctx.reduction().is_alone() {
        sums = sum_over_all(ctx, &sums)?;
    }
    let sums_at = Argument::Pointer(pointer(OP, "sums", &sums, DType::F64)?);
    let (dx, residual, mask) = if has_residual {
        // What passed the ReLU is in `grad` now, and stays there.
        // SAFETY: the kernel writes every number.
        (unsafe { empty(x.shape(), dtype, device) }?, Some(grad), NO_MASK)
    } else {
        (grad, None, mask)
    };
    let dx_at = Argument::Pointer(pointer(OP, "gradient of x", &dx, dtype)?);
    let arguments = [x_at, grad_at, dx_at, of_group, sums_at, rows, channels, count, eps, Argument::Int(mask)];
    // SAFETY: as above.
    unsafe { KERNELS.launch(device, &format!("batch_norm_input_gradient_{}", cut.suffix), cut.grid, &arguments) }?;
    Ok(Gradients { x: dx, weight, bias, residual })
}

/// The sums over all processes, for which the device must be waited for.
fn sum_over_all(ctx: &Context, sums: &Tensor) -> Result<Tensor, OpsError> {
    let mut numbers = sums.flatten_all()?.to_vec1::<f64>()?;
    ctx.reduction().sum(&mut numbers)?;
    Ok(Tensor::from_vec(numbers, sums.shape(), sums.device())?)
}

fn count_of_all(ctx: &Context, rows: usize) -> Result<usize, OpsError> {
    let mut count = [rows as f64];
    ctx.reduction().sum(&mut count)?;
    Ok(count[0] as usize)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::batch_norm::{self, forward, inference};
    use crate::check::{MAPS, close, gpu, on_both, random, rounded_on_both};
    use crate::update::{Condition, Scale, update_if_finite};

    /// Rounded once on the way out of f32, wherever the sums fall. Two rows that nearly coincide have a scale of hundreds, with which
    /// the rounding of f32 is multiplied.
    fn tolerance(dtype: DType) -> f64 {
        match dtype {
            DType::BF16 => 1e-2,
            DType::F16 => 2e-3,
            _ => 1e-4,
        }
    }

    const SHAPES: [&[usize]; 6] =
        [&[4, 1, 1, 1], &[6, 31], &[2, 5, 3, 33], &[4, 8, 8, 64], &[32, 16, 16, 8], &[2, 1, 2, 2048]];

    #[test]
    fn agrees_with_the_cpu_forward_and_backward() {
        let Some(device) = gpu() else { return };
        for dtype in MAPS {
            for dims in SHAPES {
                let channels = dims[dims.len() - 1];
                for (relu, with_residual, groups) in
                    [(false, false, 1), (true, false, 2), (true, true, 1), (false, true, 2), (true, true, 2)]
                {
                    let ctx = Context::new();
                    let config = BatchNorm { relu, groups, ..Default::default() };
                    // Far from zero, as activations may be.
                    let [x, x_there] = rounded_on_both(&(random(dims, 1) + 3.0).unwrap(), dtype, &device);
                    let [w, w_there] = on_both(&[channels], 2, DType::F32, &device);
                    let [b, b_there] = on_both(&[channels], 3, DType::F32, &device);
                    let [r, r_there] = on_both(dims, 4, dtype, &device);
                    let [g, g_there] = on_both(dims, 5, dtype, &device);
                    let residual = with_residual.then_some(&r);
                    let there = with_residual.then_some(&r_there);
                    let (want, saved) = forward(&ctx, &x, &w, &b, residual, config).unwrap();
                    let (y, saved_there) = forward(&ctx, &x_there, &w_there, &b_there, there, config).unwrap();
                    let what = format!("{dims:?} {dtype:?} relu {relu} residual {with_residual} groups {groups}");
                    close(&y, &want, tolerance(dtype), &what);
                    let wants = saved.statistics().read().unwrap();
                    let gots = saved_there.statistics().read().unwrap();
                    assert_eq!(wants.len(), gots.len());
                    for (want, got) in wants.iter().zip(&gots) {
                        assert_eq!(want.count, got.count);
                        let near =
                            |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5 * (1.0 + b.abs()));
                        assert!(near(&got.mean, &want.mean) && near(&got.var, &want.var), "{what}");
                    }
                    // Where the ReLU's input is next to zero, the two may see it on either side: in 16 bits these are seen.
                    let want = batch_norm::backward(&ctx, &saved, &g).unwrap();
                    let got = batch_norm::backward(&ctx, &saved_there, &g_there).unwrap();
                    let rows = (x.elem_count() / channels) as f64;
                    let size = |t: &Tensor| {
                        let t = t.to_dtype(DType::F64).unwrap().abs().unwrap();
                        t.flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap()
                    };
                    let sums = tolerance(dtype) * rows.sqrt();
                    close(&got.weight, &want.weight, sums * (1.0 + size(&want.weight)), &format!("weight {what}"));
                    close(&got.bias, &want.bias, sums, &format!("bias {what}"));
                    close(&got.x, &want.x, tolerance(dtype) * (2.0 + size(&want.x)), &format!("x {what}"));
                    assert_eq!(got.residual.is_some(), with_residual);
                    if let (Some(got), Some(want)) = (got.residual, want.residual) {
                        close(&got, &want, 0.0, &format!("residual {what}"));
                    }
                }
            }
        }
    }

    #[test]
    fn running_statistics_follow_and_inference_uses_them() {
        let Some(device) = gpu() else { return };
        let ctx = Context::new();
        let config = BatchNorm { groups: 2, relu: true, ..Default::default() };
        let [x, x_there] = on_both(&[4, 3, 3, 31], 1, DType::F32, &device);
        let [w, w_there] = on_both(&[31], 2, DType::F32, &device);
        let [mean, mean_there] = on_both(&[31], 3, DType::F32, &device);
        let [var, var_there] = on_both(&[31], 4, DType::F32, &device);
        let (var, var_there) = (var.sqr().unwrap(), var_there.sqr().unwrap());
        let (_, saved) = forward(&ctx, &x, &w, &w, None, config).unwrap();
        let counter = |device: &Device| Var::from_tensor(&Tensor::new(5i64, device).unwrap()).unwrap();
        let counters = [counter(&Device::Cpu), counter(&device)];
        let running = |mean, var, batches| Running { mean, var, batches, momentum: 0.1 };
        let report = |loss: f64, device: &Device| {
            let [loss, steps] = [loss, 0.0].map(|number| Tensor::new(number, device).unwrap());
            let condition = Condition { loss: &loss, steps: &steps, loss_scale: None, after: None };
            update_if_finite(&ctx, &[], Scale { mean: 1.0, max_norm: None }, condition).unwrap()
        };
        let [left_out, made] = [f64::NAN, 1.0].map(|loss| report(loss, &Device::Cpu));
        saved.statistics().follow(running(&mean, &var, &counters[0]), Some(&left_out)).unwrap();
        saved.statistics().follow(running(&mean, &var, &counters[0]), Some(&made)).unwrap();
        saved.statistics().follow(running(&mean, &var, &counters[0]), None).unwrap();
        let (_, saved) = forward(&ctx, &x_there, &w_there, &w_there, None, config).unwrap();
        let before = mean_there.to_vec1::<f32>().unwrap();
        let [left_out, made] = [f64::NAN, 1.0].map(|loss| report(loss, &device));
        saved.statistics().follow(running(&mean_there, &var_there, &counters[1]), Some(&left_out)).unwrap();
        assert_eq!(mean_there.to_vec1::<f32>().unwrap(), before);
        saved.statistics().follow(running(&mean_there, &var_there, &counters[1]), Some(&made)).unwrap();
        saved.statistics().follow(running(&mean_there, &var_there, &counters[1]), None).unwrap();
        assert_eq!(counters.map(|counter| counter.to_scalar::<i64>().unwrap()), [9, 9]);
        close(&mean_there, &mean, 1e-6, "running mean");
        close(&var_there, &var, 1e-6, "running variance");
        let want = inference(&ctx, &x, &w, &w, &mean, &var, None, config).unwrap();
        let got = inference(&ctx, &x_there, &w_there, &w_there, &mean_there, &var_there, None, config).unwrap();
        close(&got, &want, 1e-5, "inference");
    }

    #[test]
    fn one_value_per_channel_is_refused_and_nan_stays() {
        let Some(device) = gpu() else { return };
        let ctx = Context::new();
        let [_, one] = on_both(&[1, 8], 1, DType::F32, &device);
        let [_, w] = on_both(&[8], 2, DType::F32, &device);
        let message = forward(&ctx, &one, &w, &w, None, BatchNorm::default()).unwrap_err().to_string();
        assert!(message.contains("more than one value per channel, found 1"), "{message}");
        let nan = Tensor::new(&[[f32::NAN], [1.0]], &device).unwrap();
        let [_, w] = on_both(&[1], 2, DType::F32, &device);
        let (y, _) = forward(&ctx, &nan, &w, &w, None, BatchNorm { relu: true, ..Default::default() }).unwrap();
        assert!(y.to_vec2::<f32>().unwrap().iter().all(|row| row[0].is_nan()));
    }
}
