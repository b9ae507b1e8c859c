//! Features of a whole set.

use candle_core::{DType, Device, Result, Tensor};
use simclr_data::{Pictures, TestTransform, batches};
use simclr_ops::{Context, l2_normalize};

use crate::error::EvalError;

/// One feature vector and one class for every picture of a set.
#[derive(Clone, Debug)]
pub struct Features {
    /// `[n, d]`, f32, on the CPU; of [`embed`] rows of unit length, so that products of rows are cosines.
    pub vectors: Tensor,
    /// The class of every picture.
    pub labels: Vec<u32>,
}

/// Encodes every picture of a set under the test transform, `batch` at a time, and normalises the features.
///
/// `encode` maps `[n, 3, h, w]` to `[n, d]`; `progress` hears how many pictures each batch had.
///
/// # Errors
/// [`EvalError::Unlabelled`] naming a picture without class, [`EvalError::Empty`] for a set without pictures, and what
/// reading and encoding report.
pub fn embed(
    encode: impl FnMut(&Tensor) -> Result<Tensor>,
    set: &dyn Pictures,
    transform: &TestTransform,
    batch: usize,
    progress: impl FnMut(usize),
) -> std::result::Result<Features, EvalError> {
    self::encode(encode, set, transform, batch, progress)?.unit()
}

impl Features {
    /// The same with rows of unit length.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn unit(&self) -> std::result::Result<Self, EvalError> {
        let vectors = l2_normalize::forward(&Context::new(), &self.vectors)?.0;
        Ok(Self { vectors, labels: self.labels.clone() })
    }
}

/// [`embed`] with the features as they are.
///
/// # Errors
/// As [`embed`].
pub fn encode(
    encode: impl FnMut(&Tensor) -> Result<Tensor>,
    set: &dyn Pictures,
    transform: &TestTransform,
    batch: usize,
    progress: impl FnMut(usize),
) -> std::result::Result<Features, EvalError> {
    let label = |index| set.label(index).ok_or_else(|| EvalError::Unlabelled { set: set.name().to_owned(), index });
    let labels = (0..set.len()).map(label).collect::<std::result::Result<_, _>>()?;
    Ok(Features { vectors: vectors(encode, set, transform, batch, progress)?, labels })
}

/// [`encode`] of pictures that need no labels.
///
/// # Shapes
/// Returns `[n, d]`, f32, on the CPU.
///
/// # Errors
/// [`EvalError::Empty`] for a set without pictures, and what reading and encoding report.
pub fn vectors(
    mut encode: impl FnMut(&Tensor) -> Result<Tensor>,
    set: &dyn Pictures,
    transform: &TestTransform,
    batch: usize,
    mut progress: impl FnMut(usize),
) -> std::result::Result<Tensor, EvalError> {
    let mut vectors = Vec::new();
    for batch in batches(set, transform, batch) {
        let batch = batch?;
        vectors.push(encode(&batch.pictures)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?);
        progress(batch.indices.len());
    }
    if vectors.is_empty() {
        return Err(EvalError::Empty { set: set.name().to_owned() });
    }
    Ok(Tensor::cat(&vectors, 0)?)
}

/// The normalised pixels as features, to be given to [`embed`] as an encoder: what can be had without one.
///
/// # Shapes
/// `[n, 3, h, w]` to `[n, 3 · h · w]`.
///
/// # Errors
/// If `pictures` has fewer than two dimensions.
pub fn raw_pixels(pictures: &Tensor) -> Result<Tensor> {
    pictures.flatten_from(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use simclr_data::{DataError, Picture, Shapes, Split, compute_test_transform};

    #[test]
    fn every_picture_is_encoded_once_in_order() {
        let set = Shapes::new(0, Split::Test, 23);
        let transform = compute_test_transform();
        let (mut seen, mut sizes) = (0, Vec::new());
        let whole = embed(raw_pixels, &set, &transform, 23, |n| seen += n).unwrap();
        let parts = embed(raw_pixels, &set, &transform, 10, |n| sizes.push(n)).unwrap();
        assert_eq!((seen, sizes), (23, vec![10, 10, 3]));
        assert_eq!(whole.vectors.dims(), [23, 3 * 32 * 32]);
        assert_eq!(whole.vectors.to_vec2::<f32>().unwrap(), parts.vectors.to_vec2::<f32>().unwrap());
        let labels: Vec<u32> = (0..23).map(|i| set.label(i).unwrap()).collect();
        assert_eq!(whole.labels, labels);
        for norm in whole.vectors.sqr().unwrap().sum(1).unwrap().to_vec1::<f32>().unwrap() {
            assert!((norm - 1.0).abs() < 1e-5);
        }
    }

    struct Unlabelled;

    impl Pictures for Unlabelled {
        fn len(&self) -> usize {
            2
        }
        fn picture(&self, _: usize) -> std::result::Result<Picture, DataError> {
            Ok(Picture::filled(32, 32, [1, 2, 3]))
        }
        fn label(&self, index: usize) -> Option<u32> {
            (index == 0).then_some(0)
        }
        fn classes(&self) -> &[String] {
            &[]
        }
        fn name(&self) -> &str {
            "a folder"
        }
    }

    #[test]
    fn a_picture_without_label_is_named() {
        let message = embed(raw_pixels, &Unlabelled, &compute_test_transform(), 2, |_| ()).unwrap_err().to_string();
        assert!(message.contains("picture 1 of a folder has no label"), "{message}");
    }
}
