//! Against torchvision on PIL pictures: `tests/golden/augment.safetensors`, made by `golden_augment.py` beside it.

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor};

use super::{
    Adjustment, Augmenter, Crop, Jitter, Picture, Step, ViewParameters, color::blend, hsv_to_rgb, luma, resized_crop,
    rgb_to_hsv,
};

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn load() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/augment.safetensors");
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    fn rows(&self, name: &str) -> Vec<Vec<i64>> {
        self.0[name].to_vec2().unwrap()
    }

    fn values<T: candle_core::WithDType>(&self, name: &str) -> Vec<T> {
        self.0[name].flatten_all().unwrap().to_vec1().unwrap()
    }
}

/// The pictures of the fixture: even kinds are rough, odd ones smooth.
fn picture(kind: i64, width: i64, height: i64) -> Picture {
    let value = |x: i64, y: i64, c: i64| {
        if kind % 2 == 0 {
            (x * 73 + y * 151 + c * 199 + kind * 101 + x * y * (c + 3) % 97 * 5) % 256
        } else {
            let wave = (x * (c + 1) * 5 + y * (3 - c) * 4 + kind * 29) % 510;
            if wave > 255 { 510 - wave } else { wave }
        }
    };
    let positions = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let bytes = positions.flat_map(|(x, y)| (0..3).map(move |c| value(x, y, c) as u8)).collect();
    Picture::new(width as u32, height as u32, bytes).unwrap()
}

/// CRC-32 as zlib computes it.
fn crc(bytes: impl IntoIterator<Item = u8>) -> i64 {
    let table: [u32; 256] = std::array::from_fn(|byte| {
        (0..8).fold(byte as u32, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    });
    let crc = bytes.into_iter().fold(!0u32, |crc, byte| table[usize::from(crc as u8 ^ byte)] ^ crc >> 8);
    i64::from(!crc)
}

#[test]
fn checksums_are_zlibs() {
    assert_eq!(crc(*b"123456789"), 0xcbf4_3926);
}

#[test]
fn every_step_of_every_case_is_torchvisions() {
    let golden = Golden::load();
    let [sources, crops, sizes, orders, switches, crcs] =
        ["sources", "crops", "sizes", "orders", "switches", "crcs"].map(|name| golden.rows(name));
    let factors: Vec<Vec<f64>> = golden.0["factors"].to_vec2().unwrap();
    assert!(sources.len() >= 300);
    let mut augmenter = Augmenter::new();
    let (mut steps_seen, mut bytes_seen) = ([0; 7], 0);
    for case in 0..sources.len() {
        let [kind, width, height] = sources[case][..] else { panic!("three numbers describe a source") };
        let crop = crops[case].iter().map(|&n| n as u32).collect::<Vec<_>>();
        let order: Vec<Adjustment> = orders[case].iter().map(|&n| Adjustment::ALL[n as usize]).collect();
        let factor = |n: usize| Some(factors[case][n]).filter(|factor| !factor.is_nan());
        let jitter = Jitter {
            order: order[..].try_into().unwrap(),
            brightness: factor(0),
            contrast: factor(1),
            saturation: factor(2),
            hue: factor(3),
        };
        let parameters = ViewParameters {
            crop: Crop { left: crop[0], top: crop[1], width: crop[2], height: crop[3] },
            flip: switches[case][0] == 1,
            jitter: (switches[case][1] == 1).then_some(jitter),
            grayscale: switches[case][2] == 1,
        };
        let mut out = Picture::filled(sizes[case][0] as u32, sizes[case][1] as u32, [0; 3]);
        let mut found = vec![-1; 7];
        augmenter.steps(&picture(kind, width, height), &parameters, &mut out, |step, after| {
            let step = match step {
                Step::ResizedCrop => 0,
                Step::Flip => 1,
                Step::Jitter(adjustment) => 2 + order.iter().position(|&other| other == adjustment).unwrap(),
                Step::Grayscale => 6,
            };
            if let Some(bytes) = golden.0.get(&format!("bytes.{case}.{step}")) {
                let expected: Vec<u8> = bytes.flatten_all().unwrap().to_vec1().unwrap();
                let differ = after.pixels().iter().zip(&expected).filter(|(a, b)| a != b).count();
                assert_eq!(differ, 0, "case {case}, step {step}: {differ} bytes differ, {parameters:?}");
                bytes_seen += 1;
            }
            found[step] = crc(after.pixels().iter().copied());
            steps_seen[step] += 1;
        });
        assert_eq!(found, crcs[case], "case {case}: {parameters:?}");
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

#[test]
fn every_pair_of_bytes_is_blended_alike() {
    let golden = Golden::load();
    let expected: Vec<i64> = golden.values("blend_crcs");
    for (factor, expected) in golden.values::<f64>("blend_factors").into_iter().zip(expected) {
        let pairs = (0..=255u8).flat_map(|from| (0..=255u8).map(move |to| (from, to)));
        assert_eq!(crc(pairs.map(|(from, to)| blend(from, to, factor as f32))), expected, "factor {factor}");
    }
}
