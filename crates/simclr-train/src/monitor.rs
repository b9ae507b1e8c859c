//! The kNN test that a run takes while it trains, and by which its best checkpoint is chosen.

use std::sync::Arc;

use anyhow::Context as _;
use simclr_data::Pictures;
use simclr_eval::{KnnProtocol, KnnResult, Spread, spread};
use simclr_model::Model;

use crate::config::Config;
use crate::evaluate::KnnSets;
use crate::output::Output;
use crate::ranks::Ranks;

/// Which pictures are asked about, how, and how often.
pub(crate) struct Monitor {
    /// None if there are no labels.
    sets: Option<KnnSets>,
    protocol: KnnProtocol,
    /// Epochs between two tests; 0 for none.
    every: u64,
    /// Whether this is the course's test, on the test split and in the course's words.
    is_course: bool,
}

/// What a test showed.
pub(crate) struct Seen {
    pub(crate) knn: KnnResult,
    /// How much of their space the features of the queries fill.
    pub(crate) spread: Spread,
}

impl Monitor {
    /// The end of the training split asks, its beginning answers: the test split stays unseen.
    ///
    /// Without labels there is no test, and `output` hears so.
    pub(crate) fn held_out(config: &Config, train: &Arc<dyn Pictures>, output: &Output) -> anyhow::Result<Self> {
        let sets = KnnSets::held_out(train, config)?;
        if sets.is_none() {
            output.say(format!("{} has no labels: the loss is all there is to follow", config.data));
        }
        Ok(Self::new(config, sets, config.knn_every, false))
    }

    /// The course's: the whole training split answers the test split after every epoch, and so the best checkpoint is chosen
    /// on the test split.
    pub(crate) fn course(config: &Config, bank: Arc<dyn Pictures>, queries: Arc<dyn Pictures>) -> anyhow::Result<Self> {
        Ok(Self::new(config, Some(KnnSets::new(bank, queries, config.test_transform()?)), 1, true))
    }

    fn new(config: &Config, sets: Option<KnnSets>, every: u64, is_course: bool) -> Self {
        let protocol = KnnProtocol { k: config.knn_k, temperature: Some(config.knn_temperature) };
        let protocol = sets.as_ref().map_or(protocol, |sets| sets.fitting(protocol));
        Self { sets, protocol, every, is_course }
    }

    /// The same, the work of all processes.
    #[must_use]
    pub(crate) fn over(self, ranks: &Ranks) -> Self {
        Self { sets: self.sets.map(|sets| sets.over(ranks)), ..self }
    }

    /// Whether a test is due after `epoch` of `epochs` (0: before the first).
    pub(crate) fn is_due(&self, epoch: u64, epochs: u64) -> bool {
        match epoch {
            _ if self.every == 0 || self.sets.is_none() => false,
            0 => !self.is_course,
            _ => epoch == epochs || epoch.is_multiple_of(self.every),
        }
    }

    /// Pictures that are encoded in all tests of a run.
    pub(crate) fn pictures_in_all(&self, epochs: u64) -> usize {
        let tests = (0..=epochs).filter(|&epoch| self.is_due(epoch, epochs)).count();
        tests * self.sets.as_ref().map_or(0, |sets| sets.bank.len() + sets.queries.len())
    }

    /// Tests the model after `epoch` and says how it went.
    ///
    /// # Errors
    /// If there is nothing to test with: [`Self::is_due`] knows; if a picture cannot be had.
    pub(crate) fn test(&self, model: &Model, epoch: u64, epochs: u64, output: &Output) -> anyhow::Result<Seen> {
        let sets = self.sets.as_ref().context("there are no labels to test with")?;
        let title = if self.is_course { "kNN test" } else { "held-out kNN" };
        let encoder = model.freeze();
        let (bank, queries) = sets.embed(|pictures| encoder.features(pictures), title, output)?;
        let knn = sets.judge(&bank, &queries, &[self.protocol])?.swap_remove(0);
        let (top1, top5) = (100.0 * knn.top1, 100.0 * knn.top5);
        output.say(match epoch {
            _ if self.is_course => format!("Test Epoch: [{epoch}/{epochs}] Acc@1:{top1:.2}% Acc@5:{top5:.2}%"),
            0 => format!("kNN on held-out training labels, before training: {top1:.2} %"),
            _ => format!("kNN on held-out training labels, epoch {epoch}: {top1:.2} %"),
        });
        Ok(Seen { knn, spread: spread(&queries.vectors)? })
    }
}
