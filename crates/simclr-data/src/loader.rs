//! Batches of two views of each picture, shuffled, made ahead on worker threads.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use simclr_ops::{augment::Augmenter, random::stream};

use crate::{DataError, DeviceBatches, DeviceSet, Pictures, TrainTransform, prefetch::Prefetch};

/// Marks the streams that shuffle epochs, in the third counter.
const ORDER: u64 = u64::from_be_bytes(*b"order\0\0\0");

/// How batches are made; no setting but `batch` changes what is in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Pictures per batch, at least 2; the pictures that fill no whole batch are left out of the epoch.
    pub batch: usize,
    /// Threads that make batches; 0 makes each batch when it is asked for.
    pub workers: usize,
    /// How many finished batches may wait, beyond those in work.
    pub prefetch: usize,
    /// Which pictures of a batch are made here.
    pub share: Share,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self { batch: 256, workers: 1, prefetch: 2, share: Share::default() }
    }
}

/// The part of every batch that one of several processes makes: the same batches, whatever their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Which process this is, from 0.
    pub rank: usize,
    /// How many there are, at least 1.
    pub ranks: usize,
    /// Pictures of a batch that go through a model together, of which every process has an equal part; none for the whole batch.
    pub chunk: Option<usize>,
}

impl Default for Share {
    /// Everything.
    fn default() -> Self {
        Self { rank: 0, ranks: 1, chunk: None }
    }
}

impl Share {
    /// The places of its pictures in a batch of `batch`, in order.
    fn places(self, batch: usize) -> impl Iterator<Item = usize> {
        let chunk = self.chunk.unwrap_or(batch).clamp(1, batch.max(1));
        (0..batch).step_by(chunk).flat_map(move |start| {
            let len = chunk.min(batch - start) / self.ranks;
            start + self.rank * len..start + (self.rank + 1) * len
        })
    }

    /// Whether all processes have as much of a batch, and of every chunk of it.
    fn is_even(self, batch: usize) -> bool {
        let chunk = self.chunk.unwrap_or(batch).clamp(1, batch.max(1));
        self.rank < self.ranks && chunk.is_multiple_of(self.ranks) && (batch % chunk).is_multiple_of(self.ranks)
    }
}

/// Two views of each of the `n` pictures of a batch, or of this process's share of it.
#[derive(Debug, Clone)]
pub struct PairBatch {
    /// The first views, `[n, 3, size, size]`, `f32`, normalised, on the CPU.
    pub left: Tensor,
    /// The second views; row `k` is of the same picture as row `k` of `left`.
    pub right: Tensor,
    /// The class of each picture, where it is known. Training does not look at it.
    pub labels: Vec<Option<u32>>,
    /// Which pictures of the set these are.
    pub indices: Vec<usize>,
}

/// Shuffles a set every epoch and gives batches of two views.
#[derive(Clone)]
pub struct Loader {
    set: Arc<dyn Pictures>,
    transform: TrainTransform,
    config: LoaderConfig,
}

/// The order of a set of `len` pictures in `epoch`: a permutation that depends on its arguments alone.
pub fn epoch_order(seed: u64, epoch: u64, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    stream(seed, [epoch, 0, ORDER]).shuffle(&mut order);
    order
}

impl Loader {
    /// A loader of `set`; its order and its views follow the seed of `transform`.
    ///
    /// # Errors
    /// [`DataError::BatchTooSmall`] below 2 pictures per batch, [`DataError::BatchTooLarge`] above the size of the set,
    /// [`DataError::Share`] if the processes cannot have equal parts of a batch.
    pub fn new(set: Arc<dyn Pictures>, transform: TrainTransform, config: LoaderConfig) -> Result<Self, DataError> {
        let (batch, pictures) = (config.batch, set.len());
        if batch < 2 {
            return Err(DataError::BatchTooSmall { batch });
        }
        if batch > pictures {
            return Err(DataError::BatchTooLarge { batch, pictures, name: set.name().to_owned() });
        }
        if !config.share.is_even(batch) {
            let Share { ranks, chunk, .. } = config.share;
            return Err(DataError::Share { batch, chunk, ranks });
        }
        Ok(Self { set, transform, config })
    }

    /// How many full batches the set has.
    pub fn batches_per_epoch(&self) -> usize {
        self.set.len() / self.config.batch
    }

    /// The batches of `epoch` from `first_batch` on (0 for all of them). Work starts at once.
    pub fn epoch(&self, epoch: u64, first_batch: usize) -> EpochBatches {
        let chosen = self.chosen(epoch);
        let (set, transform) = (self.set.clone(), self.transform.clone());
        EpochBatches(self.made(first_batch, move |batch| make(set.as_ref(), &transform, epoch, chosen.of(batch))))
    }

    /// [`Self::epoch`] on a device: the same views in the same order, made there in numbers of type `dtype`.
    ///
    /// Threads draw the parameters of views, and have the pictures at hand where these do not stay on the device; the device hears from
    /// whoever asks for a batch, and from nobody else.
    ///
    /// # Errors
    /// [`DataError::Resident`] if `there` is not the set of this loader, [`DataError::Tensor`] from candle.
    pub fn device_epoch(
        &self,
        there: &DeviceSet,
        dtype: DType,
        epoch: u64,
        first_batch: usize,
    ) -> Result<DeviceBatches, DataError> {
        there.check(self.set.as_ref())?;
        let chosen = self.chosen(epoch);
        let (set, transform, kept) = (self.set.clone(), self.transform.clone(), there.kept.clone());
        let pack = move |batch| crate::device::pack(set.as_ref(), &transform, epoch, &kept, chosen.of(batch));
        DeviceBatches::new(there, &self.transform, dtype, self.made(first_batch, pack))
    }

    fn chosen(&self, epoch: u64) -> Chosen {
        let order = epoch_order(self.transform.seed(), epoch, self.set.len());
        Chosen { order, batch: self.config.batch, share: self.config.share }
    }

    /// What `make` makes of the batches of an epoch from `first_batch` on, on as many threads as there should be.
    fn made<T: Send + 'static>(
        &self,
        first_batch: usize,
        make: impl Fn(usize) -> Result<T, DataError> + Send + Sync + 'static,
    ) -> Made<T> {
        let end = self.batches_per_epoch();
        let jobs = first_batch.min(end)..end;
        let remaining = jobs.len();
        let source = if self.config.workers == 0 {
            Source::Here(Box::new(jobs.map(make)))
        } else {
            match Prefetch::new(jobs, self.config.workers, self.config.prefetch, make) {
                Ok(prefetch) => Source::Threads(prefetch),
                Err(error) => Source::Failed(DataError::Thread(error)),
            }
        };
        Made { source, remaining }
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loader({}, {:?})", self.set.name(), self.config)
    }
}

/// The batches of one epoch, in order. Ends at the first error; dropping it ends its threads.
pub struct EpochBatches(Made<PairBatch>);

impl Iterator for EpochBatches {
    type Item = Result<PairBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }

    /// At most the batches that are left: an error ends the epoch early.
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl std::fmt::Debug for EpochBatches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EpochBatches({} to come)", self.0.remaining)
    }
}

/// What is made for every batch of an epoch, in order, up to the first error.
pub(crate) struct Made<T> {
    source: Source<T>,
    remaining: usize,
}

enum Source<T> {
    Threads(Prefetch<Result<T, DataError>>),
    Here(Box<dyn Iterator<Item = Result<T, DataError>> + Send>),
    /// The threads could not be started; the error is the only item.
    Failed(DataError),
    Ended,
}

impl<T> Made<T> {
    /// Ends the threads: nothing more comes.
    pub(crate) fn end(&mut self) {
        self.source = Source::Ended;
        self.remaining = 0;
    }
}

impl<T> Iterator for Made<T> {
    type Item = Result<T, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = match &mut self.source {
            Source::Threads(batches) => batches.next(),
            Source::Here(batches) => batches.next(),
            Source::Failed(_) | Source::Ended => match std::mem::replace(&mut self.source, Source::Ended) {
                Source::Failed(error) => Some(Err(error)),
                _ => None,
            },
        };
        self.remaining = self.remaining.saturating_sub(1);
        if !matches!(item, Some(Ok(_))) {
            // After an error nobody knows what the next batch is worth, and after the last one the threads have no use.
            self.end();
        }
        item
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.remaining))
    }
}

/// Which pictures are in the batches of an epoch, or in this process's share of them.
struct Chosen {
    order: Vec<usize>,
    batch: usize,
    share: Share,
}

impl Chosen {
    fn of(&self, batch: usize) -> Vec<usize> {
        let whole = &self.order[batch * self.batch..][..self.batch];
        self.share.places(self.batch).map(|place| whole[place]).collect()
    }
}

fn make(
    set: &dyn Pictures,
    transform: &TrainTransform,
    epoch: u64,
    indices: Vec<usize>,
) -> Result<PairBatch, DataError> {
    let side = transform.size();
    let numbers = indices.len() * 3 * (side * side) as usize;
    let mut views = [Vec::with_capacity(numbers), Vec::with_capacity(numbers)];
    let mut augmenter = Augmenter::new();
    for &index in &indices {
        let picture = set.picture(index)?;
        let (width, height) = (picture.width(), picture.height());
        for (view, out) in views.iter_mut().enumerate() {
            let parameters = transform.parameters(width, height, epoch, index as u64, view as u32);
            transform.append(augmenter.planes(&picture, &parameters, side, side), out);
        }
    }
    let [left, right] = views;
    let labels = indices.iter().map(|&index| set.label(index)).collect();
    let shape = (indices.len(), 3, side as usize, side as usize);
    let tensor = |values| Tensor::from_vec(values, shape, &Device::Cpu);
    Ok(PairBatch { left: tensor(left)?, right: tensor(right)?, labels, indices })
}
