//! On a GPU: a block makes a view, and one launch all of them.

use candle_core::{DType, Tensor};

use super::PackedViews;
use super::batch::{Numbers, OP};
use crate::cuda::{Argument, Grid, Kernels, empty, kernels, pointer, suffix};
use crate::error::OpsError;
use crate::uploads::Uploads;

const KERNELS: Kernels = kernels!("augment");

/// Threads of a block, and words that it shares, as in the kernels.
const THREADS: usize = 256;
const SHARED_WORDS: usize = 6144;

/// Words that the strip of a blur has at least, if a whole view is not less: four columns of bytes of the largest view.
const STRIP_WORDS: usize = 4096;

/// Words of scratch of all blocks together, 128 MiB: enough of them to keep a GPU busy with views of 224 pixels.
const SCRATCH_WORDS: usize = 1 << 25;

/// Where a block keeps what it works on.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Layout {
    /// Words that every block needs outside of shared memory.
    scratch: usize,
    /// Where weights, the pixels between two passes and those of the view begin: in shared memory, or, as -1 - place, in scratch.
    weights: i32,
    between: i32,
    view: i32,
    /// Where in shared memory the strip of a blur begins, and how many bytes of a row it is wide.
    strip: i32,
    columns: usize,
}

impl Layout {
    fn of(views: &PackedViews) -> Self {
        let (width, height) = views.of();
        let size = views.size();
        // For every position of an axis where its weights begin, how many they are, and PIL's `ksize` of them.
        let axis = |pixels: usize| size * (2 + 2 * pixels.div_ceil(size) + 1);
        let reserved = if views.blurs() { STRIP_WORDS.min(3 * size * size) } else { 0 };
        let (mut shared, mut scratch) = (0, 0);
        let mut place = |words: usize| {
            if shared + words + reserved <= SHARED_WORDS {
                shared += words;
                (shared - words) as i32
            } else {
                scratch += words;
                -1 - (scratch - words) as i32
            }
        };
        let weights = place(axis(width) + axis(height));
        let view = place(size * size);
        // After the horizontal pass, the longer of the two; and a blurred view.
        let between = place(size * height.max(size));
        let columns = ((SHARED_WORDS - shared) / size).min(3 * size);
        Self { scratch, weights, between, view, strip: shared as i32, columns }
    }

    fn blocks(&self, views: usize) -> usize {
        SCRATCH_WORDS.checked_div(self.scratch).map_or(views, |blocks| blocks.clamp(1, views))
    }
}

/// See [`super::make_views`], which has checked the arguments.
pub(super) fn make_views(
    pictures: &Tensor,
    views: &PackedViews,
    numbers: Numbers<'_>,
    uploads: &Uploads,
) -> Result<Tensor, OpsError> {
    let device = pictures.device().as_cuda_device()?;
    let (width, height) = views.of();
    let (count, size) = (views.len(), views.size());
    let layout = Layout::of(views);
    let blocks = layout.blocks(count);
    let (name, dtype, table) = match numbers {
        Numbers::Bytes => ("u8", DType::U8, 0),
        Numbers::Mapped { table, dtype } => {
            (suffix(OP, "output", dtype)?, dtype, pointer(OP, "table", table, DType::F32)?)
        }
    };
    let bytes = uploads.send(views.bytes(), views.bytes().len(), pictures.device())?;
    // SAFETY: a block writes its part before it reads it.
    let scratch = unsafe { empty((blocks * layout.scratch).max(1), DType::F32, device) }?;
    // SAFETY: the kernel writes every number.
    let out = unsafe { empty((count, size, size, 3), dtype, device) }?;
    let arguments = [
        Argument::Pointer(pointer(OP, "pictures", pictures, DType::U8)?),
        Argument::size(height),
        Argument::size(width),
        Argument::Pointer(pointer(OP, "views", &bytes, DType::U8)?),
        Argument::size(count),
        Argument::size(size),
        Argument::Pointer(table),
        Argument::Pointer(pointer(OP, "scratch", &scratch, DType::F32)?),
        Argument::Long(layout.scratch as i64),
        Argument::Int(layout.weights),
        Argument::Int(layout.between),
        Argument::Int(layout.view),
        Argument::Int(layout.strip),
        Argument::size(layout.columns),
        Argument::Pointer(pointer(OP, "output", &out, dtype)?),
    ];
    let grid = Grid { blocks: [blocks, 1, 1], threads: [THREADS, 1], shared: 0 };
    // SAFETY: these are the arguments of the kernel; every view was packed for pictures of this size, and is of one that is there.
    unsafe { KERNELS.launch(device, &format!("augment_views_{name}"), grid, &arguments) }?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::augment::{Adjustment, Augmenter, Crop, Jitter, Picture, ViewParameters, make_views};
    use crate::check::gpu;
    use crate::random::{Stream, stream};

    /// Pictures in which every byte is drawn, half of them between 0 and 255 alone, where blends are clipped.
    fn pictures(draws: &mut Stream, n: usize, width: usize, height: usize) -> Vec<Picture> {
        (0..n)
            .map(|n| {
                let mut byte = || if n % 2 == 0 { draws.below(256) as u8 } else { draws.below(2) as u8 * 255 };
                Picture::new(width as u32, height as u32, (0..3 * width * height).map(|_| byte()).collect()).unwrap()
            })
            .collect()
    }

    fn tensor(pictures: &[Picture]) -> Tensor {
        let (width, height) = (pictures[0].width() as usize, pictures[0].height() as usize);
        let bytes: Vec<u8> = pictures.iter().flat_map(|picture| picture.pixels().iter().copied()).collect();
        Tensor::from_vec(bytes, (pictures.len(), height, width, 3), &Device::Cpu).unwrap()
    }

    /// Any crop, some of one pixel or of the whole picture; every step, or some of them.
    fn parameters(draws: &mut Stream, width: u32, height: u32, blurs: bool) -> ViewParameters {
        let mut side = |most: u32| match draws.below(6) {
            0 => 1,
            1 => most,
            _ => 1 + draws.below(u64::from(most)) as u32,
        };
        let (crop_width, crop_height) = (side(width), side(height));
        let mut below = |n: u32| draws.below(u64::from(n)) as u32;
        let (left, top) = (below(width - crop_width + 1), below(height - crop_height + 1));
        let [flip, jitters, grayscale, blurred, solarized] = [2, 4, 5, 2, 3].map(|n| below(n) == 0);
        let mut order = Adjustment::ALL;
        draws.shuffle(&mut order);
        let mut factor = |low: f64, high: f64| (draws.below(5) > 0).then(|| low + (high - low) * draws.uniform());
        let jitter = Jitter {
            order,
            brightness: factor(0.0, 2.0),
            contrast: factor(0.0, 2.0),
            saturation: factor(0.0, 2.0),
            hue: factor(-0.5, 0.5),
        };
        let sigma = 0.1 + 1.9 * draws.uniform();
        ViewParameters {
            crop: Crop { left, top, width: crop_width, height: crop_height },
            flip,
            jitter: (!jitters).then_some(jitter),
            grayscale,
            blur: (blurs && blurred).then_some(sigma),
            solarize: solarized.then(|| draws.below(256) as u8),
        }
    }

    fn bytes(views: &Tensor) -> Vec<u8> {
        views.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn equal_the_cpu(
        device: &Device,
        [width, height, size]: [usize; 3],
        count: usize,
        blurs: bool,
        layout: impl Fn(Layout),
    ) {
        let mut draws = stream(5, [width as u64, height as u64, size as u64]);
        let pictures = pictures(&mut draws, 5, width, height);
        let drawn: Vec<(usize, ViewParameters)> = (0..count)
            .map(|_| (draws.below(5) as usize, parameters(&mut draws, width as u32, height as u32, blurs)))
            .collect();
        let packed = PackedViews::new(size, (width, height), drawn.clone()).unwrap();
        layout(Layout::of(&packed));
        let there = tensor(&pictures).to_device(device).unwrap();
        let made = make_views(&there, &packed, Numbers::Bytes, &Uploads::default()).unwrap();
        assert_eq!(made.dims(), [count, size, size, 3]);
        let mut augmenter = Augmenter::new();
        for ((view, made), (picture, parameters)) in bytes(&made).chunks(3 * size * size).enumerate().zip(&drawn) {
            let expected = augmenter.view(&pictures[*picture], parameters, size as u32, size as u32);
            let differ = made.iter().zip(expected.pixels()).filter(|(a, b)| a != b).count();
            assert_eq!(differ, 0, "bytes of view {view} of {width} × {height} in {size}: {parameters:?}");
        }
    }

    #[test]
    fn views_that_fit_a_block_are_the_cpus() {
        let Some(device) = gpu() else { return };
        for (dims, count) in
            [([32, 32, 32], 400), ([37, 53, 17], 200), ([40, 30, 32], 200), ([9, 7, 1], 50), ([1, 1, 20], 20)]
        {
            let shared = |layout: Layout| assert_eq!(layout.scratch, 0, "{dims:?}: {layout:?}");
            equal_the_cpu(&device, dims, count, false, shared);
            // A strip is as wide as the view, or takes what little is left.
            equal_the_cpu(&device, dims, count, true, |layout| assert!(layout.columns >= 3));
        }
    }

    #[test]
    fn views_that_fit_no_block_are_the_cpus() {
        let Some(device) = gpu() else { return };
        for (dims, count) in [
            ([96, 96, 96], 40),
            ([64, 48, 64], 40),
            ([300, 200, 8], 40),
            ([200, 301, 224], 8),
            ([3, 5, 200], 8),
            ([1100, 3, 40], 20),
            ([2, 1500, 33], 20),
            ([50, 60, 1024], 2),
        ] {
            for blurs in [false, true] {
                equal_the_cpu(&device, dims, count, blurs, |layout| assert!(layout.columns >= 4 || !blurs));
            }
        }
    }

    #[test]
    fn a_block_makes_several_views_where_scratch_is_short() {
        let Some(device) = gpu() else { return };
        // Scratch for the pixels between the passes is 8 MB a view: there are fewer blocks than views.
        equal_the_cpu(&device, [20, 8000, 260], 24, true, |layout| assert!(layout.blocks(24) < 24));
    }

    #[test]
    fn every_byte_goes_through_its_table() {
        let Some(device) = gpu() else { return };
        let mut draws = stream(6, [0; 3]);
        let pictures = tensor(&pictures(&mut draws, 4, 32, 32));
        let views: Vec<_> = (0..32).map(|view| (view % 4, parameters(&mut draws, 32, 32, true))).collect();
        let packed = PackedViews::new(32, (32, 32), views).unwrap();
        let table: Vec<f32> = (0..768).map(|_| draws.normal() as f32).collect();
        let table = Tensor::from_vec(table, (3, 256), &Device::Cpu).unwrap();
        let there = [&pictures, &table].map(|tensor| tensor.to_device(&device).unwrap());
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let here =
                make_views(&pictures, &packed, Numbers::Mapped { table: &table, dtype }, &Uploads::default()).unwrap();
            let made = make_views(&there[0], &packed, Numbers::Mapped { table: &there[1], dtype }, &Uploads::default())
                .unwrap();
            assert_eq!(made.dtype(), dtype);
            // Every number of these types is one of f32.
            let numbers = |t: &Tensor| -> Vec<u32> {
                let t = t.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap().flatten_all().unwrap();
                t.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
            };
            assert!(numbers(&made) == numbers(&here), "{dtype:?}");
        }
    }

    #[test]
    fn all_colours_are_adjusted_as_on_the_cpu() {
        let Some(device) = gpu() else { return };
        // A sixteenth of all colours: every red and green, and the upper half of every blue.
        let side = 1024u32;
        let mut draws = stream(7, [0; 3]);
        let colours = (0..side * side).flat_map(|n| {
            let low = draws.below(16) as u32;
            [(n >> 12) as u8, (n >> 4) as u8, ((n & 15) << 4 | low) as u8]
        });
        let picture = Picture::new(side, side, colours.collect()).unwrap();
        let none = Jitter { order: Adjustment::ALL, brightness: None, contrast: None, saturation: None, hue: None };
        let jitters = [
            Jitter { hue: Some(0.1), ..none },
            Jitter { saturation: Some(1.7), ..none },
            Jitter { contrast: Some(0.3), hue: Some(-0.49), ..none },
        ];
        let views = jitters.map(|jitter| ViewParameters {
            crop: Crop::whole(side, side),
            flip: false,
            jitter: Some(jitter),
            grayscale: false,
            blur: None,
            solarize: None,
        });
        let size = side as usize;
        let packed = PackedViews::new(size, (size, size), views.iter().map(|view| (0, *view))).unwrap();
        let there = tensor(std::slice::from_ref(&picture)).to_device(&device).unwrap();
        let made = bytes(&make_views(&there, &packed, Numbers::Bytes, &Uploads::default()).unwrap());
        for (made, view) in made.chunks(3 * size * size).zip(&views) {
            assert!(made == Augmenter::new().view(&picture, view, side, side).pixels(), "{view:?}");
        }
    }
}
