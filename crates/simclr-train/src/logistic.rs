//! Linear evaluation by logistic regression on features that are made once: the fast form.

use std::sync::Arc;

use anyhow::Context as _;
use candle_core::Tensor;
use serde_json::{Value, json};
use simclr_data::{Labels, Pictures, Subset, TestTransform};
use simclr_eval::{Confusion, Features, Swept, fits, raw_pixels, sweep};
use simclr_model::Model;

use crate::Usage;
use crate::config::Config;
use crate::evaluate::{BATCH, add_classes, frozen};
use crate::output::Output;
use crate::progress::Progress;

/// The pictures of a linear evaluation.
pub(crate) struct LogisticTest {
    draws: Vec<Draw>,
    test: Arc<dyn Pictures>,
    transform: TestTransform,
}

/// Training pictures whose labels are learned from.
struct Draw {
    seed: u64,
    train: Arc<dyn Pictures>,
    /// Where they are in the training split.
    chosen: Vec<usize>,
}

/// What came of it, draw by draw.
pub(crate) struct LogisticResult {
    draws: Vec<(Swept, Confusion)>,
    labels: usize,
}

impl LogisticTest {
    /// With `draws` draws of labels of `train`, from `seed` on; pictures become numbers as in `settings`.
    ///
    /// # Errors
    /// [`Usage`] if `train` has not those labels, or there is only one way to draw them.
    pub(crate) fn new(
        train: &Arc<dyn Pictures>,
        labels: Labels,
        test: Arc<dyn Pictures>,
        settings: &Config,
        (draws, seed): (u64, u64),
    ) -> anyhow::Result<Self> {
        if draws == 0 {
            return Err(Usage("--draws is 0, expected at least 1".into()).into());
        }
        if draws > 1 && matches!(labels, Labels::First(_)) {
            let message =
                format!("--draws is {draws}, but --labels {labels} are the same in every draw: give N-per-class");
            return Err(Usage(message).into());
        }
        let draw = |seed| -> anyhow::Result<Draw> {
            let chosen = labels.choose(train.as_ref(), seed).map_err(|error| Usage(format!("--{error}")))?;
            Ok(Draw { seed, train: Arc::new(Subset::of(train.clone(), chosen.clone())?), chosen })
        };
        let draws = (seed..seed + draws).map(draw).collect::<anyhow::Result<_>>()?;
        Ok(Self { draws, test, transform: settings.test_transform()? })
    }

    /// Where the labelled pictures of every draw are in the training split.
    pub(crate) fn chosen(&self) -> Vec<&[usize]> {
        self.draws.iter().map(|draw| draw.chosen.as_slice()).collect()
    }

    /// The pixels themselves.
    pub(crate) fn raw_pixels(&self, output: &Output) -> anyhow::Result<LogisticResult> {
        self.run(raw_pixels, "raw pixels", output)
    }

    /// An encoder's features; it is proven to be the same afterwards, to the bit.
    pub(crate) fn encoder(&self, model: &Model, title: &str, output: &Output) -> anyhow::Result<LogisticResult> {
        frozen(model, title, output, |encoder| self.run(|pictures| encoder.features(pictures), title, output))
    }

    fn run(
        &self,
        encode: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
        title: &str,
        output: &Output,
    ) -> anyhow::Result<LogisticResult> {
        let classes = self.test.classes().len();
        let labelled: usize = self.draws.iter().map(|draw| draw.train.len()).sum();
        let mut progress = Progress::new(output, title, (labelled + self.test.len()) as u64, 0);
        let mut features = |set: &dyn Pictures| -> anyhow::Result<Features> {
            Ok(simclr_eval::encode(&encode, set, &self.transform, BATCH, |count| progress.advance(count as u64, &[]))?)
        };
        let test = features(self.test.as_ref())?;
        let train: Vec<Features> =
            self.draws.iter().map(|draw| features(draw.train.as_ref())).collect::<anyhow::Result<_>>()?;
        drop(progress);
        let mut progress = Progress::new(output, &format!("{title}, L-BFGS"), (self.draws.len() * fits()) as u64, 0);
        let fit = |(train, draw): (&Features, &Draw)| -> anyhow::Result<(Swept, Confusion)> {
            let mut hear = || progress.advance(1, &[]);
            let swept = sweep(&train.vectors, &train.labels, classes, draw.seed, &mut hear)?;
            let confusion = Confusion::of_scores(&swept.classifier.scores(&test.vectors)?, &test.labels)?;
            Ok((swept, confusion))
        };
        let draws: Vec<_> = train.iter().zip(&self.draws).map(fit).collect::<anyhow::Result<_>>()?;
        let labels = self.draws.first().context("an evaluation has a draw")?.train.len();
        Ok(LogisticResult { draws, labels })
    }
}

impl LogisticResult {
    /// Mean and standard deviation over the draws (0 of one) of top-1 and top-5.
    fn accuracies(&self) -> [(f64, f64); 2] {
        [Confusion::top1, Confusion::top5].map(|accuracy| {
            let values: Vec<f64> = self.draws.iter().map(|(_, confusion)| accuracy(confusion)).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
        })
    }

    /// Top-1 and top-5 as a table shows them.
    pub(crate) fn cells(&self) -> [String; 2] {
        self.accuracies().map(|(mean, std)| match self.draws.len() {
            1 => format!("{:.2} %", 100.0 * mean),
            _ => format!("{:.2} ± {:.2} %", 100.0 * mean, 100.0 * std),
        })
    }

    /// A result as `--json` prints it: means over the draws, and the confusion of all of them together.
    pub(crate) fn to_json(&self, classes: &[String]) -> Value {
        let [(top1, top1_std), (top5, top5_std)] = self.accuracies();
        let mut confusion = Confusion::new(classes.len());
        self.draws.iter().for_each(|(_, one)| confusion.merge(one));
        let draws: Vec<Value> = self.draws.iter().map(|(swept, one)| {
            let tried: Vec<Value> =
                swept.tried.iter().map(|tried| json!({ "c": tried.strength, "held_out_loss": tried.loss, "held_out_top1": tried.top1 })).collect();
            json!({ "top1": one.top1(), "top5": one.top5(), "c": swept.strength, "iterations": swept.classifier.iterations, "tried": tried })
        }).collect();
        let mut object = json!({
            "top1": top1, "top1_std": top1_std, "top5": top5, "top5_std": top5_std, "labels": self.labels,
            "queries": self.draws.first().map(|(_, confusion)| confusion.total()), "draws": draws,
        });
        add_classes(&mut object, &confusion, classes);
        object
    }
}
