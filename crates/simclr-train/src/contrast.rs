//! One step of Algorithm 1 of the paper up to its gradients: embed both views of a batch, contrast them, go back.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use candle_core::{DType, Tensor, Var};
use simclr_loss::nt_xent_over;
use simclr_model::{Mode, Model, PassStatistics};
use simclr_optim::{Gradients, Optimizer, Report, Scale};

use crate::config::{Config, Views};
use crate::feed::Pairs;
use crate::ranks::Ranks;

/// How a batch, or the share of it that this process has, goes through the model and into the loss, which is that of the whole batch.
#[derive(Clone, Debug)]
pub(crate) struct Contrast {
    pub(crate) views: Views,
    pub(crate) temperature: f64,
    /// Pictures of its own whose activations are in memory at once; none for all. Each chunk is normalised by its own statistics.
    pub(crate) chunk: Option<usize>,
    /// Batches whose gradients are added up before they go to the others.
    pub(crate) accumulate: usize,
    pub(crate) ranks: Ranks,
}

/// What came of a batch, wherever it was computed: a GPU may still be at it.
pub(crate) struct Contrasted {
    /// Its part of the mean loss of the step, one number, f64.
    pub(crate) loss: Tensor,
    /// Of the loss as the optimizer [scales](Optimizer::scaled) it. They are this process's share of the sum, or, of one batch in one
    /// piece, the sum already: see [`Contrast::complete`].
    pub(crate) gradients: Gradients,
    /// What the running statistics have yet to follow, in this order.
    pub(crate) statistics: Vec<PassStatistics>,
    /// The embeddings of both views, rows of unit length, without a graph.
    pub(crate) embeddings: [Tensor; 2],
    /// What the loss itself took, forward; on a GPU only until it was asked for.
    pub(crate) loss_time: Duration,
}

impl Contrasted {
    /// Of this batch and the next one of the same step: sums, and the embeddings of the latter.
    pub(crate) fn and(mut self, next: Self) -> anyhow::Result<Self> {
        self.gradients.add(&next.gradients)?;
        self.statistics.extend(next.statistics);
        let (loss, loss_time) = ((self.loss + next.loss)?, self.loss_time + next.loss_time);
        Ok(Self { loss, loss_time, embeddings: next.embeddings, ..self })
    }
}

impl Contrast {
    pub(crate) fn of(config: &Config, ranks: &Ranks) -> Self {
        let chunk = config.chunk.map(|chunk| chunk / ranks.count());
        let &Config { views, temperature, accumulate, .. } = config;
        Self { views, temperature, chunk, accumulate, ranks: ranks.clone() }
    }

    /// Loss and gradients of both views of a batch.
    ///
    /// # Errors
    /// If the views have different shapes, or chunks do not fill the batch.
    pub(crate) fn run(&self, model: &Model, optimizer: &Optimizer, views: &Pairs) -> anyhow::Result<Contrasted> {
        match self.chunk {
            Some(chunk) if self.is_chunked(views.len()?) => self.in_chunks(chunk, model, optimizer, views),
            _ => self.at_once(model, optimizer, views),
        }
    }

    fn at_once(&self, model: &Model, optimizer: &Optimizer, views: &Pairs) -> anyhow::Result<Contrasted> {
        let ([left, right], statistics) = self.embed(model, views, Mode::Train)?;
        let began = Instant::now();
        let loss = nt_xent_over(&left, &right, self.temperature, self.ranks.group())?;
        let loss_time = began.elapsed();
        let scaled = optimizer.scaled(&loss)?;
        let gradients = match self.accumulate {
            1 => self.ranks.backward(model, &scaled, optimizer)?,
            _ => optimizer.gradients(&model.backward(&scaled)?)?,
        };
        let embeddings = [left.detach(), right.detach()];
        let loss = self.part_of_mean(&loss)?;
        Ok(Contrasted { loss, gradients, statistics: vec![statistics], embeddings, loss_time })
    }

    /// The gradients of a step from those of its batches, added up: the sum over all processes.
    ///
    /// # Errors
    /// If the others cannot be reached.
    pub(crate) fn complete(&self, gradients: Gradients, batch: usize) -> anyhow::Result<Gradients> {
        let is_sum = self.accumulate == 1 && !self.is_chunked(batch);
        if is_sum { Ok(gradients) } else { self.ranks.summed(gradients) }
    }

    /// The step that the batches of `contrasted` make, each of `own` pictures of this process; see [`Optimizer::apply_if_finite`].
    ///
    /// # Errors
    /// As [`Self::complete`], and if the device fails.
    pub(crate) fn step(
        &self,
        optimizer: &mut Optimizer,
        contrasted: Contrasted,
        own: usize,
        max_norm: Option<f64>,
        after: Option<&Report>,
    ) -> anyhow::Result<Report> {
        let Contrasted { loss, gradients, statistics, .. } = contrasted;
        let gradients = self.complete(gradients, own)?;
        let report = optimizer.apply_if_finite(&gradients, Scale { mean: self.mean(), max_norm }, &loss, after)?;
        statistics.into_iter().try_for_each(|statistics| statistics.follow_if_made(&report))?;
        Ok(report)
    }

    /// One over the number of batches of a step.
    fn mean(&self) -> f64 {
        1.0 / self.accumulate as f64
    }

    fn part_of_mean(&self, loss: &Tensor) -> candle_core::Result<Tensor> {
        loss.detach().to_dtype(DType::F64)? * self.mean()
    }

    fn is_chunked(&self, batch: usize) -> bool {
        self.chunk.is_some_and(|chunk| chunk < batch)
    }

    /// The same in little memory, for another forward pass: the embeddings of all chunks without a graph, the loss of all of them
    /// and its gradient for each embedding, and with these every chunk forward and backward by itself.
    fn in_chunks(
        &self,
        chunk: usize,
        model: &Model,
        optimizer: &Optimizer,
        views: &Pairs,
    ) -> anyhow::Result<Contrasted> {
        let n = views.len()?;
        let len = |start: usize| chunk.min(n - start);
        let starts = || (0..n).step_by(chunk);
        let embedded = starts().map(|start| self.embed(model, &views.part(start, len(start))?, Mode::First));
        let embedded = embedded.collect::<anyhow::Result<Vec<_>>>()?;
        let (embedded, statistics): (Vec<[Tensor; 2]>, Vec<PassStatistics>) = embedded.into_iter().unzip();
        let all = |view: usize| Tensor::cat(&embedded.iter().map(|parts| &parts[view]).collect::<Vec<_>>(), 0);
        let embeddings = [all(0)?, all(1)?];
        let [left, right] = [Var::from_tensor(&embeddings[0])?, Var::from_tensor(&embeddings[1])?];
        let began = Instant::now();
        let loss = nt_xent_over(&left, &right, self.temperature, self.ranks.group())?;
        let loss_time = began.elapsed();
        let store = optimizer.scaled(&loss)?.backward()?;
        let of = |var: &Var| store.get(var).cloned().map_or_else(|| var.zeros_like(), Ok);
        let grads = [of(&left)?, of(&right)?];
        let mut sum: Option<Gradients> = None;
        for start in starts() {
            let (out, _) = self.embed(model, &views.part(start, len(start))?, Mode::Second)?;
            let grad = [grads[0].narrow(0, start, len(start))?, grads[1].narrow(0, start, len(start))?];
            // Its gradient for the embeddings of the chunk is that of the loss of the whole batch.
            let product = (dot(&out[0], &grad[0])? + dot(&out[1], &grad[1])?)?;
            let gradients = optimizer.gradients(&model.backward(&product)?)?;
            match &mut sum {
                None => sum = Some(gradients),
                Some(sum) => sum.add(&gradients)?,
            }
        }
        let gradients = sum.context("a batch without pictures has no gradients")?;
        Ok(Contrasted { loss: self.part_of_mean(&loss)?, gradients, statistics, embeddings, loss_time })
    }

    /// The embeddings of both views, normalised each by its own statistics or both together.
    fn embed(&self, model: &Model, views: &Pairs, mode: Mode) -> anyhow::Result<([Tensor; 2], PassStatistics)> {
        let groups = match self.views {
            Views::Separate => 2,
            Views::Joint => 1,
        };
        let n = views.len()?;
        let (out, statistics) = model.forward_map(&views.map(model)?, groups, mode)?;
        Ok(([out.narrow(0, 0, n)?, out.narrow(0, n, n)?], statistics))
    }
}

/// The sum of the products of all numbers. candle's own sum sends the sizes of a tensor to a GPU from ordinary memory, for which the host may
/// have to wait; a product of matrices does not.
fn dot(a: &Tensor, b: &Tensor) -> candle_core::Result<Tensor> {
    let (row, column) = (a.flatten_all()?.unsqueeze(0)?, b.flatten_all()?.unsqueeze(1)?);
    row.matmul(&column)?.reshape(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use simclr_model::{Arch, ModelConfig};
    use simclr_ops::Context;
    use simclr_ops::random::stream;

    fn pictures(seed: u64) -> Tensor {
        let mut draws = stream(seed, [5, 0, 0]);
        let numbers: Vec<f64> = (0..12 * 3 * 16 * 16).map(|_| draws.normal()).collect();
        Tensor::from_vec(numbers, (12, 3, 16, 16), &Device::Cpu).unwrap()
    }

    fn one(views: Views, chunk: Option<usize>) -> Contrast {
        Contrast { views, temperature: 0.5, chunk, accumulate: 1, ranks: Ranks::alone() }
    }

    fn numbers(t: &Tensor) -> Vec<f64> {
        t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn new(arch: Arch) -> (Model, Optimizer) {
        let config = ModelConfig { width: 4, ..ModelConfig::new(arch) };
        let model = Model::new(&config, 3, DType::F64, &Device::Cpu, &Context::new()).unwrap();
        let optimizer = Optimizer::adam(model.parameters(), 1e-3, 0.0, &Context::new()).unwrap();
        (model, optimizer)
    }

    /// The whole batch in one graph, with the chunks as its groups of batch norm.
    fn whole(
        model: &Model,
        optimizer: &Optimizer,
        views: [&Tensor; 2],
        chunk: usize,
        separate: bool,
    ) -> (f64, Gradients) {
        let parts: Vec<Tensor> =
            (0..12).step_by(chunk).flat_map(|start| views.map(|view| view.narrow(0, start, chunk).unwrap())).collect();
        let groups = if separate { parts.len() } else { parts.len() / 2 };
        let out = model.forward_groups(&Tensor::cat(&parts, 0).unwrap(), groups, Mode::Train).unwrap();
        let view = |view: usize| {
            let parts: Vec<Tensor> =
                (0..12 / chunk).map(|i| out.narrow(0, (2 * i + view) * chunk, chunk).unwrap()).collect();
            Tensor::cat(&parts, 0).unwrap()
        };
        let loss = simclr_loss::nt_xent(&view(0), &view(1), 0.5).unwrap();
        let gradients = optimizer.gradients(&model.backward(&loss).unwrap()).unwrap();
        (loss.to_scalar().unwrap(), gradients)
    }

    #[test]
    fn chunks_give_the_step_of_the_whole_batch_with_their_groups() {
        let [left, right] = [pictures(1), pictures(2)];
        for arch in [Arch::ResNet18, Arch::ResNet50] {
            for (views, chunk) in [(Views::Separate, 3), (Views::Separate, 6), (Views::Joint, 4)] {
                let (model, mut optimizer) = new(arch);
                let contrast = one(views, Some(chunk));
                let (want_model, mut want_optimizer) = new(arch);
                // Two steps: the second begins with what the first has moved.
                for step in 0..2 {
                    let got = contrast.run(&model, &optimizer, &Pairs::apart([&left, &right])).unwrap();
                    let separate = views == Views::Separate;
                    let (loss, want) = whole(&want_model, &want_optimizer, [&left, &right], chunk, separate);
                    let found = got.loss.to_scalar::<f64>().unwrap();
                    assert!((found - loss).abs() < 1e-10, "{arch} {views:?}: {found} {loss}");
                    optimizer.apply(&got.gradients, 1.0).unwrap();
                    got.statistics.into_iter().for_each(|statistics| statistics.follow().unwrap());
                    want_optimizer.apply(&want, 1.0).unwrap();
                    for ((name, got), (_, want)) in model.state().iter().zip(want_model.state()) {
                        for (got, want) in numbers(got).iter().zip(numbers(&want)) {
                            let close = (got - want).abs() < 1e-7 * (1.0 + want.abs());
                            assert!(close, "{arch} {views:?} chunk {chunk} step {step} {name}: {got} {want}");
                        }
                    }
                }
                let tracked = model.state().into_iter().find(|(name, _)| name == "f.1.num_batches_tracked").unwrap().1;
                let groups = 12 / chunk * if views == Views::Separate { 2 } else { 1 };
                assert_eq!(numbers(&tracked), [2.0 * groups as f64], "once a group and step, not twice");
            }
        }
    }

    #[test]
    fn a_chunk_of_the_whole_batch_is_the_whole_batch() {
        let [left, right] = [pictures(1), pictures(2)];
        let run = |chunk| {
            let (model, optimizer) = new(Arch::ResNet18);
            let contrast = one(Views::Separate, chunk);
            let out = contrast.run(&model, &optimizer, &Pairs::apart([&left, &right])).unwrap();
            (out.loss.to_scalar::<f64>().unwrap(), out.embeddings.map(|t| numbers(&t)))
        };
        assert!(run(None) == run(Some(12)) && run(None) == run(Some(99)));
        assert!(run(None) != run(Some(6)), "another normalisation is another loss");
    }
}
