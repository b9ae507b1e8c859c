//! Whether two fixtures say the same.

use std::collections::BTreeSet;

use anyhow::Context;
use safetensors::{
    SafeTensors,
    tensor::{Dtype, TensorView},
};

/// The first difference between two text files.
pub(crate) fn text(expected: &[u8], found: &[u8]) -> Option<String> {
    if expected == found {
        return None;
    }
    let (expected, found) = (String::from_utf8_lossy(expected), String::from_utf8_lossy(found));
    let pair = expected.lines().zip(found.lines()).enumerate().find(|(_, (a, b))| a != b);
    Some(match pair {
        Some((line, (a, b))) => format!("line {} is {b:?}, committed {a:?}", line + 1),
        None => format!("{} lines, committed {}", found.lines().count(), expected.lines().count()),
    })
}

/// Where two files of any other kind first differ.
pub(crate) fn bytes(expected: &[u8], found: &[u8]) -> Option<String> {
    if expected == found {
        return None;
    }
    let at = expected.iter().zip(found).position(|(a, b)| a != b);
    Some(match at {
        Some(at) => format!("byte {at} is {:#04x}, committed {:#04x}", found[at], expected[at]),
        None => format!("{} bytes, committed {}", found.len(), expected.len()),
    })
}

/// The first difference between the tensors of two safetensors files: floats numerically, the rest exactly. Metadata, such
/// as the versions that made them, may differ.
pub(crate) fn tensors(expected: &[u8], found: &[u8]) -> anyhow::Result<Option<String>> {
    let expected = SafeTensors::deserialize(expected).context("the committed file is not safetensors")?;
    let found = SafeTensors::deserialize(found).context("the file made is not safetensors")?;
    let names: BTreeSet<&str> = expected.names().into_iter().chain(found.names()).collect();
    for name in names {
        let difference = match (expected.tensor(name), found.tensor(name)) {
            // How far rounding carries is another number on every machine.
            (Ok(expected), Ok(found)) if name.ends_with("_distance") => layout(&expected, &found),
            (Ok(expected), Ok(found)) => layout(&expected, &found).or_else(|| values(&expected, &found)),
            (Ok(_), Err(_)) => Some("committed, but not made".into()),
            _ => Some("made, but not committed".into()),
        };
        if let Some(difference) = difference {
            return Ok(Some(format!("{name}: {difference}")));
        }
    }
    Ok(None)
}

fn layout(expected: &TensorView<'_>, found: &TensorView<'_>) -> Option<String> {
    let same = (expected.dtype(), expected.shape()) == (found.dtype(), found.shape());
    let told = |t: &TensorView<'_>| format!("{:?} {:?}", t.dtype(), t.shape());
    (!same).then(|| format!("{}, committed {}", told(found), told(expected)))
}

fn values(expected: &TensorView<'_>, found: &TensorView<'_>) -> Option<String> {
    // PyTorch rounds differently from one CPU and thread count to another; a thousand units in the last place or so are far more
    // than that in fixtures of this size (losses of ten steps lose six digits more), and far less than a changed formula.
    let (values, tolerance) = match expected.dtype() {
        Dtype::F32 => (pairs(expected, found, |bytes: [u8; 4]| f32::from_le_bytes(bytes).into()), 1e-4),
        Dtype::F64 => (pairs(expected, found, f64::from_le_bytes), 1e-9),
        _ if expected.data() == found.data() => return None,
        _ => return Some("other values".into()),
    };
    // Values near zero are what is left of sums of larger ones, so that the largest sets the scale of the rounding.
    let scale = values.iter().map(|(a, _)| a.abs()).filter(|a| a.is_finite()).fold(0.0, f64::max);
    let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance * scale;
    let (index, (a, b)) = values.into_iter().enumerate().find(|&(_, (a, b))| !same(a, b))?;
    Some(format!("value {index} is {b}, committed {a}"))
}

/// Values of both side by side.
fn pairs<const N: usize>(
    expected: &TensorView<'_>,
    found: &TensorView<'_>,
    value: impl Fn([u8; N]) -> f64,
) -> Vec<(f64, f64)> {
    let values = |view: &TensorView<'_>| -> Vec<f64> {
        view.data().as_chunks::<N>().0.iter().map(|&bytes| value(bytes)).collect()
    };
    values(expected).into_iter().zip(values(found)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn file(name: &str, dtype: Dtype, data: &[u8]) -> Vec<u8> {
        let width = if dtype == Dtype::F64 { 8 } else { 4 };
        let view = TensorView::new(dtype, vec![data.len() / width], data).unwrap();
        safetensors::serialize([(name, view)], None::<HashMap<String, String>>).unwrap()
    }

    fn floats(values: &[f64]) -> Vec<u8> {
        file("x", Dtype::F64, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    fn difference(expected: &[u8], found: &[u8]) -> String {
        tensors(expected, found).unwrap().expect("a difference")
    }

    #[test]
    fn floats_may_differ_by_rounding_only() {
        let expected = floats(&[1.0, f64::NAN, 0.0]);
        assert_eq!(tensors(&expected, &floats(&[1.0 + 1e-10, f64::NAN, 1e-10])).unwrap(), None);
        assert_eq!(difference(&expected, &floats(&[1.0, f64::NAN, 1e-8])), "x: value 2 is 0.00000001, committed 0");
        assert!(difference(&expected, &floats(&[1.0, 0.0, 0.0])).contains("value 1 is 0, committed NaN"));
        assert!(difference(&expected, &floats(&[f64::NAN, f64::NAN, 0.0])).contains("value 0 is NaN"));
    }

    #[test]
    fn names_shapes_types_and_integers_are_exact() {
        let expected = file("x", Dtype::I32, &[1, 0, 0, 0]);
        assert_eq!(tensors(&expected, &expected).unwrap(), None);
        assert_eq!(difference(&expected, &file("x", Dtype::I32, &[2, 0, 0, 0])), "x: other values");
        assert_eq!(difference(&expected, &file("x", Dtype::U32, &[1, 0, 0, 0])), "x: U32 [1], committed I32 [1]");
        assert!(difference(&expected, &file("x", Dtype::I32, &[0; 8])).contains("I32 [2], committed I32 [1]"));
        assert_eq!(difference(&expected, &file("y", Dtype::I32, &[1, 0, 0, 0])), "x: committed, but not made");
        assert!(tensors(b"nothing", &expected).is_err());
    }

    #[test]
    fn distances_of_rounding_are_measured_anew_on_every_machine() {
        let distance = |value: f64| file("out_distance", Dtype::F64, &value.to_le_bytes());
        assert_eq!(tensors(&distance(1e-7), &distance(3e-7)).unwrap(), None);
        let two = file("out_distance", Dtype::F64, &[0; 16]);
        assert!(difference(&distance(1e-7), &two).contains("F64 [2], committed F64 [1]"));
    }

    #[test]
    fn bytes_are_exact() {
        assert_eq!(bytes(b"ab", b"ab"), None);
        assert_eq!(bytes(b"ab", b"ac").unwrap(), "byte 1 is 0x63, committed 0x62");
        assert_eq!(bytes(b"ab", b"a").unwrap(), "1 bytes, committed 2");
    }

    #[test]
    fn text_is_exact() {
        assert_eq!(text(b"a\nb\n", b"a\nb\n"), None);
        assert_eq!(text(b"a\nb\n", b"a\nb\nc\n").unwrap(), "3 lines, committed 2");
    }
}
