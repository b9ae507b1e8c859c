//! What torchvision does to pictures, as `golden_augment.py` has it: cases with the checksum after every step, and single steps on all
//! colours.
//!
//! Whoever includes this has the types of `simclr_ops::augment` in scope, in that crate and outside of it.

use std::collections::HashMap;

use candle_core::Tensor;

use super::{Adjustment, Crop, Jitter, Picture, ViewParameters, fixture};

/// Resized crop, flip, four of the jitter, gray.
pub(crate) const STEPS: usize = 7;

pub(crate) struct Golden(HashMap<String, Tensor>);

/// A picture and what happens to it.
pub(crate) struct Case {
    pub(crate) source: Picture,
    pub(crate) parameters: ViewParameters,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// The checksum of the bytes after every step, or -1 where the step does nothing.
    pub(crate) crcs: Vec<i64>,
}

impl Golden {
    pub(crate) fn load() -> Self {
        Self(fixture::load("augment"))
    }

    #[allow(dead_code, reason = "each test program uses what it needs of this module")]
    pub(crate) fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    pub(crate) fn rows(&self, name: &str) -> Vec<Vec<i64>> {
        self.0[name].to_vec2().unwrap()
    }

    pub(crate) fn values<T: candle_core::WithDType>(&self, name: &str) -> Vec<T> {
        self.0[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    pub(crate) fn cases(&self) -> Vec<Case> {
        let [sources, crops, sizes, orders, switches, crcs] =
            ["sources", "crops", "sizes", "orders", "switches", "crcs"].map(|name| self.rows(name));
        let factors: Vec<Vec<f64>> = self.0["factors"].to_vec2().unwrap();
        assert!(sources.len() >= 300);
        let case = |case: usize| {
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
                blur: None,
                solarize: None,
            };
            let source = picture(kind, width, height);
            let (width, height) = (sizes[case][0] as u32, sizes[case][1] as u32);
            Case { source, parameters, width, height, crcs: crcs[case].clone() }
        };
        (0..sources.len()).map(case).collect()
    }

    /// Every step of the jitter, by several factors, and the gray: what makes it of [`all_colours`], and the checksum after it.
    pub(crate) fn colour_steps(&self) -> Vec<(ViewParameters, i64)> {
        let steps: Vec<Vec<f64>> = self.0["colour_steps"].to_vec2().unwrap();
        assert!(steps.len() >= 25);
        let none = Jitter { order: Adjustment::ALL, brightness: None, contrast: None, saturation: None, hue: None };
        let parameters = |step: &Vec<f64>| {
            let factor = Some(step[1]);
            let jitter = match step[0] as u32 {
                0 => Some(Jitter { brightness: factor, ..none }),
                1 => Some(Jitter { contrast: factor, ..none }),
                2 => Some(Jitter { saturation: factor, ..none }),
                3 => Some(Jitter { hue: factor, ..none }),
                _ => None,
            };
            let crop = Crop::whole(COLOURS_SIDE, COLOURS_SIDE);
            ViewParameters { crop, flip: false, jitter, grayscale: jitter.is_none(), blur: None, solarize: None }
        };
        steps.iter().map(parameters).zip(self.values("colour_step_crcs")).collect()
    }
}

/// The pictures of the fixture: even kinds are rough, odd ones smooth.
pub(crate) fn picture(kind: i64, width: i64, height: i64) -> Picture {
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

/// The side of a picture of all colours, in pixels.
pub(crate) const COLOURS_SIDE: u32 = 4096;

/// Every colour once, in the order of their numbers: the bytes of a picture.
pub(crate) fn all_colours() -> Vec<u8> {
    (0..1u32 << 24).flat_map(|n| [(n >> 16) as u8, (n >> 8) as u8, n as u8]).collect()
}

/// CRC-32 as zlib computes it.
pub(crate) fn crc(bytes: impl IntoIterator<Item = u8>) -> i64 {
    let table: [u32; 256] = std::array::from_fn(|byte| {
        (0..8).fold(byte as u32, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    });
    let crc = bytes.into_iter().fold(!0u32, |crc, byte| table[usize::from(crc as u8 ^ byte)] ^ crc >> 8);
    i64::from(!crc)
}
