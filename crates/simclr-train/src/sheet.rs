//! A sheet of pictures beside their views: what the network is asked to recognise.

use std::io::Cursor;

use anyhow::Context as _;
use image::{ImageFormat, Rgb, RgbImage, imageops};
use simclr_data::{Picture, Pictures, TrainTransform};

/// Pictures on a sheet, and how many stand side by side.
const PICTURES: usize = 12;
const COLUMNS: usize = 3;

/// Side of a picture on the sheet, and the gap between two, in pixels.
const SIDE: u32 = 64;
const GAP: u32 = 4;

/// The first pictures of `set`, each with the two views of epoch 0, as a PNG.
pub(crate) fn png(set: &dyn Pictures, transform: &TrainTransform) -> anyhow::Result<Vec<u8>> {
    let count = PICTURES.min(set.len());
    let (group, rows) = (3 * (SIDE + GAP) + 2 * GAP, count.div_ceil(COLUMNS) as u32);
    let ground = Rgb([236, 236, 236]);
    let mut sheet = RgbImage::from_pixel(COLUMNS as u32 * group, rows * (SIDE + GAP) + GAP, ground);
    for index in 0..count {
        let picture = set.picture(index)?;
        let views = [0, 1].map(|view| transform.view(&picture, 0, index as u64, view));
        let (left, top) = ((index % COLUMNS) as u32 * group + GAP, (index / COLUMNS) as u32 * (SIDE + GAP) + GAP);
        for (place, picture) in [&picture, &views[0], &views[1]].into_iter().enumerate() {
            let tile = imageops::resize(&to_image(picture)?, SIDE, SIDE, imageops::FilterType::Nearest);
            let x = left + place as u32 * (SIDE + GAP);
            imageops::replace(&mut sheet, &tile, i64::from(x), i64::from(top));
        }
    }
    let mut bytes = Cursor::new(Vec::new());
    sheet.write_to(&mut bytes, ImageFormat::Png).context("the sheet of views cannot be encoded")?;
    Ok(bytes.into_inner())
}

fn to_image(picture: &Picture) -> anyhow::Result<RgbImage> {
    RgbImage::from_raw(picture.width(), picture.height(), picture.pixels().to_vec()).context("a picture lacks pixels")
}

#[cfg(test)]
mod tests {
    use super::*;
    use simclr_data::{Shapes, Split, compute_train_transform};

    #[test]
    fn a_sheet_shows_each_picture_and_its_views() {
        let set = Shapes::new(0, Split::Train, 4);
        let transform = compute_train_transform(1);
        let sheet = image::load_from_memory(&png(&set, &transform).unwrap()).unwrap().to_rgb8();
        assert_eq!(sheet.dimensions(), (3 * (3 * 68 + 8), 2 * 68 + 4));
        // The middle of picture 3, in the second row, and of its second view.
        let picture = set.picture(3).unwrap();
        let view = transform.view(&picture, 0, 3, 1);
        assert_eq!(sheet.get_pixel(4 + 32, 4 + 68 + 32).0, picture.pixel(16, 16));
        assert_eq!(sheet.get_pixel(4 + 2 * 68 + 32, 4 + 68 + 32).0, view.pixel(16, 16));
    }
}
