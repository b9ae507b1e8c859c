//! From candle's tensors to slices and back.

use std::any::Any;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, Range};
use std::sync::Mutex;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Shape, Storage, StorageRef, Tensor};

use rayon::prelude::*;

use crate::element::Stored;
use crate::error::OpsError;
use crate::simd::{CHUNK, simd};

/// The elements of a contiguous CPU tensor, readable as a slice for as long as this lives.
pub(crate) struct Elements<'a, T> {
    storage: StorageRef<'a>,
    range: Range<usize>,
    element: PhantomData<T>,
}

impl<T: Stored> Deref for Elements<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.storage {
            // The element type and the device were checked in `elements`.
            Storage::Cpu(cpu) => cpu.as_slice::<T>().map_or(&[], |all| &all[self.range.clone()]),
            _ => &[],
        }
    }
}

/// The elements of `tensor`, which must be on the CPU, of type `T` and contiguous.
pub(crate) fn elements<'a, T: Stored>(
    op: &'static str,
    argument: &'static str,
    tensor: &'a Tensor,
) -> Result<Elements<'a, T>, OpsError> {
    if tensor.dtype() != T::DTYPE {
        return Err(OpsError::Dtype { op, argument, found: tensor.dtype(), expected: T::DTYPE.as_str() });
    }
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(_) = &*storage else { return Err(OpsError::NoForm { op, device: device_name(tensor.device()) }) };
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(OpsError::shape(op, argument, tensor, "contiguous elements"));
    };
    Ok(Elements { storage, range: start..end, element: PhantomData })
}

/// Whether ops compute in `tensor`'s type, and where: the one place that says which devices and types have a form.
pub(crate) fn float_type(op: &'static str, argument: &'static str, tensor: &Tensor) -> Result<FloatType, OpsError> {
    if !tensor.device().is_cpu() {
        return Err(OpsError::NoForm { op, device: device_name(tensor.device()) });
    }
    match tensor.dtype() {
        DType::F32 => Ok(FloatType::F32),
        DType::F64 => Ok(FloatType::F64),
        found => Err(OpsError::Dtype { op, argument, found, expected: "f32 or f64" }),
    }
}

/// The same for ops that also take maps of bf16.
pub(crate) fn stored_type(op: &'static str, argument: &'static str, tensor: &Tensor) -> Result<FloatType, OpsError> {
    if !tensor.device().is_cpu() {
        return Err(OpsError::NoForm { op, device: device_name(tensor.device()) });
    }
    FloatType::of_map(op, argument, tensor.dtype())
}

/// The element types that ops have forms for on the CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FloatType {
    F32,
    F64,
    BF16,
}

impl FloatType {
    /// The one of an element type.
    pub(crate) fn of<T: Stored>() -> Self {
        match T::DTYPE {
            DType::F64 => Self::F64,
            DType::BF16 => Self::BF16,
            _ => Self::F32,
        }
    }

    /// The one of a map.
    pub(crate) fn of_map(op: &'static str, argument: &'static str, dtype: DType) -> Result<Self, OpsError> {
        match dtype {
            DType::F32 => Ok(Self::F32),
            DType::F64 => Ok(Self::F64),
            DType::BF16 => Ok(Self::BF16),
            found => Err(OpsError::Dtype { op, argument, found, expected: "f32, f64 or bf16" }),
        }
    }

    /// Bytes of an element.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F64 => 8,
            Self::BF16 => 2,
        }
    }
}

/// Calls a generic function with the element type found by [`float_type`].
macro_rules! dispatch {
    ($float_type:expr, $function:ident($($argument:expr),* $(,)?)) => {
        match $float_type {
            $crate::storage::FloatType::F64 => $function::<f64>($($argument),*),
            // `float_type` gives no other.
            _ => $function::<f32>($($argument),*),
        }
    };
}
pub(crate) use dispatch;

/// Calls a generic function with the element type found by [`stored_type`].
macro_rules! dispatch_stored {
    ($float_type:expr, $function:ident($($argument:expr),* $(,)?)) => {
        match $float_type {
            $crate::storage::FloatType::F32 => $function::<f32>($($argument),*),
            $crate::storage::FloatType::F64 => $function::<f64>($($argument),*),
            $crate::storage::FloatType::BF16 => $function::<half::bf16>($($argument),*),
        }
    };
}
pub(crate) use dispatch_stored;

fn device_name(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "CPU",
        Device::Cuda(_) => "CUDA",
        Device::Metal(_) => "Metal",
    }
}

/// `len` elements that `write` makes, without a first pass that fills them with zeros.
///
/// # Safety
/// `write` must write every element.
pub(crate) unsafe fn written<T>(len: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut elements = Vec::new();
    // SAFETY: the caller's promise is passed on.
    unsafe { overwrite(&mut elements, len, write) };
    elements
}

/// Makes `elements` the `len` elements that `write` makes, in the memory that it has.
///
/// # Safety
/// `write` must write every element.
pub(crate) unsafe fn overwrite<T>(elements: &mut Vec<T>, len: usize, write: impl FnOnce(&mut [MaybeUninit<T>])) {
    elements.clear();
    elements.reserve_exact(len);
    write(&mut elements.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is `len` at least, and the caller promises that `write` wrote all of them.
    unsafe { elements.set_len(len) };
}

/// A CPU tensor that owns `elements`.
pub(crate) fn tensor<T: Stored>(elements: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor, OpsError> {
    Ok(Tensor::from_vec(elements, shape.into(), &Device::Cpu)?)
}

/// Lets `write` change the elements of `tensor` where they are: every tensor that shares its memory sees it.
///
/// This is for memory that the caller knows to be its own (a parameter under its optimizer, a gradient under
/// construction); candle's graph records nothing.
///
/// # Errors
/// If `tensor` is not a contiguous CPU tensor of type `T`.
pub fn modify<T: Stored>(tensor: &Tensor, write: impl FnOnce(&mut [T])) -> Result<(), OpsError> {
    // `cpu_fwd` may only be called once on what it takes, and only through a shared reference: hence the lock.
    struct Modify<T, F>(Mutex<Option<F>>, PhantomData<fn(T)>);

    impl<T: Stored, F: FnOnce(&mut [T])> InplaceOp1 for Modify<T, F> {
        fn name(&self) -> &'static str {
            "modify in place"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
            let all: &mut dyn Any = match storage {
                CpuStorage::F32(all) => all,
                CpuStorage::F64(all) => all,
                CpuStorage::BF16(all) => all,
                _ => candle_core::bail!("only f32, f64 and bf16 are changed in place"),
            };
            let Some((start, end)) = layout.contiguous_offsets() else {
                candle_core::bail!("elements changed in place must be contiguous, strides are {:?}", layout.stride())
            };
            match (all.downcast_mut::<Vec<T>>(), self.0.lock().ok().and_then(|mut once| once.take())) {
                (Some(all), Some(write)) => write(&mut all[start..end]),
                _ => candle_core::bail!("elements are not {}", T::DTYPE.as_str()),
            }
            Ok(())
        }
    }

    Ok(tensor.inplace_op1(&Modify(Mutex::new(Some(write)), PhantomData))?)
}

/// `sum += term` where `sum` is, which nothing else may be reading.
///
/// # Errors
/// If they are not contiguous tensors of one shape and float type on one device.
pub fn add_assign(sum: &Tensor, term: &Tensor) -> Result<(), OpsError> {
    fn run<S: Stored>(sum: &Tensor, term: &Tensor) -> Result<(), OpsError> {
        let term = elements::<S>("sum of gradients", "term", term)?;
        modify::<S>(sum, |sum| {
            sum.par_chunks_mut(CHUNK).zip(term.par_chunks(CHUNK)).for_each(|(sum, term)| add(sum, term));
        })
    }
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = sum.device() {
        return crate::cuda::add_assign(device, sum, term);
    }
    dispatch_stored!(stored_type("sum of gradients", "sum", sum)?, run(sum, term))
}

/// `sum += term`, on this thread; each sum is rounded once, whether the terms are as they are kept or as they are computed with.
pub(crate) fn add<S: Stored, T: Stored<Wide = S::Wide>>(sum: &mut [S], term: &[T]) {
    simd(
        #[inline(always)]
        || sum.iter_mut().zip(term).for_each(|(sum, &term)| *sum = S::narrow(sum.widen() + term.widen())),
    );
}

/// Widens numbers into memory of the same length, all of which it writes.
pub(crate) fn widen<S: Stored>(numbers: &[S], wide: &mut [MaybeUninit<S::Wide>]) {
    simd(
        #[inline(always)]
        || numbers.iter().zip(wide).for_each(|(number, wide)| _ = wide.write(number.widen())),
    );
}

/// Rounds numbers into memory of the same length, all of which it writes.
pub(crate) fn narrow<S: Stored>(wide: &[S::Wide], numbers: &mut [MaybeUninit<S>]) {
    simd(
        #[inline(always)]
        || wide.iter().zip(numbers).for_each(|(&wide, number)| _ = number.write(S::narrow(wide))),
    );
}
