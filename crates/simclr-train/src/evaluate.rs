//! kNN of features: while training on held-out labels, and once at the end on the test split.

use std::ops::Range;
use std::sync::Arc;

use anyhow::ensure;
use candle_core::Tensor;
use simclr_data::{DataError, Pictures, Subset, TestTransform};
use simclr_eval::{Confusion, Features, KnnProtocol, KnnResult};
use simclr_model::{FrozenEncoder, Model};

use crate::config::Config;
use crate::output::Output;
use crate::progress::Progress;
use crate::ranks::Ranks;

/// Pictures that go through the encoder at once.
pub(crate) const BATCH: usize = 128;

/// Most pictures of the bank and of the queries while training: enough to choose by, cheap enough to repeat.
const HELD_OUT_BANK: usize = 5_000;
const HELD_OUT_QUERIES: usize = 1_000;

/// The two halves of a kNN test, and who works on it.
pub(crate) struct KnnSets {
    pub(crate) bank: Arc<dyn Pictures>,
    pub(crate) queries: Arc<dyn Pictures>,
    /// How both become numbers.
    pub(crate) transform: TestTransform,
    /// The processes that encode them, each a share.
    ranks: Ranks,
}

impl KnnSets {
    /// These sets, the work of one process.
    pub(crate) fn new(bank: Arc<dyn Pictures>, queries: Arc<dyn Pictures>, transform: TestTransform) -> Self {
        Self { bank, queries, transform, ranks: Ranks::alone() }
    }

    /// The same, the work of all of `ranks`.
    #[must_use]
    pub(crate) fn over(self, ranks: &Ranks) -> Self {
        Self { ranks: ranks.clone(), ..self }
    }

    /// The same pictures for an encoder that sees them otherwise.
    pub(crate) fn seen_as(&self, transform: TestTransform) -> Self {
        Self { bank: self.bank.clone(), queries: self.queries.clone(), transform, ranks: self.ranks.clone() }
    }

    /// The same, the work of this process.
    pub(crate) fn alone(&self) -> Self {
        self.seen_as(self.transform.clone()).over(&Ranks::alone())
    }

    /// The test that training may look at: the end of the training pictures with labels asks, their beginning answers. None if
    /// no two of them have labels.
    pub(crate) fn held_out(train: &Arc<dyn Pictures>, config: &Config) -> anyhow::Result<Option<Self>> {
        Self::halves(train, config, HELD_OUT_BANK, HELD_OUT_QUERIES)
    }

    /// The test at the end: the whole test split asks the training pictures with labels. Where there is no test split, the held-out
    /// end of the training split asks, all of it. None if there are no labels.
    pub(crate) fn last(
        train: &Arc<dyn Pictures>,
        test: Option<Arc<dyn Pictures>>,
        config: &Config,
        output: &Output,
    ) -> anyhow::Result<Option<Self>> {
        let Some(test) = test else {
            let sets = Self::halves(train, config, usize::MAX, usize::MAX)?;
            if sets.is_some() {
                output.say(format!(
                    "{} has no test split: the held-out end of its training split is asked about",
                    config.data
                ));
            }
            return Ok(sets);
        };
        let transform = config.test_transform()?;
        Ok(labelled(train)?.zip(labelled(&test)?).map(|(bank, queries)| Self::new(bank, queries, transform)))
    }

    fn halves(
        train: &Arc<dyn Pictures>,
        config: &Config,
        most_bank: usize,
        most_queries: usize,
    ) -> anyhow::Result<Option<Self>> {
        let Some(train) = labelled(train)?.filter(|train| train.len() >= 2) else { return Ok(None) };
        let len = train.len();
        let held_out = ((len as f64 * config.holdout).round() as usize).clamp(1, len - 1);
        let rest = len - held_out;
        let bank = Arc::new(Subset::range(train.clone(), 0..rest.min(most_bank))?);
        let queries = Arc::new(Subset::range(train, rest..rest + held_out.min(most_queries))?);
        Ok(Some(Self::new(bank, queries, config.test_transform()?)))
    }

    /// The course's protocol with the user's numbers and the literature's, with no more neighbours than the bank has.
    pub(crate) fn protocols(&self, k: usize, temperature: f64, output: &Output) -> [KnnProtocol; 2] {
        let course = KnnProtocol { k, temperature: Some(temperature) };
        [course, KnnProtocol::LITERATURE].map(|protocol| {
            let fitting = self.fitting(protocol);
            if fitting != protocol {
                let (k, asked) = (fitting.k, protocol.k);
                output.say(format!("kNN with k = {k} in place of {asked}: the bank has no more pictures"));
            }
            fitting
        })
    }

    /// A protocol with no more neighbours than the bank has.
    pub(crate) fn fitting(&self, protocol: KnnProtocol) -> KnnProtocol {
        KnnProtocol { k: protocol.k.min(self.bank.len()), ..protocol }
    }

    /// kNN of what `encode` makes of the pictures (`[n, 3, h, w]` to `[n, d]`).
    pub(crate) fn test(
        &self,
        encode: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
        protocols: &[KnnProtocol],
        title: &str,
        output: &Output,
    ) -> anyhow::Result<Vec<KnnResult>> {
        let (bank, queries) = self.embed(encode, title, output)?;
        if self.ranks.is_alone() {
            return self.judge(&bank, &queries, protocols);
        }
        let own = self.ranks.share(queries.labels.len());
        let vectors = queries.vectors.narrow(0, own.start, own.len())?;
        let own = Features { vectors, labels: queries.labels[own].to_vec() };
        let results = if own.labels.is_empty() {
            self.judge(&bank, &queries, protocols)?
                .into_iter()
                .map(|result| KnnResult { confusion: Confusion::new(self.bank.classes().len()), ..result })
                .collect()
        } else {
            self.judge(&bank, &own, protocols)?
        };
        results.into_iter().map(|result| result.summed(|counts| self.ranks.sum(counts))).collect()
    }

    /// What `encode` makes of the bank and of the queries, in rows of unit length.
    pub(crate) fn embed(
        &self,
        encode: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
        title: &str,
        output: &Output,
    ) -> anyhow::Result<(Features, Features)> {
        let (bank, queries) = self.encode(encode, title, output)?;
        Ok((bank.unit()?, queries.unit()?))
    }

    /// What `encode` makes of the bank and of the queries, as it is.
    pub(crate) fn encode(
        &self,
        encode: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
        title: &str,
        output: &Output,
    ) -> anyhow::Result<(Features, Features)> {
        let (bank, queries) = (self.ranks.share(self.bank.len()), self.ranks.share(self.queries.len()));
        let mut progress = Progress::new(output, title, (bank.len() + queries.len()) as u64, 0);
        let mut features = |set: &Arc<dyn Pictures>, own: Range<usize>| -> anyhow::Result<Features> {
            let mut hear = |count: usize| progress.advance(count as u64, &[]);
            if self.ranks.is_alone() {
                return Ok(simclr_eval::encode(&encode, set.as_ref(), &self.transform, BATCH, &mut hear)?);
            }
            // Small sets have pictures for some processes only.
            let own = own.clone().next().map(|_| -> anyhow::Result<Features> {
                let share = Subset::range(set.clone(), own)?;
                Ok(simclr_eval::encode(&encode, &share, &self.transform, BATCH, &mut hear)?)
            });
            let own = self.ranks.agree(own.transpose())?;
            let vectors = self.ranks.some_rows(own.as_ref().map(|own| &own.vectors), set.len())?;
            let labels = self.ranks.gather(&own.map_or_else(Vec::new, |own| own.labels))?.concat();
            Ok(Features { vectors, labels })
        };
        Ok((features(&self.bank, bank)?, features(&self.queries, queries)?))
    }

    /// kNN of the features of the two.
    pub(crate) fn judge(
        &self,
        bank: &Features,
        queries: &Features,
        protocols: &[KnnProtocol],
    ) -> anyhow::Result<Vec<KnnResult>> {
        Ok(simclr_eval::knn(bank, queries, self.bank.classes().len(), protocols)?)
    }

    /// kNN of the pixels themselves, normalised like the encoder's input: the floor.
    pub(crate) fn test_raw_pixels(&self, protocols: &[KnnProtocol], output: &Output) -> anyhow::Result<Vec<KnnResult>> {
        self.test(simclr_eval::raw_pixels, protocols, "raw pixels", output)
    }
}

/// The pictures that have a label, if any has.
fn labelled(set: &Arc<dyn Pictures>) -> Result<Option<Arc<dyn Pictures>>, DataError> {
    match Subset::labelled(set.clone()) {
        // The set itself where that is the same: it has been named already.
        Ok(labelled) if labelled.len() == set.len() => Ok(Some(set.clone())),
        Ok(labelled) => Ok(Some(Arc::new(labelled))),
        Err(DataError::NoLabels { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The pictures of one set as the encoder sees them at evaluation, for callers that time it.
pub(crate) fn sample_batch(set: &dyn Pictures, transform: &TestTransform) -> anyhow::Result<Tensor> {
    let batch = simclr_data::batches(set, transform, BATCH.min(set.len())).next();
    Ok(batch.ok_or_else(|| anyhow::anyhow!("{} has no pictures", set.name()))??.pictures)
}

/// Lets `run` evaluate an encoder, and proves that it is the same afterwards, to the bit.
///
/// # Errors
/// If it is not, and what `run` reports.
pub(crate) fn frozen<R>(
    model: &Model,
    title: &str,
    output: &Output,
    run: impl FnOnce(&FrozenEncoder<'_>) -> anyhow::Result<R>,
) -> anyhow::Result<R> {
    let before = model.fingerprint()?;
    let result = run(&model.freeze())?;
    let after = model.fingerprint()?;
    ensure!(before == after, "the {title} encoder changed while it was evaluated: SHA-256 {before} became {after}");
    output.say(format!("{title} encoder: frozen, not a bit of it changed (SHA-256 {after})"));
    Ok(result)
}

/// How a protocol is written in a table.
pub(crate) fn describe(protocol: &KnnProtocol) -> String {
    match protocol.temperature {
        Some(t) => format!("kNN, k = {}, votes exp(sim / {t})", protocol.k),
        None => format!("kNN, k = {}, equal votes", protocol.k),
    }
}

/// Adds the accuracy of every class and the confusion matrix (row: the class, column: what it was taken for) to an object.
pub(crate) fn add_classes(object: &mut serde_json::Value, confusion: &Confusion, classes: &[String]) {
    let per_class: serde_json::Map<String, serde_json::Value> =
        classes.iter().cloned().zip(confusion.per_class().into_iter().map(|share| serde_json::json!(share))).collect();
    object["per_class"] = per_class.into();
    object["confusion"] = serde_json::json!(confusion.counts);
}

/// A result as `--json` prints it.
pub(crate) fn to_json(result: &KnnResult) -> serde_json::Value {
    let KnnResult { protocol, top1, top5, bank, queries, .. } = result;
    serde_json::json!({
        "top1": top1, "top5": top5, "k": protocol.k, "temperature": protocol.temperature, "bank": bank, "queries": queries,
    })
}
