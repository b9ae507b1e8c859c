//! Pictures and views, as users see and choose them.

mod program;

use std::fs;
use std::path::Path;

use program::{result, run, write_cifar100};

#[test]
fn a_sheet_of_views_is_drawn_again_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let draw = |flags: &str, name: &str| {
        let object = result(&format!("augment --pictures 3 --views 2 {flags} --out {}", path(name).display()));
        (object, fs::read(path(name)).unwrap())
    };
    let (object, sheet) = draw("", "first.png");
    assert_eq!((&object["data"], &object["pictures"], &object["views"]), (&"shapes".into(), &3.into(), &2.into()));
    assert!(sheet.starts_with(b"\x89PNG"));
    assert_eq!(draw("", "again.png").1, sheet);
    for flags in ["--seed 1", "--epoch 1", "--first 1", "--no-color-jitter", "--blur 1", "--size 48"] {
        assert_ne!(draw(flags, "other.png").1, sheet, "{flags}");
    }
    let (object, _) = draw("--first 9999", "last.png");
    assert_eq!(object["pictures"], 1, "no more than there are");
}

/// What a run learned with is kept, and what it is evaluated with.
#[test]
fn a_run_keeps_its_size_and_normalization() {
    let dir = tempfile::tempdir().unwrap();
    write_cifar100(dir.path(), 60);
    let folder = dir.path().join("run");
    let data = format!("--data cifar100 --data-dir {}", dir.path().display());
    let typed =
        format!("pretrain {data} --width 4 --batch 16 --epochs 1 --size 24 --blur 0.5 --run {}", folder.display());
    let object = result(&typed);
    assert!(object["knn_top1"].as_f64().is_some());
    let config: toml::Table = fs::read_to_string(folder.join("config.toml")).unwrap().parse().unwrap();
    assert_eq!(config["size"].as_integer(), Some(24));
    assert_eq!(config["augmentation"]["blur_probability"].as_float(), Some(0.5));
    // Of these pictures, not of the course's set.
    let mean = config["normalization"]["mean"].as_array().unwrap()[0].as_float().unwrap();
    assert!((mean - 0.4914).abs() > 1e-4 && (0.1..0.9).contains(&mean), "{mean}");
    let again = result(&format!("knn --checkpoint {}", folder.display()));
    assert_eq!(again["top1"], object["knn_top1"]);
    let refused = run(&format!("{typed} --resume").replace("--size 24", "--size 32"));
    assert_eq!(refused.status, Some(2));
    assert!(refused.stderr.contains("size is 32, was 24"), "{}", refused.stderr);
}

/// `count` pictures of each class, of a colour that tells it.
fn write_folder(dir: &Path, classes: &[&str], count: u32) {
    for (number, class) in classes.iter().enumerate() {
        fs::create_dir_all(dir.join(class)).unwrap();
        for n in 0..count {
            let color = |x: u32, y: u32| [60 * number as u8, (7 * n + x) as u8, (5 * y) as u8];
            let picture = image::RgbImage::from_fn(20 + n % 3, 24, |x, y| image::Rgb(color(x, y)));
            picture.save(dir.join(class).join(format!("{n}.png"))).unwrap();
        }
    }
}

#[test]
fn a_folder_with_classes_is_learned_from_and_judged() {
    let dir = tempfile::tempdir().unwrap();
    let (pictures, folder, cache) = (dir.path().join("pictures"), dir.path().join("run"), dir.path().join("cache"));
    write_folder(&pictures, &["red", "green", "blue"], 40);
    fs::write(pictures.join("red/broken.jpg"), "no JPEG").unwrap();
    let data = format!("--data folder:{}", pictures.display());
    let typed = format!("pretrain {data} --width 4 --batch 16 --epochs 1");
    let ended = run(&format!("{typed} --run {} --json --cache {}", folder.display(), cache.display()));
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    for part in ["broken.jpg: its content is no JPEG", "has no test split: the held-out end of its training split"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
    let object: serde_json::Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&object["knn"]["trained"][0]["bank"], &object["knn"]["trained"][0]["queries"]),
        (&108.into(), &12.into())
    );
    let left_out = fs::read_to_string(folder.join("left_out.txt")).unwrap();
    assert_eq!(left_out.lines().count(), 1);
    let config: toml::Table = fs::read_to_string(folder.join("config.toml")).unwrap().parse().unwrap();
    // The middle of 20, 21 and 22.
    assert_eq!(config["size"].as_integer(), Some(21));
    // Cache and threads change nothing, and neither does the number of workers.
    let plain = result(&format!("{typed} --run {} --threads 1 --workers 3", dir.path().join("plain").display()));
    assert_eq!((&plain["loss"], &plain["knn"]), (&object["loss"], &object["knn"]));
    let weights = |folder: &Path| fs::read(folder.join("checkpoints/step-00000007/model.safetensors")).unwrap();
    assert_eq!(weights(&folder), weights(&dir.path().join("plain")));
    fs::remove_dir_all(cache).unwrap();
    for command in ["knn", "linear --labels 5-per-class --epochs 1 --no-baselines"] {
        let object = result(&format!("{command} --checkpoint {}", folder.display()));
        assert!(object["top1"].as_f64().unwrap() > 0.0, "{object}");
    }

    // A run goes on with the pictures that it began with, or not at all.
    let part = dir.path().join("part");
    result(&format!("{typed} --max-steps 3 --run {}", part.display()));
    let go_on = format!("pretrain --run {} --resume", part.display());
    fs::rename(pictures.join("red/3.png"), dir.path().join("3.png")).unwrap();
    let ended = run(&go_on);
    assert_eq!(ended.status, Some(1));
    let expected = "its pictures are not those that the run began with (119 pictures, ";
    assert!(ended.stderr.contains(expected) && ended.stderr.contains("was 120 pictures, "), "{}", ended.stderr);
    fs::rename(dir.path().join("3.png"), pictures.join("red/3.png")).unwrap();
    assert_eq!(result(&go_on)["loss"], object["loss"]);
    assert_eq!(weights(&part), weights(&folder));

    let ended = run(&format!("{typed} --max-bad 0.001 --run {}", dir.path().join("strict").display()));
    assert_eq!(ended.status, Some(1));
    assert!(
        ended.stderr.contains("1 of 121 pictures cannot be read, more than the 0.001 that are accepted"),
        "{}",
        ended.stderr
    );
    assert!(!dir.path().join("strict").exists());
}

#[test]
fn a_folder_without_labels_has_a_loss_and_no_knn() {
    let dir = tempfile::tempdir().unwrap();
    let pictures = dir.path().join("pictures");
    write_folder(&pictures, &[""], 40);
    let folder = dir.path().join("run");
    let data = format!("--data folder:{}", pictures.display());
    let typed = format!("pretrain {data} --size 16 --width 4 --batch 16 --epochs 2 --run {}", folder.display());
    let ended = run(&format!("{typed} --json"));
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("has no labels: the loss is all there is to follow"), "{}", ended.stderr);
    let object: serde_json::Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert!(object["loss"].as_f64().is_some() && object["knn_top1"].is_null() && object.get("knn").is_none());
    let report = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(report.contains("no labels to judge by"));
    for (command, part) in
        [("knn", "has no labels, and kNN votes by them"), ("linear", "has no labels, and a classifier learns them")]
    {
        let ended = run(&format!("{command} --checkpoint {}", folder.display()));
        assert_eq!(ended.status, Some(1));
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
    let ended = run(&format!(
        "pretrain --data folder:{}/nothing --run {}",
        dir.path().display(),
        dir.path().join("no").display()
    ));
    assert_eq!(ended.status, Some(1));
    assert!(
        ended.stderr.contains("nothing: No such file or directory") && !dir.path().join("no").exists(),
        "{}",
        ended.stderr
    );
}

/// Views of more than 64 pixels get the stem of ImageNet, unless somebody says otherwise; evaluation finds it in the file.
#[test]
fn large_views_get_the_large_stem() {
    let dir = tempfile::tempdir().unwrap();
    let stem_of = |flags: &str, name: &str| {
        let folder = dir.path().join(name);
        let typed = format!("pretrain --data shapes --subset 64 --width 4 --batch 16 --epochs 1 --max-steps 1 {flags}");
        result(&format!("{typed} --run {}", folder.display()));
        let config: toml::Table = fs::read_to_string(folder.join("config.toml")).unwrap().parse().unwrap();
        config["stem"].as_str().unwrap().to_owned()
    };
    assert_eq!(stem_of("", "small"), "3x3");
    assert_eq!(stem_of("--size 64", "most"), "3x3");
    assert_eq!(stem_of("--size 65", "large"), "7x7");
    assert_eq!(stem_of("--size 72 --stem 3x3", "forced"), "3x3");
    let evaluated = result(&format!(
        "linear --checkpoint {} --labels 0.5 --epochs 1 --no-baselines",
        dir.path().join("large").display()
    ));
    assert_eq!(evaluated["labels"], 32);
    let exported = result(&format!(
        "export --checkpoint {} --out {}",
        dir.path().join("large").display(),
        dir.path().join("a.pth").display()
    ));
    assert_eq!(exported["stem"], "7x7");
    let imported = result(&format!(
        "import {} --out {}",
        dir.path().join("a.pth").display(),
        dir.path().join("b.safetensors").display()
    ));
    assert_eq!((&imported["stem"], &imported["arch"]), (&"7x7".into(), &"resnet18".into()));
    let wrong = run("pretrain --data shapes --stem 5x5");
    assert_eq!(wrong.status, Some(2));
    assert!(wrong.stderr.contains("--stem is 5x5, expected 3x3 or 7x7"), "{}", wrong.stderr);
}
