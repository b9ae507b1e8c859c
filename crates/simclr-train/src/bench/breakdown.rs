//! Where the time of a training step goes, beside what the machine can do.

use std::time::Duration;

use serde_json::{Value, json};
use simclr_ops::profile::{Entry, Profile};

use crate::table::Table;

/// What the machine can do at most, measured just before.
pub(crate) struct Peak {
    operations_per_second: f64,
    bytes_per_second: f64,
}

impl Peak {
    pub(crate) fn measure() -> Self {
        Self {
            operations_per_second: simclr_ops::peak::f32_operations_per_second(),
            bytes_per_second: simclr_ops::peak::bytes_per_second(),
        }
    }
}

/// One line: an op in one phase, or what no op accounts for.
pub(crate) struct Row {
    name: String,
    entry: Entry,
}

/// The rows of `steps` steps that took `total`, the longest first; what is left over is the last.
pub(crate) fn rows(profile: &Profile, loss: Duration, total: Duration) -> Vec<Row> {
    let mut rows: Vec<Row> = profile
        .entries()
        .into_iter()
        .map(|((op, phase), entry)| Row { name: format!("{op} {phase}"), entry })
        .collect();
    rows.push(Row { name: "nt_xent forward".into(), entry: Entry { time: loss, ..Entry::default() } });
    let accounted: Duration = rows.iter().map(|row| row.entry.time).sum();
    rows.sort_by_key(|row| std::cmp::Reverse(row.entry.time));
    let left = total.saturating_sub(accounted);
    rows.push(Row { name: "everything else".into(), entry: Entry { time: left, ..Entry::default() } });
    rows
}

impl Row {
    fn seconds(&self) -> f64 {
        self.entry.time.as_secs_f64()
    }

    fn operations_per_second(&self) -> Option<f64> {
        (self.entry.operations > 0).then(|| self.entry.operations as f64 / self.seconds())
    }

    fn bytes_per_second(&self) -> Option<f64> {
        (self.entry.bytes > 0).then(|| self.entry.bytes as f64 / self.seconds())
    }

    /// The share of the machine's peak in what limits the op: arithmetic where it multiplies, memory elsewhere.
    fn share_of_peak(&self, peak: &Peak) -> Option<f64> {
        match self.operations_per_second() {
            Some(rate) => Some(rate / peak.operations_per_second),
            None => Some(self.bytes_per_second()? / peak.bytes_per_second),
        }
    }
}

/// As `--json` prints it; seconds are of one step.
pub(crate) fn to_json(rows: &[Row], steps: usize, peak: &Peak) -> Value {
    let row = |row: &Row| {
        json!({
            "op": row.name, "s_per_step": row.seconds() / steps as f64, "gflops": row.operations_per_second().map(|r| r / 1e9),
            "gb_per_s": row.bytes_per_second().map(|r| r / 1e9), "share_of_peak": row.share_of_peak(peak),
        })
    };
    json!({
        "peak_gflops": peak.operations_per_second / 1e9, "peak_gb_per_s": peak.bytes_per_second / 1e9,
        "ops": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

/// For a terminal.
pub(crate) fn table(rows: &[Row], steps: usize, peak: &Peak) -> Table {
    let total: f64 = rows.iter().map(Row::seconds).sum();
    let number = |value: Option<f64>, scale: f64| value.map_or("–".to_owned(), |v| format!("{:.0}", v / scale));
    let cells = |row: &Row| {
        vec![
            row.name.clone(),
            format!("{:.1}", 1e3 * row.seconds() / steps as f64),
            format!("{:.1} %", 100.0 * row.seconds() / total),
            number(row.operations_per_second(), 1e9),
            number(row.bytes_per_second(), 1e9),
            row.share_of_peak(peak).map_or("–".to_owned(), |share| format!("{:.0} %", 100.0 * share)),
        ]
    };
    let mut lines: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let (gflops, gb) = (peak.operations_per_second / 1e9, peak.bytes_per_second / 1e9);
    let machine = ["the machine's peak", "", "", &format!("{gflops:.0}"), &format!("{gb:.0}"), ""];
    lines.push(machine.map(str::to_owned).into());
    let columns = ["op and phase", "ms a step", "share", "GFLOP/s", "GB/s", "of peak"].map(str::to_owned).into();
    Table { columns, rows: lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_rates_stand_beside_their_peak() {
        let peak = Peak { operations_per_second: 4e9, bytes_per_second: 1e9 };
        let entry = |milliseconds, operations, bytes| Entry {
            calls: 2,
            time: Duration::from_millis(milliseconds),
            operations,
            bytes,
        };
        let rows = [
            Row { name: "product".into(), entry: entry(500, 1_000_000_000, 7) },
            Row { name: "pass".into(), entry: entry(250, 0, 100_000_000) },
            Row { name: "everything else".into(), entry: entry(250, 0, 0) },
        ];
        let text = table(&rows, 2, &peak).text();
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["product", "250.0", "50.0", "%", "2", "0", "50", "%"]);
        assert_eq!(words[2], ["pass", "125.0", "25.0", "%", "–", "0", "40", "%"]);
        assert_eq!(words[3], ["everything", "else", "125.0", "25.0", "%", "–", "–", "–"]);
        let object = to_json(&rows, 2, &peak);
        assert_eq!((&object["ops"][0]["gflops"], &object["ops"][1]["gb_per_s"]), (&json!(2.0), &json!(0.4)));
    }
}
