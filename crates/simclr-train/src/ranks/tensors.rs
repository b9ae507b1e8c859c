//! Tensors between processes.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor, TensorId, Var};
use simclr_dist::{Buckets, DistError};
use simclr_model::Model;
use simclr_ops::autograd::Listener;
use simclr_optim::{Gradients, Optimizer};

use super::{Agreed, Ranks};

/// Bytes of a bucket of gradients: large enough that what it costs to begin one vanishes, small enough that the first goes long before
/// the last is full. Those of PyTorch are 25 MiB; these go over slower wires too.
pub(crate) const BUCKET: usize = 4 << 20;

impl Ranks {
    /// Gradients of `loss`, summed over all of them while the backward pass still runs.
    pub(crate) fn backward(&self, model: &Model, loss: &Tensor, optimizer: &Optimizer) -> anyhow::Result<Gradients> {
        if self.is_alone() || loss.dtype() != DType::F32 {
            return self.summed(optimizer.gradients(&model.backward(loss)?)?);
        }
        let buckets = Arc::new(Mutex::new(Buckets::new(self.group.clone(), BUCKET)));
        let hears = buckets.clone();
        let listener: Listener = Arc::new(move |leaf: &Tensor, gradient: &Tensor| {
            let mut buckets = hears.lock().unwrap_or_else(PoisonError::into_inner);
            add(&mut buckets, leaf.id(), gradient)
        });
        let mut store = model.backward_with(loss, listener)?;
        let buckets =
            Arc::into_inner(buckets).map(|buckets| buckets.into_inner().unwrap_or_else(PoisonError::into_inner));
        let mut buckets =
            buckets.ok_or_else(|| anyhow::anyhow!("somebody still listens to a backward pass that is over"))?;
        let sent: Vec<TensorId> = buckets.keys().copied().collect();
        let heard: HashSet<TensorId> = sent.iter().copied().collect();
        anyhow::ensure!(
            heard.len() == sent.len(),
            "a gradient was handed over in parts: the encoder ran more than once"
        );
        let parameters: HashMap<TensorId, &Var> =
            model.parameters().iter().map(|(_, var)| (var.as_tensor().id(), var)).collect();
        // In the order of their names: one for all.
        for (_, var) in model.parameters().iter().filter(|(_, var)| !heard.contains(&var.as_tensor().id())) {
            if let Some(gradient) = store.get(var) {
                add(&mut buckets, var.as_tensor().id(), gradient)?;
            }
        }
        for (id, sums) in buckets.sums()? {
            if let Some(var) = parameters.get(&id) {
                store.insert(var, Tensor::from_vec(sums, var.shape(), var.device())?);
            }
        }
        Ok(optimizer.gradients(&store)?)
    }

    /// The sums of their gradients.
    pub(crate) fn summed(&self, gradients: Gradients) -> anyhow::Result<Gradients> {
        if self.is_alone() {
            return Ok(gradients);
        }
        let tensors = gradients.tensors();
        let sums: Vec<Tensor> = if tensors.iter().all(|tensor| tensor.dtype() == DType::F32) {
            let mut buckets = Buckets::new(self.group.clone(), BUCKET);
            tensors.iter().enumerate().try_for_each(|(i, tensor)| add(&mut buckets, i, tensor))?;
            let sums = buckets.sums()?.into_iter();
            sums.map(|(i, sums)| Tensor::from_vec(sums, tensors[i].shape(), tensors[i].device()))
                .collect::<Result<_, _>>()?
        } else {
            let sum = |tensor: &Tensor| -> anyhow::Result<Tensor> {
                let mut numbers: Vec<f64> = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
                self.group.sum(&mut numbers)?;
                Ok(Tensor::from_vec(numbers, tensor.shape(), tensor.device())?.to_dtype(tensor.dtype())?)
            };
            tensors.iter().map(sum).collect::<anyhow::Result<_>>()?
        };
        Ok(gradients.replaced(sums)?)
    }

    /// The rows of all of them, by rank.
    ///
    /// # Shapes
    /// `rows`: `[n, d]`, f32 or f64, `n` of each rank's own. Returns `[Σ n, d]`, on the CPU.
    pub(crate) fn rows(&self, rows: &Tensor) -> anyhow::Result<Tensor> {
        if self.is_alone() {
            return Ok(rows.clone());
        }
        let (_, d) = rows.dims2()?;
        let all = self.group.all_gather(&bytes_of(rows)?)?.concat();
        let n = all.len() / rows.dtype().size_in_bytes() / d.max(1);
        of_bytes(&all, rows.dtype(), &[n, d])
    }

    /// The `count` rows of all of them, f32, by rank; those who have none give none.
    pub(crate) fn some_rows(&self, own: Option<&Tensor>, count: usize) -> anyhow::Result<Tensor> {
        let all = self.group.all_gather(&own.map_or_else(|| Ok(Vec::new()), bytes_of)?)?.concat();
        let d = all.len() / DType::F32.size_in_bytes() / count.max(1);
        of_bytes(&all, DType::F32, &[count, d])
    }

    /// Copies the state of the first one's model, and what its optimizer remembers, to all others.
    pub(crate) fn spread(&self, model: &Model, optimizer: &mut Optimizer) -> anyhow::Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let first: Vec<Tensor> =
            model.state().iter().map(|(_, tensor)| self.first_one_s(tensor)).collect::<anyhow::Result<_>>()?;
        model.set_state(&first)?;
        let mut state: Vec<(String, Tensor)> = optimizer.state().into_iter().collect();
        state.sort_by(|(a, _), (b, _)| a.cmp(b));
        let copies: HashMap<String, Tensor> = state
            .into_iter()
            .map(|(name, tensor)| Ok((name, self.first_one_s(&tensor)?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(optimizer.load_state(&copies)?)
    }

    /// Copies the running statistics of the first one's model to all others: where batch norm is each one's own, these differ.
    pub(crate) fn spread_statistics(&self, model: &Model) -> anyhow::Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let own = model.running_statistics()?;
        let first: Vec<Tensor> = own.iter().map(|tensor| self.first_one_s(tensor)).collect::<anyhow::Result<_>>()?;
        Ok(model.set_running_statistics(&first)?)
    }

    fn first_one_s(&self, own: &Tensor) -> anyhow::Result<Tensor> {
        let bytes = if self.is_first() { bytes_of(own)? } else { Vec::new() };
        of_bytes(&self.group.broadcast(0, bytes)?, own.dtype(), own.dims())
    }

    /// Makes sure that all of them have the same model.
    ///
    /// # Errors
    /// [`Agreed`], which names the first that has not.
    pub(crate) fn must_have_one_model(&self, model: &Model, when: &str) -> anyhow::Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let matched = self.must_match("model", || Ok(model.fingerprint()?));
        matched.map_err(|error| match error.downcast::<Agreed>() {
            Ok(agreed) => Agreed { message: format!("{when}, {agreed}"), is_usage: false }.into(),
            Err(error) => error,
        })
    }
}

fn add<K>(buckets: &mut Buckets<K>, key: K, gradient: &Tensor) -> candle_core::Result<()> {
    let numbers: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
    buckets.add(key, &numbers).map_err(|error: DistError| candle_core::Error::wrap(error))
}

fn bytes_of(tensor: &Tensor) -> anyhow::Result<Vec<u8>> {
    let tensor = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F32 => bytemuck::cast_slice(&tensor.to_vec1::<f32>()?).to_vec(),
        DType::F64 => bytemuck::cast_slice(&tensor.to_vec1::<f64>()?).to_vec(),
        DType::I64 => bytemuck::cast_slice(&tensor.to_vec1::<i64>()?).to_vec(),
        other => anyhow::bail!("no tensors of type {other:?} go between processes"),
    })
}

fn of_bytes(bytes: &[u8], dtype: DType, dims: &[usize]) -> anyhow::Result<Tensor> {
    Ok(match dtype {
        DType::F32 => Tensor::from_vec(bytemuck::pod_collect_to_vec::<u8, f32>(bytes), dims, &Device::Cpu)?,
        DType::F64 => Tensor::from_vec(bytemuck::pod_collect_to_vec::<u8, f64>(bytes), dims, &Device::Cpu)?,
        DType::I64 => Tensor::from_vec(bytemuck::pod_collect_to_vec::<u8, i64>(bytes), dims, &Device::Cpu)?,
        other => anyhow::bail!("no tensors of type {other:?} go between processes"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::on_ranks;
    use super::*;
    use simclr_model::{Arch, ModelConfig};
    use simclr_ops::Context;

    #[test]
    fn the_first_one_s_model_and_rows_come_to_all() {
        let told = on_ranks(3, |ranks| {
            // Each begins elsewhere, and its optimizer remembers something else.
            let (rank, config) = (ranks.rank(), ModelConfig { width: 4, ..ModelConfig::new(Arch::ResNet18) });
            let model = Model::new(&config, rank as u64, DType::F32, &Device::Cpu, &Context::new()).unwrap();
            let mut optimizer = Optimizer::adam(model.parameters(), 1e-3, 0.0, &Context::new()).unwrap();
            let mut store = model.parameters()[0].1.as_tensor().sum_all().unwrap().backward().unwrap();
            for (_, var) in model.parameters() {
                store.insert(var, (var.ones_like().unwrap() * (1.0 + rank as f64)).unwrap());
            }
            optimizer.step(&store).unwrap();
            let apart = ranks.must_have_one_model(&model, "at first").unwrap_err().to_string();
            ranks.spread(&model, &mut optimizer).unwrap();
            ranks.must_have_one_model(&model, "at last").unwrap();
            let moment = optimizer.state()["exp_avg.f.0.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];

            let own = Tensor::full(rank as f32, (rank + 1, 2), &Device::Cpu).unwrap();
            let rows = ranks.rows(&own).unwrap().to_vec2::<f32>().unwrap();
            let some = ranks.some_rows((rank == 1).then_some(&own), 2).unwrap().to_vec2::<f32>().unwrap();
            (apart, moment, rows, some)
        });
        for (apart, moment, rows, some) in told {
            assert!(apart.starts_with("at first, rank 1 of 3 () has another model than rank 0"), "{apart}");
            assert!((moment - 0.1).abs() < 1e-6, "a tenth of the first one's gradient: {moment}");
            assert_eq!(rows, [[0.0; 2], [1.0; 2], [1.0; 2], [2.0; 2], [2.0; 2], [2.0; 2]]);
            assert_eq!(some, [[1.0; 2]; 2]);
        }
    }
}
