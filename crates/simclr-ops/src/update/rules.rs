//! The definitions: one number of a parameter moved by one number of its gradient.

use super::{Adam, Lars, Sgd};
use crate::element::{Element, narrow};

/// Moves one number and what its rule remembers of it.
pub(super) trait Formula<T>: Copy + Send + Sync {
    /// Numbers remembered beside each number of a parameter.
    type Moments<'a>;

    fn move_one(&self, p: &mut T, moments: Self::Moments<'_>, g: T);
}

/// [`Adam`]'s numbers as its loop uses them.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdamFactors<T> {
    scale: T,
    /// L2: in the gradient.
    weight_decay: T,
    /// Decoupled: of the parameter itself.
    keep: T,
    beta1: T,
    one_minus_beta1: T,
    beta2: T,
    one_minus_beta2: T,
    /// Learning rate over the first bias correction.
    step_size: T,
    /// Root of the second bias correction.
    root: T,
    eps: T,
}

impl<T: Element> AdamFactors<T> {
    pub(super) fn new(step: &Adam, scale: f64) -> Self {
        let correction = |beta: f64| 1.0 - beta.powf(step.number as f64);
        let (l2, decoupled) = if step.decoupled { (0.0, step.weight_decay) } else { (step.weight_decay, 0.0) };
        Self {
            scale: narrow(scale),
            weight_decay: narrow(l2),
            keep: narrow(1.0 - step.learning_rate * decoupled),
            beta1: narrow(step.beta1),
            one_minus_beta1: narrow(1.0 - step.beta1),
            beta2: narrow(step.beta2),
            one_minus_beta2: narrow(1.0 - step.beta2),
            step_size: narrow(step.learning_rate / correction(step.beta1)),
            root: narrow(correction(step.beta2).sqrt()),
            eps: narrow(step.eps),
        }
    }
}

#[cfg(feature = "cuda")]
impl AdamFactors<f32> {
    /// As the kernel reads them.
    pub(super) fn numbers(self) -> [f32; 10] {
        let Self { scale, weight_decay, keep, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, root, eps } =
            self;
        [scale, weight_decay, keep, beta1, one_minus_beta1, beta2, one_minus_beta2, step_size, root, eps]
    }
}

/// In the order of `torch.optim.Adam` and `AdamW`.
impl<T: Element> Formula<T> for AdamFactors<T> {
    type Moments<'a> = (&'a mut T, &'a mut T);

    #[inline(always)]
    fn move_one(&self, p: &mut T, (m, v): (&mut T, &mut T), g: T) {
        let decayed = *p * self.keep;
        let g = g * self.scale + *p * self.weight_decay;
        *m = *m * self.beta1 + g * self.one_minus_beta1;
        *v = *v * self.beta2 + g * g * self.one_minus_beta2;
        *p = decayed - self.step_size * (*m / (v.sqrt() / self.root + self.eps));
    }
}

/// [`Sgd`]'s numbers, and [`Lars`]'s, as their loop uses them.
#[derive(Clone, Copy, Debug)]
pub(super) struct SgdFactors<T> {
    scale: T,
    weight_decay: T,
    momentum: T,
    /// Learning rate of the gradient on its way into the velocity: 1 for SGD.
    into: T,
    /// Learning rate of the velocity on its way into the parameter: 1 for LARS.
    out: T,
    nesterov: bool,
}

impl<T: Element> SgdFactors<T> {
    pub(super) fn sgd(step: &Sgd, scale: f64) -> Self {
        Self {
            scale: narrow(scale),
            weight_decay: narrow(step.weight_decay),
            momentum: narrow(step.momentum),
            into: T::one(),
            out: narrow(step.learning_rate),
            nesterov: step.nesterov,
        }
    }

    /// `ratio` is the trust ratio of this parameter.
    pub(super) fn lars(step: &Lars, ratio: f64, scale: f64) -> Self {
        Self {
            scale: narrow(scale),
            weight_decay: narrow(step.weight_decay),
            momentum: narrow(step.momentum),
            into: narrow(step.learning_rate * ratio),
            out: T::one(),
            nesterov: step.nesterov,
        }
    }
}

#[cfg(feature = "cuda")]
impl SgdFactors<f32> {
    /// As the kernel reads them.
    pub(super) fn numbers(self) -> [f32; 10] {
        let Self { scale, weight_decay, momentum, into, out, nesterov } = self;
        let nesterov = if nesterov { 1.0 } else { 0.0 };
        [scale, weight_decay, momentum, into, out, nesterov, 0.0, 0.0, 0.0, 0.0]
    }
}

/// In the order of `torch.optim.SGD` without dampening, and of the LARS of SimCLR's code.
impl<T: Element> Formula<T> for SgdFactors<T> {
    type Moments<'a> = &'a mut T;

    #[inline(always)]
    fn move_one(&self, p: &mut T, velocity: &mut T, g: T) {
        let g = (g * self.scale + *p * self.weight_decay) * self.into;
        *velocity = *velocity * self.momentum + g;
        let by = if self.nesterov { g + *velocity * self.momentum } else { *velocity };
        *p -= self.out * by;
    }
}
