//! The ten figures as signed distances: negative inside, positive outside, in units of the figure's radius.
//!
//! All fit into a circle of about 1.05 radii.

/// A point relative to the centre of a figure that stands upright.
pub(super) type Point = [f64; 2];

/// Equilateral.
const TRIANGLE: [Point; 3] = [[0.000, 1.050], [0.909, -0.525], [-0.909, -0.525]];

/// Five points at 1.05 radii, five hollows at 0.36.
const STAR: [Point; 10] = [
    [0.000, 1.050],
    [0.212, 0.291],
    [0.999, 0.324],
    [0.342, -0.111],
    [0.617, -0.849],
    [0.000, -0.360],
    [-0.617, -0.849],
    [-0.342, -0.111],
    [-0.999, 0.324],
    [-0.212, 0.291],
];

/// The signed distance from `point` to the edge of the figure of a class.
pub(super) fn distance(class: u32, point: Point) -> f64 {
    match class {
        0 => disc(point, 0.72),
        1 => disc(point, 0.68).abs() - 0.2,
        2 => rectangle(point, [0.75, 0.75]),
        3 => rectangle(point, [0.64, 0.64]).abs() - 0.17,
        4 => polygon(point, &TRIANGLE),
        5 => rectangle(point, [0.95, 0.27]).min(rectangle(point, [0.27, 0.95])),
        6 => polygon(point, &STAR),
        7 => disc([point[0] + 0.2, point[1]], 0.9).max(-disc([point[0] - 0.28, point[1]], 0.75)),
        8 => rectangle(point, [1.0, 0.25]),
        _ => segment_squared([point[0].abs(), point[1] + 0.25], [0.0, -0.35], [0.72, 0.6]).sqrt() - 0.21,
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
    let (mut nearest_squared, mut inside) = (f64::INFINITY, false);
    for (i, b) in corners.iter().enumerate() {
        let a = &corners[(i + N - 1) % N];
        nearest_squared = nearest_squared.min(segment_squared([x, y], *a, *b));
        // Whether the ray to the right crosses this side.
        if (a[1] > y) != (b[1] > y) && x < a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) {
            inside = !inside;
        }
    }
    let nearest = nearest_squared.sqrt();
    if inside { -nearest } else { nearest }
}

/// The squared distance from the segment between two points.
fn segment_squared([x, y]: Point, a: Point, b: Point) -> f64 {
    let (px, py, bx, by) = (x - a[0], y - a[1], b[0] - a[0], b[1] - a[1]);
    let along = ((px * bx + py * by) / (bx * bx + by * by)).clamp(0.0, 1.0);
    (px - bx * along).powi(2) + (py - by * along).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_fit_their_circle_and_distances_are_distances() {
        for class in 0..10 {
            let mut inside = 0;
            for (i, j) in (-60..=60).flat_map(|i| (-60..=60).map(move |j| (i, j))) {
                let point = [f64::from(i) / 50.0 + 0.003, f64::from(j) / 50.0 + 0.007];
                let here = distance(class, point);
                inside += i32::from(here < 0.0);
                assert!(here > 0.0 || length(point) < 1.1, "class {class} has {point:?}");
                // A distance changes no faster than one moves.
                for step in [[0.02, 0.0], [0.0, 0.02]] {
                    let there = distance(class, [point[0] + step[0], point[1] + step[1]]);
                    assert!((here - there).abs() < 0.02 + 1e-9, "class {class} at {point:?}: {here} {there}");
                }
            }
            // The area in squared radii: thin figures and full ones, none empty.
            let area = f64::from(inside) / 2500.0;
            assert!((0.8..2.6).contains(&area), "class {class}: {area}");
        }
    }

    #[test]
    fn a_polygon_knows_inside_from_outside() {
        let square = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]];
        assert_eq!(polygon([0.0, 0.0], &square), -1.0);
        assert_eq!(polygon([3.0, 0.5], &square), 2.0);
        assert_eq!(polygon([4.0, 5.0], &square), 5.0);
        assert_eq!(rectangle([4.0, 5.0], [1.0, 1.0]), 5.0);
    }
}
