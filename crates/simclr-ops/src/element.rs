//! The element types that ops compute in, and those that tensors are kept in.

use std::mem::MaybeUninit;

use candle_core::WithDType;
use half::bf16;
use num_traits::Float;

use crate::product::Instructions;
use crate::product::kernel::{Left, Tile};
use crate::product::portable;
use crate::simd::Vectors;

/// `f32` or `f64`: what reference loops and products are generic over.
pub trait Element: Stored<Wide = Self> + Float + std::iter::Sum + sealed::Sealed {}

impl Element for f32 {}
impl Element for f64 {}

/// How the numbers of a map are kept: as they are computed with, or as bf16, the upper half of an f32.
///
/// Ops widen what they read and round what they write, to the nearest and to even; parameters, statistics and sums are of the
/// wide type.
pub trait Stored: WithDType + sealed::Kept {
    /// What is computed with.
    type Wide: Element;

    /// The same number.
    fn widen(self) -> Self::Wide;

    /// The nearest number; NaN stays NaN.
    fn narrow(wide: Self::Wide) -> Self;

    /// The slice itself, if the two types are one.
    #[doc(hidden)]
    fn as_wide(numbers: &[Self]) -> Option<&[Self::Wide]>;

    /// The memory itself, if the two types are one.
    #[doc(hidden)]
    fn as_wide_memory(memory: &mut [MaybeUninit<Self>]) -> Option<&mut [MaybeUninit<Self::Wide>]>;
}

macro_rules! kept_as_computed {
    ($element:ty) => {
        impl Stored for $element {
            type Wide = $element;

            #[inline(always)]
            fn widen(self) -> $element {
                self
            }

            #[inline(always)]
            fn narrow(wide: $element) -> $element {
                wide
            }

            fn as_wide(numbers: &[$element]) -> Option<&[$element]> {
                Some(numbers)
            }

            fn as_wide_memory(memory: &mut [MaybeUninit<$element>]) -> Option<&mut [MaybeUninit<$element>]> {
                Some(memory)
            }
        }

        impl sealed::Kept for $element {}
    };
}

kept_as_computed!(f32);
kept_as_computed!(f64);

impl Stored for bf16 {
    type Wide = f32;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    // `bf16::from_f32` branches; without branches a loop becomes one over vectors.
    #[inline(always)]
    fn narrow(wide: f32) -> bf16 {
        let bits = wide.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        // Rounding could carry the payload of a NaN away.
        let quiet = bits | 0x40_0000;
        bf16::from_bits(((if wide.is_nan() { quiet } else { rounded }) >> 16) as u16)
    }

    fn as_wide(_: &[bf16]) -> Option<&[f32]> {
        None
    }

    fn as_wide_memory(_: &mut [MaybeUninit<bf16>]) -> Option<&mut [MaybeUninit<f32>]> {
        None
    }
}

impl sealed::Kept for bf16 {}

// What the traits are sealed with is named nowhere outside.
#[allow(private_bounds, private_interfaces)]
pub(crate) mod sealed {
    use super::*;

    pub trait Kept {}

    pub trait Sealed: Vectors {
        /// The micro-kernel, see [`crate::product::kernel::tile`].
        ///
        /// # Safety
        /// As there.
        unsafe fn tile(instructions: Instructions, left: Left<'_, Self>, panel: *const Self, tile: &Tile<Self>);
    }

    impl Sealed for f32 {
        unsafe fn tile(instructions: Instructions, left: Left<'_, f32>, panel: *const f32, tile: &Tile<f32>) {
            // SAFETY: the caller's promises are passed on, that the CPU has these instructions among them.
            unsafe {
                match instructions {
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx512 => crate::product::avx512::tile(left, panel, tile),
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx2 => crate::product::avx2::tile(left, panel, tile),
                    _ => portable::tile(left, panel, tile),
                }
            }
        }
    }

    impl Sealed for f64 {
        unsafe fn tile(instructions: Instructions, left: Left<'_, f64>, panel: *const f64, tile: &Tile<f64>) {
            // SAFETY: the caller's promises are passed on.
            unsafe {
                match instructions {
                    Instructions::Portable => portable::tile(left, panel, tile),
                    _ => portable::vectorised(left, panel, tile),
                }
            }
        }
    }
}

/// `x` in double precision, where sums over a batch are held.
pub(crate) fn wide<T: Element>(x: T) -> f64 {
    WithDType::to_f64(x)
}

/// Back from double precision.
pub(crate) fn narrow<T: Element>(x: f64) -> T {
    <T as WithDType>::from_f64(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_bf16_is_the_library_s() {
        let ties = [0x3f80_8000u32, 0x3f81_8000, 0x3f80_8001, 0x7f7f_ffff, 0x7f80_0001, 0xff80_0001, 0x7fff_ffff];
        let spread = (0..1 << 16).map(|i: u32| i.wrapping_mul(0x9e37_79b9));
        for bits in ties.into_iter().chain(spread) {
            let number = f32::from_bits(bits);
            let (got, want) = (<bf16 as Stored>::narrow(number), bf16::from_f32(number));
            assert_eq!(got.to_bits(), want.to_bits(), "{number} ({bits:08x})");
            assert_eq!(got.widen().to_bits(), want.to_f32().to_bits());
        }
    }
}
