//! The report of a run: one HTML file that needs nothing beside it.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::plot::{self, Plot, escape};

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

/// Rows under headings, all of one length; the first column names the row.
pub(crate) struct Table {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// Aligned for a terminal: names to the left, values to the right.
    pub(crate) fn text(&self) -> String {
        let lines = || std::iter::once(&self.columns).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| lines().map(|line| line[column].chars().count()).max().unwrap_or(0))
            .collect();
        let text = lines().map(|line| {
            let mut text = String::new();
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let _ = if column == 0 { write!(text, "{cell:<width$}") } else { write!(text, "   {cell:>width$}") };
            }
            text.trim_end().to_owned()
        });
        text.collect::<Vec<_>>().join("\n")
    }
}

/// What pages of this program look like.
pub(crate) const STYLE: &str = "\
:root{color-scheme:light dark;--text:#1f2328;--faint:#59636e;--rule:#d8dee4;--ground:#fff;--code:#f3f5f7;--strong:#0b62d6}\
@media(prefers-color-scheme:dark){:root{--text:#e6edf3;--faint:#9198a1;--rule:#30363d;--ground:#0d1117;--code:#161b22;--strong:#58a6ff}}\
*{box-sizing:border-box}body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:60rem;font:16px/1.5 system-ui,sans-serif;\
color:var(--text);background:var(--ground)}h1{font-size:1.6rem;line-height:1.25;margin:0 0 .5rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}\
p{max-width:44rem}.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.4rem .7rem;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top}th{font-weight:600;font-size:.875rem}\
th:first-child,td:first-child{text-align:left;padding-left:0}.results td:last-child{font-weight:700;color:var(--strong)}\
.settings td{text-align:left;font-size:.875rem;overflow-wrap:anywhere}.plots{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}\
.plots svg{max-width:100%;height:auto}img{max-width:100%;height:auto;display:block;image-rendering:pixelated}\
figure{margin:0}figcaption,.faint{color:var(--faint);font-size:.875rem}pre{background:var(--code);padding:.8rem;border-radius:6px;\
white-space:pre-wrap;overflow-wrap:anywhere;font-size:.875rem}summary{cursor:pointer}dt{font-weight:600;margin-top:.7rem}dd{margin:0;max-width:44rem}";

/// The page.
pub(crate) fn html(report: &Report) -> String {
    let title = escape(&report.title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n<p>{}</p>\n",
        escape(&report.summary)
    );
    page.push_str("<h2>Results</h2>\n");
    table(&mut page, &report.results);
    page.push_str("<h2>Curves</h2>\n<div class=\"plots\">\n");
    report.plots.iter().for_each(|plot| page.push_str(&plot::svg(std::slice::from_ref(plot))));
    page.push_str("</div>\n");
    if let Some(png) = &report.sheet_png {
        let _ = write!(
            page,
            "<h2>What was learned from</h2>\n<figure><img alt=\"Pictures, each with two views of it\" \
             src=\"data:image/png;base64,{}\"><figcaption>Pictures of the training split, each with its two views of the first \
             epoch. The encoder learns to tell which views belong together.</figcaption></figure>\n",
            STANDARD.encode(png)
        );
    }
    if !report.notes.is_empty() {
        page.push_str("<h2>Notes</h2>\n");
        for note in &report.notes {
            let _ = writeln!(page, "<p>{}</p>", escape(note));
        }
    }
    let _ = write!(page, "<h2>Run it again</h2>\n<pre>{}</pre>\n", escape(&report.command));
    page.push_str("<details><summary>All settings</summary><div class=\"wide\"><table class=\"settings\">\n");
    for (name, value) in &report.settings {
        let _ = writeln!(page, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(value));
    }
    page.push_str("</table></div></details>\n<h2>What the words mean</h2>\n<dl>\n");
    for (term, meaning) in &report.definitions {
        let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(term), escape(meaning));
    }
    page.push_str("</dl></body></html>\n");
    page
}

fn table(page: &mut String, table: &Table) {
    let cells = |tag: &str, cells: &[String]| -> String {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
    };
    let columns = cells("th", &table.columns);
    let _ = writeln!(page, "<div class=\"wide\"><table class=\"results\"><thead><tr>{columns}</tr></thead><tbody>");
    for row in &table.rows {
        let _ = writeln!(page, "<tr>{}</tr>", cells("td", row));
    }
    page.push_str("</tbody></table></div>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<String> {
        line.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn tables_are_aligned() {
        let table = Table {
            columns: words(&["protocol", "random", "trained"]),
            rows: vec![words(&["k = 200", "30.25 %", "90.00 %"]), words(&["a long name é", "9.00 %", "100.00 %"])],
        };
        let expected = "\
protocol         random    trained
k = 200         30.25 %    90.00 %
a long name é    9.00 %   100.00 %";
        assert_eq!(table.text(), expected);
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
