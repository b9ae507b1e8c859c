//! Moves of whole pixels.

use super::Picture;

/// Exchanges left and right, in place (PIL's `FLIP_LEFT_RIGHT`).
pub fn horizontal_flip(picture: &mut Picture) {
    let row_len = 3 * picture.width() as usize;
    for row in picture.pixels_mut().chunks_exact_mut(row_len) {
        let (pixels, _) = row.as_chunks_mut::<3>();
        pixels.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::{Picture, horizontal_flip};

    #[test]
    fn rows_turn_round_and_channels_stay() {
        let mut picture = Picture::new(3, 2, (0..18).collect()).unwrap();
        horizontal_flip(&mut picture);
        assert_eq!(picture.pixels(), [6, 7, 8, 3, 4, 5, 0, 1, 2, 15, 16, 17, 12, 13, 14, 9, 10, 11]);
    }
}
