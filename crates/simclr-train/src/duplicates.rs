//! `simclr-train duplicates`: pictures that a set has more than once, or nearly, by the features that `embed` has written.

mod page;
mod said;

use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use simclr_eval::{DuplicateCount, DuplicateGroup, Duplicates, DuplicatesConfig, DuplicatesMethod, duplicates};

use crate::cli::DuplicatesArguments;
use crate::features_file::{self, FeaturesFile};
use crate::output::Output;
use crate::progress::Progress;
use crate::run_folder::write_whole;
use crate::thumbnails::Thumbnails;
use crate::{Ending, Usage, machine};
use page::Page;
use said::Said;

/// Thresholds at which it is told what they would find.
const COUNTED: [f64; 6] = [0.9, 0.95, 0.98, 0.99, 0.995, 0.999];

/// Shares of the rows whose nearest is told.
const QUANTILES: [f64; 9] = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0];

/// Finds the pictures of a file of features that are nearly the same.
pub(crate) fn command(arguments: &DuplicatesArguments, output: &Output) -> anyhow::Result<Ending> {
    let DuplicatesArguments { features, threshold, out, remove_list, .. } = arguments;
    if let Some(found) = threshold.filter(|threshold| !(*threshold > 0.0 && *threshold <= 1.0)) {
        return Err(Usage(format!("--threshold is {found}, expected a cosine above 0 and at most 1")).into());
    }
    can_be_written("--out", out.as_deref())?;
    can_be_written("--remove-list", remove_list.as_deref())?;
    machine::use_threads(arguments.machine.threads)?;
    machine::device(arguments.machine.device.as_deref().unwrap_or("auto"))?;
    let file = features_file::read(features)?;
    let rows = file.vectors.dim(0)?;
    ensure!(rows >= 2, "{} has {rows} row, expected at least 2: there is nothing to compare", features.display());

    let config = DuplicatesConfig {
        threshold: *threshold,
        counted: COUNTED.to_vec(),
        exact_up_to: if arguments.exact { usize::MAX } else { arguments.exact_up_to },
    };
    let meter = Mutex::new((Progress::new(output, "% compared", 100, 0), 0, 0));
    let progress = |more: u64, all: u64| {
        if let Ok(mut meter) = meter.lock() {
            let (progress, done, told) = &mut *meter;
            *done += more;
            let percent = (u128::from(*done) * 100 / u128::from(all.max(1))) as u64;
            if percent > *told {
                progress.advance(percent - *told, &[]);
                *told = percent;
            }
        }
    };
    if let Some(path) = file.paths.iter().flatten().find(|path| remove_list.is_some() && path.contains('\n')) {
        bail!("--remove-list has a path on a line, but {path:?} has a line break in it");
    }
    let found = duplicates(&file.vectors, &config, &progress).with_context(|| features.display().to_string())?;
    drop(meter);

    let groups: Vec<Group> = found.groups.iter().map(|group| Group::new(&file, group)).collect();
    let said = Said { features, rows, found: &found, groups: &groups, is_given: threshold.is_some() };
    if let Some(list) = remove_list {
        let mut lines = String::new();
        for name in groups.iter().flat_map(|group| group.names(&file).skip(1)) {
            lines.push_str(&name);
            lines.push('\n');
        }
        write_whole(list, lines.as_bytes()).with_context(|| list.display().to_string())?;
        output.say(format!("{} lists all of each group but its first; nothing was removed", list.display()));
    }
    if let Some(out) = out {
        let thumbnails = Thumbnails::new(&file, arguments.data_dir.as_deref(), output);
        let html = Page { said: &said, file: &file }.html(&thumbnails, output);
        write_whole(out, html.as_bytes()).with_context(|| out.display().to_string())?;
        output.say(format!("{} shows them", out.display()));
    }
    output.result(said.text(&file), &said.json(out.as_deref(), remove_list.as_deref()));
    Ok(Ending::Done)
}

/// Refuses a place that nothing can be written to before minutes go into what would be written.
fn can_be_written(argument: &str, file: Option<&Path>) -> Result<(), Usage> {
    match file.and_then(Path::parent) {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            let (file, folder) = (file.unwrap_or(folder).display(), folder.display());
            Err(Usage(format!("{argument} is {file}, but there is no folder {folder}")))
        }
        _ => Ok(()),
    }
}

/// Pictures that are linked, and what the file says of them.
struct Group<'a> {
    of: &'a DuplicateGroup,
    paths: Option<Vec<&'a str>>,
    labels: Option<Vec<Option<&'a str>>>,
    /// Whether two of them are known to be of different classes.
    labels_differ: bool,
}

impl<'a> Group<'a> {
    fn new(file: &'a FeaturesFile, of: &'a DuplicateGroup) -> Self {
        let rows = || of.rows.iter();
        let paths = file.paths.as_ref().map(|paths| rows().map(|&row| paths[row].as_str()).collect());
        let labels: Option<Vec<_>> =
            file.labels.as_ref().map(|labels| rows().map(|&row| labels[row].as_deref()).collect());
        let mut known = labels.iter().flatten().flatten();
        let first = known.next();
        let labels_differ = known.any(|label| Some(label) != first);
        Self { of, paths, labels, labels_differ }
    }

    /// Where the pictures are, or their rows where the file does not say.
    fn names(&self, file: &'a FeaturesFile) -> impl Iterator<Item = String> {
        let name = |&row: &usize| match &file.paths {
            Some(paths) => paths[row].clone(),
            None => row.to_string(),
        };
        self.of.rows.iter().map(name)
    }

    /// Every class in it once, in the order of its pictures.
    fn classes(&self) -> String {
        let mut classes: Vec<&str> = Vec::new();
        for label in self.labels.iter().flatten().flatten() {
            if !classes.contains(label) {
                classes.push(label);
            }
        }
        classes.join(", ")
    }

    fn json(&self) -> Value {
        json!({
            "size": self.of.rows.len(), "rows": self.of.rows, "paths": self.paths, "labels": self.labels,
            "labels_differ": self.labels_differ, "min": self.of.least, "max": self.of.greatest,
        })
    }
}
