//! Pictures that are near one another: on a map, as neighbours, in groups.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use simclr_data::{Pictures, Subset};
use simclr_eval::{clusters, neighbours, pca, tsne};
use simclr_model::Model;

use super::{Encoded, unit};
use crate::config::Config;
use crate::evaluate::{BATCH, KnnSets, frozen};
use crate::output::Output;
use crate::progress::Progress;

/// Pictures on the map at most: what a page can hold, and an eye.
const MOST_ON_MAP: usize = 2_000;

/// Pictures that are encoded at most where there are no labels.
const MOST_UNLABELLED: usize = 5_000;

/// Pictures whose neighbours are shown, and how many of each.
const ASKED: usize = 12;
const NEIGHBOURS: usize = 8;

/// Groups of pictures without labels at most, and how many pictures of each are shown.
const GROUPS: usize = 10;
const OF_A_GROUP: usize = 12;

/// scikit-learn's.
const PERPLEXITY: f64 = 30.0;

/// Pictures to look at.
pub(crate) struct Gallery {
    pub(crate) map: Map,
    /// Where the pictures that ask are, and those that are near them.
    pub(crate) asked: Arc<dyn Pictures>,
    pub(crate) bank: Arc<dyn Pictures>,
    pub(crate) near: Vec<Near>,
    /// Without labels: what the features take for alike, in pictures of `bank`.
    pub(crate) groups: Vec<Group>,
}

/// Pictures as points of planes.
pub(crate) struct Map {
    pub(crate) pictures: Arc<dyn Pictures>,
    /// The class or group of every picture, and their names.
    pub(crate) of: Vec<u32>,
    pub(crate) names: Vec<String>,
    pub(crate) views: Vec<View>,
}

/// One way to see the map.
pub(crate) struct View {
    pub(crate) encoder: &'static str,
    pub(crate) method: &'static str,
    /// From 0 to 1 both ways.
    pub(crate) points: Vec<[f32; 2]>,
}

/// A picture and its nearest neighbours by two encoders: cosines and places in the bank, nearest first.
pub(crate) struct Near {
    pub(crate) picture: usize,
    pub(crate) random: Vec<(f32, usize)>,
    pub(crate) trained: Vec<(f32, usize)>,
}

/// Pictures that point the same way.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) pictures: usize,
    /// Those that are nearest to its middle.
    pub(crate) shown: Vec<usize>,
}

impl Gallery {
    /// Test pictures on the map, coloured by class, and their neighbours among the training pictures.
    pub(super) fn labelled(sets: &KnnSets, encoders: [&Encoded; 2], output: &Output) -> anyhow::Result<Self> {
        let KnnSets { bank, queries, .. } = sets;
        let shown = spaced(queries.len(), MOST_ON_MAP);
        let features = encoders.map(|encoded| rows(&encoded.queries.vectors, &shown));
        let features = both(features)?;
        let labels: Vec<u32> = shown.iter().map(|&index| encoders[0].queries.labels[index]).collect();
        let map = Map::of(queries, shown, (labels, queries.classes().to_vec()), &features, output)?;
        let asked = one_of_each(&encoders[0].queries.labels);
        let found = both(encoders.map(|encoded| -> anyhow::Result<_> {
            Ok(neighbours(&encoded.bank.vectors, &rows(&encoded.queries.vectors, &asked)?, NEIGHBOURS)?)
        }))?;
        Ok(Self { map, asked: queries.clone(), bank: bank.clone(), near: Near::all(&asked, found), groups: Vec::new() })
    }

    /// Training pictures on the map, coloured by the groups that the trained features make of them, and their neighbours among
    /// themselves.
    pub(super) fn unlabelled(
        train: &Arc<dyn Pictures>,
        config: &Config,
        models: [&Model; 2],
        output: &Output,
    ) -> anyhow::Result<Self> {
        let sample: Arc<dyn Pictures> = Arc::new(Subset::of(train.clone(), spaced(train.len(), MOST_UNLABELLED))?);
        let transform = config.test_transform()?;
        let encode = |model: &Model, title: &str| {
            frozen(model, title, output, |encoder| {
                let mut progress = Progress::new(output, title, sample.len() as u64, 0);
                let hear = |count: usize| progress.advance(count as u64, &[]);
                Ok(simclr_eval::vectors(|x| encoder.features(x), sample.as_ref(), &transform, BATCH, hear)?)
            })
        };
        let features = [encode(models[0], "random")?, encode(models[1], "trained")?];
        let count = GROUPS.min(sample.len() / 5).max(1);
        let found = clusters(&features[1], count, config.seed)?;
        let groups: Vec<Group> = (0..found.centres.dim(0)? as u32)
            .map(|group| {
                let mut members: Vec<usize> = (0..sample.len()).filter(|&i| found.of[i] == group).collect();
                members.sort_by(|&a, &b| found.cosines[b].total_cmp(&found.cosines[a]));
                let (name, pictures) = (format!("group {}", group + 1), members.len());
                members.truncate(OF_A_GROUP);
                Group { name, pictures, shown: members }
            })
            .collect();
        let shown = spaced(sample.len(), MOST_ON_MAP);
        let on_map = both([rows(&features[0], &shown), rows(&features[1], &shown)])?;
        let of = shown.iter().map(|&index| found.of[index]).collect();
        let names = groups.iter().map(|group| group.name.clone()).collect();
        let map = Map::of(&sample, shown, (of, names), &on_map, output)?;
        // One of each group in turn, as one of each class where there are classes.
        let asked = one_of_each(&found.of);
        let near = both([&features[0], &features[1]].map(|features| -> anyhow::Result<_> {
            let found = neighbours(features, &rows(features, &asked)?, NEIGHBOURS + 1)?;
            // Not themselves.
            let others = found.into_iter().zip(&asked).map(|(found, &own)| {
                found.into_iter().filter(|(_, index)| *index != own).take(NEIGHBOURS).collect::<Vec<_>>()
            });
            Ok(others.collect::<Vec<_>>())
        }))?;
        Ok(Self { map, asked: sample.clone(), bank: sample, near: Near::all(&asked, near), groups })
    }
}

impl Near {
    fn all(asked: &[usize], [random, trained]: [Vec<Vec<(f32, usize)>>; 2]) -> Vec<Self> {
        let found = random.into_iter().zip(trained);
        asked.iter().zip(found).map(|(&picture, (random, trained))| Self { picture, random, trained }).collect()
    }
}

impl Map {
    fn of(
        pictures: &Arc<dyn Pictures>,
        shown: Vec<usize>,
        (of, names): (Vec<u32>, Vec<String>),
        features: &[Tensor; 2],
        output: &Output,
    ) -> anyhow::Result<Self> {
        output.say(format!("laying out {} pictures on a map", shown.len()));
        let planes = |features: &Tensor| -> anyhow::Result<_> {
            let unit = unit(features)?;
            Ok([tsne(&unit, PERPLEXITY)?.points, pca(&unit)?.points])
        };
        let ([near, far], [random_near, random_far]) = (planes(&features[1])?, planes(&features[0])?);
        let view = |encoder, method, points: Vec<[f32; 2]>| View { encoder, method, points: within_one(&points) };
        let views = vec![
            view("trained", "t-SNE", near),
            view("trained", "PCA", far),
            view("random encoder", "t-SNE", random_near),
            view("random encoder", "PCA", random_far),
        ];
        Ok(Self { pictures: Arc::new(Subset::of(pictures.clone(), shown)?), of, names, views })
    }
}

/// Points moved and scaled, the same both ways, into the unit square.
fn within_one(points: &[[f32; 2]]) -> Vec<[f32; 2]> {
    let range = |axis: usize| {
        points
            .iter()
            .map(|point| point[axis])
            .fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)))
    };
    let ranges = [range(0), range(1)];
    let side = ranges.iter().map(|(low, high)| high - low).fold(f32::MIN_POSITIVE, f32::max);
    let place = |point: &[f32; 2], axis: usize| {
        let (low, high) = ranges[axis];
        0.5 + (point[axis] - (low + high) / 2.0) / side
    };
    points.iter().map(|point| [place(point, 0), place(point, 1)]).collect()
}

/// At most so many places of `0..len`, evenly spaced.
fn spaced(len: usize, most: usize) -> Vec<usize> {
    let count = len.min(most);
    (0..count).map(|i| i * len / count).collect()
}

/// The first of every class, then the second of every class, until there are enough.
fn one_of_each(labels: &[u32]) -> Vec<usize> {
    let mut seen = std::collections::HashMap::new();
    let mut order: Vec<(usize, u32, usize)> = labels
        .iter()
        .enumerate()
        .map(|(index, &label)| {
            let turn = seen.entry(label).or_insert(0usize);
            *turn += 1;
            (*turn, label, index)
        })
        .collect();
    order.sort_unstable();
    order.into_iter().take(ASKED).map(|(.., index)| index).collect()
}

fn rows(features: &Tensor, places: &[usize]) -> anyhow::Result<Tensor> {
    let places: Vec<u32> = places.iter().map(|&place| place as u32).collect();
    Ok(features.index_select(&Tensor::new(places, &Device::Cpu)?, 0)?)
}

fn both<T>([a, b]: [anyhow::Result<T>; 2]) -> anyhow::Result<[T; 2]> {
    Ok([a?, b?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_and_every_class_asks() {
        assert_eq!(spaced(5, 10), [0, 1, 2, 3, 4]);
        assert_eq!(spaced(10, 4), [0, 2, 5, 7]);
        assert!(spaced(0, 4).is_empty());
        assert_eq!(one_of_each(&[1, 1, 0, 2, 1]), [2, 0, 3, 1, 4]);
        let many: Vec<u32> = (0..200).map(|i| i % 100).collect();
        assert_eq!(one_of_each(&many), (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn maps_keep_their_proportions() {
        let points = within_one(&[[0.0, 0.0], [4.0, 2.0], [2.0, 1.0]]);
        assert_eq!(points, [[0.0, 0.25], [1.0, 0.75], [0.5, 0.5]]);
        assert_eq!(within_one(&[[3.0, 3.0]]), [[0.5, 0.5]]);
    }
}
