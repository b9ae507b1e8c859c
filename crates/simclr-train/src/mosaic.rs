//! Many small pictures in one: a page loads them as one image, a paper shows them as one figure.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::{RgbImage, imageops};
use rayon::prelude::*;
use simclr_data::Pictures;

use crate::sheet;

/// Qualities that are tried, until it is small enough.
const QUALITIES: [u8; 6] = [85, 70, 50, 30, 15, 5];

/// Square tiles side by side, without gaps.
pub(crate) struct Mosaic {
    columns: usize,
    side: u32,
    canvas: RgbImage,
}

/// Where a picture goes, the set that it is of, and which of it.
pub(crate) type Tile<'a> = (usize, &'a dyn Pictures, usize);

impl Mosaic {
    pub(crate) fn new(columns: usize, rows: usize, side: u32) -> Self {
        let canvas = RgbImage::from_pixel(columns.max(1) as u32 * side, rows.max(1) as u32 * side, sheet::GROUND);
        Self { columns: columns.max(1), side, canvas }
    }

    /// Draws pictures, each as large as fits into its tile.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub(crate) fn fill(&mut self, tiles: Vec<Tile<'_>>) -> anyhow::Result<()> {
        let drawn: Vec<(usize, RgbImage)> = tiles
            .into_par_iter()
            .map(|(place, set, index)| Ok((place, sheet::tile(&set.picture(index)?, self.side)?)))
            .collect::<anyhow::Result<_>>()?;
        for (place, tile) in drawn {
            let (column, row) = ((place % self.columns) as u32, (place / self.columns) as u32);
            imageops::replace(&mut self.canvas, &tile, i64::from(column * self.side), i64::from(row * self.side));
        }
        Ok(())
    }

    /// As the address of an image that stands in a page itself, of `most` bytes if that can be.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub(crate) fn address(&self, most: usize) -> anyhow::Result<String> {
        jpeg(&self.canvas, most)
    }

    /// As a PNG.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub(crate) fn png(&self) -> anyhow::Result<Vec<u8>> {
        sheet::encoded(&self.canvas)
    }
}

/// A picture as the address of a JPEG, at the best quality of some that needs no more than `most` bytes.
///
/// # Errors
/// If it cannot be encoded.
pub(crate) fn jpeg(canvas: &RgbImage, most: usize) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    for quality in QUALITIES {
        bytes.clear();
        JpegEncoder::new_with_quality(&mut bytes, quality)
            .encode_image(canvas)
            .context("a picture cannot be encoded as JPEG")?;
        if bytes.len() <= most {
            break;
        }
    }
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use simclr_data::{DataError, Picture};
    use simclr_ops::random::stream;

    /// Pictures that no encoder makes small.
    struct Noise;

    impl Pictures for Noise {
        fn len(&self) -> usize {
            2_000
        }
        fn picture(&self, index: usize) -> Result<Picture, DataError> {
            let mut draws = stream(index as u64, [0, 0, 0]);
            let pixels = (0..32 * 32 * 3).map(|_| draws.below(256) as u8).collect();
            Ok(Picture::new(32, 32, pixels).unwrap())
        }
        fn label(&self, _: usize) -> Option<u32> {
            None
        }
        fn classes(&self) -> &[String] {
            &[]
        }
        fn name(&self) -> &str {
            "noise"
        }
    }

    #[test]
    fn the_worst_pictures_fit_into_a_page() {
        let mut mosaic = Mosaic::new(50, 40, 40);
        mosaic.fill((0..2_000).map(|index| (index, &Noise as &dyn Pictures, index)).collect()).unwrap();
        assert!(mosaic.address(2_200_000).unwrap().len() < 3_000_000);
    }

    #[test]
    fn tiles_are_where_they_belong() {
        let mut mosaic = Mosaic::new(2, 2, 40);
        mosaic.fill(vec![(2, &Noise, 7)]).unwrap();
        let picture = Noise.picture(7).unwrap();
        let own = image::load_from_memory(&mosaic.png().unwrap()).unwrap().to_rgb8();
        assert_eq!(own.dimensions(), (80, 80));
        assert_eq!(own.get_pixel(4, 44).0, picture.pixels()[..3]);
        assert_eq!(own.get_pixel(44, 44), &sheet::GROUND);
    }
}
