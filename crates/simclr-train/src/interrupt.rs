//! Ctrl-C, SIGTERM and SIGUSR1: finish the step, keep everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Launchers of many processes pass SIGUSR1 on and leave it at that; behind the others most send SIGKILL a second later.
#[cfg(unix)]
const SIGNALS: &[i32] = &[SIGINT, SIGTERM, signal_hook::consts::SIGUSR1];
#[cfg(not(unix))]
const SIGNALS: &[i32] = &[SIGINT, SIGTERM];

/// Whether somebody asked the program to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
    /// Whether there is nothing to finish or to keep.
    at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on. The first signal is remembered; a second one ends the program at once with status 130, as does the
    /// first where nothing would be lost ([`Self::at_once`]).
    ///
    /// # Errors
    /// If the system refuses the handlers.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let asked = Self::default();
        for &signal in SIGNALS {
            // In this order: the signal that sets the flag must not see it set.
            let conditions = [&asked.asked, &asked.at_once];
            for condition in conditions {
                flag::register_conditional_shutdown(signal, 130, condition.clone())
                    .context("cannot listen to signals")?;
            }
            flag::register(signal, asked.asked.clone()).context("cannot listen to signals")?;
        }
        Ok(asked)
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Says whether a signal may end the program at once: everything that was trained is in a checkpoint.
    pub(crate) fn at_once(&self, nothing_to_lose: bool) {
        self.at_once.store(nothing_to_lose, Ordering::Relaxed);
    }
}
