//! The element types that ops compute in.

use candle_core::WithDType;
use num_traits::Float;

/// `f32` or `f64`: what reference loops and products are generic over.
pub trait Element: WithDType + Float + std::iter::Sum + sealed::Sealed {}

impl Element for f32 {}
impl Element for f64 {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// `x` in double precision, where sums over a batch are held.
pub(crate) fn wide<T: Element>(x: T) -> f64 {
    WithDType::to_f64(x)
}

/// Back from double precision.
pub(crate) fn narrow<T: Element>(x: f64) -> T {
    <T as WithDType>::from_f64(x)
}
