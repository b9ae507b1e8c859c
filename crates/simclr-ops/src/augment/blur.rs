//! Gaussian blur, as SimCLR's recipe for ImageNet has it.

use super::Picture;

/// How many pixels the kernel of a picture of this `height` reaches to each side: the kernel is a tenth of the picture long,
/// made odd (Chen et al. 2020, appendix A; `random_blur` of the authors' code). 11 for 224 pixels.
pub fn blur_radius(height: u32) -> u32 {
    height / 20
}

/// The weights from `-radius` to `radius`: a normal density of deviation `sigma` pixels, of sum 1.
pub fn gaussian_kernel(radius: u32, sigma: f64) -> Vec<f32> {
    let radius = i64::from(radius);
    let density = |x: i64| (-0.5 * (x as f64 / sigma).powi(2)).exp();
    let sum: f64 = (-radius..=radius).map(density).sum();
    (-radius..=radius).map(|x| (density(x) / sum) as f32).collect()
}

/// Weighs every pixel with its neighbours up to `radius` away, in place; beyond the edge the picture is mirrored, the edge
/// itself not repeated (torchvision's `gaussian_blur` with a kernel of `2 · radius + 1` pixels).
///
/// The density is one of rows times one of columns; torchvision multiplies these first and sums once. Both compute in single
/// precision and round to even at the end, so that a byte may differ by 1 where the exact value lies between two: of the
/// pictures of the golden tests this happens to fewer than one byte in a thousand.
///
/// # Panics
/// If the picture is not larger than `radius` in both directions, or `sigma` is not above 0.
pub fn gaussian_blur(picture: &mut Picture, radius: u32, sigma: f64) {
    check(picture.width() as usize, picture.height() as usize, radius, sigma);
    let kernel = gaussian_kernel(radius, sigma);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let numbers: Vec<f32> = picture.pixels().iter().map(|&byte| f32::from(byte)).collect();
    let at = |x: usize, y: usize, c: usize| 3 * (y * width + x) + c;
    let weigh = |numbers: &[f32], place: &dyn Fn(usize) -> usize| {
        kernel.iter().enumerate().fold(0.0, |sum, (k, weight)| sum + weight * numbers[place(k)])
    };
    let positions = || (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| (x, y, c))));
    let r = radius as usize;
    let across: Vec<f32> =
        positions().map(|(x, y, c)| weigh(&numbers, &|k| at(mirrored(x + k, r, width), y, c))).collect();
    let down = positions().map(|(x, y, c)| weigh(&across, &|k| at(x, mirrored(y + k, r, height), c)));
    for (byte, number) in picture.pixels_mut().iter_mut().zip(down) {
        *byte = number.round_ties_even() as u8;
    }
}

/// # Panics
/// As [`gaussian_blur`].
pub(super) fn check(width: usize, height: usize, radius: u32, sigma: f64) {
    let least = width.min(height);
    assert!(
        (radius as usize) < least,
        "a blur over {radius} pixels needs more than {radius}, found {width} × {height}"
    );
    assert!(sigma > 0.0, "the deviation of a blur is {sigma}, expected a number above 0");
}

/// The position `shifted - radius` in a row of `len`, mirrored back where it lies outside.
#[inline(always)]
pub(super) fn mirrored(shifted: usize, radius: usize, len: usize) -> usize {
    let from_edge = shifted.abs_diff(radius);
    if shifted >= radius && from_edge >= len { 2 * (len - 1) - from_edge } else { from_edge }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_a_tenth_of_the_picture() {
        assert_eq!([32, 96, 224, 19].map(|height| 2 * blur_radius(height) + 1), [3, 9, 23, 1]);
        let kernel = gaussian_kernel(2, 0.8);
        assert!((kernel.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((kernel[1] / kernel[2] - (-0.5f32 / 0.64).exp()).abs() < 1e-6);
        assert_eq!(gaussian_kernel(0, 1.5), [1.0]);
    }

    #[test]
    fn a_point_spreads_and_edges_are_mirrored() {
        let mut pixels = vec![0; 3 * 25];
        pixels[3 * 12] = 200;
        let mut picture = Picture::new(5, 5, pixels).unwrap();
        gaussian_blur(&mut picture, 1, 1.0);
        let [side, middle] = [0.274_068_62, 0.451_862_76].map(|weight: f64| weight);
        let expected = |x: f64, y: f64| (200.0 * x * y).round() as u8;
        assert_eq!(picture.pixel(2, 2), [expected(middle, middle), 0, 0]);
        assert_eq!(picture.pixel(1, 2)[0], expected(side, middle));
        assert_eq!(picture.pixel(3, 3)[0], expected(side, side));
        assert_eq!(picture.pixel(0, 2)[0], 0);
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(|x| mirrored(x, 2, 3)), [2, 1, 0, 1, 2, 1, 0]);
    }

    #[test]
    fn one_colour_stays() {
        let mut picture = Picture::filled(40, 23, [255, 0, 77]);
        gaussian_blur(&mut picture, 11, 2.0);
        assert_eq!(picture, Picture::filled(40, 23, [255, 0, 77]));
    }

    #[test]
    #[should_panic(expected = "needs more than 5, found 9 × 5")]
    fn a_picture_must_be_larger_than_the_kernel_reaches() {
        gaussian_blur(&mut Picture::filled(9, 5, [0; 3]), 5, 1.0);
    }
}
