//! Sums over the pixels of every picture, taken where a map is made: while it is still in a cache.

use std::sync::OnceLock;

use super::cpu;
use crate::element::Stored;

/// `[Σ x, Σ x²]` per channel for every picture of a map.
#[derive(Clone, Debug)]
pub struct Moments {
    of_pictures: Vec<OnceLock<Vec<f64>>>,
    /// Numbers of a channel in a picture.
    pixels: usize,
}

impl Moments {
    /// Those of so many pictures, none of which has been seen.
    pub(crate) fn of(pictures: usize, pixels: usize) -> Self {
        Self { of_pictures: vec![OnceLock::new(); pictures], pixels }
    }

    /// Looks at a picture, of which a map of `S` will be kept.
    pub(crate) fn take<S: Stored>(&self, picture: usize, numbers: &[S::Wide]) {
        let channels = numbers.len() / self.pixels.max(1);
        self.of_pictures[picture].get_or_init(|| cpu::moments_when_kept::<S>(numbers, channels));
    }

    /// `[Σ x, Σ x²]` of each of `groups` equal parts of the batch, with the number of values behind; none if a picture was not seen.
    pub(super) fn of_groups(&self, groups: usize, channels: usize) -> Option<Vec<f64>> {
        let pictures = (self.of_pictures.len() / groups).max(1);
        let mut all = Vec::new();
        for group in self.of_pictures.chunks(pictures) {
            let mut sums = vec![0.0; 2 * channels];
            for picture in group {
                sums.iter_mut().zip(picture.get()?).for_each(|(sum, picture)| *sum += picture);
            }
            all.extend(sums);
            all.push((group.len() * self.pixels) as f64);
        }
        Some(all)
    }
}
