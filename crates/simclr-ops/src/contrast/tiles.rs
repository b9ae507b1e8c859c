//! How the rows of the matrix of similarities are cut into tiles.
#![cfg_attr(not(any(test, feature = "cuda")), allow(dead_code, reason = "tiles are for GPUs, and tested everywhere"))]

use std::ops::Range;

/// Bytes of a tile: a part of the L2 cache of a large GPU (50 MB).
const TILE: usize = 32 << 20;

/// The rows of every tile of a matrix of `count` × `count` f32, in order; cut by shape alone, so that sums are the same everywhere.
pub(super) fn tiles(count: usize) -> impl Iterator<Item = Range<usize>> {
    let rows = rows(count);
    (0..count).step_by(rows).map(move |first| first..(first + rows).min(count))
}

/// Rows of the largest tile.
pub(super) fn rows(count: usize) -> usize {
    (TILE / 4 / count.max(1)).clamp(1, count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_once_and_fit() {
        for count in [1, 2, 31, 1000, 8192, 20_000, 10_000_000] {
            let mut next = 0;
            for rows in tiles(count).take(50) {
                assert_eq!(rows.start, next);
                assert!(rows.len() == 1 || rows.len() * count * 4 <= TILE);
                next = rows.end;
            }
            assert!(next == count || count > 1_000_000);
        }
        assert_eq!((rows(8192), tiles(8192).count()), (1024, 8));
        assert_eq!((rows(1024), tiles(1024).count()), (1024, 1));
    }
}
