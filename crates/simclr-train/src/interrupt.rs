//! Ctrl-C and SIGTERM: finish the step, keep everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether somebody asked the program to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on. The first signal is remembered; a second one ends the program at once with status 130.
    ///
    /// # Errors
    /// If the system refuses the handlers.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let asked = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the signal that sets the flag must not see it set.
            flag::register_conditional_shutdown(signal, 130, asked.0.clone()).context("cannot listen to signals")?;
            flag::register(signal, asked.0.clone()).context("cannot listen to signals")?;
        }
        Ok(asked)
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
