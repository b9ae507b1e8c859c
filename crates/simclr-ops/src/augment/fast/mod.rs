//! The steps of a view on planes: the same bits as the steps on pictures beside this folder, many pixels at a time.
//!
//! All of it is plain loops, written so that the compiler can make vectors of them, and inlined into one function that is
//! compiled for several instruction sets (`simd.rs`). No operation of a loop depends on how many pixels it treats at once,
//! and Rust fuses and reorders nothing: so every instruction set gives the same bits, which tests hold against the reference.

mod blur;
mod color;
mod hue;
mod resize;

pub(super) use blur::Blur;
pub(super) use color::{adjust_brightness, adjust_contrast, adjust_saturation, grayscale, solarize};
pub(super) use hue::adjust_hue;
pub(super) use resize::PlaneResizer;

/// A number as a byte, cut towards zero, and to the range of bytes before that.
#[inline(always)]
fn cut(number: f32) -> u8 {
    // Not `clamp`: these comparisons are one instruction each, and NaN becomes 0, as in a cast.
    let number = if number > 0.0 { number } else { 0.0 };
    let number = if number < 255.0 { number } else { 255.0 };
    // SAFETY: it lies between 0 and 255.
    unsafe { number.to_int_unchecked::<i32>() as u8 }
}
