//! Groups of features without labels.

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use simclr_ops::random::stream;
use simclr_ops::{Context, l2_normalize};

use crate::error::EvalError;
use crate::neighbours::neighbours;

/// First counter of the stream that the first centres are drawn from.
const CENTRES: u64 = u64::from_be_bytes(*b"centres\0");

/// Turns after which the groups are taken as they are.
const MOST_TURNS: usize = 100;

/// Rows by the direction that they point in.
#[derive(Clone, Debug)]
pub struct Clusters {
    /// The group of every row, the largest group first.
    pub of: Vec<u32>,
    /// The mean directions of the groups, `[k, d]`, rows of unit length.
    pub centres: Tensor,
    /// The cosine of every row with the centre of its group.
    pub cosines: Vec<f32>,
}

/// Spherical k-means (Dhillon and Modha 2001) from centres drawn as k-means++ draws them: every row belongs to the centre of the
/// largest cosine, every centre is the mean direction of its rows.
///
/// There are `k` groups at most; fewer if fewer directions differ. Depends on nothing but its arguments.
///
/// # Shapes
/// `rows`: `[n, d]`, f32, on the CPU, with `n`, `d` above 0.
///
/// # Errors
/// [`EvalError::Shape`], [`EvalError::Dtype`] or [`EvalError::NotFinite`] if they are not as above, [`EvalError::Neighbours`] unless
/// `k` is from 1 to `n`.
pub fn clusters(rows: &Tensor, k: usize, seed: u64) -> Result<Clusters, EvalError> {
    let n = rows.dims().first().copied().unwrap_or(0);
    if k == 0 || k > n {
        return Err(EvalError::Neighbours { k, bank: n });
    }
    let mut centres = first_centres(rows, k, seed)?;
    let mut of: Vec<u32> = Vec::new();
    for _ in 0..MOST_TURNS {
        let nearest = nearest(&centres, rows)?;
        let now: Vec<u32> = nearest.iter().map(|&(_, centre)| centre as u32).collect();
        let (occupied, moved) = means(rows, &now, centres.dim(0)?)?;
        centres = moved;
        let still = now == of;
        // Without the groups that nobody is in.
        of = now.iter().map(|&group| occupied.iter().position(|&o| o == group).unwrap_or(0) as u32).collect();
        if still {
            break;
        }
    }
    let groups = centres.dim(0)?;
    let mut sizes = vec![0usize; groups];
    of.iter().for_each(|&group| sizes[group as usize] += 1);
    let mut order: Vec<u32> = (0..groups as u32).collect();
    order.sort_by_key(|&group| std::cmp::Reverse(sizes[group as usize]));
    let centres = centres.index_select(&Tensor::new(order.as_slice(), &Device::Cpu)?, 0)?;
    let found = nearest(&centres, rows)?;
    let (cosines, of) = found.into_iter().map(|(cosine, group)| (cosine, group as u32)).unzip();
    Ok(Clusters { of, centres, cosines })
}

/// The nearest centre of every row, and its cosine.
fn nearest(centres: &Tensor, rows: &Tensor) -> Result<Vec<(f32, usize)>, EvalError> {
    Ok(neighbours(centres, rows, 1)?.into_iter().map(|found| found[0]).collect())
}

/// Rows that are far from one another: each drawn by its squared distance to the nearest of those before it.
fn first_centres(rows: &Tensor, k: usize, seed: u64) -> Result<Tensor, EvalError> {
    let n = rows.dim(0)?;
    let mut draws = stream(seed, [CENTRES, 0, 0]);
    let mut chosen = vec![draws.below(n as u64) as u32];
    let mut distances = vec![f64::INFINITY; n];
    while chosen.len() < k {
        let last = rows.narrow(0, chosen[chosen.len() - 1] as usize, 1)?;
        for (distance, (cosine, _)) in distances.iter_mut().zip(nearest(&last, rows)?) {
            *distance = distance.min(f64::from(1.0 - cosine).max(0.0));
        }
        let total: f64 = distances.iter().sum();
        if total <= 1e-6 * n as f64 {
            break;
        }
        let mut left = total * draws.uniform();
        let drawn = distances.iter().position(|distance| {
            left -= distance;
            left < 0.0
        });
        chosen.push(drawn.unwrap_or(n - 1) as u32);
    }
    Ok(rows.index_select(&Tensor::new(chosen.as_slice(), &Device::Cpu)?, 0)?)
}

/// The mean directions of groups that have rows, and which groups these are.
fn means(rows: &Tensor, of: &[u32], groups: usize) -> Result<(Vec<u32>, Tensor), EvalError> {
    let d = rows.dim(1)?;
    let unit = l2_normalize::forward(&Context::new(), rows)?.0.flatten_all()?.to_vec1::<f32>()?;
    // A group is summed by one thread, row by row: the same bits for any number of threads.
    let sums: Vec<(u32, Vec<f64>)> = (0..groups as u32)
        .into_par_iter()
        .filter_map(|group| {
            let mut sum = vec![0f64; d];
            let own = unit.chunks_exact(d).zip(of).filter(|(_, of)| **of == group);
            let count = own.map(|(row, _)| sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x))).count();
            (count > 0).then_some((group, sum))
        })
        .collect();
    let occupied: Vec<u32> = sums.iter().map(|(group, _)| *group).collect();
    let numbers: Vec<f32> = sums.into_iter().flat_map(|(_, sum)| sum).map(|x| x as f32).collect();
    let means = Tensor::from_vec(numbers, (occupied.len(), d), &Device::Cpu)?;
    Ok((occupied, l2_normalize::forward(&Context::new(), &means)?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_are_apart_are_found() {
        let mut draws = stream(1, [0, 0, 0]);
        let (groups, d) = (5usize, 12);
        let centres: Vec<f32> = (0..groups * d).map(|_| draws.normal() as f32).collect();
        // The first group has most rows, the second next most, and so on.
        let of: Vec<usize> = (0..groups).flat_map(|group| vec![group; 50 - 5 * group]).collect();
        let rows: Vec<f32> = of
            .iter()
            .flat_map(|&group| {
                let long = 1.0 + 3.0 * draws.uniform() as f32;
                let row: Vec<f32> =
                    centres[group * d..][..d].iter().map(|x| long * (x + 0.1 * draws.normal() as f32)).collect();
                row
            })
            .collect();
        let rows = Tensor::from_vec(rows, (of.len(), d), &Device::Cpu).unwrap();
        let found = clusters(&rows, groups, 0).unwrap();
        assert_eq!(found.of, of.iter().map(|&group| group as u32).collect::<Vec<_>>());
        assert!(found.cosines.iter().all(|cosine| *cosine > 0.9));
        assert_eq!(found.centres.dims(), [groups, d]);
    }

    #[test]
    fn there_are_no_more_groups_than_directions() {
        let rows = Tensor::new(&[[1f32, 0.0], [2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], &Device::Cpu).unwrap();
        let found = clusters(&rows, 4, 7).unwrap();
        assert_eq!((found.of, found.centres.dims()), (vec![0, 0, 1, 0], &[2, 2][..]));
        assert!(matches!(clusters(&rows, 5, 0), Err(EvalError::Neighbours { k: 5, bank: 4 })));
        assert!(matches!(clusters(&rows, 0, 0), Err(EvalError::Neighbours { k: 0, .. })));
    }
}
