//! Search over features, with the real program.

mod program;

use std::fs;
use std::path::{Path, PathBuf};

use program::{result, run};
use simclr_data::{Pictures as _, Shapes, Split};

fn course() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../tests/golden/pth_course.pth"].iter().collect()
}

fn embed(out: &Path, more: &str) {
    let (course, out) = (course().display().to_string(), out.display());
    result(&format!("embed --checkpoint {course} --data shapes --subset 60 --out {out} {more} --quiet"));
}

/// The picture of a row, as a file.
fn save(index: usize, path: &Path) {
    let picture = Shapes::new(0, Split::Train, 100).picture(index).unwrap();
    image::save_buffer(path, picture.pixels(), 32, 32, image::ExtendedColorType::Rgb8).unwrap();
}

#[test]
fn a_picture_finds_itself_and_a_page_shows_what_was_found() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    save(7, &dir.path().join("mine.png"));
    for format in ["parquet", "safetensors", "npy"] {
        let file = dir.path().join(format!("features.{format}"));
        embed(&file, "");
        let encoder = if format == "npy" { format!("--checkpoint {}", course().display()) } else { String::new() };
        let page = dir.path().join(format!("{format}.html"));
        let typed =
            format!("search --like {at}/mine.png --features {} --top 5 --out {}", file.display(), page.display());
        let found = result(&format!("{typed} {encoder} --quiet"));
        let results = found["results"].as_array().unwrap();
        assert_eq!(
            (results.len(), &found["rows"], &results[0]["row"]),
            (5, &60.into(), &7.into()),
            "{format}: {found}"
        );
        let cosines: Vec<f64> = results.iter().map(|result| result["cosine"].as_f64().unwrap()).collect();
        assert!(cosines[0] > 0.999_99 && cosines.is_sorted_by(|a, b| a >= b), "{format}: {cosines:?}");
        let html = fs::read_to_string(&page).unwrap();
        assert!(html.contains("mine.png") && !html.contains("http"), "the page must need nothing beside it");
        let (pictures, labels) = if format == "npy" { (1, 0) } else { (6, 5) };
        assert_eq!(html.matches("src=\"data:image/").count(), pictures, "{format}");
        if labels > 0 {
            assert_eq!(results[0]["path"], "shapes/7");
            let class = Shapes::new(0, Split::Train, 100);
            let class = &class.classes()[class.label(7).unwrap() as usize];
            assert_eq!(results[0]["label"], class.as_str());
            // The path of a row needs no encoder and finds the same.
            let row = result(&format!("search --like shapes/7 --features {} --top 5 --quiet", file.display()));
            let rows = |found: &serde_json::Value| -> Vec<serde_json::Value> {
                found["results"].as_array().unwrap().iter().map(|result| result["row"].clone()).collect()
            };
            assert_eq!(rows(&row), rows(&found));
        }
    }
}

#[test]
fn what_cannot_be_searched_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let course = course();
    let course = course.display();
    embed(&dir.path().join("a.parquet"), "");
    embed(&dir.path().join("a.npy"), "");
    save(0, &dir.path().join("mine.png"));
    fs::write(dir.path().join("text.txt"), "no picture").unwrap();
    let other = "pretrain --data shapes --subset 64 --width 2 --arch resnet18 --epochs 1 --batch 32";
    result(&format!("{other} --run {at}/other --quiet"));
    for (typed, status, parts) in [
        (format!("--like {at}/none.png --features {at}/a.parquet"), 2, &["none.png, which is neither a file nor"][..]),
        (format!("--like shapes/60 --features {at}/a.parquet"), 2, &["--like is shapes/60, which is neither"]),
        (
            format!("--like {at}/mine.png --features {at}/a.npy"),
            2,
            &["a.npy does not say which encoder", "--checkpoint"],
        ),
        (format!("--like {at}/mine.png --features {at}/a.parquet --top 0"), 2, &["--top is 0"]),
        (format!("--like {at}/mine.png --features {at}/mine.png"), 1, &["mine.png: no file of features"]),
        (format!("--like {at}/text.txt --features {at}/a.parquet"), 1, &["text.txt: its content is no JPEG"]),
        (format!("--like {at} --features {at}/a.parquet"), 1, &["it is no regular file"]),
        (
            format!("--like {at}/mine.png --features {at}/a.parquet --checkpoint {at}/other"),
            1,
            &[
                "a.parquet: its features are of an encoder with SHA-256 ",
                "model.safetensors has ",
                "embed the pictures again",
            ],
        ),
        (
            format!("--like {at}/mine.png --features {at}/a.npy --checkpoint {course} --out {at}/none/page.html"),
            1,
            &["none/page.html: No such file"],
        ),
    ] {
        let ended = run(&format!("search {typed} --quiet"));
        assert_eq!(ended.status, Some(status), "{typed}: {}", ended.stderr);
        assert!(parts.iter().all(|part| ended.stderr.contains(part)), "{parts:?} are not all in: {}", ended.stderr);
        assert_eq!((ended.stdout.as_str(), ended.stderr.lines().count()), ("", 1), "{typed}: {}", ended.stderr);
    }
}
