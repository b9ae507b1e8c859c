//! The built-in set: ten classes of small pictures, drawn from known factors.
//!
//! It needs no file and no network, and everything about a picture is known, so that one can ask what a representation
//! keeps and what it forgets. A picture shows several copies of one figure; which figure it is, is its class. The copies
//! differ in place and rotation, so that every crop shows the class and hardly two crops the same pixels. Two views of a
//! picture share more than the class: hue, brightness, fill and background would tell pictures apart as well, and faster.
//! Hues span about what colour jitter makes of one hue, brightness hardly differs, and the rest comes from small families in
//! faint shades; so the class is the best thing to learn, unless the colour jitter is switched off.

mod draw;
mod factors;
mod figure;

use simclr_ops::{augment::Picture, random::stream};

use crate::{DataError, Pictures, Split, pictures::check_index};
pub use factors::{Background, ShapeFactors, Texture};

/// Width and height of a picture.
pub(crate) const SIDE: u32 = 32;

/// Marks the streams of pictures, in the third counter; its last byte tells the splits apart.
const SHAPES: u64 = u64::from_be_bytes(*b"shapes\0\0");

const CLASSES: [&str; 10] =
    ["disc", "ring", "square", "frame", "triangle", "cross", "star", "crescent", "bar", "chevron"];

/// Ten classes of 32×32 RGB pictures, each a function of the seed, the split and its index.
///
/// Consecutive pictures go through the classes in turn, so that every run of them is balanced. A larger set begins with the
/// pictures of a smaller one.
///
/// ```
/// use simclr_data::{Pictures, Shapes, Split};
/// let set = Shapes::new(7, Split::Train, 100);
/// let picture = set.picture(23)?;
/// assert_eq!((picture.width(), picture.height()), (32, 32));
/// assert_eq!(set.classes()[set.label(23).unwrap() as usize], "frame");
/// # Ok::<(), simclr_data::DataError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Shapes {
    seed: u64,
    split: Split,
    len: usize,
    classes: Vec<String>,
}

impl Shapes {
    /// The first `len` pictures of a split.
    pub fn new(seed: u64, split: Split, len: usize) -> Self {
        Self { seed, split, len, classes: CLASSES.map(String::from).to_vec() }
    }

    /// What picture `index` was drawn from.
    ///
    /// # Panics
    /// If there is no such picture.
    pub fn factors(&self, index: usize) -> ShapeFactors {
        assert!(index < self.len, "there are {} pictures and no picture {index}", self.len);
        ShapeFactors::draw(&mut self.stream(index), class(index))
    }

    fn stream(&self, index: usize) -> simclr_ops::random::Stream {
        let split = match self.split {
            Split::Train => 0,
            Split::Test => 1,
        };
        stream(self.seed, [index as u64, 0, SHAPES | split])
    }
}

/// Every run of ten has each class once.
fn class(index: usize) -> u32 {
    (index % CLASSES.len()) as u32
}

impl Pictures for Shapes {
    fn len(&self) -> usize {
        self.len
    }

    fn picture(&self, index: usize) -> Result<Picture, DataError> {
        check_index(self.name(), index, self.len)?;
        // What is left of the stream after the factors places the copies and makes the noise.
        let mut draws = self.stream(index);
        let factors = ShapeFactors::draw(&mut draws, class(index));
        Ok(draw::picture(&factors, &mut draws))
    }

    fn label(&self, index: usize) -> Option<u32> {
        (index < self.len).then(|| class(index))
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self) -> &str {
        "shapes"
    }
}
