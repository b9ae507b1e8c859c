//! Who reads what: results on stdout, prose on stderr.

use std::io::{IsTerminal, Write};

/// Where the program speaks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    /// Whether another process speaks for this one too.
    silent: bool,
    command: String,
}

/// The flags that say how.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct OutputArguments {
    /// Print the result as one JSON object on the last line of stdout
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// No progress and no remarks on stderr; errors still are
    #[arg(long, help_heading = "Output")]
    pub(crate) quiet: bool,
}

impl Output {
    /// Of a program that was started by `command`.
    pub(crate) fn new(arguments: OutputArguments, command: String) -> Self {
        Self { json: arguments.json, quiet: arguments.quiet, silent: false, command }
    }

    /// Where only errors are said: another process says the rest, and has the results.
    pub(crate) fn silent(self) -> Self {
        Self { quiet: true, silent: true, ..self }
    }

    /// What was typed, for results that say how they came about.
    pub(crate) fn command(&self) -> &str {
        &self.command
    }

    /// Whether progress can move: stderr is a terminal and nobody asked for quiet.
    pub(crate) fn is_live(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }

    /// A remark, on stderr.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            line(&mut std::io::stderr().lock(), text.as_ref());
        }
    }

    /// A result: `text` for people, or with `--json` only the object.
    pub(crate) fn result(&self, text: impl AsRef<str>, json: &serde_json::Value) {
        if self.silent {
            return;
        }
        let mut stdout = std::io::stdout().lock();
        if self.json {
            line(&mut stdout, &json.to_string());
        } else {
            line(&mut stdout, text.as_ref());
        }
    }

    /// What went wrong and why, on one line of stderr.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let mut message = error.to_string();
        for cause in error.chain().skip(1) {
            // Errors that show their source in their own message need not be followed by it.
            let cause = cause.to_string();
            if !message.contains(&cause) {
                message = format!("{message}: {cause}");
            }
        }
        line(&mut std::io::stderr().lock(), &format!("error: {message}"));
    }
}

/// Writes a line; a reader that has gone away is no error of ours.
fn line(to: &mut impl Write, text: &str) {
    let _ = writeln!(to, "{text}").and_then(|()| to.flush());
}
