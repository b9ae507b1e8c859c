//! The micro-kernels: a tile of up to [`ROWS`] × [`COLS`] sums, held in registers from the first product to the last.
//!
//! The right factor is packed ([`super::panels`]); the left one is read where it lies, one number at a time and spread over a
//! vector: rows of a map or of a matrix need no packing.

use super::instructions::Instructions;
use crate::element::Element;

/// Rows of a tile: with two vectors a row, 24 of the 32 registers of AVX-512 hold sums.
pub(crate) const ROWS: usize = 12;

/// Columns of a tile, and of a panel of the right factor: two AVX-512 vectors of f32.
pub(crate) const COLS: usize = 32;

/// Where up to [`ROWS`] rows begin; those that a tile does not have are never looked at.
pub(crate) type Pointers<T> = [*const T; ROWS];

/// Where a tile goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile<T> {
    /// The first element of each of its rows; at most [`ROWS`] of them count.
    pub(crate) out: [*mut T; ROWS],
    /// Rows, 1 to [`ROWS`].
    pub(crate) rows: usize,
    /// Columns, 1 to [`COLS`].
    pub(crate) cols: usize,
    /// Whether it is added to what is there.
    pub(crate) accumulate: bool,
}

/// The left factor of a tile.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left<'a, T> {
    /// Rows of which each consists of parts, `len` elements in a run each: the pixels under a kernel, or, with one part, a matrix.
    Rows {
        /// The beginnings of the rows, for each part.
        parts: &'a [Pointers<T>],
        /// Elements of each part that are passed over.
        skip: usize,
        /// Elements of a part that count.
        len: usize,
    },
    /// A transposed matrix: row `r`, element `l` is at `first + l · stride + r`.
    Columns {
        /// Element 0 of row 0.
        first: *const T,
        /// From one element to the next of the same row.
        stride: usize,
        /// Elements of a row.
        len: usize,
    },
}

/// `tile = left · panel`, or `tile += …`; the sums run over the elements of a row in order.
///
/// # Safety
/// All elements of the left rows are readable; `panel` has [`COLS`] readable elements for each of them; `tile.cols` elements from each
/// of the first `tile.rows` pointers are writable, initialised if `accumulate`, and nobody else's; the CPU has `instructions`.
pub(crate) unsafe fn tile<T: Element>(instructions: Instructions, left: Left<'_, T>, panel: *const T, tile: &Tile<T>) {
    debug_assert!((1..=ROWS).contains(&tile.rows) && (1..=COLS).contains(&tile.cols));
    // SAFETY: the caller's promises are passed on.
    unsafe { T::tile(instructions, left, panel, tile) }
}
