//! The loader: the same stream whoever makes it, errors in their place, no thread left behind.

use std::sync::Arc;

use simclr_data::{
    CifarPair, DataError, Loader, LoaderConfig, PairBatch, Picture, Pictures, Shapes, Share, Split, augmented_batches,
    batches, compute_test_transform, compute_train_transform, epoch_order,
};

fn shapes(len: usize) -> Arc<dyn Pictures> {
    Arc::new(Shapes::new(4, Split::Train, len))
}

fn loader(set: Arc<dyn Pictures>, batch: usize, workers: usize) -> Loader {
    Loader::new(
        set,
        compute_train_transform(8),
        LoaderConfig { batch, workers, prefetch: 2, ..LoaderConfig::default() },
    )
    .unwrap()
}

/// Everything in a batch, comparable.
fn contents(batch: PairBatch) -> (Vec<f32>, Vec<f32>, Vec<Option<u32>>, Vec<usize>) {
    let numbers = |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    (numbers(&batch.left), numbers(&batch.right), batch.labels, batch.indices)
}

#[test]
fn the_stream_does_not_depend_on_the_workers() {
    let stream = |workers| -> Vec<_> {
        let loader = loader(shapes(67), 8, workers);
        (0..2)
            .flat_map(|epoch| loader.epoch(epoch, 0).map(|batch| contents(batch.unwrap())).collect::<Vec<_>>())
            .collect()
    };
    let expected = stream(0);
    assert_eq!(expected.len(), 16);
    for workers in [1, 2, 8] {
        assert!(stream(workers) == expected, "{workers} workers make another stream");
    }
}

#[test]
fn a_view_does_not_depend_on_the_batch() {
    let views = |batch| {
        let mut views: Vec<(usize, Vec<f32>, Vec<f32>)> = Vec::new();
        for batch in loader(shapes(24), batch, 1).epoch(5, 0) {
            let (left, right, _, indices) = contents(batch.unwrap());
            let rows = left.chunks(3072).zip(right.chunks(3072)).zip(indices);
            views.extend(rows.map(|((left, right), index)| (index, left.to_vec(), right.to_vec())));
        }
        views
    };
    // The same order, too: it is the epoch's.
    assert!(views(4) == views(12));
}

#[test]
fn batches_are_the_pairs_of_the_pair_data_set() {
    let set = shapes(20);
    let pairs = CifarPair::new(set.clone(), compute_train_transform(8));
    assert_eq!(pairs.len(), 20);
    let mut batches = loader(set.clone(), 5, 2).epoch(3, 1);
    assert_eq!(batches.size_hint(), (0, Some(3)));
    let batch = batches.next().unwrap().unwrap();
    assert_eq!((batch.left.dims(), batch.right.dims()), (&[5, 3, 32, 32][..], &[5, 3, 32, 32][..]));
    for (row, &index) in batch.indices.iter().enumerate() {
        let (left, right, target) = pairs.get(3, index).unwrap();
        let numbers = |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(numbers(&batch.left.get(row).unwrap()), numbers(&left));
        assert_eq!(numbers(&batch.right.get(row).unwrap()), numbers(&right));
        assert_ne!(numbers(&left), numbers(&right));
        assert_eq!((Some(target), batch.labels[row]), (set.label(index), set.label(index)));
    }
}

#[test]
fn an_epoch_is_a_permutation_without_its_remainder() {
    let loader = loader(shapes(23), 5, 2);
    assert_eq!(loader.batches_per_epoch(), 4);
    let indices =
        |epoch, first| -> Vec<usize> { loader.epoch(epoch, first).flat_map(|batch| batch.unwrap().indices).collect() };
    let first = indices(0, 0);
    assert_eq!(first, epoch_order(8, 0, 23)[..20]);
    let mut sorted = first.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), 20);
    assert_ne!(first, indices(1, 0));
    assert_eq!(first[15..], indices(0, 3));
    assert!(indices(0, 4).is_empty() && indices(0, 99).is_empty());
}

#[test]
fn orders_are_even() {
    // Where picture 0 lands, over many epochs: ten places, equally likely.
    let mut places = [0; 10];
    for epoch in 0..5_000 {
        places[epoch_order(1, epoch, 10).iter().position(|&index| index == 0).unwrap()] += 1;
    }
    // Five standard errors of a share of a tenth.
    assert!(places.iter().all(|&count| (394..=606).contains(&count)), "{places:?}");
    assert_ne!(epoch_order(1, 0, 10), epoch_order(2, 0, 10));
}

#[test]
fn impossible_batches_are_refused_with_their_numbers() {
    let refuse = |batch| {
        Loader::new(shapes(30), compute_train_transform(0), LoaderConfig { batch, ..LoaderConfig::default() })
            .unwrap_err()
    };
    assert_eq!(refuse(31).to_string(), "batch is 31, but shapes has only 30 pictures: choose a batch of at most 30");
    for batch in [0, 1] {
        assert_eq!(
            refuse(batch).to_string(),
            format!("batch is {batch}, expected at least 2: the other pictures of the batch are the negatives")
        );
    }
    assert_eq!(loader(shapes(30), 30, 1).epoch(0, 0).count(), 1);
}

/// Shapes, but for one picture that cannot be had and one that is larger.
struct Flawed {
    shapes: Shapes,
    missing: usize,
    large: usize,
}

impl Pictures for Flawed {
    fn len(&self) -> usize {
        self.shapes.len()
    }

    fn picture(&self, index: usize) -> Result<Picture, DataError> {
        if index == self.missing {
            return Err(DataError::Missing { path: "the/picture.jpg".into(), fetch: "nothing" });
        }
        if index == self.large { Ok(Picture::filled(40, 36, [1, 2, 3])) } else { self.shapes.picture(index) }
    }

    fn label(&self, index: usize) -> Option<u32> {
        (index != 3).then_some(0)
    }

    fn classes(&self) -> &[String] {
        self.shapes.classes()
    }

    fn name(&self) -> &str {
        "flawed"
    }
}

fn flawed(missing: usize, large: usize) -> Flawed {
    Flawed { shapes: Shapes::new(1, Split::Train, 40), missing, large }
}

#[test]
fn an_error_comes_in_its_place_and_ends_the_epoch() {
    let missing = 17;
    let place = epoch_order(8, 0, 40).iter().position(|&index| index == missing).unwrap() / 4;
    for workers in [0, 1, 2, 8] {
        let mut batches = loader(Arc::new(flawed(missing, usize::MAX)), 4, workers).epoch(0, 0);
        for _ in 0..place {
            batches.next().unwrap().unwrap();
        }
        let error = batches.next().unwrap().unwrap_err();
        assert!(error.to_string().starts_with("the/picture.jpg: no such file"), "{error}");
        assert!(batches.next().is_none());
    }
}

#[test]
fn pictures_may_differ_in_size_in_training_but_not_in_a_test_batch() {
    let set = flawed(usize::MAX, 6);
    assert_eq!(loader(Arc::new(flawed(usize::MAX, 6)), 8, 2).epoch(0, 0).filter(Result::is_ok).count(), 5);
    let transform = compute_test_transform();
    let made: Vec<_> = batches(&set, &transform, 4).collect();
    assert_eq!(made.len(), 2);
    assert_eq!(
        made[1].as_ref().unwrap_err().to_string(),
        "picture 6 of flawed is (40, 36) pixels (width, height), the batch before it (32, 32): a batch needs one size"
    );
    // Alone it is a batch like any other.
    let alone = batches(&set, &transform, 1).nth(6).unwrap().unwrap();
    assert_eq!(alone.pictures.dims(), [1, 3, 36, 40]);
}

#[test]
fn test_batches_are_the_set_in_order() {
    let set = Shapes::new(2, Split::Test, 10);
    let transform = compute_test_transform();
    let made: Vec<_> = batches(&set, &transform, 4).collect::<Result<_, _>>().unwrap();
    let indices: Vec<usize> = made.iter().flat_map(|batch| batch.indices.clone()).collect();
    assert_eq!(indices, (0..10).collect::<Vec<_>>());
    assert_eq!(made[2].pictures.dims(), [2, 3, 32, 32]);
    assert_eq!(made[2].labels, [set.label(8), set.label(9)]);
    let expected = transform.tensor(&set.picture(9).unwrap()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(made[2].pictures.get(1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
    let error = batches(&set, &transform, 0).next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "batch is 0, expected at least 1 picture");
    assert_eq!(batches(&Shapes::new(2, Split::Test, 0), &transform, 4).count(), 0);
}

#[test]
fn a_pair_needs_a_label_and_a_picture() {
    let pairs = CifarPair::new(Arc::new(flawed(5, usize::MAX)), compute_train_transform(1));
    assert_eq!(pairs.get(0, 3).unwrap_err().to_string(), "picture 3 of flawed has no label, and a pair has one");
    assert!(matches!(pairs.get(0, 5), Err(DataError::Missing { .. })));
    assert!(matches!(pairs.get(0, 40), Err(DataError::Index { index: 40, len: 40, .. })));
}

#[test]
fn dropping_an_epoch_early_leaves_nothing_behind() {
    let set: Arc<dyn Pictures> = shapes(400);
    let loader = loader(set.clone(), 4, 8);
    let held = Arc::strong_count(&set);
    let mut epoch = loader.epoch(0, 0);
    assert!(Arc::strong_count(&set) > held);
    epoch.next().unwrap().unwrap();
    drop(epoch);
    // Every worker held the set; they are gone when drop returns.
    assert_eq!(Arc::strong_count(&set), held);
    // An epoch that nobody looks at and one that ran to its end leave nothing either.
    drop(loader.epoch(1, 0));
    assert_eq!(loader.epoch(2, 90).count(), 10);
    assert_eq!(Arc::strong_count(&set), held);
}

#[test]
fn single_views_are_the_first_of_the_pairs() {
    let set = shapes(20);
    let transform = compute_train_transform(8);
    let singles: Vec<_> = augmented_batches(set.as_ref(), &transform, 8, 3).map(|batch| batch.unwrap()).collect();
    assert_eq!(singles.iter().map(|b| b.indices.len()).collect::<Vec<_>>(), [8, 8, 4], "nothing is dropped");
    for (single, pair) in singles.iter().zip(loader(set.clone(), 8, 0).epoch(3, 0)) {
        let pair = pair.unwrap();
        assert_eq!((&single.indices, &single.labels), (&pair.indices, &pair.labels));
        let numbers = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(numbers(&single.pictures), numbers(&pair.left));
    }
}

#[test]
fn processes_share_the_batches_of_one() {
    let numbers = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let whole: Vec<_> = loader(shapes(30), 12, 0).epoch(3, 0).map(Result::unwrap).collect();
    for (ranks, chunk) in [(2, None), (3, None), (4, None), (2, Some(4)), (3, Some(6))] {
        let shares: Vec<Vec<_>> = (0..ranks)
            .map(|rank| {
                let share = Share { rank, ranks, chunk };
                let config = LoaderConfig { batch: 12, workers: 0, prefetch: 2, share };
                let loader = Loader::new(shapes(30), compute_train_transform(8), config).unwrap();
                loader.epoch(3, 0).map(Result::unwrap).collect()
            })
            .collect();
        for (batch, whole) in whole.iter().enumerate() {
            // Chunk after chunk, and in a chunk rank after rank, they are the pictures of the whole batch in order.
            let chunk = chunk.unwrap_or(12);
            let own = chunk / ranks;
            let (mut indices, mut left) = (Vec::new(), Vec::new());
            for start in (0..12 / ranks).step_by(own) {
                for share in &shares {
                    indices.extend_from_slice(&share[batch].indices[start..][..own]);
                    left.extend(numbers(&share[batch].left.narrow(0, start, own).unwrap()));
                }
            }
            assert!(indices == whole.indices && left == numbers(&whole.left), "{ranks} ranks, {chunk} in a chunk");
        }
    }
    for (batch, chunk, told) in [(10, None, "a batch of 10:"), (12, Some(6), "a batch of 12 in chunks of 6:")] {
        let config = LoaderConfig { batch, share: Share { rank: 0, ranks: 4, chunk }, ..LoaderConfig::default() };
        let message = Loader::new(shapes(30), compute_train_transform(0), config).unwrap_err().to_string();
        assert!(message.contains(&format!("4 processes cannot have equal parts of {told}")), "{message}");
    }
}
