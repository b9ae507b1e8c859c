//! Many views at once, of pictures in a tensor.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::{Augmenter, PackedViews, Picture};
use crate::error::OpsError;
use crate::uploads::Uploads;

pub(super) const OP: &str = "views";

/// The largest views that are made of pictures in a tensor, in pixels of a side.
pub const LARGEST_VIEW: usize = 1024;

/// The longest side of their pictures: more and a place in one, or between two passes, would not be 32 bits.
const LONGEST_SIDE: usize = 1 << 20;

/// What becomes of the bytes of views.
#[derive(Debug, Clone, Copy)]
pub enum Numbers<'a> {
    /// They stay bytes.
    Bytes,
    /// Every byte becomes what a table has for it, rounded to a type.
    Mapped {
        /// `[3, 256]`, f32, where the pictures are: a row for each channel.
        table: &'a Tensor,
        /// f32, bf16 or f16.
        dtype: DType,
    },
}

/// Makes views of pictures where these are, by one launch on a GPU: the bytes are those of [`Augmenter::view`], on every device. What the
/// views are goes there by `uploads`.
///
/// # Shapes
/// `pictures`: `[n, height, width, 3]`, u8, contiguous, of the size that the views were packed for. Returns `[views, size, size, 3]`, u8
/// or the type of `numbers`.
///
/// # Errors
/// [`OpsError::Shape`] or [`OpsError::Dtype`] if a tensor is not like this, if there is no view, or if views are empty or larger than
/// [`LARGEST_VIEW`]; [`OpsError::View`] if a view is of a picture that is not there.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables, reason = "on the CPU nothing is sent"))]
pub fn make_views(
    pictures: &Tensor,
    views: &PackedViews,
    numbers: Numbers<'_>,
    uploads: &Uploads,
) -> Result<Tensor, OpsError> {
    check(pictures, views, numbers)?;
    match pictures.device() {
        Device::Cpu => on_cpu(pictures, views, numbers),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => super::cuda::make_views(pictures, views, numbers, uploads),
        _ => Err(OpsError::NoForm { op: OP, device: "GPU" }),
    }
}

fn check(pictures: &Tensor, views: &PackedViews, numbers: Numbers<'_>) -> Result<(), OpsError> {
    let (width, height) = views.of();
    let &[n, found_height, found_width, 3] = pictures.dims() else {
        return Err(OpsError::shape(OP, "pictures", pictures, "[n, height, width, 3]"));
    };
    if (found_height, found_width) != (height, width) || n > i32::MAX as usize {
        return Err(OpsError::shape(
            OP,
            "pictures",
            pictures,
            format!("[n, {height}, {width}, 3], as the views were packed for"),
        ));
    }
    if width.max(height) > LONGEST_SIDE {
        return Err(OpsError::shape(OP, "pictures", pictures, format!("sides of at most {LONGEST_SIDE} pixels")));
    }
    if pictures.dtype() != DType::U8 {
        return Err(OpsError::Dtype { op: OP, argument: "pictures", found: pictures.dtype(), expected: "u8" });
    }
    if views.is_empty() || !(1..=LARGEST_VIEW).contains(&views.size()) {
        return Err(OpsError::Shape {
            op: OP,
            argument: "views",
            found: vec![views.len(), views.size(), views.size(), 3],
            expected: format!("at least one view, of 1 to {LARGEST_VIEW} pixels a side"),
        });
    }
    if let Some((view, &(picture, _))) = views.views().iter().enumerate().find(|(_, (picture, _))| *picture >= n) {
        return Err(OpsError::View {
            view,
            found: format!("picture {picture}"),
            expected: format!("one of {n} pictures"),
        });
    }
    if let Numbers::Mapped { table, dtype } = numbers {
        if table.dims() != [3, 256] {
            return Err(OpsError::shape(OP, "table", table, "[3, 256]"));
        }
        if table.dtype() != DType::F32 {
            return Err(OpsError::Dtype { op: OP, argument: "table", found: table.dtype(), expected: "f32" });
        }
        if !matches!(dtype, DType::F32 | DType::BF16 | DType::F16) {
            return Err(OpsError::Dtype { op: OP, argument: "output", found: dtype, expected: "f32, bf16 or f16" });
        }
    }
    Ok(())
}

fn on_cpu(pictures: &Tensor, views: &PackedViews, numbers: Numbers<'_>) -> Result<Tensor, OpsError> {
    let (width, height) = views.of();
    let size = views.size() as u32;
    let made = views.views().par_iter().map_init(Augmenter::new, |augmenter, (picture, parameters)| {
        let bytes = pictures.get(*picture)?.flatten_all()?.to_vec1::<u8>()?;
        let picture = Picture::new(width as u32, height as u32, bytes).map_err(candle_core::Error::wrap)?;
        Ok::<_, OpsError>(augmenter.view(&picture, parameters, size, size).into_pixels())
    });
    let bytes = made.collect::<Result<Vec<_>, _>>()?.concat();
    let shape = (views.len(), views.size(), views.size(), 3);
    match numbers {
        Numbers::Bytes => Ok(Tensor::from_vec(bytes, shape, &Device::Cpu)?),
        Numbers::Mapped { table, dtype } => {
            let table = table.to_vec2::<f32>()?;
            let number = |(i, &byte): (usize, &u8)| table[i % 3][usize::from(byte)];
            let numbers = bytes.iter().enumerate().map(number).collect();
            Ok(Tensor::from_vec::<_, f32>(numbers, shape, &Device::Cpu)?.to_dtype(dtype)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{Crop, ViewParameters};

    fn view(crop: Crop, flip: bool) -> ViewParameters {
        ViewParameters { crop, flip, jitter: None, grayscale: false, blur: None, solarize: None }
    }

    fn pictures(n: usize) -> Tensor {
        let bytes = (0..n * 2 * 3 * 3).map(|i| (7 * i) as u8).collect();
        Tensor::from_vec(bytes, (n, 2, 3, 3), &Device::Cpu).unwrap()
    }

    #[test]
    fn views_are_of_their_pictures_and_mapped_by_channel() {
        let pictures = pictures(3);
        let crop = Crop { left: 1, top: 0, width: 2, height: 2 };
        let packed = PackedViews::new(2, (3, 2), [(2, view(crop, false)), (0, view(crop, true))]).unwrap();
        let bytes = make_views(&pictures, &packed, Numbers::Bytes, &Uploads::default()).unwrap();
        assert_eq!(bytes.dims(), [2, 2, 2, 3]);
        let cut = pictures.get(2).unwrap().narrow(1, 1, 2).unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
        assert_eq!(bytes.get(0).unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap(), cut);
        let pixel =
            |y: usize, x: usize| pictures.get(0).unwrap().get(y).unwrap().get(x).unwrap().to_vec1::<u8>().unwrap();
        let flipped = [pixel(0, 2), pixel(0, 1), pixel(1, 2), pixel(1, 1)].concat();
        assert_eq!(bytes.get(1).unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap(), flipped);

        let table: Vec<f32> = (0..768).map(|i| (i / 256 + 1) as f32 + (i % 256) as f32 / 255.0).collect();
        let rows = Tensor::from_vec(table.clone(), (3, 256), &Device::Cpu).unwrap();
        let mapped = |dtype| {
            let mapped =
                make_views(&pictures, &packed, Numbers::Mapped { table: &rows, dtype }, &Uploads::default()).unwrap();
            assert_eq!(mapped.dtype(), dtype);
            mapped.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let bytes = bytes.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let expected: Vec<f32> =
            bytes.iter().enumerate().map(|(i, &byte)| table[i % 3 * 256 + usize::from(byte)]).collect();
        assert_eq!(mapped(DType::F32), expected);
        let rounded: Vec<f32> = expected.iter().map(|&number| half::bf16::from_f32(number).to_f32()).collect();
        assert_eq!(mapped(DType::BF16), rounded);
    }

    #[test]
    fn wrong_arguments_are_named() {
        let whole = view(Crop::whole(3, 2), false);
        let packed = |size, picture| PackedViews::new(size, (3, 2), [(picture, whole)]).unwrap();
        let refused = |pictures: &Tensor, views: &PackedViews, numbers: Numbers<'_>| {
            make_views(pictures, views, numbers, &Uploads::default()).unwrap_err().to_string()
        };
        let good = pictures(2);
        assert_eq!(refused(&good, &packed(4, 2), Numbers::Bytes), "view 0 has picture 2, expected one of 2 pictures");
        assert_eq!(
            refused(&good.transpose(1, 2).unwrap(), &packed(4, 0), Numbers::Bytes),
            "views: pictures has shape [2, 3, 2, 3], expected [n, 2, 3, 3], as the views were packed for"
        );
        let numbers = good.to_dtype(DType::F32).unwrap();
        assert!(refused(&numbers, &packed(4, 0), Numbers::Bytes).contains("expected u8"));
        for size in [0, LARGEST_VIEW + 1] {
            assert!(refused(&good, &packed(size, 0), Numbers::Bytes).contains("of 1 to 1024 pixels a side"));
        }
        let none = PackedViews::new(4, (3, 2), []).unwrap();
        assert!(refused(&good, &none, Numbers::Bytes).contains("at least one view"));
        let table = Tensor::zeros((3, 256), DType::F32, &Device::Cpu).unwrap();
        let mapped = |table: &Tensor, dtype| refused(&good, &packed(4, 0), Numbers::Mapped { table, dtype });
        assert!(mapped(&table, DType::F64).contains("expected f32, bf16 or f16"));
        assert!(mapped(&table.to_dtype(DType::F64).unwrap(), DType::F32).contains("table has elements of type F64"));
        assert!(mapped(&table.t().unwrap(), DType::F32).contains("expected [3, 256]"));
    }
}
