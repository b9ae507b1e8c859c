//! Plain loops, compiled for several instruction sets and chosen at run time.
//!
//! Rust never fuses or reorders floating-point operations by itself, so a loop gives the same bits under each of them.

/// Elements per task of an element-wise pass over all threads: small enough to balance, large enough to hide the dispatch.
pub(crate) const CHUNK: usize = 1 << 15;

/// Runs `body` compiled for the best instruction set of this CPU (AVX-512, AVX2 + FMA, NEON or the baseline).
///
/// Only what is inlined is compiled anew: mark the closure, and the functions it calls, `#[inline(always)]`.
#[inline(always)]
pub(crate) fn simd<R>(body: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(body)
}
