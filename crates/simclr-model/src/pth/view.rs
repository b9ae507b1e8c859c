//! Storages and the tensors that are views of them.

use candle_core::{DType, Device, Result, Tensor};

use super::error::PickleError;

/// The type of the elements of a storage; PyTorch has a class for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Element {
    /// That of a class in PyTorch's module `torch`.
    pub(super) fn of_class(name: &str) -> Option<Self> {
        Some(match name {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::BF16,
            "LongStorage" => Self::I64,
            "IntStorage" => Self::I32,
            "ShortStorage" => Self::I16,
            "CharStorage" => Self::I8,
            "ByteStorage" => Self::U8,
            "BoolStorage" => Self::Bool,
            _ => return None,
        })
    }

    /// Bytes of one.
    pub(super) fn width(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

/// An entry `data/KEY` of the archive, as the pickle describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    pub(super) element: Element,
    /// Elements.
    pub(super) len: usize,
}

impl Storage<'_> {
    /// Bytes, if a number can count them.
    pub(super) fn bytes(&self) -> Option<usize> {
        self.len.checked_mul(self.element.width())
    }
}

/// A tensor: a view of a storage, within it.
#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    storage: Storage<'a>,
    /// The place of the first element.
    offset: usize,
    sizes: Vec<usize>,
    /// Elements between neighbours along each dimension; 0 where there is one element only.
    strides: Vec<usize>,
}

impl<'a> View<'a> {
    /// # Errors
    /// [`PickleError::Overflow`] or [`PickleError::OutOfStorage`] unless all elements lie within the storage.
    pub(super) fn new(
        storage: Storage<'a>,
        offset: usize,
        sizes: Vec<usize>,
        mut strides: Vec<usize>,
    ) -> std::result::Result<Self, PickleError> {
        // Dimensions without an element aside, so that the others can be multiplied in any order.
        let counted = sizes.iter().filter(|&&size| size > 0);
        let bytes = counted.copied().try_fold(storage.element.width(), usize::checked_mul);
        let needed = if sizes.contains(&0) {
            Some(0)
        } else {
            let mut dims = sizes.iter().zip(&strides);
            let last = dims.try_fold(offset, |last, (size, stride)| last.checked_add((size - 1).checked_mul(*stride)?));
            last.and_then(|last| last.checked_add(1))
        };
        let (Some(needed), Some(_)) = (needed, bytes) else {
            return Err(PickleError::Overflow { sizes, strides });
        };
        if needed > storage.len {
            let (key, len) = (storage.key.to_owned(), storage.len);
            return Err(PickleError::OutOfStorage { sizes, strides, offset, needed, key, len });
        }
        // PyTorch writes any stride where there is nothing to step over.
        for (&size, stride) in sizes.iter().zip(&mut strides) {
            if size <= 1 {
                *stride = 0;
            }
        }
        Ok(Self { storage, offset, sizes, strides })
    }

    pub(super) fn storage(&self) -> &Storage<'a> {
        &self.storage
    }

    fn elements(&self) -> usize {
        self.sizes.iter().product()
    }

    /// Bytes of its elements.
    pub(super) fn bytes(&self) -> usize {
        self.elements() * self.storage.element.width()
    }

    /// The tensor, given all bytes of its storage; integers as i64.
    ///
    /// # Panics
    /// If `data` is shorter than the storage that the view was made for.
    pub(super) fn tensor(&self, data: &[u8], device: &Device) -> Result<Tensor> {
        let bytes = self.gather(data);
        let float = |dtype| Tensor::from_raw_buffer(&bytes, dtype, &self.sizes, device);
        match self.storage.element {
            Element::F64 => float(DType::F64),
            Element::F32 => float(DType::F32),
            Element::F16 => float(DType::F16),
            Element::BF16 => float(DType::BF16),
            Element::I64 => self.integers(&bytes, i64::from_le_bytes, device),
            Element::I32 => self.integers(&bytes, |b| i32::from_le_bytes(b).into(), device),
            Element::I16 => self.integers(&bytes, |b| i16::from_le_bytes(b).into(), device),
            Element::I8 => self.integers(&bytes, |b| i8::from_le_bytes(b).into(), device),
            Element::U8 | Element::Bool => self.integers(&bytes, |b| u8::from_le_bytes(b).into(), device),
        }
    }

    fn integers<const N: usize>(
        &self,
        bytes: &[u8],
        value: impl Fn([u8; N]) -> i64,
        device: &Device,
    ) -> Result<Tensor> {
        let values: Vec<i64> = bytes.as_chunks::<N>().0.iter().map(|&bytes| value(bytes)).collect();
        Tensor::from_vec(values, self.sizes.as_slice(), device)
    }

    /// The bytes of the elements in the order of the tensor, the last index fastest.
    fn gather(&self, data: &[u8]) -> Vec<u8> {
        let width = self.storage.element.width();
        let mut bytes = Vec::with_capacity(self.bytes());
        if self.is_contiguous() {
            bytes.extend_from_slice(&data[self.offset * width..][..self.bytes()]);
            return bytes;
        }
        let mut index = vec![0; self.sizes.len()];
        let mut at = self.offset;
        for _ in 0..self.elements() {
            bytes.extend_from_slice(&data[at * width..][..width]);
            for dim in (0..index.len()).rev() {
                index[dim] += 1;
                at += self.strides[dim];
                if index[dim] < self.sizes[dim] {
                    break;
                }
                at -= self.strides[dim] * self.sizes[dim];
                index[dim] = 0;
            }
        }
        bytes
    }

    fn is_contiguous(&self) -> bool {
        let mut step = 1;
        self.elements() > 0
            && self.sizes.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
                let expected = size <= 1 || stride == step;
                step *= size;
                expected
            })
    }
}
