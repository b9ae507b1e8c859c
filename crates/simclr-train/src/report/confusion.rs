//! Which classes are taken for which.

use maud::{PreEscaped, html};

use super::Section;
use crate::evaluate::describe;
use crate::figure::{Figure, Heatmap};
use crate::study::Judged;

/// Classes that a page has room for; of more, those that are told worst.
const MOST_CLASSES: usize = 100;

/// Pairs of classes that are named.
const NAMED: usize = 8;

/// The confusion of the trained encoder under the first protocol.
pub(crate) fn confusion(judged: &Judged) -> Section {
    let (result, names) = (&judged.knn.trained[0], &judged.classes);
    let counts = &result.confusion.counts;
    let title = format!("% of a class, {}", describe(&result.protocol));
    let svg = Heatmap { title, names, counts }.svg();
    let mut pairs: Vec<(u64, usize, usize)> = Vec::new();
    for (i, row) in counts.iter().enumerate() {
        pairs
            .extend(row.iter().enumerate().filter(|&(j, count)| j != i && *count > 0).map(|(j, &count)| (count, i, j)));
    }
    pairs.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut accuracy: Vec<(f64, usize)> =
        result.confusion.per_class().into_iter().enumerate().filter_map(|(i, share)| Some((share?, i))).collect();
    accuracy.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let body = html! {
        p { "A row is the true class, a column what it was taken for: on the diagonal is what was told right." }
        @if names.len() <= MOST_CLASSES { div.wide { (PreEscaped(&svg)) } }
        div.columns {
            div {
                h3 { "Taken for one another most" }
                @if pairs.is_empty() { p { "None was." } }
                ol { @for (count, i, j) in pairs.into_iter().take(NAMED) { li { (names[i]) " for " (names[j]) ": " (count) } } }
            }
            div {
                h3 { "Told right" }
                table.classes {
                    @for (share, i) in accuracy.into_iter().rev().take(MOST_CLASSES).rev() { tr { td { (names[i]) } td { (format!("{:.1} %", 100.0 * share)) } } }
                }
            }
        }
    };
    Section { title: "What is taken for what", body, figures: vec![("confusion".into(), Figure::Svg(svg))] }
}
