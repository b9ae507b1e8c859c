//! Tables for the terminal and for pages.

use std::fmt::Write as _;

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
}
