//! A picture with its channels apart: the form in which views are made.

use super::Picture;
use crate::simd::simd;

/// Three planes of bytes, red, green, blue, each row by row from the top.
///
/// Neighbours in memory are neighbours in the picture, so that one instruction treats many pixels; and this is the order in
/// which a network wants its numbers.
#[derive(Clone, PartialEq, Eq)]
pub struct Planes {
    width: usize,
    height: usize,
    bytes: Vec<u8>,
}

impl Planes {
    /// Planes without a single pixel, to be filled by an [`Augmenter`](super::Augmenter).
    pub fn new() -> Self {
        Self { width: 0, height: 0, bytes: Vec::new() }
    }

    /// Pixels per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// All bytes: the red plane, the green one, the blue one.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same pixels, red, green and blue of each together.
    ///
    /// # Panics
    /// If there is no pixel.
    pub fn to_picture(&self) -> Picture {
        let mut picture = Picture::filled(1, 1, [0; 3]);
        self.write_picture(&mut picture);
        picture
    }

    /// [`Self::to_picture`] into `picture`, whose size and bytes are replaced.
    ///
    /// # Panics
    /// If there is no pixel.
    pub fn write_picture(&self, picture: &mut Picture) {
        assert!(!self.bytes.is_empty(), "planes without a pixel are no picture");
        picture.reshape(self.width as u32, self.height as u32);
        let [red, green, blue] = self.channels();
        let (pixels, _) = picture.pixels_mut().as_chunks_mut::<3>();
        for (((pixel, &red), &green), &blue) in pixels.iter_mut().zip(red).zip(green).zip(blue) {
            *pixel = [red, green, blue];
        }
    }

    /// Appends what `tables` have for each byte, a table for each channel, plane after plane.
    pub fn append_mapped(&self, tables: &[[f32; 256]; 3], out: &mut Vec<f32>) {
        out.reserve(self.bytes.len());
        simd(
            #[inline(always)]
            || {
                for (plane, table) in self.channels().into_iter().zip(tables) {
                    out.extend(plane.iter().map(|&byte| table[usize::from(byte)]));
                }
            },
        );
    }

    /// The three planes.
    #[inline(always)]
    pub fn channels(&self) -> [&[u8]; 3] {
        let (red, rest) = self.bytes.split_at(self.bytes.len() / 3);
        let (green, blue) = rest.split_at(red.len());
        [red, green, blue]
    }

    /// All bytes, to write to.
    #[inline(always)]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// The three planes, to write to.
    #[inline(always)]
    pub(super) fn channels_mut(&mut self) -> [&mut [u8]; 3] {
        let plane = self.bytes.len() / 3;
        let (red, rest) = self.bytes.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        [red, green, blue]
    }

    /// Makes these planes of another size, keeping the allocation; the bytes are whatever they were.
    pub(super) fn reshape(&mut self, width: usize, height: usize) {
        self.bytes.resize(3 * width * height, 0);
        (self.width, self.height) = (width, height);
    }
}

impl Default for Planes {
    fn default() -> Self {
        Self::new()
    }
}

impl From<&Picture> for Planes {
    fn from(picture: &Picture) -> Self {
        let mut planes = Self::new();
        planes.reshape(picture.width() as usize, picture.height() as usize);
        let [red, green, blue] = planes.channels_mut();
        let (pixels, _) = picture.pixels().as_chunks::<3>();
        for (((pixel, red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
            [*red, *green, *blue] = *pixel;
        }
        planes
    }
}

impl std::fmt::Debug for Planes {
    // As for `Picture`: not three thousand numbers.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = &self.bytes[..self.bytes.len().min(6)];
        write!(f, "Planes({} × {}, {first:?}…)", self.width, self.height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_go_apart_and_together_again() {
        let picture = Picture::new(2, 2, (1..13).collect()).unwrap();
        let planes = Planes::from(&picture);
        assert_eq!(planes.channels(), [[1, 4, 7, 10], [2, 5, 8, 11], [3, 6, 9, 12]]);
        assert_eq!(planes.to_picture(), picture);
        let tables = [1.0, 2.0, 3.0].map(|by| std::array::from_fn(|byte| by * byte as f32));
        let mut out = vec![9.0];
        planes.append_mapped(&tables, &mut out);
        assert_eq!(out, [9.0, 1.0, 4.0, 7.0, 10.0, 4.0, 10.0, 16.0, 22.0, 9.0, 18.0, 27.0, 36.0]);
    }

    #[test]
    #[should_panic(expected = "planes without a pixel")]
    fn nothing_is_no_picture() {
        Planes::new().to_picture();
    }
}
