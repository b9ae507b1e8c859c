//! All steps of a view, in their order.

use super::{
    Adjustment, Picture, Resizer, ViewParameters, adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation,
    grayscale, horizontal_flip,
};

/// Makes views, keeping its buffers from picture to picture: one per thread.
#[derive(Debug, Default)]
pub struct Augmenter {
    resizer: Resizer,
}

/// A step of a view that has just been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The crop was cut out and resized.
    ResizedCrop,
    /// Left and right were exchanged.
    Flip,
    /// One of the four colour adjustments.
    Jitter(Adjustment),
    /// The colours were taken away.
    Grayscale,
}

impl Augmenter {
    /// An augmenter with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The view of `picture` that `parameters` describe, `width` × `height` pixels large.
    ///
    /// # Panics
    /// If the crop is empty or reaches beyond the picture, or a side of the view is 0.
    pub fn view(&mut self, picture: &Picture, parameters: &ViewParameters, width: u32, height: u32) -> Picture {
        let mut out = Picture::filled(1, 1, [0; 3]);
        self.view_into(picture, parameters, width, height, &mut out);
        out
    }

    /// [`Self::view`] into `out`, whose size and bytes are replaced.
    ///
    /// # Panics
    /// As [`Self::view`].
    pub fn view_into(
        &mut self,
        picture: &Picture,
        parameters: &ViewParameters,
        width: u32,
        height: u32,
        out: &mut Picture,
    ) {
        out.reshape(width, height);
        self.steps(picture, parameters, out, |_, _| {});
    }

    /// [`Self::view`] of the size of `out`, showing the picture after every step that acted.
    ///
    /// # Panics
    /// As [`Self::view`].
    pub fn steps(
        &mut self,
        picture: &Picture,
        parameters: &ViewParameters,
        out: &mut Picture,
        mut after: impl FnMut(Step, &Picture),
    ) {
        self.resizer.resized_crop(picture, parameters.crop, out.width(), out.height(), out);
        after(Step::ResizedCrop, out);
        if parameters.flip {
            horizontal_flip(out);
            after(Step::Flip, out);
        }
        if let Some(jitter) = &parameters.jitter {
            for adjustment in jitter.order {
                let (adjust, factor): (fn(&mut Picture, f64), _) = match adjustment {
                    Adjustment::Brightness => (adjust_brightness, jitter.brightness),
                    Adjustment::Contrast => (adjust_contrast, jitter.contrast),
                    Adjustment::Saturation => (adjust_saturation, jitter.saturation),
                    Adjustment::Hue => (adjust_hue, jitter.hue),
                };
                if let Some(factor) = factor {
                    adjust(out, factor);
                    after(Step::Jitter(adjustment), out);
                }
            }
        }
        if parameters.grayscale {
            grayscale(out);
            after(Step::Grayscale, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{Crop, Jitter};

    #[test]
    fn steps_act_in_the_drawn_order_and_absent_ones_are_skipped() {
        let picture = Picture::filled(4, 4, [200, 100, 50]);
        let order = [Adjustment::Hue, Adjustment::Saturation, Adjustment::Brightness, Adjustment::Contrast];
        let jitter = Jitter { order, brightness: Some(0.7), contrast: None, saturation: Some(1.2), hue: Some(0.05) };
        let parameters = ViewParameters { crop: Crop::whole(4, 4), flip: false, jitter: Some(jitter), grayscale: true };
        let mut seen = Vec::new();
        let mut out = Picture::filled(2, 2, [0; 3]);
        Augmenter::new().steps(&picture, &parameters, &mut out, |step, _| seen.push(step));
        let expected = [
            Step::ResizedCrop,
            Step::Jitter(Adjustment::Hue),
            Step::Jitter(Adjustment::Saturation),
            Step::Jitter(Adjustment::Brightness),
            Step::Grayscale,
        ];
        assert_eq!(seen, expected);
        assert_eq!(out, Augmenter::new().view(&picture, &parameters, 2, 2));
    }
}
