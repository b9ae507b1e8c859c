//! On a GPU: all parameters in one launch, norms on the way if a rule asks for them; the host waits for nothing but a norm that it asks for.

use candle_core::{CudaDevice, DType, Tensor};

use super::rules::{AdamFactors, SgdFactors};
use super::table::{Entry, table};
use super::{OP, Rule, Slot};
use crate::cuda::{Argument, Grid, Kernels, empty, kernels, pointer};
use crate::error::OpsError;

const KERNELS: Kernels = kernels!("update");

const THREADS: usize = 256;

fn blocks(count: usize) -> Grid {
    Grid { blocks: [count, 1, 1], threads: [THREADS, 1], shared: 0 }
}

/// See [`super::update`]; the slots were checked. They have one kind of rule.
pub(super) fn update(device: &CudaDevice, slots: &[Slot<'_>], scale: f64) -> Result<(), OpsError> {
    // Slots of an optimizer have one rule; this holds whatever they have.
    let is_adam = |slot: &&Slot<'_>| matches!(slot.rule, Rule::Adam(_));
    let (adam, others): (Vec<&Slot<'_>>, Vec<&Slot<'_>>) = slots.iter().partition(is_adam);
    // Strided gradients are copied, and live until the kernel was launched.
    let grads = |slots: &[&Slot<'_>]| slots.iter().map(|slot| slot.grad.contiguous()).collect::<Result<Vec<_>, _>>();
    if !adam.is_empty() {
        let grads = grads(&adam)?;
        let entries: Vec<Entry> =
            adam.iter().zip(&grads).map(|(slot, grad)| entry(slot, grad, scale)).collect::<Result<_, _>>()?;
        let on_device = OnDevice::new(device, &entries)?;
        let arguments = [Argument::Pointer(on_device.entries()?), Argument::size(on_device.count)];
        // SAFETY: these are the arguments of the kernel, and the table says where the tensors are. So for those that follow.
        unsafe { KERNELS.launch(device, "update_adam", blocks(on_device.chunks), &arguments) }?;
    }
    if !others.is_empty() {
        let grads = grads(&others)?;
        let entries: Vec<Entry> =
            others.iter().zip(&grads).map(|(slot, grad)| entry(slot, grad, scale)).collect::<Result<_, _>>()?;
        let on_device = OnDevice::new(device, &entries)?;
        let adapts =
            others.iter().any(|slot| matches!(slot.rule, Rule::Lars(lars) if lars.trust_coefficient.is_some()));
        let ratios = if adapts { Some(on_device.ratios(device)?) } else { None };
        let ratios_at = ratios.as_ref().map_or(Ok(0), |ratios| pointer(OP, "ratios", ratios, DType::F64))?;
        let arguments =
            [Argument::Pointer(on_device.entries()?), Argument::Pointer(ratios_at), Argument::size(on_device.count)];
        // SAFETY: as above.
        unsafe { KERNELS.launch(device, "update_sgd", blocks(on_device.chunks), &arguments) }?;
    }
    Ok(())
}

fn entry(slot: &Slot<'_>, grad: &Tensor, scale: f64) -> Result<Entry, OpsError> {
    let mut moments = [0; 2];
    for (to, moment) in moments.iter_mut().zip(slot.moments) {
        *to = pointer(OP, "moments", moment, DType::F32)?;
    }
    let factors = match slot.rule {
        Rule::Adam(step) => AdamFactors::<f32>::new(&step, scale).numbers(),
        Rule::Sgd(step) => SgdFactors::<f32>::sgd(&step, scale).numbers(0.0),
        Rule::Lars(step) => {
            SgdFactors::<f32>::lars(&step, 1.0, scale).numbers(step.trust_coefficient.unwrap_or(0.0) as f32)
        }
    };
    Ok(Entry {
        parameter: pointer(OP, "parameter", slot.parameter, DType::F32)?,
        grad: pointer(OP, "grad", grad, DType::F32)?,
        moments,
        count: slot.parameter.elem_count(),
        factors,
    })
}

/// The sum of the squares of all numbers of all `tensors`, f32, for which the device is waited for.
pub(super) fn squared_norm(device: &CudaDevice, tensors: &[&Tensor]) -> Result<f64, OpsError> {
    let tensors = tensors.iter().map(|tensor| tensor.contiguous()).collect::<Result<Vec<_>, _>>()?;
    let mut factors = [0.0; 10];
    factors[0] = 1.0;
    let entries: Vec<Entry> = tensors
        .iter()
        .map(|tensor| {
            let grad = pointer("squared_norm", "tensor", tensor, DType::F32)?;
            Ok(Entry { grad, count: tensor.elem_count(), factors, ..Entry::default() })
        })
        .collect::<Result<_, OpsError>>()?;
    let on_device = OnDevice::new(device, &entries)?;
    if on_device.chunks == 0 {
        return Ok(0.0);
    }
    let squares = on_device.squares(device)?;
    // SAFETY: the kernel writes it.
    let total = unsafe { empty((), DType::F64, device) }?;
    let arguments = [
        Argument::Pointer(pointer(OP, "squares", &squares, DType::F64)?),
        Argument::Pointer(pointer(OP, "total", &total, DType::F64)?),
        Argument::Long(on_device.chunks as i64),
    ];
    // SAFETY: these are the arguments of the kernel.
    unsafe { KERNELS.launch(device, "update_total", blocks(1), &arguments) }?;
    Ok(total.to_scalar()?)
}

/// A table on the device.
struct OnDevice {
    table: Tensor,
    count: usize,
    chunks: usize,
}

impl OnDevice {
    fn new(device: &CudaDevice, entries: &[Entry]) -> Result<Self, OpsError> {
        let (bytes, count, chunks) = table(entries);
        let len = bytes.len();
        let table = Tensor::from_vec(bytes, len, &candle_core::Device::Cuda(device.clone()))?;
        Ok(Self { table, count, chunks })
    }

    fn entries(&self) -> Result<u64, OpsError> {
        if self.count == 0 { Ok(0) } else { pointer(OP, "table", &self.table, DType::U8) }
    }

    /// Sums of squares of every chunk: of the gradient, and of the parameter.
    fn squares(&self, device: &CudaDevice) -> Result<Tensor, OpsError> {
        // SAFETY: the kernel writes every number.
        let squares = unsafe { empty((self.chunks, 2), DType::F64, device) }?;
        let arguments = [
            Argument::Pointer(self.entries()?),
            Argument::Pointer(pointer(OP, "squares", &squares, DType::F64)?),
            Argument::size(self.count),
        ];
        // SAFETY: these are the arguments of the kernel, and the table says where the tensors are.
        unsafe { KERNELS.launch(device, "update_squares", blocks(self.chunks), &arguments) }?;
        Ok(squares)
    }

    /// The trust ratio of every entry.
    fn ratios(&self, device: &CudaDevice) -> Result<Tensor, OpsError> {
        let squares = self.squares(device)?;
        // SAFETY: the kernel writes every number.
        let ratios = unsafe { empty(self.count, DType::F64, device) }?;
        let arguments = [
            Argument::Pointer(self.entries()?),
            Argument::Pointer(pointer(OP, "squares", &squares, DType::F64)?),
            Argument::Pointer(pointer(OP, "ratios", &ratios, DType::F64)?),
            Argument::size(self.count),
            Argument::Long(self.chunks as i64),
        ];
        // SAFETY: as above.
        unsafe { KERNELS.launch(device, "update_ratios", blocks(self.count), &arguments) }?;
        Ok(ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Context;
    use crate::check::{close, gpu, on_both};
    use crate::update::{self, Adam, Lars, Sgd};

    const SIZES: [&[usize]; 5] = [&[1], &[31], &[0], &[3, 4096], &[100, 33]];

    fn rules() -> Vec<Rule> {
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
        vec![
            Rule::Adam(adam),
            Rule::Adam(Adam { decoupled: true, ..adam }),
            Rule::Sgd(sgd),
            Rule::Sgd(Sgd { nesterov: true, momentum: 0.8, ..sgd }),
            Rule::Lars(lars),
            Rule::Lars(Lars { nesterov: true, trust_coefficient: None, ..lars }),
        ]
    }

    #[test]
    fn ten_steps_of_every_rule_are_those_of_the_cpu() {
        let Some(device) = gpu() else { return };
        let ctx = Context::new();
        for rule in rules() {
            let make = |i: usize, seed: u64| on_both(SIZES[i], 10 * i as u64 + seed, DType::F32, &device);
            let zeros = |i: usize, device: &candle_core::Device| {
                let zeros = || Tensor::zeros(SIZES[i], DType::F32, device).unwrap();
                (0..rule.moments()).map(|_| zeros()).collect::<Vec<_>>()
            };
            let parameters: Vec<[Tensor; 2]> = (0..SIZES.len()).map(|i| make(i, 1)).collect();
            let moments: Vec<[Vec<Tensor>; 2]> =
                (0..SIZES.len()).map(|i| [zeros(i, &candle_core::Device::Cpu), zeros(i, &device)]).collect();
            for step in 1..=10 {
                let rule = match rule {
                    Rule::Adam(adam) => Rule::Adam(Adam { number: step, ..adam }),
                    other => other,
                };
                let grads: Vec<[Tensor; 2]> = (0..SIZES.len()).map(|i| make(i, 1 + step)).collect();
                for place in 0..2 {
                    let slot = |i: usize| Slot {
                        parameter: &parameters[i][place],
                        moments: &moments[i][place],
                        grad: &grads[i][place],
                        rule,
                    };
                    let slots: Vec<Slot<'_>> = (0..SIZES.len()).map(slot).collect();
                    update::update(&ctx, &slots, 0.5).unwrap();
                }
            }
            // The same operations give the same bits; sums of squares are in another order.
            let far = if matches!(rule, Rule::Lars(_)) { 1e-6 } else { 0.0 };
            for ([want, got], [moments, there]) in parameters.iter().zip(&moments) {
                close(got, want, far, &format!("{rule:?}"));
                moments.iter().zip(there).for_each(|(want, got)| close(got, want, far, &format!("moment of {rule:?}")));
            }
        }
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
        assert_eq!(update::squared_norm_of_all(&ctx, &[&both[2][1]]).unwrap(), 0.0);
    }
}
