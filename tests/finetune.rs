//! Fine-tuning of checkpoints, with the real program.

mod program;

use std::fs;
use std::path::{Path, PathBuf};

use program::{result, run};
use serde_json::Value;

fn number(object: &Value, name: &str) -> f64 {
    object[name].as_f64().unwrap_or_else(|| panic!("{name} in {object}"))
}

/// A run whose encoder has learned little, and the weights of its checkpoint.
fn pretrained(dir: &Path) -> (PathBuf, PathBuf) {
    let folder = dir.join("run");
    let typed = "pretrain --data shapes --subset 200 --width 4 --batch 50 --epochs 1 --knn-every 0";
    result(&format!("{typed} --run {} --quiet", folder.display()));
    let latest = fs::read_to_string(folder.join("checkpoints/latest")).unwrap();
    let weights = folder.join("checkpoints").join(latest.trim()).join("model.safetensors");
    (folder, weights)
}

#[test]
fn a_network_is_fine_tuned_beside_one_from_scratch() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, weights) = pretrained(dir.path());
    let before = fs::read(&weights).unwrap();
    let typed = format!("finetune --checkpoint {} --labels 50% --epochs 3 --batch 32", folder.display());
    let object = result(&format!("{typed} --threads 1 --quiet"));
    assert_eq!(fs::read(&weights).unwrap(), before, "the checkpoint is only read");
    assert_eq!((&object["labels"], &object["queries"]), (&100.into(), &2_000.into()));
    assert_eq!((&object["labels_choice"], &object["data"]), (&"50%".into(), &"shapes".into()));
    assert_eq!(object["checkpoint"], weights.to_str().unwrap());
    let method = &object["method"];
    // 0.2 for 256 pictures.
    assert_eq!((number(method, "lr"), number(method, "momentum")), (0.025, 0.9));
    assert_eq!((&method["nesterov"], &method["schedule"]), (&true.into(), &"cosine".into()));
    for result in [&object, &object["random_encoder"]] {
        assert!(0.0 < number(result, "top1") && number(result, "top1") < number(result, "top5"), "{result}");
        assert_eq!(number(result, "top1_std"), 0.0);
        let epochs = result["epochs"].as_array().unwrap();
        assert!(epochs.len() == 3 && number(&epochs[2], "loss") < number(&epochs[0], "loss"), "{epochs:?}");
        assert_eq!((&epochs[2]["epoch"], &result["draws"][0]["epochs"]), (&3.into(), &result["epochs"]));
        assert_eq!(result["per_class"].as_object().unwrap().len(), 10);
        let row = |row: &Value| row.as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum::<u64>();
        assert!(result["confusion"].as_array().unwrap().iter().all(|classes| row(classes) == 200));
    }
    assert_ne!(object["epochs"], object["random_encoder"]["epochs"]);

    // To the bit the same with other threads, in words.
    let mut other = result(&format!("{typed} --threads 2 --quiet"));
    other["command"] = object["command"].clone();
    assert_eq!(other, object);
    let ended = run(&format!("{typed} --no-baselines"));
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("Train Epoch: [3/3] Loss: "), "{}", ended.stderr);
    assert!(ended.stdout.contains("shapes, fine-tuned on 100 labels") && !ended.stdout.contains("random"));
    assert!(ended.stdout.contains(&format!("{:.2} %", 100.0 * number(&object, "top1"))), "{}", ended.stdout);
}

#[test]
fn few_labels_are_drawn_several_times() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = pretrained(dir.path());
    let typed = format!("finetune --checkpoint {} --labels 3-per-class --epochs 1 --quiet", folder.display());
    let object = result(&format!("{typed} --draws 2"));
    assert_eq!((&object["labels"], &object["labels_choice"]), (&30.into(), &"3-per-class".into()));
    let draws = object["draws"].as_array().unwrap();
    assert_eq!([&draws[0]["seed"], &draws[1]["seed"]], [0, 1]);
    for name in ["top1", "top5"] {
        let mean = (number(&draws[0], name) + number(&draws[1], name)) / 2.0;
        assert!((number(&object, name) - mean).abs() < 1e-12);
    }
    assert_ne!(draws[0]["epochs"], draws[1]["epochs"]);
    let alone = result(&format!("{typed} --seed 1 --no-baselines"));
    assert_eq!(alone["draws"][0], draws[1], "a draw is a seed");
    let ended = run(&format!("{typed} --draws 2 --no-baselines"));
    assert!(ended.stdout.contains(" ± "), "{}", ended.stdout);
}

#[test]
fn pretraining_helps_where_labels_are_few() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let typed = "pretrain --data shapes --subset 2000 --width 4 --batch 64 --epochs 4 --lr 4e-3 --knn-every 0";
    result(&format!("{typed} --run {} --quiet", folder.display()));
    let few = "--labels 20-per-class --epochs 15";
    let object = result(&format!("finetune --checkpoint {} {few} --quiet", folder.display()));
    let [trained, random] = [number(&object, "top1"), number(&object["random_encoder"], "top1")];
    // Over the seeds 0 to 2 it was 28 to 45 points.
    assert!(trained > random + 0.1, "{trained} after pretraining, {random} from scratch");
}

#[test]
fn a_written_network_is_an_encoder_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = pretrained(dir.path());
    let (folder, at) = (folder.display(), dir.path().display());
    let typed = format!("finetune --checkpoint {folder} --epochs 1 --no-baselines --quiet");
    let safetensors = result(&format!("{typed} --out {at}/tuned.safetensors"));
    assert_eq!(safetensors["out"], format!("{at}/tuned.safetensors"));
    let pth = result(&format!("{typed} --out {at}/tuned.pth"));
    assert_eq!(pth["epochs"], safetensors["epochs"]);
    let knn = |checkpoint: &str| {
        let typed = format!("knn --checkpoint {checkpoint} --data shapes --subset 200 --no-baselines --quiet");
        result(&typed)["protocols"].clone()
    };
    let [tuned, pth] = ["tuned.safetensors", "tuned.pth"].map(|file| knn(&format!("{at}/{file}")));
    assert_eq!(tuned, pth);
    assert_ne!(tuned, knn(&folder.to_string()), "the encoder has learned");
    let bytes = fs::read(dir.path().join("tuned.safetensors")).unwrap();
    let header = String::from_utf8_lossy(&bytes[8..40_000]).into_owned();
    let class = simclr_data::Pictures::classes(&simclr_data::Shapes::new(0, simclr_data::Split::Train, 1))[9].clone();
    for part in ["fc.weight", "layer4.1.conv2.weight", "simclr.classifier", &class] {
        assert!(header.contains(part), "{part} is not in {header}");
    }

    let ended = run(&format!("{typed} --out {at}/tuned.pth"));
    assert_eq!(ended.status, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("tuned.pth, which exists"), "{}", ended.stderr);
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files.len(), 3, "nothing half written: {files:?}");
}

#[test]
fn what_cannot_be_fine_tuned_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = pretrained(dir.path());
    let (folder, at) = (folder.display(), dir.path().display());
    for (flags, status, part) in [
        ("--labels 0".to_owned(), 2, "--labels is 0, expected a share above 0"),
        ("--labels 500-per-class".to_owned(), 2, "--labels 500-per-class of shapes: found "),
        ("--draws 0".to_owned(), 2, "--draws is 0, expected at least 1"),
        ("--epochs 0".to_owned(), 2, "--epochs is 0, expected at least 1"),
        ("--batch 0".to_owned(), 2, "--batch is 0, expected at least 1"),
        ("--lr=-1".to_owned(), 2, "--lr is -1, expected a finite number above 0"),
        ("--lr nan".to_owned(), 2, "--lr is NaN"),
        ("--weight-decay inf".to_owned(), 2, "--weight-decay is inf"),
        ("--threads 0".to_owned(), 2, "--threads is 0, expected at least 1"),
        (format!("--out {at}/tuned.onnx"), 2, "tuned.onnx, expected a name that ends in .pth or .safetensors"),
        (format!("--out {at}/none/tuned.pth"), 2, "none/tuned.pth, but there is no folder "),
        (format!("--out {at}/tuned.pth --draws 2"), 2, "--out is a file for one network, but --draws is 2"),
        (
            "--lr 1e30".to_owned(),
            1,
            "the loss of the fine-tuning is not finite in epoch 2: a lower learning rate may help",
        ),
        ("--data cifar10 --data-dir nowhere".to_owned(), 1, "nowhere"),
    ] {
        let ended = run(&format!("finetune --checkpoint {folder} {flags} --quiet"));
        assert_eq!(ended.status, Some(status), "{flags}: {}", ended.stderr);
        assert!(ended.stderr.contains(part), "{flags}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{flags}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "what is refused leaves nothing behind");
}

#[cfg(unix)]
#[test]
fn an_interruption_keeps_nothing_and_says_so() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};

    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = pretrained(dir.path());
    let out = dir.path().join("tuned.safetensors");
    let typed = format!("finetune --checkpoint {} --epochs 5000 --out {}", folder.display(), out.display());
    let mut child = program::program(&typed).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("Train Epoch: [2/5000]") {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended before it was interrupted");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("interrupted: nothing was kept") && !rest.contains("panicked"), "{rest}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half written");
}
