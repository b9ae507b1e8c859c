//! The picture that everything passes around: 8-bit RGB in memory.

/// An RGB picture of 8 bits per channel.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Picture {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

/// Why bytes are not a picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// A picture has at least one pixel.
    #[error("a picture of {width} × {height} pixels is empty: both sides must be at least 1")]
    Empty {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// Three bytes per pixel, no more and no less.
    #[error("a picture of {width} × {height} pixels needs 3·{width}·{height} = {expected} bytes, found {found}")]
    Length {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// How many bytes that makes.
        expected: u64,
        /// How many there are.
        found: usize,
    },
}

impl Picture {
    /// A picture from its bytes: red, green, blue, red, …, row by row from the top.
    ///
    /// # Errors
    /// [`PictureError`] if a side is 0 or there are not `3 · width · height` bytes.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self, PictureError> {
        if width == 0 || height == 0 {
            return Err(PictureError::Empty { width, height });
        }
        // Two 32-bit sides and a factor of 3 fit in 66 bits; the saturated product still differs from any real length.
        let expected = (u64::from(width) * u64::from(height)).saturating_mul(3);
        if pixels.len() as u64 != expected {
            return Err(PictureError::Length { width, height, expected, found: pixels.len() });
        }
        Ok(Self { width, height, pixels })
    }

    /// A picture of one colour.
    ///
    /// # Panics
    /// If a side is 0.
    pub fn filled(width: u32, height: u32, color: [u8; 3]) -> Self {
        assert!(width > 0 && height > 0, "a picture of {width} × {height} pixels is empty");
        Self { width, height, pixels: color.repeat(width as usize * height as usize) }
    }

    /// Pixels per row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The bytes: red, green, blue, red, …, row by row from the top.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The bytes, to write to.
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }

    /// The bytes, without the picture.
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// The three channels at column `x` of row `y`.
    ///
    /// # Panics
    /// If there is no such pixel.
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        assert!(x < self.width && y < self.height, "no pixel ({x}, {y}) in {} × {}", self.width, self.height);
        let at = 3 * (y as usize * self.width as usize + x as usize);
        [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]]
    }

    /// Makes this a picture of another size, keeping the allocation; the bytes are whatever they were.
    pub(super) fn reshape(&mut self, width: u32, height: u32) {
        self.pixels.resize(3 * width as usize * height as usize, 0);
        (self.width, self.height) = (width, height);
    }
}

impl std::fmt::Debug for Picture {
    // A failing assertion should not print three thousand numbers.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = &self.pixels[..self.pixels.len().min(6)];
        write!(f, "Picture({} × {}, {first:?}…)", self.width, self.height)
    }
}

#[cfg(test)]
mod tests {
    use super::{Picture, PictureError};

    #[test]
    fn bytes_must_fit_the_sides() {
        let picture = Picture::new(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!((picture.pixel(0, 0), picture.pixel(1, 0)), ([1, 2, 3], [4, 5, 6]));
        let error = Picture::new(2, 2, vec![0; 11]).unwrap_err();
        assert_eq!(error.to_string(), "a picture of 2 × 2 pixels needs 3·2·2 = 12 bytes, found 11");
        assert_eq!(Picture::new(0, 4, vec![]).unwrap_err(), PictureError::Empty { width: 0, height: 4 });
        assert!(Picture::new(u32::MAX, u32::MAX, vec![]).is_err());
    }
}
