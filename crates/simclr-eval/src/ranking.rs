//! Where the true class stands among all.

/// How many classes come before `class`: those with a higher score, and those of the same with a lower number.
pub(crate) fn rank<T: PartialOrd>(scores: &[T], class: usize) -> usize {
    let own = &scores[class];
    scores.iter().enumerate().filter(|&(c, score)| score > own || (score == own && c < class)).count()
}

/// How often the true class was first, and among the first five.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hits {
    pub(crate) top1: usize,
    pub(crate) top5: usize,
}

impl Hits {
    /// Counts one more, whose class has `rank`.
    pub(crate) fn add(&mut self, rank: usize) {
        self.top1 += usize::from(rank < 1);
        self.top5 += usize::from(rank < 5);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_are_ordered_by_their_number() {
        let scores = [0.5, 2.0, 0.5, -1.0];
        assert_eq!([0, 1, 2, 3].map(|class| rank(&scores, class)), [1, 0, 2, 3]);
    }

    #[test]
    fn hits_count_the_first_and_the_first_five() {
        let mut hits = Hits::default();
        [0, 4, 5, 0].into_iter().for_each(|rank| hits.add(rank));
        assert_eq!(hits, Hits { top1: 2, top5: 3 });
    }
}
