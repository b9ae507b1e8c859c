//! Optimizers with PyTorch's update rules.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use simclr_optim::{Adam, AdamConfig};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let x = Var::new(2f32, &Device::Cpu)?;
//! let mut adam = Adam::new(&[("x".into(), x.clone())], AdamConfig { learning_rate: 0.1, ..AdamConfig::default() }, &Default::default())?;
//! for _ in 0..100 {
//!     adam.step(&x.sqr()?.backward()?)?;
//! }
//! assert!(x.to_scalar::<f32>()?.abs() < 0.1);
//! # Ok(())
//! # }
//! ```

mod adam;
mod error;

pub use adam::{Adam, AdamConfig};
pub use error::OptimError;
