//! Hue on planes: to HSV, round the circle and back, in single precision.
//!
//! PIL computes some of it in double precision. A hue, a saturation and a channel of the result are each a function of three
//! bytes at most, so that what is cheaper can be tried on everything: the tests show that it makes no difference.

use crate::augment::Planes;

/// See [`crate::augment::adjust_hue`].
#[inline(always)]
pub(in crate::augment) fn adjust_hue(planes: &mut Planes, turns: f64) {
    let shift = i32::from((turns * 255.0) as i32 as u8);
    let [red, green, blue] = planes.channels_mut();
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        [*red, *green, *blue] = turned(i32::from(*red), i32::from(*green), i32::from(*blue), shift);
    }
}

/// A colour whose hue byte has grown by `shift`, from 0 to 255.
#[inline(always)]
fn turned(red: i32, green: i32, blue: i32, shift: i32) -> [u8; 3] {
    let high = red.max(green).max(blue);
    let low = red.min(green).min(blue);
    // For gray, whose range is 0, any hue will do: without saturation all channels are the value.
    let range = (high - low).max(1) as f32;
    // The lowest channel is a whole range below the highest: one quotient tells where the hue lies between two sixths.
    let middle = (high - (red + green + blue - high - low)) as f32 / range;
    let saturation = cut((high - low) as f32 / high.max(1) as f32 * 255.0);
    let (start, sign) = if red == high {
        if blue == low { (1.0, -1.0) } else { (-1.0, 1.0) }
    } else if green == high {
        if blue == low { (1.0, 1.0) } else { (3.0, -1.0) }
    } else if green == low {
        (5.0, -1.0)
    } else {
        (3.0, 1.0)
    };
    let turn = (start + sign * middle) / 6.0f32;
    let turn = if turn < 0.0 { turn + 1.0 } else { turn };
    let hue = (cut(turn * 255.0) + shift) & 255;

    // Six sectors of the circle, and a 255th part of one: an exact division by 255.
    let sixths = 6 * hue;
    let sector = (sixths + 1 + (sixths >> 8)) >> 8;
    let within = (sixths - 255 * sector) as f32 * (1.0 / 255.0);
    let depth = saturation as f32 * (1.0 / 255.0);
    let light = high as f32;
    let share = if sector & 1 == 1 { within } else { 1.0 - within };
    let low = cut(light * (1.0 - depth) + 0.5);
    let between = cut(light * (1.0 - depth * share) + 0.5);
    // Sector 6 is the first again: the last hue byte alone, at its very start.
    let red = if sector == 1 || sector == 4 {
        between
    } else if sector == 2 || sector == 3 {
        low
    } else {
        high
    };
    let green = if sector == 1 || sector == 2 {
        high
    } else if sector == 4 || sector == 5 {
        low
    } else {
        between
    };
    let blue = if sector == 3 || sector == 4 {
        high
    } else if sector == 2 || sector == 5 {
        between
    } else {
        low
    };
    [red as u8, green as u8, blue as u8]
}

/// Cuts a number from 0 to below 256.
#[inline(always)]
fn cut(number: f32) -> i32 {
    // SAFETY: all callers pass products of numbers from 0 to 1 and 255, and a half more.
    unsafe { number.to_int_unchecked::<i32>() }
}
