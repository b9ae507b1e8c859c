//! Packed factors of a product.
//!
//! A right factor is cut into panels of [`COLS`] columns, a transposed left one into blocks of [`ROWS`]: in each the lines come one
//! after the other, as the micro-kernel reads them.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::kernel::{COLS, Left, Pointers, ROWS};
use super::multiply::LeftFactor;
use crate::element::Element;
use crate::simd::simd;

/// A packed right factor, `lines × cols`; columns that the last panel has too many are zeros.
pub type Panels<T> = Packed<T, COLS>;

/// A packed left factor that was given by its columns: rows are the packed columns, and each line has an element of each.
pub(crate) type Turned<T> = Packed<T, ROWS>;

/// A packed matrix: blocks of `WIDTH` columns, in each the lines one after the other.
#[derive(Debug)]
pub struct Packed<T, const WIDTH: usize> {
    /// All elements from `start` on are initialised, as the writing functions ask.
    data: Vec<MaybeUninit<T>>,
    /// Vectors are loaded from addresses that no cache line divides.
    start: usize,
    lines: usize,
    cols: usize,
}

impl<T, const WIDTH: usize> Default for Packed<T, WIDTH> {
    /// Nothing, without memory.
    fn default() -> Self {
        Self { data: Vec::new(), start: 0, lines: 0, cols: 0 }
    }
}

impl<T: Element, const WIDTH: usize> Packed<T, WIDTH> {
    /// Takes a shape, and gives the addresses where it must be written.
    ///
    /// # Safety
    /// Every element of every line, to the end of its last block, must be written before anything is read.
    pub(crate) unsafe fn lines_of(&mut self, lines: usize, cols: usize) -> Lines<T, WIDTH> {
        const ALIGNMENT: usize = 64;
        (self.lines, self.cols) = (lines, cols);
        let len = lines * cols.next_multiple_of(WIDTH) + ALIGNMENT / size_of::<T>();
        if self.data.len() < len {
            self.data.resize(len, MaybeUninit::uninit());
        }
        self.start = self.data.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT / size_of::<T>());
        Lines { first: self.data[self.start..].as_mut_ptr().cast(), lines }
    }

    /// Packs by `write(lines, memory)`, which writes these lines; on all threads of the current rayon pool with `parallel`.
    ///
    /// # Safety
    /// `write` must write every element of its lines, to the end of the last block, and of no other.
    pub(crate) unsafe fn pack(
        &mut self,
        lines: usize,
        cols: usize,
        parallel: bool,
        write: impl Fn(Range<usize>, Lines<T, WIDTH>) + Sync,
    ) {
        /// Lines of a task.
        const TASK: usize = 64;
        // SAFETY: the caller promises that all lines will be written.
        let memory = unsafe { self.lines_of(lines, cols) };
        let task = |task: usize| write(task * TASK..lines.min((task + 1) * TASK), memory);
        let tasks = 0..lines.div_ceil(TASK);
        if parallel { tasks.into_par_iter().for_each(task) } else { tasks.for_each(task) }
    }

    /// Packs a matrix given by its lines: element `(l, c)` is `data[l · stride + c]`.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn pack_lines(&mut self, data: &[T], lines: usize, cols: usize, stride: usize, parallel: bool) {
        let write = |lines: Range<usize>, memory: Lines<T, WIDTH>| {
            simd(
                #[inline(always)]
                || {
                    for line in lines {
                        // SAFETY: a line of this task, all of it.
                        unsafe {
                            memory.write(line, 0, &data[line * stride..][..cols]);
                            memory.fill(line, cols);
                        }
                    }
                },
            );
        };
        // SAFETY: every line is written.
        unsafe { self.pack(lines, cols, parallel, write) };
    }

    /// Packs a matrix given by its columns: element `(l, c)` is `data[c · stride + l]`.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn pack_columns(&mut self, data: &[T], lines: usize, cols: usize, stride: usize, parallel: bool) {
        let write = |lines: Range<usize>, memory: Lines<T, WIDTH>| {
            for col in 0..cols {
                for (&element, line) in data[col * stride..][lines.clone()].iter().zip(lines.clone()) {
                    // SAFETY: lines of this task.
                    unsafe { memory.at(line, col).write(element) };
                }
            }
            // SAFETY: as above.
            lines.for_each(|line| unsafe { memory.fill(line, cols) });
        };
        // SAFETY: every line is written.
        unsafe { self.pack(lines, cols, parallel, write) };
    }

    /// Rows of the matrix.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Its columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The block of the columns from `col` on, a multiple of `WIDTH`; and how many of them there are.
    pub(crate) fn block(&self, col: usize) -> (&[T], usize) {
        debug_assert!(col.is_multiple_of(WIDTH) && col < self.cols);
        let block = &self.data[self.start + col * self.lines..][..self.lines * WIDTH];
        // SAFETY: whoever took the shape promised to write every element of it.
        (unsafe { block.assume_init_ref() }, WIDTH.min(self.cols - col))
    }
}

impl<T: Element> LeftFactor<T> for Turned<T> {
    fn rows(&self) -> usize {
        self.cols
    }

    fn parts(&self) -> (usize, usize) {
        (1, self.lines)
    }

    fn point(&self, _: Range<usize>, _: &mut Vec<Pointers<T>>) {}

    fn left<'a>(
        &self,
        first_row: usize,
        _: &'a [Pointers<T>],
        _: Range<usize>,
        skip: usize,
        len: usize,
    ) -> Left<'a, T> {
        Left::Columns { first: self.block(first_row).0[skip * ROWS..].as_ptr(), stride: ROWS, len }
    }
}

/// The lines of a matrix that is being packed: addresses, for those who promise to write different lines.
#[derive(Debug)]
pub(crate) struct Lines<T, const WIDTH: usize> {
    first: *mut T,
    lines: usize,
}

impl<T, const WIDTH: usize> Clone for Lines<T, WIDTH> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, const WIDTH: usize> Copy for Lines<T, WIDTH> {}

// SAFETY: it is an address.
unsafe impl<T: Send, const WIDTH: usize> Send for Lines<T, WIDTH> {}
// SAFETY: as above.
unsafe impl<T: Send, const WIDTH: usize> Sync for Lines<T, WIDTH> {}

impl<T, const WIDTH: usize> Lines<T, WIDTH> {
    /// From a column of one block to the same of the next.
    pub(crate) fn block_stride(self) -> usize {
        self.lines * WIDTH
    }
}

impl<T: Element, const WIDTH: usize> Lines<T, WIDTH> {
    /// Where column `col` of `line` is; the columns up to the end of its block follow.
    #[inline(always)]
    pub(crate) fn at(self, line: usize, col: usize) -> *mut T {
        self.first.wrapping_add((col / WIDTH * self.lines + line) * WIDTH + col % WIDTH)
    }

    /// Writes columns of a line, from `first` on.
    ///
    /// # Safety
    /// The line has them, and nobody else writes it.
    #[inline(always)]
    pub(crate) unsafe fn write(self, line: usize, first: usize, columns: &[T]) {
        // Whole blocks have a length that is known when compiling: nothing is called for every one of them.
        let (blocks, rest) =
            if first.is_multiple_of(WIDTH) { columns.as_chunks::<WIDTH>() } else { (&[][..], columns) };
        for (i, block) in blocks.iter().enumerate() {
            // SAFETY: a whole block of this line.
            unsafe { self.at(line, first + i * WIDTH).cast::<[T; WIDTH]>().write(*block) };
        }
        let first = first + blocks.len() * WIDTH;
        for (i, &column) in rest.iter().enumerate() {
            // SAFETY: the caller promises.
            unsafe { self.at(line, first + i).write(column) };
        }
    }

    /// Writes zeros behind the last column of a line.
    ///
    /// # Safety
    /// The line has `cols` columns, and nobody else writes it.
    #[inline(always)]
    pub(crate) unsafe fn fill(self, line: usize, cols: usize) {
        for col in cols..cols.next_multiple_of(WIDTH) {
            // SAFETY: to the end of the last block.
            unsafe { self.at(line, col).write(T::zero()) };
        }
    }
}
