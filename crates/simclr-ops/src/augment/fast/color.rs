//! Brightness, contrast, saturation, gray and solarize on planes.

use super::cut;
use crate::augment::Planes;

/// See [`crate::augment::adjust_brightness`].
#[inline(always)]
pub(in crate::augment) fn adjust_brightness(planes: &mut Planes, factor: f64) {
    blend_with_gray(planes.bytes_mut(), 0, factor as f32);
}

/// See [`crate::augment::adjust_contrast`].
#[inline(always)]
pub(in crate::augment) fn adjust_contrast(planes: &mut Planes, factor: f64) {
    let [red, green, blue] = planes.channels();
    let mut sum = 0u64;
    // A sum of 2^24 bytes fits in 32 bits.
    for ((red, green), blue) in red.chunks(1 << 16).zip(green.chunks(1 << 16)).zip(blue.chunks(1 << 16)) {
        let lumas = red.iter().zip(green).zip(blue).map(|((&r, &g), &b)| luma(r, g, b));
        sum += u64::from(lumas.sum::<u32>());
    }
    let mean = sum as f64 / red.len() as f64;
    blend_with_gray(planes.bytes_mut(), (mean + 0.5) as u8, factor as f32);
}

/// See [`crate::augment::adjust_saturation`].
#[inline(always)]
pub(in crate::augment) fn adjust_saturation(planes: &mut Planes, factor: f64) {
    let factor = factor as f32;
    let [red, green, blue] = planes.channels_mut();
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let gray = luma(*red, *green, *blue) as i32;
        *red = blend(gray, *red, factor);
        *green = blend(gray, *green, factor);
        *blue = blend(gray, *blue, factor);
    }
}

/// See [`crate::augment::grayscale`].
#[inline(always)]
pub(in crate::augment) fn grayscale(planes: &mut Planes) {
    let [red, green, blue] = planes.channels_mut();
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let gray = luma(*red, *green, *blue) as u8;
        [*red, *green, *blue] = [gray; 3];
    }
}

/// See [`crate::augment::solarize`].
#[inline(always)]
pub(in crate::augment) fn solarize(planes: &mut Planes, threshold: u8) {
    for byte in planes.bytes_mut() {
        *byte = if *byte < threshold { *byte } else { 255 - *byte };
    }
}

#[inline(always)]
fn luma(red: u8, green: u8, blue: u8) -> u32 {
    (u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471 + 0x8000) >> 16
}

#[inline(always)]
fn blend(from: i32, to: u8, factor: f32) -> u8 {
    cut(from as f32 + factor * (i32::from(to) - from) as f32)
}

#[inline(always)]
fn blend_with_gray(bytes: &mut [u8], gray: u8, factor: f32) {
    for byte in bytes {
        *byte = blend(i32::from(gray), *byte, factor);
    }
}
