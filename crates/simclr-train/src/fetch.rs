//! `simclr-train fetch`: data sets and weights into the data folder.

use serde_json::{Value, json};
use simclr_fetch::{FetchError, Item, Outcome, Status, fetch, wanted};

use crate::cli::FetchArguments;
use crate::output::Output;
use crate::progress::Progress;
use crate::{Ending, Usage};

/// Downloads what is asked for, or says that it is there.
pub(crate) fn command(arguments: &FetchArguments, output: &Output) -> anyhow::Result<Ending> {
    let usage = |error: FetchError| Usage(error.to_string());
    let items = wanted(&arguments.item, arguments.from.as_ref()).map_err(usage)?;
    let outcomes: Vec<(Item, Outcome)> =
        items.into_iter().map(|item| Ok((item, one(item, arguments, output)?))).collect::<anyhow::Result<_>>()?;
    let text: Vec<String> = outcomes.iter().map(|(_, outcome)| describe(outcome)).collect();
    let objects: Vec<Value> = outcomes.iter().map(|(item, outcome)| to_json(*item, outcome)).collect();
    let object = match objects.as_slice() {
        [one] => one.clone(),
        all => json!({ "item": arguments.item, "items": all }),
    };
    output.result(text.join("\n"), &object);
    Ok(Ending::Done)
}

fn one(item: Item, arguments: &FetchArguments, output: &Output) -> Result<Outcome, FetchError> {
    let mut progress: Option<(Progress, u64)> = None;
    let mut report = |done: u64, total: Option<u64>| {
        let title = item.to_string();
        let (bar, before) =
            progress.get_or_insert_with(|| (Progress::new(output, &title, total.unwrap_or(0), done), done));
        bar.advance(done.saturating_sub(*before), &[("MiB", (done >> 20).to_string())]);
        *before = done;
    };
    fetch(item, &arguments.data_dir, arguments.from.as_ref(), &mut report)
}

fn describe(outcome: &Outcome) -> String {
    let path = outcome.path.display();
    match &outcome.status {
        Status::AlreadyComplete => format!("{path} is complete already"),
        Status::Downloaded { url, .. } => format!("{path} is complete, from {url}"),
        Status::FromFile { file } => format!("{path} is complete, from {}", file.display()),
    }
}

fn to_json(item: Item, outcome: &Outcome) -> Value {
    let status = match &outcome.status {
        Status::AlreadyComplete => "already-complete",
        Status::Downloaded { .. } => "downloaded",
        Status::FromFile { .. } => "from-file",
    };
    json!({ "item": item.to_string(), "path": outcome.path, "status": status })
}
