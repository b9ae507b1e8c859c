use super::*;

const FOLDER: &str = "cifar-10-batches-bin";
const NAMES_FILE: &str = "batches.meta.txt";
const COMPLETE: usize = 10_000;

fn files(split: Split) -> &'static [&'static str] {
    Layout::of(CifarSet::Cifar10).files(split).0
}

fn classes() -> &'static [&'static str] {
    Layout::of(CifarSet::Cifar10).labels[0]
}

/// A record whose three planes hold `value`, `value + 1` and `value + 2`, but for the first pixel of the last row.
fn record(label: u8, value: u8) -> Vec<u8> {
    let mut bytes = vec![label];
    for channel in 0..3 {
        bytes.extend([value + channel; PLANE]);
    }
    bytes[1 + 31 * 32] = 200;
    bytes
}

/// A data folder whose train files have one record each, labelled 0 to 4, and whose test file has two.
fn folder_of_tiny_files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(FOLDER);
    fs::create_dir(&folder).unwrap();
    for (label, file) in files(Split::Train).iter().enumerate() {
        fs::write(folder.join(file), record(label as u8, 10 * label as u8)).unwrap();
    }
    fs::write(folder.join(files(Split::Test)[0]), [record(9, 100), record(8, 50)].concat()).unwrap();
    dir
}

fn error(dir: &Path, split: Split) -> String {
    Cifar::open(CifarSet::Cifar10, dir, split).unwrap_err().to_string()
}

#[test]
fn reads_records_of_all_files_in_order() {
    let dir = folder_of_tiny_files();
    let train = Cifar::open(CifarSet::Cifar10, dir.path(), Split::Train).unwrap();
    assert_eq!((train.len(), train.name()), (5, "cifar10"));
    assert_eq!((0..6).map(|i| train.label(i)).collect::<Vec<_>>(), [Some(0), Some(1), Some(2), Some(3), Some(4), None]);
    let picture = train.picture(3).unwrap();
    assert_eq!((picture.pixel(5, 5), picture.pixel(0, 31)), ([30, 31, 32], [200, 31, 32]));
    let test = Cifar::open(CifarSet::Cifar10, &dir.path().join(FOLDER), Split::Test).unwrap();
    assert_eq!((test.label(0), test.label(1)), (Some(9), Some(8)));
    assert_eq!(test.picture(1).unwrap().pixel(9, 9), [50, 51, 52]);
    let error = test.picture(2).unwrap_err().to_string();
    assert_eq!(error, "cifar10 has 2 pictures; there is no picture 2 (the first is 0)");
}

#[test]
fn the_files_may_lie_in_a_folder_of_another_name() {
    let dir = folder_of_tiny_files();
    let other = dir.path().join("elsewhere");
    fs::rename(dir.path().join(FOLDER), &other).unwrap();
    assert_eq!(Cifar::open(CifarSet::Cifar10, &other, Split::Train).unwrap().len(), 5);
}

#[test]
fn an_unusual_number_of_records_is_remarked() {
    let dir = folder_of_tiny_files();
    let remarks = Cifar::open(CifarSet::Cifar10, dir.path(), Split::Test).unwrap().remarks;
    let path = dir.path().join(FOLDER).join(files(Split::Test)[0]);
    assert_eq!(remarks, [format!("{}: 2 records, the complete file has 10000", path.display())]);
    assert_eq!(Cifar::open(CifarSet::Cifar10, dir.path(), Split::Train).unwrap().remarks().len(), 5);
    fs::write(&path, record(1, 1).repeat(COMPLETE)).unwrap();
    assert!(Cifar::open(CifarSet::Cifar10, dir.path(), Split::Test).unwrap().remarks().is_empty());
}

#[test]
fn class_names_come_from_the_names_file_if_it_has_ten() {
    let dir = folder_of_tiny_files();
    assert_eq!(Cifar::open(CifarSet::Cifar10, dir.path(), Split::Test).unwrap().classes(), classes());
    let names = dir.path().join(FOLDER).join(NAMES_FILE);
    fs::write(&names, "a\nb\r\nc\nd\ne\nf\ng\nh\ni\nj\n\n").unwrap();
    let set = Cifar::open(CifarSet::Cifar10, dir.path(), Split::Test).unwrap();
    assert_eq!(set.classes(), ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]);
    fs::write(&names, "a\nb\n").unwrap();
    let set = Cifar::open(CifarSet::Cifar10, dir.path(), Split::Test).unwrap();
    assert_eq!(set.classes(), classes());
    assert!(set.remarks()[0].ends_with("batches.meta.txt: 2 names, expected 10; the usual ones are used"));
}

#[test]
fn a_missing_batch_says_what_to_run() {
    let dir = folder_of_tiny_files();
    let path = dir.path().join(FOLDER).join("data_batch_4.bin");
    fs::remove_file(&path).unwrap();
    let expected = format!(
        "{}: no such file; `cargo xtask fetch cifar10` or `simclr-train fetch cifar10` gets it",
        path.display()
    );
    assert_eq!(error(dir.path(), Split::Train), expected);
    let nowhere = dir.path().join("nowhere");
    let expected = nowhere.join(FOLDER).join("data_batch_1.bin");
    assert!(error(&nowhere, Split::Train).starts_with(&format!("{}: no such file", expected.display())));
}

#[test]
fn a_cut_file_names_its_length() {
    let dir = folder_of_tiny_files();
    let path = dir.path().join(FOLDER).join("data_batch_2.bin");
    fs::write(&path, &[record(1, 1), record(2, 2)].concat()[..6145]).unwrap();
    let expected = format!(
        "{}: 6145 bytes is not a whole number of 3073-byte records (the file is cut short or is not CIFAR-10)",
        path.display()
    );
    assert_eq!(error(dir.path(), Split::Train), expected);
}

#[test]
fn a_wrong_label_names_its_record() {
    let dir = folder_of_tiny_files();
    let path = dir.path().join(FOLDER).join(files(Split::Test)[0]);
    fs::write(&path, [record(1, 1), record(2, 2), record(10, 2)].concat()).unwrap();
    let expected =
        format!("{}: record 2 has label 10, expected 0 to 9 (the file is damaged or is not CIFAR-10)", path.display());
    assert_eq!(error(dir.path(), Split::Test), expected);
}

#[test]
fn an_empty_file_and_an_unreadable_one_are_errors_of_their_own() {
    let dir = folder_of_tiny_files();
    let path = dir.path().join(FOLDER).join(files(Split::Test)[0]);
    fs::write(&path, []).unwrap();
    assert_eq!(
        error(dir.path(), Split::Test),
        format!("{}: the file is empty, expected 3073-byte records", path.display())
    );
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(Cifar::open(CifarSet::Cifar10, dir.path(), Split::Test), Err(DataError::Read { .. })));
}

/// CIFAR-100 with three pictures to train (coarse, fine) and one to test.
fn hundred() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cifar-100-binary");
    fs::create_dir(&folder).unwrap();
    let record = |coarse: u8, fine: u8| [vec![coarse], record(fine, fine)].concat();
    fs::write(folder.join("train.bin"), [record(19, 41), record(0, 4), record(14, 99)].concat()).unwrap();
    fs::write(folder.join("test.bin"), record(3, 10)).unwrap();
    dir
}

#[test]
fn cifar_100_has_fine_and_coarse_labels_of_the_same_pictures() {
    let dir = hundred();
    let [fine, coarse] =
        [CifarSet::Cifar100, CifarSet::Cifar100Coarse].map(|set| Cifar::open(set, dir.path(), Split::Train).unwrap());
    assert_eq!((fine.name(), coarse.name()), ("cifar100", "cifar100-coarse"));
    assert_eq!((fine.classes().len(), coarse.classes().len()), (100, 20));
    let names = |set: &Cifar| (0..3).map(|i| set.classes()[set.label(i).unwrap() as usize].clone()).collect::<Vec<_>>();
    assert_eq!(names(&fine), ["lawn_mower", "beaver", "worm"]);
    assert_eq!(names(&coarse), ["vehicles_2", "aquatic_mammals", "people"]);
    for i in 0..3 {
        let [fine, coarse] = [&fine, &coarse].map(|set| set.picture(i).unwrap());
        assert_eq!(fine.pixels(), coarse.pixels());
    }
    assert_eq!(fine.picture(1).unwrap().pixel(5, 5), [4, 5, 6]);
    let remark =
        format!("{}: 3 records, the complete file has 50000", dir.path().join("cifar-100-binary/train.bin").display());
    assert_eq!(fine.remarks(), [remark]);
    assert_eq!(Cifar::open(CifarSet::Cifar100, dir.path(), Split::Test).unwrap().label(0), Some(10));
}

#[test]
fn what_is_wrong_with_cifar_100_is_said_of_cifar_100() {
    let dir = hundred();
    let path = dir.path().join("cifar-100-binary/test.bin");
    let error = || Cifar::open(CifarSet::Cifar100, dir.path(), Split::Test).unwrap_err().to_string();
    let good = fs::read(&path).unwrap();
    // Either label may be wrong, whichever counts.
    for (byte, found, most) in [(0, 20, 19), (1, 100, 99)] {
        let mut bytes = good.clone();
        bytes[byte] = found;
        fs::write(&path, &bytes).unwrap();
        let expected =
            format!("record 0 has label {found}, expected 0 to {most} (the file is damaged or is not CIFAR-100)");
        assert_eq!(error(), format!("{}: {expected}", path.display()));
    }
    fs::write(&path, &good[1..]).unwrap();
    assert!(error().contains("3073 bytes is not a whole number of 3074-byte records"), "{}", error());
    fs::remove_file(&path).unwrap();
    assert!(error().ends_with("no such file; `cargo xtask fetch cifar100` or `simclr-train fetch cifar100` gets it"));
}
