//! How processes come together, and how they part.

use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use simclr_dist::{Backend, DistError};

use super::{Agreed, Ranks};
use crate::Usage;
use crate::output::Output;

/// What the others wait before they speak of an error: the first of them may have the same, and ends all of them when it says so.
const COURTESY: Duration = Duration::from_secs(2);

/// What processes tell each other when they meet.
#[derive(Debug, Serialize, Deserialize)]
struct Introduction {
    host: String,
    /// The cores that it may run on, as the system lists them.
    cores: String,
}

impl Ranks {
    /// Joins the processes that were started together with this one, to do what was typed: `command`.
    ///
    /// # Errors
    /// [`Usage`] for an unknown `backend`; [`Agreed`] if one of them is another program or was asked for something else; what the
    /// launcher and the transport report.
    pub(crate) fn join(backend: Option<&str>, command: &str) -> anyhow::Result<Self> {
        let backend = match backend {
            None | Some("auto") => None,
            Some(name) => Some(
                name.parse::<Backend>()
                    .map_err(|_| Usage(format!("--dist is {name}, expected auto, none, mpi or nccl")))?,
            ),
        };
        let group = simclr_dist::join(backend)?;
        if group.size() == 1 {
            return Ok(Self::of(group));
        }
        let own = Introduction { host: host(), cores: cores() };
        let ranks = Self { host: own.host.clone(), ..Self::of(group) };
        let all = ranks.gather(&own)?;
        let beside = |other: &&Introduction| other.host == own.host && other.cores == own.cores;
        let ranks = Self { on_these_cores: all.iter().filter(beside).count(), ..ranks };
        ranks.must_match("program", &ranks.agree(program())?)?;
        ranks.must_match("command line", command)?;
        Ok(ranks)
    }

    /// Refuses a command that is one process's work.
    ///
    /// # Errors
    /// [`Agreed`] if they are several.
    pub(crate) fn must_be_alone(&self) -> anyhow::Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let message =
            format!("this command is the work of one process, but {} were started: start it by itself", self.count());
        Err(Agreed { message, is_usage: true }.into())
    }

    /// Says why the processes did not come together, once if all know of one another, and gives the exit status.
    pub(crate) fn cannot_join(error: &anyhow::Error, output: &Output) -> u8 {
        // What is wrong with the build or with what was typed is wrong on all of them.
        let is_first = simclr_dist::Launch::found().is_ok_and(|launch| launch.rank() == 0);
        let is_everybody_s = error.is::<Usage>()
            || error.is::<Agreed>()
            || matches!(error.downcast_ref(), Some(DistError::Launch { .. }));
        if is_first || !is_everybody_s {
            output.error(error);
        }
        if error.is::<Usage>() { 2 } else { 1 }
    }

    /// Ends the work of all of them with an error of this one: an exit status that this process is to end with, or no return at all.
    pub(crate) fn fail(&self, error: &anyhow::Error, output: &Output) -> u8 {
        let agreed = error.downcast_ref::<Agreed>();
        let status = if error.is::<Usage>() || agreed.is_some_and(|agreed| agreed.is_usage) { 2 } else { 1 };
        if self.is_alone() {
            output.error(error);
            return status;
        }
        if agreed.is_some() {
            if self.is_first() {
                output.error(error);
            }
            // All of them are here; the first may still be writing.
            let _ = self.group.finish();
            return status;
        }
        if !self.is_first() {
            std::thread::sleep(COURTESY);
        }
        output.error(&anyhow::anyhow!("{}: {error:#}", self.name()));
        self.group.abort(i32::from(status))
    }

    /// Parts in peace.
    ///
    /// # Errors
    /// If the others are gone.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        Ok(self.group.finish()?)
    }
}

fn host() -> String {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    name.map_or_else(|_| "unknown host".into(), |name| name.trim().to_owned())
}

fn cores() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.unwrap_or_default().trim().to_owned()
}

/// Name, version and the SHA-256 of the file that runs: another build may compute other bits.
fn program() -> anyhow::Result<String> {
    let path = std::env::current_exe().context("this program's own file")?;
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let hash: String = Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{} (build {hash})", crate::config::program()))
}
