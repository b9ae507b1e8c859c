//! Containers that lie: each is an error, and a damaged one is never read as something else.

use proptest::prelude::*;

use super::*;

/// A file of two tensors, small enough to be damaged in every way.
fn small() -> Vec<u8> {
    let tensors = [
        ("f.0.weight".to_owned(), Tensor::new(&[[1_f32, 2.], [3., 4.]], &Device::Cpu).unwrap()),
        ("f.1.num_batches_tracked".to_owned(), Tensor::new(7_i64, &Device::Cpu).unwrap()),
    ];
    write(&tensors).unwrap()
}

/// Where the entry `name` stands in the central directory.
fn central(bytes: &[u8], name: &str) -> usize {
    let header = |at: &usize| bytes[*at..].starts_with(b"PK\x01\x02") && bytes[at + 46..].starts_with(name.as_bytes());
    (0..bytes.len() - 46).find(header).unwrap()
}

/// The message after bytes of the central directory's record of `name` have been replaced.
fn patched(name: &str, at: usize, bytes: &[u8]) -> String {
    let mut file = small();
    let at = central(&file, name) + at;
    file[at..at + bytes.len()].copy_from_slice(bytes);
    read(&file).unwrap_err().to_string()
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for whole in [small(), golden("pth_views.pth")] {
        for len in 0..whole.len() {
            assert!(read(&whole[..len]).is_err(), "cut after {len} of {} bytes", whole.len());
        }
    }
}

#[test]
fn a_flipped_bit_is_an_error_or_changes_nothing() {
    for (whole, used) in [(small(), 3), (golden("pth_views.pth"), 12)] {
        let expected = contents(&read(&whole).unwrap());
        // The contents of what is read: the pickle and the storages.
        let mut contents_at = Vec::new();
        let mut zip = zip::ZipArchive::new(Cursor::new(whole.as_slice())).unwrap();
        for index in 0..zip.len() {
            let entry = zip.by_index(index).unwrap();
            let name = entry.name().unwrap();
            if name.ends_with("/data.pkl") || name.contains("/data/") {
                let start = entry.data_start().unwrap() as usize;
                contents_at.push(start..start + entry.size() as usize);
            }
        }
        assert_eq!(contents_at.len(), used);
        let mut file = whole.clone();
        for at in 0..whole.len() {
            for bit in 0..8 {
                file[at] ^= 1 << bit;
                match read(&file) {
                    Err(_) => {}
                    Ok(tensors) => {
                        assert!(!contents_at.iter().any(|range| range.contains(&at)), "bit {bit} of byte {at}");
                        assert_eq!(contents(&tensors), expected, "bit {bit} of byte {at}");
                    }
                }
                file[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn damage_is_named_with_both_checksums() {
    let mut file = small();
    let at = file.windows(4).position(|window| window == 3_f32.to_le_bytes()).unwrap();
    let storage = &file[at - 8..at + 8];
    let (expected, damaged) = (crc32fast::hash(storage), [&storage[..8], &[1], &storage[9..]].concat());
    let found = crc32fast::hash(&damaged);
    file[at] = 1;
    let message = read(&file).unwrap_err().to_string();
    assert_eq!(message, format!("entry archive/data/0 is damaged: its CRC-32 is {found:08x}, expected {expected:08x}"));
}

#[test]
fn no_archive() {
    for bytes in [b"".as_slice(), b"PK", b"PK\x03\x04", b"PK\x05\x06", &[0; 100]] {
        let message = read(bytes).unwrap_err().to_string();
        assert!(message.starts_with("not a whole zip archive: "), "{message}");
    }
    let empty = archive(&[]);
    let message = read(&empty).unwrap_err().to_string();
    assert!(message.contains("has 0 entries FOLDER/data.pkl, expected 1"), "{message}");
}

#[test]
fn one_pickle_no_less_no_more() {
    for entries in [&[("data.pkl", b".".as_slice())][..], &[("archive/version", b"3")], &[("a\x1b/data.pkl", b".")]] {
        let message = read(&archive(entries)).unwrap_err().to_string();
        assert!(message.contains("has 0 entries FOLDER/data.pkl, expected 1"), "{message}");
    }
    let message = read(&archive(&[("a/data.pkl", b"."), ("b/data.pkl", b".")])).unwrap_err().to_string();
    assert!(message.contains("has 2 entries FOLDER/data.pkl, expected 1"), "{message}");
}

#[test]
fn entries_that_are_not_there() {
    let pickle = dict(&[("x", tensor(&storage("FloatStorage", "3", 1), 0, &[], &[]))]);
    let message = read(&file(&pickle, &[&floats(&[7.])])).unwrap_err().to_string();
    assert_eq!(message, "entry archive/data/3 is missing");
}

#[test]
fn entries_of_one_name() {
    let pickle = dict(&[("x", tensor(&storage("FloatStorage", "0", 1), 0, &[], &[]))]);
    let mut bytes = file(&pickle, &[&floats(&[7.]), &floats(&[8.])]);
    let at = central(&bytes, "archive/data/1") + 46;
    bytes[at..at + 14].copy_from_slice(b"archive/data/0");
    assert!(matches!(read(&bytes), Err(PthError::DuplicateEntries)));
}

#[test]
fn entries_that_share_bytes() {
    let mut bytes = small();
    let (from, to) = (central(&bytes, "archive/data/0") + 42, central(&bytes, "archive/version") + 42);
    let offset: [u8; 4] = bytes[from..from + 4].try_into().unwrap();
    bytes[to..to + 4].copy_from_slice(&offset);
    assert!(matches!(read(&bytes), Err(PthError::OverlappingEntries)));
    // An entry that reaches over those behind it.
    let message = patched("archive/data/0", 20, &[0, 1, 0, 0, 0, 1, 0, 0]);
    assert_eq!(message, "entries of the archive overlap");
}

#[test]
fn sizes_beyond_the_file() {
    let message = patched("archive/data/0", 20, &[0xf0, 0xff, 0xff, 0xff, 0xf0, 0xff, 0xff, 0xff]);
    assert_eq!(message, "entries of the archive overlap");
    let message = patched("archive/data/0", 42, &[0xf0, 0xff, 0xff, 0x7f]);
    assert!(message.starts_with("not a whole zip archive: "), "{message}");
}

#[test]
fn compressed_or_encrypted_entries() {
    let message = patched("archive/data/0", 10, &[8, 0]);
    assert_eq!(message, "entry archive/data/0 is compressed (Deflated), expected stored as torch.save does");
    let message = patched("archive/data.pkl", 10, &[93, 0]);
    assert!(message.starts_with("entry archive/data.pkl is compressed ("), "{message}");
    assert_eq!(patched("archive/data/0", 8, &[1, 0]), "entry archive/data/0 is encrypted");
    let message = patched("archive/data/0", 24, &[17, 0, 0, 0]);
    assert_eq!(message, "entry archive/data/0 is stored in 16 bytes, but its size is given as 17");
}

#[test]
fn another_byte_order() {
    for (found, shown) in
        [(b"big".as_slice(), "big"), (b"", ""), (b"\x1b[31m and so on, and on", "\\u{1b}[31m and so on,")]
    {
        let bytes = archive(&[("a/data.pkl", &dict(&[])), ("a/byteorder", found)]);
        let message = read(&bytes).unwrap_err().to_string();
        assert_eq!(message, format!("the byte order of the numbers is {shown}, expected little"));
    }
}

#[test]
fn a_pickle_larger_than_any_state_dict() {
    let message = read(&file(&vec![b'N'; (1 << 20) + 1], &[])).unwrap_err().to_string();
    assert!(message.contains("archive/data.pkl has 1048577 bytes, expected at most 1048576"), "{message}");
}

#[test]
fn storages_of_another_size() {
    let pickle = |len| dict(&[("x", tensor(&storage("FloatStorage", "0", len), 0, &[1], &[1]))]);
    for (len, bytes) in [(3, 8), (2, 12), (2, 7), (i64::MAX, 8)] {
        let message = read(&file(&pickle(len), &[&vec![0; bytes]])).unwrap_err().to_string();
        assert_eq!(message, format!("entry archive/data/0 has {bytes} bytes, expected {len} elements of 4 bytes"));
    }
    // Two tensors that disagree about the storage that they share.
    let one = |class, len| tensor(&storage(class, "0", len), 0, &[1], &[1]);
    let pickle = dict(&[("a", one("FloatStorage", 2)), ("b", one("DoubleStorage", 2))]);
    let message = read(&file(&pickle, &[&[0; 8]])).unwrap_err().to_string();
    assert!(message.contains("has 8 bytes, expected 2 elements of 8 bytes"), "{message}");
    let pickle = dict(&[("a", one("FloatStorage", 2)), ("b", one("DoubleStorage", 1))]);
    assert_eq!(read(&file(&pickle, &[&[0; 8]])).unwrap().len(), 2, "the same bytes in two types");
}

#[test]
fn views_do_not_multiply_a_file() {
    let message = |sizes: &[i64], strides: &[i64]| {
        let pickle = dict(&[("x", tensor(&storage("FloatStorage", "0", 1), 0, sizes, strides))]);
        read(&file(&pickle, &[&floats(&[7.])])).map(|_| ()).unwrap_err().to_string()
    };
    let bomb = message(&[1 << 20, 1 << 20], &[0, 0]);
    assert!(bomb.contains("the tensors up to x take 4398046511104 bytes, expected at most"), "{bomb}");
    let many: Vec<(String, Vec<u8>)> =
        (0..100).map(|i| (i.to_string(), tensor(&storage("FloatStorage", "0", 10_000), 0, &[10_000], &[1]))).collect();
    let many: Vec<(&str, Vec<u8>)> = many.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let message = read(&file(&dict(&many), &[&[0; 40_000]])).unwrap_err().to_string();
    assert!(message.contains(": 8 times the "), "{message}");
}

proptest! {
    #[test]
    fn whatever_is_changed_nothing_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        for mut bytes in [small(), golden("pth_views.pth")] {
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let _ = read(&bytes);
            // The directory is at the end: cut from the front too.
            let _ = read(&bytes[cut.index(bytes.len())..]);
        }
    }
}
