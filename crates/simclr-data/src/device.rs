//! Sets for a device, where views are made of their pictures: these stay there, or are sent with every batch.
//!
//! What a CPU has to do for a batch is then to draw the parameters of its views, which go to the device in one small piece, and if need be
//! to have the pictures at hand. Order, parameters and bits are those of the [`Loader`](crate::Loader)'s other batches.

use candle_core::{DType, Device, Tensor};
use simclr_ops::augment::{Augmenter, Crop, Numbers, PackedViews, Picture, ViewParameters, make_views};
use simclr_ops::uploads::Uploads;

use crate::{DataError, Pictures, TrainTransform, loader::Made};

/// A set for a device.
#[derive(Debug, Clone)]
pub struct DeviceSet {
    device: Device,
    name: String,
    len: usize,
    pub(crate) kept: Result<Resident, NotResident>,
}

/// All pictures of a set on a device.
#[derive(Debug, Clone)]
pub(crate) struct Resident {
    /// `[n, height, width, 3]`, u8.
    pictures: Tensor,
}

/// Why a set is not kept on a device. Nothing is wrong with it: pictures go there batch by batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotResident {
    /// There is nothing to keep.
    #[error("there are no pictures")]
    Empty,
    /// Pictures differ in size.
    #[error(
        "picture {index} is {found:?} pixels (width, height), those before it {expected:?}: pictures that stay on a device have one size"
    )]
    Sizes {
        /// Which picture.
        index: usize,
        /// Its width and height.
        found: (u32, u32),
        /// Those of the first picture.
        expected: (u32, u32),
    },
    /// The pictures have more bytes than they may.
    #[error("the pictures take {bytes} bytes, and at most {at_most} are to be used for them")]
    Large {
        /// Bytes of all pictures, if they are as large as the first.
        bytes: u64,
        /// How many there may be.
        at_most: u64,
    },
}

impl DeviceSet {
    /// Brings all pictures of `set` to `device` to stay, if they are of one size and have at most `at_most` bytes. Meanwhile the host has
    /// a copy of all of them.
    ///
    /// # Errors
    /// Whatever keeps the set from giving a picture, and [`DataError::Tensor`] if the device cannot take them.
    pub fn upload(set: &dyn Pictures, device: &Device, at_most: u64) -> Result<Self, DataError> {
        let kept = Resident::upload(set, device, at_most)?;
        Ok(Self { device: device.clone(), name: set.name().to_owned(), len: set.len(), kept })
    }

    /// Why the pictures do not stay on the device, if they do not.
    pub fn not_resident(&self) -> Option<&NotResident> {
        self.kept.as_ref().err()
    }

    /// Where views are made.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// # Errors
    /// [`DataError::Resident`] if this is not `set`, as far as the number of pictures and its name tell.
    pub(crate) fn check(&self, set: &dyn Pictures) -> Result<(), DataError> {
        if (self.len, self.name.as_str()) == (set.len(), set.name()) {
            return Ok(());
        }
        let say = |n: usize, name: &str| format!("{n} pictures of {name}");
        Err(DataError::Resident { found: say(self.len, &self.name), expected: say(set.len(), set.name()) })
    }
}

impl Resident {
    fn upload(set: &dyn Pictures, device: &Device, at_most: u64) -> Result<Result<Self, NotResident>, DataError> {
        let n = set.len();
        if n == 0 {
            return Ok(Err(NotResident::Empty));
        }
        let first = set.picture(0)?;
        let expected @ (width, height) = (first.width(), first.height());
        let each = first.pixels().len();
        let bytes = (n as u64).saturating_mul(each as u64);
        if bytes > at_most {
            return Ok(Err(NotResident::Large { bytes, at_most }));
        }
        let mut pixels = Vec::with_capacity(n * each);
        for index in 0..n {
            let picture = set.picture(index)?;
            let found = (picture.width(), picture.height());
            if found != expected {
                return Ok(Err(NotResident::Sizes { index, found, expected }));
            }
            pixels.extend_from_slice(picture.pixels());
        }
        let shape = (n, height as usize, width as usize, 3);
        Ok(Ok(Self { pictures: Tensor::from_vec(pixels, shape, device)? }))
    }

    /// Width and height of the pictures.
    fn size(&self) -> (u32, u32) {
        (self.pictures.dims()[2] as u32, self.pictures.dims()[1] as u32)
    }
}

/// Two views of each of the `n` pictures of a batch, or of this process's share of it, on a device.
#[derive(Debug, Clone)]
pub struct DeviceBatch {
    /// `[2n, size, size, 3]`, normalised: the first view of every picture, then the second of every picture.
    pub views: Tensor,
    /// The class of each picture, where it is known. Training does not look at it.
    pub labels: Vec<Option<u32>>,
    /// Which pictures of the set these are.
    pub indices: Vec<usize>,
}

/// The batches of one epoch, in order, each made when it is asked for of what threads have drawn ahead. Ends at the first error;
/// dropping it ends its threads.
pub struct DeviceBatches {
    packed: Made<PackedBatch>,
    device: Device,
    /// What bytes become, `[3, 256]`.
    table: Tensor,
    dtype: DType,
    uploads: BatchUploads,
}

/// What goes to a device with a batch.
#[derive(Default)]
struct BatchUploads {
    pictures: Uploads,
    views: Uploads,
}

/// What a batch is, before its views are made.
pub(crate) struct PackedBatch {
    views: PackedViews,
    of: Source,
    labels: Vec<Option<u32>>,
    indices: Vec<usize>,
}

/// What views are made of.
enum Source {
    /// Pictures that are on the device.
    Kept(Tensor),
    /// Pixels that are sent with the batch.
    Sent(Vec<u8>),
}

/// Draws the views of the pictures `indices`.
pub(crate) fn pack(
    set: &dyn Pictures,
    transform: &TrainTransform,
    epoch: u64,
    kept: &Result<Resident, NotResident>,
    indices: Vec<usize>,
) -> Result<PackedBatch, DataError> {
    let (views, of) = match kept {
        Ok(resident) => {
            let of @ (width, height) = resident.size();
            let drawn = |view: u32| {
                let drawn = move |&index| (index, transform.parameters(width, height, epoch, index as u64, view));
                indices.iter().map(drawn)
            };
            (packed(transform, of, drawn(0).chain(drawn(1)))?, Source::Kept(resident.pictures.clone()))
        }
        Err(_) => {
            let (views, pixels) = to_send(set, transform, epoch, &indices)?;
            (views, Source::Sent(pixels))
        }
    };
    let labels = indices.iter().map(|&index| set.label(index)).collect();
    Ok(PackedBatch { views, of, labels, indices })
}

/// The views of the pictures `indices`, and the pixels of which they are made on the device: the pictures, or, where these differ in size
/// and no launch could make all views, the views themselves.
fn to_send(
    set: &dyn Pictures,
    transform: &TrainTransform,
    epoch: u64,
    indices: &[usize],
) -> Result<(PackedViews, Vec<u8>), DataError> {
    let pictures = indices.iter().map(|&index| set.picture(index)).collect::<Result<Vec<Picture>, _>>()?;
    let drawn = |view: u32| {
        let drawn = move |(place, (picture, &index)): (usize, (&Picture, &usize))| {
            (place, transform.parameters(picture.width(), picture.height(), epoch, index as u64, view))
        };
        pictures.iter().zip(indices).enumerate().map(drawn)
    };
    let drawn = drawn(0).chain(drawn(1));
    let size = |picture: &Picture| (picture.width(), picture.height());
    let of = pictures.first().map_or((0, 0), size);
    if pictures.iter().all(|picture| size(picture) == of) {
        let pixels = pictures.iter().flat_map(Picture::pixels).copied().collect();
        return Ok((packed(transform, of, drawn)?, pixels));
    }
    let side = transform.size();
    let mut augmenter = Augmenter::new();
    let views = drawn.map(|(place, parameters)| augmenter.view(&pictures[place], &parameters, side, side));
    let pixels: Vec<u8> = views.flat_map(Picture::into_pixels).collect();
    let as_it_is = |place| {
        let crop = Crop::whole(side, side);
        (place, ViewParameters { crop, flip: false, jitter: None, grayscale: false, blur: None, solarize: None })
    };
    Ok((packed(transform, (side, side), (0..2 * indices.len()).map(as_it_is))?, pixels))
}

/// Views of pictures that are `of` pixels, width and height.
fn packed(
    transform: &TrainTransform,
    of: (u32, u32),
    views: impl Iterator<Item = (usize, ViewParameters)>,
) -> Result<PackedViews, DataError> {
    Ok(PackedViews::new(transform.size() as usize, (of.0 as usize, of.1 as usize), views)?)
}

impl DeviceBatches {
    pub(crate) fn new(
        set: &DeviceSet,
        transform: &TrainTransform,
        dtype: DType,
        packed: Made<PackedBatch>,
    ) -> Result<Self, DataError> {
        let (device, table) = (set.device().clone(), transform.table(set.device())?);
        Ok(Self { packed, device, table, dtype, uploads: BatchUploads::default() })
    }

    fn make(&self, packed: PackedBatch) -> Result<DeviceBatch, DataError> {
        let PackedBatch { views, of, labels, indices } = packed;
        let pictures = match of {
            Source::Kept(pictures) => pictures,
            Source::Sent(pixels) => {
                let (width, height) = views.of();
                let shape = (pixels.len() / (3 * width * height).max(1), height, width, 3);
                self.uploads.pictures.send(&pixels, shape, &self.device)?
            }
        };
        let numbers = Numbers::Mapped { table: &self.table, dtype: self.dtype };
        let views = make_views(&pictures, &views, numbers, &self.uploads.views)?;
        Ok(DeviceBatch { views, labels, indices })
    }
}

impl Iterator for DeviceBatches {
    type Item = Result<DeviceBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let made = self.packed.next()?.and_then(|packed| self.make(packed));
        if made.is_err() {
            self.packed.end();
        }
        Some(made)
    }

    /// At most the batches that are left: an error ends the epoch early.
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.packed.size_hint()
    }
}

impl std::fmt::Debug for DeviceBatches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceBatches({:?} to come, on {:?})", self.packed.size_hint().1, self.device.location())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Loader, LoaderConfig, Normalization, PairBatch, Picture, Recipe, Shapes, Share, Split};

    /// The CPU, and the first GPU where there is one.
    fn devices() -> Vec<Device> {
        std::iter::once(Device::Cpu).chain(gpu()).collect()
    }

    #[cfg(not(feature = "cuda"))]
    fn gpu() -> Option<Device> {
        None
    }

    #[cfg(feature = "cuda")]
    fn gpu() -> Option<Device> {
        use std::io::Write as _;
        let say_skipped = |error: &simclr_ops::cuda::DeviceError| {
            let name = std::thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(std::io::stderr(), "!! SKIPPED {name} on a GPU: there is none here ({error})");
        };
        simclr_ops::cuda::open(0).inspect_err(say_skipped).ok()
    }

    fn shapes(len: usize) -> Arc<dyn Pictures> {
        Arc::new(Shapes::new(4, Split::Train, len))
    }

    fn resident(set: &dyn Pictures, device: &Device) -> DeviceSet {
        let there = DeviceSet::upload(set, device, 1 << 20).unwrap();
        assert_eq!(there.not_resident(), None);
        there
    }

    /// Views in NHWC, both halves: left views, then right ones.
    fn expected(batch: &PairBatch) -> Tensor {
        let both = Tensor::cat(&[&batch.left, &batch.right], 0).unwrap();
        both.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
    }

    fn bits(views: &Tensor) -> Vec<u32> {
        let numbers = views.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        numbers.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    fn assert_equal(here: &Loader, there: &DeviceSet, dtype: DType, epoch: u64, first: usize) {
        let batches = here.device_epoch(there, dtype, epoch, first).unwrap();
        let plain: Vec<PairBatch> = here.epoch(epoch, first).map(Result::unwrap).collect();
        assert_eq!(batches.size_hint(), (0, Some(plain.len())));
        let made: Vec<DeviceBatch> = batches.map(Result::unwrap).collect();
        assert_eq!(made.len(), plain.len());
        for (made, plain) in made.iter().zip(&plain) {
            assert_eq!((&made.indices, &made.labels), (&plain.indices, &plain.labels));
            assert_eq!((made.views.dtype(), made.views.device().location()), (dtype, there.device().location()));
            let expected = expected(plain).to_dtype(dtype).unwrap();
            assert_eq!(made.views.dims(), expected.dims());
            assert!(bits(&made.views) == bits(&expected), "{dtype:?}, epoch {epoch} from {first}");
        }
    }

    #[test]
    fn batches_are_those_of_the_cpu() {
        let recipe = Recipe { blur_probability: 0.5, solarize_probability: 0.3, ..Recipe::default() };
        for device in devices() {
            let set = shapes(30);
            let there = resident(set.as_ref(), &device);
            for (size, workers, dtype) in
                [(32, 2, DType::F32), (32, 0, DType::BF16), (40, 1, DType::BF16), (17, 3, DType::F16)]
            {
                let transform = TrainTransform::new(recipe.clone(), size, Normalization::CIFAR10, 8).unwrap();
                let config = LoaderConfig { batch: 7, workers, ..LoaderConfig::default() };
                let loader = Loader::new(set.clone(), transform, config).unwrap();
                assert_equal(&loader, &there, dtype, 0, 0);
                // An epoch that goes on where a run was resumed.
                assert_equal(&loader, &there, dtype, 5, 3);
                assert_equal(&loader, &there, dtype, 5, 4);
            }
        }
    }

    #[test]
    fn batches_whose_pictures_are_sent_are_those_of_the_cpu() {
        let recipe = Recipe { blur_probability: 0.5, solarize_probability: 0.3, ..Recipe::default() };
        let uneven: Vec<(u32, u32)> = (0..30).map(|i| if i % 5 == 4 { (20 + i, 31) } else { (24, 25) }).collect();
        let sets: [Arc<dyn Pictures>; 2] = [shapes(30), Arc::new(Sized(uneven))];
        for device in devices() {
            for (set, why) in sets.iter().zip(["at most 9 are to be used", "picture 4 is (24, 31)"]) {
                let at_most = if why.contains("at most") { 9 } else { 1 << 20 };
                let there = DeviceSet::upload(set.as_ref(), &device, at_most).unwrap();
                assert!(there.not_resident().unwrap().to_string().contains(why), "{there:?}");
                for (size, workers, dtype) in [(32, 2, DType::F32), (17, 0, DType::BF16)] {
                    let transform = TrainTransform::new(recipe.clone(), size, Normalization::CIFAR10, 8).unwrap();
                    // Three pictures: some batches have one size, others not.
                    let config = LoaderConfig { batch: 3, workers, ..LoaderConfig::default() };
                    let loader = Loader::new(set.clone(), transform, config).unwrap();
                    assert_equal(&loader, &there, dtype, 0, 0);
                    assert_equal(&loader, &there, dtype, 5, 7);
                }
            }
        }
    }

    #[test]
    fn shares_are_those_of_the_cpu() {
        for device in devices() {
            let set = shapes(30);
            let there = resident(set.as_ref(), &device);
            for (ranks, chunk) in [(2, None), (3, Some(6))] {
                for rank in 0..ranks {
                    let share = Share { rank, ranks, chunk };
                    let config = LoaderConfig { batch: 12, share, ..LoaderConfig::default() };
                    let loader = Loader::new(set.clone(), crate::compute_train_transform(8), config).unwrap();
                    assert_equal(&loader, &there, DType::F32, 3, 0);
                }
            }
        }
    }

    /// Pictures of a given size each, and one that cannot be had.
    struct Sized(Vec<(u32, u32)>);

    impl Pictures for Sized {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn picture(&self, index: usize) -> Result<Picture, DataError> {
            let (width, height) = self.0[index];
            if width == 0 {
                return Err(DataError::Missing { path: "the/picture.jpg".into(), fetch: "nothing" });
            }
            let byte = |i: u32| (7 * i + index as u32) as u8;
            Ok(Picture::new(width, height, (0..3 * width * height).map(byte).collect()).unwrap())
        }

        fn label(&self, _: usize) -> Option<u32> {
            None
        }

        fn classes(&self) -> &[String] {
            &[]
        }

        fn name(&self) -> &str {
            "sized"
        }
    }

    #[test]
    fn a_set_that_cannot_stay_says_why() {
        let upload = |sizes: &[(u32, u32)], at_most| DeviceSet::upload(&Sized(sizes.to_vec()), &Device::Cpu, at_most);
        let why = |sizes: &[(u32, u32)], at_most| upload(sizes, at_most).unwrap().not_resident().unwrap().to_string();
        assert_eq!(why(&[], 0), "there are no pictures");
        assert_eq!(why(&[(5, 4); 2], 119), "the pictures take 120 bytes, and at most 119 are to be used for them");
        assert_eq!(
            why(&[(5, 4), (5, 4), (4, 5)], 1000),
            "picture 2 is (4, 5) pixels (width, height), those before it (5, 4): pictures that stay on a device have one size"
        );
        assert_eq!(upload(&[(5, 4); 2], 120).unwrap().kept.unwrap().size(), (5, 4));
        assert!(matches!(upload(&[(5, 4), (0, 0)], 1000), Err(DataError::Missing { .. })));
    }

    #[test]
    fn another_set_is_refused() {
        let set = shapes(30);
        let config = LoaderConfig { batch: 5, ..LoaderConfig::default() };
        let loader = Loader::new(set, crate::compute_train_transform(8), config).unwrap();
        let other = resident(shapes(20).as_ref(), &Device::Cpu);
        let error = loader.device_epoch(&other, DType::F32, 0, 0).unwrap_err();
        assert_eq!(error.to_string(), "the device has 20 pictures of shapes, expected 30 pictures of shapes");
    }

    #[test]
    fn an_error_ends_the_epoch() {
        let set = shapes(30);
        let config = LoaderConfig { batch: 5, ..LoaderConfig::default() };
        let loader = Loader::new(set.clone(), crate::compute_train_transform(8), config).unwrap();
        let there = resident(set.as_ref(), &Device::Cpu);
        let mut batches = loader.device_epoch(&there, DType::F64, 0, 0).unwrap();
        assert!(batches.next().unwrap().unwrap_err().to_string().contains("expected f32, bf16 or f16"));
        assert!(batches.next().is_none());
    }
}
