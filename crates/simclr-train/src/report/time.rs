//! How long it took, and where the time went.

use std::time::Duration;

use maud::html;

use super::Section;
use crate::config::Config;
use crate::metrics::Event;
use crate::progress::human;

/// The speed of a run.
pub(crate) fn time(events: &[Event], train_seconds: f64, pairs_per_s: f64, config: &Config) -> Section {
    // Of the steps between two lines, the share that waited; weighted by how long they took.
    let (mut waited, mut measured) = (0.0, 0.0);
    for event in events {
        if let Event::Step { pairs_per_s, data_wait_share, .. } = *event {
            let seconds = 1.0 / pairs_per_s.max(f64::MIN_POSITIVE);
            waited += data_wait_share * seconds;
            measured += seconds;
        }
    }
    let share = if measured > 0.0 { waited / measured } else { 0.0 };
    let peak = events.iter().rev().find_map(|event| match event {
        Event::Step { peak_mib, .. } => *peak_mib,
        _ => None,
    });
    let told = |seconds: f64| human(Duration::from_secs_f64(seconds.max(0.0)));
    let parts = [
        ("steps: both views through the network, the loss, backward, the update", (1.0 - share) * train_seconds),
        ("waiting for pictures", share * train_seconds),
    ];
    let body = html! {
        p {
            "Trained " (told(train_seconds)) " at " (format!("{pairs_per_s:.1}")) " "
            a.term href="#term-pairs-per-second" { "pairs per second" }
            @if let Some(mib) = peak { "; at most " (mib) " MiB of memory" }
            ". Evaluation and checkpoints are not in it."
        }
        div.bar role="img" aria-label="where the time went" {
            @for (i, (name, seconds)) in parts.iter().enumerate() {
                span class={ "part" (i) } style=(format!("flex-grow:{:.4}", seconds / train_seconds.max(f64::MIN_POSITIVE))) title=(name) {}
            }
        }
        ul.parts {
            @for (i, (name, seconds)) in parts.iter().enumerate() {
                li {
                    span.dot class={ "part" (i) } {}
                    (name) ": " (told(*seconds)) ", " (format!("{:.1} %", 100.0 * seconds / train_seconds.max(f64::MIN_POSITIVE)))
                }
            }
        }
        p { "Where a step spends its time on this machine, op by op:" }
        pre {
            "simclr-train bench step --arch " (config.arch) " --width " (config.width) " --batch " (config.batch) " --breakdown"
        }
    };
    Section { title: "Speed and time", body, figures: Vec::new() }
}
