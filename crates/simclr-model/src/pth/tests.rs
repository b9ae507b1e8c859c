//! Files that are right, from PyTorch, from this module and by hand; hostile ones are in the modules below.

use std::io::{Cursor, Write};
use std::path::PathBuf;

use candle_core::{DType, Device};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

mod hostile_archives;
mod hostile_pickles;

/// Names, types, shapes and values, to compare.
type Contents = Vec<(String, DType, Vec<usize>, Vec<f64>)>;

fn contents(tensors: &BTreeMap<String, Tensor>) -> Contents {
    let values = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    tensors.iter().map(|(name, t)| (name.clone(), t.dtype(), t.dims().to_vec(), values(t))).collect()
}

fn golden(name: &str) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../tests/golden", name].iter().collect();
    std::fs::read(path).unwrap()
}

/// An archive of stored entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        zip.start_file(*name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A `.pth` file of a pickle and its storages 0, 1, ….
fn file(pickle: &[u8], storages: &[&[u8]]) -> Vec<u8> {
    let names: Vec<String> = (0..storages.len()).map(|key| format!("archive/data/{key}")).collect();
    let mut entries = vec![("archive/data.pkl", pickle)];
    entries.extend(names.iter().map(String::as_str).zip(storages.iter().copied()));
    archive(&entries)
}

/// BINUNICODE.
fn text(text: &str) -> Vec<u8> {
    [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

/// LONG1.
fn int(value: i64) -> Vec<u8> {
    [&[0x8a, 8], value.to_le_bytes().as_slice()].concat()
}

/// MARK, integers, TUPLE.
fn ints(values: &[i64]) -> Vec<u8> {
    [b"(".to_vec(), values.iter().flat_map(|&value| int(value)).collect(), b"t".to_vec()].concat()
}

/// A storage: its persistent id, and BINPERSID.
fn storage(class: &str, key: &str, len: i64) -> Vec<u8> {
    let class = format!("ctorch\n{class}\n").into_bytes();
    [b"(".to_vec(), text("storage"), class, text(key), text("cpu"), int(len), b"tQ".to_vec()].concat()
}

/// A call of `_rebuild_tensor_v2`.
fn tensor(storage: &[u8], offset: i64, sizes: &[i64], strides: &[i64]) -> Vec<u8> {
    let function = b"ctorch._utils\n_rebuild_tensor_v2\n(";
    let end = b"\x89ccollections\nOrderedDict\n)RtR";
    [function, storage, &int(offset), &ints(sizes), &ints(strides), end].concat()
}

/// A whole pickle: a dict of these items.
fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|(name, value)| [text(name), value.clone()].concat()).collect();
    [b"\x80\x02}(".as_slice(), &items, b"u."].concat()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn what_is_written_is_read() {
    let cpu = Device::Cpu;
    let tensors = [
        ("z.first", Tensor::new(&[[1_f32, -2.5, 3e-9], [0., f32::MAX, 7.]], &cpu).unwrap()),
        ("transposed", Tensor::arange(0_f32, 6., &cpu).unwrap().reshape((2, 3)).unwrap().t().unwrap()),
        ("counter", Tensor::new(-5_i64, &cpu).unwrap()),
        ("double", Tensor::new(&[std::f64::consts::PI], &cpu).unwrap()),
        ("empty", Tensor::zeros((0, 3), DType::F32, &cpu).unwrap()),
        ("naïve", Tensor::new(&[[[[1_f32]]]], &cpu).unwrap()),
    ];
    let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor));
    let bytes = write(&tensors).unwrap();
    assert!(is_pth(&bytes));
    assert_eq!(contents(&read(&bytes).unwrap()), contents(&tensors.iter().cloned().collect()));
    assert!(bytes == write(&tensors).unwrap(), "equal tensors are equal files");
    // Where PyTorch would map them.
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes.as_slice())).unwrap();
    for index in 0..zip.len() {
        let entry = zip.by_index(index).unwrap();
        assert_eq!(entry.data_start().unwrap() % 64, 0, "{}", entry.name().unwrap());
    }
}

#[test]
fn other_types_are_not_written() {
    let bytes = [("mask".to_owned(), Tensor::new(&[1_u8], &Device::Cpu).unwrap())];
    let message = write(&bytes).unwrap_err().to_string();
    assert_eq!(message, "tensor mask has type u8, expected f32, f64 or i64");
}

/// tests/golden/golden_pth.py: the numbers from 0 on, and views of them.
#[test]
fn pytorch_s_views_and_types() {
    let tensors = read(&golden("pth_views.pth")).unwrap();
    let contents = contents(&tensors);
    let numbers = |values: &[u32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    let all: Vec<u32> = (0..24).collect();
    let transposed: Vec<u32> = (0..6).flat_map(|i| (0..4).map(move |j| 6 * j + i)).collect();
    let permuted: Vec<u32> = (0..4).flat_map(|k| (0..6).map(move |ij| 4 * ij + k)).collect();
    let expected: [(&str, DType, &[usize], &[u32]); 19] = [
        ("bfloat16", DType::BF16, &[3], &[0, 1, 2]),
        ("bool", DType::I64, &[3], &[0, 1, 1]),
        ("empty", DType::F32, &[0, 3], &[]),
        ("every_third", DType::F32, &[8], &[1, 4, 7, 10, 13, 16, 19, 22]),
        ("float16", DType::F16, &[3], &[0, 1, 2]),
        ("float64", DType::F64, &[3], &[0, 1, 2]),
        ("int16", DType::I64, &[3], &[0, 1, 2]),
        ("int32", DType::I64, &[3], &[0, 1, 2]),
        ("int64", DType::I64, &[3], &[0, 1, 2]),
        ("int8", DType::I64, &[3], &[0, 1, 2]),
        ("last", DType::F32, &[], &[23]),
        ("middle", DType::F32, &[6], &[5, 6, 7, 8, 9, 10]),
        ("one_row", DType::F32, &[1, 4], &[2, 8, 14, 20]),
        ("parameter", DType::F32, &[2, 2], &[4, 5, 6, 7]),
        ("permuted", DType::F32, &[4, 2, 3], &permuted),
        ("repeated", DType::F32, &[3, 2], &[7; 6]),
        ("transposed", DType::F32, &[6, 4], &transposed),
        ("uint8", DType::I64, &[3], &[0, 1, 2]),
        ("whole", DType::F32, &[2, 3, 4], &all),
    ];
    let expected = expected.map(|(name, dtype, dims, values)| (name.to_owned(), dtype, dims.to_vec(), numbers(values)));
    assert_eq!(contents, expected);
}

#[test]
fn a_checkpoint_of_a_training_program_has_its_state_dict_found() {
    let nested = contents(&read(&golden("pth_checkpoint.pth")).unwrap());
    assert_eq!(nested, contents(&read(&golden("pth_views.pth")).unwrap()));
    let one = tensor(&storage("FloatStorage", "0", 1), 0, &[], &[]);
    let inner = dict(&[("x", one.clone())]);
    // Without the protocol in front and the STOP behind, a pickle is a value.
    let outer = dict(&[("epoch", int(3)), ("model", inner[2..inner.len() - 1].to_vec())]);
    assert_eq!(contents(&read(&file(&outer, &[&floats(&[7.])])).unwrap())[0].3, [7.]);
    // A tensor may have that name too.
    let flat = dict(&[("model", one)]);
    assert_eq!(contents(&read(&file(&flat, &[&floats(&[7.])])).unwrap())[0].0, "model");
}

#[test]
fn counters_are_left_out_and_their_numbers_are_not_read() {
    let one = |key: &str| tensor(&storage("FloatStorage", key, 1), 0, &[], &[]);
    let names = ["total_ops", "f.3.0.total_ops", "f.total_params", "f.total_ops.weight", "xtotal_ops"];
    let items: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (*name, one("0"))).collect();
    let tensors = read(&file(&dict(&items), &[&floats(&[7.])])).unwrap();
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["f.total_ops.weight", "xtotal_ops"]);
    let items = [("total_ops", one("9")), ("x", one("0"))];
    assert_eq!(read(&file(&dict(&items), &[&floats(&[7.])])).unwrap().len(), 1, "there is no storage 9");
}

#[test]
fn a_prefix_of_some_names_stays() {
    let one = tensor(&storage("FloatStorage", "0", 1), 0, &[], &[]);
    let items = [("module.x", one.clone()), ("module.y", one.clone())];
    let tensors = read(&file(&dict(&items), &[&floats(&[7.])])).unwrap();
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["x", "y"]);
    let items = [("module.x", one.clone()), ("y", one)];
    let tensors = read(&file(&dict(&items), &[&floats(&[7.])])).unwrap();
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["module.x", "y"]);
}

#[test]
fn any_folder_will_do() {
    let pickle = dict(&[("x", tensor(&storage("FloatStorage", "0", 1), 0, &[], &[]))]);
    let content = floats(&[7.]);
    let bytes = archive(&[
        ("weights v2/data.pkl", &pickle),
        ("weights v2/byteorder", b"little"),
        ("weights v2/data/0", &content),
        ("weights v2/extra/data.pkl", b"of another program"),
    ]);
    assert_eq!(contents(&read(&bytes).unwrap())[0].3, [7.]);
}

#[test]
fn the_two_formats_are_told_apart_by_their_first_bytes() {
    // A header of 640 bytes begins like a pickle, and one of 67,324,752 bytes like an archive.
    assert!(!is_pth(b"\x80\x02\0\0\0\0\0\0{"));
    assert!(!is_pth(b"PK\x03\x04\0\0\0\0{"));
    assert!(is_pth(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."));
    assert!(is_pth(&golden("pth_views.pth")));
    assert!(!is_pth(b"") && !is_pth(b"PK") && !is_pth(b"\x80"));
    let message = read(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").unwrap_err().to_string();
    assert!(message.contains("before 1.6") && message.contains("save it again with torch.save"), "{message}");
}
