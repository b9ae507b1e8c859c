//! What is to be made of pictures that lie on a device, as numbers that go there in one piece.

use super::{Adjustment, ViewParameters, blur_radius, gaussian_kernel};
use crate::error::OpsError;

/// Views of one size of pictures of one size: of which picture each, and with which parameters.
///
/// Whoever packs needs no device, so that it can be done ahead, on any thread; [`make_views`](super::make_views) takes it from there.
#[derive(Debug, Clone)]
pub struct PackedViews {
    size: usize,
    of: (usize, usize),
    views: Vec<(usize, ViewParameters)>,
    /// A record for every view, then the weights of all blurs.
    bytes: Vec<u8>,
    blurs: bool,
}

/// Numbers of 4 bytes that a view is written down in: `View` in `cuda.cu`.
const WORDS: usize = 14;

/// In the place of an adjustment that is skipped.
const SKIPPED: u8 = 255;

/// A threshold that no byte reaches.
const NO_SOLARIZE: i32 = 256;

/// Begins nowhere.
const NO_BLUR: i32 = -1;

impl PackedViews {
    /// Packs views of `size` × `size` pixels. Each says which picture it is of, and all pictures are `of` pixels, width and height.
    ///
    /// # Errors
    /// [`OpsError::View`] if a crop is empty or reaches beyond the pictures, or the deviation of a blur is not above 0.
    pub fn new(
        size: usize,
        of: (usize, usize),
        views: impl IntoIterator<Item = (usize, ViewParameters)>,
    ) -> Result<Self, OpsError> {
        let views: Vec<(usize, ViewParameters)> = views.into_iter().collect();
        let mut bytes = Vec::with_capacity(4 * WORDS * views.len());
        let mut kernels = Vec::new();
        for (view, (picture, parameters)) in views.iter().enumerate() {
            check(view, parameters, of)?;
            let blur = parameters.blur.map(|sigma| {
                let begin = kernels.len() as i32;
                kernels.extend(gaussian_kernel(blur_radius(size as u32), sigma));
                begin
            });
            for word in record(*picture, parameters, blur) {
                bytes.extend(word.to_ne_bytes());
            }
        }
        let blurs = !kernels.is_empty();
        bytes.extend(kernels.into_iter().flat_map(f32::to_ne_bytes));
        Ok(Self { size, of, views, bytes, blurs })
    }

    /// How many views there are.
    pub fn len(&self) -> usize {
        self.views.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// Width and height of a view.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Width and height of the pictures.
    pub fn of(&self) -> (usize, usize) {
        self.of
    }

    /// Of which picture each view is, and its parameters.
    pub fn views(&self) -> &[(usize, ViewParameters)] {
        &self.views
    }

    /// Whether a view is blurred.
    pub fn blurs(&self) -> bool {
        self.blurs
    }

    /// What goes to a GPU.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn check(view: usize, parameters: &ViewParameters, (width, height): (usize, usize)) -> Result<(), OpsError> {
    let crop = parameters.crop;
    if !crop.fits(width as u32, height as u32) {
        return Err(OpsError::View {
            view,
            found: format!("{crop:?}"),
            expected: format!("at least a pixel, inside of pictures of {width} × {height}"),
        });
    }
    match parameters.blur {
        Some(sigma) if sigma.is_nan() || sigma <= 0.0 => Err(OpsError::View {
            view,
            found: format!("a blur of deviation {sigma}"),
            expected: "a number above 0".into(),
        }),
        _ => Ok(()),
    }
}

/// A view in words, all that is drawn as the steps use it: factors in single precision, a turn of hues in 255ths.
fn record(picture: usize, parameters: &ViewParameters, blur: Option<i32>) -> [u32; WORDS] {
    let ViewParameters { crop, flip, jitter, grayscale, solarize, .. } = parameters;
    let mut steps = [SKIPPED; 4];
    let mut factors = [0.0f32; 3];
    let mut shift = 0;
    if let Some(jitter) = jitter {
        for (step, adjustment) in steps.iter_mut().zip(jitter.order) {
            let Some(factor) = jitter.factor(adjustment) else { continue };
            *step = adjustment as u8;
            match adjustment {
                Adjustment::Hue => shift = (factor * 255.0) as i32 as u8,
                _ => factors[adjustment as usize] = factor as f32,
            }
        }
    }
    let [brightness, contrast, saturation] = factors.map(f32::to_bits);
    [
        picture as u32,
        crop.left,
        crop.top,
        crop.width,
        crop.height,
        u32::from_le_bytes(steps),
        brightness,
        contrast,
        saturation,
        shift.into(),
        (*flip).into(),
        (*grayscale).into(),
        solarize.map_or(NO_SOLARIZE, i32::from) as u32,
        blur.unwrap_or(NO_BLUR) as u32,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{Crop, Jitter};

    fn plain(crop: Crop) -> ViewParameters {
        ViewParameters { crop, flip: false, jitter: None, grayscale: false, blur: None, solarize: None }
    }

    fn words(packed: &PackedViews) -> Vec<u32> {
        packed.bytes().as_chunks::<4>().0.iter().map(|&word| u32::from_ne_bytes(word)).collect()
    }

    #[test]
    fn a_view_is_fourteen_words() {
        let crop = Crop { left: 1, top: 2, width: 3, height: 4 };
        let packed = PackedViews::new(32, (40, 30), [(7, plain(crop))]).unwrap();
        let none = u32::MAX;
        assert_eq!(words(&packed), [7, 1, 2, 3, 4, none, 0, 0, 0, 0, 0, 0, 256, none]);
        assert_eq!((packed.len(), packed.size(), packed.of(), packed.blurs()), (1, 32, (40, 30), false));

        let order = [Adjustment::Hue, Adjustment::Contrast, Adjustment::Brightness, Adjustment::Saturation];
        // -0.1 of the circle is -25 (cut from -25.5), byte 231.
        let jitter = Jitter { order, brightness: Some(0.7), contrast: None, saturation: Some(1.2), hue: Some(-0.1) };
        let all = ViewParameters {
            flip: true,
            jitter: Some(jitter),
            grayscale: true,
            solarize: Some(128),
            ..plain(Crop::whole(40, 30))
        };
        let packed = PackedViews::new(32, (40, 30), [(0, all)]).unwrap();
        let [brightness, saturation] = [0.7f32, 1.2].map(f32::to_bits);
        assert_eq!(words(&packed), [0, 0, 0, 40, 30, 0x0200_ff03, brightness, 0, saturation, 231, 1, 1, 128, none]);
    }

    #[test]
    fn the_weights_of_blurs_follow_the_views() {
        let blurred = |sigma| ViewParameters { blur: Some(sigma), ..plain(Crop::whole(9, 9)) };
        let views = [(0, blurred(0.5)), (1, plain(Crop::whole(9, 9))), (2, blurred(2.0))];
        let packed = PackedViews::new(96, (9, 9), views).unwrap();
        assert!(packed.blurs());
        let words = words(&packed);
        // 4 pixels to each side.
        assert_eq!(words.len(), 3 * WORDS + 18);
        assert_eq!([0, 1, 2].map(|view| words[WORDS * (view + 1) - 1]), [0, u32::MAX, 9]);
        let weights: Vec<f32> = words[3 * WORDS..].iter().map(|&word| f32::from_bits(word)).collect();
        assert_eq!(weights, [gaussian_kernel(4, 0.5), gaussian_kernel(4, 2.0)].concat());
    }

    #[test]
    fn what_cannot_be_made_is_refused_with_its_number() {
        let good = plain(Crop::whole(5, 3));
        let outside = plain(Crop { left: 1, top: 0, width: 5, height: 3 });
        let error = PackedViews::new(8, (5, 3), [(0, good), (0, outside)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "view 1 has Crop { left: 1, top: 0, width: 5, height: 3 }, expected at least a pixel, inside of pictures of 5 × 3"
        );
        for sigma in [0.0, f64::NAN] {
            let error = PackedViews::new(8, (5, 3), [(0, ViewParameters { blur: Some(sigma), ..good })]).unwrap_err();
            let expected = format!("view 0 has a blur of deviation {sigma}, expected a number above 0");
            assert_eq!(error.to_string(), expected);
        }
    }
}
