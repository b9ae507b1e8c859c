//! Views: all steps in their order.

use super::fast::{self, Blur, PlaneResizer};
use super::{Adjustment, Picture, Planes, Resizer, ViewParameters, blur_radius, reference};
use crate::Form;
use crate::product::Instructions;
use crate::simd::simd_with;

/// Makes views, keeping its buffers from picture to picture: one per thread.
pub struct Augmenter {
    form: Form,
    instructions: Instructions,
    resizer: PlaneResizer,
    blur: Blur,
    planes: Planes,
    /// Of the reference.
    pixels: (Resizer, Picture),
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
    /// The view was blurred.
    Blur,
    /// The light channels were turned into their negative.
    Solarize,
}

impl std::fmt::Debug for Augmenter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Augmenter({:?}, {})", self.form, self.instructions)
    }
}

impl Default for Augmenter {
    fn default() -> Self {
        Self::new()
    }
}

impl Augmenter {
    /// The fastest augmenter of this machine, with empty buffers.
    pub fn new() -> Self {
        Self::with(Form::Fast, Instructions::best())
    }

    /// Forces a form and its instructions, as tests do to compare them; all give the same bits. The reference has no vectors
    /// and needs none.
    ///
    /// # Panics
    /// If this CPU has the instructions not.
    pub fn with(form: Form, instructions: Instructions) -> Self {
        assert!(instructions.is_available(), "this CPU has no {instructions} instructions");
        let pixels = (Resizer::new(), Picture::filled(1, 1, [0; 3]));
        let (resizer, blur, planes) = (PlaneResizer::default(), Blur::default(), Planes::new());
        Self { form, instructions, resizer, blur, planes, pixels }
    }

    /// The view of `picture` that `parameters` describe, `width` × `height` pixels large.
    ///
    /// # Panics
    /// If the crop is empty or reaches beyond the picture, or a side of the view is 0.
    pub fn view(&mut self, picture: &Picture, parameters: &ViewParameters, width: u32, height: u32) -> Picture {
        self.planes(picture, parameters, width, height).to_picture()
    }

    /// [`Self::view`] as planes, which is how it is made: valid until the next one.
    ///
    /// # Panics
    /// As [`Self::view`].
    pub fn planes(&mut self, picture: &Picture, parameters: &ViewParameters, width: u32, height: u32) -> &Planes {
        self.steps(picture, parameters, width, height, |_, _| {});
        &self.planes
    }

    /// [`Self::planes`], showing the view after every step that acted. A flip acts together with the resized crop before it,
    /// and is shown after both.
    ///
    /// # Panics
    /// As [`Self::view`].
    pub fn steps(
        &mut self,
        picture: &Picture,
        parameters: &ViewParameters,
        width: u32,
        height: u32,
        mut after: impl FnMut(Step, &Planes),
    ) {
        parameters.crop.check(picture);
        assert!(width > 0 && height > 0, "cannot resize to {width} × {height} pixels");
        match self.form {
            Form::Reference => {
                let (resizer, pixels) = &mut self.pixels;
                pixels.reshape(width, height);
                reference::view(resizer, picture, parameters, pixels, |step, pixels| {
                    if !(step == Step::ResizedCrop && parameters.flip) {
                        after(step, &Planes::from(pixels));
                    }
                });
                self.planes = Planes::from(&*pixels);
            }
            Form::Fast => {
                self.planes.reshape(width as usize, height as usize);
                let Self { instructions, resizer, blur, planes, .. } = self;
                simd_with(
                    *instructions,
                    #[inline(always)]
                    || view(resizer, blur, picture, parameters, planes, after),
                );
            }
        }
    }
}

/// [`reference::view`] on planes.
#[inline(always)]
fn view(
    resizer: &mut PlaneResizer,
    blur: &mut Blur,
    picture: &Picture,
    parameters: &ViewParameters,
    out: &mut Planes,
    mut after: impl FnMut(Step, &Planes),
) {
    resizer.resized_crop(picture, parameters.crop, parameters.flip, out);
    after(if parameters.flip { Step::Flip } else { Step::ResizedCrop }, out);
    if let Some(jitter) = &parameters.jitter {
        for adjustment in jitter.order {
            let Some(factor) = jitter.factor(adjustment) else { continue };
            match adjustment {
                Adjustment::Brightness => fast::adjust_brightness(out, factor),
                Adjustment::Contrast => fast::adjust_contrast(out, factor),
                Adjustment::Saturation => fast::adjust_saturation(out, factor),
                Adjustment::Hue => fast::adjust_hue(out, factor),
            }
            after(Step::Jitter(adjustment), out);
        }
    }
    if parameters.grayscale {
        fast::grayscale(out);
        after(Step::Grayscale, out);
    }
    if let Some(sigma) = parameters.blur {
        let height = out.height() as u32;
        blur.apply(out, blur_radius(height).min(out.width() as u32 - 1), sigma);
        after(Step::Blur, out);
    }
    if let Some(threshold) = parameters.solarize {
        fast::solarize(out, threshold);
        after(Step::Solarize, out);
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
        let crop = Crop::whole(4, 4);
        let parameters = ViewParameters {
            crop,
            flip: false,
            jitter: Some(jitter),
            grayscale: true,
            blur: Some(1.0),
            solarize: Some(9),
        };
        let expected = [
            Step::ResizedCrop,
            Step::Jitter(Adjustment::Hue),
            Step::Jitter(Adjustment::Saturation),
            Step::Jitter(Adjustment::Brightness),
            Step::Grayscale,
            Step::Blur,
            Step::Solarize,
        ];
        for form in [Form::Reference, Form::Fast] {
            let mut seen = Vec::new();
            let mut last = None;
            let mut augmenter = Augmenter::with(form, Instructions::best());
            augmenter.steps(&picture, &parameters, 2, 2, |step, after| {
                seen.push(step);
                last = Some(after.to_picture());
            });
            assert_eq!(seen, expected);
            assert_eq!(last, Some(Augmenter::new().view(&picture, &parameters, 2, 2)));
        }
    }
}
