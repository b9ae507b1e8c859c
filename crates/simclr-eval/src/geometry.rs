//! How embeddings lie on their sphere: whether views of a picture come together, and whether all the rest does too.

use candle_core::{DType, Device, Result, Tensor};
use nalgebra::DMatrix;

/// Rows that are looked at most: enough to tell, cheap enough for every few steps.
const MOST_ROWS: usize = 512;

/// How embeddings of two views of the same pictures lie (Wang and Isola 2020, arXiv:2005.10242).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Mean squared distance of the two views of a picture: 0 if they are one, 2 if they have nothing in common.
    pub alignment: f64,
    /// Logarithm of the mean of exp(-2 · squared distance) over all pairs of pictures: 0 if all are one, about -4 if they are
    /// spread evenly.
    pub uniformity: f64,
}

/// How much of their space vectors fill.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Root of the sum of the variances of all coordinates: 0 if all vectors are one, 1 if unit vectors point everywhere.
    pub std: f64,
    /// Exponential of the entropy of the singular values of the centred vectors (Roy and Vetterli 2007): as of how many
    /// directions of equal weight; 0 if all vectors are one.
    pub effective_rank: f64,
}

/// Alignment and uniformity of the first 512 pictures.
///
/// # Shapes
/// `left`, `right`: `[n, d]`, row `k` of both the views of picture `k`, rows of unit length.
///
/// # Errors
/// If the two have different shapes.
pub fn agreement(left: &Tensor, right: &Tensor) -> Result<Agreement> {
    let (left, right) = (first_rows(left)?, first_rows(right)?);
    let n = left.dim(0)?;
    let alignment = (&left - &right)?.sqr()?.sum(1)?.mean(0)?.to_scalar()?;
    // For unit vectors |a - b|² = 2 - 2 a·b.
    let potential = ((left.matmul(&left.t()?)? * 4.0)? - 4.0)?.exp()?;
    let own: f64 = ((left.sqr()?.sum(1)? * 4.0)? - 4.0)?.exp()?.sum(0)?.to_scalar()?;
    let all: f64 = potential.sum_all()?.to_scalar()?;
    let pairs = (n * n.saturating_sub(1)).max(1) as f64;
    Ok(Agreement { alignment, uniformity: ((all - own) / pairs).ln() })
}

/// Deviation and effective rank of the first 512 vectors.
///
/// # Shapes
/// `vectors`: `[n, d]`.
///
/// # Errors
/// If it is no matrix.
pub fn spread(vectors: &Tensor) -> Result<Spread> {
    let vectors = first_rows(vectors)?;
    let (n, d) = vectors.dims2()?;
    let centred = vectors.broadcast_sub(&vectors.mean_keepdim(0)?)?;
    // Both products have the same eigenvalues but for zeros: the smaller one is enough.
    let product = if n < d { centred.matmul(&centred.t()?)? } else { centred.t()?.matmul(&centred)? };
    let side = n.min(d);
    let numbers: Vec<f64> = (product / n.max(1) as f64)?.flatten_all()?.to_vec1()?;
    if numbers.iter().any(|number| !number.is_finite()) {
        return Ok(Spread { std: f64::NAN, effective_rank: f64::NAN });
    }
    let variances = DMatrix::from_vec(side, side, numbers).symmetric_eigenvalues();
    let singular: Vec<f64> = variances.iter().map(|variance| variance.max(0.0).sqrt()).collect();
    let sum: f64 = singular.iter().sum();
    let std = variances.iter().map(|variance| variance.max(0.0)).sum::<f64>().sqrt();
    // Rounding alone leaves something of vectors that are one.
    if std < 1e-9 {
        return Ok(Spread { std, effective_rank: 0.0 });
    }
    let entropy: f64 = singular.iter().map(|s| s / sum).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
    Ok(Spread { std, effective_rank: entropy.exp() })
}

fn first_rows(vectors: &Tensor) -> Result<Tensor> {
    let n = vectors.dims2()?.0;
    vectors.detach().narrow(0, 0, n.min(MOST_ROWS))?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use simclr_ops::random::stream;

    /// Unit vectors that point everywhere.
    fn everywhere(n: usize, d: usize, seed: u64) -> Tensor {
        let mut draws = stream(seed, [1, 2, 3]);
        let numbers: Vec<f64> = (0..n * d).map(|_| draws.normal()).collect();
        let t = Tensor::from_vec(numbers, (n, d), &Device::Cpu).unwrap();
        t.broadcast_div(&t.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap()).unwrap()
    }

    #[test]
    fn agreement_is_that_of_its_definition() {
        let (left, right) = (everywhere(20, 8, 1), everywhere(20, 8, 2));
        let got = agreement(&left, &right).unwrap();
        let [a, b] = [&left, &right].map(|t| t.to_vec2::<f64>().unwrap());
        let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        let alignment = a.iter().zip(&b).map(|(a, b)| distance(a, b)).sum::<f64>() / 20.0;
        let mut sum = 0.0;
        for i in 0..20 {
            sum += (0..i).map(|j| (-2.0 * distance(&a[i], &a[j])).exp()).sum::<f64>();
        }
        let uniformity = (sum / 190.0).ln();
        assert!((got.alignment - alignment).abs() < 1e-12 && (got.uniformity - uniformity).abs() < 1e-12, "{got:?}");
        assert_eq!(agreement(&left, &left).unwrap().alignment, 0.0);
    }

    #[test]
    fn collapse_and_its_opposite_are_told_apart() {
        let one = everywhere(1, 16, 3).broadcast_as((40, 16)).unwrap().contiguous().unwrap();
        let Spread { std, effective_rank } = spread(&one).unwrap();
        assert!(std < 1e-9 && effective_rank == 0.0, "{std} {effective_rank}");
        assert!(agreement(&one, &one).unwrap().uniformity.abs() < 1e-12);
        let Spread { std, effective_rank } = spread(&everywhere(2000, 16, 4)).unwrap();
        assert!((std - 1.0).abs() < 0.01 && effective_rank > 15.8, "{std} {effective_rank}");
        // On a circle in 16 dimensions, with more dimensions than vectors.
        for n in [10, 100] {
            let circle =
                Tensor::cat(&[everywhere(n, 2, 5), Tensor::zeros((n, 14), DType::F64, &Device::Cpu).unwrap()], 1);
            let rank = spread(&circle.unwrap()).unwrap().effective_rank;
            assert!(rank > 1.8 && rank <= 2.0 + 1e-6, "{rank}");
        }
    }

    #[test]
    fn what_is_not_finite_has_no_spread() {
        let nan = Tensor::full(f64::NAN, (4, 4), &Device::Cpu).unwrap();
        assert!(spread(&nan).unwrap().std.is_nan());
    }
}
