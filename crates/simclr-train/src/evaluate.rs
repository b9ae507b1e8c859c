//! kNN of features: while training on held-out labels, and once at the end on the test split.

use std::sync::Arc;

use candle_core::Tensor;
use simclr_data::{Pictures, Subset, TestTransform};
use simclr_eval::{Features, KnnProtocol, KnnResult};
use simclr_model::Model;

use crate::config::Config;
use crate::output::Output;
use crate::progress::Progress;

/// Pictures that go through the encoder at once.
const BATCH: usize = 128;

/// Most pictures of the bank and of the queries while training: enough to choose by, cheap enough to repeat.
const HELD_OUT_BANK: usize = 5_000;
const HELD_OUT_QUERIES: usize = 1_000;

/// The two halves of a kNN test.
pub(crate) struct KnnSets {
    pub(crate) bank: Arc<dyn Pictures>,
    pub(crate) queries: Arc<dyn Pictures>,
    /// How both become numbers.
    pub(crate) transform: TestTransform,
}

impl KnnSets {
    /// The test that training may look at: the end of the training split asks, its beginning answers.
    pub(crate) fn held_out(train: &Arc<dyn Pictures>, config: &Config) -> anyhow::Result<Self> {
        let len = train.len();
        let held_out = ((len as f64 * config.holdout).round() as usize).clamp(1, len - 1);
        let rest = len - held_out;
        Ok(Self {
            bank: Arc::new(Subset::range(train.clone(), 0..rest.min(HELD_OUT_BANK))?),
            queries: Arc::new(Subset::range(train.clone(), rest..rest + held_out.min(HELD_OUT_QUERIES))?),
            transform: config.test_transform()?,
        })
    }

    /// The course's protocol with the user's numbers and the literature's, with no more neighbours than the bank has.
    pub(crate) fn protocols(&self, k: usize, temperature: f64, output: &Output) -> [KnnProtocol; 2] {
        let bank = self.bank.len();
        let course = KnnProtocol { k, temperature: Some(temperature) };
        [course, KnnProtocol::LITERATURE].map(|protocol| {
            if protocol.k > bank {
                output.say(format!("kNN with k = {bank} in place of {}: the bank has no more pictures", protocol.k));
            }
            KnnProtocol { k: protocol.k.min(bank), ..protocol }
        })
    }

    /// kNN of what `encode` makes of the pictures (`[n, 3, h, w]` to `[n, d]`).
    pub(crate) fn test(
        &self,
        encode: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
        protocols: &[KnnProtocol],
        title: &str,
        output: &Output,
    ) -> anyhow::Result<Vec<KnnResult>> {
        let mut progress = Progress::new(output, title, (self.bank.len() + self.queries.len()) as u64, 0);
        let mut features = |set: &dyn Pictures| -> anyhow::Result<Features> {
            Ok(simclr_eval::embed(&encode, set, &self.transform, BATCH, |count| {
                progress.advance(count as u64, "pictures")
            })?)
        };
        let (bank, queries) = (features(self.bank.as_ref())?, features(self.queries.as_ref())?);
        Ok(simclr_eval::knn(&bank, &queries, self.bank.classes().len(), protocols)?)
    }

    /// kNN of an encoder's features.
    pub(crate) fn test_model(
        &self,
        model: &Model,
        protocols: &[KnnProtocol],
        title: &str,
        output: &Output,
    ) -> anyhow::Result<Vec<KnnResult>> {
        let encoder = model.freeze();
        self.test(|pictures| encoder.features(pictures), protocols, title, output)
    }

    /// kNN of the pixels themselves, normalised like the encoder's input: the floor.
    pub(crate) fn test_raw_pixels(&self, protocols: &[KnnProtocol], output: &Output) -> anyhow::Result<Vec<KnnResult>> {
        self.test(simclr_eval::raw_pixels, protocols, "raw pixels", output)
    }
}

/// The pictures of one set as the encoder sees them at evaluation, for callers that time it.
pub(crate) fn sample_batch(set: &dyn Pictures, transform: &TestTransform) -> anyhow::Result<Tensor> {
    let batch = simclr_data::batches(set, transform, BATCH.min(set.len())).next();
    Ok(batch.ok_or_else(|| anyhow::anyhow!("{} has no pictures", set.name()))??.pictures)
}

/// How a protocol is written in a table.
pub(crate) fn describe(protocol: &KnnProtocol) -> String {
    match protocol.temperature {
        Some(t) => format!("kNN, k = {}, votes exp(sim / {t})", protocol.k),
        None => format!("kNN, k = {}, equal votes", protocol.k),
    }
}

/// A result as `--json` prints it.
pub(crate) fn to_json(result: &KnnResult) -> serde_json::Value {
    let KnnResult { protocol, top1, top5, bank, queries } = result;
    serde_json::json!({
        "top1": top1, "top5": top5, "k": protocol.k, "temperature": protocol.temperature, "bank": bank, "queries": queries,
    })
}
