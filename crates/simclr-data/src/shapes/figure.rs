//! The ten figures as signed distances: negative inside, positive outside, in units of the figure's radius.
//!
//! All fit into a circle of about 1.05 radii.

/// A point relative to the centre of a figure that stands upright.
pub(super) type Point = [f64; 2];

/// Equilateral.
const TRIANGLE: [Point; 3] = [[0.000, 1.050], [0.909, -0.525], [-0.909, -0.525]];

/// Five points at 1.05 radii, five hollows at 0.45.
const STAR: [Point; 10] = [
    [0.000, 1.050],
    [0.265, 0.364],
    [0.999, 0.324],
    [0.428, -0.139],
    [0.617, -0.849],
    [0.000, -0.450],
    [-0.617, -0.849],
    [-0.428, -0.139],
    [-0.999, 0.324],
    [-0.265, 0.364],
];

/// The signed distance from `point` to the edge of the figure of a class.
pub(super) fn distance(class: u32, point: Point) -> f64 {
    match class {
        0 => disc(point, 0.85),
        1 => disc(point, 0.68).abs() - 0.2,
        2 => rectangle(point, [0.75, 0.75]),
        3 => rectangle(point, [0.64, 0.64]).abs() - 0.17,
        4 => polygon(point, &TRIANGLE),
        5 => rectangle(point, [0.95, 0.27]).min(rectangle(point, [0.27, 0.95])),
        6 => polygon(point, &STAR),
        7 => disc([point[0] + 0.2, point[1]], 0.9).max(-disc([point[0] - 0.28, point[1]], 0.75)),
        8 => rectangle(point, [1.0, 0.25]),
        _ => segment([point[0].abs(), point[1] + 0.25], [0.0, -0.35], [0.72, 0.6]) - 0.21,
    }
}

fn length([x, y]: Point) -> f64 {
    (x * x + y * y).sqrt()
}

fn disc(point: Point, radius: f64) -> f64 {
    length(point) - radius
}

fn rectangle([x, y]: Point, [half_width, half_height]: [f64; 2]) -> f64 {
    let (dx, dy) = (x.abs() - half_width, y.abs() - half_height);
    length([dx.max(0.0), dy.max(0.0)]) + dx.max(dy).min(0.0)
}

/// A simple polygon: how far the nearest side is, and by even-odd whether the point is inside.
fn polygon<const N: usize>([x, y]: Point, corners: &[Point; N]) -> f64 {
    let mut nearest = f64::INFINITY;
    let mut inside = false;
    for (i, b) in corners.iter().enumerate() {
        let a = &corners[(i + N - 1) % N];
        nearest = nearest.min(segment([x, y], *a, *b));
        // Whether the ray to the right crosses this side.
        if (a[1] > y) != (b[1] > y) && x < a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) {
            inside = !inside;
        }
    }
    if inside { -nearest } else { nearest }
}

fn segment([x, y]: Point, a: Point, b: Point) -> f64 {
    let (px, py, bx, by) = (x - a[0], y - a[1], b[0] - a[0], b[1] - a[1]);
    let along = ((px * bx + py * by) / (bx * bx + by * by)).clamp(0.0, 1.0);
    length([px - bx * along, py - by * along])
}
