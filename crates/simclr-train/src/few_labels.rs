//! Learning from some labels: which pictures they are of, and what came of several draws of them.

use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use serde_json::{Value, json};
use simclr_data::{Labels, Pictures, Subset};
use simclr_eval::Confusion;

use crate::Usage;
use crate::config::Config;
use crate::data_sets::Place;
use crate::evaluate::{KnnSets, add_classes};
use crate::output::Output;

/// The labelled pictures of a data set.
pub(crate) struct Splits {
    /// Those that may be learned from.
    pub(crate) train: Arc<dyn Pictures>,
    /// Those that are asked about at the end.
    pub(crate) test: Arc<dyn Pictures>,
}

impl Splits {
    /// Of the data that `settings` name; decoded pictures are kept in `cache`.
    ///
    /// # Errors
    /// If the data has no labels, or its files are not right.
    pub(crate) fn open(settings: &Config, cache: Option<&Path>, output: &Output) -> anyhow::Result<Self> {
        let (data, place) = (&settings.data, Place::of(settings, cache));
        let train = data.train(place, settings.subset, output)?.pictures;
        match KnnSets::last(&train, data.test(place, None, output)?, settings, output)? {
            Some(KnnSets { bank: train, queries: test, .. }) => Ok(Self { train, test }),
            None => bail!("{data} has no labels, and a classifier learns them"),
        }
    }
}

/// What `--labels` means; the first tenth where nothing was typed.
///
/// # Errors
/// [`Usage`] if it means nothing.
pub(crate) fn labels(typed: Option<&str>) -> Result<Labels, Usage> {
    typed.unwrap_or("10%").parse().map_err(|error| Usage(format!("--{error}")))
}

/// What was typed of a training, checked.
///
/// # Errors
/// [`Usage`] naming the flag whose number cannot be.
pub(crate) fn check_training(
    (epochs, batch): (u64, usize),
    (learning_rate, weight_decay): (f64, f64),
    subset: Option<usize>,
) -> Result<(), Usage> {
    if batch == 0 {
        return Err(Usage("--batch is 0, expected at least 1".into()));
    }
    Config { epochs, learning_rate, weight_decay, subset, ..Config::default() }.validate()
}

/// Training pictures whose labels are learned from.
pub(crate) struct Draw {
    pub(crate) seed: u64,
    pub(crate) train: Arc<dyn Pictures>,
    /// Where they are in the training split.
    pub(crate) chosen: Vec<usize>,
}

/// `count` draws of labels of `train`, from `seed` on.
///
/// # Errors
/// [`Usage`] if `train` has not those labels, or no draw is asked for.
pub(crate) fn draws(train: &Arc<dyn Pictures>, labels: Labels, (count, seed): (u64, u64)) -> anyhow::Result<Vec<Draw>> {
    if count == 0 {
        return Err(Usage("--draws is 0, expected at least 1".into()).into());
    }
    let draw = |seed| -> anyhow::Result<Draw> {
        let chosen = labels.choose(train.as_ref(), seed).map_err(|error| Usage(format!("--{error}")))?;
        Ok(Draw { seed, train: Arc::new(Subset::of(train.clone(), chosen.clone())?), chosen })
    };
    (0..count).map(|i| draw(seed.wrapping_add(i))).collect()
}

/// The tests of all draws together.
pub(crate) struct Tests<'a>(pub(crate) Vec<&'a Confusion>);

impl Tests<'_> {
    /// Mean and standard deviation over the draws (0 of one) of top-1 and top-5.
    fn accuracies(&self) -> [(f64, f64); 2] {
        [Confusion::top1, Confusion::top5].map(|accuracy| {
            let values: Vec<f64> = self.0.iter().map(|confusion| accuracy(confusion)).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
        })
    }

    /// Top-1 and top-5 as a table shows them.
    pub(crate) fn cells(&self) -> [String; 2] {
        self.accuracies().map(|(mean, std)| match self.0.len() {
            1 => format!("{:.2} %", 100.0 * mean),
            _ => format!("{:.2} ± {:.2} %", 100.0 * mean, 100.0 * std),
        })
    }

    /// As `--json` prints them: means over the draws, and the confusion of all of them together.
    pub(crate) fn to_json(&self, classes: &[String]) -> Value {
        let [(top1, top1_std), (top5, top5_std)] = self.accuracies();
        let mut confusion = Confusion::new(classes.len());
        self.0.iter().for_each(|one| confusion.merge(one));
        let mut object = json!({
            "top1": top1, "top1_std": top1_std, "top5": top5, "top5_std": top5_std,
            "queries": self.0.first().map(|confusion| confusion.total()),
        });
        add_classes(&mut object, &confusion, classes);
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use simclr_data::{Shapes, Split};

    #[test]
    fn draws_follow_their_seeds() {
        let train: Arc<dyn Pictures> = Arc::new(Shapes::new(0, Split::Train, 200));
        let few = draws(&train, Labels::PerClass(2), (3, u64::MAX)).unwrap();
        assert_eq!(few.iter().map(|draw| draw.seed).collect::<Vec<_>>(), [u64::MAX, 0, 1]);
        assert!(few.iter().all(|draw| draw.train.len() == 20 && draw.train.label(3) == train.label(draw.chosen[3])));
        assert!(few[0].chosen != few[1].chosen && few[1].chosen != few[2].chosen);
        for (labels, count, expected) in [
            (Labels::First(0.1), 0, "--draws is 0, expected at least 1"),
            (Labels::PerClass(99), 1, "--labels 99-per-class of shapes: found "),
        ] {
            let error = draws(&train, labels, (count, 0)).err().unwrap();
            assert!(error.is::<Usage>() && error.to_string().starts_with(expected), "{error}");
        }
        assert_eq!(labels(None).unwrap(), Labels::First(0.1));
        assert!(labels(Some("none")).unwrap_err().to_string().starts_with("--labels is none, expected a share"));
    }

    #[test]
    fn several_tests_have_a_mean_and_a_deviation() {
        let of = |labels: &[u32]| {
            let scores = Tensor::new(&[[1f32, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], &Device::Cpu).unwrap();
            Confusion::of_scores(&scores, labels).unwrap()
        };
        let (all, half) = (of(&[0, 0, 1, 1]), of(&[0, 1, 1, 0]));
        assert_eq!(Tests(vec![&half]).cells(), ["50.00 %", "100.00 %"]);
        assert_eq!(Tests(vec![&all, &half]).cells(), ["75.00 ± 35.36 %", "100.00 ± 0.00 %"]);
        let object = Tests(vec![&all, &half]).to_json(&["a".to_owned(), "b".to_owned()]);
        assert_eq!((&object["top1"], &object["queries"]), (&0.75.into(), &4.into()));
        assert_eq!(object["confusion"], json!([[3, 1], [1, 3]]));
    }
}
