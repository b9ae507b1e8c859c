//! Which labels of a set may be learned from.

use std::{fmt, str::FromStr};

use simclr_ops::random::stream;

use crate::{DataError, Pictures};

/// Marks the streams that draw labels, in the third counter.
const LABELS: u64 = u64::from_be_bytes(*b"labels\0\0");

/// A choice of few labels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Labels {
    /// The first part of the labelled pictures, as a share above 0 and up to 1: the course's "first 10 %".
    First(f64),
    /// So many of each class, drawn at random.
    PerClass(usize),
}

impl Labels {
    /// The pictures of `set` whose labels may be learned from, in the order of the set: a function of the set's labels, and of
    /// `seed` where they are drawn.
    ///
    /// # Errors
    /// [`DataError::Labels`] if that is not a single picture, or a class has fewer than are asked for.
    pub fn choose(self, set: &dyn Pictures, seed: u64) -> Result<Vec<usize>, DataError> {
        let labelled: Vec<(usize, u32)> = (0..set.len()).filter_map(|index| Some((index, set.label(index)?))).collect();
        let fail = |found: String| Err(DataError::Labels { name: set.name().to_owned(), choice: self, found });
        match self {
            Self::First(share) => {
                let count = (labelled.len() as f64 * share).round() as usize;
                if count == 0 {
                    return fail(format!("{} labelled pictures", labelled.len()));
                }
                Ok(labelled[..count].iter().map(|&(index, _)| index).collect())
            }
            Self::PerClass(count) => {
                let mut classes = vec![Vec::new(); set.classes().len()];
                for (index, class) in labelled {
                    classes[class as usize].push(index);
                }
                let mut chosen = Vec::with_capacity(count * classes.len());
                for (class, mut members) in classes.into_iter().enumerate() {
                    if members.len() < count {
                        return fail(format!("{} of {}", members.len(), set.classes()[class]));
                    }
                    stream(seed, [class as u64, 0, LABELS]).shuffle(&mut members);
                    chosen.extend_from_slice(&members[..count]);
                }
                if chosen.is_empty() {
                    return fail("no class".into());
                }
                chosen.sort_unstable();
                Ok(chosen)
            }
        }
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First(share) => write!(f, "{}%", share * 100.0),
            Self::PerClass(count) => write!(f, "{count}-per-class"),
        }
    }
}

impl FromStr for Labels {
    type Err = DataError;

    /// From `10%`, `0.1` or `25-per-class`.
    fn from_str(text: &str) -> Result<Self, DataError> {
        let wrong = || DataError::Setting {
            field: "labels",
            found: text.to_owned(),
            expected: "a share above 0 and up to 1 like 10% or 0.1, or a number of each class like 25-per-class",
        };
        if let Some(count) = text.strip_suffix("-per-class") {
            return count.parse().ok().filter(|&count| count > 0).map(Self::PerClass).ok_or_else(wrong);
        }
        let share = match text.strip_suffix('%') {
            Some(percent) => percent.trim_end().parse::<f64>().map(|percent| percent / 100.0),
            None => text.parse(),
        };
        share.ok().filter(|&share| share > 0.0 && share <= 1.0).map(Self::First).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Shapes, Split, Subset};

    #[test]
    fn choices_are_written_as_they_are_read() {
        for (text, choice) in [
            ("10%", Labels::First(0.1)),
            ("0.25", Labels::First(0.25)),
            ("1", Labels::First(1.0)),
            ("100%", Labels::First(1.0)),
            ("25-per-class", Labels::PerClass(25)),
        ] {
            assert_eq!(text.parse::<Labels>().unwrap(), choice);
            assert_eq!(choice.to_string().parse::<Labels>().unwrap(), choice);
        }
        for wrong in ["", "0", "0%", "101%", "-1", "NaN", "ten", "0-per-class", "-per-class", "25-per-cent"] {
            let message = wrong.parse::<Labels>().unwrap_err().to_string();
            assert!(message.starts_with(&format!("labels is {wrong}, expected a share above 0")), "{message}");
        }
    }

    #[test]
    fn the_first_part_is_the_first_part() {
        let set = Shapes::new(3, Split::Train, 50);
        assert_eq!(Labels::First(0.1).choose(&set, 7).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(Labels::First(1.0).choose(&set, 7).unwrap().len(), 50);
        let message = Labels::First(0.001).choose(&set, 7).unwrap_err().to_string();
        assert_eq!(
            message,
            "labels 0.1% of shapes: found 50 labelled pictures, and not one is chosen or a class has too few"
        );
    }

    #[test]
    fn every_class_gives_as_many() {
        let set = Shapes::new(3, Split::Train, 400);
        let chosen = Labels::PerClass(5).choose(&set, 7).unwrap();
        assert_eq!(chosen.len(), 50);
        assert!(chosen.is_sorted());
        for class in 0..10 {
            assert_eq!(chosen.iter().filter(|&&index| set.label(index) == Some(class)).count(), 5);
        }
        assert_eq!(chosen, Labels::PerClass(5).choose(&set, 7).unwrap());
        assert_ne!(chosen, Labels::PerClass(5).choose(&set, 8).unwrap());
        // Fewer of a class are the first of those that more would be.
        let fewer = Labels::PerClass(2).choose(&set, 7).unwrap();
        assert!(fewer.iter().all(|index| chosen.contains(index)));
        let message = Labels::PerClass(300).choose(&set, 7).unwrap_err().to_string();
        assert!(message.starts_with("labels 300-per-class of shapes: found "), "{message}");
    }

    #[test]
    fn pictures_without_a_label_are_passed_over() {
        let set: Arc<dyn Pictures> = Arc::new(Shapes::new(3, Split::Train, 20));
        let half = Half(set.clone());
        assert_eq!(Labels::First(0.2).choose(&half, 0).unwrap(), [10, 11]);
        let labelled = Subset::labelled(Arc::new(half)).unwrap();
        assert_eq!((labelled.len(), labelled.label(0)), (10, set.label(10)));
    }

    /// The first ten have no label.
    struct Half(Arc<dyn Pictures>);

    impl Pictures for Half {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn picture(&self, index: usize) -> Result<crate::Picture, DataError> {
            self.0.picture(index)
        }

        fn label(&self, index: usize) -> Option<u32> {
            if index < 10 { None } else { self.0.label(index) }
        }

        fn classes(&self) -> &[String] {
            self.0.classes()
        }

        fn name(&self) -> &str {
            "half"
        }
    }
}
