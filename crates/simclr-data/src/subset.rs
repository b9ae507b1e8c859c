//! A part of a set, as a set.

use std::{ops::Range, sync::Arc};

use simclr_ops::augment::Picture;

use crate::{DataError, Pictures, pictures::check_index};

/// Some pictures of another set, counted from 0 again.
#[derive(Clone)]
pub struct Subset {
    set: Arc<dyn Pictures>,
    members: Members,
}

/// Where the pictures of a part are in the whole.
#[derive(Clone)]
enum Members {
    Range(Range<usize>),
    These(Arc<[usize]>),
}

impl Members {
    fn len(&self) -> usize {
        match self {
            Self::Range(range) => range.len(),
            Self::These(indices) => indices.len(),
        }
    }

    /// The place in the whole of a picture that the part has.
    fn place(&self, index: usize) -> usize {
        match self {
            Self::Range(range) => range.start + index,
            Self::These(indices) => indices[index],
        }
    }
}

impl Subset {
    /// The first `count` pictures.
    ///
    /// # Errors
    /// [`DataError::Range`] if `count` is 0 or more than there are.
    pub fn first(set: Arc<dyn Pictures>, count: usize) -> Result<Self, DataError> {
        Self::range(set, 0..count)
    }

    /// The pictures from `range.start` to before `range.end`.
    ///
    /// # Errors
    /// [`DataError::Range`] if that is none or reaches beyond the end of the set.
    pub fn range(set: Arc<dyn Pictures>, range: Range<usize>) -> Result<Self, DataError> {
        if range.is_empty() || range.end > set.len() {
            let (name, len) = (set.name().to_owned(), set.len());
            return Err(DataError::Range { name, start: range.start, end: range.end, len });
        }
        Ok(Self { set, members: Members::Range(range) })
    }

    /// The pictures at `indices`, in that order.
    ///
    /// # Errors
    /// [`DataError::Range`] if there is none, [`DataError::Index`] if the set lacks one.
    pub fn of(set: Arc<dyn Pictures>, indices: Vec<usize>) -> Result<Self, DataError> {
        indices.iter().try_for_each(|&index| check_index(set.name(), index, set.len()))?;
        if indices.is_empty() {
            return Err(DataError::Range { name: set.name().to_owned(), start: 0, end: 0, len: set.len() });
        }
        Ok(Self { set, members: Members::These(indices.into()) })
    }

    /// The pictures that have a label.
    ///
    /// # Errors
    /// [`DataError::NoLabels`] if none has.
    pub fn labelled(set: Arc<dyn Pictures>) -> Result<Self, DataError> {
        let labelled: Vec<usize> = (0..set.len()).filter(|&index| set.label(index).is_some()).collect();
        match labelled.len() {
            0 => Err(DataError::NoLabels { name: set.name().to_owned(), len: set.len() }),
            all if all == set.len() => Self::first(set, all),
            _ => Self::of(set, labelled),
        }
    }
}

impl Pictures for Subset {
    fn len(&self) -> usize {
        self.members.len()
    }

    fn picture(&self, index: usize) -> Result<Picture, DataError> {
        check_index(self.name(), index, self.len())?;
        self.set.picture(self.members.place(index))
    }

    fn label(&self, index: usize) -> Option<u32> {
        if index < self.len() { self.set.label(self.members.place(index)) } else { None }
    }

    fn classes(&self) -> &[String] {
        self.set.classes()
    }

    fn name(&self) -> &str {
        self.set.name()
    }

    fn place(&self, index: usize) -> String {
        if index < self.len() { self.set.place(self.members.place(index)) } else { format!("{}/{index}", self.name()) }
    }
}

impl std::fmt::Debug for Subset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.members {
            Members::Range(range) => write!(f, "Subset({}, {range:?})", self.name()),
            Members::These(indices) => write!(f, "Subset({}, {} pictures)", self.name(), indices.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Shapes, Split};

    #[test]
    fn a_subset_counts_from_zero_and_ends_where_it_should() {
        let set: Arc<dyn Pictures> = Arc::new(Shapes::new(3, Split::Train, 10));
        let part = Subset::range(set.clone(), 4..7).unwrap();
        assert_eq!((part.len(), part.is_empty(), part.name()), (3, false, set.name()));
        assert_eq!(part.picture(2).unwrap(), set.picture(6).unwrap());
        assert_eq!((part.label(2), part.label(3)), (set.label(6), None));
        assert_eq!((part.place(2), set.place(6)), ("shapes/6".into(), "shapes/6".into()));
        assert_eq!(part.classes(), set.classes());
        let error = part.picture(3).unwrap_err().to_string();
        assert_eq!(error, "shapes has 3 pictures; there is no picture 3 (the first is 0)");
        assert_eq!(Subset::first(set.clone(), 10).unwrap().len(), 10);
        assert_eq!(Subset::first(Arc::new(part), 2).unwrap().picture(0).unwrap(), set.picture(4).unwrap());
    }

    #[test]
    fn any_pictures_in_any_order() {
        let set: Arc<dyn Pictures> = Arc::new(Shapes::new(3, Split::Train, 10));
        let part = Subset::of(set.clone(), vec![7, 2, 7]).unwrap();
        assert_eq!((part.len(), part.label(0), part.label(3)), (3, set.label(7), None));
        assert_eq!(part.picture(1).unwrap(), set.picture(2).unwrap());
        assert_eq!(part.place(1), "shapes/2");
        assert_eq!(part.picture(2).unwrap(), set.picture(7).unwrap());
        assert!(matches!(part.picture(3), Err(DataError::Index { index: 3, len: 3, .. })));
        assert!(matches!(Subset::of(set.clone(), vec![10]), Err(DataError::Index { index: 10, len: 10, .. })));
        assert!(matches!(Subset::of(set.clone(), vec![]), Err(DataError::Range { .. })));
        assert_eq!(Subset::labelled(set).unwrap().len(), 10);
    }

    #[test]
    fn a_part_beyond_the_set_names_both_numbers() {
        let set: Arc<dyn Pictures> = Arc::new(Shapes::new(3, Split::Train, 10));
        let error = Subset::first(set.clone(), 11).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pictures 0..11 of shapes: the set has 10 pictures, and a part of it must have at least one"
        );
        #[expect(clippy::reversed_empty_ranges, reason = "the caller's mistake is the point")]
        for range in [0..0, 3..3, 9..2] {
            assert!(matches!(Subset::range(set.clone(), range), Err(DataError::Range { .. })));
        }
    }
}
