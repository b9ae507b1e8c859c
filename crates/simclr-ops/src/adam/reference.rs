//! The definition, in a plain loop.

use super::Factors;
use crate::element::Element;

pub(super) fn update<T: Element>(p: &mut [T], m: &mut [T], v: &mut [T], grad: &[T], factors: &Factors<T>) {
    for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(grad) {
        move_one(p, m, v, g, factors);
    }
}

/// One number by one gradient, in the order of `torch.optim.Adam`.
#[inline(always)]
pub(super) fn move_one<T: Element>(p: &mut T, m: &mut T, v: &mut T, g: T, factors: &Factors<T>) {
    let g = g + *p * factors.weight_decay;
    *m = *m * factors.beta1 + g * factors.one_minus_beta1;
    *v = *v * factors.beta2 + g * g * factors.one_minus_beta2;
    *p -= factors.step_size * (*m / (v.sqrt() / factors.root + factors.eps));
}
