//! The built-in set: a function of seed, split and index, drawn from the factors it tells.

use std::collections::HashSet;

use simclr_data::{Background, Pictures, ShapeFactors, Shapes, Split, Texture};

#[test]
fn pictures_are_a_function_of_seed_split_and_index() {
    let (set, longer) = (Shapes::new(5, Split::Train, 30), Shapes::new(5, Split::Train, 300));
    assert_eq!((set.len(), set.name(), set.classes().len()), (30, "shapes", 10));
    for index in [29, 0, 17] {
        let picture = set.picture(index).unwrap();
        assert_eq!((picture.width(), picture.height()), (32, 32));
        assert_eq!(picture, set.clone().picture(index).unwrap());
        assert_eq!(picture, longer.picture(index).unwrap());
        assert_ne!(picture, Shapes::new(6, Split::Train, 30).picture(index).unwrap());
    }
    assert_eq!(
        set.picture(30).unwrap_err().to_string(),
        "shapes has 30 pictures; there is no picture 30 (the first is 0)"
    );
    assert_eq!((set.label(29), set.label(30)), (Some(9), None));
}

#[test]
fn splits_have_no_picture_in_common() {
    let pictures = |split| -> HashSet<Vec<u8>> {
        let set = Shapes::new(5, split, 500);
        (0..500).map(|index| set.picture(index).unwrap().into_pixels()).collect()
    };
    let (train, test) = (pictures(Split::Train), pictures(Split::Test));
    assert_eq!((train.len(), test.len()), (500, 500));
    assert!(train.is_disjoint(&test));
}

#[test]
fn the_first_factors_never_change() {
    // No function of a mathematics library is behind these, so that they are the same on every machine.
    let found = Shapes::new(0, Split::Train, 1).factors(0);
    let expected = ShapeFactors {
        class: 0,
        hue: 0.6556543001638524,
        texture: Texture::Stripes,
        background: Background::Gradient,
        place: [15.011782536711365, 29.706127384530465],
        size: 5.571638822114054,
        rotation: 0.6515429588056054,
        noise: 0.019780235635080384,
    };
    assert_eq!(found, expected);
}

#[test]
fn factors_are_even_and_say_nothing_about_the_class() {
    let set = Shapes::new(2, Split::Train, 6_000);
    let all: Vec<ShapeFactors> = (0..set.len()).map(|index| set.factors(index)).collect();
    type Factor = fn(&ShapeFactors) -> f64;
    let ranges: [(Factor, f64, f64); 6] = [
        (|f| f.hue, 0.55, 0.8),
        (|f| f.place[0], 0.0, 32.0),
        (|f| f.place[1], 0.0, 32.0),
        (|f| f.size, 4.5, 6.0),
        (|f| f.rotation, 0.0, 1.0),
        (|f| f.noise, 0.01, 0.03),
    ];
    for (value, low, high) in ranges {
        assert!(all.iter().all(|f| (low..high).contains(&value(f))));
        for class in 0..10 {
            let of_class: Vec<f64> =
                all.iter().filter(|f| f.class == class).map(|f| (value(f) - low) / (high - low)).collect();
            assert_eq!(of_class.len(), 600);
            // Five standard errors of the mean of 600 even numbers.
            assert!((of_class.iter().sum::<f64>() / 600.0 - 0.5).abs() < 5.0 * (1.0 / 12.0 / 600.0f64).sqrt());
        }
    }
    for class in 0..10 {
        let of_class = || all.iter().filter(|f| f.class == class);
        // Five standard errors of 600 draws of a third.
        let third = 142..=258;
        assert!(
            Texture::ALL.iter().all(|&texture| third.contains(&of_class().filter(|f| f.texture == texture).count()))
        );
        assert!(
            Background::ALL.iter().all(|&back| third.contains(&of_class().filter(|f| f.background == back).count()))
        );
    }
}

/// Hue of a colour as a part of the circle.
fn hue([red, green, blue]: [u8; 3]) -> f64 {
    let (x, y) = (
        f64::from(red) - 0.5 * (f64::from(green) + f64::from(blue)),
        3f64.sqrt() / 2.0 * (f64::from(green) - f64::from(blue)),
    );
    (y.atan2(x) / std::f64::consts::TAU).rem_euclid(1.0)
}

#[test]
fn figures_have_the_hue_that_the_factors_tell() {
    let set = Shapes::new(9, Split::Test, 200);
    for index in 0..set.len() {
        let picture = set.picture(index).unwrap();
        let (pixels, _) = picture.pixels().as_chunks::<3>();
        let figure: Vec<[u8; 3]> = pixels.iter().copied().filter(|p| p.iter().max() > Some(&150)).collect();
        let part = figure.len() as f64 / 1024.0;
        assert!((0.08..0.75).contains(&part), "picture {index}: {part} is figure");
        let sum = figure.iter().fold([0.0; 3], |sum, p| [0, 1, 2].map(|c| sum[c] + f64::from(p[c])));
        let mean = sum.map(|channel| (channel / figure.len() as f64) as u8);
        // The hexagon of hues is not quite a circle, and noise is added.
        assert!(
            (hue(mean) - set.factors(index).hue).abs() < 0.03,
            "picture {index}: {mean:?} {:?}",
            set.factors(index)
        );
    }
}

#[test]
fn the_main_figure_is_where_the_factors_tell() {
    // A disc's middle is full of colour.
    let set = Shapes::new(9, Split::Train, 1_000);
    for index in (0..set.len()).step_by(10) {
        let [x, y] = set.factors(index).place.map(|at| at as u32);
        let middle = set.picture(index).unwrap().pixel(x, y);
        assert!(middle.iter().max() > Some(&150), "picture {index}: {middle:?}");
    }
}

#[test]
fn raw_pixels_hardly_know_the_class() {
    // Ten nearest of 1,000 by the cosine of pixels. What training reaches is measured where models are.
    let (bank, queries) = (Shapes::new(1, Split::Train, 1_000), Shapes::new(1, Split::Test, 200));
    let vectors = |set: &Shapes| -> Vec<Vec<f32>> {
        let vector = |index| {
            let pixels: Vec<f32> =
                set.picture(index).unwrap().pixels().iter().map(|&b| f32::from(b) / 255.0 - 0.3).collect();
            let length = pixels.iter().map(|v| v * v).sum::<f32>().sqrt();
            pixels.into_iter().map(|v| v / length).collect()
        };
        (0..set.len()).map(vector).collect()
    };
    let (bank_vectors, query_vectors) = (vectors(&bank), vectors(&queries));
    let right = query_vectors.iter().enumerate().filter(|(index, query)| {
        let similarity = |other: &Vec<f32>| query.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
        let mut nearest: Vec<(f32, u32)> =
            bank_vectors.iter().enumerate().map(|(i, other)| (similarity(other), bank.label(i).unwrap())).collect();
        nearest.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut votes = [0; 10];
        nearest[..10].iter().for_each(|(_, label)| votes[*label as usize] += 1);
        let best = (0..10).max_by_key(|&class| votes[class]).unwrap();
        queries.label(*index) == Some(best as u32)
    });
    let share = right.count() as f64 / 200.0;
    assert!(share < 0.4, "{share}");
}
