//! The parameters of a view as some short lines, and how they come onto a picture.

use font8x8::legacy::BASIC_LEGACY;
use image::{Rgb, RgbImage};
use simclr_data::{Adjustment, ViewParameters};

/// Width of a letter, and height of a line.
const LETTER: u32 = 8;
const LINE: u32 = 10;

/// Lines of the longest caption: two for the crop, four adjustments, gray, blur and solarization.
const LINES: u32 = 9;

/// Room for a caption with the gaps around it.
pub(crate) const HEIGHT: u32 = LINES * LINE + 12;

/// Letters of a caption's line at most.
pub(crate) const LONGEST: u32 = 19;

/// The room that the longest line needs.
pub(crate) const WIDTH: u32 = LONGEST * LETTER;

const INK: Rgb<u8> = Rgb([40, 40, 40]);

/// What was drawn for a view, in the order in which it acts.
pub(crate) fn of(parameters: &ViewParameters) -> Vec<String> {
    let crop = parameters.crop;
    let flip = if parameters.flip { " flip" } else { "" };
    let mut lines =
        vec![format!("crop {}x{}{flip}", crop.width, crop.height), format!("at {}, {}", crop.left, crop.top)];
    for adjustment in parameters.jitter.iter().flat_map(|jitter| jitter.order) {
        let name = match adjustment {
            Adjustment::Brightness => "brightness",
            Adjustment::Contrast => "contrast",
            Adjustment::Saturation => "saturation",
            Adjustment::Hue => "hue",
        };
        let factor = parameters.jitter.and_then(|jitter| jitter.factor(adjustment));
        lines.extend(factor.map(|factor| format!("{name} {factor:.3}")));
    }
    if parameters.grayscale {
        lines.push("gray".into());
    }
    lines.extend(parameters.blur.map(|sigma| format!("blur {sigma:.2}")));
    lines.extend(parameters.solarize.map(|threshold| format!("solarize {threshold}")));
    lines
}

/// Writes lines into a column of `width` pixels whose upper left corner is given; what is too long is cut, and a letter that
/// the font has not is a question mark.
pub(crate) fn write(canvas: &mut RgbImage, left: u32, top: u32, width: u32, lines: &[String]) {
    for (y, line) in (top..).step_by(LINE as usize).zip(lines) {
        for (x, letter) in (left..).step_by(LETTER as usize).zip(line.chars().take((width / LETTER) as usize)) {
            let glyph = BASIC_LEGACY.get(letter as usize).unwrap_or(&BASIC_LEGACY['?' as usize]);
            for (y, row) in (y..).zip(glyph) {
                for (x, bit) in (x..).zip(0..8) {
                    if row >> bit & 1 == 1 && x < canvas.width() && y < canvas.height() {
                        canvas.put_pixel(x, y, INK);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use simclr_data::{Crop, Jitter};

    #[test]
    fn everything_drawn_is_told_and_fits() {
        let order = [Adjustment::Hue, Adjustment::Saturation, Adjustment::Brightness, Adjustment::Contrast];
        let jitter = Jitter { order, brightness: Some(1.3999), contrast: None, saturation: Some(0.6), hue: Some(-0.1) };
        let crop = Crop { left: 1234, top: 999, width: 2048, height: 1024 };
        let all = ViewParameters {
            crop,
            flip: true,
            jitter: Some(Jitter { contrast: Some(0.5), ..jitter }),
            grayscale: true,
            blur: Some(1.234),
            solarize: Some(128),
        };
        let lines = of(&all);
        assert_eq!(lines.len() as u32, LINES);
        assert!(lines.iter().all(|line| line.len() as u32 <= LONGEST), "{lines:?}");
        assert_eq!(lines[..3], ["crop 2048x1024 flip", "at 1234, 999", "hue -0.100"].map(String::from)[..]);
        let few =
            ViewParameters { flip: false, jitter: Some(jitter), grayscale: false, blur: None, solarize: None, crop };
        let expected = ["crop 2048x1024", "at 1234, 999", "hue -0.100", "saturation 0.600", "brightness 1.400"];
        assert_eq!(of(&few), expected.map(String::from));
    }

    #[test]
    fn letters_are_ink_and_stay_in_their_column() {
        let mut canvas = RgbImage::from_pixel(40, 30, Rgb([255; 3]));
        write(&mut canvas, 2, 3, 17, &["HHHH".into(), "\u{4e00}".into()]);
        let ink = |x: u32, y: u32| *canvas.get_pixel(x, y) == INK;
        assert!((0..30).all(|y| (18..40).all(|x| !ink(x, y))), "two letters fit in 17 pixels");
        assert!((3..11).any(|y| ink(2, y)) && (3..11).any(|y| ink(10, y)));
        assert!((13..21).any(|y| (2..10).any(|x| ink(x, y))), "an unknown letter is shown");
    }
}
