//! Processes that train together.
//!
//! A [`ProcessGroup`] is all that data-parallel training asks of them: sums, gathers, broadcasts, a barrier. Every process makes the
//! same calls in the same order. Its forms:
//!
//! | form | for | transport |
//! |---|---|---|
//! | [`Single`] | one process | none |
//! | [`threads`] | several ranks in one process: tests | memory |
//! | `mpi::Mpi` (feature `mpi`) | CPUs of one or many machines, started by `mpirun` or `srun` | the system's MPI |
//! | `nccl::Nccl` (feature `nccl`) | GPUs, one to a process, started by torchrun, `mpirun` or `srun` | NCCL |
//!
//! [`join`] finds out from the environment how this process was started. [`Buckets`] sums gradients while others are still being
//! computed; [`Measured`] says what all of it costs.

mod buckets;
mod error;
mod group;
mod launch;
mod measured;
#[cfg(any(feature = "nccl", test))]
mod meeting;
#[cfg(feature = "mpi")]
pub mod mpi;
#[cfg(feature = "nccl")]
pub mod nccl;
mod single;
mod threads;
mod tree;

pub use buckets::Buckets;
pub use error::DistError;
pub use group::{Pending, ProcessGroup, share};
pub use launch::{Backend, Launch, join};
pub use measured::{Cost, Measured, Traffic};
pub use single::Single;
pub use threads::threads;
