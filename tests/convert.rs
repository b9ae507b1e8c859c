//! Weights from PyTorch and back, with the real program.

mod program;

use std::fs;
use std::path::PathBuf;

use program::{result, run};

fn golden(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../tests/golden", name].iter().collect()
}

#[test]
fn a_pth_file_is_imported_evaluated_and_exported() {
    let dir = tempfile::tempdir().unwrap();
    let course = golden("pth_course.pth");
    let (course, at) = (course.display(), dir.path().display());

    let imported = result(&format!("import {course} --arch resnet18 --out {at}/model.safetensors --quiet"));
    for (key, value) in
        [("width", 2), ("feature_dim", 5), ("hidden_dim", 6), ("head_layers", 2), ("parameters", 11_393)]
    {
        assert_eq!(imported[key], value, "{imported}");
    }
    assert_eq!((&imported["arch"], &imported["head_batch_norm"]), (&"resnet18".into(), &true.into()));

    let knn = |checkpoint: &str| {
        let knn = result(&format!("knn --data shapes --subset 64 --quiet --checkpoint {checkpoint}"));
        (knn["top1"].clone(), knn["top5"].clone(), knn["protocols"].clone())
    };
    let by_pytorch = knn(&course.to_string());
    assert_eq!(by_pytorch, knn(&format!("{at}/model.safetensors")));

    let exported =
        result(&format!("export --checkpoint {at}/model.safetensors --format pth --out {at}/model.pth --quiet"));
    assert_eq!(exported["out"], format!("{at}/model.pth"));
    assert_eq!(by_pytorch, knn(&format!("{at}/model.pth")));

    // Back again it is the same file; the name says the format.
    result(&format!("export --checkpoint {at}/model.pth --out {at}/again.safetensors --quiet"));
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert!(read("model.safetensors") == read("again.safetensors"));
}

#[test]
fn an_encoder_goes_out_as_onnx_and_under_torchvision_s_names() {
    let dir = tempfile::tempdir().unwrap();
    let (course, at) = (golden("pth_course.pth"), dir.path().display());
    let course = course.display();
    for (out, rest) in [("a.onnx", ""), ("b.onnx", "--input pixels")] {
        let exported = result(&format!("export --checkpoint {course} --out {at}/{out} {rest} --quiet"));
        assert_eq!((&exported["arch"], &exported["width"]), (&"resnet18".into(), &2.into()));
        let bytes = fs::read(dir.path().join(out)).unwrap();
        let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(has("simclr-train") && has("pictures") && has("features") && has("sha256"), "{out}");
        assert_eq!(has("Cast"), out == "b.onnx", "only bytes are normalised inside");
    }

    // The encoder under torchvision's names is the same encoder.
    let top = |checkpoint: &str| {
        let knn = result(&format!("knn --data shapes --subset 64 --quiet --no-baselines --checkpoint {checkpoint}"));
        knn["protocols"].clone()
    };
    for ending in ["pth", "safetensors"] {
        let file = format!("{at}/torchvision.{ending}");
        result(&format!("export --checkpoint {course} --names torchvision --out {file} --quiet"));
        assert_eq!(top(&file), top(&course.to_string()), "{ending}");
    }
    let bytes = fs::read(dir.path().join("torchvision.safetensors")).unwrap();
    let names = String::from_utf8_lossy(&bytes[8..2_000]).into_owned();
    assert!(names.contains("\"bn1.bias\"") && !names.contains("\"g.0") && !names.contains("\"f.0"), "{names}");
}

#[test]
fn what_cannot_be_converted_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (course, views) = (golden("pth_course.pth"), golden("pth_views.pth"));
    let (course, views, at) = (course.display(), views.display(), dir.path().display());
    fs::write(dir.path().join("mine.pth"), "mine").unwrap();
    let half = &fs::read(golden("pth_course.pth")).unwrap()[..40_000];
    fs::write(dir.path().join("half.pth"), half).unwrap();
    for (typed, status, parts) in [
        (format!("import {course} --out {at}/mine.pth"), 2, &["--out is ", "mine.pth, which exists"][..]),
        (format!("export --checkpoint {course} --out {at}/mine.pth"), 2, &["mine.pth, which exists"]),
        (
            format!("import {course} --arch resnet50 --out {at}/a"),
            2,
            &["--arch is resnet50", "pth_course.pth", "resnet18"],
        ),
        (format!("import {course} --arch vgg --out {at}/a"), 2, &["--arch is vgg"]),
        (format!("import {at}/none.pth --out {at}/a"), 1, &["none.pth: No such file"]),
        (format!("import {at}/half.pth --out {at}/a"), 1, &["half.pth: not a whole zip archive"]),
        (format!("import {views} --out {at}/a"), 1, &["pth_views.pth: not a model", "f.0.weight"]),
        (format!("import {course} --out {at}/none/a"), 1, &["none/a: No such file"]),
        (
            format!("export --checkpoint {course} --out {at}/a"),
            2,
            &["--out is ", "give --format pth, safetensors or onnx"],
        ),
        (
            format!("export --checkpoint {course} --format pt --out {at}/a"),
            2,
            &["--format is pt", "pth, safetensors or onnx"],
        ),
        (
            format!("export --checkpoint {course} --names mine --out {at}/a.pth"),
            2,
            &["--names is mine, expected course"],
        ),
        (
            format!("export --checkpoint {course} --names course --out {at}/a.onnx"),
            2,
            &["--names belongs to", "is onnx"],
        ),
        (format!("export --checkpoint {course} --input pixels --out {at}/a.pth"), 2, &["--input belongs to", "is pth"]),
        (
            format!("export --checkpoint {course} --input u8 --out {at}/a.onnx"),
            2,
            &["--input is u8, expected normalized"],
        ),
        (format!("export --checkpoint {course} --out {at}/none/a.onnx"), 1, &["none/a.onnx: No such file"]),
        (format!("export --checkpoint {at} --out {at}/a.pth"), 1, &["model.safetensors: No such file"]),
    ] {
        let ended = run(&format!("{typed} --quiet"));
        assert_eq!(ended.status, Some(status), "{typed}: {}", ended.stderr);
        assert!(parts.iter().all(|part| ended.stderr.contains(part)), "{parts:?} are not all in: {}", ended.stderr);
        assert_eq!((ended.stdout.as_str(), ended.stderr.lines().count()), ("", 1), "{typed}: {}", ended.stderr);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "only what was there before");
    assert_eq!(fs::read_to_string(dir.path().join("mine.pth")).unwrap(), "mine");
}
