//! What a trained encoder makes of pictures, beside what a random one makes of them: all that a report shows of features.

mod factors;
mod gallery;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use simclr_data::{Labels, Pictures};
use simclr_eval::{Confusion, Features, KnnProtocol, KnnResult, fits, sweep};
use simclr_model::Model;
use simclr_ops::{Context, l2_normalize};

use crate::config::Config;
use crate::evaluate::{KnnSets, frozen};
use crate::imagenet::ImageNet;
use crate::output::Output;
use crate::progress::Progress;
use crate::ranks::Ranks;
pub(crate) use factors::{Factor, Measure};
pub(crate) use gallery::{Gallery, Map, Near, View};

/// The share of the labelled training pictures whose labels the linear classifier learns from: the course's.
const LABELS: f64 = 0.1;

/// Everything that is asked of the features.
pub(crate) struct Study {
    /// SHA-256 of the encoder that it is about.
    pub(crate) encoder_sha256: String,
    /// How they classify; none without labels.
    pub(crate) judged: Option<Judged>,
    /// What can be read off them of what the pictures were drawn from; of the built-in set alone.
    pub(crate) factors: Vec<Factor>,
    /// Pictures that are near one another; none where they could not be had.
    pub(crate) gallery: Option<Gallery>,
}

/// How features classify pictures that they were not compared with.
pub(crate) struct Judged {
    /// Which pictures are asked about: `test`, or `held-out` where there is no test split.
    pub(crate) asked: &'static str,
    pub(crate) classes: Vec<String>,
    /// One result per protocol, the course's first.
    pub(crate) knn: Compared<Vec<KnnResult>>,
    pub(crate) linear: Compared<Option<Linear>>,
}

/// The same of several kinds of features.
pub(crate) struct Compared<T> {
    /// The pixels themselves: what can be had without an encoder.
    pub(crate) raw_pixels: T,
    /// The encoder as training began, had it begun with nothing: what the architecture alone gives.
    pub(crate) random: T,
    /// An encoder that somebody else trained, if one was given.
    pub(crate) imagenet: Option<T>,
    pub(crate) trained: T,
}

impl<T> Compared<T> {
    /// With their names.
    pub(crate) fn named(&self) -> Vec<(&'static str, &T)> {
        let mut all = vec![("raw pixels", &self.raw_pixels), ("random encoder", &self.random)];
        all.extend(self.imagenet.as_ref().map(|imagenet| (ImageNet::NAME, imagenet)));
        all.push(("trained", &self.trained));
        all
    }
}

/// A logistic regression on the features.
pub(crate) struct Linear {
    /// Labels that it learned from.
    pub(crate) labels: usize,
    pub(crate) confusion: Confusion,
}

/// The features of one encoder, as they are and not of unit length.
#[derive(Clone)]
struct Encoded {
    bank: Features,
    queries: Features,
}

impl Study {
    /// Of a model and the pictures of a run; the test split is looked at here, once. Of several processes this is the first's work, and
    /// the others [`Self::assist`].
    ///
    /// # Errors
    /// What reading and encoding report, and if the encoder is not the same afterwards.
    pub(crate) fn of(
        model: &Model,
        train: &Arc<dyn Pictures>,
        test: Option<Arc<dyn Pictures>>,
        imagenet: Option<&ImageNet>,
        (config, device): (&Config, &Device),
        ranks: &Ranks,
        output: &Output,
    ) -> anyhow::Result<Self> {
        let asked = if test.is_some() { "test" } else { "held-out" };
        let random = Model::new(&config.model()?, config.seed, DType::F32, device, &config.context())?;
        let Some(sets) = KnnSets::last(train, test, config, output)? else {
            let gallery = or_none("map", Gallery::unlabelled(train, config, [&random, model], output), output);
            return Ok(Self { encoder_sha256: model.fingerprint()?, judged: None, factors: Vec::new(), gallery });
        };
        let sets = sets.over(ranks);
        let protocols = sets.protocols(config.knn_k, config.knn_temperature, output);
        let most = most_labels(model.feature_width(), sets.bank.classes().len());
        let judge = |encoded: Encoded, title: &str| sets.judged(encoded, &protocols, (config, most), title, output);
        let raw = judge(sets.alone().encoded(simclr_eval::raw_pixels, "raw pixels", output)?, "raw pixels")?;
        let (knn, linear) = match imagenet {
            None => (None, None),
            Some(ImageNet { model, transform }) => {
                let sets = sets.seen_as(transform.clone()).alone();
                let (knn, linear) = judge(sets.of_model(model, "ImageNet", output)?, "ImageNet")?;
                (Some(knn), Some(linear))
            }
        };
        let before = sets.of_model(&random, "random", output)?;
        let random = judge(before.clone(), "random")?;
        let after = sets.of_model(model, "trained", output)?;
        let trained = judge(after.clone(), "trained")?;
        let gallery = or_none("map", Gallery::labelled(&sets, [&before, &after], output), output);
        let factors =
            or_none("probes", factors::of(&sets, config, [&before, &after], output), output).unwrap_or_default();
        let judged = Judged {
            asked,
            classes: sets.bank.classes().to_vec(),
            knn: Compared { raw_pixels: raw.0, random: random.0, imagenet: knn, trained: trained.0 },
            linear: Compared { raw_pixels: raw.1, random: random.1, imagenet: linear, trained: trained.1 },
        };
        Ok(Self { encoder_sha256: model.fingerprint()?, judged: Some(judged), factors, gallery })
    }

    /// Encodes this process's share of what the first of them asks about in [`Self::of`].
    ///
    /// # Errors
    /// As [`Self::of`].
    pub(crate) fn assist(
        model: &Model,
        train: &Arc<dyn Pictures>,
        test: Option<Arc<dyn Pictures>>,
        (config, device): (&Config, &Device),
        ranks: &Ranks,
        output: &Output,
    ) -> anyhow::Result<()> {
        let random = Model::new(&config.model()?, config.seed, DType::F32, device, &config.context())?;
        let Some(sets) = KnnSets::last(train, test, config, output)? else { return Ok(()) };
        let sets = sets.over(ranks);
        for (model, title) in [(&random, "random"), (model, "trained")] {
            sets.of_model(model, title, output)?;
        }
        Ok(())
    }
}

impl KnnSets {
    fn of_model(&self, model: &Model, title: &str, output: &Output) -> anyhow::Result<Encoded> {
        frozen(model, title, output, |encoder| self.encoded(|x| encoder.features(x), title, output))
    }

    fn encoded(
        &self,
        encode: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
        title: &str,
        output: &Output,
    ) -> anyhow::Result<Encoded> {
        let (bank, queries) = self.encode(encode, title, output)?;
        Ok(Encoded { bank, queries })
    }

    /// kNN of features of unit length, and a linear classifier of features as they are.
    fn judged(
        &self,
        encoded: Encoded,
        protocols: &[KnnProtocol],
        (config, most): (&Config, usize),
        title: &str,
        output: &Output,
    ) -> anyhow::Result<(Vec<KnnResult>, Option<Linear>)> {
        let linear = or_none(
            &format!("linear classifier of {title}"),
            self.linear(&encoded, config, most, title, output),
            output,
        );
        // One after the other, and not both forms of both at once: of large pictures that is most of a machine's memory.
        let bank = encoded.bank.unit()?;
        drop(encoded.bank);
        let queries = encoded.queries.unit()?;
        drop(encoded.queries);
        Ok((self.judge(&bank, &queries, protocols)?, linear.flatten()))
    }

    /// None where it would take too long.
    fn linear(
        &self,
        encoded: &Encoded,
        config: &Config,
        most: usize,
        title: &str,
        output: &Output,
    ) -> anyhow::Result<Option<Linear>> {
        let mut chosen = Labels::First(LABELS).choose(self.bank.as_ref(), config.seed)?;
        chosen.truncate(most);
        if chosen.len() > 16 * most_labels(encoded.bank.vectors.dim(1)?, self.bank.classes().len()) {
            return Ok(None);
        }
        let rows: Vec<u32> = chosen.iter().map(|&row| row as u32).collect();
        let features = encoded.bank.vectors.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
        let labels: Vec<u32> = chosen.iter().map(|&row| encoded.bank.labels[row]).collect();
        let mut progress = Progress::new(output, &format!("linear, {title}"), fits() as u64, 0);
        let classes = self.bank.classes().len();
        let swept = sweep(&features, &labels, classes, config.seed, &mut || progress.advance(1, &[]))?;
        let scores = swept.classifier.scores(&encoded.queries.vectors)?;
        let confusion = Confusion::of_scores(&scores, &encoded.queries.labels)?;
        Ok(Some(Linear { labels: labels.len(), confusion }))
    }
}

/// Labels that a linear classifier learns from at most, so that the time of a step does not grow without end: as many as make so many
/// products.
fn most_labels(width: usize, classes: usize) -> usize {
    const PRODUCTS: usize = 300_000_000;
    (PRODUCTS / (width * classes.max(1)).max(1)).max(1)
}

/// What cannot be had is no reason to lose the rest: the run that is reported took hours.
fn or_none<T>(what: &str, found: anyhow::Result<T>, output: &Output) -> Option<T> {
    found.inspect_err(|error| output.say(format!("no {what}: {error}"))).ok()
}

/// Rows of unit length.
fn unit(rows: &Tensor) -> candle_core::Result<Tensor> {
    Ok(l2_normalize::forward(&Context::new(), rows).map_err(candle_core::Error::wrap)?.0)
}

impl Study {
    /// Adds what it found to the result of a run.
    pub(crate) fn add_to(&self, object: &mut Value) {
        object["encoder_sha256"] = json!(self.encoder_sha256);
        if let Some(Judged { linear, .. }) = &self.judged {
            for (name, linear) in linear.named() {
                let told = linear.as_ref().map(|Linear { labels, confusion }| {
                    json!({ "top1": confusion.top1(), "top5": confusion.top5(), "labels": labels, "queries": confusion.total() })
                });
                let key = name.replace(' ', "_").to_lowercase().replace("_encoder", "");
                object["linear"][key] = json!(told);
            }
        }
        for factor in &self.factors {
            let Factor { name, measure, random, trained, .. } = factor;
            let measure = if let Measure::R2 = measure { "r2" } else { "accuracy" };
            object["factors"][*name] = json!({ "measure": measure, "random": random, "trained": trained });
        }
    }
}
