//! Optimizers with PyTorch's update rules and SimCLR's LARS, and learning-rate schedules.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use simclr_optim::{Group, Momentum, Optimizer, Rule};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let x = Var::new(2f32, &Device::Cpu)?;
//! let groups = Group::all(&[("x".into(), x.clone())], 0.0);
//! let mut sgd = Optimizer::new(Rule::Sgd(Momentum::default()), &groups, 0.01, &Default::default())?;
//! for _ in 0..200 {
//!     sgd.step(&x.sqr()?.backward()?)?;
//! }
//! assert!(x.to_scalar::<f32>()?.abs() < 0.1);
//! # Ok(())
//! # }
//! ```

mod error;
mod gradients;
mod optimizer;
mod rule;
mod schedule;

pub use error::OptimError;
pub use gradients::Gradients;
pub use optimizer::{Group, Optimizer};
pub use rule::{Betas, Momentum, Rule};
pub use schedule::{Decay, Schedule};
pub use simclr_ops::update::{Outcome, Report, Reported, Scale};
