//! On a GPU: all parameters in one launch, and norms before it if a rule or a condition asks for them. The host waits for nothing but a norm
//! that it asks for itself.

use candle_core::{CudaDevice, DType, Device, Tensor};

use super::rules::{AdamFactors, SgdFactors};
use super::table::{Entry, Kind, table};
use super::{Condition, LossScale, OP, Report, Rule, Scale, Slot};
use crate::context::Context;
use crate::cuda::{Argument, Grid, Kernels, empty, kernels, pointer};
use crate::error::OpsError;

const KERNELS: Kernels = kernels!("update");

fn blocks(count: usize) -> Grid {
    Grid { blocks: [count, 1, 1], threads: [256, 1], shared: 0 }
}

/// See [`super::update`]; the slots were checked.
pub(super) fn update(ctx: &Context, device: &CudaDevice, slots: &[Slot<'_>], scale: f64) -> Result<(), OpsError> {
    OnDevice::of(ctx, device, slots, scale)?.make_step(None)
}

/// See [`super::update_if_finite`]; the arguments were checked.
pub(super) fn update_if_finite(
    ctx: &Context,
    device: &CudaDevice,
    slots: &[Slot<'_>],
    scale: Scale,
    condition: Condition<'_>,
) -> Result<Report, OpsError> {
    let Scale { mean, max_norm } = scale;
    let Condition { loss, steps, loss_scale, after } = condition;
    let or_none = |argument, tensor: Option<&Tensor>| {
        tensor.map_or(Ok(0), |tensor| pointer(OP, argument, tensor, DType::F64)).map(Argument::Pointer)
    };
    // How long the gradients are will be known on the device.
    let table = OnDevice::of(ctx, device, slots, mean)?;
    let squares = table.squares()?;
    let known = [
        Argument::Pointer(table.entries),
        Argument::Pointer(pointer(OP, "squares", &squares, DType::F64)?),
        Argument::Pointer(pointer(OP, "loss", loss, DType::F64)?),
        Argument::Pointer(pointer(OP, "steps", steps, DType::F64)?),
        or_none("loss scale", loss_scale.map(LossScale::numbers))?,
        or_none("report", after.map(Report::numbers))?,
        Argument::Double(mean),
        Argument::Double(max_norm.unwrap_or(f64::INFINITY)),
        Argument::size(table.count),
        Argument::Long(table.chunks as i64),
    ];
    let report = Report::written(ctx, device, |report| {
        let arguments = [&known[..], &[Argument::Pointer(pointer(OP, "report", report, DType::F64)?)]].concat();
        // SAFETY: these are the arguments of the kernel, and the table says where the tensors are. So for those that follow.
        unsafe { KERNELS.launch(device, "update_decide", blocks(1), &arguments) }
    })?;
    table.make_step(Some(report.numbers()))?;
    Ok(report)
}

/// The sum of the squares of all numbers of all `tensors`, f32, for which the device is waited for.
pub(super) fn squared_norm(ctx: &Context, device: &CudaDevice, tensors: &[&Tensor]) -> Result<f64, OpsError> {
    let tensors = tensors.iter().map(|tensor| tensor.contiguous()).collect::<Result<Vec<_>, _>>()?;
    let entry = |tensor: &Tensor| {
        let grad = pointer("squared_norm", "tensor", tensor, DType::F32)?;
        Ok(Entry { grad, count: tensor.elem_count(), ..Entry::default() })
    };
    let entries = tensors.iter().map(entry).collect::<Result<Vec<_>, OpsError>>()?;
    let table = OnDevice::new(ctx, device, &entries, tensors)?;
    let squares = table.squares()?;
    // SAFETY: the kernel writes it.
    let total = unsafe { empty((), DType::F64, device) }?;
    let arguments = [
        Argument::Pointer(pointer(OP, "squares", &squares, DType::F64)?),
        Argument::Pointer(pointer(OP, "total", &total, DType::F64)?),
        Argument::Long(table.chunks as i64),
    ];
    // SAFETY: as above.
    unsafe { KERNELS.launch(device, "update_total", blocks(1), &arguments) }?;
    Ok(total.to_scalar()?)
}

/// A table on the device.
struct OnDevice<'a> {
    device: &'a CudaDevice,
    /// Where it begins.
    entries: u64,
    count: usize,
    chunks: usize,
    /// Whether LARS adapts a learning rate.
    adapts: bool,
    /// The table, and copies of strided gradients: what must live until the kernels were launched.
    _kept: Vec<Tensor>,
}

impl<'a> OnDevice<'a> {
    fn of(ctx: &Context, device: &'a CudaDevice, slots: &[Slot<'_>], scale: f64) -> Result<Self, OpsError> {
        let grads = slots.iter().map(|slot| slot.grad.contiguous()).collect::<Result<Vec<_>, _>>()?;
        let entries =
            slots.iter().zip(&grads).map(|(slot, grad)| entry(slot, grad, scale)).collect::<Result<Vec<_>, _>>()?;
        Self::new(ctx, device, &entries, grads)
    }

    fn new(ctx: &Context, device: &'a CudaDevice, entries: &[Entry], mut kept: Vec<Tensor>) -> Result<Self, OpsError> {
        let (bytes, count, chunks) = table(entries);
        let mut at = 0;
        if count > 0 {
            let table = ctx.gpus().tables.send(&bytes, bytes.len(), &Device::Cuda(device.clone()))?;
            at = pointer(OP, "table", &table, DType::U8)?;
            kept.push(table);
        }
        let adapts = entries.iter().any(|entry| entry.kind == Kind::Trusted);
        Ok(Self { device, entries: at, count, chunks, adapts, _kept: kept })
    }

    /// Memory for `of_each` numbers of every chunk.
    fn sums(&self, of_each: usize) -> Result<Tensor, OpsError> {
        // SAFETY: a kernel writes those that another one reads.
        unsafe { empty((self.chunks.max(1), of_each), DType::F64, self.device) }
    }

    /// The sum of the squares of the gradients of every chunk.
    fn squares(&self) -> Result<Tensor, OpsError> {
        let squares = self.sums(1)?;
        let arguments = [
            Argument::Pointer(self.entries),
            Argument::Pointer(pointer(OP, "squares", &squares, DType::F64)?),
            Argument::size(self.count),
        ];
        // SAFETY: as above.
        unsafe { KERNELS.launch(self.device, "update_squares", blocks(self.chunks), &arguments) }?;
        Ok(squares)
    }

    /// Moves all parameters, if the report of the step does not say otherwise.
    fn make_step(&self, report: Option<&Tensor>) -> Result<(), OpsError> {
        if self.adapts {
            self.adapt()?;
        }
        let arguments = [
            Argument::Pointer(self.entries),
            Argument::Pointer(report.map_or(Ok(0), |report| pointer(OP, "report", report, DType::F64))?),
            Argument::size(self.count),
        ];
        // SAFETY: as above.
        unsafe { KERNELS.launch(self.device, "update_move", blocks(self.chunks), &arguments) }
    }

    /// Writes the learning rates of LARS into the table.
    fn adapt(&self) -> Result<(), OpsError> {
        let squares = self.sums(2)?;
        let squares_at = Argument::Pointer(pointer(OP, "squares", &squares, DType::F64)?);
        let (entries, count) = (Argument::Pointer(self.entries), Argument::size(self.count));
        // SAFETY: as above.
        unsafe { KERNELS.launch(self.device, "update_weigh", blocks(self.chunks), &[entries, squares_at, count]) }?;
        let arguments = [entries, squares_at, count, Argument::Long(self.chunks as i64)];
        // SAFETY: as above.
        unsafe { KERNELS.launch(self.device, "update_trust", blocks(self.count), &arguments) }
    }
}

fn entry(slot: &Slot<'_>, grad: &Tensor, scale: f64) -> Result<Entry, OpsError> {
    let mut moments = [0; 2];
    for (to, moment) in moments.iter_mut().zip(slot.moments) {
        *to = pointer(OP, "moments", moment, DType::F32)?;
    }
    let (kind, learning_rate, settings, factors) = match slot.rule {
        Rule::Adam(step) => {
            (Kind::Adam, step.learning_rate, [step.beta1, step.beta2], AdamFactors::<f32>::new(&step, scale).numbers())
        }
        Rule::Sgd(step) => (Kind::Sgd, step.learning_rate, [0.0; 2], SgdFactors::<f32>::sgd(&step, scale).numbers()),
        Rule::Lars(step) => {
            let kind = if step.trust_coefficient.is_some() { Kind::Trusted } else { Kind::Sgd };
            let settings = [step.trust_coefficient.unwrap_or(0.0), 0.0];
            (kind, step.learning_rate, settings, SgdFactors::<f32>::lars(&step, 1.0, scale).numbers())
        }
    };
    Ok(Entry {
        parameter: pointer(OP, "parameter", slot.parameter, DType::F32)?,
        grad: pointer(OP, "grad", grad, DType::F32)?,
        moments,
        count: slot.parameter.elem_count(),
        kind,
        learning_rate,
        settings,
        factors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, gpu, on_both};
    use crate::update::{self, Adam, Lars, Outcome, Reported, Sgd, update_if_finite};

    const SIZES: [&[usize]; 6] = [&[1], &[31], &[33], &[3, 4096], &[100, 33], &[100_000]];

    fn rules() -> [Rule; 6] {
        let adam = Adam {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 1e-2,
            decoupled: false,
            number: 1,
        };
        let sgd = Sgd { learning_rate: 1e-2, momentum: 0.9, nesterov: false, weight_decay: 1e-2 };
        let lars = Lars {
            learning_rate: 0.3,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 1e-2,
            trust_coefficient: Some(1e-3),
        };
        [
            Rule::Adam(adam),
            Rule::Adam(Adam { decoupled: true, ..adam }),
            Rule::Sgd(sgd),
            Rule::Sgd(Sgd { nesterov: true, momentum: 0.8, ..sgd }),
            Rule::Lars(lars),
            Rule::Lars(Lars { nesterov: true, trust_coefficient: None, ..lars }),
        ]
    }

    /// Parameters and what a rule remembers of them, on the CPU or on a device.
    struct Trained {
        parameters: Vec<Tensor>,
        moments: Vec<Vec<Tensor>>,
        rule: Rule,
        place: usize,
    }

    impl Trained {
        /// The same on both.
        fn on_both(rule: Rule, device: &Device) -> [Self; 2] {
            [(0, &Device::Cpu), (1, device)].map(|(place, to)| {
                let zeros = |dims: &[usize]| {
                    (0..rule.moments()).map(|_| Tensor::zeros(dims, DType::F32, to).unwrap()).collect()
                };
                Self {
                    parameters: (0..SIZES.len()).map(|i| made(i, 1, device)[place].clone()).collect(),
                    moments: SIZES.iter().map(|dims| zeros(dims)).collect(),
                    rule,
                    place,
                }
            })
        }

        /// The gradients of a step, with the same numbers on both; every other one is strided.
        fn gradients(&self, step: u64, device: &Device) -> Vec<Tensor> {
            let gradient = |i: usize| {
                let gradient = made(i, 1 + step, device)[self.place].clone();
                if gradient.rank() == 2 { gradient.t().unwrap().contiguous().unwrap().t().unwrap() } else { gradient }
            };
            (0..SIZES.len()).map(gradient).collect()
        }

        fn slots<'a>(&'a self, gradients: &'a [Tensor], step: u64) -> Vec<Slot<'a>> {
            let rule = match self.rule {
                Rule::Adam(adam) => Rule::Adam(Adam { number: step, ..adam }),
                other => other,
            };
            let slot = |i: usize| Slot {
                parameter: &self.parameters[i],
                moments: &self.moments[i],
                grad: &gradients[i],
                rule,
            };
            (0..SIZES.len()).map(slot).collect()
        }

        fn tensors(&self) -> impl Iterator<Item = &Tensor> {
            self.parameters.iter().chain(self.moments.iter().flatten())
        }

        fn bits(&self) -> Vec<Vec<u32>> {
            let bits =
                |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
            self.tensors().map(bits).collect()
        }
    }

    fn made(i: usize, seed: u64, device: &Device) -> [Tensor; 2] {
        on_both(SIZES[i], 100 * i as u64 + seed, DType::F32, device)
    }

    /// The same operations give the same bits; but sums of squares are in another order, and so are trust ratios that are made of them.
    fn must_agree([host, there]: &[Trained; 2]) {
        let far = if matches!(host.rule, Rule::Lars(_)) { 1e-6 } else { 0.0 };
        host.tensors().zip(there.tensors()).for_each(|(want, got)| close(got, want, far, &format!("{:?}", host.rule)));
    }

    #[test]
    fn ten_steps_of_every_rule_are_those_of_the_cpu() {
        let Some(device) = gpu() else { return };
        for rule in rules() {
            let both = Trained::on_both(rule, &device);
            for step in 1..=10 {
                for trained in &both {
                    let gradients = trained.gradients(step, &device);
                    update::update(&Context::new(), &trained.slots(&gradients, step), 0.5).unwrap();
                }
            }
            must_agree(&both);
        }
    }

    #[test]
    fn parameters_of_different_rules_move_in_one_step() {
        let Some(device) = gpu() else { return };
        let both = rules().map(|rule| Trained::on_both(rule, &device));
        for place in 0..2 {
            let gradients: Vec<Vec<Tensor>> = both.iter().map(|both| both[place].gradients(1, &device)).collect();
            let slots: Vec<Slot<'_>> =
                both.iter().zip(&gradients).flat_map(|(both, gradients)| both[place].slots(gradients, 1)).collect();
            update::update(&Context::new(), &slots, 0.5).unwrap();
        }
        both.iter().for_each(must_agree);
    }

    /// Ten attempts, of which two are left out; returns what was reported, how many were made, and the scale that the loss has then.
    fn attempts(trained: &Trained, scale: Scale, scales_loss: bool, device: &Device) -> (Vec<Reported>, f64, Vec<f64>) {
        let to = trained.parameters[0].device();
        let steps = Tensor::new(0f64, to).unwrap();
        // One step before it grows.
        let near = LossScale::of(&Tensor::new(&[4096.0, 1998.0], to).unwrap()).unwrap();
        let mut reports = Vec::new();
        for step in 1..=10 {
            let mut gradients = trained.gradients(step, device);
            let mut loss = 1.0 / step as f32;
            match step {
                4 => gradients[0] = Tensor::full(f32::NAN, SIZES[0], to).unwrap(),
                7 => loss = f32::INFINITY,
                _ => {}
            }
            if scales_loss {
                let scale = near.numbers().to_vec1::<f64>().unwrap()[0];
                gradients.iter_mut().for_each(|gradient| *gradient = (&*gradient * scale).unwrap());
            }
            let loss = Tensor::new(f64::from(loss), to).unwrap();
            // Steps that were left out do not count, and the rule need not know of them.
            let slots = trained.slots(&gradients, 99);
            let loss_scale = scales_loss.then_some(&near);
            let condition = Condition { loss: &loss, steps: &steps, loss_scale, after: None };
            reports.push(update_if_finite(&Context::new(), &slots, scale, condition).unwrap().read().unwrap());
        }
        (reports, steps.to_scalar().unwrap(), near.numbers().to_vec1().unwrap())
    }

    #[test]
    fn steps_with_a_condition_are_those_of_the_cpu() {
        let Some(device) = gpu() else { return };
        for rule in rules() {
            for (max_norm, scales_loss) in [(None, false), (Some(10.0), false), (Some(10.0), true)] {
                let scale = Scale { mean: 0.5, max_norm };
                let both = Trained::on_both(rule, &device);
                let [(want, made, loss_scale), (got, made_there, loss_scale_there)] =
                    both.each_ref().map(|trained| attempts(trained, scale, scales_loss, &device));
                assert_eq!((made, made_there), (8.0, 8.0));
                // It has grown with the second step, shrunk with the fourth, and then there were five.
                let expected = if scales_loss { vec![4096.0, 5.0] } else { vec![4096.0, 1998.0] };
                assert_eq!((loss_scale, &loss_scale_there), (expected, &loss_scale_there));
                assert_eq!(loss_scale_there[1], if scales_loss { 5.0 } else { 1998.0 });
                for (step, (want, got)) in want.iter().zip(&got).enumerate() {
                    let outcome = match step {
                        3 if scales_loss => Outcome::Overflowed,
                        3 | 6 => Outcome::NotFinite,
                        _ => Outcome::Applied,
                    };
                    assert_eq!((got.outcome, want.outcome, got.loss_scale), (outcome, outcome, want.loss_scale));
                    for (want, got) in [(want.loss, got.loss), (want.norm, got.norm)] {
                        let same = want == got || (want.is_nan() && got.is_nan());
                        assert!(same || (want - got).abs() <= 1e-12 * want.abs(), "{want} {got}");
                    }
                }
                // Bias corrections and norms are computed in f64 there: their last bit may be another, and so may that of a factor.
                for (want, got) in both[0].tensors().zip(both[1].tensors()) {
                    close(got, want, 1e-6, &format!("{rule:?} {max_norm:?}"));
                }
            }
        }
    }

    #[test]
    fn a_step_that_was_left_out_takes_those_behind_it_along() {
        let Some(device) = gpu() else { return };
        let [_, there] = Trained::on_both(rules()[0], &device);
        let before = there.bits();
        let gradients = there.gradients(1, &device);
        let (slots, scale) = (there.slots(&gradients, 1), Scale { mean: 1.0, max_norm: None });
        let [good, bad] = [1.0, f64::NAN].map(|loss| Tensor::new(loss, &device).unwrap());
        let steps = Tensor::new(0f64, &device).unwrap();
        let step = |loss, after: Option<&Report>| {
            let condition = Condition { loss, steps: &steps, loss_scale: None, after };
            update_if_finite(&Context::new(), &slots, scale, condition).unwrap()
        };
        let first = step(&bad, None);
        let second = step(&good, Some(&first));
        let third = step(&good, Some(&second));
        assert_eq!(third.read().unwrap().outcome, Outcome::NotFinite);
        assert!(there.bits() == before && steps.to_scalar::<f64>().unwrap() == 0.0);
        let fourth = step(&good, None);
        assert_eq!(step(&good, Some(&fourth)).read().unwrap().outcome, Outcome::Applied);
        assert!(there.bits() != before && steps.to_scalar::<f64>().unwrap() == 2.0);
    }

    #[test]
    fn what_is_left_out_changes_no_bit_and_two_runs_have_the_same() {
        let Some(device) = gpu() else { return };
        let scale = Scale { mean: 0.5, max_norm: Some(10.0) };
        for rule in rules() {
            let [_, one] = Trained::on_both(rule, &device);
            let [_, two] = Trained::on_both(rule, &device);
            attempts(&one, scale, true, &device);
            attempts(&two, scale, true, &device);
            assert!(one.bits() == two.bits(), "{rule:?}");
            let mut gradients = one.gradients(1, &device);
            gradients[5] = (gradients[5].clone() * f64::INFINITY).unwrap();
            let [loss, steps] = [0.5, 3.0].map(|x| Tensor::new(x, &device).unwrap());
            let slots = one.slots(&gradients, 1);
            let condition = Condition { loss: &loss, steps: &steps, loss_scale: None, after: None };
            let report = update_if_finite(&Context::new(), &slots, scale, condition).unwrap();
            assert_eq!(report.read().unwrap().outcome, Outcome::NotFinite);
            assert!((one.bits() == two.bits()) && steps.to_scalar::<f64>().unwrap() == 3.0, "{rule:?}");
        }
    }

    #[test]
    fn tensors_of_two_places_are_refused_and_nothing_moves() {
        let Some(device) = gpu() else { return };
        let [host, there] = Trained::on_both(rules()[2], &device);
        let before = there.bits();
        let gradients = there.gradients(1, &device);
        let mut slots = there.slots(&gradients, 1);
        slots[1].moments = &host.moments[1];
        let message = update::update(&Context::new(), &slots, 1.0).unwrap_err().to_string();
        assert!(message.contains("not all tensors are on one device"), "{message}");
        assert!(there.bits() == before);
        let (loss, steps) = (Tensor::new(1f64, &Device::Cpu).unwrap(), Tensor::new(0f64, &device).unwrap());
        let slots = there.slots(&gradients, 1);
        let scale = Scale { mean: 1.0, max_norm: None };
        let condition = Condition { loss: &loss, steps: &steps, loss_scale: None, after: None };
        let error = update_if_finite(&Context::new(), &slots, scale, condition).unwrap_err().to_string();
        assert!(error.contains("loss is on the CPU"), "{error}");
        assert!(there.bits() == before);
    }

    #[test]
    fn norms_are_those_of_the_cpu() {
        let Some(device) = gpu() else { return };
        let ctx = Context::new();
        let both: Vec<[Tensor; 2]> = SIZES.iter().map(|dims| on_both(dims, 3, DType::F32, &device)).collect();
        let [want, got] = [0, 1].map(|place| {
            let tensors: Vec<&Tensor> = both.iter().map(|both| &both[place]).collect();
            update::squared_norm_of_all(&ctx, &tensors).unwrap()
        });
        assert!((want - got).abs() < 1e-12 * want, "{want} {got}");
        let bad = Tensor::new(&[1f32, f32::NAN], &device).unwrap();
        assert!(update::squared_norm_of_all(&ctx, &[&both[1][1], &bad]).unwrap().is_nan());
    }
}
