//! Features in two dimensions, to be looked at: principal components.

use candle_core::{DType, Device, Tensor};
use nalgebra::{DMatrix, SymmetricEigen};
use simclr_ops::random::stream;

use crate::error::EvalError;

/// First counter of the stream that the search for principal directions begins with.
const BEGIN: u64 = u64::from_be_bytes(*b"pca\0\0\0\0\0");

/// Directions that are followed beside those that are wanted: the more, the sooner the wanted ones stand still.
const BESIDE: usize = 8;

/// Turns after which the directions are taken as they are.
const MOST_TURNS: usize = 300;

/// Rows as points of a plane.
#[derive(Clone, Debug, PartialEq)]
pub struct Plane {
    /// x and y of every row.
    pub points: Vec<[f32; 2]>,
    /// The share of the variance along x and along y; none where axes have no such meaning.
    pub explained: Option<[f64; 2]>,
}

/// The two principal components of rows, as scikit-learn's `PCA(n_components=2)`: along x they vary most, along y most of what is
/// left. Of both directions the coefficient that is largest without its sign is positive.
///
/// # Shapes
/// `rows`: `[n, d]`, f32, on the CPU, with `n`, `d` above 0.
///
/// # Errors
/// [`EvalError::Shape`], [`EvalError::Dtype`] or [`EvalError::NotFinite`] if they are not as above.
pub fn pca(rows: &Tensor) -> Result<Plane, EvalError> {
    let (n, d) = checked(rows)?;
    let centred = rows.to_dtype(DType::F64)?;
    let centred = centred.broadcast_sub(&centred.mean_keepdim(0)?)?;
    let total = centred.sqr()?.sum_all()?.to_scalar::<f64>()?;
    // Orthogonal iteration: a few directions through the covariance and back to right angles, until their shares stand still.
    let k = (2 + BESIDE).min(d);
    let mut draws = stream(0, [BEGIN, 0, 0]);
    let begin: Vec<f64> = (0..d * k).map(|_| draws.normal()).collect();
    let mut basis = DMatrix::from_vec(d, k, begin).qr().q();
    let transposed = centred.t()?.contiguous()?;
    let mut last = f64::NAN;
    let (mut turned, mut values);
    for _ in 0..MOST_TURNS {
        let tensor = Tensor::from_slice(basis.transpose().as_slice(), (d, k), &Device::Cpu)?;
        let image = centred.matmul(&tensor)?;
        let back = transposed.matmul(&image)?.flatten_all()?.to_vec1::<f64>()?;
        let back = DMatrix::from_row_slice(d, k, &back);
        let eigen = SymmetricEigen::new(basis.transpose() * &back);
        let mut order: Vec<usize> = (0..k).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        values = order.iter().map(|&i| eigen.eigenvalues[i].max(0.0)).collect::<Vec<f64>>();
        turned = &basis * eigen.eigenvectors.select_columns(&order);
        basis = back.qr().q();
        let now = values.iter().take(2).sum::<f64>();
        let still = (now - last).abs() <= 1e-12 * now;
        last = now;
        if still || now == 0.0 {
            return plane(&centred, &turned, &values, total, (n, d));
        }
    }
    let tensor = Tensor::from_slice(basis.transpose().as_slice(), (d, k), &Device::Cpu)?;
    let image = centred.matmul(&tensor)?.sqr()?.sum(0)?.to_vec1::<f64>()?;
    plane(&centred, &basis, &image, total, (n, d))
}

fn plane(
    centred: &Tensor,
    directions: &DMatrix<f64>,
    values: &[f64],
    total: f64,
    (n, d): (usize, usize),
) -> Result<Plane, EvalError> {
    let axis = |i: usize| -> Result<Vec<f64>, EvalError> {
        if i >= directions.ncols() {
            return Ok(vec![0.0; n]);
        }
        let direction: Vec<f64> = directions.column(i).iter().copied().collect();
        let largest = direction.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
        let sign = if largest < 0.0 { -1.0 } else { 1.0 };
        let along = centred.matmul(&Tensor::from_vec(direction, (d, 1), &Device::Cpu)?)?;
        Ok(along.flatten_all()?.to_vec1::<f64>()?.into_iter().map(|x| sign * x).collect())
    };
    let (x, y) = (axis(0)?, axis(1)?);
    let share = |i: usize| if total > 0.0 { values.get(i).copied().unwrap_or(0.0) / total } else { 0.0 };
    let points = x.iter().zip(&y).map(|(&x, &y)| [x as f32, y as f32]).collect();
    Ok(Plane { points, explained: Some([share(0), share(1)]) })
}

/// Rows and numbers of a row, all of them finite.
pub(crate) fn checked(rows: &Tensor) -> Result<(usize, usize), EvalError> {
    let &[n, d] = rows.dims() else {
        return Err(EvalError::Shape { argument: "rows", found: rows.dims().to_vec(), expected: "[n, d]".into() });
    };
    if n == 0 || d == 0 {
        return Err(EvalError::Shape { argument: "rows", found: vec![n, d], expected: "[n, d], both above 0".into() });
    }
    if rows.dtype() != DType::F32 {
        return Err(EvalError::Dtype { argument: "rows", found: rows.dtype() });
    }
    let sums = rows.sum(1)?.to_vec1::<f32>()?;
    match sums.iter().position(|sum| !sum.is_finite()) {
        Some(row) => Err(EvalError::NotFinite { argument: "rows", row }),
        None => Ok((n, d)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups_of_rows::{centres, groups};
    use crate::tsne;

    #[test]
    fn components_are_the_eigenvectors_of_the_covariance() {
        let rows = groups(&centres(5, 20), 30, 0.5);
        let plane = pca(&rows).unwrap();
        let numbers: Vec<f64> = rows.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let mut matrix = DMatrix::from_row_slice(150, 20, &numbers);
        let mean = matrix.row_mean();
        matrix.row_iter_mut().for_each(|mut row| row -= &mean);
        let eigen = SymmetricEigen::new(matrix.transpose() * &matrix);
        let mut order: Vec<usize> = (0..20).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        let total: f64 = eigen.eigenvalues.iter().sum();
        for axis in 0..2 {
            let explained = plane.explained.unwrap()[axis];
            assert!((explained - eigen.eigenvalues[order[axis]] / total).abs() < 1e-9);
            let direction = eigen.eigenvectors.column(order[axis]);
            let largest = direction.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
            let along = &matrix * direction * largest.signum();
            for (point, along) in plane.points.iter().zip(along.iter()) {
                assert!((f64::from(point[axis]) - along).abs() < 1e-4, "{point:?} {along}");
            }
        }
    }

    #[test]
    fn few_rows_equal_rows_and_one_column_are_points_too() {
        for (n, d) in [(1, 3), (2, 3), (9, 1), (40, 2)] {
            let same = Tensor::ones((n, d), DType::F32, &Device::Cpu).unwrap();
            for plane in [pca(&same).unwrap(), tsne(&same, 30.0).unwrap()] {
                assert_eq!(plane.points.len(), n);
                assert!(plane.points.iter().flatten().all(|x| x.is_finite()), "{n} {d}: {plane:?}");
            }
        }
        let nan = Tensor::new(&[[1f32], [f32::NAN]], &Device::Cpu).unwrap();
        assert!(matches!(pca(&nan), Err(EvalError::NotFinite { row: 1, .. })));
        let none = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(tsne(&none, 30.0), Err(EvalError::Shape { .. })));
    }
}
