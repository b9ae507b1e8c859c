//! What the program says of encoders: linear evaluation and the course's experiment, on the real program.

mod program;

use std::fs;
use std::path::Path;

use program::{program, result, run, write_cifar10};
use serde_json::Value;

fn number(object: &Value, name: &str) -> f64 {
    object[name].as_f64().unwrap_or_else(|| panic!("{name} in {object}"))
}

/// The course's experiment in some seconds: CIFAR-10 of a formula, a narrow ResNet-18.
fn experiment(dir: &Path, run: &Path) -> String {
    format!(
        "cs231n --data-dir {} --arch resnet18 --width 4 --subset 80 --test-subset 30 --batch 8 --pretrain-epochs 1 \
         --linear-epochs 2 --labels 0.5 --linear-batch 16 --run {}",
        dir.display(),
        run.display()
    )
}

#[test]
fn logistic_regression_reads_classes_from_features_that_are_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    result(&format!("pretrain --data shapes --subset 256 --width 4 --batch 32 --epochs 1 --run {}", folder.display()));
    let out = dir.path().join("linear.json");
    let typed = format!("linear --checkpoint {} --labels 5-per-class --draws 2", folder.display());
    let object = result(&format!("{typed} --out {}", out.display()));
    assert_eq!(
        (&object["method"], &object["labels"], &object["queries"]),
        (&"lbfgs".into(), &50.into(), &2_000.into())
    );
    for result in [&object, &object["raw_pixels"], &object["random_encoder"]] {
        assert!(0.1 < number(result, "top1") && number(result, "top1") < number(result, "top5"), "{result}");
        assert!(number(result, "top1_std") > 0.0);
        let draws = result["draws"].as_array().unwrap();
        let mean = (number(&draws[0], "top1") + number(&draws[1], "top1")) / 2.0;
        assert!((mean - number(result, "top1")).abs() < 1e-12);
        assert_eq!(draws[0]["tried"].as_array().unwrap().len(), 10);
        // 200 pictures of each class are asked about, by two classifiers.
        let confusion = result["confusion"].as_array().unwrap();
        let rows: Vec<u64> =
            confusion.iter().map(|row| row.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum()).collect();
        assert_eq!(rows, [400; 10]);
        assert_eq!(result["per_class"].as_object().unwrap().len(), 10);
    }
    let written: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    let drawn = written["labelled_pictures"].as_array().unwrap();
    assert!(drawn.len() == 2 && drawn[0] != drawn[1] && drawn[0].as_array().unwrap().len() == 50);
    assert_eq!(result(&typed)["confusion"], object["confusion"], "the same command gives the same numbers");
    let ended = run(&format!("{typed} --threads 1 --no-baselines"));
    assert!(ended.stdout.contains(" ± ") && ended.stderr.contains("not a bit of it changed"), "{}", ended.stdout);
    for (flags, part) in [
        ("--method lbfgs --epochs 2", "belong to --method adam, but --method is lbfgs"),
        ("--method sgd", "--method is sgd, expected lbfgs or adam"),
        ("--method adam --draws 2", "--draws belongs to --method lbfgs"),
        ("--draws 2 --labels 50%", "--labels 50% are the same in every draw"),
        ("--draws 0", "--draws is 0"),
    ] {
        let ended = run(&format!("linear --checkpoint {} {flags}", folder.display()));
        assert_eq!(ended.status, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
}

#[test]
fn an_encoder_from_elsewhere_stands_beside_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let (own, other) = (dir.path().join("own").display().to_string(), dir.path().join("other").display().to_string());
    let pretrain = "pretrain --data shapes --subset 128 --width 4 --batch 32 --epochs 1";
    result(&format!("{pretrain} --run {own}"));
    result(&format!("{pretrain} --stem 7x7 --seed 9 --run {other}"));
    let file = dir.path().join("torchvision.pth").display().to_string();
    result(&format!("export --checkpoint {other} --names torchvision --out {file}"));
    let knn = result(&format!("knn --checkpoint {own} --imagenet {file} --imagenet-size 64"));
    let linear = result(&format!("linear --checkpoint {own} --labels 25% --imagenet {file} --imagenet-size 64"));
    let top1 = number(&knn["imagenet_encoder"][0], "top1");
    // Four times as good as guessing is not to be had of so short a run; but not all is one class.
    assert!(top1 > 0.1 && top1 != number(&knn, "top1"), "{knn}");
    assert!(number(&linear["imagenet_encoder"], "top1") > 0.1, "{linear}");
    let typed = knn["command"].as_str().unwrap();
    assert!(
        typed.starts_with("simclr-train knn --checkpoint ") && typed.ends_with("--imagenet-size 64 --json"),
        "{typed}"
    );
    let page = dir.path().join("page.html");
    result(&format!("report {own} --imagenet {file} --imagenet-size 64 --out {}", page.display()));
    let shown = format!("{:.2}\u{a0}%", 100.0 * top1);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains(&shown) && page.contains("ImageNet encoder"), "{shown}");
    // Another size is another result: the pictures really are made for it.
    let small = result(&format!("knn --checkpoint {own} --no-baselines --imagenet {file} --imagenet-size 32"));
    assert!(small.get("random_encoder").is_none() && number(&small["imagenet_encoder"][0], "top1") != top1, "{small}");
    for (typed, status, part) in [
        (
            format!("linear --checkpoint {own} --method adam --imagenet {file}"),
            2,
            "--imagenet belongs to --method lbfgs",
        ),
        (format!("knn --checkpoint {own} --imagenet {own}/config.toml"), 1, "config.toml"),
        (format!("knn --checkpoint {own} --imagenet-size 64"), 2, "--imagenet"),
        (format!("knn --checkpoint {own} --imagenet {file} --imagenet-size 0"), 1, "at least 1 pixel"),
    ] {
        let ended = run(&typed);
        assert_eq!(ended.status, Some(status), "{typed}: {}", ended.stderr);
        assert!(ended.stderr.contains(part), "{typed}: {}", ended.stderr);
    }
}

#[test]
fn linear_reads_classes_from_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    result(&format!("pretrain --data shapes --subset 256 --width 4 --batch 32 --epochs 1 --run {}", folder.display()));
    let weights = fs::read_to_string(folder.join("checkpoints/latest")).unwrap();
    let weights = folder.join("checkpoints").join(weights.trim()).join("model.safetensors");
    let before = fs::read(&weights).unwrap();
    let out = dir.path().join("linear.json");
    let typed = format!("linear --checkpoint {} --labels 0.5 --epochs 3 --batch 32", folder.display());
    let object = result(&format!("{typed} --out {}", out.display()));
    assert_eq!((&object["labels"], &object["queries"]), (&128.into(), &2_000.into()));
    for result in [&object, &object["raw_pixels"], &object["random_encoder"]] {
        assert!(0.0 < number(result, "top1") && number(result, "top1") < number(result, "top5"), "{result}");
        assert_eq!(result["epochs"].as_array().unwrap().len(), 3);
    }
    let mut written: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    let first_half: Vec<u64> = (0..128).collect();
    assert_eq!(written.as_object_mut().unwrap().remove("labelled_pictures"), Some(first_half.into()));
    assert_eq!(written, object);
    assert_eq!(object["labels_choice"], "50%");
    assert_eq!(fs::read(&weights).unwrap(), before, "an evaluation does not touch the checkpoint");
    assert_eq!(result(&typed)["epochs"], object["epochs"], "the same command gives the same numbers");

    let ended = run(&format!("{typed} --no-baselines --threads 1"));
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    let fingerprint = object["encoder_sha256"].as_str().unwrap().to_owned();
    assert!(
        ended.stderr.contains(&format!("trained encoder: frozen, not a bit of it changed (SHA-256 {fingerprint})"))
    );
    assert!(
        ended.stderr.contains("Train Epoch: [3/3] Loss: ") && ended.stderr.contains("% ACC@5: "),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains("raw pixels") && ended.stdout.contains("linear on 128 labels"), "{}", ended.stdout);

    let object_of_half = object.clone();
    let few = format!("{} --no-baselines --labels 3-per-class", typed.replace(" --labels 0.5", ""));
    let object = result(&format!("{few} --out {}", dir.path().join("few.json").display()));
    assert_eq!((&object["labels"], &object["labels_choice"]), (&30.into(), &"3-per-class".into()));
    assert_eq!(result(&few)["epochs"], object["epochs"], "few labels are the same at every call");
    assert_ne!(result(&format!("{few} --seed 1"))["epochs"], object["epochs"], "another seed draws others");

    let course = result(&format!("{typed} --no-baselines --batch-statistics"));
    assert_eq!(course["encoder_sha256"], fingerprint, "what was evaluated is what was loaded");
    assert_ne!(course["epochs"], object_of_half["epochs"], "batch statistics give other features");

    for (flags, parts) in [
        ("--labels 0", ["--labels is 0", "above 0"]),
        ("--labels 1.5", ["--labels is 1.5", "up to 1"]),
        ("--epochs 0", ["--epochs is 0", "at least 1"]),
        ("--batch 0", ["--batch is 0", "at least 1"]),
        ("--lr nan", ["--lr is NaN", "above 0"]),
    ] {
        let name = flags.split(' ').next().unwrap();
        let words: Vec<&str> = typed.split(' ').collect();
        let kept: Vec<&str> = match words.iter().position(|word| *word == name) {
            Some(at) => [&words[..at], &words[at + 2..]].concat(),
            None => words,
        };
        let ended = run(&format!("{} {flags} --quiet", kept.join(" ")));
        assert_eq!(ended.status, Some(2), "{flags}: {}", ended.stderr);
        assert!(parts.iter().all(|part| ended.stderr.contains(part)), "{flags}: {}", ended.stderr);
    }
}

#[test]
fn the_course_s_experiment_from_nothing_and_from_weights() {
    let dir = tempfile::tempdir().unwrap();
    write_cifar10(dir.path(), 40);
    let folder = dir.path().join("course");
    let typed = experiment(dir.path(), &folder);
    let ended = run(&format!("{typed} --json"));
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    let object: Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    for said in [
        "there are no pretrained weights",
        "Train Epoch: [1/1] Loss: ",
        "chosen by kNN on the test split",
        "Test Epoch: [1/1] Acc@1:",
        "Test Epoch: [2/2] Loss: ",
    ] {
        assert!(ended.stderr.contains(said), "{said} is not in: {}", ended.stderr);
    }
    // Half of 80 pictures in batches of 8; half of 80 labels.
    assert_eq!((&object["steps_per_epoch"], &object["linear"]["trained"]["labels"]), (&5.into(), &40.into()));
    assert_eq!((&object["train_pictures"], &object["test_pictures"]), (&80.into(), &30.into()));
    for name in ["knn_top1", "linear_top1", "linear_top1_random", "linear_top1_raw_pixels"] {
        assert!((0.0..=1.0).contains(&number(&object, name)), "{object}");
    }
    let report = fs::read_to_string(folder.join("report.html")).unwrap();
    for part in ["student A", "3.2587", "random encoder", "pretrained here for 1 epochs", "<polyline"] {
        assert!(report.contains(part), "{part} is not in the report");
    }
    let saved: Value = serde_json::from_str(&fs::read_to_string(folder.join("result.json")).unwrap()).unwrap();
    assert_eq!(saved, object);

    // A finished experiment says its result once more, and never starts again by mistake.
    assert_eq!(result(&format!("cs231n --resume --run {}", folder.display())), object);
    let again = run(&typed);
    assert_eq!(again.status, Some(2));
    assert!(again.stderr.contains("has an experiment already"), "{}", again.stderr);
    let other = run(&format!("cs231n --resume --run {} --labels 0.25", folder.display()));
    assert_eq!(other.status, Some(2));
    assert!(other.stderr.contains("labels is 0.25, was 0.5"), "{}", other.stderr);

    // From weights: no pretraining, and the encoder is the file's, whatever the default is.
    let weights = dir.path().join("pretrained_simclr_model.pth");
    result(&format!("export --checkpoint {} --out {}", folder.join("continued").display(), weights.display()));
    let second = dir.path().join("second");
    let ended = run(&experiment(dir.path(), &second).replace("--arch resnet18 --width 4 ", ""));
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("begins with the weights of") && !second.join("pretraining").exists());
    let refused = run(&experiment(dir.path(), &dir.path().join("third")).replace("--width 4", "--width 8"));
    assert!(refused.stderr.contains("resnet18 of width 4") && refused.stderr.contains("resnet18 of width 8"));
    assert_eq!(refused.status, Some(2), "{}", refused.stderr);
    assert!(!dir.path().join("third").exists(), "what is refused leaves nothing behind");
}

#[cfg(unix)]
#[test]
fn an_interrupted_experiment_goes_on_to_the_same_result() {
    use std::time::{Duration, Instant};

    let dir = tempfile::tempdir().unwrap();
    write_cifar10(dir.path(), 40);
    let whole = dir.path().join("whole");
    let expected = result(&experiment(dir.path(), &whole));
    for stage in ["pretraining", "continued"] {
        let folder = dir.path().join(stage);
        let mut command = program(&experiment(dir.path(), &folder));
        let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let began = Instant::now();
        while !folder.join(stage).join("metrics.jsonl").exists() {
            assert!(began.elapsed() < Duration::from_secs(120), "{stage} does not begin");
            std::thread::sleep(Duration::from_millis(1));
        }
        let id = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let ended: program::Ended = child.wait_with_output().unwrap().into();
        // The signal may come after the stage: then it ends at once, with nothing to say.
        assert_eq!(ended.status, Some(130), "{}", ended.stderr);
        let object = result(&format!("cs231n --resume --run {}", folder.display()));
        for name in ["loss", "knn_top1", "knn_top5", "linear"] {
            assert_eq!(object[name], expected[name], "{name} after an interruption of {stage}");
        }
    }
}
