//! How processes come together, and how they part.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use simclr_dist::{Backend, DistError, Launch};

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
    /// Joins the processes that were started together with this one, over the backend that was typed if one was; `dist` is none of a
    /// command that is one process's work.
    ///
    /// # Errors
    /// [`Usage`] for an unknown backend; [`Agreed`] if several were started to do one's work; what the launcher and the transport report.
    pub(crate) fn join(dist: Option<Option<&str>>) -> anyhow::Result<Self> {
        let Some(backend) = dist else {
            // A launcher's variables that make no sense are no reason not to do it.
            let count = Launch::found().map_or(1, |launch| launch.size());
            if count == 1 {
                return Ok(Self::alone());
            }
            let message =
                format!("this command is the work of one process, but {count} were started: start it by itself");
            return Err(Agreed { message, is_usage: true }.into());
        };
        let backend = match backend {
            None | Some("auto") => None,
            Some(name) => Some(
                name.parse::<Backend>()
                    .map_err(|_| Usage(format!("--dist is {name}, expected auto, none, mpi or nccl")))?,
            ),
        };
        Ok(Self::of(simclr_dist::join(backend)?))
    }

    /// Learns who the others are, and that they are the same program and do the same: `command`.
    ///
    /// # Errors
    /// [`Agreed`] if they are not.
    pub(crate) fn introduce(&mut self, command: &str) -> anyhow::Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let own = Introduction { host: host(), cores: cores() };
        self.host = own.host.clone();
        let all = self.gather(&own)?;
        let here = || all.iter().filter(|other| other.host == own.host);
        self.on_these_cores = here().filter(|other| other.cores == own.cores).count();
        self.idle = idle(here().count(), here().map(|other| other.cores.as_str()), machine_cores());
        self.must_match("program", program)?;
        self.must_match("command line", || Ok(command.to_owned()))
    }

    /// Whether this is the process that speaks, as far as a launcher says: before they know each other.
    pub(crate) fn is_first_by_launcher() -> bool {
        Launch::found().map_or(true, |launch| launch.rank() == 0)
    }

    /// Says why the processes did not come together, once if all know of one another, and gives the exit status.
    pub(crate) fn cannot_join(error: &anyhow::Error, output: &Output) -> u8 {
        // What is wrong with the build or with what was typed is wrong on all of them.
        let agreed = error.downcast_ref::<Agreed>();
        let is_everybody_s =
            error.is::<Usage>() || agreed.is_some() || matches!(error.downcast_ref(), Some(DistError::Launch { .. }));
        if Self::is_first_by_launcher() || !is_everybody_s {
            output.error(error);
        }
        if error.is::<Usage>() || agreed.is_some_and(|agreed| agreed.is_usage) { 2 } else { 1 }
    }

    /// Ends the work of all of them with an error of this one: an exit status that this process is to end with, or no return at all.
    pub(crate) fn fail(&self, error: &anyhow::Error, output: &Output) -> u8 {
        let agreed = error.downcast_ref::<Agreed>();
        let status = if error.is::<Usage>() || agreed.is_some_and(|agreed| agreed.is_usage) { 2 } else { 1 };
        if self.is_alone() {
            output.error(error);
            // One process of MPI has to take its leave as well.
            let _ = self.group.finish();
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

/// What is to be said of cores that the processes of a machine leave alone: launchers bind each to one core, if nobody says otherwise.
fn idle<'a>(ranks: usize, lists: impl Iterator<Item = &'a str>, cores: usize) -> Option<String> {
    let used: BTreeSet<usize> = lists.flat_map(listed).collect();
    (2 * used.len() <= cores && !used.is_empty()).then(|| {
        format!(
            "{ranks} processes on this machine may use {} of its {cores} cores: `mpirun --bind-to none`, or `--map-by ppr:1:socket --bind-to socket`, gives them more",
            used.len()
        )
    })
}

/// The cores of a list as the system writes it: `0-3,8`.
fn listed(list: &str) -> Vec<usize> {
    let part = |part: &str| -> Option<Vec<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?..=last.trim().parse().ok()?).collect())
    };
    list.split(',').filter_map(part).flatten().collect()
}

/// Cores that the machine has; 0 where the system does not tell.
fn machine_cores() -> usize {
    std::fs::read_to_string("/sys/devices/system/cpu/online").map_or(0, |list| listed(&list).len())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_where_processes_leave_most_alone() {
        assert_eq!((listed("0-3,8"), listed(""), listed("7\n")), (vec![0, 1, 2, 3, 8], vec![], vec![7]));
        let told = idle(2, ["0", "1"].into_iter(), 64).unwrap();
        assert!(told.starts_with("2 processes on this machine may use 2 of its 64 cores"), "{told}");
        assert!(idle(2, ["0-31", "32-63"].into_iter(), 64).is_none() && idle(2, ["0", "1"].into_iter(), 2).is_none());
        assert!(idle(2, ["", ""].into_iter(), 0).is_none());
    }
}
