//! The nearest rows of many, for search.

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use simclr_ops::l2_normalize::SHORTEST;

use crate::error::EvalError;
use crate::knn::{Neighbour, by_nearness, nearest};

/// Rows that one thread looks at before it takes others.
const PART: usize = 16_384;

/// The `k` rows of `bank` (all, if there are fewer) that are nearest to each of `queries`: cosine and row, nearest first.
///
/// Every row is looked at: there is no approximation. Of equally near rows the first comes first. A row of zeros has cosine 0 to
/// all.
///
/// # Shapes
/// `bank`: `[n, d]`, `queries`: `[m, d]`, f32, on the CPU, with `n`, `m` above 0. Returns `m` lists.
///
/// # Errors
/// [`EvalError::Shape`], [`EvalError::Dtype`] or [`EvalError::NotFinite`] if they are not as above.
pub fn neighbours(bank: &Tensor, queries: &Tensor, k: usize) -> Result<Vec<Vec<(f32, usize)>>, EvalError> {
    let [bank, queries] = [("bank", bank), ("queries", queries)].map(|(argument, rows)| unit_rows(argument, rows));
    let ((bank, d), (queries, other)) = (bank?, queries?);
    if d != other {
        let found = vec![queries.len() / other, other];
        return Err(EvalError::Shape { argument: "queries", found, expected: format!("[m, {d}] as the bank") });
    }
    let of_part = |(i, part): (usize, &[f32])| -> Vec<Vec<Neighbour>> {
        let mut found = nearest(&queries, part, d, k.clamp(1, part.len() / d));
        found.iter_mut().flatten().for_each(|(_, row)| *row += i * PART);
        found
    };
    let parts: Vec<Vec<Vec<Neighbour>>> = bank.par_chunks(PART * d).enumerate().map(of_part).collect();
    let of_query = |query: usize| {
        let mut found: Vec<Neighbour> = parts.iter().flat_map(|part| &part[query]).copied().collect();
        found.sort_unstable_by(by_nearness);
        found.truncate(k);
        found
    };
    Ok((0..queries.len() / d).map(of_query).collect())
}

/// Rows of unit length, one after the other, and how many numbers a row has; rows of zeros stay zeros.
pub(crate) fn unit_rows(argument: &'static str, rows: &Tensor) -> Result<(Vec<f32>, usize), EvalError> {
    let &[n, d] = rows.dims() else {
        let found = rows.dims().to_vec();
        return Err(EvalError::Shape { argument, found, expected: "[n, d]".into() });
    };
    if n == 0 || d == 0 {
        return Err(EvalError::Shape { argument, found: vec![n, d], expected: "[n, d], n and d above 0".into() });
    }
    if rows.dtype() != DType::F32 {
        return Err(EvalError::Dtype { argument, found: rows.dtype() });
    }
    let mut unit = rows.flatten_all()?.to_vec1::<f32>()?;
    // As `simclr_ops::l2_normalize`, in place: of many rows one copy is enough.
    unit.par_chunks_mut(d).for_each(|row| {
        let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        if norm <= SHORTEST {
            row.fill(0.0);
        } else {
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        }
    });
    match unit.par_chunks(d).position_first(|row| row.iter().any(|number| !number.is_finite())) {
        Some(row) => Err(EvalError::NotFinite { argument, row }),
        None => Ok((unit, d)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use simclr_ops::random::stream;

    #[test]
    fn every_row_is_looked_at() {
        // More than one part, with a twin of the query in the second and a longer one of it in the third.
        let (n, d) = (2 * PART + 100, 8);
        let mut draws = stream(1, [0, 0, 0]);
        let mut numbers: Vec<f32> = (0..n * d).map(|_| draws.normal() as f32).collect();
        let query: Vec<f32> = (0..d).map(|_| draws.normal() as f32).collect();
        numbers[(PART + 7) * d..(PART + 8) * d].copy_from_slice(&query);
        let longer: Vec<f32> = query.iter().map(|number| 4.0 * number).collect();
        numbers[(2 * PART + 99) * d..].copy_from_slice(&longer);
        numbers[..d].fill(0.0);
        let bank = Tensor::from_vec(numbers.clone(), (n, d), &Device::Cpu).unwrap();
        let other = numbers[5 * d..6 * d].to_vec();
        let queries = Tensor::from_vec([query.clone(), other].concat(), (2, d), &Device::Cpu).unwrap();
        let found = neighbours(&bank, &queries, 50).unwrap();
        assert_eq!(found[0][..2].iter().map(|(_, row)| *row).collect::<Vec<_>>(), [PART + 7, 2 * PART + 99]);
        assert_eq!(found[1][0].1, 5);
        assert!(found[0][1].0 > 0.999_999 && found[0][2].0 < 1.0);

        // The same by sorting the cosines of all, in f64.
        let norm = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let cosine = |row: &[f32]| {
            let product: f64 = row.iter().zip(&query).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            if norm(row) == 0.0 { 0.0 } else { product / norm(row) / norm(&query) }
        };
        let mut cosines: Vec<f64> = numbers.chunks(d).map(cosine).collect();
        cosines.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(found[0].len(), 50);
        for ((found, _), expected) in found[0].iter().zip(cosines) {
            assert!((f64::from(*found) - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn few_rows_are_all_and_wrong_ones_are_named() {
        let rows = |numbers: &[[f32; 2]]| {
            Tensor::from_slice(numbers.as_flattened(), (numbers.len(), 2), &Device::Cpu).unwrap()
        };
        let bank = rows(&[[0.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]);
        let found = neighbours(&bank, &rows(&[[2.0, 0.0]]), 10).unwrap();
        let order: Vec<usize> = found[0].iter().map(|(_, row)| *row).collect();
        assert_eq!(order, [1, 0, 2]);
        let message = neighbours(&bank, &rows(&[[f32::NAN, 0.0]]), 1).unwrap_err().to_string();
        assert!(message.contains("feature 0 of queries is not finite"), "{message}");
        let narrow = Tensor::new(&[[1f32]], &Device::Cpu).unwrap();
        let message = neighbours(&bank, &narrow, 1).unwrap_err().to_string();
        assert!(message.contains("queries has shape [1, 1], expected [m, 2]"), "{message}");
        let flat = Tensor::new(&[1f32], &Device::Cpu).unwrap();
        assert!(matches!(neighbours(&flat, &bank, 1), Err(EvalError::Shape { argument: "bank", .. })));
    }
}
