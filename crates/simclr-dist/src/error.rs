//! What can go wrong between processes.

/// Why processes cannot work together.
#[derive(Debug, thiserror::Error)]
pub enum DistError {
    /// A process has left, or the thread that speaks to the others has ended.
    #[error("the other processes cannot be reached: {what}")]
    Gone {
        /// What was asked of them, and what is known.
        what: String,
    },
    /// The processes were started in a way that this build cannot follow.
    #[error("{what}")]
    Launch {
        /// What was found and what would help.
        what: String,
    },
    /// A variable of the launcher is not what it should be.
    #[error("the environment variable {name} is {found}, expected {expected}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// Its value, or `unset`.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// The processes did not find each other.
    #[error("rank {rank} cannot meet the others at {address}: {why}")]
    Meeting {
        /// The process that reports.
        rank: usize,
        /// Where they meet.
        address: String,
        /// What the system said, or who was missing.
        why: String,
    },
    /// Processes disagree on what to do next: a mistake of whoever calls.
    #[error("rank {rank} gives {found} numbers where rank 0 gives {expected}")]
    Unequal {
        /// The process that differs.
        rank: usize,
        /// Its numbers.
        found: usize,
        /// Those of rank 0.
        expected: usize,
    },
    /// NCCL or CUDA reported an error.
    #[error("NCCL on {device}: {what}")]
    Nccl {
        /// The GPU.
        device: String,
        /// What it said.
        what: String,
    },
}

impl DistError {
    pub(crate) fn gone(what: impl Into<String>) -> Self {
        Self::Gone { what: what.into() }
    }
}
