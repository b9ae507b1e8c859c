//! Sums in the order of a binary tree over ranks: the same bits on every rank.

use std::ops::AddAssign;

use crate::error::DistError;

/// `(0 + 1) + (2 + 3)`, …: what every rank gave, added in an order that nothing but their count decides.
pub(crate) fn sum<T: Copy + AddAssign>(mut parts: Vec<Vec<T>>) -> Result<Vec<T>, DistError> {
    let expected = parts.first().map_or(0, Vec::len);
    if let Some((rank, part)) = parts.iter().enumerate().find(|(_, part)| part.len() != expected) {
        return Err(DistError::Unequal { rank, found: part.len(), expected });
    }
    while parts.len() > 1 {
        let mut pairs = parts.into_iter();
        let mut sums = Vec::new();
        while let Some(mut left) = pairs.next() {
            if let Some(right) = pairs.next() {
                left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
            }
            sums.push(left);
        }
        parts = sums;
    }
    Ok(parts.pop().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_added_first() {
        let big = 1e17;
        // One after the other the ones would vanish beside the big number.
        assert_eq!(sum(vec![vec![big], vec![-big], vec![1.0], vec![1.0]]).unwrap(), [2.0]);
        assert_eq!(sum(vec![vec![1, 2], vec![10, 20], vec![100, 200]]).unwrap(), [111, 222]);
        let message = sum(vec![vec![1.0], vec![1.0, 2.0]]).unwrap_err().to_string();
        assert_eq!(message, "rank 1 gives 2 numbers where rank 0 gives 1");
    }
}
