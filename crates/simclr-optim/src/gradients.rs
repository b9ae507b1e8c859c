//! The gradients of all parameters of an optimizer.

use candle_core::Tensor;
use simclr_ops::storage::add_assign;
use simclr_ops::{Context, update};

use crate::error::OptimError;

/// One gradient for every parameter, in the order of the optimizer that collected them.
///
/// They are sums where several parts of a batch, or several batches, make one step.
#[derive(Debug)]
pub struct Gradients {
    pub(crate) tensors: Vec<Tensor>,
    /// Whether the tensors share no memory with anybody: sums may be made where they are.
    owned: bool,
}

impl Gradients {
    pub(crate) fn new(tensors: Vec<Tensor>) -> Self {
        Self { tensors, owned: false }
    }

    /// Adds those of another part.
    ///
    /// # Errors
    /// [`OptimError::Ops`] if they are not of the same parameters.
    pub fn add(&mut self, other: &Self) -> Result<(), OptimError> {
        if !self.owned {
            // What a graph gave may be in use elsewhere.
            self.tensors = self.tensors.iter().map(Tensor::copy).collect::<Result<_, _>>()?;
            self.owned = true;
        }
        for (sum, term) in self.tensors.iter().zip(&other.tensors) {
            add_assign(sum, &term.contiguous()?)?;
        }
        Ok(())
    }

    /// The gradients, in the order of the optimizer that collected them.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The same parameters with other gradients: what other processes make of these.
    ///
    /// # Errors
    /// [`OptimError::Candle`] if there are not as many, or if one has another shape.
    pub fn replaced(&self, tensors: Vec<Tensor>) -> Result<Self, OptimError> {
        let shapes = |tensors: &[Tensor]| tensors.iter().map(|t| t.dims().to_vec()).collect::<Vec<_>>();
        if shapes(&tensors) != shapes(&self.tensors) {
            return Err(candle_core::Error::Msg("these are not the gradients of the same parameters".into()).into());
        }
        Ok(Self { tensors, owned: false })
    }

    /// The Euclidean norm of all of them together, summed in f64; not finite if a number is not.
    ///
    /// # Errors
    /// [`OptimError::Ops`] if a tensor is not f32 or f64.
    pub fn norm(&self, ctx: &Context) -> Result<f64, OptimError> {
        let tensors: Vec<&Tensor> = self.tensors.iter().collect();
        Ok(update::squared_norm_of_all(ctx, &tensors)?.sqrt())
    }
}
