//! The report of a run: one HTML file that needs nothing beside it.

use maud::{PreEscaped, html};

use crate::page;
use crate::plot::{self, Plot};
use crate::table::Table;

/// Beyond that of all pages.
const STYLE: &str = "\
.plots{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}.plots svg{max-width:100%;height:auto}";

/// What a report says, in its order on the page.
pub(crate) struct Report {
    pub(crate) title: String,
    pub(crate) summary: String,
    pub(crate) results: Table,
    pub(crate) plots: Vec<Plot>,
    /// A PNG of pictures and their views.
    pub(crate) sheet_png: Option<Vec<u8>>,
    pub(crate) notes: Vec<String>,
    /// The command that runs it again.
    pub(crate) command: String,
    pub(crate) settings: Vec<(String, String)>,
    /// Terms and what they mean.
    pub(crate) definitions: Vec<(String, String)>,
}

/// The page.
pub(crate) fn html(report: &Report) -> String {
    let body = html! {
        p { (report.summary) }
        h2 { "Results" }
        div.wide {
            table.results {
                thead { tr { @for cell in &report.results.columns { th { (cell) } } } }
                tbody { @for row in &report.results.rows { tr { @for cell in row { td { (cell) } } } } }
            }
        }
        h2 { "Curves" }
        div.plots { @for plot in &report.plots { (PreEscaped(plot::svg(std::slice::from_ref(plot)))) } }
        @if let Some(png) = &report.sheet_png {
            h2 { "What was learned from" }
            figure {
                (page::png(png, "Pictures, each with two views of it"))
                figcaption {
                    "Pictures of the training split, each with its two views of the first epoch. The encoder learns to tell which \
                     views belong together."
                }
            }
        }
        @if !report.notes.is_empty() {
            h2 { "Notes" }
            @for note in &report.notes { p { (note) } }
        }
        h2 { "Run it again" }
        pre { (report.command) }
        details {
            summary { "All settings" }
            div.wide {
                table.settings { @for (name, value) in &report.settings { tr { td { (name) } td { (value) } } } }
            }
        }
        h2 { "What the words mean" }
        dl { @for (term, meaning) in &report.definitions { dt { (term) } dd { (meaning) } } }
    };
    page::document(&report.title, STYLE, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<String> {
        line.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_stands_in_a_report_is_escaped_and_nothing_is_fetched() {
        let report = Report {
            title: "<script>alert(1)</script>".into(),
            summary: "a & b".into(),
            results: Table { columns: words(&["<b>"]), rows: vec![words(&["<i>"])] },
            plots: Vec::new(),
            sheet_png: Some(vec![0x89, b'P', b'N', b'G']),
            notes: vec!["<u>".into()],
            command: "simclr-train --run \"<x>\"".into(),
            settings: vec![("<s>".into(), "<t>".into())],
            definitions: vec![("<d>".into(), "<e>".into())],
        };
        let page = html(&report);
        for raw in ["<script>", "<b>", "<i>", "<u>", "<x>", "<s>", "<t>", "<d>", "<e>"] {
            assert!(!page.contains(raw), "{raw}");
        }
        assert!(page.contains("src=\"data:image/png;base64,iVBORw==\""));
        assert!(!page.contains("http"), "the page must need nothing beside it");
        assert!(page.contains("<title>&lt;script&gt;alert(1)&lt;/script&gt;</title>"));
    }
}
