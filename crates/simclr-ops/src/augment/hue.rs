//! Hue: to HSV, round the circle, and back, with PIL's 8-bit roundings on both ways.

use super::Picture;

/// Turns all hues by `turns` (-0.5 to 0.5 of the circle), in place (torchvision's `adjust_hue` on a PIL picture).
///
/// The turn is cut to whole 255ths and added to the hue byte modulo 256, as torchvision does; a turn of 0 still goes to
/// HSV and back, which moves most colours by a few units.
pub fn adjust_hue(picture: &mut Picture, turns: f64) {
    let shift = (turns * 255.0) as i32 as u8;
    let (pixels, _) = picture.pixels_mut().as_chunks_mut::<3>();
    for pixel in pixels {
        let [hue, saturation, value] = rgb_to_hsv(*pixel);
        *pixel = hsv_to_rgb([hue.wrapping_add(shift), saturation, value]);
    }
}

/// Hue, saturation and value of a colour in bytes (PIL's conversion from `RGB` to `HSV`).
pub fn rgb_to_hsv([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let high = red.max(green).max(blue);
    let low = red.min(green).min(blue);
    if high == low {
        return [0, 0, high];
    }
    let range = f32::from(high - low);
    let saturation = range / f32::from(high);
    // How far each channel is below the highest, as a part of the range: single precision, like PIL.
    let below = |channel: u8| f32::from(high - channel) / range;
    let (r, g, b) = (below(red), below(green), below(blue));
    let sixth = if red == high {
        b - g
    } else if green == high {
        (2.0 + f64::from(r) - f64::from(b)) as f32
    } else {
        (4.0 + f64::from(g) - f64::from(r)) as f32
    };
    // Into [0, 1) in double precision; the sum lies in [5/6, 11/6), where subtracting 1 is an exact remainder.
    let turned = f64::from(sixth) / 6.0 + 1.0;
    let hue = (if turned >= 1.0 { turned - 1.0 } else { turned }) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, high]
}

/// The colour of a hue, saturation and value in bytes (PIL's conversion from `HSV` to `RGB`).
pub fn hsv_to_rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let sixths = f64::from(hue) * 6.0 / 255.0;
    let sector = sixths as u8;
    let within = f64::from((sixths - f64::from(f32::from(sector))) as f32);
    let depth = f64::from((f64::from(saturation) / 255.0) as f32);
    let light = f64::from(value);
    // `x + 0.5` cut is C's `round` for all these arguments (a test tries each), and cheaper where the CPU has no such instruction.
    let channel = |part: f64| (light * part + 0.5) as u8;
    let low = channel(1.0 - depth);
    let falling = channel(1.0 - depth * within);
    let rising = channel(1.0 - depth * (1.0 - within));
    match sector % 6 {
        0 => [value, rising, low],
        1 => [falling, value, low],
        2 => [low, value, rising],
        3 => [low, falling, value],
        4 => [rising, low, value],
        _ => [value, low, falling],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_colours() {
        assert_eq!(rgb_to_hsv([255, 0, 0]), [0, 255, 255]);
        assert_eq!(rgb_to_hsv([0, 255, 0]), [85, 255, 255]);
        assert_eq!(rgb_to_hsv([0, 0, 255]), [170, 255, 255]);
        assert_eq!(rgb_to_hsv([9, 9, 9]), [0, 0, 9]);
        assert_eq!(hsv_to_rgb([85, 255, 255]), [0, 255, 0]);
        assert_eq!(hsv_to_rgb([200, 0, 7]), [7, 7, 7]);
        // The last hue byte is the first sector again.
        assert_eq!(hsv_to_rgb([255, 255, 255]), [255, 0, 0]);
    }

    #[test]
    fn cutting_after_a_half_is_rounding() {
        for saturation in 1..=255u8 {
            let depth = f64::from((f64::from(saturation) / 255.0) as f32);
            for hue in 0..=255u8 {
                let sixths = f64::from(hue) * 6.0 / 255.0;
                let within = f64::from((sixths - sixths.floor()) as f32);
                for value in 0..=255u8 {
                    for part in [1.0 - depth, 1.0 - depth * within, 1.0 - depth * (1.0 - within)] {
                        let exact = f64::from(value) * part;
                        // A tie or the double just below one are the only places where the two could differ.
                        let far = (exact.fract() - 0.5).abs() > 1e-12;
                        assert!(far || exact.round() as u8 == (exact + 0.5) as u8, "{hue} {saturation} {value}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_turn_wraps_round_the_circle() {
        let turned = |turns| {
            let mut picture = Picture::filled(1, 1, [255, 0, 0]);
            adjust_hue(&mut picture, turns);
            picture.pixel(0, 0)
        };
        assert_eq!(turned(0.0), [255, 0, 0]);
        // -0.1 of the circle is -25 (cut from -25.5), byte 231: between magenta and red.
        assert_eq!(turned(-0.1), hsv_to_rgb([231, 255, 255]));
        assert_eq!(turned(0.5), hsv_to_rgb([127, 255, 255]));
    }
}
