//! What a picture of the built-in set is drawn from.

use simclr_ops::random::Stream;

use super::SIDE;

/// Everything that one would say about a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShapeFactors {
    /// Which figure: a position in the class names.
    pub class: u32,
    /// Hue of the figures, as a part of the circle from red over green and blue: from 0.55 (blue) to 0.8 (violet), about as
    /// wide as what colour jitter of 0.1 either way makes of one hue.
    pub hue: f64,
    /// How the figures are filled.
    pub texture: Texture,
    /// What is behind them.
    pub background: Background,
    /// Centre of the main figure, in pixels from the left and from the top.
    pub place: [f64; 2],
    /// Radius of the figures, in pixels: from 4.5 to 6.
    pub size: f64,
    /// How far the main figure is turned, in turns, in `[0, 1)`.
    pub rotation: f64,
    /// Standard deviation of the noise, as a part of full brightness: from 0.01 to 0.03.
    pub noise: f64,
}

/// How figures are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Texture {
    /// One colour.
    Plain,
    /// Two shades in bands.
    Stripes,
    /// Two shades in squares.
    Checks,
}

/// What is behind the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Background {
    /// One shade.
    Plain,
    /// From one shade to another.
    Gradient,
    /// Patches of lighter and darker shades without edges.
    Clouds,
}

impl Texture {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Stripes, Self::Checks];
}

impl Background {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Gradient, Self::Clouds];
}

impl ShapeFactors {
    /// Draws all factors but the class; none depends on it.
    pub(super) fn draw(draws: &mut Stream, class: u32) -> Self {
        let mut between = |low: f64, high: f64| low + (high - low) * draws.uniform();
        let side = f64::from(SIDE);
        Self {
            class,
            hue: between(0.55, 0.8),
            place: [between(0.0, side), between(0.0, side)],
            size: between(4.5, 6.0),
            rotation: between(0.0, 1.0),
            noise: between(0.01, 0.03),
            texture: Texture::ALL[draws.below(Texture::ALL.len() as u64) as usize],
            background: Background::ALL[draws.below(Background::ALL.len() as u64) as usize],
        }
    }
}
