//! Similarities and NT-Xent, the contrastive loss of SimCLR.
//!
//! The course's functions under the course's names ([`sim`], [`sim_positive_pairs`], [`compute_sim_matrix`],
//! [`simclr_loss_naive`], [`simclr_loss_vectorized`]), and [`nt_xent`], the one that training uses: the same value and the
//! same gradient in less memory and time.

mod course;
mod error;
mod nt_xent;
#[cfg(feature = "cuda")]
mod on_gpu;
mod similarity;
mod symmetric;

pub use course::{simclr_loss_naive, simclr_loss_vectorized};
pub use error::LossError;
pub use nt_xent::{nt_xent, nt_xent_over};
pub use similarity::{compute_sim_matrix, sim, sim_positive_pairs};
