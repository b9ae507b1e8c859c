//! The program: pretrain an encoder without labels, then evaluate it.
//!
//! The command line goes in as text (`cli`), becomes a validated `config::Config`, and `pretrain` does the work.
//! Results go to stdout, everything else to stderr.

mod augment;
mod bench;
mod caption;
mod checkpoint;
mod cli;
mod config;
mod contrast;
mod convert;
mod course_report;
mod cs231n;
mod data_sets;
mod doctor;
mod duplicates;
mod embed;
mod evaluate;
mod features_file;
mod feed;
mod fetch;
mod few_labels;
mod figure;
mod finetune;
mod gpu_memory;
mod imagenet;
mod interrupt;
mod knn;
mod linear;
mod logistic;
mod machine;
mod meter;
mod metrics;
mod monitor;
mod mosaic;
mod output;
mod page;
mod precision;
mod preset;
mod pretrain;
mod progress;
mod ranks;
mod report;
mod run_folder;
mod search;
mod settings;
mod sheet;
mod status;
mod study;
mod summary;
mod table;
mod tensorboard;
mod thumbnails;
mod training;
mod warning;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::output::Output;
use crate::ranks::Ranks;

/// A mistake in what was typed: exit status 2, like clap's own.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Done,
    /// By Ctrl-C or SIGTERM, with everything kept.
    Interrupted,
}

/// Runs the program on its arguments, the first of which is its name.
///
/// Exit status 0; 1 if it failed; 2 for a mistake in the arguments; 130 if it was interrupted and wrote a checkpoint.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` come this way too, with status 0. A closed pipe is nobody's problem.
            if Ranks::is_first_by_launcher() {
                let _ = error.print();
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let output = Output::new(cli.output(), typed(&arguments));
    let mut ranks = match Ranks::join(cli.dist().map(|arguments| arguments.dist.as_deref())) {
        Ok(ranks) => ranks,
        Err(error) => return ExitCode::from(Ranks::cannot_join(&error, &output)),
    };
    let output = if ranks.is_first() { output } else { output.silent() };
    let ended = ranks.introduce(output.command()).and_then(|()| dispatch(&cli, &ranks, &output));
    let ended = ended.and_then(|ending| ranks.finish().map(|()| ending));
    match ended {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::Interrupted) => ExitCode::from(130),
        Err(error) => ExitCode::from(ranks.fail(&error, &output)),
    }
}

/// A command line to be typed again: arguments with other characters than plain ones in quotes.
fn typed(arguments: &[OsString]) -> String {
    let word = |argument: &OsString| {
        let text = argument.to_string_lossy().into_owned();
        let plain = |c: char| c.is_alphanumeric() || "-_./:=%+,@".contains(c);
        if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
    };
    let words = arguments.iter().skip(1).map(word);
    std::iter::once("simclr-train".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

fn dispatch(cli: &Cli, ranks: &Ranks, output: &Output) -> anyhow::Result<Ending> {
    match &cli.command {
        None => pretrain::command(&cli.quick, true, ranks, output),
        Some(Command::Pretrain(arguments)) => pretrain::command(arguments, false, ranks, output),
        Some(Command::Knn(arguments)) => knn::command(arguments, ranks, output),
        Some(Command::Linear(arguments)) => linear::command(arguments, output),
        Some(Command::Finetune(arguments)) => finetune::command(arguments, output),
        Some(Command::Cs231n(arguments)) => cs231n::command(arguments, output),
        Some(Command::Import(arguments)) => convert::import(arguments, output),
        Some(Command::Export(arguments)) => convert::export(arguments, output),
        Some(Command::Embed(arguments)) => embed::command(arguments, ranks, output),
        Some(Command::Search(arguments)) => search::command(arguments, output),
        Some(Command::Duplicates(arguments)) => duplicates::command(arguments, output),
        Some(Command::Augment(arguments)) => augment::command(arguments, output),
        Some(Command::Report(arguments)) => report::command(arguments, output),
        Some(Command::Status(arguments)) => status::command(arguments, output),
        Some(Command::Doctor(arguments)) => doctor::command(arguments, output),
        Some(Command::Presets(arguments)) => preset::command(arguments, output),
        Some(Command::Bench(command)) => bench::command(command, ranks, output),
        Some(Command::Fetch(arguments)) => fetch::command(arguments, output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_can_be_typed_again() {
        let typed = typed(&["/some/simclr-train", "knn", "--checkpoint", "my runs/it's", ""].map(OsString::from));
        assert_eq!(typed, r"simclr-train knn --checkpoint 'my runs/it'\''s' ''");
    }
}
