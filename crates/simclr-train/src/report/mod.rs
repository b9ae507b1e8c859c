//! The report of a run: one HTML file that needs nothing beside it.

mod command;
mod comparison;
mod confusion;
mod curves;
mod definitions;
mod factors;
mod groups;
mod map;
mod neighbours;
mod time;

use image::RgbImage;
use maud::{Markup, PreEscaped, html};

use crate::figure::Figure;
use crate::table::Table;
use crate::{mosaic, page, sheet};
pub(crate) use command::command;
pub(crate) use comparison::comparison;
pub(crate) use confusion::confusion;
pub(crate) use curves::{curves, plots};
pub(crate) use definitions::{Definition, definitions};
pub(crate) use factors::factors;
pub(crate) use groups::groups;
pub(crate) use map::map;
pub(crate) use neighbours::neighbours;
pub(crate) use time::time;

/// What a report says, in its order on the page.
pub(crate) struct Report {
    pub(crate) title: String,
    pub(crate) summary: String,
    pub(crate) results: Table,
    pub(crate) sections: Vec<Section>,
    pub(crate) notes: Vec<String>,
    /// The command that runs it again.
    pub(crate) command: String,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) definitions: Vec<Definition>,
}

/// A part of the page, and its figures as they stand in a paper.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) body: Markup,
    /// File names without their endings.
    pub(crate) figures: Vec<(String, Figure)>,
}

impl Section {
    /// Pictures beside their views.
    ///
    /// # Errors
    /// If they cannot be encoded.
    pub(crate) fn pairs(sheet: &RgbImage) -> anyhow::Result<Self> {
        let png = sheet::encoded(sheet)?;
        let description = "Pictures, each with two views of it";
        // Small views are looked at pixel by pixel, large ones would be most of the page.
        let image = match png.len() {
            0..=MOST_AS_PNG => page::png(&png, description),
            _ => html! { img alt=(description) src=(mosaic::jpeg(sheet, MOST_AS_PNG)?); },
        };
        let body = html! {
            figure {
                (image)
                figcaption {
                    "Pictures of the training split, each with its two views of the first epoch. The encoder learns to tell which \
                     views belong together."
                }
            }
        };
        Ok(Self { title: "What it learned from", body, figures: vec![("pairs".into(), Figure::Png(png))] })
    }
}

/// Bytes of a sheet of views that stands in a page as it is.
const MOST_AS_PNG: usize = 400_000;

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// The page.
pub(crate) fn html(report: &Report) -> String {
    let definitions = &report.definitions;
    let linked = |text: &str| definitions::linked(text, definitions);
    let headings = report.sections.iter().map(|section| section.title);
    let headings = headings.chain(["Run it again", "What the words mean"]);
    let body = html! {
        p { (linked(&report.summary)) }
        nav { @for heading in headings { a href={ "#" (anchor(heading)) } { (heading) } " " } }
        h2 { "Results" }
        div.wide {
            table.results {
                thead { tr { @for cell in &report.results.columns { th { (linked(cell)) } } } }
                tbody { @for row in &report.results.rows { tr { @for cell in row { td { (linked(&cell.replace(" %", "\u{a0}%"))) } } } } }
            }
        }
        @for note in &report.notes { p.faint { (linked(note)) } }
        @for section in &report.sections {
            h2 id=(anchor(section.title)) { (section.title) }
            (section.body)
        }
        h2 id=(anchor("Run it again")) { "Run it again" }
        pre { (report.command) }
        details {
            summary { "All settings" }
            div.wide {
                table.settings { @for (name, value) in &report.settings { tr { td { (name) } td { (value) } } } }
            }
        }
        h2 id=(anchor("What the words mean")) { "What the words mean" }
        dl {
            @for Definition { term, meaning } in definitions {
                dt id={ "term-" (anchor(term)) } { (term) }
                dd { (meaning) }
            }
        }
        script { (PreEscaped(SCRIPT)) }
    };
    page::document(&report.title, STYLE, &body)
}

/// A heading or term as it stands in an address.
fn anchor(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// Data for the script of the page: JSON that no markup can end.
fn data(id: &str, value: &serde_json::Value) -> Markup {
    html! { script id=(id) type="application/json" { (PreEscaped(value.to_string().replace('<', "\\u003c"))) } }
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
            summary: "a & b of kNN".into(),
            results: Table { columns: words(&["<b>"]), rows: vec![words(&["<i>"])] },
            sections: vec![Section::pairs(&RgbImage::new(2, 2)).unwrap()],
            notes: vec!["<u>".into()],
            command: "simclr-train --run \"<x>\"".into(),
            settings: vec![("<s>".into(), "<t>".into())],
            definitions: vec![Definition { term: "kNN", meaning: "<e>" }],
        };
        let page = html(&report);
        for raw in ["<script>alert", "<b>", "<i>", "<u>", "<x>", "<s>", "<t>", "<e>"] {
            assert!(!page.contains(raw), "{raw}");
        }
        assert!(page.contains("src=\"data:image/png;base64,iVBORw"));
        assert!(!page.contains("http"), "the page must need nothing beside it");
        assert!(page.contains("<title>&lt;script&gt;alert(1)&lt;/script&gt;</title>"));
        // A word that is explained leads to its explanation.
        assert!(page.contains("<a class=\"term\" href=\"#term-knn\">kNN</a>") && page.contains("id=\"term-knn\""));
        assert!(page.contains("href=\"#what-it-learned-from\"") && page.contains("id=\"what-it-learned-from\""));
        let json = data("d", &serde_json::json!("</script><b>")).into_string();
        assert!(json.contains("\\u003c/script>\\u003cb>") && !json.contains("<b>"), "{json}");
    }
}
