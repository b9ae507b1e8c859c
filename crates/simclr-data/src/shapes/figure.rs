//! The ten figures as signed distances: negative inside, positive outside, in units of the figure's radius.
//!
//! Formulas after Inigo Quilez, "2D distance functions", <https://iquilezles.org/articles/distfunctions2d/>.

/// A point relative to the centre of a figure that stands upright.
pub(super) type Point = [f64; 2];

/// The signed distance from `point` to the edge of the figure of a class.
pub(super) fn distance(class: u32, point: Point) -> f64 {
    match class {
        0 => disc(point, 0.85),
        1 => disc(point, 0.68).abs() - 0.2,
        2 => rectangle(point, [0.75, 0.75]),
        3 => rectangle(point, [0.64, 0.64]).abs() - 0.17,
        4 => triangle(point),
        5 => rectangle(point, [0.95, 0.27]).min(rectangle(point, [0.27, 0.95])),
        6 => star(point),
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

/// Equilateral, its corners about on the unit circle.
fn triangle([x, y]: Point) -> f64 {
    let slope = 3f64.sqrt();
    let (half_side, y) = (0.9, y + 0.05);
    let (mut x, mut y) = (x.abs() - half_side, y + half_side / slope);
    if x + slope * y > 0.0 {
        (x, y) = ((x - slope * y) / 2.0, (-slope * x - y) / 2.0);
    }
    x -= x.clamp(-2.0 * half_side, 0.0);
    -length([x, y]).copysign(y)
}

/// Five-pointed, its points on the unit circle.
fn star([x, y]: Point) -> f64 {
    let (radius, inner) = (1.05, 0.45);
    let fifth = std::f64::consts::PI / 5.0;
    let (c1, s1) = (fifth.cos(), fifth.sin());
    let fold = |[x, y]: Point, [nx, ny]: Point| {
        let over = 2.0 * (nx * x + ny * y).max(0.0);
        [x - over * nx, y - over * ny]
    };
    let [x, y] = fold(fold([x.abs(), y], [c1, -s1]), [-c1, -s1]);
    let (x, y) = (x.abs(), y - radius);
    let edge = [-inner * s1 * -1.0 - 0.0, inner * c1 - 1.0];
    let along = ((x * edge[0] + y * edge[1]) / (edge[0] * edge[0] + edge[1] * edge[1])).clamp(0.0, radius);
    length([x - edge[0] * along, y - edge[1] * along]).copysign(y * edge[0] - x * edge[1])
}

fn segment([x, y]: Point, a: Point, b: Point) -> f64 {
    let (px, py, bx, by) = (x - a[0], y - a[1], b[0] - a[0], b[1] - a[1]);
    let along = ((px * bx + py * by) / (bx * bx + by * by)).clamp(0.0, 1.0);
    length([px - bx * along, py - by * along])
}
