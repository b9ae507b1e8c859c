//! The micro-kernel for AVX-512, f32.

use std::arch::x86_64::*;

use super::kernel::{COLS, Left, ROWS, Tile};

/// Lanes of a vector, and vectors of a line of a panel.
const LANES: usize = 16;
const VECTORS: usize = COLS / LANES;

/// # Safety
/// As [`super::kernel::tile`]; the CPU has AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn tile(left: Left<'_, f32>, panel: *const f32, tile: &Tile<f32>) {
    macro_rules! by_rows {
        ($($rows:literal)*) => {
            match tile.rows {
                // SAFETY: the caller's promises are passed on, with the number of rows known when compiling.
                $($rows => unsafe { sums::<$rows>(left, panel, tile) },)*
                rows => unreachable!("a tile has 1 to {ROWS} rows, not {rows}"),
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

#[target_feature(enable = "avx512f")]
unsafe fn sums<const R: usize>(left: Left<'_, f32>, panel: *const f32, tile: &Tile<f32>) {
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; R];
    let mut line = panel;
    // SAFETY: the caller promises all elements of the left rows and a line of the panel for each.
    unsafe {
        match left {
            Left::Rows { parts, skip, len } => {
                for part in parts {
                    let rows: [*const f32; R] = std::array::from_fn(|r| part[r].add(skip));
                    for l in 0..len {
                        add(&mut sums, |r| *rows[r].add(l), line);
                        line = line.add(COLS);
                    }
                }
            }
            Left::Columns { mut first, stride, len } => {
                for _ in 0..len {
                    add(&mut sums, |r| *first.add(r), line);
                    first = first.wrapping_add(stride);
                    line = line.add(COLS);
                }
            }
        }
        let masks: [__mmask16; VECTORS] = std::array::from_fn(|v| {
            let cols = tile.cols.saturating_sub(v * LANES).min(LANES);
            ((1u32 << cols) - 1) as __mmask16
        });
        for (r, sums) in sums.iter().enumerate() {
            for (v, (&sum, mask)) in sums.iter().zip(masks).enumerate() {
                // The address of an empty piece may be outside of the output; nothing is touched there.
                let out = tile.out[r].wrapping_add(v * LANES);
                let sum = if tile.accumulate { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), sum) } else { sum };
                _mm512_mask_storeu_ps(out, mask, sum);
            }
        }
    }
}

/// Adds one column of the left factor times one line of the panel.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add<const R: usize>(sums: &mut [[__m512; VECTORS]; R], number: impl Fn(usize) -> f32, line: *const f32) {
    // SAFETY: the caller promises a line of `COLS` elements.
    let line: [__m512; VECTORS] = std::array::from_fn(|v| unsafe { _mm512_loadu_ps(line.add(v * LANES)) });
    for (r, sums) in sums.iter_mut().enumerate() {
        let number = _mm512_set1_ps(number(r));
        for (sum, factor) in sums.iter_mut().zip(line) {
            *sum = _mm512_fmadd_ps(number, factor, *sum);
        }
    }
}
