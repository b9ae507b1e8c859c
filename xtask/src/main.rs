//! Chores of the project, as `cargo xtask COMMAND`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people at a terminal, not a library")]

mod bench;
mod ci;
mod fetch;
mod golden;
mod gpu_check;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Chores of the project
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Download data sets and weights, checked and resumable
    Fetch(fetch::Arguments),
    /// Make the golden fixtures again with PyTorch, or check that they still come out the same
    Golden(golden::Arguments),
    /// Compare training speed with that of another program, taking turns
    Bench(bench::Arguments),
    /// Test and measure everything that needs a GPU, and write one JSON report
    GpuCheck(gpu_check::Arguments),
    /// Run every gate (.ci/run)
    Ci,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Fetch(arguments) => fetch::run(&arguments),
        Command::Golden(arguments) => golden::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::GpuCheck(arguments) => gpu_check::run(&arguments),
        Command::Ci => ci::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {}", message(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, without those that a message further up has told already.
fn message(error: &anyhow::Error) -> String {
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

/// The folder of the workspace, wherever the command was typed.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").into()
}
