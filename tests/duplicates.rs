//! Pictures that a set has more than once, with the real program.

mod program;

use std::fs;
use std::path::{Path, PathBuf};

use program::{result, run};
use serde_json::Value;
use simclr_data::{Pictures as _, Shapes, Split};
use simclr_ops::random::stream;

fn course() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../tests/golden/pth_course.pth"].iter().collect()
}

/// The rows of every group.
fn groups(found: &Value) -> Vec<Vec<usize>> {
    let rows =
        |group: &Value| group["rows"].as_array().unwrap().iter().map(|row| row.as_u64().unwrap() as usize).collect();
    found["groups"].as_array().unwrap().iter().map(rows).collect()
}

/// NumPy's file of rows.
fn write_npy(path: &Path, rows: &[Vec<f32>]) {
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows.len(), rows[0].len());
    header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(rows.iter().flatten().flat_map(|number| number.to_le_bytes()));
    fs::write(path, bytes).unwrap();
}

/// Random rows: all unlike.
fn random(n: usize) -> Vec<Vec<f32>> {
    let row = |row: usize| {
        let mut draws = stream(1, [row as u64, 0, 0]);
        (0..24).map(|_| draws.normal() as f32).collect()
    };
    (0..n).map(row).collect()
}

#[test]
fn copies_are_found_listed_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    // Forty pictures in two classes; five of the first are in the second as well, one of them twice.
    let shapes = Shapes::new(0, Split::Train, 100);
    for class in ["left", "right"] {
        fs::create_dir_all(dir.path().join("set").join(class)).unwrap();
    }
    let save = |index: usize, name: &str| {
        let (picture, path) = (shapes.picture(index).unwrap(), dir.path().join("set").join(name));
        image::save_buffer(path, picture.pixels(), 32, 32, image::ExtendedColorType::Rgb8).unwrap();
    };
    (0..20).for_each(|i| save(i, &format!("left/{i:02}.png")));
    (20..40).for_each(|i| save(i, &format!("right/{i:02}.png")));
    (0..5).for_each(|i| save(i, &format!("right/copy of {i:02}.png")));
    save(0, "left/once more.png");

    for format in ["parquet", "safetensors", "npy"] {
        let features = format!("{at}/features.{format}");
        let course = course().display().to_string();
        result(&format!("embed --checkpoint {course} --data folder:{at}/set --out {features} --quiet"));
        let typed = format!("duplicates --features {features} --threshold 1");
        let found = result(&format!("{typed} --out {at}/{format}.html --remove-list {at}/{format}.txt --quiet"));
        assert_eq!(
            (&found["rows"], &found["threshold"], &found["method"]["name"]),
            (&46.into(), &1.0.into(), &"exact".into())
        );
        assert_eq!((&found["comparisons"], &found["recall"]), (&1035.into(), &Value::Null));
        let sizes: Vec<usize> = groups(&found).iter().map(Vec::len).collect();
        assert_eq!(sizes, [3, 2, 2, 2, 2], "{format}: {found}");
        for (group, rows) in found["groups"].as_array().unwrap().iter().zip(groups(&found)) {
            assert!(group["min"].as_f64().unwrap() > 0.999_99 && rows.is_sorted());
            if format == "npy" {
                assert!(group["paths"].is_null() && group["labels"].is_null() && group["labels_differ"] == false);
                continue;
            }
            let names: Vec<&str> =
                group["paths"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
            let labels = group["labels"].as_array().unwrap();
            assert!(
                labels.contains(&"left".into()) && labels.contains(&"right".into()) && group["labels_differ"] == true
            );
            assert_eq!((names.len(), labels.len()), (rows.len(), rows.len()));
        }
        let counts = found["counts"].as_array().unwrap();
        assert_eq!(counts.len(), 7);
        assert_eq!(counts[6]["pairs"], 7);
        assert_eq!((&counts[6]["groups"], &counts[6]["rows"]), (&5.into(), &11.into()));
        assert!(found["nearest_quantiles"]["1"].as_f64().unwrap() > 0.999_99);

        // All but the first of each group, and nothing is gone.
        let list = fs::read_to_string(dir.path().join(format!("{format}.txt"))).unwrap();
        let expected = found["groups"].as_array().unwrap().iter().flat_map(|group| {
            let names = if format == "npy" { &group["rows"] } else { &group["paths"] };
            names.as_array().unwrap()[1..]
                .iter()
                .map(|name| name.as_str().map_or(name.to_string(), str::to_owned))
                .collect::<Vec<_>>()
        });
        assert_eq!(list.lines().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        assert_eq!(fs::read_dir(dir.path().join("set/right")).unwrap().count(), 25);

        let html = fs::read_to_string(dir.path().join(format!("{format}.html"))).unwrap();
        assert!(html.contains("single linkage") && !html.contains("http"), "the page must need nothing beside it");
        let (pictures, differ) = if format == "npy" { (0, 0) } else { (11, 5) };
        assert_eq!(html.matches("src=\"data:image/").count(), pictures, "{format}");
        assert_eq!(html.matches("The labels differ: ").count(), differ, "{format}");

        let text = run(&format!("{typed} --threads 1"));
        assert_eq!(text.status, Some(0), "{}", text.stderr);
        for part in [
            "nearly the same: 5, with 11 of 46 pictures; without all but the first of each, 40 would be left.",
            "The threshold is 1, as given; the data suggest ",
            "All 1035 pairs were compared.",
            "1 (used)",
            "Cosine of a picture with the one nearest to it, of all pictures:",
        ] {
            assert!(text.stdout.contains(part), "{part} is not in:\n{}", text.stdout);
        }
        assert_eq!(text.stdout.contains("In 5 of them labels differ."), format != "npy");
        let again = result(&format!("{typed} --threads 3 --quiet"));
        assert_eq!(again["groups"], found["groups"], "{format}");
    }
}

#[test]
fn many_rows_are_compared_in_cells_and_it_says_how_well() {
    let dir = tempfile::tempdir().unwrap();
    let features = dir.path().join("rows.npy");
    // Of every fiftieth row a twin of twice the length.
    let mut rows = random(2_000);
    for i in (0..2_000).step_by(50) {
        rows[i + 7] = rows[i].iter().map(|number| 2.0 * number).collect();
    }
    write_npy(&features, &rows);
    let typed = format!("duplicates --features {} --threshold 0.999 --quiet", features.display());
    // Cosines of twins differ by rounding, and so their order.
    let sorted = |found: &Value| {
        let mut groups = groups(found);
        groups.sort();
        groups
    };
    let exact = result(&typed);
    assert_eq!(sorted(&exact), (0..2_000).step_by(50).map(|i| vec![i, i + 7]).collect::<Vec<_>>());
    assert_eq!((&exact["method"]["name"], &exact["comparisons"]), (&"exact".into(), &1_999_000.into()));

    let near = result(&format!("{typed} --exact-up-to 1999"));
    assert_eq!(near["method"], serde_json::json!({ "name": "cells", "cells": 45, "probes": 8 }));
    assert!(near["comparisons"].as_u64().unwrap() < 1_999_000 / 2);
    assert_eq!(sorted(&near), sorted(&exact), "twins are in one cell");
    assert_eq!(near["recall"], serde_json::json!({ "rows": 2_000, "pairs": 40, "found": 40, "share": 1.0 }));
    let text = run(&format!("{typed} --exact-up-to 1999")).stdout;
    assert!(
        text.contains("Approximate: ") && text.contains("of their 40 true ones 40 were found (100.00 %)"),
        "{text}"
    );
    assert_eq!(result(&format!("{typed} --exact"))["comparisons"], exact["comparisons"]);

    // By default the threshold is a tenth of what is usual away from 1.
    let own = result(&format!("duplicates --features {} --quiet", features.display()));
    let (threshold, usual) = (own["threshold"].as_f64().unwrap(), own["usual_cosine"].as_f64().unwrap());
    assert!((threshold - (1.0 - (1.0 - usual) / 10.0)).abs() < 1e-9 && own["suggested_threshold"] == threshold);
    assert_eq!(sorted(&own), sorted(&exact));
}

#[test]
fn what_cannot_be_compared_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    write_npy(&dir.path().join("some.npy"), &random(5));
    write_npy(&dir.path().join("one.npy"), &random(1));
    let mut rows = random(5);
    rows[3][1] = f32::NAN;
    write_npy(&dir.path().join("nan.npy"), &rows);
    fs::write(dir.path().join("text.txt"), "no features").unwrap();
    for (typed, status, part) in [
        ("some.npy --threshold 0", 2, "--threshold is 0, expected a cosine above 0 and at most 1"),
        ("some.npy --threshold 1.01", 2, "--threshold is 1.01, expected a cosine"),
        ("some.npy --threshold -0.5", 2, "--threshold is -0.5, expected a cosine"),
        ("some.npy --threshold nan", 2, "--threshold is NaN, expected a cosine"),
        ("some.npy --out none/page.html", 2, "--out is none/page.html, but there is no folder none"),
        ("some.npy --remove-list none/a.txt", 2, "--remove-list is none/a.txt, but there is no folder none"),
        ("some.npy --threads 0", 2, "--threads is 0, expected at least 1"),
        ("one.npy", 1, "one.npy has 1 row, expected at least 2"),
        ("nan.npy", 1, "nan.npy: feature 3 of rows is not finite"),
        ("text.txt", 1, "text.txt: no file of features"),
        ("none.npy", 1, "none.npy: No such file"),
    ] {
        let ended = run(&format!("duplicates --features {at}/{typed} --quiet"));
        assert_eq!(ended.status, Some(status), "{typed}: {}", ended.stderr);
        assert!(ended.stderr.contains(part), "{part} is not in: {}", ended.stderr);
        assert_eq!((ended.stdout.as_str(), ended.stderr.lines().count()), ("", 1), "{typed}: {}", ended.stderr);
    }
    // Nothing that is the same is no error.
    let none = run(&format!("duplicates --features {at}/some.npy --threshold 1 --out {at}/none.html"));
    assert_eq!(none.status, Some(0), "{}", none.stderr);
    assert!(none.stdout.starts_with("No two of 5 pictures reach the threshold."), "{}", none.stdout);
}
