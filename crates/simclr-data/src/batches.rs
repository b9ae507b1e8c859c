//! A set once through: in order and without chance for evaluation, or shuffled and augmented.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use simclr_ops::augment::Picture;

use crate::{DataError, Pictures, TestTransform, TrainTransform, epoch_order, prefetch::Prefetch};

/// Some pictures of a set.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[n, 3, height, width]`, `f32`, normalised, on the CPU.
    pub pictures: Tensor,
    /// The class of each picture, where it is known.
    pub labels: Vec<Option<u32>>,
    /// Which pictures of the set these are.
    pub indices: Vec<usize>,
}

/// Goes through `set` in batches of `batch` pictures; the last one has what is left.
///
/// # Errors
/// Items are errors if `batch` is 0 ([`DataError::Setting`]), if the pictures of a batch differ in size
/// ([`DataError::Size`]), or if the set cannot give a picture. Nothing comes after an error.
///
/// ```
/// use simclr_data::{Shapes, Split, batches, compute_test_transform};
/// let set = Shapes::new(1, Split::Test, 10);
/// let sizes: Vec<usize> = batches(&set, &compute_test_transform(), 4)
///     .map(|batch| batch.map(|batch| batch.indices.len()))
///     .collect::<Result<_, _>>()?;
/// assert_eq!(sizes, [4, 4, 2]);
/// # Ok::<(), simclr_data::DataError>(())
/// ```
pub fn batches<'a>(set: &'a dyn Pictures, transform: &'a TestTransform, batch: usize) -> Batches<'a> {
    Batches { set, transform: Transform::Test(transform), order: (0..set.len()).collect(), batch, next: 0 }
}

/// Every `step`th batch of [`batches`] from batch `first` on, made ahead on `workers` threads; at most two more than those wait.
///
/// # Errors
/// Items are errors as in [`batches`]; [`DataError::Thread`] if a thread cannot be started.
pub fn batches_ahead(
    set: Arc<dyn Pictures>,
    transform: TestTransform,
    batch: usize,
    first: usize,
    step: usize,
    workers: usize,
) -> Result<impl Iterator<Item = Result<Batch, DataError>>, DataError> {
    let len = set.len();
    // A batch of 0 is one job, which says what is wrong with it.
    let (end, step) = (if batch == 0 { first + 1 } else { len.div_ceil(batch) }, step.max(1));
    ahead(0..end.saturating_sub(first).div_ceil(step), workers, move |job| {
        let job = first + job * step;
        let indices = (job * batch..len.min((job + 1) * batch)).collect();
        make(set.as_ref(), &Transform::Test(&transform), batch, indices)
    })
}

/// One view of each picture of `set`, as [`augmented_batches`] makes them in `epoch`, ahead on `workers` threads; at most two more
/// batches than those wait.
///
/// There are as few batches of at most `batch` pictures as that takes, and none is smaller than another by more than one picture:
/// the statistics of a small rest would say little.
///
/// # Errors
/// Items are errors as in [`batches`]; [`DataError::Thread`] if a thread cannot be started.
pub fn even_batches_ahead(
    set: Arc<dyn Pictures>,
    transform: TrainTransform,
    batch: usize,
    epoch: u64,
    workers: usize,
) -> Result<impl Iterator<Item = Result<Batch, DataError>>, DataError> {
    let len = set.len();
    let jobs = if batch == 0 { 1 } else { len.div_ceil(batch) };
    let order = epoch_order(transform.seed(), epoch, len);
    ahead(0..jobs, workers, move |job| {
        let indices = order[job * len / jobs..(job + 1) * len / jobs].to_vec();
        make(set.as_ref(), &Transform::Train { transform: &transform, epoch }, batch, indices)
    })
}

/// What `make` makes of consecutive jobs, on threads; nothing after an error.
fn ahead(
    jobs: Range<usize>,
    workers: usize,
    make: impl Fn(usize) -> Result<Batch, DataError> + Send + Sync + 'static,
) -> Result<impl Iterator<Item = Result<Batch, DataError>>, DataError> {
    let made = Prefetch::new(jobs, workers, 2, make).map_err(DataError::Thread)?;
    let mut failed = false;
    Ok(made.take_while(move |made| !std::mem::replace(&mut failed, made.is_err())))
}

/// Goes through `set` in batches of one view of each picture, in the order of `epoch`; the last one has what is left.
///
/// View and order are those of the first view that a [`crate::Loader`] with this transform makes in this epoch.
///
/// # Errors
/// As [`batches`].
pub fn augmented_batches<'a>(
    set: &'a dyn Pictures,
    transform: &'a TrainTransform,
    batch: usize,
    epoch: u64,
) -> Batches<'a> {
    let order = epoch_order(transform.seed(), epoch, set.len());
    Batches { set, transform: Transform::Train { transform, epoch }, order, batch, next: 0 }
}

/// See [`batches`] and [`augmented_batches`].
pub struct Batches<'a> {
    set: &'a dyn Pictures,
    transform: Transform<'a>,
    order: Vec<usize>,
    batch: usize,
    next: usize,
}

/// What becomes of a picture on its way into a batch.
enum Transform<'a> {
    Test(&'a TestTransform),
    Train { transform: &'a TrainTransform, epoch: u64 },
}

impl Transform<'_> {
    fn view(&self, index: usize, picture: Picture) -> Picture {
        match self {
            Self::Test(transform) => transform.pixels(picture),
            Self::Train { transform, epoch } => transform.view(&picture, *epoch, index as u64, 0),
        }
    }

    fn write_tensor(&self, picture: &Picture, out: &mut [f32]) {
        match self {
            Self::Test(transform) => transform.write_tensor(picture, out),
            Self::Train { transform, .. } => transform.write_tensor(picture, out),
        }
    }
}

/// The batch of the pictures `indices`, at most `batch` of them.
fn make(set: &dyn Pictures, transform: &Transform<'_>, batch: usize, indices: Vec<usize>) -> Result<Batch, DataError> {
    if batch == 0 {
        return Err(DataError::Setting { field: "batch", found: "0".into(), expected: "at least 1 picture" });
    }
    let mut numbers = Vec::new();
    let mut size = None;
    for &index in &indices {
        let picture = transform.view(index, set.picture(index)?);
        let found = (picture.width(), picture.height());
        let expected = *size.get_or_insert(found);
        if found != expected {
            return Err(DataError::Size { name: set.name().to_owned(), index, found, expected });
        }
        if numbers.is_empty() {
            numbers.reserve_exact(indices.len() * picture.pixels().len());
        }
        let start = numbers.len();
        numbers.resize(start + picture.pixels().len(), 0.0);
        transform.write_tensor(&picture, &mut numbers[start..]);
    }
    let (width, height) = size.unwrap_or_default();
    let shape = (indices.len(), 3, height as usize, width as usize);
    let labels = indices.iter().map(|&index| set.label(index)).collect();
    Ok(Batch { pictures: Tensor::from_vec(numbers, shape, &Device::Cpu)?, labels, indices })
}

impl Iterator for Batches<'_> {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.set.len() {
            return None;
        }
        let indices = self.order[self.next..].iter().copied().take(self.batch).collect();
        let made = make(self.set, &self.transform, self.batch, indices);
        self.next = match &made {
            Ok(batch) => self.next + batch.indices.len(),
            Err(_) => self.set.len(),
        };
        Some(made)
    }
}

impl std::fmt::Debug for Batches<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batches({}, {} of {})", self.set.name(), self.next, self.set.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Shapes, Split, compute_test_transform, compute_train_transform};

    #[test]
    fn batches_made_ahead_are_the_same() {
        let set: Arc<dyn Pictures> = Arc::new(Shapes::new(3, Split::Train, 10));
        let transform = compute_test_transform();
        let plain: Vec<Batch> = batches(set.as_ref(), &transform, 4).map(Result::unwrap).collect();
        for (first, step, workers) in
            [(0, 1, 1), (0, 1, 3), (2, 1, 2), (3, 1, 1), (9, 1, 1), (0, 2, 1), (1, 2, 2), (1, 5, 1)]
        {
            let plain: Vec<&Batch> = plain.iter().skip(first).step_by(step).collect();
            let ahead = batches_ahead(set.clone(), transform.clone(), 4, first, step, workers).unwrap();
            let ahead: Vec<Batch> = ahead.map(Result::unwrap).collect();
            assert_eq!(ahead.len(), plain.len());
            for (ahead, plain) in ahead.iter().zip(plain) {
                assert_eq!((&ahead.indices, &ahead.labels), (&plain.indices, &plain.labels));
                let numbers = |batch: &Batch| batch.pictures.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(numbers(ahead), numbers(plain));
            }
        }
        let mut none = batches_ahead(set, transform, 0, 0, 1, 1).unwrap();
        assert!(matches!(none.next(), Some(Err(DataError::Setting { field: "batch", .. }))));
        assert!(none.next().is_none());
    }

    #[test]
    fn even_batches_have_the_same_views_and_no_small_rest() {
        let set: Arc<dyn Pictures> = Arc::new(Shapes::new(3, Split::Train, 10));
        let transform = compute_train_transform(4);
        let numbers = |batch: &Batch| batch.pictures.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let all: Vec<Batch> = augmented_batches(set.as_ref(), &transform, 10, 2).map(Result::unwrap).collect();
        for (most, workers, sizes) in
            [(3, 1, vec![2, 3, 2, 3]), (9, 2, vec![5, 5]), (10, 1, vec![10]), (64, 3, vec![10])]
        {
            let even = even_batches_ahead(set.clone(), transform.clone(), most, 2, workers).unwrap();
            let even: Vec<Batch> = even.map(Result::unwrap).collect();
            assert_eq!(even.iter().map(|batch| batch.indices.len()).collect::<Vec<_>>(), sizes);
            assert_eq!(even.iter().flat_map(|batch| batch.indices.clone()).collect::<Vec<_>>(), all[0].indices);
            assert!(even.iter().flat_map(numbers).collect::<Vec<_>>() == numbers(&all[0]));
        }
        let mut none = even_batches_ahead(set, transform, 0, 0, 1).unwrap();
        assert!(matches!(none.next(), Some(Err(DataError::Setting { field: "batch", .. }))));
        assert!(none.next().is_none());
    }
}
