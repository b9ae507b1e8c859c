//! The transforms of F(2×2, 3×3), some channels at a time.
//!
//! All factors are 0, ±1 and ½: they cost a few roundings of the numbers that they add, no more.

use std::marker::PhantomData;

use pulp::{Simd, WithSimd};

use crate::element::Element;
use crate::product::Lines;
use crate::simd::{Vectors, with_vectors};

/// A transform of one dimension, from `N` numbers to `M`; a tile is transformed along its columns and then along its rows.
pub(super) trait Transform<const N: usize, const M: usize> {
    /// The transform of vectors of numbers.
    fn apply<T: Vectors, S: Simd>(simd: S, from: [T::Vector<S>; N]) -> [T::Vector<S>; M];
}

/// `Bᵀ`: the pixels under a tile.
pub(super) struct Input;

impl Transform<4, 4> for Input {
    #[inline(always)]
    fn apply<T: Vectors, S: Simd>(simd: S, [d0, d1, d2, d3]: [T::Vector<S>; 4]) -> [T::Vector<S>; 4] {
        [T::sub(simd, d0, d2), T::add(simd, d1, d2), T::sub(simd, d2, d1), T::sub(simd, d1, d3)]
    }
}

/// `Aᵀ`: products to the outputs of a tile.
pub(super) struct Output;

impl Transform<4, 2> for Output {
    #[inline(always)]
    fn apply<T: Vectors, S: Simd>(simd: S, [m0, m1, m2, m3]: [T::Vector<S>; 4]) -> [T::Vector<S>; 2] {
        [T::add(simd, T::add(simd, m0, m1), m2), T::sub(simd, T::sub(simd, m1, m2), m3)]
    }
}

/// `A`, the transpose of [`Output`]: gradients of the outputs of a tile.
pub(super) struct OutputGradient;

impl Transform<2, 4> for OutputGradient {
    #[inline(always)]
    fn apply<T: Vectors, S: Simd>(simd: S, [y0, y1]: [T::Vector<S>; 2]) -> [T::Vector<S>; 4] {
        [y0, T::add(simd, y0, y1), T::sub(simd, y0, y1), T::sub(simd, T::splat(simd, 0.0), y1)]
    }
}

/// `G`: the weights of a kernel.
pub(super) struct Kernel;

impl Transform<3, 4> for Kernel {
    #[inline(always)]
    fn apply<T: Vectors, S: Simd>(simd: S, [g0, g1, g2]: [T::Vector<S>; 3]) -> [T::Vector<S>; 4] {
        let (half, outer) = (T::splat(simd, 0.5), T::add(simd, g0, g2));
        [g0, T::mul(simd, half, T::add(simd, outer, g1)), T::mul(simd, half, T::sub(simd, outer, g1)), g2]
    }
}

/// `Gᵀ`, the transpose of [`Kernel`]: sums to the gradient of a kernel.
pub(super) struct KernelGradient;

impl Transform<4, 3> for KernelGradient {
    #[inline(always)]
    fn apply<T: Vectors, S: Simd>(simd: S, [s0, s1, s2, s3]: [T::Vector<S>; 4]) -> [T::Vector<S>; 3] {
        let half = T::splat(simd, 0.5);
        let inner = T::mul(simd, half, T::add(simd, s1, s2));
        [T::add(simd, s0, inner), T::mul(simd, half, T::sub(simd, s1, s2)), T::add(simd, inner, s3)]
    }
}

/// Where the channels of a transformed tile go, from an address on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    /// Channels that lie together.
    pub(super) width: usize,
    /// From the first channel of one block to that of the next.
    pub(super) stride: usize,
    /// Blocks; channels that the pixels have not are zeros.
    pub(super) count: usize,
}

impl Blocks {
    /// All channels together.
    pub(super) fn one(channels: usize) -> Self {
        Self { width: channels, stride: 0, count: 1 }
    }

    /// Those of a line of a packed matrix.
    pub(super) fn packed<T, const WIDTH: usize>(lines: Lines<T, WIDTH>, channels: usize) -> Self {
        Self { width: WIDTH, stride: lines.block_stride(), count: channels.div_ceil(WIDTH) }
    }
}

/// Transforms a tile: the channels of the pixels `from` go to the places `to`.
///
/// # Panics
/// If one of the pixels has not as many channels as the first.
///
/// # Safety
/// `to` are writable for all `blocks`, and nobody else looks at them. Of equal ones, the first in the order of rows counts.
pub(super) unsafe fn transform<K: Transform<N, M>, T: Element, const N: usize, const M: usize>(
    from: [[&[T]; N]; N],
    to: [[*mut T; M]; M],
    blocks: Blocks,
) {
    let channels = from[0][0].len();
    assert!(from.as_flattened().iter().all(|pixel| pixel.len() == channels), "pixels with different channels");
    with_vectors(Tile::<K, T, N, M> { from, to, channels, blocks, kind: PhantomData });
}

struct Tile<'a, K, T, const N: usize, const M: usize> {
    from: [[&'a [T]; N]; N],
    to: [[*mut T; M]; M],
    channels: usize,
    blocks: Blocks,
    kind: PhantomData<K>,
}

impl<K: Transform<N, M>, T: Element, const N: usize, const M: usize> WithSimd for Tile<'_, K, T, N, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (Blocks { width, stride, count }, lanes) = (self.blocks, T::lanes::<S>());
        for block in 0..count {
            for lane in (0..width).step_by(lanes) {
                let (channel, to) = (block * width + lane, block * stride + lane);
                let loaded = self.channels.saturating_sub(channel).min(lanes);
                let stored = lanes.min(width - lane);
                // SAFETY: the pixels have `loaded` channels from there on, the places room for `stored`.
                unsafe {
                    if loaded == lanes && stored == lanes {
                        // The same with lengths that are known when compiling.
                        self.vectors(simd, channel, to, lanes, lanes);
                    } else {
                        self.vectors(simd, channel, to, loaded, stored);
                    }
                }
            }
        }
    }
}

impl<K: Transform<N, M>, T: Element, const N: usize, const M: usize> Tile<'_, K, T, N, M> {
    /// Transforms `loaded` channels from one on, and writes `stored`.
    ///
    /// # Safety
    /// The pixels have as many, the places room for as many.
    #[inline(always)]
    unsafe fn vectors<S: Simd>(&self, simd: S, channel: usize, place: usize, loaded: usize, stored: usize) {
        // Loops over arrays, not `map` and `from_fn`: those are functions that are not always inlined.
        let mut rows = [[T::splat(simd, 0.0); N]; M];
        for x in 0..N {
            let mut column = [T::splat(simd, 0.0); N];
            for (vector, from) in column.iter_mut().zip(&self.from) {
                // SAFETY: the caller promises.
                let pixel = unsafe { std::slice::from_raw_parts(from[x].as_ptr().wrapping_add(channel), loaded) };
                *vector = T::load(simd, pixel);
            }
            for (row, vector) in rows.iter_mut().zip(K::apply::<T, S>(simd, column)) {
                row[x] = vector;
            }
        }
        // From the last to the first: what has no place of its own may go to that of the first, which is written after it.
        for y in (0..M).rev() {
            let row = K::apply::<T, S>(simd, rows[y]);
            for x in (0..M).rev() {
                // SAFETY: the caller promises.
                let to = unsafe { std::slice::from_raw_parts_mut(self.to[y][x].wrapping_add(place), stored) };
                T::store(simd, to, row[x]);
            }
        }
    }
}
