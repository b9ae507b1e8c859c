//! The loops on all cores, vectorised; numbers do not know of each other, so the cut changes no bit.

use rayon::prelude::*;

use super::rules::Formula;
use crate::element::Element;
use crate::simd::{CHUNK, simd};

/// Rules that remember two numbers.
pub(super) fn two<T, F>(p: &mut [T], m: &mut [T], v: &mut [T], grad: &[T], formula: &F)
where
    T: Element,
    F: for<'a> Formula<T, Moments<'a> = (&'a mut T, &'a mut T)>,
{
    p.par_chunks_mut(CHUNK)
        .zip(m.par_chunks_mut(CHUNK))
        .zip(v.par_chunks_mut(CHUNK))
        .zip(grad.par_chunks(CHUNK))
        .for_each(|(((p, m), v), grad)| {
            simd(
                #[inline(always)]
                || {
                    for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(grad) {
                        formula.move_one(p, (m, v), g);
                    }
                },
            );
        });
}

/// Rules that remember one.
pub(super) fn one<T, F>(p: &mut [T], m: &mut [T], grad: &[T], formula: &F)
where
    T: Element,
    F: for<'a> Formula<T, Moments<'a> = &'a mut T>,
{
    p.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(grad.par_chunks(CHUNK)).for_each(|((p, m), grad)| {
        simd(
            #[inline(always)]
            || {
                for ((p, m), &g) in p.iter_mut().zip(m).zip(grad) {
                    formula.move_one(p, m, g);
                }
            },
        );
    });
}
