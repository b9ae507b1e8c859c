//! The element types that ops compute in.

use candle_core::WithDType;
use num_traits::Float;

use crate::product::Instructions;
use crate::product::kernel::{Left, Tile};
use crate::product::portable;
use crate::simd::Vectors;

/// `f32` or `f64`: what reference loops and products are generic over.
pub trait Element: WithDType + Float + std::iter::Sum + sealed::Sealed {}

impl Element for f32 {}
impl Element for f64 {}

// What the trait is sealed with is named nowhere outside.
#[allow(private_bounds, private_interfaces)]
pub(crate) mod sealed {
    use super::*;

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
