//! PyTorch's own loader, batch by batch: `tests/golden/torch_sampler.safetensors`, made by `golden_torch_sampler.py` beside it;
//! and that its sampler and ours draw from the same distributions.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use simclr_data::{
    Adjustment, DataError, Normalization, Picture, Pictures, Recipe, TorchSampler, TrainTransform, ViewParameters,
    compute_train_transform, torch_batches,
};

/// The pictures of the fixture.
struct Formula;

impl Pictures for Formula {
    fn len(&self) -> usize {
        60
    }

    fn picture(&self, index: usize) -> Result<Picture, DataError> {
        let index = index as u32;
        let (width, height) = [(32, 32), (32, 32), (47, 33), (21, 60), (90, 10)][index as usize % 5];
        let positions = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let value =
            |x: u32, y: u32, c: u32| (x * (5 + index % 7) + y * (3 + index % 5) + c * 40 + x * y * (index % 3)) as u8;
        let bytes = positions.flat_map(|(x, y)| (0..3).map(move |c| value(x, y, c))).collect();
        Ok(Picture::new(width, height, bytes).unwrap())
    }

    fn label(&self, index: usize) -> Option<u32> {
        Some(index as u32 % 10)
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn name(&self) -> &str {
        "formula"
    }
}

fn recipe(number: i64) -> Recipe {
    match number {
        0 => Recipe::default(),
        1 => Recipe {
            crop_scale: [0.2, 1.0],
            brightness: 0.8,
            contrast: 0.8,
            saturation: 0.8,
            hue: 0.2,
            grayscale_probability: 0.1,
            solarize_probability: 0.3,
            ..Recipe::default()
        },
        _ => Recipe {
            crop_scale: [0.9, 1.0],
            flip_probability: 1.0,
            jitter_probability: 1.0,
            contrast: 0.0,
            saturation: 1.5,
            hue: 0.0,
            grayscale_probability: 0.0,
            ..Recipe::default()
        },
    }
}

#[test]
fn every_batch_of_every_loader_is_pytorchs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/torch_sampler.safetensors");
    let golden: HashMap<String, Tensor> = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let cases: Vec<Vec<i64>> = golden["cases"].to_vec2().unwrap();
    assert_eq!(cases.len(), 24);
    let indices: Vec<usize> = (0..60).collect();
    for (number, case) in cases.iter().enumerate() {
        let seed = (case[0] as u64) << 32 | case[1] as u64;
        let [workers, batch, views] = [2, 3, 4].map(|column| case[column] as usize);
        let transform = TrainTransform::new(recipe(case[5]), 32, Normalization::CIFAR10, seed).unwrap();
        let crcs: Vec<Vec<i64>> = golden[&format!("crcs.{number}")].to_vec2().unwrap();
        let first: Vec<f32> = golden[&format!("first.{number}")].to_vec1().unwrap();
        let mut batches = 0;
        for (made, expected) in torch_batches(&Formula, &transform, views, workers, batch, &indices).zip(&crcs) {
            let made = made.unwrap();
            let numbers = |view: &Tensor| view.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            if batches == 0 {
                assert_eq!(numbers(&made.views[0])[..8], first, "case {number} {case:?}");
            }
            let crc = |view: &Tensor| {
                let bytes: Vec<u8> = numbers(view).into_iter().flat_map(f32::to_le_bytes).collect();
                i64::from(crc32fast::hash(&bytes))
            };
            let found: Vec<i64> = made.views.iter().map(crc).collect();
            assert_eq!(&found, expected, "case {number} {case:?}, batch {batches}");
            assert_eq!(made.labels[0], Some(made.indices[0] as u32 % 10));
            batches += 1;
        }
        assert_eq!((batches, batches), (crcs.len(), 60usize.div_ceil(batch)));
    }
}

#[test]
fn a_picture_that_is_not_there_ends_it() {
    let transform = compute_train_transform(1);
    let indices = [0, 60, 2];
    struct Short;
    impl Pictures for Short {
        fn len(&self) -> usize {
            60
        }
        fn picture(&self, index: usize) -> Result<Picture, DataError> {
            if index < 60 {
                Formula.picture(index)
            } else {
                Err(DataError::Index { name: "short".into(), index, len: 60 })
            }
        }
        fn label(&self, _: usize) -> Option<u32> {
            None
        }
        fn classes(&self) -> &[String] {
            &[]
        }
        fn name(&self) -> &str {
            "short"
        }
    }
    let made: Vec<_> = torch_batches(&Short, &transform, 1, 0, 1, &indices).collect();
    assert!(made.len() == 2 && made[0].is_ok() && matches!(made[1], Err(DataError::Index { index: 60, .. })));
    for (views, batch, expected) in
        [(0, 2, "views is 0, expected at least 1"), (1, 0, "batch is 0, expected at least 1")]
    {
        let mut made = torch_batches(&Short, &transform, views, 0, batch, &indices);
        assert_eq!(made.next().unwrap().unwrap_err().to_string(), expected);
        assert!(made.next().is_none());
    }
}

/// The largest distance between two empirical distributions (Kolmogorov–Smirnov).
fn distance(mut a: Vec<f64>, mut b: Vec<f64>) -> f64 {
    a.sort_by(f64::total_cmp);
    b.sort_by(f64::total_cmp);
    let below = |sorted: &[f64], x: f64| sorted.partition_point(|&y| y <= x) as f64 / sorted.len() as f64;
    a.iter().chain(&b).map(|&x| (below(&a, x) - below(&b, x)).abs()).fold(0.0, f64::max)
}

#[test]
fn both_samplers_draw_from_the_same_distributions() {
    const DRAWS: u64 = 20_000;
    let recipe = Recipe { blur_probability: 0.5, solarize_probability: 0.2, ..Recipe::default() };
    for (width, height) in [(32, 32), (61, 47)] {
        let ours = TrainTransform::new(recipe.clone(), 32, Normalization::CIFAR10, 5).unwrap();
        let ours: Vec<_> = (0..DRAWS).map(|index| ours.parameters(width, height, 0, index, 0)).collect();
        let mut sampler = TorchSampler::new(5);
        let torchs: Vec<_> = (0..DRAWS).map(|_| sampler.parameters(&recipe, width, height)).collect();
        type Parameter = fn(&ViewParameters) -> Option<f64>;
        let parameters: [(&str, Parameter); 15] = [
            ("left", |p| Some(p.crop.left.into())),
            ("top", |p| Some(p.crop.top.into())),
            ("width", |p| Some(p.crop.width.into())),
            ("height", |p| Some(p.crop.height.into())),
            ("area", |p| Some(f64::from(p.crop.width * p.crop.height))),
            ("flip", |p| Some(f64::from(u8::from(p.flip)))),
            ("jitter", |p| Some(f64::from(u8::from(p.jitter.is_some())))),
            ("gray", |p| Some(f64::from(u8::from(p.grayscale)))),
            ("brightness", |p| p.jitter?.brightness),
            ("contrast", |p| p.jitter?.contrast),
            ("saturation", |p| p.jitter?.saturation),
            ("hue", |p| p.jitter?.hue),
            ("order", |p| {
                let number = |step: Adjustment| Adjustment::ALL.iter().position(|&other| other == step).unwrap();
                Some(p.jitter?.order.into_iter().fold(0, |all, step| 4 * all + number(step)) as f64)
            }),
            ("blur", |p| Some(p.blur.unwrap_or(0.0))),
            ("solarize", |p| Some(p.solarize.unwrap_or(0).into())),
        ];
        for (name, parameter) in parameters {
            let (a, b): (Vec<f64>, Vec<f64>) =
                (ours.iter().filter_map(parameter).collect(), torchs.iter().filter_map(parameter).collect());
            // Passed by chance once in a million: sqrt(ln(2e6) / 2) · sqrt((n + m) / (n · m)).
            let (n, m) = (a.len() as f64, b.len() as f64);
            let bound = (2e6f64.ln() / 2.0).sqrt() * ((n + m) / (n * m)).sqrt();
            let found = distance(a, b);
            assert!(found < bound, "{name} of {width} × {height}: {found} is beyond {bound}");
        }
    }
}
