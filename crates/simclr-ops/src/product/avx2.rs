//! The micro-kernel for AVX2 with FMA, f32: a tile in up to four quarters, as there are half as many registers of half the width.

use std::arch::x86_64::*;

use super::kernel::{COLS, Left, ROWS, Tile};

/// Lanes of a vector; rows and vectors of a quarter: 12 of the 16 registers hold sums.
const LANES: usize = 8;
const QUARTER_ROWS: usize = ROWS / 2;
const VECTORS: usize = COLS / 2 / LANES;

/// # Safety
/// As [`super::kernel::tile`]; the CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn tile(left: Left<'_, f32>, panel: *const f32, tile: &Tile<f32>) {
    macro_rules! by_rows {
        ($first_row:ident, $first_col:ident, $($rows:literal)*) => {
            match (tile.rows - $first_row).min(QUARTER_ROWS) {
                // SAFETY: the caller's promises are passed on, with the number of rows known when compiling.
                $($rows => unsafe { quarter::<$rows>(left, panel, tile, $first_row, $first_col) },)*
                rows => unreachable!("a quarter has 1 to {QUARTER_ROWS} rows, not {rows}"),
            }
        };
    }
    for first_row in (0..tile.rows).step_by(QUARTER_ROWS) {
        for first_col in (0..tile.cols).step_by(VECTORS * LANES) {
            by_rows!(first_row, first_col, 1 2 3 4 5 6);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn quarter<const R: usize>(
    left: Left<'_, f32>,
    panel: *const f32,
    tile: &Tile<f32>,
    first_row: usize,
    first_col: usize,
) {
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; R];
    // SAFETY: the caller promises all elements of the left rows and a line of the panel for each.
    unsafe {
        let mut line = panel.add(first_col);
        match left {
            Left::Rows { parts, skip, len } => {
                for part in parts {
                    let rows: [*const f32; R] = std::array::from_fn(|r| part[first_row + r].add(skip));
                    for l in 0..len {
                        add(&mut sums, |r| *rows[r].add(l), line);
                        line = line.wrapping_add(COLS);
                    }
                }
            }
            Left::Columns { mut first, stride, len } => {
                first = first.wrapping_add(first_row);
                for _ in 0..len {
                    add(&mut sums, |r| *first.add(r), line);
                    first = first.wrapping_add(stride);
                    line = line.wrapping_add(COLS);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let first = first_col + v * LANES;
                let mask = mask(tile.cols.saturating_sub(first).min(LANES));
                // The address of an empty piece may be outside of the output; nothing is touched there.
                let out = tile.out[first_row + r].wrapping_add(first);
                let sum = if tile.accumulate { _mm256_add_ps(_mm256_maskload_ps(out, mask), sum) } else { sum };
                _mm256_maskstore_ps(out, mask, sum);
            }
        }
    }
}

/// Adds one column of the left factor times half a line of the panel.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add<const R: usize>(sums: &mut [[__m256; VECTORS]; R], number: impl Fn(usize) -> f32, line: *const f32) {
    // SAFETY: the caller promises as many elements.
    let line: [__m256; VECTORS] = std::array::from_fn(|v| unsafe { _mm256_loadu_ps(line.add(v * LANES)) });
    for (r, sums) in sums.iter_mut().enumerate() {
        let number = _mm256_set1_ps(number(r));
        for (sum, factor) in sums.iter_mut().zip(line) {
            *sum = _mm256_fmadd_ps(number, factor, *sum);
        }
    }
}

/// The sign bit of the first `lanes` lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(lanes: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}
