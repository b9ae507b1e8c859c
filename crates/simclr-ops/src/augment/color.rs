//! Brightness, contrast, saturation and gray, as PIL's `ImageEnhance` computes them: all are blends of the picture with a
//! poorer version of itself.

use super::Picture;

/// PIL's `Image.blend` of one channel: `factor` of the way from `from` to `to`, and beyond.
///
/// Single precision, no fused multiply-add, and cut towards zero rather than rounded: 0.9 of the way from 10 to 11 is 10.
/// Beyond 0 and 1 PIL clips before it cuts; `as u8` does both.
pub(super) fn blend(from: u8, to: u8, factor: f32) -> u8 {
    (f32::from(from) + factor * (i16::from(to) - i16::from(from)) as f32) as u8
}

/// The gray value of a colour: ITU-R 601-2 luma in 16-bit fixed point, rounded (PIL's conversion from `RGB` to `L`).
pub fn luma([red, green, blue]: [u8; 3]) -> u8 {
    ((u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471 + 0x8000) >> 16) as u8
}

/// Blends with black, in place (torchvision's `adjust_brightness`; PIL's `ImageEnhance.Brightness`).
pub fn adjust_brightness(picture: &mut Picture, factor: f64) {
    blend_with_gray(picture, 0, factor);
}

/// Blends with the mean gray of the picture, in place (torchvision's `adjust_contrast`; PIL's `ImageEnhance.Contrast`).
pub fn adjust_contrast(picture: &mut Picture, factor: f64) {
    let (pixels, _) = picture.pixels().as_chunks::<3>();
    let sum: u64 = pixels.iter().map(|&pixel| u64::from(luma(pixel))).sum();
    let mean = sum as f64 / pixels.len() as f64;
    blend_with_gray(picture, (mean + 0.5) as u8, factor);
}

/// Blends every pixel with its own gray, in place (torchvision's `adjust_saturation`; PIL's `ImageEnhance.Color`).
pub fn adjust_saturation(picture: &mut Picture, factor: f64) {
    let factor = factor as f32;
    let (pixels, _) = picture.pixels_mut().as_chunks_mut::<3>();
    for pixel in pixels {
        let gray = luma(*pixel);
        *pixel = pixel.map(|channel| blend(gray, channel, factor));
    }
}

/// Takes the colours away and keeps three equal channels, in place (torchvision's `rgb_to_grayscale` with 3 channels).
pub fn grayscale(picture: &mut Picture) {
    let (pixels, _) = picture.pixels_mut().as_chunks_mut::<3>();
    for pixel in pixels {
        *pixel = [luma(*pixel); 3];
    }
}

/// Turns bytes of at least `threshold` into their negative, in place (torchvision's `solarize`; PIL's `ImageOps.solarize`).
pub fn solarize(picture: &mut Picture, threshold: u8) {
    for byte in picture.pixels_mut() {
        *byte = if *byte < threshold { *byte } else { 255 - *byte };
    }
}

/// A blend with one gray is one function of 256 values.
fn blend_with_gray(picture: &mut Picture, gray: u8, factor: f64) {
    let factor = factor as f32;
    let table: [u8; 256] = std::array::from_fn(|value| blend(gray, value as u8, factor));
    for channel in picture.pixels_mut() {
        *channel = table[usize::from(*channel)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blends_are_cut_not_rounded() {
        assert_eq!(blend(10, 11, 0.9), 10);
        assert_eq!(blend(11, 10, 0.9), 10);
        assert_eq!(blend(10, 20, 0.0), 10);
        assert_eq!(blend(10, 20, 1.0), 20);
        assert_eq!(blend(10, 200, 2.0), 255);
        assert_eq!(blend(200, 10, 2.0), 0);
    }

    #[test]
    fn factor_one_changes_nothing_and_zero_leaves_the_poorer_picture() {
        let original = Picture::new(2, 2, vec![0, 255, 3, 7, 8, 9, 200, 100, 0, 1, 1, 254]).unwrap();
        let steps: [fn(&mut Picture, f64); 3] = [adjust_brightness, adjust_contrast, adjust_saturation];
        for step in steps {
            let mut picture = original.clone();
            step(&mut picture, 1.0);
            assert_eq!(picture.pixels(), original.pixels());
        }
        let after = |step: fn(&mut Picture, f64)| {
            let mut picture = original.clone();
            step(&mut picture, 0.0);
            picture.into_pixels()
        };
        assert_eq!(after(adjust_brightness), [0; 12]);
        // Gray values by hand: 200·0.299 + 100·0.587 = 118.5 falls below the half in fixed point. Their mean is 76.5.
        assert_eq!(after(adjust_contrast), [77; 12]);
        assert_eq!(after(adjust_saturation), [150, 150, 150, 8, 8, 8, 118, 118, 118, 30, 30, 30]);
        let mut gray = original.clone();
        grayscale(&mut gray);
        assert_eq!(gray.into_pixels(), after(adjust_saturation));
    }
}
