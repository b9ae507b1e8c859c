//! `simclr-train embed`: the features of many pictures, in a file.

mod part;

use std::ffi::OsStr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use serde_json::json;
use simclr_data::{Pictures, Split, Subset, batches_ahead};
use simclr_model::Model;
use simclr_ops::{Context, l2_normalize};

use crate::cli::EmbedArguments;
use crate::config::Config;
use crate::convert::must_be_new;
use crate::data_sets::{Opened, Place};
use crate::evaluate::{BATCH, frozen};
use crate::features_file::{self, About, FORMATS, Format, Rows};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::progress::Progress;
use crate::ranks::Ranks;
use crate::{Ending, Usage, checkpoint, machine};
use part::{Of, Part};

/// What is embedded, by what, into what.
struct Opening {
    format: Format,
    settings: Config,
    weights: PathBuf,
    model: Model,
    set: Arc<dyn Pictures>,
    of: Of,
}

fn open(arguments: &EmbedArguments, ranks: &Ranks, output: &Output) -> anyhow::Result<Opening> {
    let EmbedArguments { out, normalize, .. } = arguments;
    let format = format(arguments)?;
    let split = match arguments.split.as_deref() {
        None | Some("train") => Split::Train,
        Some("test") => Split::Test,
        Some(other) => return Err(Usage(format!("--split is {other}, expected train or test")).into()),
    };
    let shard = arguments.shard.as_deref().map(Shard::parse).transpose()?;
    if ranks.is_first() {
        must_be_new(out)?;
    }
    let (weights, settings) = checkpoint::evaluated(&arguments.checkpoint, &arguments.data)?;
    machine::use_threads(arguments.machine.threads.or(ranks.threads()))?;
    let device = machine::device(arguments.machine.device.as_deref().unwrap_or("auto"))?;
    let model = Model::load(&weights, &device, &Context::new())?;

    let data = &settings.data;
    let place = Place::of(&settings, arguments.data.cache.as_deref());
    let opened = match split {
        Split::Train => Some(data.train(place, settings.subset, output)?),
        Split::Test => data.opened_test(place, arguments.data.subset, output)?,
    };
    let Some(Opened { pictures: whole, fingerprint, .. }) = opened else {
        return Err(Usage(format!("--split is test, but {data} has no test split")).into());
    };
    let range = shard.map_or(Ok(0..whole.len()), |shard| shard.range(whole.len()))?;
    let set: Arc<dyn Pictures> = Arc::new(Subset::range(whole.clone(), range.clone())?);
    let width = model.feature_width();
    let of = Of {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        encoder_sha256: model.fingerprint()?,
        data: data.to_string(),
        data_dir: settings.data_dir.clone(),
        split: split.to_string(),
        pictures: whole.len(),
        start: range.start,
        end: range.end,
        fingerprint,
        shorter_side: settings.shorter_side,
        size: settings.size,
        normalization: settings.normalization,
        normalize: *normalize,
        width,
    };
    Ok(Opening { format, weights, model, set, of, settings })
}

/// Embeds a split, or a shard of it, and writes the features.
pub(crate) fn command(arguments: &EmbedArguments, ranks: &Ranks, output: &Output) -> anyhow::Result<Ending> {
    let EmbedArguments { out, normalize, .. } = arguments;
    let Opening { format, settings, weights, model, set, of } = ranks.agree(open(arguments, ranks, output))?;
    let (data, len, width) = (&settings.data, set.len(), of.width);
    let about = About {
        encoder_sha256: of.encoder_sha256.clone(),
        data: of.data.clone(),
        split: of.split.clone(),
        checkpoint: weights.display().to_string(),
        normalized: *normalize,
    };
    let rows = Rows { pictures: set.as_ref(), width, about };
    ranks.agree(features_file::check(format, &rows))?;

    let interrupt = Interrupt::listen()?;
    ranks.must_match("data set or encoder", || of.digest(&set))?;
    // The first of several processes has the file.
    let mut part = None;
    let kept = ranks.first_tells(|| {
        let (own, kept) = Part::open(out, &of, BATCH, output)?;
        part = Some(own);
        Ok(kept)
    })?;
    let first = kept.div_ceil(BATCH);
    let (transform, workers) = (settings.test_transform()?, data.workers());
    let step = ranks.count();
    let batches = batches_ahead(set.clone(), transform, BATCH, first + ranks.rank(), step, workers)?;
    let began = Instant::now();
    let done = frozen(&model, "trained", output, |encoder| {
        let (mut done, mut batches) = (kept, batches);
        let mut progress = Progress::new(output, "embedding", len as u64, kept as u64);
        // Each process has a batch of a round; the last round may have none for some.
        for _ in (first..len.div_ceil(BATCH)).step_by(step) {
            let own = batches.next().map(|batch| -> anyhow::Result<Tensor> {
                let features = encoder.features(&batch?.pictures)?.contiguous()?;
                Ok(if *normalize { l2_normalize::forward(&Context::new(), &features)?.0 } else { features })
            });
            let own = ranks.agree(own.transpose())?;
            let count = (step * BATCH).min(len - done);
            let rows = ranks.some_rows(own.as_ref(), count)?;
            if let Some(part) = &mut part {
                part.append(&rows.flatten_all()?.to_vec1()?)?;
            }
            done += count;
            progress.advance(count as u64, &[]);
            if ranks.any(interrupt.is_asked())? {
                break;
            }
        }
        Ok(done)
    })?;
    let Some(part) = part else { return Ok(if done < len { Ending::Interrupted } else { Ending::Done }) };
    let seconds = began.elapsed().as_secs_f64();
    if done < len {
        let part = part.path().display();
        output.say(format!("interrupted; {done} of {len} rows are in {part}: the same command goes on from there"));
        return Ok(Ending::Interrupted);
    }
    // All rows are in the part, whatever happens now.
    interrupt.at_once(true);
    features_file::write(format, &rows, part.path(), out)?;
    part.remove()?;
    if format == Format::Npy {
        output.say(format!("{}: npy has no place for paths and labels; parquet has", out.display()));
    }

    let about = &rows.about;
    let text = format!("{}: {len} features of {width} numbers from {data} ({})", out.display(), about.split);
    let object = json!({
        "out": out, "format": format.to_string(), "rows": len, "width": width, "data": data, "split": about.split,
        "shard": arguments.shard, "checkpoint": weights, "encoder_sha256": about.encoder_sha256,
        "normalized": about.normalized, "seconds": seconds, "pictures_per_s": (len - kept) as f64 / seconds,
        "resumed_rows": kept,
    });
    output.result(text, &object);
    Ok(Ending::Done)
}

/// The format that was typed, or that the name of the file says.
fn format(arguments: &EmbedArguments) -> Result<Format, Usage> {
    let EmbedArguments { format, out, .. } = arguments;
    match format {
        Some(name) => Format::named(name).ok_or_else(|| Usage(format!("--format is {name}, expected {FORMATS}"))),
        None => out.extension().and_then(OsStr::to_str).and_then(Format::named).ok_or_else(|| {
            Usage(format!("--out is {}, which ends in no format: give --format {FORMATS}", out.display()))
        }),
    }
}

/// One of some consecutive parts of a set.
#[derive(Clone, Copy, Debug)]
struct Shard {
    number: usize,
    of: usize,
}

impl Shard {
    /// `I/N`, counted from 1.
    fn parse(text: &str) -> Result<Self, Usage> {
        let numbers = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err(Usage(format!("--shard is {text}, expected I/N with I from 1 to N, as 1/4"))),
        }
    }

    /// Its pictures, of `len`.
    fn range(self, len: usize) -> Result<Range<usize>, Usage> {
        let Self { number, of } = self;
        let until = |shards: usize| (shards as u128 * len as u128 / of as u128) as usize;
        let range = until(number - 1)..until(number);
        if range.is_empty() {
            return Err(Usage(format!("--shard is {number}/{of}, which has none of the {len} pictures")));
        }
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_consecutive_and_together_the_whole() {
        for (len, of) in [(10, 3), (7, 7), (128, 5), (1, 1)] {
            let mut next = 0;
            for number in 1..=of {
                let range = Shard { number, of }.range(len).unwrap();
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert_eq!(next, len);
        }
        let message = Shard::parse("1/3").unwrap().range(2).unwrap_err().to_string();
        assert_eq!(message, "--shard is 1/3, which has none of the 2 pictures");
        for wrong in ["0/2", "3/2", "1", "1/0", "a/2", "1/2/3", "-1/2", ""] {
            let message = Shard::parse(wrong).unwrap_err().to_string();
            assert_eq!(message, format!("--shard is {wrong}, expected I/N with I from 1 to N, as 1/4"));
        }
    }
}
