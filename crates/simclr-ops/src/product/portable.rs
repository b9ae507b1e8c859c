//! The micro-kernel in plain Rust: the compiler makes vectors of it.

use super::kernel::{COLS, Left, ROWS, Tile};
use crate::element::Element;
use crate::simd::simd;

/// Sums that are held at a time: more would not stay in registers.
const PART_ROWS: usize = 4;
const PART_COLS: usize = 16;

/// With the instructions that every CPU of this kind has.
///
/// # Safety
/// As [`super::kernel::tile`].
pub(crate) unsafe fn tile<T: Element>(left: Left<'_, T>, panel: *const T, tile: &Tile<T>) {
    // SAFETY: the caller's promises are passed on.
    unsafe { parts(left, panel, tile) }
}

/// With the best instructions of this CPU, for element types that have no kernel of their own.
///
/// # Safety
/// As [`super::kernel::tile`].
pub(crate) unsafe fn vectorised<T: Element>(left: Left<'_, T>, panel: *const T, tile: &Tile<T>) {
    simd(
        #[inline(always)]
        // SAFETY: the caller's promises are passed on.
        || unsafe { parts(left, panel, tile) },
    );
}

#[inline(always)]
unsafe fn parts<T: Element>(left: Left<'_, T>, panel: *const T, tile: &Tile<T>) {
    for row in (0..tile.rows).step_by(PART_ROWS) {
        for col in (0..tile.cols).step_by(PART_COLS) {
            // SAFETY: the caller's promises are passed on.
            unsafe { part(left, panel, tile, row, col) };
        }
    }
}

#[inline(always)]
unsafe fn part<T: Element>(left: Left<'_, T>, panel: *const T, tile: &Tile<T>, first_row: usize, first_col: usize) {
    // Rows that the tile has not are those of its last one again.
    let rows: [usize; PART_ROWS] = std::array::from_fn(|r| (first_row + r).min(tile.rows - 1));
    let mut sums = [[T::zero(); PART_COLS]; PART_ROWS];
    let mut add = |numbers: [T; PART_ROWS], line: *const T| {
        // SAFETY: `line` is one of the lines of the panel, of `COLS` elements.
        let line = unsafe { line.add(first_col).cast::<[T; PART_COLS]>().read() };
        for (sums, number) in sums.iter_mut().zip(numbers) {
            for (sum, factor) in sums.iter_mut().zip(line) {
                *sum += number * factor;
            }
        }
    };
    const { assert!(COLS.is_multiple_of(PART_COLS) && ROWS.is_multiple_of(PART_ROWS)) };
    // SAFETY: the caller promises all elements of the left rows, and a line of the panel for each.
    unsafe {
        match left {
            Left::Rows { parts, skip, len } => {
                for (i, part) in parts.iter().enumerate() {
                    let (starts, panel) = (rows.map(|r| part[r].add(skip)), panel.add(i * len * COLS));
                    for l in 0..len {
                        add(starts.map(|start| *start.add(l)), panel.add(l * COLS));
                    }
                }
            }
            Left::Columns { first, stride, len } => {
                for l in 0..len {
                    add(rows.map(|r| *first.add(l * stride + r)), panel.add(l * COLS));
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate().take(tile.rows - first_row) {
        // SAFETY: the caller promises `tile.cols` elements of each of the first `tile.rows` rows.
        unsafe {
            let out = tile.out[first_row + r].add(first_col);
            for (c, &sum) in sums.iter().enumerate().take(tile.cols - first_col) {
                out.add(c).write(if tile.accumulate { out.add(c).read() + sum } else { sum });
            }
        }
    }
}
