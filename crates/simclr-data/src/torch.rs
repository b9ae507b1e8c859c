//! Views and batches to the last bit as torchvision and PyTorch's loader draw them.
//!
//! Our own sampler counts: a view is a function of (seed, epoch, picture, view). PyTorch's draws from generators, one in each
//! worker, so that what happens to a picture depends on the number of workers, the batch size and all pictures before it. This
//! is that sampler, for whoever has to reproduce a run or a check of PyTorch's, as the course's check of its transform: seed
//! 2147483647, the first two training pictures, a batch of 2 from two workers. Training does not use it.
//!
//! It follows torchvision 0.29 and PyTorch 2.15: Mersenne Twister, seeded by the lower half of the seed; `uniform_` in single
//! precision with one rounding, as on CPUs from AVX2 on.

use candle_core::{Device, Tensor};
use rand_mt::Mt;
use simclr_ops::augment::{Adjustment, Augmenter, Crop, Jitter, ViewParameters};

use crate::{
    DataError, Pictures, Recipe, TrainTransform,
    transform::{CROP_TRIES, central_crop},
};

/// Some views as [`torch_batches`] gives them.
#[derive(Debug, Clone)]
pub struct TorchBatch {
    /// One tensor per view of a picture, `[n, 3, size, size]`, `f32`, normalised, on the CPU.
    pub views: Vec<Tensor>,
    /// The class of each picture, where it is known.
    pub labels: Vec<Option<u32>>,
    /// Which pictures of the set these are.
    pub indices: Vec<usize>,
}

/// The batches of `DataLoader(set, batch_size=batch, num_workers=workers)` over the pictures `indices` of `set`, in this order,
/// right after `compute_train_transform(seed)`: `views` views of each picture, 1 for the course's check and 2 for its
/// `CIFAR10Pair`. The seed is that of `transform`, of which the recipe, the size and the normalisation count too. The last
/// batch has what is left.
///
/// A recipe with blur or solarization has them as torchvision's `RandomApply([GaussianBlur])` and `RandomSolarize` after the
/// others; what the blur does to pixels is torchvision's to a unit only.
///
/// # Errors
/// Items are errors if `batch` or `views` is 0 ([`DataError::Setting`]) or the set cannot give a picture; nothing comes after one.
///
/// ```
/// use simclr_data::{Shapes, Split, compute_train_transform, torch_batches};
/// let (set, transform) = (Shapes::new(1, Split::Train, 10), compute_train_transform(2147483647));
/// let batch = torch_batches(&set, &transform, 1, 2, 2, &[0, 1]).next().unwrap()?;
/// assert_eq!(batch.views[0].dims(), [2, 3, 32, 32]);
/// # Ok::<(), simclr_data::DataError>(())
/// ```
pub fn torch_batches<'a>(
    set: &'a dyn Pictures,
    transform: &'a TrainTransform,
    views: usize,
    workers: usize,
    batch: usize,
    indices: &'a [usize],
) -> impl Iterator<Item = Result<TorchBatch, DataError>> + 'a {
    let mut main = TorchSampler::new(transform.seed());
    // The loader draws it in any case; without workers it goes on with the same generator.
    let base = main.base_seed();
    let mut samplers: Vec<TorchSampler> = match workers {
        0 => vec![main],
        _ => (0..workers as u64).map(|worker| TorchSampler::new(base.wrapping_add(worker))).collect(),
    };
    let wrong = [("batch", batch), ("views", views)].into_iter().find(|&(_, number)| number == 0);
    let mut wrong = wrong.map(|(field, _)| DataError::Setting { field, found: "0".into(), expected: "at least 1" });
    let mut failed = false;
    let chunks = if wrong.is_some() { [].chunks(1) } else { indices.chunks(batch) };
    let mut chunks = chunks.enumerate();
    std::iter::from_fn(move || {
        if let Some(error) = wrong.take() {
            return Some(Err(error));
        }
        if failed {
            return None;
        }
        let (number, indices) = chunks.next()?;
        let workers = samplers.len();
        let made = samplers[number % workers].batch(set, transform, views, indices);
        failed = made.is_err();
        Some(made)
    })
}

/// Draws the parameters of views as torchvision does from one of PyTorch's generators.
#[derive(Debug)]
pub struct TorchSampler(Mt);

impl TorchSampler {
    /// `torch.manual_seed(seed)`, of which PyTorch uses the lower 32 bits.
    pub fn new(seed: u64) -> Self {
        Self(Mt::new(seed as u32))
    }

    /// What a loader draws for its workers: `torch.empty((), dtype=torch.int64).random_()`.
    fn base_seed(&mut self) -> u64 {
        let (high, low) = (self.0.next_u32(), self.0.next_u32());
        (u64::from(high) << 32 | u64::from(low)) & (u64::MAX >> 1)
    }

    /// `torch.empty(1).uniform_(low, high).item()`.
    fn uniform(&mut self, low: f64, high: f64) -> f32 {
        let (low, high) = (low as f32, high as f32);
        // 24 bits, as many as a single has.
        let unit = (self.0.next_u32() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0);
        unit.mul_add(high - low, low)
    }

    /// `torch.randint(0, n, size=(1,)).item()`, for less than 2^28 possibilities.
    fn below(&mut self, n: u32) -> u32 {
        self.0.next_u32() % n
    }

    /// The next view of a picture of `width` × `height` pixels.
    ///
    /// # Panics
    /// If a side is 0.
    pub fn parameters(&mut self, recipe: &Recipe, width: u32, height: u32) -> ViewParameters {
        assert!(width > 0 && height > 0, "a picture of {width} × {height} pixels has no views");
        let crop = self.crop(recipe, width, height);
        let flip = self.uniform(0.0, 1.0) < recipe.flip_probability as f32;
        // `if self.p < torch.rand(1): return img`
        let applies = |draw: f32, probability: f64| draw <= probability as f32;
        let jitter = applies(self.uniform(0.0, 1.0), recipe.jitter_probability).then(|| self.jitter(recipe));
        let grayscale = self.uniform(0.0, 1.0) < recipe.grayscale_probability as f32;
        let [least, greatest] = recipe.blur_sigma;
        let blurs = recipe.blur_probability > 0.0 && applies(self.uniform(0.0, 1.0), recipe.blur_probability);
        let blur = blurs.then(|| f64::from(self.uniform(least, greatest)));
        // `torch.rand(1).item() < self.p`, in double precision.
        let solarizes =
            recipe.solarize_probability > 0.0 && f64::from(self.uniform(0.0, 1.0)) < recipe.solarize_probability;
        let solarize = solarizes.then_some(recipe.solarize_threshold);
        ViewParameters { crop, flip, jitter, grayscale, blur, solarize }
    }

    /// `RandomResizedCrop.get_params`.
    fn crop(&mut self, recipe: &Recipe, width: u32, height: u32) -> Crop {
        let area = f64::from(width) * f64::from(height);
        // The ratios are singles, and so are their logarithms and exponentials.
        let [low, high] = recipe.crop_ratio.map(|ratio| f64::from(f64::from(ratio as f32).ln() as f32));
        for _ in 0..CROP_TRIES {
            let target = area * f64::from(self.uniform(recipe.crop_scale[0], recipe.crop_scale[1]));
            let ratio = f64::from(f64::from(self.uniform(low, high)).exp() as f32);
            let crop_width = (target * ratio).sqrt().round_ties_even() as u32;
            let crop_height = (target / ratio).sqrt().round_ties_even() as u32;
            if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
                let top = self.below(height - crop_height + 1);
                let left = self.below(width - crop_width + 1);
                return Crop { left, top, width: crop_width, height: crop_height };
            }
        }
        central_crop(width, height, recipe.crop_ratio[0], recipe.crop_ratio[1])
    }

    /// `ColorJitter.get_params`: `randperm(4)`, then what is not switched off.
    fn jitter(&mut self, recipe: &Recipe) -> Jitter {
        let mut order = Adjustment::ALL;
        for i in 0..3 {
            let other = i + self.below(4 - i as u32) as usize;
            order.swap(i, other);
        }
        let mut factor = |strength: f64, least: f64, middle: f64| {
            let range = ((middle - strength).max(least), middle + strength);
            (strength > 0.0).then(|| f64::from(self.uniform(range.0, range.1)))
        };
        let brightness = factor(recipe.brightness, 0.0, 1.0);
        let contrast = factor(recipe.contrast, 0.0, 1.0);
        let saturation = factor(recipe.saturation, 0.0, 1.0);
        let hue = factor(recipe.hue, -0.5, 0.0);
        Jitter { order, brightness, contrast, saturation, hue }
    }

    fn batch(
        &mut self,
        set: &dyn Pictures,
        transform: &TrainTransform,
        views: usize,
        indices: &[usize],
    ) -> Result<TorchBatch, DataError> {
        let size = transform.size();
        let mut augmenter = Augmenter::new();
        let mut numbers = vec![Vec::new(); views];
        for &index in indices {
            let picture = set.picture(index)?;
            for view in &mut numbers {
                let parameters = self.parameters(transform.recipe(), picture.width(), picture.height());
                transform.append(augmenter.planes(&picture, &parameters, size, size), view);
            }
        }
        let shape = (indices.len(), 3, size as usize, size as usize);
        let tensor = |numbers| Tensor::from_vec(numbers, shape, &Device::Cpu);
        Ok(TorchBatch {
            views: numbers.into_iter().map(tensor).collect::<Result<_, _>>()?,
            labels: indices.iter().map(|&index| set.label(index)).collect(),
            indices: indices.to_vec(),
        })
    }
}
