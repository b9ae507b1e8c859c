//! Which classes are taken for which.

use candle_core::Tensor;

use crate::error::EvalError;
use crate::ranking::{Hits, rank};

/// How the pictures of every class were classified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// Row `c` has the pictures of class `c`, by the class that came first.
    pub counts: Vec<Vec<u64>>,
    hits: Hits,
}

impl Confusion {
    /// No pictures of so many classes.
    pub fn new(classes: usize) -> Self {
        Self { counts: vec![vec![0; classes]; classes], hits: Hits::default() }
    }

    /// Of scores, the highest of which comes first; of equal ones, the lower class.
    ///
    /// # Shapes
    /// `scores`: `[n, classes]`, with a label for each row.
    ///
    /// # Errors
    /// [`EvalError::Shape`] or [`EvalError::Label`] if they are not as above.
    pub fn of_scores(scores: &Tensor, labels: &[u32]) -> Result<Self, EvalError> {
        let (n, classes) = scores.dims2()?;
        if n != labels.len() {
            let expected = format!("[{}, classes], a row for each label", labels.len());
            return Err(EvalError::Shape { argument: "scores", found: scores.dims().to_vec(), expected });
        }
        let mut all = Self::new(classes);
        for (scores, &label) in scores.to_dtype(candle_core::DType::F64)?.to_vec2::<f64>()?.iter().zip(labels) {
            if label as usize >= classes {
                return Err(EvalError::Label { argument: "scores", found: label, classes });
            }
            all.add(scores, label as usize);
        }
        Ok(all)
    }

    /// Counts one picture more.
    pub(crate) fn add<T: PartialOrd>(&mut self, scores: &[T], label: usize) {
        let first = (0..scores.len()).find(|&class| rank(scores, class) == 0).unwrap_or(label);
        self.counts[label][first] += 1;
        self.hits.add(rank(scores, label));
    }

    /// Counts the pictures of another, of the same classes, too.
    pub fn merge(&mut self, other: &Self) {
        for (sum, row) in self.counts.iter_mut().zip(&other.counts) {
            sum.iter_mut().zip(row).for_each(|(sum, count)| *sum += count);
        }
        self.hits.top1 += other.hits.top1;
        self.hits.top5 += other.hits.top5;
    }

    /// The counts together with those of others, by `sum`, which replaces each of some numbers by the sum over all processes.
    ///
    /// # Errors
    /// Those of `sum`.
    pub fn summed<E>(mut self, sum: impl FnOnce(&mut [f64]) -> Result<(), E>) -> Result<Self, E> {
        let classes = self.counts.len();
        let counts = self.counts.iter().flatten().map(|&count| count as f64);
        let mut numbers: Vec<f64> = counts.chain([self.hits.top1 as f64, self.hits.top5 as f64]).collect();
        sum(&mut numbers)?;
        let sums = |row: &[f64]| row.iter().map(|&sum| sum as u64).collect();
        self.counts = numbers[..classes * classes].chunks(classes.max(1)).map(sums).collect();
        self.hits = Hits { top1: numbers[classes * classes] as usize, top5: numbers[classes * classes + 1] as usize };
        Ok(self)
    }

    /// All pictures.
    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// Share of the pictures whose class came first; 0 of none.
    pub fn top1(&self) -> f64 {
        self.hits.top1 as f64 / self.total().max(1) as f64
    }

    /// Share of the pictures whose class was among the first five; 0 of none.
    pub fn top5(&self) -> f64 {
        self.hits.top5 as f64 / self.total().max(1) as f64
    }

    /// For every class the share of its pictures that were taken for it; none for a class without pictures.
    pub fn per_class(&self) -> Vec<Option<f64>> {
        let rows = self.counts.iter().enumerate();
        let share = |(class, row): (usize, &Vec<u64>)| match row.iter().sum::<u64>() {
            0 => None,
            total => Some(row[class] as f64 / total as f64),
        };
        rows.map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn pictures_are_counted_by_their_class_and_the_first() {
        let scores = [[3.0, 1.0, 2.0], [0.0, 1.0, 1.0], [5.0, 1.0, 2.0], [0.0, 0.0, 0.0]];
        let scores = Tensor::new(&scores, &Device::Cpu).unwrap();
        let confusion = Confusion::of_scores(&scores, &[0, 2, 2, 0]).unwrap();
        assert_eq!(confusion.counts, [[2, 0, 0], [0, 0, 0], [1, 1, 0]]);
        assert_eq!((confusion.total(), confusion.top1(), confusion.top5()), (4, 0.5, 1.0));
        assert_eq!(confusion.per_class(), [Some(1.0), None, Some(0.0)]);
        assert_eq!(Confusion::new(3).top1(), 0.0);
        let twice = |numbers: &mut [f64]| -> Result<(), ()> {
            numbers.iter_mut().for_each(|number| *number *= 2.0);
            Ok(())
        };
        let doubled = confusion.clone().summed(twice).unwrap();
        assert_eq!((doubled.counts[2].as_slice(), doubled.total(), doubled.top1()), ([2, 2, 0].as_slice(), 8, 0.5));
        assert_eq!((doubled.top5(), Confusion::new(0).summed(twice).unwrap()), (1.0, Confusion::new(0)));
        let message = Confusion::of_scores(&scores, &[0, 3, 0, 0]).unwrap_err().to_string();
        assert!(message.contains("label 3, expected 0 to 2"), "{message}");
    }
}
