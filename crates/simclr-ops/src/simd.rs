//! Loops and vectors, compiled for several instruction sets and chosen at run time.
//!
//! Rust never fuses or reorders floating-point operations by itself, so a loop gives the same bits under each of them.

use pulp::{Arch, Simd, WithSimd};

use crate::product::Instructions;

/// Elements per task of an element-wise pass over all threads: small enough to balance, large enough to hide the dispatch.
pub(crate) const CHUNK: usize = 1 << 15;

/// Runs `body` compiled for the best instruction set of this CPU (AVX-512, AVX2 + FMA, NEON or the baseline).
///
/// Only what is inlined is compiled anew: mark the closure, and the functions it calls, `#[inline(always)]`.
#[inline(always)]
pub(crate) fn simd<R>(body: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(body)
}

/// [`simd`] with the instructions that are asked for, or the best below them where this CPU lacks a part of them.
#[inline(always)]
pub(crate) fn simd_with<R>(instructions: Instructions, body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if let (Instructions::Avx512, Some(simd)) = (instructions, pulp::x86::V4::try_new()) {
            return simd.vectorize(body);
        }
        if let (Instructions::Avx2 | Instructions::Avx512, Some(simd)) = (instructions, pulp::x86::V3::try_new()) {
            return simd.vectorize(body);
        }
        body()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = instructions;
        simd(body)
    }
}

/// Runs `body` with the vectors of the best instruction set of this CPU: where a loop would not be made into vectors by itself.
#[inline(always)]
pub(crate) fn with_vectors<W: WithSimd>(body: W) -> W::Output {
    Arch::new().dispatch(body)
}

/// Element types and their vectors.
pub(crate) trait Vectors: Copy {
    /// Some elements, as many as an instruction takes.
    type Vector<S: Simd>: Copy;

    /// How many.
    #[inline(always)]
    fn lanes<S: Simd>() -> usize {
        size_of::<Self::Vector<S>>() / size_of::<Self>()
    }

    /// The same number in every lane.
    fn splat<S: Simd>(simd: S, number: f64) -> Self::Vector<S>;

    /// The first elements; zeros where there are too few.
    fn load<S: Simd>(simd: S, from: &[Self]) -> Self::Vector<S>;

    /// Writes as many elements as there is room for.
    fn store<S: Simd>(simd: S, to: &mut [Self], vector: Self::Vector<S>);

    /// `a + b`.
    fn add<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;

    /// `a - b`.
    fn sub<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;

    /// `a · b`.
    fn mul<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
}

macro_rules! vectors {
    ($element:ty, $vector:ident, $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident) => {
        impl Vectors for $element {
            type Vector<S: Simd> = S::$vector;

            #[inline(always)]
            fn splat<S: Simd>(simd: S, number: f64) -> S::$vector {
                simd.$splat(number as $element)
            }

            #[inline(always)]
            fn load<S: Simd>(simd: S, from: &[$element]) -> S::$vector {
                if from.len() >= Self::lanes::<S>() {
                    // SAFETY: there are as many elements as a vector has, which is made of nothing else.
                    return unsafe { from.as_ptr().cast::<S::$vector>().read_unaligned() };
                }
                simd.$load(from)
            }

            #[inline(always)]
            fn store<S: Simd>(simd: S, to: &mut [$element], vector: S::$vector) {
                if to.len() >= Self::lanes::<S>() {
                    // SAFETY: there is room for as many elements as a vector has, which is made of nothing else.
                    return unsafe { to.as_mut_ptr().cast::<S::$vector>().write_unaligned(vector) };
                }
                simd.$store(to, vector);
            }

            #[inline(always)]
            fn add<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$add(a, b)
            }

            #[inline(always)]
            fn sub<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$sub(a, b)
            }

            #[inline(always)]
            fn mul<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$mul(a, b)
            }
        }
    };
}

vectors!(f32, f32s, splat_f32s, partial_load_f32s, partial_store_f32s, add_f32s, sub_f32s, mul_f32s);
vectors!(f64, f64s, splat_f64s, partial_load_f64s, partial_store_f64s, add_f64s, sub_f64s, mul_f64s);
