//! NT-Xent on a GPU, as a node of candle's graph: the kernels are those of `simclr_ops::contrast`.

use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Storage, Tensor};
use simclr_ops::contrast::{self, Saved};

/// The loss, which has been computed, and what its gradient needs.
pub(crate) struct OnGpu {
    loss: Mutex<Option<Tensor>>,
    saved: Saved,
}

impl OnGpu {
    pub(crate) fn new(left: &Tensor, right: &Tensor, tau: f64) -> Result<Self> {
        let (loss, saved) = contrast::forward(&left.detach(), &right.detach(), tau)?;
        Ok(Self { loss: Mutex::new(Some(loss)), saved })
    }
}

impl CustomOp2 for OnGpu {
    fn name(&self) -> &'static str {
        "nt-xent"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!("this form of nt-xent is for GPUs")
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let loss = self.loss.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(loss) = loss else { candle_core::bail!("nt-xent runs forward once") };
        let (storage, layout) = loss.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => candle_core::bail!("the loss is not on the device of its views"),
        }
    }

    fn bwd(&self, left: &Tensor, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, gradient) = (left.dim(0)?, contrast::backward(&self.saved, &grad.contiguous()?)?);
        Ok((Some(gradient.narrow(0, 0, n)?), Some(gradient.narrow(0, n, n)?)))
    }
}

#[cfg(test)]
mod cuda_tests {
    use candle_core::{DType, Device, Var};
    use simclr_ops::random::stream;

    use crate::nt_xent;

    fn gpu() -> Option<Device> {
        use std::io::Write as _;
        let device = simclr_ops::cuda::open(0);
        if let Err(error) = &device {
            let _ = writeln!(std::io::stderr(), "!! SKIPPED nt_xent on a GPU: there is none here ({error})");
        }
        device.ok()
    }

    /// Loss and both gradients of the same rows on a device, in f64.
    fn run(rows: &[Vec<f32>; 2], dims: (usize, usize), dtype: DType, device: &Device, tau: f64) -> [Vec<f64>; 3] {
        let var = |numbers: &Vec<f32>| {
            let t = candle_core::Tensor::from_vec(numbers.clone(), dims, &Device::Cpu).unwrap();
            Var::from_tensor(&t.to_dtype(dtype).unwrap().to_device(device).unwrap()).unwrap()
        };
        let [left, right] = rows.each_ref().map(var);
        let loss = nt_xent(&left, &right, tau).unwrap();
        let store = loss.backward().unwrap();
        let numbers = |t: &candle_core::Tensor| {
            t.to_device(&Device::Cpu)
                .unwrap()
                .to_dtype(DType::F64)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f64>()
                .unwrap()
        };
        [numbers(&loss), numbers(store.get(&left).unwrap()), numbers(store.get(&right).unwrap())]
    }

    fn rows(n: usize, d: usize) -> [Vec<f32>; 2] {
        [1, 2].map(|seed| {
            let mut draws = stream(seed, [9, 0, 0]);
            (0..n * d).map(|_| draws.normal() as f32).collect()
        })
    }

    #[test]
    fn agrees_with_the_cpu_in_f64() {
        let Some(device) = gpu() else { return };
        for (n, d) in [(1, 1), (1, 8), (2, 3), (31, 33), (300, 128)] {
            for tau in [0.5, 0.05, 0.005] {
                let rows = rows(n, d);
                let want = run(&rows, (n, d), DType::F64, &Device::Cpu, tau);
                let got = run(&rows, (n, d), DType::F32, &device, tau);
                assert!((got[0][0] - want[0][0]).abs() < 1e-5 * (1.0 + want[0][0].abs()) / tau, "{n} {d} {tau}");
                for (got, want) in got[1..].iter().zip(&want[1..]) {
                    // Of few rows a gradient is the small difference of numbers of this size.
                    let size = want.iter().fold(1.0 / (2.0 * n as f64), |m: f64, g| m.max(g.abs()));
                    let far = got.iter().zip(want).fold(0.0, |m: f64, (g, w)| m.max((g - w).abs()));
                    assert!(far < 3e-6 / tau * size, "{n} {d} {tau}: {far:e} of {size:e}");
                }
                assert!(got == run(&rows, (n, d), DType::F32, &device, tau), "other bits the second time");
            }
        }
    }

    #[test]
    fn a_zero_row_has_no_gradient_and_nan_shows() {
        let Some(device) = gpu() else { return };
        let mut rows = rows(5, 7);
        rows[0][7..14].fill(0.0);
        let want = run(&rows, (5, 7), DType::F64, &Device::Cpu, 0.5);
        let got = run(&rows, (5, 7), DType::F32, &device, 0.5);
        assert!((got[0][0] - want[0][0]).abs() < 1e-5);
        assert!(got[1][7..14].iter().all(|&g| g == 0.0));
        rows[1][3] = f32::NAN;
        assert!(run(&rows, (5, 7), DType::F32, &device, 0.5)[0][0].is_nan());
    }
}
