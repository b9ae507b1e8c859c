//! NT-Xent as `golden_loss.py` has it: values and gradients of a few batches and temperatures, in float64.

use std::collections::HashMap;

use candle_core::{Tensor, Var};
use simclr_loss::LossError;

use super::fixture::{self, numbers};

/// A form of the loss: of the two views and a temperature.
pub(crate) type Loss = fn(&Tensor, &Tensor, f64) -> Result<Tensor, LossError>;

pub(crate) struct Golden(HashMap<String, Tensor>);

impl Golden {
    pub(crate) fn load() -> Self {
        Self(fixture::load("loss"))
    }

    pub(crate) fn cases(&self) -> impl Iterator<Item = Case<'_>> {
        (0..).map_while(|i| self.0.contains_key(&format!("{i}.tau")).then_some(Case { golden: self, i }))
    }
}

pub(crate) struct Case<'a> {
    golden: &'a Golden,
    pub(crate) i: usize,
}

impl Case<'_> {
    pub(crate) fn get(&self, name: &str) -> &Tensor {
        &self.golden.0[&format!("{}.{name}", self.i)]
    }

    pub(crate) fn tau(&self) -> f64 {
        numbers(self.get("tau"))[0]
    }

    /// The loss, and the gradient of the left view followed by that of the right one.
    pub(crate) fn wanted(&self) -> (f64, Vec<f64>) {
        let gradients = ["left_grad", "right_grad"].map(|name| numbers(self.get(name))).concat();
        (numbers(self.get("loss"))[0], gradients)
    }
}

/// What a form computes where the views are, as [`Case::wanted`] has it.
pub(crate) fn value_and_gradients(loss: Loss, left: &Tensor, right: &Tensor, tau: f64) -> (f64, Vec<f64>) {
    let (left, right) = (Var::from_tensor(left).unwrap(), Var::from_tensor(right).unwrap());
    let loss = loss(&left, &right, tau).unwrap();
    assert_eq!((loss.dims(), loss.dtype()), ([].as_slice(), left.dtype()));
    let gradients = loss.backward().unwrap();
    let of = |v: &Var| numbers(gradients.get(v).unwrap());
    (numbers(&loss)[0], [of(&left), of(&right)].concat())
}
