use std::{
    io::{IsTerminal, Write, stderr},
    path::PathBuf,
};

use simclr_fetch::{Item, Origin, Status, fetch, wanted};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// cifar10, cifar100, stl10 (2.6 GB), weights (the encoder that the course pretrained), or all but stl10
    #[arg(default_value = "cifar10")]
    what: String,
    /// Where to put it
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,
    /// Take this file, or download from this address; it must pass the same checks
    #[arg(long, value_name = "FILE-OR-URL")]
    from: Option<Origin>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let items = wanted(&arguments.what, arguments.from.as_ref())?;
    for item in items {
        let mut progress = Progress { item, shown: None };
        let outcome = fetch(item, &arguments.data_dir, arguments.from.as_ref(), &mut |done, total| {
            progress.show(done, total);
        });
        progress.end();
        let outcome = outcome?;
        let path = outcome.path.display();
        match outcome.status {
            Status::AlreadyComplete => println!("{item}: {path} is there already, complete"),
            Status::Downloaded { url, bytes } => println!("{item}: {path}, {} MB from {url}", bytes / 1_000_000),
            Status::FromFile { file } => println!("{item}: {path}, from {}", file.display()),
        }
    }
    Ok(())
}

/// A line of progress: rewritten on a terminal, one per ten percent elsewhere.
struct Progress {
    item: Item,
    shown: Option<u64>,
}

impl Progress {
    fn show(&mut self, done: u64, total: Option<u64>) {
        let live = stderr().is_terminal();
        // Without a known size, by megabytes.
        let share = total.map_or(done / 1_000_000, |total| done * 100 / total.max(1));
        let step = if live { share } else { share / 10 };
        if self.shown == Some(step) {
            return;
        }
        self.shown = Some(step);
        let total = total.map_or(String::new(), |total| format!(" of {}", total / 1_000_000));
        let line = format!("{}: {}{total} MB", self.item, done / 1_000_000);
        if live {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
        // Progress that cannot be shown must not end a download.
        let _ = stderr().flush();
    }

    fn end(&self) {
        if self.shown.is_some() && stderr().is_terminal() {
            eprintln!();
        }
    }
}
