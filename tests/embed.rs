//! Features of many pictures in a file, with the real program.

mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use program::{Ended, program, result, run};

/// Numbers in a row of the small encoder.
const WIDTH: usize = 16;

fn embed(flags: &str, out: &Path) -> String {
    let course: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../tests/golden/pth_course.pth"].iter().collect();
    format!("embed --checkpoint {} --data shapes {flags} --out {}", course.display(), out.display())
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// The shape of an .npy file, as it is written there, and its numbers.
fn npy(path: &Path) -> (String, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let begin = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(begin.is_multiple_of(64) && bytes[begin - 1] == b'\n');
    let header = std::str::from_utf8(&bytes[10..begin]).unwrap();
    assert!(header.contains("'descr': '<f4'") && header.contains("'fortran_order': False"), "{header}");
    let shape = header.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0;
    (shape.to_owned(), numbers(&bytes[begin..]))
}

#[test]
fn three_formats_have_the_same_features_and_shards_are_parts_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let object = result(&embed("--subset 300", &at("a.npy")));
    for (key, value) in [("rows", 300), ("width", WIDTH), ("resumed_rows", 0)] {
        assert_eq!(object[key], value, "{object}");
    }
    for (key, value) in [("format", "npy"), ("data", "shapes"), ("split", "train")] {
        assert_eq!(object[key], value, "{object}");
    }
    let (shape, whole) = npy(&at("a.npy"));
    assert_eq!((shape.as_str(), whole.len()), ("300, 16", 300 * WIDTH));
    assert!(whole.iter().all(|x| x.is_finite()) && whole.iter().any(|&x| x > 0.0));

    let ended = run(&embed("--subset 300 --format safetensors", &at("a.bin")));
    assert_eq!(ended.stdout, format!("{}: 300 features of 16 numbers from shapes (train)\n", at("a.bin").display()));
    let sha256 = object["encoder_sha256"].as_str().unwrap();
    assert!(ended.stderr.contains(&format!("not a bit of it changed (SHA-256 {sha256})")), "{}", ended.stderr);
    let bytes = fs::read(at("a.bin")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let features = file.tensor("features").unwrap();
    assert_eq!((features.shape(), numbers(features.data())), (&[300, WIDTH][..], whole.clone()));
    let labels = file.tensor("labels").unwrap();
    let labels: Vec<i64> = labels.data().as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect();
    assert!(labels.len() == 300 && labels.iter().all(|label| (0..10).contains(label)));
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    let list = |name: &str| serde_json::from_str::<Vec<String>>(&metadata[name]).unwrap();
    assert_eq!((list("paths")[299].as_str(), list("classes").len()), ("shapes/299", 10));
    assert_eq!((metadata["encoder_sha256"].as_str(), metadata["split"].as_str()), (sha256, "train"));

    // The rows of a shard do not depend on where its batches begin.
    let mut rows = Vec::new();
    for shard in 1..=3 {
        let path = at(&format!("{shard}.npy"));
        let object = result(&embed(&format!("--subset 200 --shard {shard}/3"), &path));
        assert_eq!(object["shard"], format!("{shard}/3"));
        rows.extend(npy(&path).1);
    }
    assert!(rows == whole[..200 * WIDTH]);

    result(&embed("--subset 40 --split test --normalize --threads 1", &at("unit.npy")));
    for row in npy(&at("unit.npy")).1.chunks(WIDTH) {
        assert!((row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    // Parquet is read by tests/python/check_embed.py and by the program's own tests.
    result(&embed("--subset 300", &at("a.parquet")));
    assert!(fs::read(at("a.parquet")).unwrap().ends_with(b"PAR1"));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("part")), "{left:?}");
}

/// Starts the program, ends it by a signal when some rows are there, and returns how it ended.
#[cfg(unix)]
fn interrupted(typed: &str, out: &Path, signal: &str) -> Ended {
    let child = program(typed).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (part, began) = (out.with_extension("parquet.part"), Instant::now());
    let before = fs::metadata(&part).map_or(0, |file| file.len());
    while fs::metadata(&part).map_or(0, |file| file.len()) <= before {
        assert!(began.elapsed() < Duration::from_secs(120), "the program writes no rows");
        sleep(Duration::from_millis(1));
    }
    let kill = std::process::Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    child.wait_with_output().unwrap().into()
}

#[cfg(unix)]
#[test]
fn an_interrupted_embedding_goes_on_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, out) = (dir.path().join("whole.parquet"), dir.path().join("out.parquet"));
    result(&embed("", &whole));
    let typed = embed("", &out);
    let part = dir.path().join("out.parquet.part");

    let killed = interrupted(&typed, &out, "KILL");
    assert!(killed.status.is_none() && !out.exists(), "{}", killed.stderr);
    // A row that was cut short.
    let mut bytes = fs::read(&part).unwrap();
    bytes.extend([1, 2, 3]);
    fs::write(&part, &bytes).unwrap();
    let asked = interrupted(&typed, &out, "INT");
    assert_eq!(asked.status, Some(130), "{}", asked.stderr);
    assert!(asked.stderr.contains("rows are kept") && asked.stderr.contains("the same command goes on"), "{asked:?}");
    let row = 4 * WIDTH as u64;
    assert!(fs::metadata(&part).unwrap().len().is_multiple_of(128 * row));
    let object = result(&typed);
    assert!(object["resumed_rows"].as_u64().unwrap() >= 128, "{object}");
    assert_eq!(object["rows"], 10_000);
    assert!(fs::read(&out).unwrap() == fs::read(&whole).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing but the two files");

    // Rows of other numbers are not gone on with.
    fs::remove_file(&out).unwrap();
    interrupted(&typed, &out, "KILL");
    let ended = run(&embed("--normalize --subset 200", &out));
    assert!(ended.stderr.contains("rows of something else: embedding begins anew"), "{}", ended.stderr);
    let expected = dir.path().join("expected.parquet");
    result(&embed("--normalize --subset 200", &expected));
    assert!(fs::read(&out).unwrap() == fs::read(&expected).unwrap());
}

#[test]
fn what_cannot_be_embedded_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("mine.npy"), "mine").unwrap();
    fs::write(at("other.npy.part"), "mine").unwrap();
    for (flags, out, status, parts) in [
        ("", "mine.npy", 2, &["--out is ", "mine.npy, which exists"][..]),
        ("", "a.csv", 2, &["a.csv, which ends in no format", "give --format parquet, npy or safetensors"]),
        ("--format csv", "a.npy", 2, &["--format is csv, expected parquet, npy or safetensors"]),
        ("--split valid", "a.npy", 2, &["--split is valid, expected train or test"]),
        ("--shard 3/2", "a.npy", 2, &["--shard is 3/2, expected I/N with I from 1 to N"]),
        ("--shard 0/2", "a.npy", 2, &["--shard is 0/2"]),
        ("--shard half", "a.npy", 2, &["--shard is half"]),
        ("--subset 2 --shard 1/3", "a.npy", 2, &["--shard is 1/3, which has none of the 2 pictures"]),
        ("--subset 10001", "a.npy", 2, &["--subset is 10001", "10000"]),
        ("--subset 9", "other.npy", 2, &["other.npy.part is no part of an embedding"]),
        ("--subset 9", "none/a.npy", 1, &["none/a.npy.part: No such file"]),
    ] {
        let ended = run(&embed(&format!("{flags} --quiet"), &at(out)));
        assert_eq!(ended.status, Some(status), "{flags}: {}", ended.stderr);
        assert!(parts.iter().all(|part| ended.stderr.contains(part)), "{parts:?} are not all in: {}", ended.stderr);
        assert_eq!((ended.stdout.as_str(), ended.stderr.lines().count()), ("", 1), "{flags}: {}", ended.stderr);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "only what was there before");
    assert_eq!(fs::read_to_string(at("other.npy.part")).unwrap(), "mine");
}
