//! What one view does to a picture: plain numbers, sampled elsewhere.

use super::Picture;

/// Everything that is drawn for one view, in the order in which it is applied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ViewParameters {
    /// The part of the picture that is cut out and resized.
    pub crop: Crop,
    /// Whether left and right change places.
    pub flip: bool,
    /// The colour jitter, if this view has one.
    pub jitter: Option<Jitter>,
    /// Whether the view loses its colours.
    pub grayscale: bool,
    /// The deviation of a Gaussian blur in pixels, above 0, if this view is blurred; its kernel follows the height of the view.
    pub blur: Option<f64>,
    /// From which byte on channels turn into their negative, if this view is solarized.
    pub solarize: Option<u8>,
}

/// A rectangle of pixels inside a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Columns, at least 1.
    pub width: u32,
    /// Rows, at least 1.
    pub height: u32,
}

/// One draw of colour jitter: the four factors and the order in which they act, as torchvision's `ColorJitter.get_params`
/// returns them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter {
    /// Each of the four adjustments once.
    pub order: [Adjustment; 4],
    /// 0 is black, 1 leaves the picture as it is; `None` skips the step.
    pub brightness: Option<f64>,
    /// 0 is the mean gray, 1 leaves the picture as it is; `None` skips the step.
    pub contrast: Option<f64>,
    /// 0 is without colours, 1 leaves the picture as it is; `None` skips the step.
    pub saturation: Option<f64>,
    /// How far hues turn, in turns, from -0.5 to 0.5; `None` skips the step. Zero is not the same as none: the way to HSV
    /// and back rounds.
    pub hue: Option<f64>,
}

/// One of the four steps of colour jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Adjustment {
    /// torchvision's number 0.
    Brightness,
    /// torchvision's number 1.
    Contrast,
    /// torchvision's number 2.
    Saturation,
    /// torchvision's number 3.
    Hue,
}

impl Adjustment {
    /// All four, in torchvision's numbering.
    pub const ALL: [Self; 4] = [Self::Brightness, Self::Contrast, Self::Saturation, Self::Hue];
}

impl Jitter {
    /// What is drawn for one of the steps.
    pub fn factor(&self, adjustment: Adjustment) -> Option<f64> {
        match adjustment {
            Adjustment::Brightness => self.brightness,
            Adjustment::Contrast => self.contrast,
            Adjustment::Saturation => self.saturation,
            Adjustment::Hue => self.hue,
        }
    }
}

impl Crop {
    /// # Panics
    /// If the crop is empty or reaches beyond `picture`.
    pub(super) fn check(self, picture: &Picture) {
        let (width, height) = (picture.width(), picture.height());
        assert!(self.fits(width, height), "{self:?} has no pixel or lies outside of a picture of {width} × {height}");
    }

    /// The whole of a picture.
    pub fn whole(width: u32, height: u32) -> Self {
        Self { left: 0, top: 0, width, height }
    }

    /// Whether the crop has a pixel and lies inside a picture of this size.
    pub fn fits(&self, width: u32, height: u32) -> bool {
        let inside = |start: u32, len: u32, side: u32| len > 0 && start.checked_add(len).is_some_and(|end| end <= side);
        inside(self.left, self.width, width) && inside(self.top, self.height, height)
    }
}

#[cfg(test)]
mod tests {
    use super::Crop;

    #[test]
    fn crops_fit_or_not() {
        assert!(Crop::whole(5, 3).fits(5, 3));
        assert!(!Crop::whole(5, 3).fits(4, 3));
        assert!(!Crop { left: 1, top: 0, width: 5, height: 3 }.fits(5, 3));
        assert!(!Crop { left: 0, top: 0, width: 0, height: 3 }.fits(5, 3));
        assert!(!Crop { left: u32::MAX, top: 0, width: 2, height: 1 }.fits(5, 3));
    }
}
