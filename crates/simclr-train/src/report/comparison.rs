//! With and without training, side by side.

use maud::{PreEscaped, html};

use super::definitions::linked;
use super::{Definition, Section};
use crate::evaluate::describe;
use crate::figure::{Bar, Bars, Figure};
use crate::study::Judged;

/// How much the training was worth.
pub(crate) fn comparison(judged: &Judged, definitions: &[Definition]) -> Section {
    let (asked, knn, linear) = (judged.asked, &judged.knn, &judged.linear);
    let chance = Some(100.0 / judged.classes.len() as f64);
    let of_knn = |i: usize| Bar {
        name: describe(&knn.trained[i].protocol),
        values: knn.named().into_iter().map(|(_, results)| Some(100.0 * results[i].top1)).collect(),
        chance,
    };
    let mut groups: Vec<Bar> = (0..knn.trained.len()).map(of_knn).collect();
    if let Some(labels) = linear.trained.as_ref().map(|linear| linear.labels) {
        let of = linear.named().into_iter();
        let of = of.map(|(_, linear)| linear.as_ref().map(|linear| 100.0 * linear.confusion.top1()));
        groups.push(Bar { name: format!("linear, on {labels} labels"), values: of.collect(), chance });
    }
    let bars = Bars {
        title: format!("Top-1 of {} pictures", judged.asked),
        unit: " %",
        most: 100.0,
        decimals: 2,
        series: knn.named().into_iter().map(|(name, _)| name.to_owned()).collect(),
        groups,
    };
    let [pixels, random, trained] = [&knn.raw_pixels, &knn.random, &knn.trained].map(|results| 100.0 * results[0].top1);
    let best = pixels.max(random);
    let verdict = if trained > best {
        format!(
            "Training without labels made the features better: kNN tells {trained:.2} % of the {asked} pictures right, where the better of \
             raw pixels and a random encoder tells {best:.2} %."
        )
    } else {
        format!(
            "Training has not helped yet: kNN tells {trained:.2} % of the {asked} pictures right, where the better of raw pixels and a random \
             encoder tells {best:.2} %. Longer training, or views that keep what tells the classes apart, may."
        )
    };
    let svg = bars.svg();
    let body = html! {
        p { (linked(&verdict, definitions)) " The dashed line is what guessing gives." }
        div.plots { (PreEscaped(&svg)) }
    };
    Section { title: "With and without training", body, figures: vec![("comparison".into(), Figure::Svg(svg))] }
}
