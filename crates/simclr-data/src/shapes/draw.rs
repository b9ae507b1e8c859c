//! From factors to pixels.

use std::f64::consts::TAU;

use simclr_ops::{augment::Picture, random::Stream};

use super::{
    SIDE,
    factors::{Background, ShapeFactors, Texture},
    figure,
};

const PIXELS: usize = (SIDE * SIDE) as usize;

/// A figure somewhere in the picture.
struct Copy {
    center: [f64; 2],
    cos: f64,
    sin: f64,
}

/// The picture of `factors`; `draws` places the copies and makes the noise.
pub(super) fn picture(factors: &ShapeFactors, draws: &mut Stream) -> Picture {
    let copies = copies(factors, draws);
    let paint = Paint::draw(factors, draws);
    let mut pixels = Vec::with_capacity(3 * PIXELS);
    let mut grain = Grain::new(factors.noise, draws);
    for row in 0..SIDE {
        for column in 0..SIDE {
            let at = [f64::from(column) + 0.5, f64::from(row) + 0.5];
            let distance = copies.iter().map(|copy| copy.distance(factors, at)).fold(f64::INFINITY, f64::min);
            // A pixel on the edge is covered in part: the edge is one pixel soft.
            let cover = (0.5 - distance).clamp(0.0, 1.0);
            let (figure, ground) = (paint.figure(factors, at), paint.ground(factors, at));
            for channel in 0..3 {
                let value = ground[channel] + cover * (figure[channel] - ground[channel]) + grain.next();
                pixels.push((value.clamp(0.0, 1.0) * 255.0).round() as u8);
            }
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

impl Copy {
    /// Signed distance in pixels from the edge of the figure.
    fn distance(&self, factors: &ShapeFactors, at: [f64; 2]) -> f64 {
        let (x, y) = (at[0] - self.center[0], at[1] - self.center[1]);
        // Too far away to touch the pixel; any value above a half will do.
        let reach = 1.2 * factors.size + 1.0;
        if x * x + y * y > reach * reach {
            return 1.0;
        }
        let point = [(self.cos * x + self.sin * y) / factors.size, (self.cos * y - self.sin * x) / factors.size];
        factors.size * figure::distance(factors.class, point)
    }
}

/// The colours of a picture and the directions and phases of its patterns.
struct Paint {
    figure: [f64; 3],
    ground: [f64; 3],
    figure_wave: Wave,
    ground_waves: [Wave; 3],
}

/// A plane wave: direction times frequency, and phase, in turns per pixel and turns.
struct Wave {
    along: [f64; 2],
    phase: f64,
}

impl Wave {
    fn draw(draws: &mut Stream, wavelength: f64) -> Self {
        let (sin, cos) = (TAU * draws.uniform()).sin_cos();
        Self { along: [cos / wavelength, sin / wavelength], phase: draws.uniform() }
    }

    fn at(&self, [x, y]: [f64; 2]) -> f64 {
        (TAU * (self.along[0] * x + self.along[1] * y + self.phase)).sin()
    }
}

impl Paint {
    fn draw(factors: &ShapeFactors, draws: &mut Stream) -> Self {
        let mut between = |low: f64, high: f64| low + (high - low) * draws.uniform();
        let figure = color(factors.hue, between(0.6, 1.0), between(0.6, 1.0));
        let brightness = luma(figure);
        // Far enough from the figure in brightness that the figure is there without colours too.
        let ground_hue = between(0.0, 1.0);
        let tint = between(0.0, 0.25);
        let contrast = between(0.3, 0.5);
        let ground = if brightness > 0.5 { brightness - contrast } else { brightness + contrast };
        let ground = color(ground_hue, tint, ground.clamp(0.05, 1.0));
        Self {
            figure,
            ground,
            figure_wave: Wave::draw(draws, 3.0),
            ground_waves: [Wave::draw(draws, 64.0), Wave::draw(draws, 24.0), Wave::draw(draws, 16.0)],
        }
    }

    fn figure(&self, factors: &ShapeFactors, at: [f64; 2]) -> [f64; 3] {
        let shade = match factors.texture {
            Texture::Plain => 1.0,
            Texture::Stripes => 1.0 - 0.12 * self.figure_wave.at(at).signum(),
            Texture::Checks => {
                let across = Wave { along: [-self.figure_wave.along[1], self.figure_wave.along[0]], phase: 0.25 };
                1.0 - 0.12 * (self.figure_wave.at(at) * across.at(at)).signum()
            }
        };
        self.figure.map(|channel| shade * channel)
    }

    fn ground(&self, factors: &ShapeFactors, at: [f64; 2]) -> [f64; 3] {
        let [slow, middle, fast] = &self.ground_waves;
        let light = match factors.background {
            Background::Plain => 0.0,
            Background::Gradient => 0.12 * slow.at(at),
            Background::Clouds => 0.06 * (slow.at(at) + middle.at(at) + fast.at(at)),
        };
        self.ground.map(|channel| channel + light)
    }
}

/// A colour from hue, saturation and value, all from 0 to 1.
fn color(hue: f64, saturation: f64, value: f64) -> [f64; 3] {
    let channel = |offset: f64| {
        let sixth = (6.0 * hue + offset).rem_euclid(6.0);
        value * (1.0 - saturation * sixth.min(4.0 - sixth).clamp(0.0, 1.0))
    };
    [channel(5.0), channel(3.0), channel(1.0)]
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
