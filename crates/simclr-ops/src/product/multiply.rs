//! Products of any size, as tiles: cut so that what is read again lies in a cache, and by shape alone.

use std::ops::Range;

use rayon::prelude::*;

use super::instructions::Instructions;
use super::kernel::{COLS, Left, Pointers, ROWS, Tile, tile};
use super::panels::Panels;
use crate::element::Element;

/// Rows of the left factor that are multiplied with a whole panel before the next panel comes.
const BLOCK_ROWS: usize = 8 * ROWS;

/// Elements of a row that are summed before the next block of rows comes: with [`BLOCK_ROWS`] of them, some hundred KiB, and a panel
/// of as many lines, the second cache of a core is half full.
const BLOCK_LEN: usize = 256;

/// Tasks that a product is cut into at least, if it is large enough.
const TASKS: usize = 16;

/// A left factor, read where it lies.
pub(crate) trait LeftFactor<T>: Sync {
    /// Its rows.
    fn rows(&self) -> usize;

    /// Parts of a row, and elements of a part.
    fn parts(&self) -> (usize, usize);

    /// Adds to `table` where these rows, at most [`ROWS`], begin: an entry for each part. Nothing for a matrix of columns.
    fn point(&self, rows: Range<usize>, table: &mut Vec<Pointers<T>>);

    /// The rows from `first_row` on, for which [`Self::point`] gave `pointers`: `len` elements of each of `parts`, from `skip` on.
    fn left<'a>(
        &self,
        first_row: usize,
        pointers: &'a [Pointers<T>],
        parts: Range<usize>,
        skip: usize,
        len: usize,
    ) -> Left<'a, T>;
}

/// Memory that tiles go to: element `(row, col)` of the product is at the returned address.
pub(crate) trait Target<T>: Sync {
    /// The address.
    fn at(&self, row: usize, col: usize) -> *mut T;
}

/// A row-major matrix in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dense<T> {
    /// Its first element.
    pub(crate) first: *mut T,
    /// From one row to the next.
    pub(crate) stride: usize,
}

// SAFETY: it is an address; those who write through it promise not to write the same element twice.
unsafe impl<T: Send> Send for Dense<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Dense<T> {}

impl<T> Dense<T> {
    /// Where a row begins.
    pub(crate) fn at_row(&self, row: usize) -> *mut T {
        self.first.wrapping_add(row * self.stride)
    }
}

impl<T: Element> Target<T> for Dense<T> {
    fn at(&self, row: usize, col: usize) -> *mut T {
        self.at_row(row).wrapping_add(col)
    }
}

/// Writes (or adds, with `accumulate`) the product of two factors; on all threads of the current rayon pool with `parallel`.
///
/// # Safety
/// What the factor points to is readable for as many elements as it says; `out.at` gives distinct writable addresses for all rows of
/// `left` and all columns of `right`, and consecutive ones for consecutive columns; they are initialised if `accumulate`.
pub(crate) unsafe fn multiply<T: Element>(
    instructions: Instructions,
    left: &impl LeftFactor<T>,
    right: &Panels<T>,
    out: &impl Target<T>,
    accumulate: bool,
    parallel: bool,
) {
    if !parallel {
        // SAFETY: the caller's promises are passed on.
        return unsafe { multiply_part(instructions, left, 0..left.rows(), right, 0..right.cols(), out, accumulate) };
    }
    let (blocks, panels) = (left.rows().div_ceil(BLOCK_ROWS), right.cols().div_ceil(COLS));
    // All panels go to one task where there are rows enough: they share its block of rows.
    let groups = TASKS.div_ceil(blocks.max(1)).min(panels.max(1));
    let group = panels.div_ceil(groups).max(1);
    (0..blocks * groups).into_par_iter().for_each(|task| {
        let first_row = task / groups * BLOCK_ROWS;
        let first_col = task % groups * group * COLS;
        let rows = first_row..(first_row + BLOCK_ROWS).min(left.rows());
        let cols = first_col.min(right.cols())..(first_col + group * COLS).min(right.cols());
        // SAFETY: the caller's promises are passed on; tasks have different rows or columns.
        unsafe { multiply_part(instructions, left, rows, right, cols, out, accumulate) };
    });
}

/// Some rows and columns of a product; the columns begin at a panel.
///
/// # Safety
/// As [`multiply`], for these rows and columns.
unsafe fn multiply_part<T: Element>(
    instructions: Instructions,
    left: &impl LeftFactor<T>,
    rows: Range<usize>,
    right: &Panels<T>,
    cols: Range<usize>,
    out: &impl Target<T>,
    accumulate: bool,
) {
    let (parts, part_len) = left.parts();
    assert_eq!(parts * part_len, right.lines(), "the factors do not fit");
    let mut table = Vec::new();
    for first_row in rows.clone().step_by(BLOCK_ROWS) {
        let block = first_row..(first_row + BLOCK_ROWS).min(rows.end);
        table.clear();
        let tiles = || block.clone().step_by(ROWS).map(|row| row..(row + ROWS).min(block.end));
        tiles().for_each(|rows| left.point(rows, &mut table));
        let table_len = table.len() / tiles().count().max(1);
        for (i, Piece { parts, skip, len }) in pieces(parts, part_len).enumerate() {
            for col in cols.clone().step_by(COLS) {
                let (panel, panel_cols) = right.block(col);
                let panel = panel[(parts.start * part_len + skip) * COLS..].as_ptr();
                for (t, rows) in tiles().enumerate() {
                    let pointers = &table[t * table_len..(t + 1) * table_len];
                    let to = Tile {
                        out: std::array::from_fn(|r| out.at((rows.start + r).min(rows.end - 1), col)),
                        rows: rows.len(),
                        cols: panel_cols,
                        accumulate: accumulate || i > 0,
                    };
                    // SAFETY: the caller's promises are passed on; the panel has a line for every element of the pieces.
                    unsafe {
                        tile(instructions, left.left(rows.start, pointers, parts.clone(), skip, len), panel, &to);
                    }
                }
            }
        }
    }
}

/// A run of elements of a row: whole parts, or a part of one.
struct Piece {
    parts: Range<usize>,
    skip: usize,
    len: usize,
}

/// Cuts rows into pieces of about [`BLOCK_LEN`] elements; one empty piece if there are none, so that zeros are written.
fn pieces(parts: usize, len: usize) -> impl Iterator<Item = Piece> {
    let parts_of_piece = (BLOCK_LEN / len.max(1)).max(1);
    let piece_len = len.div_ceil(len.div_ceil(BLOCK_LEN).max(1)).max(1);
    (0..parts.max(1)).step_by(parts_of_piece).flat_map(move |first| {
        let parts = first..(first + parts_of_piece).min(parts);
        (0..len.max(1)).step_by(piece_len).map(move |skip| Piece {
            parts: parts.clone(),
            skip,
            len: piece_len.min(len - skip),
        })
    })
}
