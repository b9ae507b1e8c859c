//! A sheet of pictures beside their views: what the network is asked to recognise.

use std::io::Cursor;

use anyhow::Context as _;
use image::imageops::{self, FilterType};
use image::{ImageFormat, Rgb, RgbImage};
use simclr_data::{Picture, Pictures, TrainTransform};

use crate::caption;

/// What is on a sheet, and how it is laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sheet {
    /// Pictures, from which one on, and in which epoch.
    pub(crate) pictures: usize,
    pub(crate) first: usize,
    pub(crate) epoch: u64,
    /// Views of each.
    pub(crate) views: u32,
    /// Pictures with their views that stand side by side.
    pub(crate) columns: usize,
    /// The room for a picture or view, in pixels; no less than the side of a view.
    pub(crate) tile: u32,
    /// Whether the parameters of each view are written below it.
    pub(crate) captions: bool,
}

impl Sheet {
    /// A dozen pictures with the two views that the first epoch has of them.
    pub(crate) const REPORT: Self =
        Self { pictures: 12, first: 0, epoch: 0, views: 2, columns: 3, tile: 64, captions: false };
}

/// The gap between two pictures, and the margin.
const GAP: u32 = 4;
pub(crate) const GROUND: Rgb<u8> = Rgb([236, 236, 236]);

/// [`drawn`] as a PNG.
pub(crate) fn png(set: &dyn Pictures, transform: &TrainTransform, sheet: &Sheet) -> anyhow::Result<Vec<u8>> {
    encoded(&drawn(set, transform, sheet)?)
}

/// Pictures of `set`, each with its views.
pub(crate) fn drawn(set: &dyn Pictures, transform: &TrainTransform, sheet: &Sheet) -> anyhow::Result<RgbImage> {
    let pictures = sheet.first..set.len().min(sheet.first + sheet.pictures);
    let tile = sheet.tile.max(transform.size());
    let row = tile + if sheet.captions { caption::HEIGHT } else { GAP };
    let group = (1 + sheet.views) * (tile + GAP) + 2 * GAP;
    let (columns, rows) = (sheet.columns.min(pictures.len()), pictures.len().div_ceil(sheet.columns));
    let mut canvas = RgbImage::from_pixel(columns as u32 * group, rows as u32 * row + GAP, GROUND);
    for (place, index) in pictures.enumerate() {
        let picture = set.picture(index)?;
        let (width, height) = (picture.width(), picture.height());
        let (left, top) = (place % sheet.columns, place / sheet.columns);
        let (left, top) = (left as u32 * group + GAP, top as u32 * row + GAP);
        let mut draw = |column: u32, picture: &Picture, lines: &[String]| -> anyhow::Result<()> {
            let x = left + column * (tile + GAP);
            fit(&mut canvas, picture, x, top, tile)?;
            if sheet.captions {
                caption::write(&mut canvas, x, top + tile + GAP, tile, lines);
            }
            Ok(())
        };
        let class = set.label(index).and_then(|label| set.classes().get(label as usize));
        let about =
            [format!("picture {index}"), format!("{width} x {height} pixels"), class.cloned().unwrap_or_default()];
        draw(0, &picture, &about)?;
        for view in 0..sheet.views {
            let parameters = transform.parameters(width, height, sheet.epoch, index as u64, view);
            draw(view + 1, &transform.pixels(&picture, &parameters), &caption::of(&parameters))?;
        }
    }
    Ok(canvas)
}

/// A picture in a square of `side` pixels.
pub(crate) fn tile(picture: &Picture, side: u32) -> anyhow::Result<RgbImage> {
    let mut canvas = RgbImage::from_pixel(side, side, GROUND);
    fit(&mut canvas, picture, 0, 0, side)?;
    Ok(canvas)
}

/// As a PNG.
pub(crate) fn encoded(canvas: &RgbImage) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    canvas.write_to(&mut bytes, ImageFormat::Png).context("a picture cannot be encoded as PNG")?;
    Ok(bytes.into_inner())
}

/// Draws a picture into a square: as many times larger as it fits whole, or smaller.
fn fit(canvas: &mut RgbImage, picture: &Picture, x: u32, y: u32, tile: u32) -> anyhow::Result<()> {
    let (width, height) = (picture.width(), picture.height());
    let image = RgbImage::from_raw(width, height, picture.pixels().to_vec()).context("a picture lacks pixels")?;
    let longer = width.max(height);
    let (sides, filter) = if longer <= tile {
        let times = tile / longer;
        ([width * times, height * times], FilterType::Nearest)
    } else {
        let less = |side: u32| (u64::from(side) * u64::from(tile) / u64::from(longer)).max(1) as u32;
        ([width, height].map(less), FilterType::Triangle)
    };
    let image = imageops::resize(&image, sides[0], sides[1], filter);
    let [left, top] = sides.map(|side| (tile - side) / 2);
    imageops::replace(canvas, &image, i64::from(x + left), i64::from(y + top));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use simclr_data::{Shapes, Split, compute_train_transform};

    #[test]
    fn a_sheet_shows_each_picture_and_its_views() {
        let set = Shapes::new(0, Split::Train, 4);
        let transform = compute_train_transform(1);
        let sheet = png(&set, &transform, &Sheet::REPORT).unwrap();
        let sheet = image::load_from_memory(&sheet).unwrap().to_rgb8();
        assert_eq!(sheet.dimensions(), (3 * (3 * 68 + 8), 2 * 68 + 4));
        // The middle of picture 3, in the second row, and of its second view.
        let picture = set.picture(3).unwrap();
        let view = transform.view(&picture, 0, 3, 1);
        assert_eq!(sheet.get_pixel(4 + 32, 4 + 68 + 32).0, picture.pixel(16, 16));
        assert_eq!(sheet.get_pixel(4 + 2 * 68 + 32, 4 + 68 + 32).0, view.pixel(16, 16));
    }

    #[test]
    fn tall_pictures_fit_and_captions_have_room() {
        let mut canvas = RgbImage::from_pixel(40, 40, GROUND);
        fit(&mut canvas, &Picture::filled(20, 100, [1, 2, 3]), 0, 0, 40).unwrap();
        let ink = |x, y| canvas.get_pixel(x, y).0 == [1, 2, 3];
        assert!(ink(20, 0) && ink(20, 39) && ink(16, 20) && ink(23, 20) && !ink(15, 20) && !ink(24, 20));
        let set = Shapes::new(0, Split::Train, 4);
        let sheet = Sheet { pictures: 9, first: 2, views: 1, columns: 1, tile: 160, captions: true, ..Sheet::REPORT };
        let sheet = png(&set, &compute_train_transform(1), &sheet).unwrap();
        let sheet = image::load_from_memory(&sheet).unwrap().to_rgb8();
        assert_eq!(sheet.dimensions(), (2 * 164 + 8, 2 * (160 + caption::HEIGHT) + 4));
    }
}
