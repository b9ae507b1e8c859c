use candle_core::{Device, Tensor};
use simclr_ops::random::stream;

use super::*;

fn features(n: usize, d: usize, classes: u64, seed: u64) -> Features {
    let mut s = stream(seed, [0; 3]);
    let mut rows: Vec<f32> = (0..n * d).map(|_| s.normal() as f32).collect();
    for row in rows.chunks_mut(d) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
    let labels = (0..n).map(|_| s.below(classes) as u32).collect();
    Features { vectors: Tensor::from_vec(rows, (n, d), &Device::Cpu).unwrap(), labels }
}

/// The definition: all similarities of a query in f64, sorted whole.
fn naive(bank: &Features, queries: &Features, classes: usize, protocol: KnnProtocol) -> (f64, f64) {
    let (b, q) = (bank.vectors.to_vec2::<f32>().unwrap(), queries.vectors.to_vec2::<f32>().unwrap());
    let mut hits = [0, 0];
    for (q, &label) in q.iter().zip(&queries.labels) {
        let dot = |b: &Vec<f32>| b.iter().zip(q).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
        let mut all: Vec<(f64, u32)> = b.iter().map(dot).zip(bank.labels.iter().copied()).collect();
        all.sort_by(|x, y| y.0.total_cmp(&x.0));
        let mut votes: Vec<(f64, usize)> = (0..classes).map(|c| (0.0, c)).collect();
        for (s, label) in &all[..protocol.k] {
            votes[*label as usize].0 += protocol.temperature.map_or(1.0, |t| (s / t).exp());
        }
        votes.sort_by(|x, y| y.0.total_cmp(&x.0));
        let rank = votes.iter().position(|v| v.1 == label as usize).unwrap();
        hits[0] += usize::from(rank == 0);
        hits[1] += usize::from(rank < 5);
    }
    (hits[0] as f64 / q.len() as f64, hits[1] as f64 / q.len() as f64)
}

#[test]
fn agrees_with_the_definition() {
    // One query, part of a tile, several tiles of both; the bank just at and beyond a tile.
    for (n, m) in [(1, 1), (50, 65), (TILE_BANK, 64), (TILE_BANK + 1, 130), (2 * TILE_BANK + 7, 3), (300, 32 * 70 + 1)]
    {
        let (bank, queries) = (features(n, 9, 7, 1), features(m, 9, 7, 2));
        let protocols = [1, 10, 200, n].map(|k| KnnProtocol { k: k.min(n), temperature: Some(0.5) });
        let equal = KnnProtocol { k: 10.min(n), temperature: None };
        let results = knn(&bank, &queries, 7, &[&protocols[..], &[equal]].concat()).unwrap();
        for result in results {
            assert_eq!((result.bank, result.queries), (n, m));
            let want = naive(&bank, &queries, 7, result.protocol);
            assert_eq!((result.top1, result.top5), want, "{n} {m} {:?}", result.protocol);
        }
    }
}

#[test]
fn ties_go_to_the_lower_index_and_the_lower_class() {
    // Four equal neighbours of classes 3, 1, 1, 3.
    let bank = Features { vectors: Tensor::ones((4, 1), DType::F32, &Device::Cpu).unwrap(), labels: vec![3, 1, 1, 3] };
    let query =
        |label| Features { vectors: Tensor::ones((1, 1), DType::F32, &Device::Cpu).unwrap(), labels: vec![label] };
    let top1 = |k, label| knn(&bank, &query(label), 4, &[KnnProtocol { k, temperature: None }]).unwrap()[0].top1;
    assert_eq!(top1(1, 3), 1.0, "index 0 comes first");
    assert_eq!(top1(2, 1), 1.0, "one vote each: class 1 before class 3");
    assert_eq!(top1(3, 1), 1.0, "two votes for class 1");
    assert_eq!(top1(4, 1), 1.0, "two votes each");
    assert_eq!(top1(4, 3), 0.0);
}

#[test]
fn weights_decide_where_counts_do_not() {
    // One very near neighbour of class 0 against two far ones of class 1.
    let vectors = Tensor::new(&[[1f32, 0.0], [-1.0, 0.0], [-1.0, 0.0]], &Device::Cpu).unwrap();
    let bank = Features { vectors, labels: vec![0, 1, 1] };
    let query = Features { vectors: Tensor::new(&[[1f32, 0.0]], &Device::Cpu).unwrap(), labels: vec![0] };
    let [weighted, equal] = [Some(0.5), None].map(|temperature| KnnProtocol { k: 3, temperature });
    let results = knn(&bank, &query, 2, &[weighted, equal]).unwrap();
    assert_eq!((results[0].top1, results[1].top1), (1.0, 0.0));
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let (bank, queries) = (features(500, 9, 7, 1), features(300, 9, 7, 2));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| knn(&bank, &queries, 7, &[KnnProtocol::COURSE, KnnProtocol::LITERATURE]).unwrap())
    };
    assert!(run(1) == run(2) && run(1) == run(5));
}

#[test]
fn how_queries_are_cut_changes_no_bit() {
    let (n, m, d) = (TILE_BANK + 37, 61, 300);
    let mut draws = stream(12, [0, 0, 0]);
    let mut rows = |count: usize| -> Vec<f32> { (0..count * d).map(|_| draws.normal() as f32).collect() };
    let (bank, queries) = (rows(n), rows(m));
    let whole = nearest(&queries, &bank, d, 9);
    for size in [1, 7, 60] {
        let parts: Vec<Vec<Neighbour>> = queries.chunks(size * d).flat_map(|part| nearest(part, &bank, d, 9)).collect();
        assert!(parts == whole, "{size}");
    }
    for (queries, threads) in [(1, 1), (10_000, 2), (10_000, 16), (5, 64), (2_049, 2)] {
        let tile = tile(queries, threads);
        assert!(
            (1..=TILE_QUERIES).contains(&tile)
                && queries.div_ceil(tile) <= threads * queries.div_ceil(threads * TILE_QUERIES)
        );
    }
}

#[test]
fn wrong_arguments_are_named() {
    let (bank, queries) = (features(5, 3, 2, 1), features(4, 3, 2, 2));
    let message =
        |bank: &Features, queries: &Features, protocol| knn(bank, queries, 2, &[protocol]).unwrap_err().to_string();
    let one = KnnProtocol { k: 1, temperature: None };
    let too_many = message(&bank, &queries, KnnProtocol { k: 6, ..one });
    assert_eq!(too_many, "k is 6, expected 1 to 5, the number of pictures in the bank");
    assert!(message(&bank, &queries, KnnProtocol { k: 0, ..one }).contains("k is 0"));
    let cold = message(&bank, &queries, KnnProtocol { temperature: Some(0.0), ..one });
    assert!(cold.contains("temperature of votes is 0"), "{cold}");
    let other = message(&bank, &features(4, 2, 2, 1), one);
    assert_eq!(other, "queries has shape [4, 2], expected [m, 3] as the bank");
    let mut wrong = bank.clone();
    wrong.labels[3] = 9;
    assert_eq!(message(&wrong, &queries, one), "bank has label 9, expected 0 to 1");
    wrong.labels.pop();
    assert!(message(&wrong, &queries, one).contains("bank has shape [5, 3], expected [4, d]"));
    let mut broken = bank.clone();
    let mut rows = broken.vectors.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    rows[7] = f32::NAN;
    broken.vectors = Tensor::from_vec(rows, (5, 3), &Device::Cpu).unwrap();
    assert!(message(&broken, &queries, one).contains("feature 2 of bank is not finite"));
    let mut wide = bank.clone();
    wide.vectors = wide.vectors.to_dtype(DType::F64).unwrap();
    assert_eq!(message(&wide, &queries, one), "bank has elements of type F64, expected F32");
}
