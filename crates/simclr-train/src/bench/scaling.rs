//! `bench scaling`: what a step would take on many processes, from what it takes on one and what its messages cost.
//!
//! A model, not a measurement: messages cost a latency for each time they are passed on and the time that their bytes take
//! (Hockney 1994); `bench step` in several processes measures what it predicts.

use serde_json::json;
use simclr_model::{Model, ModelConfig};

use crate::cli::BenchScalingArguments;
use crate::config::arch;
use crate::output::Output;
use crate::ranks::BUCKET;
use crate::table::Table;
use crate::{Ending, Usage};
use candle_core::{DType, Device};
use simclr_ops::Context;

/// What a message between two processes costs.
#[derive(Clone, Copy, Debug)]
struct Link {
    /// Seconds before the first byte is there.
    latency: f64,
    /// Bytes a second.
    bandwidth: f64,
}

/// The machines.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    /// Processes on one of them.
    per_node: usize,
    inside: Link,
    between: Link,
}

/// What one process does in a step, and what it has to tell.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// Pictures of its share of a batch.
    pictures: usize,
    /// Seconds of a step when it is alone.
    step: f64,
    /// Numbers of an embedding.
    dim: usize,
    /// Parameters.
    parameters: usize,
    /// Batch norms, and the channels of all of them together.
    batch_norms: usize,
    channels: usize,
    /// Groups of pictures with statistics of their own: two views.
    groups: usize,
    /// Operations a second in the products of the loss.
    loss_rate: f64,
}

/// The parts of a step on many processes, in seconds.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// As alone.
    own: f64,
    /// Similarities with the pictures of the others.
    loss: f64,
    /// Sums of batch norm, forward and backward: everything waits for them.
    batch_norm: f64,
    /// Embeddings and sums of their rows, to all.
    gather: f64,
    /// Gradients, as far as the backward pass does not hide them.
    gradients: f64,
}

/// The part of a step that is the backward pass: two of three products.
const BACKWARD: f64 = 2.0 / 3.0;

/// Bytes of the last bucket of gradients, which no backward pass hides.
const LAST_BUCKET: f64 = BUCKET as f64;

/// Bytes of all together up to which a small sum is a gather, whose parts each adds for itself, as `simclr_dist` does it.
const MOST_GATHERED: f64 = (1 << 20) as f64;

impl Cluster {
    /// How often a message is passed on until all of `count` have it, in seconds of latency: by trees inside and between machines.
    fn latency(&self, count: usize) -> f64 {
        let (inside, nodes) = (count.min(self.per_node), count.div_ceil(self.per_node));
        (inside as f64).log2().ceil() * self.inside.latency + (nodes as f64).log2().ceil() * self.between.latency
    }

    /// The narrowest wire that all bytes go through.
    fn bandwidth(&self, count: usize) -> f64 {
        if count <= self.per_node { self.inside.bandwidth } else { self.between.bandwidth.min(self.inside.bandwidth) }
    }

    /// Sums of so many bytes of each: down a ring and back, each byte twice.
    fn sum(&self, count: usize, bytes: f64) -> f64 {
        let share = (count - 1) as f64 / count as f64;
        2.0 * self.latency(count) + 2.0 * share * bytes / self.bandwidth(count)
    }

    /// Sums of few numbers.
    fn small_sum(&self, count: usize, bytes: f64) -> f64 {
        if count as f64 * bytes <= MOST_GATHERED { self.gather(count, bytes) } else { self.sum(count, bytes) }
    }

    /// The bytes of each to all.
    fn gather(&self, count: usize, bytes: f64) -> f64 {
        self.latency(count) + (count - 1) as f64 * bytes / self.bandwidth(count)
    }
}

impl Work {
    /// A step of `count` processes, batch norm over all of them if `sync`.
    fn on(&self, cluster: &Cluster, count: usize, sync: bool) -> Step {
        if count == 1 {
            return Step { own: self.step, loss: 0.0, batch_norm: 0.0, gather: 0.0, gradients: 0.0 };
        }
        let views = 2.0 * self.pictures as f64;
        // Three products of the own rows with those of the others: similarities, the same again backward, and their gradient.
        let loss = 3.0 * 2.0 * views * views * (count - 1) as f64 * self.dim as f64 / self.loss_rate;
        // Two numbers a channel and group, forward and backward.
        let bytes = 8.0 * (2 * self.channels * self.groups) as f64 / self.batch_norms.max(1) as f64;
        let batch_norm = if sync { 2.0 * self.batch_norms as f64 * cluster.small_sum(count, bytes) } else { 0.0 };
        let rows = cluster.gather(count, 4.0 * views * self.dim as f64);
        let sums = cluster.gather(count, 16.0 * views);
        let all = cluster.sum(count, 4.0 * self.parameters as f64);
        let gradients =
            (all - BACKWARD * self.step).max(cluster.sum(count, LAST_BUCKET.min(4.0 * self.parameters as f64)));
        Step { own: self.step, loss, batch_norm, gather: rows + sums, gradients }
    }
}

impl Step {
    fn total(&self) -> f64 {
        self.own + self.loss + self.batch_norm + self.gather + self.gradients
    }
}

pub(super) fn command(arguments: &BenchScalingArguments, output: &Output) -> anyhow::Result<Ending> {
    let positive = |flag: &str, value: f64| {
        let wrong = || Usage(format!("{flag} is {value}, expected a finite number above 0"));
        if value.is_finite() && value > 0.0 { Ok(value) } else { Err(wrong()) }
    };
    for (flag, value) in
        [("--batch", arguments.batch), ("--per-node", arguments.per_node), ("--width", arguments.width)]
    {
        super::at_least_one(flag, value)?;
    }
    let link = |[latency, bandwidth]: [(&str, f64); 2]| -> Result<Link, Usage> {
        Ok(Link {
            latency: 1e-6 * positive(latency.0, latency.1)?,
            bandwidth: 1e9 * positive(bandwidth.0, bandwidth.1)?,
        })
    };
    let cluster = Cluster {
        per_node: arguments.per_node,
        inside: link([("--latency", arguments.latency), ("--bandwidth", arguments.bandwidth)])?,
        between: link([
            ("--between-latency", arguments.between_latency),
            ("--between-bandwidth", arguments.between_bandwidth),
        ])?,
    };
    let config = ModelConfig { width: arguments.width, ..ModelConfig::new(arch(&arguments.arch)?) };
    let model = Model::new(&config, 0, DType::F32, &Device::Cpu, &Context::new())?;
    let means: Vec<usize> = model
        .state()
        .iter()
        .filter(|(name, _)| name.ends_with("running_mean"))
        .map(|(_, tensor)| tensor.elem_count())
        .collect();
    let work = Work {
        pictures: arguments.batch,
        step: 1e-3 * positive("--step-ms", arguments.step_ms)?,
        dim: config.feature_dim,
        parameters: model.parameter_count(),
        batch_norms: means.len(),
        channels: means.iter().sum(),
        groups: 2,
        loss_rate: 1e9 * positive("--loss-gflops", arguments.loss_gflops)?,
    };
    let counts = (0..=8).map(|i| 1usize << i);
    let steps: Vec<(usize, Step)> = counts.map(|count| (count, work.on(&cluster, count, arguments.sync_bn))).collect();
    let pairs = |count: usize, step: &Step| (count * work.pictures) as f64 / step.total();
    let efficiency = |step: &Step| work.step / step.total();
    let rows = steps.iter().map(|(count, step)| {
        let parts = [step.loss, step.batch_norm, step.gather, step.gradients, step.total()];
        let mut row = vec![count.to_string(), (count * work.pictures).to_string()];
        row.extend(parts.map(|seconds| format!("{:.2}", 1e3 * seconds)));
        row.extend([format!("{:.0}", pairs(*count, step)), format!("{:.1} %", 100.0 * efficiency(step))]);
        row
    });
    let columns =
        ["processes", "batch", "ms: loss", "batch norm", "gathers", "gradients", "step", "pairs/s", "of the ideal"];
    let objects: Vec<_> = steps
        .iter()
        .map(|(count, step)| {
            json!({
                "ranks": count, "batch": count * work.pictures, "s_loss": step.loss, "s_batch_norm": step.batch_norm,
                "s_gather": step.gather, "s_gradients": step.gradients, "s_per_step": step.total(),
                "pairs_per_s": pairs(*count, step), "efficiency": efficiency(step),
            })
        })
        .collect();
    let object = json!({
        "arch": arguments.arch, "batch_per_rank": work.pictures, "s_step_alone": work.step, "parameters": work.parameters,
        "batch_norms": work.batch_norms, "sync_bn": arguments.sync_bn, "steps": objects,
    });
    let text = format!(
        "{} (width {}), {} pictures to a process, {:.2} ms a step alone: a model, nothing here is measured\n\n{}",
        arguments.arch,
        arguments.width,
        work.pictures,
        1e3 * work.step,
        Table { columns: columns.map(String::from).into(), rows: rows.collect() }.text()
    );
    output.result(text, &object);
    Ok(Ending::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link { latency: 1e-5, bandwidth: 1e9 };

    fn work() -> Work {
        Work {
            pictures: 64,
            step: 0.1,
            dim: 128,
            parameters: 1_000_000,
            batch_norms: 10,
            channels: 1_000,
            groups: 2,
            loss_rate: 1e12,
        }
    }

    #[test]
    fn messages_cost_their_way_and_their_bytes() {
        let cluster = Cluster { per_node: 4, inside: LINK, between: Link { latency: 1e-4, bandwidth: 1e8 } };
        assert_eq!((cluster.latency(1), cluster.latency(4)), (0.0, 2e-5));
        assert!((cluster.latency(16) - (2e-5 + 2e-4)).abs() < 1e-12, "two ways inside and two between");
        // Half of a megabyte there, half of it back.
        assert!((cluster.sum(2, 1e6) - (2e-5 + 1e-3)).abs() < 1e-12);
        assert!((cluster.gather(4, 1e6) - (2e-5 + 3e-3)).abs() < 1e-12);
        assert_eq!(
            (cluster.small_sum(4, 1e5), cluster.small_sum(4, 1e6)),
            (cluster.gather(4, 1e5), cluster.sum(4, 1e6))
        );
        assert!((cluster.gather(8, 1e6) - (2e-5 + 1e-4 + 7e-2)).abs() < 1e-12, "through the narrowest wire");
    }

    #[test]
    fn what_is_hidden_costs_nothing_and_what_is_not_grows() {
        let cluster = Cluster { per_node: 256, inside: LINK, between: LINK };
        let alone = work().on(&cluster, 1, true);
        assert_eq!(alone.total(), 0.1);
        let two = work().on(&cluster, 2, true);
        // 4 MB in 4 ms behind 67 ms of backward: the last bucket is what is left, here all of it.
        assert!((two.gradients - cluster.sum(2, 4e6)).abs() < 1e-12);
        let slow = Cluster { inside: Link { bandwidth: 1e7, ..LINK }, ..cluster };
        assert!(
            (work().on(&slow, 2, true).gradients - (slow.sum(2, 4e6) - 0.1 * BACKWARD).max(slow.sum(2, 4e6))).abs()
                < 1e-12
        );
        assert_eq!(work().on(&cluster, 2, false).batch_norm, 0.0);
        let many = work().on(&cluster, 256, true);
        assert!((many.loss / two.loss - 255.0).abs() < 1e-9, "similarities with all others");
        assert!(many.total() > two.total() && two.total() > alone.total());
    }
}
