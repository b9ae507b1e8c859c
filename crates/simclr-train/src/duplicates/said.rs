//! What was found and how, in words and numbers.

use std::path::Path;

use serde_json::{Value, json};

use super::{DuplicateCount, Duplicates, DuplicatesMethod, Group, QUANTILES};
use crate::features_file::FeaturesFile;
use crate::table::Table;

/// Groups that the terminal shows, and names of each.
const GROUPS: usize = 10;
const NAMES: usize = 3;

/// A share of the rows in one group from which on the group is worth a word: it may be a chain.
const CHAIN: f64 = 0.05;

pub(super) struct Said<'a> {
    pub(super) features: &'a Path,
    pub(super) rows: usize,
    pub(super) found: &'a Duplicates,
    pub(super) groups: &'a [Group<'a>],
    /// Whether the threshold was typed.
    pub(super) is_given: bool,
}

impl Said<'_> {
    pub(super) fn text(&self, file: &FeaturesFile) -> String {
        let mut parts = Vec::new();
        if !self.groups.is_empty() {
            let row = |group: &Group| {
                let mut names: Vec<String> = group.names(file).take(NAMES).collect();
                if file.paths.is_none() {
                    names[0] = format!("rows {}", names[0]);
                }
                let more = group.of.rows.len() - names.len();
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let differ = if group.labels_differ { " (differ)" } else { "" };
                vec![
                    names.join(", ") + &more,
                    group.of.rows.len().to_string(),
                    group.classes() + differ,
                    format!("{:.4}", group.of.least),
                    format!("{:.4}", group.of.greatest),
                ]
            };
            let columns = ["nearly the same", "pictures", "labels", "least cosine", "greatest"].map(str::to_owned);
            let rows = self.groups.iter().take(GROUPS).map(row).collect();
            let mut text = Table { columns: columns.into(), rows }.text();
            if let Some(more @ 1..) = self.groups.len().checked_sub(GROUPS) {
                text.push_str(&format!("\nand {more} groups more: --out FILE.html shows them, --json has all"));
            }
            parts.push(text);
        }
        let mut lines = vec![self.summary()];
        lines.extend(self.chain());
        lines.extend([self.threshold(), self.compared()]);
        parts.push(lines.join("\n"));
        parts.push(self.counts().text());
        parts.push(format!("{}\n{}", self.of_nearest(), self.quantiles().text()));
        parts.join("\n\n")
    }

    /// How many there are.
    pub(super) fn summary(&self) -> String {
        let (rows, groups) = (self.rows, self.groups.len());
        if groups == 0 {
            return format!("No two of {rows} pictures reach the threshold.");
        }
        let found: usize = self.groups.iter().map(|group| group.of.rows.len()).sum();
        let differ = match self.groups.iter().filter(|group| group.labels_differ).count() {
            0 => String::new(),
            differ => format!(" In {differ} of them labels differ."),
        };
        format!(
            "Groups of pictures that are nearly the same: {groups}, with {found} of {rows} pictures; without all but the first of each, {} \
             would be left.{differ}",
            rows - (found - groups)
        )
    }

    /// A warning, if a group is so large that it may be no picture's copies.
    pub(super) fn chain(&self) -> Option<String> {
        let largest = self.groups.first()?.of.rows.len();
        (largest > 20 && largest as f64 > CHAIN * self.rows as f64).then(|| {
            format!(
                "The largest group has {largest} pictures: so many copies, or a chain of pictures that are each like the next one, which a \
                 higher --threshold divides."
            )
        })
    }

    /// What the threshold is, and why.
    pub(super) fn threshold(&self) -> String {
        let Duplicates { threshold, suggested, usual, .. } = self.found;
        let why = format!(
            "1 - (1 - {usual:.4}) / 10, ten times nearer than usual, as the median picture has cosine {usual:.4} with its tenth nearest"
        );
        if self.is_given {
            format!("The threshold is {threshold}, as given; the data suggest {suggested:.4}: {why}.")
        } else {
            format!("The threshold is {threshold:.4}, from the data: {why}.")
        }
    }

    /// Which pairs were compared.
    pub(super) fn compared(&self) -> String {
        let comparisons = self.found.comparisons;
        match self.found.method {
            DuplicatesMethod::Exact => format!("All {comparisons} pairs were compared."),
            DuplicatesMethod::Cells { cells, probes } => {
                let main = self.found.counts.iter().find(|count| count.threshold == self.found.threshold);
                let recall = main.and_then(|count| count.recall).map_or(String::new(), |recall| {
                    let (rows, pairs, found) = (recall.rows, recall.pairs, recall.found);
                    let share = recall.share().map_or(String::new(), |share| format!(" ({:.2} %)", 100.0 * share));
                    format!(
                        " For {rows} pictures drawn at random all pairs were compared as well: of their {pairs} true ones {found} were \
                         found{share}."
                    )
                });
                format!(
                    "Approximate: {comparisons} comparisons instead of {}, each picture with those of the {probes} nearest of {cells} \
                     cells; --exact compares all.{recall}",
                    self.rows as u64 * (self.rows as u64 - 1) / 2
                )
            }
        }
    }

    /// What other thresholds would find.
    pub(super) fn counts(&self) -> Table {
        let is_approximate = matches!(self.found.method, DuplicatesMethod::Cells { .. });
        let mut columns = ["threshold", "pairs", "groups", "pictures in them"].map(str::to_owned).to_vec();
        if is_approximate {
            columns[1] = "pairs, of those compared".into();
            columns.push("true pairs found, of a sample".into());
        }
        let row = |count: &DuplicateCount| {
            let is_own = count.threshold == self.found.threshold;
            let mut row = vec![
                match (is_own, self.is_given) {
                    (true, false) => format!("{:.4} (used)", count.threshold),
                    (true, true) => format!("{} (used)", count.threshold),
                    (false, _) => count.threshold.to_string(),
                },
                count.pairs.to_string(),
                count.groups.to_string(),
                count.rows.to_string(),
            ];
            if is_approximate {
                row.push(count.recall.map_or(String::new(), |recall| format!("{} of {}", recall.found, recall.pairs)));
            }
            row
        };
        Table { columns, rows: self.found.counts.iter().map(row).collect() }
    }

    pub(super) fn of_nearest(&self) -> String {
        let of = self.found.nearest.len();
        let of = if of == self.rows { "all".to_owned() } else { format!("{of} of the {}", self.rows) };
        format!("Cosine of a picture with the one nearest to it, of {of} pictures:")
    }

    /// How near the nearest is.
    pub(super) fn quantiles(&self) -> Table {
        let quantiles = self.nearest();
        Table {
            columns: std::iter::once("pictures below".to_owned())
                .chain(quantiles.iter().map(|(share, _)| match share {
                    0.0 => "least".into(),
                    1.0 => "greatest".into(),
                    _ => format!("{} %", 100.0 * share),
                }))
                .collect(),
            rows: vec![
                std::iter::once("cosine".to_owned())
                    .chain(quantiles.iter().map(|(_, cosine)| format!("{cosine:.4}")))
                    .collect(),
            ],
        }
    }

    fn nearest(&self) -> Vec<(f64, f32)> {
        let nearest = &self.found.nearest;
        let quantile = |share: f64| (share, nearest[(share * (nearest.len() - 1) as f64).round() as usize]);
        QUANTILES.map(quantile).to_vec()
    }

    pub(super) fn json(&self, out: Option<&Path>, remove_list: Option<&Path>) -> Value {
        let Duplicates { threshold, suggested, usual, counts, method, comparisons, .. } = self.found;
        let recall = |count: &DuplicateCount| {
            count.recall.map(|recall| {
                json!({ "rows": recall.rows, "pairs": recall.pairs, "found": recall.found, "share": recall.share() })
            })
        };
        let count = |count: &DuplicateCount| {
            json!({
                "threshold": count.threshold, "pairs": count.pairs, "groups": count.groups, "rows": count.rows,
                "recall": recall(count),
            })
        };
        let method = match *method {
            DuplicatesMethod::Exact => json!({ "name": "exact" }),
            DuplicatesMethod::Cells { cells, probes } => json!({ "name": "cells", "cells": cells, "probes": probes }),
        };
        let quantiles: serde_json::Map<String, Value> =
            self.nearest().into_iter().map(|(share, cosine)| (share.to_string(), json!(cosine))).collect();
        json!({
            "features": self.features, "rows": self.rows, "threshold": threshold, "suggested_threshold": suggested,
            "usual_cosine": usual, "method": method, "comparisons": comparisons,
            "groups": self.groups.iter().map(Group::json).collect::<Vec<_>>(),
            "counts": counts.iter().map(count).collect::<Vec<_>>(),
            "nearest_quantiles": quantiles, "nearest_of": self.found.nearest.len(),
            "recall": counts.iter().find(|count| count.threshold == *threshold).and_then(recall),
            "out": out, "remove_list": remove_list,
        })
    }
}
