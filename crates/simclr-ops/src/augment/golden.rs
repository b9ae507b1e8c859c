//! Against torchvision on PIL pictures: `tests/golden/augment.safetensors`, made by `golden_augment.py` beside it.

#[path = "../../../../tests/golden/fixture.rs"]
mod fixture;
#[path = "../../../../tests/golden/augment.rs"]
mod torchvision;

use torchvision::{COLOURS_SIDE, Golden, STEPS, all_colours, crc, picture};

use super::{
    Adjustment, Augmenter, Crop, Jitter, Picture, Planes, Step, ViewParameters, color::blend, gaussian_blur,
    hsv_to_rgb, luma, resized_crop, rgb_to_hsv, solarize,
};
use crate::Form;
use crate::product::Instructions;

/// The reference, and the fast form with all instructions that this CPU has.
fn augmenters() -> impl Iterator<Item = Augmenter> {
    let fast = Instructions::available().map(|instructions| Augmenter::with(Form::Fast, instructions));
    std::iter::once(Augmenter::with(Form::Reference, Instructions::Portable)).chain(fast)
}

#[test]
fn checksums_are_zlibs() {
    assert_eq!(crc(*b"123456789"), 0xcbf4_3926);
}

#[test]
fn every_step_of_every_case_is_torchvisions() {
    let golden = Golden::load();
    let mut augmenters: Vec<Augmenter> = augmenters().collect();
    let (mut steps_seen, mut bytes_seen) = ([0; STEPS], 0);
    for (number, case) in golden.cases().into_iter().enumerate() {
        let (source, parameters, width, height) = (case.source, case.parameters, case.width, case.height);
        let check = |step: Step, after: &Planes, found: &mut Vec<i64>| {
            let step = match step {
                Step::ResizedCrop => 0,
                Step::Flip => 1,
                Step::Jitter(adjustment) => {
                    2 + parameters.jitter.unwrap().order.iter().position(|&other| other == adjustment).unwrap()
                }
                Step::Grayscale => 6,
                Step::Blur | Step::Solarize => unreachable!("no case has them"),
            };
            let after = after.to_picture();
            if let Some(bytes) = golden.get(&format!("bytes.{number}.{step}")) {
                let expected: Vec<u8> = bytes.flatten_all().unwrap().to_vec1().unwrap();
                let differ = after.pixels().iter().zip(&expected).filter(|(a, b)| a != b).count();
                assert_eq!(differ, 0, "case {number}, step {step}: {differ} bytes differ, {parameters:?}");
            }
            found[step] = crc(after.pixels().iter().copied());
        };
        for augmenter in &mut augmenters {
            let mut found = vec![-1; STEPS];
            augmenter.steps(&source, &parameters, width, height, |step, after| {
                check(step, after, &mut found);
            });
            // A crop that is flipped in the same pass is not shown before.
            if parameters.flip {
                let crop = ViewParameters { flip: false, jitter: None, grayscale: false, ..parameters };
                found[0] = crc(augmenter.view(&source, &crop, width, height).into_pixels());
            }
            assert_eq!(found, case.crcs, "case {number}: {augmenter:?} {parameters:?}");
            steps_seen.iter_mut().zip(&found).for_each(|(seen, &crc)| *seen += i32::from(crc != -1));
        }
        bytes_seen += (0..STEPS).filter(|step| golden.get(&format!("bytes.{number}.{step}")).is_some()).count();
    }
    // The fixture tries every step often enough to mean something.
    assert!(steps_seen.iter().all(|&count| count >= 40) && bytes_seen >= 40, "{steps_seen:?} {bytes_seen}");
}

#[test]
fn rows_and_columns_of_every_length_are_resized_alike() {
    for (length, expected) in (1..).zip(Golden::load().rows("axis_crcs")) {
        let side = length as u32;
        let row = resized_crop(&picture(length, length, 1), Crop::whole(side, 1), 32, 1);
        let column = resized_crop(&picture(length, 1, length), Crop::whole(1, side), 1, 32);
        assert_eq!([row, column].map(|out| crc(out.into_pixels())), expected[..], "length {length}");
    }
}

#[test]
fn every_colour_is_converted_alike() {
    let expected: Vec<i64> = Golden::load().values("conversion_crcs");
    let colours = || (0..1u32 << 24).map(|n| [(n >> 16) as u8, (n >> 8) as u8, n as u8]);
    assert_eq!(crc(colours().flat_map(rgb_to_hsv)), expected[0], "from RGB to HSV");
    assert_eq!(crc(colours().flat_map(hsv_to_rgb)), expected[1], "from HSV to RGB");
    assert_eq!(crc(colours().map(luma)), expected[2], "from RGB to L");
}

/// All 16.7 million of them in one picture, by each step and by both forms.
#[test]
fn every_colour_is_adjusted_alike() {
    let golden = Golden::load();
    let side = COLOURS_SIDE;
    let colours = Picture::new(side, side, all_colours()).unwrap();
    let mut augmenters: Vec<Augmenter> = augmenters().collect();
    for (parameters, expected) in golden.colour_steps() {
        let (reference, fast) = augmenters.split_first_mut().unwrap();
        let found = reference.view(&colours, &parameters, side, side);
        assert_eq!(crc(found.pixels().iter().copied()), expected, "{parameters:?}");
        for augmenter in fast {
            let same = augmenter.view(&colours, &parameters, side, side) == found;
            assert!(same, "{augmenter:?}, {parameters:?}");
        }
    }
}

#[test]
fn blurs_are_torchvisions_to_a_unit() {
    let golden = Golden::load();
    let (mut bytes, mut differ) = (0, 0);
    for number in 0.. {
        let Some(case) = golden.get(&format!("blur.{number}.case")) else {
            assert!(number >= 8);
            break;
        };
        let case: Vec<f64> = case.to_vec1().unwrap();
        let mut blurred = picture(case[0] as i64, case[1] as i64, case[2] as i64);
        gaussian_blur(&mut blurred, case[3] as u32, case[4]);
        let expected: Vec<u8> = golden.values(&format!("blur.{number}.bytes"));
        assert!(blurred.pixels().iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) <= 1), "{case:?}");
        differ += blurred.pixels().iter().zip(&expected).filter(|(a, b)| a != b).count();
        bytes += expected.len();
    }
    assert!(differ * 1000 < bytes, "{differ} of {bytes} bytes differ");
}

/// Of sizes that no vector divides, and with every number of pixels that a kernel may reach.
#[test]
fn every_form_blurs_and_solarizes_alike() {
    let mut reference = Augmenter::with(Form::Reference, Instructions::Portable);
    for (width, height) in [(1, 1), (2, 19), (20, 20), (33, 41), (47, 100), (224, 224), (3, 230)] {
        let source = picture(0, width + 3, height + 2);
        let parameters = ViewParameters {
            crop: Crop { left: 1, top: 2, width: width as u32, height: height as u32 },
            flip: true,
            jitter: None,
            grayscale: false,
            blur: Some(0.1 + 0.01 * height as f64),
            solarize: Some(100),
        };
        let (width, height) = (width as u32, height as u32);
        let expected = reference.view(&source, &parameters, width, height);
        for mut augmenter in augmenters() {
            assert_eq!(augmenter.view(&source, &parameters, width, height), expected, "{augmenter:?} {width} {height}");
        }
    }
}

#[test]
fn every_byte_is_solarized_alike() {
    let golden = Golden::load();
    let crcs: Vec<i64> = golden.values("solarize_crcs");
    for (threshold, expected) in golden.values::<i64>("solarize_thresholds").into_iter().zip(crcs) {
        let mut grays = Picture::new(16, 16, (0..=255).flat_map(|gray| [gray; 3]).collect()).unwrap();
        solarize(&mut grays, threshold as u8);
        assert_eq!(crc(grays.pixels().iter().step_by(3).copied()), expected, "threshold {threshold}");
    }
}

/// Sizes, crops and jitters of many kinds: the fast form against the reference, every instruction set.
#[test]
fn every_form_gives_the_same_bits() {
    let mut draws = crate::random::stream(3, [0; 3]);
    let mut reference = Augmenter::with(Form::Reference, Instructions::Portable);
    let mut fast: Vec<Augmenter> = augmenters().skip(1).collect();
    let sizes = [(32, 32), (96, 96), (5, 70), (1, 1), (200, 31), (64, 1), (33, 129)];
    for case in 0..2_000 {
        let mut below = |n: u32| draws.below(u64::from(n)) as u32;
        let (width, height) = sizes[below(7) as usize];
        let (out_width, out_height) = [(32, 32), (32, 32), (7, 40), (50, 3), (1, 1), (64, 64)][below(6) as usize];
        let source = picture(i64::from(below(9)), i64::from(width), i64::from(height));
        let (crop_width, crop_height) = (1 + below(width), 1 + below(height));
        let (left, top) = (below(width - crop_width + 1), below(height - crop_height + 1));
        let (flip, grayscale) = (below(2) == 1, below(5) == 1);
        let mut order = Adjustment::ALL;
        draws.shuffle(&mut order);
        let mut factor = |low: f64, high: f64| Some(low + (high - low) * draws.uniform());
        let jitter = Jitter {
            order,
            brightness: factor(0.0, 2.0),
            contrast: factor(0.0, 2.0),
            saturation: factor(0.0, 2.0),
            hue: factor(-0.5, 0.5),
        };
        let parameters = ViewParameters {
            crop: Crop { left, top, width: crop_width, height: crop_height },
            flip,
            jitter: (case % 5 != 0).then_some(jitter),
            grayscale,
            blur: if case % 3 == 0 { factor(0.1, 2.0) } else { None },
            solarize: (case % 4 == 0).then_some(128),
        };
        let expected = reference.view(&source, &parameters, out_width, out_height);
        for augmenter in &mut fast {
            let found = augmenter.view(&source, &parameters, out_width, out_height);
            assert_eq!(found.pixels(), expected.pixels(), "case {case}, {augmenter:?}: {parameters:?}");
        }
    }
}

#[test]
fn every_pair_of_bytes_is_blended_alike() {
    let golden = Golden::load();
    let expected: Vec<i64> = golden.values("blend_crcs");
    for (factor, expected) in golden.values::<f64>("blend_factors").into_iter().zip(expected) {
        let pairs = (0..=255u8).flat_map(|from| (0..=255u8).map(move |to| (from, to)));
        assert_eq!(crc(pairs.map(|(from, to)| blend(from, to, factor as f32))), expected, "factor {factor}");
    }
}
