//! What the train transform draws: a function of its arguments, with torchvision's distributions.

use proptest::prelude::*;
use simclr_data::{
    Adjustment, Crop, DataError, Normalization, Picture, Recipe, TestTransform, TrainTransform, ViewParameters,
    compute_test_transform, compute_train_transform,
};

fn with_recipe(recipe: Recipe) -> TrainTransform {
    TrainTransform::new(recipe, 32, Normalization::CIFAR10, 11).unwrap()
}

fn draws(transform: &TrainTransform, count: u64) -> Vec<ViewParameters> {
    (0..count).map(|index| transform.parameters(32, 32, 3, index, (index % 2) as u32)).collect()
}

/// Mean and standard error of the mean.
fn mean(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for value in values {
        n += 1.0;
        sum += value;
        squares += value * value;
    }
    let mean: f64 = sum / n;
    (mean, ((squares / n - mean * mean) / n).sqrt())
}

#[track_caller]
fn assert_mean(values: impl Iterator<Item = f64>, expected: f64, expected_error: f64) {
    let (found, error) = mean(values);
    let allowed = 5.0 * error.hypot(expected_error);
    assert!((found - expected).abs() <= allowed, "{found} is not {expected} ± {allowed}");
}

/// Five standard errors around the share of a coin.
#[track_caller]
fn assert_share(hits: usize, of: usize, probability: f64) {
    let share = hits as f64 / of as f64;
    let allowed = 5.0 * (probability * (1.0 - probability) / of as f64).sqrt();
    assert!((share - probability).abs() <= allowed, "{share} is not {probability} ± {allowed}");
}

#[track_caller]
fn assert_uniform(values: &[f64], low: f64, high: f64) {
    assert!(values.iter().all(|value| (low..high).contains(value)));
    let part = |value: f64| (value - low) / (high - low);
    assert_mean(values.iter().map(|&v| part(v)), 0.5, 0.0);
    assert_mean(values.iter().map(|&v| part(v).powi(2)), 1.0 / 3.0, 0.0);
    let lowest_tenth = values.iter().filter(|&&v| part(v) < 0.1).count();
    assert_share(lowest_tenth, values.len(), 0.1);
}

#[test]
fn switches_come_as_often_as_the_recipe_says() {
    let all = draws(&compute_train_transform(1), 20_000);
    assert_share(all.iter().filter(|p| p.flip).count(), all.len(), 0.5);
    assert_share(all.iter().filter(|p| p.jitter.is_some()).count(), all.len(), 0.8);
    assert_share(all.iter().filter(|p| p.grayscale).count(), all.len(), 0.2);
    assert_share(all.iter().filter(|p| p.grayscale && p.flip && p.jitter.is_some()).count(), all.len(), 0.08);

    let never =
        Recipe { flip_probability: 0.0, jitter_probability: 0.0, grayscale_probability: 0.0, ..Recipe::default() };
    assert!(draws(&with_recipe(never), 2_000).iter().all(|p| !p.flip && p.jitter.is_none() && !p.grayscale));
    let always =
        Recipe { flip_probability: 1.0, jitter_probability: 1.0, grayscale_probability: 1.0, ..Recipe::default() };
    assert!(draws(&with_recipe(always), 2_000).iter().all(|p| p.flip && p.jitter.is_some() && p.grayscale));
}

#[test]
fn jitter_factors_are_even_and_orders_equally_likely() {
    let jitters: Vec<_> = draws(&compute_train_transform(2), 30_000).into_iter().filter_map(|p| p.jitter).collect();
    assert_uniform(&jitters.iter().filter_map(|j| j.brightness).collect::<Vec<_>>(), 0.6, 1.4);
    assert_uniform(&jitters.iter().filter_map(|j| j.contrast).collect::<Vec<_>>(), 0.6, 1.4);
    assert_uniform(&jitters.iter().filter_map(|j| j.saturation).collect::<Vec<_>>(), 0.6, 1.4);
    assert_uniform(&jitters.iter().filter_map(|j| j.hue).collect::<Vec<_>>(), -0.1, 0.1);
    let mut orders = std::collections::HashMap::new();
    for jitter in &jitters {
        *orders.entry(jitter.order).or_insert(0) += 1;
    }
    assert_eq!(orders.len(), 24);
    orders.values().for_each(|&count| assert_share(count, jitters.len(), 1.0 / 24.0));
    // The factors know nothing of each other.
    let product = |j: &simclr_data::Jitter| (j.brightness.unwrap() - 1.0) * (j.contrast.unwrap() - 1.0);
    assert_mean(jitters.iter().map(product), 0.0, 0.0);
}

#[test]
fn strong_jitter_stops_at_zero_and_absent_steps_are_skipped() {
    let recipe = Recipe { brightness: 1.5, contrast: 0.0, saturation: 0.2, hue: 0.0, ..Recipe::default() };
    let jitters: Vec<_> = draws(&with_recipe(recipe), 10_000).into_iter().filter_map(|p| p.jitter).collect();
    assert_uniform(&jitters.iter().filter_map(|j| j.brightness).collect::<Vec<_>>(), 0.0, 2.5);
    assert_uniform(&jitters.iter().filter_map(|j| j.saturation).collect::<Vec<_>>(), 0.8, 1.2);
    assert!(jitters.iter().all(|j| j.contrast.is_none() && j.hue.is_none()));
    assert!(jitters.iter().all(|j| Adjustment::ALL.iter().all(|step| j.order.contains(step))));
}

/// Means of top, left, height and width with their standard errors, the share of whole pictures and of squares: 60,000 draws
/// of `RandomResizedCrop.get_params` in torchvision 0.29.
struct Crops {
    size: (u32, u32),
    scale: [f64; 2],
    means: [f64; 4],
    errors: [f64; 4],
    whole: f64,
    square: f64,
}

#[test]
fn crops_are_torchvisions() {
    let cases = [
        Crops {
            size: (32, 32),
            scale: [0.08, 1.0],
            means: [5.1801, 5.1636, 21.6575, 21.6782],
            errors: [0.0197, 0.0197, 0.0251, 0.0252],
            whole: 0.0025,
            square: 0.0929,
        },
        Crops {
            size: (61, 47),
            scale: [0.08, 1.0],
            means: [6.4304, 12.7329, 34.0888, 35.5359],
            errors: [0.0266, 0.0404, 0.0365, 0.0446],
            whole: 0.0009,
            square: 0.0549,
        },
        // Never a crop that fits: always the middle.
        Crops {
            size: (90, 10),
            scale: [0.5, 1.0],
            means: [0.0, 38.0, 10.0, 13.0],
            errors: [0.0; 4],
            whole: 0.0,
            square: 0.0,
        },
    ];
    for case in cases {
        let transform = with_recipe(Recipe { crop_scale: case.scale, ..Recipe::default() });
        let (width, height) = case.size;
        let crops: Vec<Crop> = (0..60_000).map(|index| transform.parameters(width, height, 0, index, 0).crop).collect();
        let fields: [fn(&Crop) -> u32; 4] = [|c| c.top, |c| c.left, |c| c.height, |c| c.width];
        for ((field, expected), error) in fields.iter().zip(case.means).zip(case.errors) {
            assert_mean(crops.iter().map(|crop| f64::from(field(crop))), expected, error);
        }
        let share = |holds: &dyn Fn(&Crop) -> bool| crops.iter().filter(|c| holds(c)).count() as f64 / 60_000.0;
        // Both shares are estimates, so that their difference has twice the variance.
        let near = |found: f64, expected: f64| {
            assert!(
                (found - expected).abs() <= 5.0 * (2.0 * expected * (1.0 - expected) / 60_000.0).sqrt(),
                "{found} {expected}"
            );
        };
        near(share(&|c| (c.width, c.height) == case.size), case.whole);
        near(share(&|c| c.width == c.height), case.square);
    }
}

#[test]
fn pictures_too_long_for_any_crop_give_their_middle() {
    let transform = with_recipe(Recipe { crop_scale: [0.9, 1.0], ..Recipe::default() });
    assert_eq!(transform.parameters(100, 10, 0, 0, 0).crop, Crop { left: 43, top: 0, width: 13, height: 10 });
    assert_eq!(transform.parameters(10, 100, 0, 0, 0).crop, Crop { left: 0, top: 43, width: 10, height: 13 });
    assert_eq!(transform.parameters(1, 1, 0, 0, 0).crop, Crop::whole(1, 1));
    let thin = with_recipe(Recipe { crop_scale: [1.0, 1.0], crop_ratio: [0.01, 0.01], ..Recipe::default() });
    // 10 rows at 0.01 are a tenth of a column: one is the least there is.
    assert_eq!(thin.parameters(20, 10, 0, 0, 0).crop, Crop { left: 9, top: 0, width: 1, height: 10 });
}

#[test]
fn a_view_depends_on_seed_epoch_index_and_view_alone() {
    let first = compute_train_transform(5);
    let base = first.parameters(32, 32, 1, 2, 0);
    assert_eq!(base, compute_train_transform(5).parameters(32, 32, 1, 2, 0));
    assert_ne!(base, compute_train_transform(6).parameters(32, 32, 1, 2, 0));
    assert_ne!(base, first.parameters(32, 32, 2, 2, 0));
    assert_ne!(base, first.parameters(32, 32, 1, 3, 0));
    assert_ne!(base, first.parameters(32, 32, 1, 2, 1));
}

#[test]
fn without_jitter_everything_else_stays() {
    let plain = Recipe { jitter_probability: 0.0, ..Recipe::default() };
    let (with, without) = (draws(&with_recipe(Recipe::default()), 500), draws(&with_recipe(plain), 500));
    for (with, without) in with.into_iter().zip(without) {
        assert_eq!(ViewParameters { jitter: None, ..with }, without);
    }
}

#[test]
fn blur_and_solarization_are_drawn_apart() {
    let recipe = Recipe { blur_probability: 0.5, solarize_probability: 0.2, ..Recipe::default() };
    let (with, without) = (draws(&with_recipe(recipe), 20_000), draws(&with_recipe(Recipe::default()), 20_000));
    assert_uniform(&with.iter().filter_map(|p| p.blur).collect::<Vec<_>>(), 0.1, 2.0);
    assert_share(with.iter().filter(|p| p.blur.is_some()).count(), with.len(), 0.5);
    assert_share(with.iter().filter(|p| p.solarize == Some(128)).count(), with.len(), 0.2);
    assert_share(with.iter().filter(|p| p.blur.is_some() && p.solarize.is_some()).count(), with.len(), 0.1);
    for (with, without) in with.into_iter().zip(without) {
        assert_eq!(ViewParameters { blur: None, solarize: None, ..with }, without);
    }
}

#[test]
fn wrong_settings_are_refused_by_name() {
    let wrong = Recipe { flip_probability: 2.0, ..Recipe::default() };
    let error = TrainTransform::new(wrong, 32, Normalization::CIFAR10, 0).unwrap_err();
    assert_eq!(error.to_string(), "recipe.flip_probability is 2, expected a probability from 0 to 1");
    let error = TrainTransform::new(Recipe::default(), 0, Normalization::CIFAR10, 0).unwrap_err();
    assert_eq!(error.to_string(), "size is 0, expected at least 1 pixel");
    let flat = Normalization { std: [0.0; 3], ..Normalization::CIFAR10 };
    assert!(matches!(TrainTransform::new(Recipe::default(), 32, flat, 0), Err(DataError::Setting { .. })));
}

fn golden() -> std::collections::HashMap<String, candle_core::Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/augment.safetensors");
    candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap()
}

#[test]
fn the_middle_is_torchvisions() {
    let golden = golden();
    for number in 0..6 {
        let case: Vec<i64> = golden[&format!("middle.{number}.case")].to_vec1().unwrap();
        let expected: Vec<u8> = golden[&format!("middle.{number}.bytes")].flatten_all().unwrap().to_vec1().unwrap();
        let [width, height, size] = case[..] else { panic!("three numbers describe a case") };
        let positions = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let bytes = positions.flat_map(|(x, y)| (0..3).map(move |c| ((x * 7 + y * 13 + x * y + c * 50) % 256) as u8));
        let picture = Picture::new(width as u32, height as u32, bytes.collect()).unwrap();
        let transform = TestTransform::new(Some(size as u32), Normalization::CIFAR10).unwrap();
        let middle = transform.pixels(picture);
        assert_eq!((middle.width(), middle.height()), (size as u32, size as u32));
        assert_eq!(middle.pixels(), expected, "case {case:?}");
    }
}

#[test]
fn pictures_of_the_size_stay_and_a_batch_may_mix_others() {
    let transform = TestTransform::new(Some(32), Normalization::CIFAR10).unwrap();
    let picture = Picture::new(32, 32, (0..3072).map(|n| (n % 251) as u8).collect()).unwrap();
    assert_eq!(transform.pixels(picture.clone()), picture);
    assert_eq!(transform.tensor(&Picture::filled(50, 90, [9; 3])).unwrap().dims(), [3, 32, 32]);
    let error = TestTransform::new(Some(0), Normalization::CIFAR10).unwrap_err();
    assert_eq!(error.to_string(), "size is 0, expected at least 1 pixel");
}

#[test]
fn bytes_become_torchvisions_numbers() {
    let golden = golden();
    let expected: Vec<f32> = golden["normalized"].flatten_all().unwrap().to_vec1().unwrap();
    let ramp = Picture::new(256, 1, (0..=255).flat_map(|byte| [byte; 3]).collect()).unwrap();
    for tensor in [compute_test_transform().tensor(&ramp).unwrap(), compute_train_transform(0).tensor(&ramp).unwrap()] {
        assert_eq!(tensor.dims(), [3, 1, 256]);
        let found: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(found, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn crops_lie_inside_any_picture(
        width in 1u32..400, height in 1u32..400, seed: u64, epoch: u64, index: u64, view: u32,
        least in 0.001f64..1.0, ratio in 0.05f64..20.0,
    ) {
        let recipe = Recipe { crop_scale: [least, 1.0], crop_ratio: [ratio, ratio * 1.5], ..Recipe::default() };
        let transform = TrainTransform::new(recipe, 8, Normalization::CIFAR10, seed).unwrap();
        let parameters = transform.parameters(width, height, epoch, index, view);
        prop_assert!(parameters.crop.fits(width, height), "{:?}", parameters.crop);
        prop_assert_eq!(parameters, transform.parameters(width, height, epoch, index, view));
    }

    #[test]
    fn a_view_is_its_parameters_applied(width in 1u32..50, height in 1u32..50, index: u64) {
        let bytes = (0..3 * width * height).map(|n| (n * 37 % 251) as u8).collect();
        let picture = Picture::new(width, height, bytes).unwrap();
        let transform = compute_train_transform(9);
        let view = transform.view(&picture, 4, index, 1);
        prop_assert_eq!((view.width(), view.height()), (32, 32));
        prop_assert_eq!(&view, &transform.pixels(&picture, &transform.parameters(width, height, 4, index, 1)));
        let mut numbers = vec![0.0; 3 * 32 * 32];
        transform.write_tensor(&view, &mut numbers);
        let tensor = transform.tensor(&view).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        prop_assert_eq!(numbers, tensor);
    }
}
