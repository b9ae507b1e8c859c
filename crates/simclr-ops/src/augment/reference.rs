//! All steps of a view in their order, one at a time: the specification.

use super::{
    Adjustment, Picture, Resizer, Step, ViewParameters, adjust_brightness, adjust_contrast, adjust_hue,
    adjust_saturation, blur_radius, gaussian_blur, grayscale, horizontal_flip, solarize,
};

/// Makes a view of the size of `out`, showing the picture after every step that acted.
pub(super) fn view(
    resizer: &mut Resizer,
    picture: &Picture,
    parameters: &ViewParameters,
    out: &mut Picture,
    mut after: impl FnMut(Step, &Picture),
) {
    resizer.resized_crop(picture, parameters.crop, out.width(), out.height(), out);
    after(Step::ResizedCrop, out);
    if parameters.flip {
        horizontal_flip(out);
        after(Step::Flip, out);
    }
    if let Some(jitter) = &parameters.jitter {
        for adjustment in jitter.order {
            let adjust: fn(&mut Picture, f64) = match adjustment {
                Adjustment::Brightness => adjust_brightness,
                Adjustment::Contrast => adjust_contrast,
                Adjustment::Saturation => adjust_saturation,
                Adjustment::Hue => adjust_hue,
            };
            if let Some(factor) = jitter.factor(adjustment) {
                adjust(out, factor);
                after(Step::Jitter(adjustment), out);
            }
        }
    }
    if parameters.grayscale {
        grayscale(out);
        after(Step::Grayscale, out);
    }
    if let Some(sigma) = parameters.blur {
        gaussian_blur(out, blur_radius(out.height()).min(out.width() - 1), sigma);
        after(Step::Blur, out);
    }
    if let Some(threshold) = parameters.solarize {
        solarize(out, threshold);
        after(Step::Solarize, out);
    }
}
