//! Features in two dimensions, to be looked at: t-SNE.

use candle_core::Tensor;
use pulp::Arch;
use rayon::prelude::*;

use crate::error::EvalError;
use crate::neighbours::neighbours;
use crate::projection::{Plane, checked, pca};

/// Steps in all, and those at the beginning that pull harder, so that groups find together.
const STEPS: usize = 1_000;
const EXAGGERATED: usize = 250;
const EXAGGERATION: f32 = 12.0;

/// Numbers that are summed side by side: a vector of AVX-512.
const LANES: usize = 16;

/// t-SNE (van der Maaten and Hinton 2008) of the directions of rows: those that are near by the cosine lie together. What lies far apart
/// says little, and so do sizes and densities of groups.
///
/// As scikit-learn's `TSNE(init="pca", learning_rate="auto")` on rows of unit length, with all repulsion computed and none approximated:
/// time grows with the square of the rows. A perplexity that so few rows do not allow is lowered. The same bits for any number of
/// threads.
///
/// # Shapes
/// `rows`: `[n, d]`, f32, on the CPU, with `n`, `d` above 0.
///
/// # Errors
/// [`EvalError::Shape`], [`EvalError::Dtype`] or [`EvalError::NotFinite`] if they are not as above.
pub fn tsne(rows: &Tensor, perplexity: f64) -> Result<Plane, EvalError> {
    let (n, _) = checked(rows)?;
    let begin = pca(rows)?.points;
    let perplexity = perplexity.min((n as f64 - 1.0) / 3.0);
    // Too few for neighbours of neighbours, or all the same.
    let deviation = (begin.iter().map(|[x, _]| f64::from(*x).powi(2)).sum::<f64>() / n as f64).sqrt();
    if perplexity < 2.0 || deviation == 0.0 {
        return Ok(Plane { points: begin, explained: None });
    }
    let affinities = Affinities::of(rows, perplexity)?;
    let scale = (1e-4 / deviation) as f32;
    let axis = |i: usize| -> Vec<f32> { begin.iter().map(|point| scale * point[i]).collect() };
    let mut descent = Descent::new([axis(0), axis(1)]);
    for step in 0..STEPS {
        let early = step < EXAGGERATED;
        let gradient = gradient(&descent.at, &affinities, if early { EXAGGERATION } else { 1.0 });
        descent.follow(&gradient, if early { 0.5 } else { 0.8 });
    }
    let [x, y] = &descent.at;
    Ok(Plane { points: x.iter().zip(y).map(|(&x, &y)| [x, y]).collect(), explained: None })
}

/// How near rows are to one another, as the chance to pick a pair: of every row those that are not 0, by their index.
struct Affinities {
    of: Vec<Vec<(u32, f32)>>,
}

impl Affinities {
    /// Gaussians around every row, as wide as gives them the perplexity; the two chances of a pair are made one.
    fn of(rows: &Tensor, perplexity: f64) -> Result<Self, EvalError> {
        let n = rows.dim(0)?;
        // As many as scikit-learn looks at.
        let near = ((3.0 * perplexity + 1.0) as usize).min(n - 1);
        let found = neighbours(rows, rows, near + 1)?;
        let chances: Vec<Vec<(u32, f64)>> = found
            .into_par_iter()
            .enumerate()
            .map(|(row, found)| {
                let others: Vec<_> = found.into_iter().filter(|(_, other)| *other != row).take(near).collect();
                // Squared distances of unit vectors, less the smallest: the chances are the same.
                let squares: Vec<f64> =
                    others.iter().map(|(cosine, _)| 2.0 * f64::from(others[0].0 - cosine)).collect();
                let chances = with_perplexity(&squares, perplexity);
                others.iter().map(|(_, other)| *other as u32).zip(chances).collect()
            })
            .collect();
        let mut both: Vec<Vec<(u32, f64)>> = chances.clone();
        for (row, chances) in chances.iter().enumerate() {
            chances.iter().for_each(|&(other, chance)| both[other as usize].push((row as u32, chance)));
        }
        let of = both.into_iter().map(|mut chances| {
            // The two directions of a pair side by side.
            chances.sort_by_key(|(other, _)| *other);
            let mut summed: Vec<(u32, f32)> = Vec::with_capacity(chances.len());
            for (other, chance) in chances {
                let chance = (chance / (2.0 * n as f64)) as f32;
                match summed.last_mut() {
                    Some((last, sum)) if *last == other => *sum += chance,
                    _ => summed.push((other, chance)),
                }
            }
            summed
        });
        Ok(Self { of: of.collect() })
    }
}

/// The chances exp(-b · square), normalised, whose entropy is that of as many equal ones as the perplexity says.
fn with_perplexity(squares: &[f64], perplexity: f64) -> Vec<f64> {
    let (mut low, mut high, mut b) = (0.0, f64::INFINITY, 1.0);
    let mut chances = vec![0.0; squares.len()];
    for _ in 0..200 {
        chances.iter_mut().zip(squares).for_each(|(chance, square)| *chance = (-b * square).exp());
        let sum: f64 = chances.iter().sum();
        let mean = chances.iter().zip(squares).map(|(chance, square)| chance * square).sum::<f64>() / sum;
        chances.iter_mut().for_each(|chance| *chance /= sum);
        let more = sum.ln() + b * mean - perplexity.ln();
        if more.abs() < 1e-5 {
            break;
        }
        if more > 0.0 {
            low = b;
            b = if high.is_finite() { (b + high) / 2.0 } else { 2.0 * b };
        } else {
            high = b;
            b = (b + low) / 2.0;
        }
    }
    chances
}

/// The gradient of the Kullback-Leibler divergence of the chances on the plane from the affinities.
fn gradient(at: &[Vec<f32>; 2], affinities: &Affinities, exaggeration: f32) -> Vec<[f32; 2]> {
    let n = at[0].len();
    let forces: Vec<([f32; 2], [f32; 3])> = (0..n)
        .into_par_iter()
        .with_min_len(64)
        .map(|i| {
            let own = [at[0][i], at[1][i]];
            let mut pull = [0f32; 2];
            for &(j, affinity) in &affinities.of[i] {
                let [dx, dy] = [own[0] - at[0][j as usize], own[1] - at[1][j as usize]];
                let weight = exaggeration * affinity / (1.0 + dx * dx + dy * dy);
                pull = [pull[0] + weight * dx, pull[1] + weight * dy];
            }
            (
                pull,
                Arch::new().dispatch(
                    #[inline(always)]
                    || push(at, own),
                ),
            )
        })
        .collect();
    // Without the pairs of a point with itself.
    let all: f64 = forces.iter().map(|(_, [.., weight])| f64::from(*weight) - 1.0).sum();
    let share = (1.0 / all.max(f64::MIN_POSITIVE)) as f32;
    forces.into_iter().map(|(pull, [x, y, _])| [4.0 * (pull[0] - share * x), 4.0 * (pull[1] - share * y)]).collect()
}

/// How all points push one away, and the sum of their weights; its own among them, which pushes nowhere.
#[inline(always)]
fn push(at: &[Vec<f32>; 2], own: [f32; 2]) -> [f32; 3] {
    let mut sums = [[0f32; LANES]; 3];
    let (xs, ys) = (at[0].as_chunks::<LANES>(), at[1].as_chunks::<LANES>());
    let mut add = |lane: usize, x: f32, y: f32| {
        let [dx, dy] = [own[0] - x, own[1] - y];
        let weight = 1.0 / (1.0 + dx * dx + dy * dy);
        let square = weight * weight;
        sums[0][lane] += square * dx;
        sums[1][lane] += square * dy;
        sums[2][lane] += weight;
    };
    for (xs, ys) in xs.0.iter().zip(ys.0) {
        for lane in 0..LANES {
            add(lane, xs[lane], ys[lane]);
        }
    }
    for (lane, (&x, &y)) in xs.1.iter().zip(ys.1).enumerate() {
        add(lane, x, y);
    }
    sums.map(|lanes| lanes.iter().sum())
}

/// Points on their way down, each coordinate with a step size of its own (Jacobs 1988).
struct Descent {
    at: [Vec<f32>; 2],
    moved: Vec<[f32; 2]>,
    gains: Vec<[f32; 2]>,
    rate: f32,
}

impl Descent {
    fn new(at: [Vec<f32>; 2]) -> Self {
        let n = at[0].len();
        let rate = (n as f32 / EXAGGERATION / 4.0).max(50.0);
        Self { at, moved: vec![[0.0; 2]; n], gains: vec![[1.0; 2]; n], rate }
    }

    fn follow(&mut self, gradient: &[[f32; 2]], momentum: f32) {
        for (i, slopes) in gradient.iter().enumerate() {
            let own = self.gains[i].iter_mut().zip(&mut self.moved[i]).zip(slopes);
            for (((gain, moved), slope), at) in own.zip(&mut self.at) {
                *gain = if *moved * slope < 0.0 { *gain + 0.2 } else { (*gain * 0.8).max(0.01) };
                *moved = momentum * *moved - self.rate * *gain * slope;
                at[i] += *moved;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups_of_rows::{centres, groups};
    use simclr_ops::random::stream;

    #[test]
    fn groups_stay_together_on_the_plane() {
        let rows = groups(&centres(4, 16), 60, 0.3);
        let plane = tsne(&rows, 30.0).unwrap();
        assert_eq!(plane, tsne(&rows, 30.0).unwrap(), "the same bits");
        let distance = |a: [f32; 2], b: [f32; 2]| (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2);
        let nearest_is_own = plane.points.iter().enumerate().filter(|&(i, &point)| {
            let others = plane.points.iter().enumerate().filter(|(j, _)| *j != i);
            let nearest = others.min_by(|a, b| distance(point, *a.1).total_cmp(&distance(point, *b.1))).unwrap().0;
            nearest % 4 == i % 4
        });
        assert!(nearest_is_own.count() >= 236, "of 240");
    }

    #[test]
    fn threads_change_no_bit() {
        let rows = groups(&centres(3, 10), 50, 0.5);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| tsne(&rows, 20.0).unwrap())
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn the_gradient_is_that_of_the_divergence() {
        let rows = groups(&centres(3, 10), 15, 0.5);
        let affinities = Affinities::of(&rows, 10.0).unwrap();
        let total: f64 = affinities.of.iter().flatten().map(|(_, p)| f64::from(*p)).sum();
        assert!((total - 1.0).abs() < 1e-5, "{total}");
        let mut draws = stream(9, [0, 0, 0]);
        let axis =
            |draws: &mut simclr_ops::random::Stream| (0..45).map(|_| draws.normal() as f32).collect::<Vec<f32>>();
        let at = [axis(&mut draws), axis(&mut draws)];
        let divergence = |x: &[f64], y: &[f64]| -> f64 {
            let weight = |i: usize, j: usize| 1.0 / (1.0 + (x[i] - x[j]).powi(2) + (y[i] - y[j]).powi(2));
            let pairs = (0..45).flat_map(|i| (0..45).map(move |j| (i, j))).filter(|(i, j)| i != j);
            let all: f64 = pairs.map(|(i, j)| weight(i, j)).sum();
            let term =
                |i: usize, &(j, p): &(u32, f32)| f64::from(p) * (f64::from(p) / (weight(i, j as usize) / all)).ln();
            affinities.of.iter().enumerate().flat_map(|(i, own)| own.iter().map(move |pair| term(i, pair))).sum()
        };
        let wide = |axis: &[f32]| axis.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let (x, y) = (wide(&at[0]), wide(&at[1]));
        let found = gradient(&at, &affinities, 1.0);
        for (i, found) in found.iter().enumerate().step_by(4) {
            let slope = |axis: usize| {
                let moved = |by: f64| {
                    let (mut x, mut y) = (x.clone(), y.clone());
                    if axis == 0 {
                        x[i] += by
                    } else {
                        y[i] += by
                    }
                    divergence(&x, &y)
                };
                (moved(1e-5) - moved(-1e-5)) / 2e-5
            };
            for (axis, found) in found.iter().enumerate() {
                assert!((f64::from(*found) - slope(axis)).abs() < 1e-6, "{i} {axis}: {found} {}", slope(axis));
            }
        }
    }

    #[test]
    fn chances_have_the_perplexity() {
        let squares: Vec<f64> = (0..60).map(|i| f64::from(i) * 1e-4).collect();
        let chances = with_perplexity(&squares, 20.0);
        let entropy: f64 = -chances.iter().map(|p| p * p.ln()).sum::<f64>();
        assert!((entropy.exp() - 20.0).abs() < 1e-3 && (chances.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
