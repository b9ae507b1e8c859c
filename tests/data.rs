//! Pictures and views, as users see and choose them.

mod program;

use std::fs;

use program::{result, write_cifar100};

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
    let refused = program::run(&format!("{typed} --resume").replace("--size 24", "--size 32"));
    assert_eq!(refused.status, Some(2));
    assert!(refused.stderr.contains("size is 32, was 24"), "{}", refused.stderr);
}
