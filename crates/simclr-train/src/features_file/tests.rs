//! What is written is read back, and what is damaged is named.

use std::path::PathBuf;

use simclr_data::{DataError, Picture};
use tempfile::TempDir;

use super::*;

/// Rows of a formula; every third picture has no label.
struct Named(usize);

impl Pictures for Named {
    fn len(&self) -> usize {
        self.0
    }
    fn picture(&self, _: usize) -> Result<Picture, DataError> {
        Ok(Picture::filled(1, 1, [0; 3]))
    }
    fn label(&self, index: usize) -> Option<u32> {
        (!index.is_multiple_of(3)).then_some(index as u32 % 2)
    }
    fn classes(&self) -> &[String] {
        static CLASSES: std::sync::LazyLock<[String; 2]> =
            std::sync::LazyLock::new(|| ["cat".into(), "\"dög\"".into()]);
        CLASSES.as_slice()
    }
    fn name(&self) -> &str {
        "named"
    }
    fn place(&self, index: usize) -> String {
        format!("a \"ü\"/{index}.png")
    }
}

fn number(i: usize) -> f32 {
    (i as f32).sin()
}

fn written(dir: &TempDir, format: Format, n: usize, width: usize) -> PathBuf {
    let (raw, path) = (dir.path().join("raw"), dir.path().join(format!("a.{format}")));
    fs::write(&raw, (0..n * width).flat_map(|i| number(i).to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let about = About {
        encoder_sha256: "abc".into(),
        data: "named".into(),
        split: "train".into(),
        checkpoint: "c/d".into(),
        normalized: false,
    };
    let pictures = Named(n);
    let rows = Rows { pictures: &pictures, width, about };
    check(format, &rows).unwrap();
    write(format, &rows, &raw, &path).unwrap();
    path
}

#[test]
fn what_is_written_comes_back() {
    let dir = TempDir::new().unwrap();
    // Less than a piece, more than a group, widths that align to nothing.
    for (n, width) in [(1, 1), (7, 3), (5000, 5)] {
        for format in Format::ALL {
            let file = read(&written(&dir, format, n, width)).unwrap();
            assert_eq!(file.vectors.dims(), [n, width]);
            let numbers: Vec<f32> = file.vectors.flatten_all().unwrap().to_vec1().unwrap();
            assert!(numbers.iter().enumerate().all(|(i, &x)| x == number(i)), "{format}");
            if format == Format::Npy {
                assert!(file.paths.is_none() && file.labels.is_none() && file.encoder_sha256.is_none());
                continue;
            }
            let pictures = Named(n);
            assert_eq!(file.paths.unwrap(), (0..n).map(|i| pictures.place(i)).collect::<Vec<_>>());
            let label = |i| Some(pictures.classes()[pictures.label(i)? as usize].clone());
            assert_eq!(file.labels.unwrap(), (0..n).map(label).collect::<Vec<_>>());
            assert_eq!((file.encoder_sha256.as_deref(), file.checkpoint.as_deref()), (Some("abc"), Some("c/d")));
        }
    }
}

#[test]
fn a_damaged_file_is_named_and_takes_no_memory() {
    let dir = TempDir::new().unwrap();
    for format in Format::ALL {
        let whole = fs::read(written(&dir, format, 9, 3)).unwrap();
        let bad = dir.path().join("bad");
        let refused = |bytes: &[u8]| {
            fs::write(&bad, bytes).unwrap();
            read(&bad).map_err(|error| format!("{error:#}"))
        };
        for len in 0..whole.len() {
            let message = refused(&whole[..len]).unwrap_err();
            assert!(message.starts_with(&bad.display().to_string()), "{message}");
        }
        // Bits that flip in the numbers are other numbers; elsewhere they must not end in a panic or an allocation that kills.
        for at in 0..whole.len() {
            for flip in [0x01, 0x40, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                let _ = refused(&bytes);
            }
        }
    }
    for (bytes, part) in [
        (&b"\x93NUMPY\x01\x00\x40\x00{'descr': '<f8'"[..], "cut short"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "a header of 9223372036854775807 bytes does not fit 10"),
        (b"PAR1", "Parquet"),
        (b"hello, world", "it is not parquet, npy or safetensors"),
    ] {
        let path = dir.path().join("made");
        fs::write(&path, bytes).unwrap();
        let message = format!("{:#}", read(&path).unwrap_err());
        assert!(message.contains(part), "{message}");
    }
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000, 9000000000), }\n";
    let bytes = [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
    let path = dir.path().join("huge");
    fs::write(&path, bytes).unwrap();
    let message = format!("{:#}", read(&path).unwrap_err());
    assert!(message.contains("9000000000 rows of 9000000000 numbers do not fit 8 bytes"), "{message}");
    assert!(format!("{:#}", read(&dir.path().join("none")).unwrap_err()).contains("none: No such file"));
}
