//! What the features keep of what the pictures were drawn from, and what they forget.

use maud::{PreEscaped, html};

use super::definitions::linked;
use super::{Definition, Section};
use crate::figure::{Bar, Bars, Figure};
use crate::study::{Factor, Measure};

/// Probes of every factor, before and after training.
pub(crate) fn factors(factors: &[Factor], definitions: &[Definition]) -> Section {
    let bars = |title: &str, wanted: fn(Measure) -> Option<f64>| {
        let groups = factors.iter().filter_map(|factor| {
            let chance = wanted(factor.measure)?;
            let values = vec![Some(100.0 * factor.random), Some(100.0 * factor.trained)];
            Some(Bar { name: factor.name.into(), values, chance: (chance > 0.0).then_some(chance) })
        });
        Bars {
            title: title.into(),
            unit: " %",
            most: 100.0,
            decimals: 1,
            series: vec!["random encoder".into(), "trained".into()],
            groups: groups.collect(),
        }
    };
    let kinds = bars("Told right by a linear probe (accuracy)", |measure| match measure {
        Measure::Accuracy { kinds } => Some(100.0 / kinds as f64),
        Measure::R2 => None,
    });
    let numbers = bars("Variance explained by a linear probe (R²)", |measure| (measure == Measure::R2).then_some(0.0));
    let text = "The pictures of this set are drawn from known factors, so one can ask of each how much of it can be read off the features: \
                accuracy for what is one of some kinds, R² for what is a number. Two views of a picture differ in what crops, flips and \
                colours change; what views share is what the encoder may keep.";
    let (kinds, numbers) = (kinds.svg(), numbers.svg());
    let body = html! {
        p { (linked(text, definitions)) }
        div.plots { (PreEscaped(&kinds)) (PreEscaped(&numbers)) }
        details {
            summary { "The factors" }
            dl { @for factor in factors { dt { (factor.name) } dd { (factor.meaning) } } }
        }
    };
    let figures =
        vec![("factors-accuracy".to_owned(), Figure::Svg(kinds)), ("factors-r2".to_owned(), Figure::Svg(numbers))];
    Section { title: "What the features keep", body, figures }
}
