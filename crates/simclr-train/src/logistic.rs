//! Linear evaluation by logistic regression on features that are made once: the fast form.

use std::sync::Arc;

use anyhow::Context as _;
use candle_core::Tensor;
use serde_json::{Value, json};
use simclr_data::{Labels, Pictures, TestTransform};
use simclr_eval::{Confusion, Features, Swept, fits, raw_pixels, sweep};
use simclr_model::Model;

use crate::Usage;
use crate::config::Config;
use crate::evaluate::{BATCH, frozen};
use crate::few_labels::{self, Draw, Tests};
use crate::imagenet::ImageNet;
use crate::linear::Encoder;
use crate::output::Output;
use crate::progress::Progress;

/// The pictures of a linear evaluation.
pub(crate) struct LogisticTest {
    draws: Vec<Draw>,
    test: Arc<dyn Pictures>,
    transform: TestTransform,
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
        if draws > 1 && matches!(labels, Labels::First(_)) {
            let message =
                format!("--draws is {draws}, but --labels {labels} are the same in every draw: give N-per-class");
            return Err(Usage(message).into());
        }
        let draws = few_labels::draws(train, labels, (draws, seed))?;
        Ok(Self { draws, test, transform: settings.test_transform()? })
    }

    /// Where the labelled pictures of every draw are in the training split.
    pub(crate) fn chosen(&self) -> Vec<&[usize]> {
        self.draws.iter().map(|draw| draw.chosen.as_slice()).collect()
    }

    /// The features of one encoder; it is proven to be the same afterwards, to the bit.
    pub(crate) fn of(&self, encoder: Encoder<'_>, output: &Output) -> anyhow::Result<LogisticResult> {
        let encoded = |model: &Model, title: &str, transform: &TestTransform| {
            frozen(model, title, output, |encoder| self.run(|x| encoder.features(x), transform, title, output))
        };
        match encoder {
            Encoder::RawPixels => self.run(raw_pixels, &self.transform, "raw pixels", output),
            Encoder::Frozen(model, title) => encoded(model, title, &self.transform),
            Encoder::ImageNet(ImageNet { model, transform }) => encoded(model, "ImageNet", transform),
        }
    }

    fn run(
        &self,
        encode: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
        transform: &TestTransform,
        title: &str,
        output: &Output,
    ) -> anyhow::Result<LogisticResult> {
        let classes = self.test.classes().len();
        let labelled: usize = self.draws.iter().map(|draw| draw.train.len()).sum();
        let mut progress = Progress::new(output, title, (labelled + self.test.len()) as u64, 0);
        let mut features = |set: &dyn Pictures| -> anyhow::Result<Features> {
            Ok(simclr_eval::encode(&encode, set, transform, BATCH, |count| progress.advance(count as u64, &[]))?)
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
    /// Top-1 and top-5 as a table shows them.
    pub(crate) fn cells(&self) -> [String; 2] {
        self.tests().cells()
    }

    /// A result as `--json` prints it.
    pub(crate) fn to_json(&self, classes: &[String]) -> Value {
        let draws: Vec<Value> = self.draws.iter().map(|(swept, one)| {
            let tried: Vec<Value> =
                swept.tried.iter().map(|tried| json!({ "c": tried.strength, "held_out_loss": tried.loss, "held_out_top1": tried.top1 })).collect();
            json!({ "top1": one.top1(), "top5": one.top5(), "c": swept.strength, "iterations": swept.classifier.iterations, "tried": tried })
        }).collect();
        let mut object = self.tests().to_json(classes);
        object["labels"] = json!(self.labels);
        object["draws"] = json!(draws);
        object
    }

    fn tests(&self) -> Tests<'_> {
        Tests(self.draws.iter().map(|(_, confusion)| confusion).collect())
    }
}
