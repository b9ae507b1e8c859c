//! Random views for training, and pictures as they are for testing.

use candle_core::{Device, Tensor};
use simclr_ops::{
    augment::{Adjustment, Augmenter, Crop, Jitter, Picture, Planes, ViewParameters},
    random::{Stream, stream},
};

use crate::{DataError, Normalization, Recipe, normalization::NormalizationTable};

/// Marks the streams of views: the upper half of the third counter (the lower half counts the views of a picture).
const VIEW: u64 = u64::from_be_bytes(*b"view\0\0\0\0");

/// Marks the streams of blur and solarization in the same way: apart, so that a recipe without them draws as it always did.
const LATE: u64 = u64::from_be_bytes(*b"late\0\0\0\0");

/// How often a crop is drawn anew because it does not fit, before the middle of the picture is taken.
pub(crate) const CROP_TRIES: usize = 10;

/// Random views of pictures: what is drawn, what it does to pixels, and how these become numbers.
#[derive(Debug, Clone)]
pub struct TrainTransform {
    recipe: Recipe,
    size: u32,
    normalization: Normalization,
    seed: u64,
    table: NormalizationTable,
}

/// The course's augmentation: views of 32×32 pixels after the default [`Recipe`], normalised for CIFAR-10.
///
/// ```
/// use simclr_data::{Picture, compute_train_transform};
/// let transform = compute_train_transform(2147483647);
/// let picture = Picture::filled(32, 32, [250, 120, 10]);
/// let (epoch, index) = (0, 5);
/// let (left, right) = (transform.view(&picture, epoch, index, 0), transform.view(&picture, epoch, index, 1));
/// assert_ne!(left, right);
/// ```
pub fn compute_train_transform(seed: u64) -> TrainTransform {
    TrainTransform::new(Recipe::default(), 32, Normalization::CIFAR10, seed).expect("the defaults are valid")
}

impl TrainTransform {
    /// A transform that makes views of `size` × `size` pixels.
    ///
    /// # Errors
    /// [`DataError::Setting`] with the name of the first setting whose value cannot be.
    pub fn new(recipe: Recipe, size: u32, normalization: Normalization, seed: u64) -> Result<Self, DataError> {
        recipe.validate()?;
        normalization.validate()?;
        if size == 0 {
            return Err(DataError::Setting { field: "size", found: "0".into(), expected: "at least 1 pixel" });
        }
        Ok(Self { table: normalization.table(), recipe, size, normalization, seed })
    }

    /// The distribution of views.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Width and height of a view.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// How bytes become numbers.
    pub fn normalization(&self) -> Normalization {
        self.normalization
    }

    /// What all draws start from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Draws what happens to picture `index`, of `width` × `height` pixels, in `epoch`, view `view`: a function of these and
    /// the seed.
    ///
    /// The crop, the flip and the gray are drawn before the jitter, so that switching the jitter off changes nothing else; blur
    /// and solarization are drawn from a stream of their own.
    ///
    /// # Panics
    /// If a side is 0.
    pub fn parameters(&self, width: u32, height: u32, epoch: u64, index: u64, view: u32) -> ViewParameters {
        assert!(width > 0 && height > 0, "a picture of {width} × {height} pixels has no views");
        let recipe = &self.recipe;
        let mut draws = stream(self.seed, [epoch, index, VIEW | u64::from(view)]);
        let crop = draw_crop(&mut draws, recipe, width, height);
        let flip = draws.uniform() < recipe.flip_probability;
        let grayscale = draws.uniform() < recipe.grayscale_probability;
        let jitter = (draws.uniform() < recipe.jitter_probability).then(|| draw_jitter(&mut draws, recipe));
        let (blur, solarize) = self.late_parameters([epoch, index, LATE | u64::from(view)]);
        ViewParameters { crop, flip, jitter, grayscale, blur, solarize }
    }

    /// The deviation of a blur and the threshold of a solarization.
    fn late_parameters(&self, counters: [u64; 3]) -> (Option<f64>, Option<u8>) {
        let recipe = &self.recipe;
        if recipe.blur_probability == 0.0 && recipe.solarize_probability == 0.0 {
            return (None, None);
        }
        let mut draws = stream(self.seed, counters);
        let blurs = draws.uniform() < recipe.blur_probability;
        let sigma = between(&mut draws, recipe.blur_sigma[0], recipe.blur_sigma[1]);
        let solarizes = draws.uniform() < recipe.solarize_probability;
        (blurs.then_some(sigma), solarizes.then_some(recipe.solarize_threshold))
    }

    /// The view that `parameters` describe.
    ///
    /// # Panics
    /// If the crop does not lie inside the picture.
    pub fn pixels(&self, picture: &Picture, parameters: &ViewParameters) -> Picture {
        Augmenter::new().view(picture, parameters, self.size, self.size)
    }

    /// View `view` of picture `index` in `epoch`: [`Self::parameters`], then [`Self::pixels`].
    pub fn view(&self, picture: &Picture, epoch: u64, index: u64, view: u32) -> Picture {
        self.pixels(picture, &self.parameters(picture.width(), picture.height(), epoch, index, view))
    }

    /// Writes the pixels of a view as normalised numbers: three planes, red, green, blue, each row by row.
    ///
    /// # Panics
    /// If `out` has not three numbers per pixel.
    pub fn write_tensor(&self, view: &Picture, out: &mut [f32]) {
        self.table.write(view, out);
    }

    /// Appends a view in planes as normalised numbers, in the same order.
    pub(crate) fn append(&self, view: &Planes, out: &mut Vec<f32>) {
        self.table.append(view, out);
    }

    /// The numbers of all bytes of each channel, on a device: `[3, 256]`, `f32`.
    pub(crate) fn table(&self, device: &Device) -> Result<Tensor, DataError> {
        Ok(self.table.tensor(device)?)
    }

    /// The view as a normalised tensor.
    ///
    /// # Shapes
    /// `[3, size, size]`, `f32`.
    ///
    /// # Errors
    /// [`DataError::Tensor`] from candle.
    pub fn tensor(&self, view: &Picture) -> Result<Tensor, DataError> {
        tensor(&self.table, view)
    }
}

/// Pictures without chance, normalised: as they are, or their middle in one size.
#[derive(Debug, Clone)]
pub struct TestTransform {
    size: Option<u32>,
    normalization: Normalization,
    table: NormalizationTable,
}

/// The course's test transform: to numbers, normalised for CIFAR-10.
pub fn compute_test_transform() -> TestTransform {
    TestTransform::new(None, Normalization::CIFAR10).expect("the course's normalization is valid")
}

impl TestTransform {
    /// Pictures as they are, or of `size` × `size` pixels.
    ///
    /// Pictures of that size stay as they are. Of others the middle is taken, as the networks of ImageNet are tested: resized so
    /// that the shorter side is 8/7 of `size` (256 for 224), then cut out (torchvision's `Resize` and `CenterCrop` on PIL
    /// pictures, to the bit).
    ///
    /// # Errors
    /// [`DataError::Setting`] if the size is 0, a deviation is not above 0 or a number is not finite.
    pub fn new(size: Option<u32>, normalization: Normalization) -> Result<Self, DataError> {
        normalization.validate()?;
        if size == Some(0) {
            return Err(DataError::Setting { field: "size", found: "0".into(), expected: "at least 1 pixel" });
        }
        Ok(Self { size, normalization, table: normalization.table() })
    }

    /// Width and height of what comes out, if it is fixed.
    pub fn size(&self) -> Option<u32> {
        self.size
    }

    /// How bytes become numbers.
    pub fn normalization(&self) -> Normalization {
        self.normalization
    }

    /// The pixels that are normalised.
    pub fn pixels(&self, picture: Picture) -> Picture {
        match self.size {
            Some(size) if (picture.width(), picture.height()) != (size, size) => middle(&picture, size),
            _ => picture,
        }
    }

    /// Writes pixels as normalised numbers: three planes, red, green, blue, each row by row.
    ///
    /// # Panics
    /// If `out` has not three numbers per pixel.
    pub fn write_tensor(&self, pixels: &Picture, out: &mut [f32]) {
        self.table.write(pixels, out);
    }

    /// The picture as a normalised tensor.
    ///
    /// # Shapes
    /// `[3, height, width]`, `f32`.
    ///
    /// # Errors
    /// [`DataError::Tensor`] from candle.
    pub fn tensor(&self, picture: &Picture) -> Result<Tensor, DataError> {
        tensor(&self.table, &self.pixels(picture.clone()))
    }
}

/// torchvision's `Resize(size * 8 // 7)` and `CenterCrop(size)`.
fn middle(picture: &Picture, size: u32) -> Picture {
    let resized = resized(picture, size + size / 7);
    // Python rounds halves to even.
    let start = |side: u32| (f64::from(side - size) / 2.0).round_ties_even() as u32;
    let crop = Crop { left: start(resized.width()), top: start(resized.height()), width: size, height: size };
    cropped(&resized, crop, size, size)
}

/// A picture resized so that its shorter side is `shorter`, the longer one cut to whole pixels (torchvision's `Resize`).
pub(crate) fn resized(picture: &Picture, shorter: u32) -> Picture {
    let (width, height) = (picture.width(), picture.height());
    let longer = |long: u32, short: u32| (u64::from(shorter) * u64::from(long) / u64::from(short)) as u32;
    let (to_width, to_height) =
        if width <= height { (shorter, longer(height, width)) } else { (longer(width, height), shorter) };
    cropped(picture, Crop::whole(width, height), to_width, to_height)
}

/// [`simclr_ops::augment::resized_crop`], by the fast form.
fn cropped(picture: &Picture, crop: Crop, width: u32, height: u32) -> Picture {
    let parameters = ViewParameters { crop, flip: false, jitter: None, grayscale: false, blur: None, solarize: None };
    Augmenter::new().view(picture, &parameters, width, height)
}

fn tensor(table: &NormalizationTable, picture: &Picture) -> Result<Tensor, DataError> {
    let mut values = vec![0.0; picture.pixels().len()];
    table.write(picture, &mut values);
    let shape = (3, picture.height() as usize, picture.width() as usize);
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// torchvision's `RandomResizedCrop.get_params`: area and log ratio even, ten tries, then the middle.
fn draw_crop(draws: &mut Stream, recipe: &Recipe, width: u32, height: u32) -> Crop {
    let area = f64::from(width) * f64::from(height);
    let [low, high] = recipe.crop_ratio;
    let (log_low, log_high) = (low.ln(), high.ln());
    for _ in 0..CROP_TRIES {
        let target = area * between(draws, recipe.crop_scale[0], recipe.crop_scale[1]);
        let ratio = between(draws, log_low, log_high).exp();
        let crop_width = (target * ratio).sqrt().round_ties_even() as u32;
        let crop_height = (target / ratio).sqrt().round_ties_even() as u32;
        if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
            let top = draws.below(u64::from(height - crop_height) + 1) as u32;
            let left = draws.below(u64::from(width - crop_width) + 1) as u32;
            return Crop { left, top, width: crop_width, height: crop_height };
        }
    }
    central_crop(width, height, low, high)
}

/// The largest crop in the middle whose ratio is allowed; never empty.
pub(crate) fn central_crop(width: u32, height: u32, least_ratio: f64, greatest_ratio: f64) -> Crop {
    let ratio = f64::from(width) / f64::from(height);
    let rounded = |side: f64, most: u32| (side.round_ties_even() as u32).clamp(1, most);
    let (crop_width, crop_height) = if ratio < least_ratio {
        (width, rounded(f64::from(width) / least_ratio, height))
    } else if ratio > greatest_ratio {
        (rounded(f64::from(height) * greatest_ratio, width), height)
    } else {
        (width, height)
    };
    let (left, top) = ((width - crop_width) / 2, (height - crop_height) / 2);
    Crop { left, top, width: crop_width, height: crop_height }
}

/// torchvision's `ColorJitter.get_params`: an order and four factors, whether or not all are used.
fn draw_jitter(draws: &mut Stream, recipe: &Recipe) -> Jitter {
    let mut order = Adjustment::ALL;
    draws.shuffle(&mut order);
    let mut factor = |strength: f64| {
        let drawn = between(draws, (1.0 - strength).max(0.0), 1.0 + strength);
        (strength > 0.0).then_some(drawn)
    };
    let (brightness, contrast, saturation) =
        (factor(recipe.brightness), factor(recipe.contrast), factor(recipe.saturation));
    let turn = between(draws, -recipe.hue, recipe.hue);
    Jitter { order, brightness, contrast, saturation, hue: (recipe.hue > 0.0).then_some(turn) }
}

fn between(draws: &mut Stream, low: f64, high: f64) -> f64 {
    low + (high - low) * draws.uniform()
}
