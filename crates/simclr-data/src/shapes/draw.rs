//! From factors to pixels.

use std::f64::consts::TAU;

use simclr_ops::{augment::Picture, random::Stream};

use super::{
    SIDE,
    factors::{Background, ShapeFactors, Texture},
    figure,
};

/// A figure somewhere in the picture.
struct Copy {
    center: [f64; 2],
    cos: f64,
    sin: f64,
}

/// The picture of `factors`; `draws` places the copies and makes the noise.
pub(super) fn picture(factors: &ShapeFactors, draws: &mut Stream) -> Picture {
    let cover = cover(factors, &copies(factors, draws));
    let paint = Paint::draw(factors, draws);
    let mut grain = Grain::new(factors.noise, draws);
    let mut pixels = Vec::with_capacity(3 * cover.len());
    for (at, cover) in cover.into_iter().enumerate() {
        let (column, row) = (at % SIDE as usize, at / SIDE as usize);
        let ground = paint.ground(column, row);
        for figure in paint.figure(column, row) {
            let value = ground + cover * (figure - ground) + grain.next();
            // A half more and cut is rounded.
            pixels.push((value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8);
        }
    }
    Picture::new(SIDE, SIDE, pixels).expect("three bytes were written per pixel")
}

/// The main figure and its copies on a lattice around it, each turned differently.
fn copies(factors: &ShapeFactors, draws: &mut Stream) -> Vec<Copy> {
    let pitch = 2.3 * factors.size;
    let side = f64::from(SIDE);
    let mut copies = Vec::new();
    // The lattice is turned too, or its rows would give the place away.
    let (lattice_sin, lattice_cos) = (TAU * draws.uniform()).sin_cos();
    let reach = (1.5 * side / pitch).ceil() as i32;
    for (i, j) in (-reach..=reach).flat_map(|i| (-reach..=reach).map(move |j| (i, j))) {
        let (u, v) = (pitch * f64::from(i), pitch * f64::from(j));
        let center = [
            factors.place[0] + lattice_cos * u - lattice_sin * v,
            factors.place[1] + lattice_sin * u + lattice_cos * v,
        ];
        let turn = if (i, j) == (0, 0) { factors.rotation } else { draws.uniform() };
        let visible = center.iter().all(|&c| c > -factors.size - 1.0 && c < side + factors.size + 1.0);
        if visible {
            let (sin, cos) = (TAU * turn).sin_cos();
            copies.push(Copy { center, cos, sin });
        }
    }
    copies
}

/// How much of each pixel the figures cover, row by row.
fn cover(factors: &ShapeFactors, copies: &[Copy]) -> Vec<f64> {
    let mut cover = vec![0.0f64; (SIDE * SIDE) as usize];
    // Nothing of a figure is farther from its centre, with its soft edge.
    let reach = 1.1 * factors.size + 1.0;
    for copy in copies {
        let pixels = |center: f64| {
            let pixel = |at: f64| at.clamp(0.0, f64::from(SIDE)) as usize;
            pixel((center - reach).floor())..pixel((center + reach).ceil())
        };
        let columns = pixels(copy.center[0]);
        for row in pixels(copy.center[1]) {
            let cover = &mut cover[row * SIDE as usize..][columns.clone()];
            for (cover, column) in cover.iter_mut().zip(columns.clone()) {
                let at = [column as f64 + 0.5, row as f64 + 0.5];
                // A pixel on the edge is covered in part: the edge is one pixel soft.
                *cover = cover.max((0.5 - copy.distance(factors, at)).clamp(0.0, 1.0));
            }
        }
    }
    cover
}

impl Copy {
    /// Signed distance in pixels from the edge of the figure.
    fn distance(&self, factors: &ShapeFactors, at: [f64; 2]) -> f64 {
        let (x, y) = (at[0] - self.center[0], at[1] - self.center[1]);
        let point = [(self.cos * x + self.sin * y) / factors.size, (self.cos * y - self.sin * x) / factors.size];
        factors.size * figure::distance(factors.class, point)
    }
}

/// The colours of a picture and its patterns. What is behind the figures is gray.
///
/// Brightness differs little from picture to picture: with brightness free, it would be the first thing by which pictures are
/// told apart, before the hue.
struct Paint {
    figure: [f64; 3],
    ground: f64,
    texture: Texture,
    background: Background,
    figure_waves: [Wave; 2],
    ground_waves: [Wave; 3],
}

impl Paint {
    fn draw(factors: &ShapeFactors, draws: &mut Stream) -> Self {
        let mut between = |low: f64, high: f64| low + (high - low) * draws.uniform();
        let figure = color(factors.hue, between(0.58, 0.62), 0.45);
        let ground = between(0.15, 0.19);
        let mut wave = |wavelength, angle: f64| Wave::new(wavelength, angle, draws.uniform());
        let (along, behind) = (factors.rotation, factors.rotation + 0.1);
        Self {
            figure,
            ground,
            texture: factors.texture,
            background: factors.background,
            figure_waves: [wave(3.0, along), wave(3.0, along + 0.25)],
            ground_waves: [wave(64.0, behind), wave(24.0, behind + 0.4), wave(16.0, behind + 0.7)],
        }
    }

    fn figure(&self, column: usize, row: usize) -> [f64; 3] {
        let [along, across] = &self.figure_waves;
        let sign = match self.texture {
            Texture::Plain => 0.0,
            Texture::Stripes => along.at(column, row).signum(),
            Texture::Checks => (along.at(column, row) * across.at(column, row)).signum(),
        };
        self.figure.map(|channel| channel * (1.0 - 0.08 * sign))
    }

    fn ground(&self, column: usize, row: usize) -> f64 {
        let [slow, middle, fast] = &self.ground_waves;
        let light = match self.background {
            Background::Plain => 0.0,
            Background::Gradient => 0.06 * slow.at(column, row),
            Background::Clouds => 0.03 * [slow, middle, fast].iter().map(|wave| wave.at(column, row)).sum::<f64>(),
        };
        self.ground + light
    }
}

/// A plane wave at the pixels of a picture, as sines and cosines of its phase by column and by row: the sine of the sum of
/// the two phases needs no more.
struct Wave {
    columns: [(f64, f64); SIDE as usize],
    rows: [(f64, f64); SIDE as usize],
}

impl Wave {
    /// `wavelength` in pixels, `angle` of its direction and `phase` in turns.
    fn new(wavelength: f64, angle: f64, phase: f64) -> Self {
        let (sin, cos) = (TAU * angle).sin_cos();
        let phases = |step: f64, first: f64| {
            std::array::from_fn(|n| (TAU * (first + step * (n as f64 + 0.5) / wavelength)).sin_cos())
        };
        Self { columns: phases(cos, phase), rows: phases(sin, 0.0) }
    }

    fn at(&self, column: usize, row: usize) -> f64 {
        let ((column_sin, column_cos), (row_sin, row_cos)) = (self.columns[column], self.rows[row]);
        column_sin * row_cos + column_cos * row_sin
    }
}

/// A colour of a hue, a brightness (luma) that does not depend on the hue, and a strength.
fn color(hue: f64, brightness: f64, strength: f64) -> [f64; 3] {
    let channel = |offset: f64| {
        let sixth = (6.0 * hue + offset).rem_euclid(6.0);
        1.0 - sixth.min(4.0 - sixth).clamp(0.0, 1.0)
    };
    let pure = [channel(5.0), channel(3.0), channel(1.0)];
    let middle = luma(pure);
    pure.map(|channel| brightness + strength * (channel - middle))
}

fn luma([red, green, blue]: [f64; 3]) -> f64 {
    0.299 * red + 0.587 * green + 0.114 * blue
}

/// Noise of a given deviation around 0: the sum of two random bytes, centred, is a triangle.
struct Grain<'a> {
    scale: f64,
    draws: &'a mut Stream,
    bits: u64,
    left: u32,
}

impl<'a> Grain<'a> {
    fn new(deviation: f64, draws: &'a mut Stream) -> Self {
        // Two even bytes have a variance of 2 · (256² - 1) / 12.
        Self { scale: deviation / (65_535.0f64 / 6.0).sqrt(), draws, bits: 0, left: 0 }
    }

    fn next(&mut self) -> f64 {
        if self.left == 0 {
            (self.bits, self.left) = (self.draws.bits(), 4);
        }
        let two = self.bits as u16;
        self.bits >>= 16;
        self.left -= 1;
        self.scale * (f64::from(two & 0xff) + f64::from(two >> 8) - 255.0)
    }
}
