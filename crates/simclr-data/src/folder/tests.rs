//! Folders of many kinds, written to a temporary place.

use std::{
    collections::HashMap,
    io::{Cursor, Write as _},
};

use candle_core::{Device, Tensor};
use image::{ExtendedColorType, ImageFormat};
use proptest::prelude::*;
use tempfile::TempDir;

use super::{decode::decode, *};

fn golden() -> HashMap<String, Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/pictures.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The files of the fixture by name.
fn samples() -> Vec<(String, Vec<u8>)> {
    let golden = golden();
    let named =
        golden.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("file.")?.to_owned(), bytes(tensor))));
    let mut files: Vec<_> = named.collect();
    files.sort();
    files
}

/// A PNG of one colour.
fn png(width: u32, height: u32, color: [u8; 3]) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    let pixels = color.repeat((width * height) as usize);
    image::write_buffer_with_format(&mut out, &pixels, width, height, ExtendedColorType::Rgb8, ImageFormat::Png)
        .unwrap();
    out.into_inner()
}

fn write(dir: &TempDir, name: &str, bytes: impl AsRef<[u8]>) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn open_with(path: &Path, config: &FolderConfig) -> Result<Folder, DataError> {
    Folder::open(path, Split::Train, config, &mut |_| ControlFlow::Continue(()))
}

fn open(dir: &TempDir) -> Folder {
    open_with(dir.path(), &FolderConfig::default()).unwrap()
}

/// Everything that a user could see of a folder.
#[derive(Debug, PartialEq)]
struct All {
    pictures: Vec<(PathBuf, Option<u32>, Picture)>,
    classes: Vec<String>,
    normalization: Normalization,
    bad: Vec<Bad>,
}

fn all(folder: &Folder) -> All {
    let one = |index| (folder.path(index), folder.label(index), folder.picture(index).unwrap());
    All {
        pictures: (0..folder.len()).map(one).collect(),
        classes: folder.classes().to_vec(),
        normalization: folder.normalization(),
        bad: folder.bad().to_vec(),
    }
}

fn folder_error(error: DataError) -> FolderError {
    let DataError::Folder(error) = error else { panic!("{error}") };
    error
}

#[test]
fn every_kind_of_file_is_what_pil_makes_of_it() {
    let golden = golden();
    let files = samples();
    assert!(files.len() >= 35);
    for (name, file) in files {
        let pixels = &golden[&format!("pixels.{name}")];
        let picture = decode(&file).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        let (height, width) = (pixels.dims()[0], pixels.dims()[1]);
        assert_eq!((picture.width() as usize, picture.height() as usize), (width, height), "{name}");
        let worst = picture.pixels().iter().zip(bytes(pixels)).map(|(a, b)| a.abs_diff(b)).max().unwrap();
        // JPEG leaves the last digits to the decoder, and how halved colours grow again.
        let tolerance = if name.ends_with(".jpg") { 3 } else { 0 };
        assert!(worst <= tolerance, "{name}: {worst} units from PIL's");
    }
}

#[test]
fn files_are_told_by_their_content() {
    let dir = tempfile::tempdir().unwrap();
    for (number, (name, file)) in samples().into_iter().enumerate() {
        // No name says what is in it, some say something else.
        let wrong = if name.ends_with(".png") { "jpg" } else { "dat" };
        write(&dir, &format!("{number}.{wrong}"), file);
    }
    write(&dir, "notes.txt", "no picture");
    write(&dir, "README", "");
    let folder = open(&dir);
    assert_eq!((folder.len(), folder.bad()), (samples().len(), &[][..]));
    assert!(folder.remarks().iter().any(|remark| remark.ends_with("2 file(s) that are no pictures were passed over")));
}

#[test]
fn what_cannot_be_read_is_listed_and_left_out() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..40 {
        write(&dir, &format!("good/{n}.png"), png(3, 2, [n, 0, 0]));
    }
    write(&dir, "empty.png", "");
    write(&dir, "phone.heic", "\0\0\0\u{20}ftypheic");
    write(&dir, "text.jpg", "I am no picture");
    let jpeg = samples().into_iter().find(|(name, _)| name == "plain.jpg").unwrap().1;
    write(&dir, "cut.jpg", &jpeg[..jpeg.len() / 2]);
    let folder = open(&dir);
    assert_eq!(folder.len(), 40);
    let listed: Vec<_> =
        folder.bad().iter().map(|bad| (bad.path.file_name().unwrap().to_str().unwrap(), bad.reason.as_str())).collect();
    let content = "its content is no JPEG, PNG, WebP, BMP, GIF or TIFF";
    let cut = "the JPEG is cut short: it has no end marker";
    assert_eq!(
        listed,
        [("cut.jpg", cut), ("empty.png", "the file is empty"), ("phone.heic", content), ("text.jpg", content)]
    );
    assert!(folder.remarks().iter().any(|remark| remark.ends_with("4 picture(s) cannot be read and are left out")));

    let strict = FolderConfig { max_bad: 0.05, ..FolderConfig::default() };
    let message = open_with(dir.path(), &strict).unwrap_err().to_string();
    let expected = "4 of 44 pictures cannot be read, more than the 0.05 that are accepted; the first: ";
    assert!(message.contains(expected) && message.contains("cut.jpg: the JPEG is cut short"), "{message}");
}

#[test]
fn a_header_that_claims_too_much_takes_no_memory() {
    let mut bomb = png(3, 2, [0; 3]);
    bomb[16..24].copy_from_slice(&[0, 0, 0xc3, 0x50, 0, 0, 0xc3, 0x50]);
    let crc = crc32fast::hash(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(decode(&bomb).unwrap_err(), "50000 x 50000 pixels, more than the 178956970 that are read");
}

#[test]
fn cut_files_are_bad_at_any_length() {
    for (name, file) in samples() {
        if ["plain.jpg", "progressive.jpg", "plain.png", "lzw.tif", "lossless.webp", "plain.bmp"]
            .contains(&name.as_str())
        {
            for len in 0..file.len() * 9 / 10 {
                assert!(decode(&file[..len]).is_err(), "{name} cut to {len} of {} bytes", file.len());
            }
        }
    }
}

#[test]
fn the_order_is_of_names_and_the_first_ones_are_fair() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..60u8 {
        write(&dir, &format!("{}/{n}.png", ["cats", "dogs"][usize::from(n / 30)]), png(2, 2, [n, 0, 0]));
    }
    let folder = open(&dir);
    let paths: Vec<_> = (0..60).map(|index| folder.path(index)).collect();
    let first = (0..20).filter(|&index| folder.label(index) == Some(0)).count();
    assert!((4..=16).contains(&first), "{first} of the first 20 are cats");
    write(&dir, "dogs/more.png", png(2, 2, [0; 3]));
    let more = open(&dir);
    assert!(folder.fingerprint().starts_with("60 pictures, ") && more.fingerprint().starts_with("61 pictures, "));
    assert_eq!(more.fingerprint(), open(&dir).fingerprint());
    let same: Vec<_> = (0..61).map(|index| more.path(index)).filter(|path| !path.ends_with("more.png")).collect();
    assert_eq!(same, paths);
    let some = open_with(dir.path(), &FolderConfig { limit: Some(7), ..FolderConfig::default() }).unwrap();
    assert_eq!(
        (0..some.len()).map(|index| some.path(index)).collect::<Vec<_>>(),
        (0..7).map(|i| more.path(i)).collect::<Vec<_>>()
    );
}

#[test]
fn classes_are_the_first_folders() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "dogs/a/deep/1.png", png(2, 2, [1; 3]));
    write(&dir, "cats/2.png", png(2, 2, [2; 3]));
    write(&dir, "papers/read.txt", "");
    let folder = open(&dir);
    assert_eq!(folder.classes(), ["cats", "dogs"]);
    for index in 0..2 {
        let expected = if folder.path(index).ends_with("2.png") { 0 } else { 1 };
        assert_eq!(folder.label(index), Some(expected));
    }
    assert_eq!(folder.label(2), None);
    // A picture in no folder, and only one folder.
    write(&dir, "3.png", png(2, 2, [3; 3]));
    let folder = open(&dir);
    assert_eq!((folder.classes(), folder.label(0)), (&[][..], None));
    assert!(
        folder.remarks()[0].ends_with("pictures without labels: 3.png lies in no class folder"),
        "{:?}",
        folder.remarks()
    );
    let folder = open_with(&dir.path().join("dogs"), &FolderConfig::default()).unwrap();
    assert!(folder.classes().is_empty() && folder.remarks()[0].contains("there are no two class folders"));
}

#[test]
fn train_and_test_are_splits_with_one_numbering() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["train/a/1", "train/b/2", "train/c/3", "val/c/4", "val/a/5"] {
        write(&dir, &format!("{name}.png"), png(2, 2, [9; 3]));
    }
    let train = open(&dir);
    let test = |dir: &TempDir| {
        Folder::open(dir.path(), Split::Test, &FolderConfig::default(), &mut |_| ControlFlow::Continue(()))
    };
    let held = test(&dir).unwrap();
    assert_eq!((train.len(), held.len(), train.classes()), (3, 2, held.classes()));
    assert!((0..2).all(|i| held.label(i) == Some(if held.path(i).ends_with("4.png") { 2 } else { 0 })));
    write(&dir, "val/d/6.png", png(2, 2, [9; 3]));
    let message = test(&dir).unwrap_err().to_string();
    assert!(message.ends_with("val: the class d has no training pictures; there are a, b, c"), "{message}");
    fs::remove_dir_all(dir.path().join("val")).unwrap();
    assert!(matches!(folder_error(test(&dir).unwrap_err()), FolderError::NoTestSplit { .. }));
}

#[test]
fn folders_that_are_none_say_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "file", "");
    let error = |name: &str| open_with(&dir.path().join(name), &FolderConfig::default()).unwrap_err();
    assert!(error("file").to_string().ends_with("file: a file, expected a folder of pictures"));
    assert!(matches!(folder_error(error("nothing")), FolderError::NotAFolder { .. }));
    let message = error("").to_string();
    let expected = "not one picture was found (0 could not be read, 1 files are none); JPEG, PNG, WebP, BMP, GIF and TIFF are read";
    assert!(message.ends_with(expected), "{message}");
    for (config, expected) in [
        (FolderConfig { max_bad: 1.5, ..FolderConfig::default() }, "max bad is 1.5, expected a share from 0 to 1"),
        (
            FolderConfig { shorter_side: Some(0), ..FolderConfig::default() },
            "shorter side is 0, expected at least 1 pixel",
        ),
        (FolderConfig { limit: Some(0), ..FolderConfig::default() }, "limit is 0, expected at least 1 picture"),
    ] {
        assert_eq!(open_with(dir.path(), &config).unwrap_err().to_string(), expected);
    }
    let stop = Folder::open(dir.path(), Split::Train, &FolderConfig::default(), &mut |_| ControlFlow::Break(()));
    assert!(matches!(folder_error(stop.unwrap_err()), FolderError::Cancelled));
}

#[test]
fn large_pictures_shrink_and_small_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    for (name, width, height) in [("wide", 101, 40), ("tall", 40, 101), ("small", 19, 90), ("square", 64, 64)] {
        write(&dir, &format!("{name}.png"), png(width, height, [9, 8, 7]));
    }
    let config = FolderConfig { shorter_side: Some(20), ..FolderConfig::default() };
    let folder = open_with(dir.path(), &config).unwrap();
    for index in 0..4 {
        let picture = folder.picture(index).unwrap();
        let expected = match folder.path(index).file_stem().unwrap().to_str().unwrap() {
            // 20 · 101 / 40, cut.
            "wide" => (50, 20),
            "tall" => (20, 50),
            "small" => (19, 90),
            _ => (20, 20),
        };
        assert_eq!((picture.width(), picture.height()), expected);
        assert_eq!(picture.pixel(3, 3), [9, 8, 7]);
    }
    assert_eq!(folder.median_side(), 20);
}

/// Pictures of several sizes, some of them bad.
fn mixed() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..50u8 {
        let name = format!("{}/{n}.png", n % 3);
        write(&dir, &name, png(20 + u32::from(n), 30 + u32::from(n % 7), [n, 200 - n, 3 * n]));
    }
    for (name, file) in samples() {
        write(&dir, &format!("0/{name}"), file);
    }
    write(&dir, "1/bad.png", &png(9, 9, [0; 3])[..40]);
    write(&dir, "1/note", "");
    dir
}

#[test]
fn nothing_depends_on_threads_or_on_the_cache() {
    let dir = mixed();
    let cache = tempfile::tempdir().unwrap();
    let plain = FolderConfig { shorter_side: Some(24), ..FolderConfig::default() };
    let expected = all(&open_with(dir.path(), &plain).unwrap());
    assert_eq!(expected.bad.len(), 1);
    for threads in [2, 8] {
        assert_eq!(all(&open_with(dir.path(), &FolderConfig { threads, ..plain.clone() }).unwrap()), expected);
    }
    let cached = FolderConfig { cache: Some(cache.path().to_owned()), threads: 2, ..plain.clone() };
    let first = open_with(dir.path(), &cached).unwrap();
    assert!(first.members.iter().all(|member| member.place.is_some()));
    assert_eq!(all(&first), expected);
    let size = |name: &str| fs::metadata(cache.path().join(name)).unwrap().len();
    let sizes = ["index.bin", "pictures.bin"].map(size);
    assert_eq!(all(&open_with(dir.path(), &cached).unwrap()), expected);
    assert_eq!(["index.bin", "pictures.bin"].map(size), sizes, "nothing is kept twice");
    // Another size is another picture.
    let other = FolderConfig { shorter_side: Some(10), ..cached.clone() };
    assert_ne!(all(&open_with(dir.path(), &other).unwrap()).pictures, expected.pictures);
    assert_eq!(all(&open_with(dir.path(), &cached).unwrap()), expected);
    // It may go while the set is in use.
    let folder = open_with(dir.path(), &cached).unwrap();
    cache.close().unwrap();
    assert_eq!(all(&folder), expected);
}

/// With files whose content is gone but whose length and time are not, only the cache can still know the pictures.
#[test]
fn a_second_opening_decodes_nothing_and_a_change_is_seen() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(&dir, "a.png", png(5, 5, [1; 3]));
    write(&dir, "b.png", png(5, 5, [2; 3]));
    let config = FolderConfig { cache: Some(cache.path().to_owned()), ..FolderConfig::default() };
    let expected = all(&open_with(dir.path(), &config).unwrap());
    let path = dir.path().join("a.png");
    let metadata = fs::metadata(&path).unwrap();
    fs::write(&path, vec![0; metadata.len() as usize]).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
    assert_eq!(all(&open_with(dir.path(), &config).unwrap()), expected);
    // Another time of change, another look.
    file.set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(9)).unwrap();
    let lenient = FolderConfig { max_bad: 0.5, ..config.clone() };
    let folder = open_with(dir.path(), &lenient).unwrap();
    assert_eq!((folder.len(), folder.bad().len()), (1, 1));
    // A file that moves is known by its content.
    fs::rename(dir.path().join("b.png"), dir.path().join("c.png")).unwrap();
    let size = fs::metadata(cache.path().join("pictures.bin")).unwrap().len();
    assert_eq!(open_with(dir.path(), &lenient).unwrap().len(), 1);
    assert_eq!(fs::metadata(cache.path().join("pictures.bin")).unwrap().len(), size);
}

#[test]
fn a_cache_that_was_interrupted_or_damaged_changes_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..5u8 {
        write(&dir, &format!("{n}.png"), png(4 + u32::from(n), 3, [n, 7, 9]));
    }
    let cache = tempfile::tempdir().unwrap();
    let config = FolderConfig { cache: Some(cache.path().to_owned()), ..FolderConfig::default() };
    let expected = all(&open_with(dir.path(), &config).unwrap());
    let whole = ["index.bin", "pictures.bin"].map(|name| (name, fs::read(cache.path().join(name)).unwrap()));
    let restore = || whole.iter().for_each(|(name, bytes)| fs::write(cache.path().join(name), bytes).unwrap());
    for (name, bytes) in &whole {
        for len in (0..bytes.len()).step_by(7) {
            restore();
            fs::write(cache.path().join(name), &bytes[..len]).unwrap();
            assert_eq!(all(&open_with(dir.path(), &config).unwrap()), expected, "{name} cut to {len}");
            assert_eq!(all(&open_with(dir.path(), &config).unwrap()), expected, "{name} cut to {len}, then mended");
        }
        for at in (0..bytes.len()).step_by(5) {
            restore();
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            fs::write(cache.path().join(name), damaged).unwrap();
            assert_eq!(all(&open_with(dir.path(), &config).unwrap()), expected, "{name} with byte {at} changed");
        }
    }
    // Garbage in place of an index.
    fs::write(cache.path().join("index.bin"), b"something else altogether").unwrap();
    let folder = open_with(dir.path(), &config).unwrap();
    assert!(folder.remarks().iter().any(|remark| remark.contains("are damaged or of another version")));
    assert_eq!(all(&folder), expected);
}

#[test]
fn a_second_process_only_reads_the_cache() {
    let dir = mixed();
    let cache = tempfile::tempdir().unwrap();
    let config = FolderConfig { cache: Some(cache.path().to_owned()), ..FolderConfig::default() };
    let expected = all(&open_with(dir.path(), &config).unwrap());
    let (held, _) = Cache::open(cache.path(), b"other").unwrap();
    write(&dir, "2/new.png", png(8, 8, [8; 3]));
    let folder = open_with(dir.path(), &config).unwrap();
    assert!(folder.remarks().iter().any(|remark| remark.contains("another process writes to this cache")));
    assert_eq!(folder.len(), expected.pictures.len() + 1);
    assert_eq!(folder.members.iter().filter(|member| member.place.is_none()).count(), 1);
    drop(held);
    assert!(open_with(dir.path(), &config).unwrap().members.iter().all(|member| member.place.is_some()));
}

#[test]
fn a_picture_that_went_away_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "a.png", png(5, 5, [1; 3]));
    let folder = open(&dir);
    write(&dir, "a.png", "shorter");
    let message = folder.picture(0).unwrap_err().to_string();
    assert!(message.contains("a.png: could be read when the folder was opened, and cannot now: it had "), "{message}");
    fs::remove_file(dir.path().join("a.png")).unwrap();
    assert!(folder.picture(0).unwrap_err().to_string().contains("No such file"));
    assert!(matches!(folder.picture(1), Err(DataError::Index { index: 1, len: 1, .. })));
}

#[cfg(unix)]
#[test]
fn what_may_not_be_read_is_listed() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "good.png", png(2, 2, [1; 3]));
    write(&dir, "locked.png", png(2, 2, [1; 3]));
    write(&dir, "locked/in.png", png(2, 2, [1; 3]));
    let lock = |name: &str, mode| {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    lock("locked.png", 0);
    lock("locked", 0);
    if fs::read(dir.path().join("locked.png")).is_ok() {
        writeln!(std::io::stderr(), "SKIPPED: this user may read everything").unwrap();
    } else {
        let folder = open_with(dir.path(), &FolderConfig { max_bad: 0.9, ..FolderConfig::default() }).unwrap();
        assert_eq!((folder.len(), folder.bad().len()), (1, 2));
        assert!(folder.bad().iter().all(|bad| bad.reason.contains("ermission denied")));
    }
    lock("locked", 0o755);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Real files with some bytes changed and the end cut off: whatever comes out, nothing panics.
    #[test]
    fn damaged_files_are_pictures_or_errors(which: usize, cut: usize, edits: Vec<(usize, u8)>) {
        thread_local!(static FILES: Vec<(String, Vec<u8>)> = samples());
        FILES.with(|files| {
            let mut file = files[which % files.len()].1.clone();
            for (at, byte) in edits.into_iter().take(12) {
                let len = file.len();
                file[at % len] = byte;
            }
            if cut.is_multiple_of(3) {
                file.truncate(cut / 3 % file.len());
            }
            match decode(&file) {
                Ok(picture) => prop_assert!(!picture.pixels().is_empty()),
                Err(reason) => prop_assert!(!reason.is_empty()),
            }
            Ok(())
        })?;
    }
}

#[test]
fn a_picture_s_place_is_its_file_as_a_user_opens_it() {
    let dir = TempDir::new().unwrap();
    for name in ["train/cat/a.png", "train/dog/b.png", "test/dog/c.png"] {
        write(&dir, name, png(4, 4, [1, 2, 3]));
    }
    let folder = open(&dir);
    let cat = (0..2).find(|&index| folder.label(index) == Some(0)).unwrap();
    let place = dir.path().join("train/cat/a.png").display().to_string();
    assert_eq!(folder.place(cat), place);
    assert_eq!(folder.place(2), format!("{}/2", folder.name()), "there is no such picture");
    let part = crate::Subset::of(Arc::new(folder), vec![cat]).unwrap();
    assert_eq!(part.place(0), place);
}
