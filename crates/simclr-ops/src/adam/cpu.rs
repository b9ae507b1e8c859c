//! The same loop on all cores, vectorised.

use rayon::prelude::*;

use super::{Factors, reference};
use crate::element::Element;
use crate::simd::{CHUNK, simd};

pub(super) fn update<T: Element>(p: &mut [T], m: &mut [T], v: &mut [T], grad: &[T], factors: &Factors<T>) {
    p.par_chunks_mut(CHUNK)
        .zip(m.par_chunks_mut(CHUNK))
        .zip(v.par_chunks_mut(CHUNK))
        .zip(grad.par_chunks(CHUNK))
        .for_each(|(((p, m), v), grad)| {
            simd(
                #[inline(always)]
                || {
                    for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(grad) {
                        reference::move_one(p, m, v, g, factors);
                    }
                },
            );
        });
}
