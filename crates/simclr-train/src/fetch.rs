//! `simclr-train fetch`: data sets and weights into the data folder.

use serde_json::json;
use simclr_fetch::{Item, Status, fetch};

use crate::cli::FetchArguments;
use crate::output::Output;
use crate::progress::Progress;
use crate::{Ending, Usage};

/// Downloads one item, or says that it is there.
pub(crate) fn command(arguments: &FetchArguments, output: &Output) -> anyhow::Result<Ending> {
    let item: Item = arguments.item.parse().map_err(|_| {
        let known = Item::ALL.map(|item| item.to_string()).join(", ");
        Usage(format!("fetch knows {known}, not {}", arguments.item))
    })?;
    let mut progress: Option<(Progress, u64)> = None;
    let mut report = |done: u64, total: Option<u64>| {
        let title = item.to_string();
        let (bar, before) =
            progress.get_or_insert_with(|| (Progress::new(output, &title, total.unwrap_or(0), done), done));
        bar.advance(done.saturating_sub(*before), &format!("{} MiB", done >> 20));
        *before = done;
    };
    let outcome = fetch(item, &arguments.data_dir, arguments.from.as_deref(), &mut report)?;
    drop(progress);
    let path = outcome.path.display();
    let (text, status) = match &outcome.status {
        Status::AlreadyComplete => (format!("{path} is complete already"), "already-complete"),
        Status::Downloaded { url, .. } => (format!("{path} is complete, from {url}"), "downloaded"),
        Status::FromFile { file } => (format!("{path} is complete, from {}", file.display()), "from-file"),
    };
    output.result(text, &json!({ "item": item.to_string(), "path": outcome.path, "status": status }));
    Ok(Ending::Done)
}
