//! What was measured while it trained.

use maud::{PreEscaped, html};
use simclr_eval::KnnResult;

use super::Section;
use crate::figure::Figure;
use crate::figure::plot::{self, Plot, Series};
use crate::metrics::Event;
use crate::study::Judged;

/// Curves that a newcomer looks at; the others are a click away.
const FIRST: usize = 2;

/// The section of some plots.
pub(crate) fn curves(plots: &[Plot]) -> Section {
    let drawn: Vec<String> = plots.iter().map(|plot| plot::svg(std::slice::from_ref(plot))).collect();
    let first = FIRST.min(plots.len());
    let body = html! {
        div.plots { @for svg in &drawn[..first] { (PreEscaped(svg)) } }
        @if first < plots.len() {
            details {
                summary { "More curves: " (plots[first..].iter().map(|plot| plot.title.as_str()).collect::<Vec<_>>().join(", ")) }
                div.plots { @for svg in &drawn[first..] { (PreEscaped(svg)) } }
            }
        }
    };
    let name = |plot: &Plot| format!("curve-{}", super::anchor(plot.title.split(" (").next().unwrap_or(&plot.title)));
    let figures = plots.iter().map(name).zip(drawn.into_iter().map(Figure::Svg)).collect();
    Section { title: "Curves", body, figures }
}

/// The loss of every epoch, kNN on the held-out labels with the baselines beside it, and what else was measured.
pub(crate) fn plots(events: &[Event], steps_per_epoch: f64, judged: Option<&Judged>) -> Vec<Plot> {
    let named = |name: &str| Series { name: name.into(), points: Vec::new() };
    let (mut steps, mut epochs, mut knn) =
        (named("single steps"), named("mean of the epoch"), named("held-out labels"));
    let (mut alignment, mut uniformity) = (named("alignment: views of one picture"), named("uniformity: all pictures"));
    let (mut rank, mut feature_rank) = (named("of the embeddings"), named("of the features"));
    let (mut rate, mut norm, mut speed) = (named("learning rate"), named("gradient norm"), named("pairs per second"));
    for event in events {
        let at = event.step() as f64 / steps_per_epoch;
        match *event {
            Event::Step {
                loss, lr, grad_norm, alignment: near, uniformity: even, embedding_rank, pairs_per_s, ..
            } => {
                let series = [&mut steps, &mut rate, &mut norm, &mut alignment, &mut uniformity, &mut rank, &mut speed];
                let values = [loss, lr, grad_norm, near, even, embedding_rank, pairs_per_s];
                series.into_iter().zip(values).for_each(|(series, value)| series.points.push((at, value)));
            }
            Event::Epoch { epoch, loss, .. } => epochs.points.push((epoch as f64, loss)),
            Event::Knn { epoch, top1, feature_rank: filled, .. } => {
                knn.points.push((epoch as f64, 100.0 * top1));
                feature_rank.points.push((epoch as f64, filled));
            }
        }
    }
    let plot = |title: &str, y_label: &str, series: Vec<Series>| {
        let series = series.into_iter().filter(|series| !series.points.is_empty()).collect();
        Plot { title: title.into(), x_label: "epoch".into(), y_label: y_label.into(), series, baselines: Vec::new() }
    };
    let mut plots = vec![plot("Contrastive loss (NT-Xent)", "nats per view", vec![epochs, steps])];
    if !knn.points.is_empty() {
        let baselines = judged.iter().flat_map(|judged| {
            let knn = &judged.knn;
            let baseline =
                |name: &str, results: &[KnnResult]| (format!("{name} ({})", judged.asked), 100.0 * results[0].top1);
            [
                baseline("raw pixels", &knn.raw_pixels),
                baseline("random encoder", &knn.random),
                baseline("trained", &knn.trained),
            ]
        });
        plots.push(Plot { baselines: baselines.collect(), ..plot("kNN top-1", "%", vec![knn]) });
    }
    plots.push(plot("Alignment and uniformity", "", vec![alignment, uniformity]));
    plots.push(plot("Effective rank", "directions", vec![rank, feature_rank]));
    plots.push(plot("Learning rate", "", vec![rate]));
    plots.push(plot("Gradient norm", "", vec![norm]));
    plots.push(plot("Speed", "pairs per second", vec![speed]));
    plots.retain(|plot| !plot.series.is_empty());
    plots
}
