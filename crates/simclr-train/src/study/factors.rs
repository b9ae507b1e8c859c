//! What can be read off features of the factors that pictures were drawn from.

use candle_core::Tensor;
use simclr_data::{Background, ShapeFactors, Split, Texture};
use simclr_eval::{r2, ridge};

use super::Encoded;
use crate::config::Config;
use crate::data_sets::DataSet;
use crate::evaluate::KnnSets;
use crate::output::Output;

/// Pictures that the probes learn from at most: enough for a line in as many directions as features have.
const MOST: usize = 4_000;

/// One factor and how well a linear probe reads it.
pub(crate) struct Factor {
    pub(crate) name: &'static str,
    pub(crate) meaning: &'static str,
    pub(crate) measure: Measure,
    /// By the features of a random encoder.
    pub(crate) random: f64,
    pub(crate) trained: f64,
}

/// What is measured of a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Measure {
    /// The share of test pictures that it tells right, of so many kinds.
    Accuracy { kinds: usize },
    /// The share of the variance of a number that it explains.
    R2,
}

/// A factor that is one of some kinds.
type Kind = (&'static str, &'static str, usize, fn(&ShapeFactors) -> usize);

const KINDS: [Kind; 3] = [
    ("figure", "Which of ten figures is shown: the class.", 10, |f| f.class as usize),
    ("texture", "How figures are filled: plain, striped or checked.", Texture::ALL.len(), |f| {
        Texture::ALL.iter().position(|texture| *texture == f.texture).unwrap_or(0)
    }),
    ("background", "What is behind them: plain, a gradient or clouds.", Background::ALL.len(), |f| {
        Background::ALL.iter().position(|background| *background == f.background).unwrap_or(0)
    }),
];

/// A factor that is a number.
type Number = (&'static str, &'static str, fn(&ShapeFactors) -> f64);

const NUMBERS: [Number; 7] = [
    ("hue", "The hue of the figures: colour jitter changes it from view to view.", |f| f.hue),
    ("size", "The radius of the figures: random crops change it.", |f| f.size),
    ("noise", "How noisy the picture is.", |f| f.noise),
    ("place, x", "Where the main figure is from left to right: crops and flips change it.", |f| f.place[0]),
    ("place, y", "Where it is from top to bottom: crops change it.", |f| f.place[1]),
    ("rotation, sine", "How far the main figure is turned; flips change it.", |f| {
        (std::f64::consts::TAU * f.rotation).sin()
    }),
    ("rotation, cosine", "The other half of how far it is turned.", |f| (std::f64::consts::TAU * f.rotation).cos()),
];

/// Of a random and of the trained encoder; nothing of pictures whose factors are not known.
pub(super) fn of(
    sets: &KnnSets,
    config: &Config,
    encoders: [&Encoded; 2],
    output: &Output,
) -> anyhow::Result<Vec<Factor>> {
    let (DataSet::Shapes, true) = (&config.data, sets.bank.len() >= 10 && sets.queries.len() >= 2) else {
        return Ok(Vec::new());
    };
    output.say("probing the features for what the pictures were drawn from");
    let train = DataSet::shapes(Split::Train, sets.bank.len().min(MOST));
    let test = DataSet::shapes(Split::Test, sets.queries.len());
    let all = |set: &simclr_data::Shapes| -> Vec<ShapeFactors> {
        (0..simclr_data::Pictures::len(set)).map(|index| set.factors(index)).collect()
    };
    let [train, test] = [all(&train), all(&test)];
    let rows: Vec<(Tensor, &Tensor)> = encoders
        .iter()
        .map(|encoded| Ok((encoded.bank.vectors.narrow(0, 0, train.len())?, &encoded.queries.vectors)))
        .collect::<candle_core::Result<_>>()?;

    // A column of ones and zeros for every kind; the test picture is of the kind whose column comes out largest.
    let mut targets: Vec<Vec<f64>> = NUMBERS.map(|(.., number)| train.iter().map(number).collect()).into();
    for (.., kinds, kind) in KINDS {
        targets.extend((0..kinds).map(|wanted| train.iter().map(|f| f64::from(kind(f) == wanted)).collect()));
    }
    let scores = |(rows, asked): &(Tensor, &Tensor)| -> anyhow::Result<Vec<f64>> {
        let said = ridge(rows, &targets, asked)?;
        let (numbers, mut columns) = said.split_at(NUMBERS.len());
        let mut scores = Vec::new();
        for (.., kinds, kind) in KINDS {
            let (own, others) = columns.split_at(kinds);
            columns = others;
            let largest = |row: usize| (0..kinds).rev().max_by(|&a, &b| own[a][row].total_cmp(&own[b][row]));
            let right = test.iter().enumerate().filter(|&(row, f)| largest(row) == Some(kind(f))).count();
            scores.push(right as f64 / test.len() as f64);
        }
        for ((.., number), said) in NUMBERS.iter().zip(numbers) {
            scores.push(r2(said, &test.iter().map(number).collect::<Vec<_>>()));
        }
        Ok(scores)
    };
    let kinds = KINDS.iter().map(|&(name, meaning, kinds, _)| (name, meaning, Measure::Accuracy { kinds }));
    let names = kinds.chain(NUMBERS.iter().map(|&(name, meaning, _)| (name, meaning, Measure::R2)));
    let (random, trained) = (scores(&rows[0])?, scores(&rows[1])?);
    let factor = |((name, meaning, measure), (random, trained))| Factor { name, meaning, measure, random, trained };
    Ok(names.zip(random.into_iter().zip(trained)).map(factor).collect())
}
