//! `simclr-train linear`: what one linear layer reads from a checkpoint's features.

use std::sync::Arc;

use anyhow::Context as _;
use candle_core::DType;
use serde_json::{Value, json};
use simclr_data::{Labels, Pictures, Recipe, Subset, TestTransform, TrainTransform};
use simclr_eval::{
    BatchStatistics, FeatureExtractor, LinearConfig, LinearEvent, LinearResult, RawPixels, Score, linear,
};
use simclr_model::Model;
use simclr_ops::Context;

use crate::cli::LinearArguments;
use crate::config::Config;
use crate::evaluate::frozen;
use crate::few_labels::{Splits, check_training, labels};
use crate::imagenet::ImageNet;
use crate::logistic::LogisticTest;
use crate::output::Output;
use crate::progress::Progress;
use crate::run_folder::write_whole;
use crate::table::Table;
use crate::{Ending, Usage, checkpoint, machine};

/// The pictures of a linear evaluation and how it is done.
pub(crate) struct LinearTest {
    train: Arc<dyn Pictures>,
    /// Where its pictures are in the training split.
    chosen: Vec<usize>,
    test: Arc<dyn Pictures>,
    train_transform: TrainTransform,
    test_transform: TestTransform,
    config: LinearConfig,
    /// Whether the encoder is left in training mode, as the course does.
    batch_statistics: bool,
}

impl LinearTest {
    /// With some labels of `train`; pictures become numbers as in `settings`, and views are the course's.
    ///
    /// # Errors
    /// [`Usage`] if `train` has not those labels.
    pub(crate) fn new(
        train: &Arc<dyn Pictures>,
        labels: Labels,
        test: Arc<dyn Pictures>,
        settings: &Config,
        config: LinearConfig,
        batch_statistics: bool,
    ) -> anyhow::Result<Self> {
        let chosen = labels.choose(train.as_ref(), config.seed).map_err(|error| Usage(format!("--{error}")))?;
        let train_transform =
            TrainTransform::new(Recipe::default(), settings.size, settings.normalization, config.seed)?;
        let train = Arc::new(Subset::of(train.clone(), chosen.clone())?);
        let test_transform = settings.test_transform()?;
        Ok(Self { train, chosen, test, train_transform, test_transform, config, batch_statistics })
    }

    /// The pixels themselves.
    pub(crate) fn raw_pixels(&self, output: &Output) -> anyhow::Result<LinearResult> {
        self.run(&RawPixels, "raw pixels", output)
    }

    /// An encoder's features. Frozen, it is proven to be the same afterwards, to the bit.
    ///
    /// In the course's way its running statistics drift: it is a model to throw away afterwards.
    pub(crate) fn encoder(&self, model: &Model, title: &str, output: &Output) -> anyhow::Result<LinearResult> {
        if self.batch_statistics {
            return self.run(&BatchStatistics(model), title, output);
        }
        frozen(model, title, output, |encoder| self.run(encoder, title, output))
    }

    fn run(&self, extractor: &dyn FeatureExtractor, title: &str, output: &Output) -> anyhow::Result<LinearResult> {
        output.say(format!("linear evaluation, {title}"));
        let epochs = self.config.epochs;
        let tests = if extractor.drifts() { epochs } else { 1 };
        let pictures = epochs * self.train.len() as u64 + tests * self.test.len() as u64;
        let mut progress = Progress::new(output, title, pictures, 0);
        let mut hear = |event| match event {
            LinearEvent::Encoded(count) => progress.advance(count as u64, &[]),
            LinearEvent::Epoch(ended) => {
                for (phase, Score { loss, top1, top5 }) in [("Train", ended.train), ("Test", ended.test)] {
                    progress.say(&format!(
                        "{phase} Epoch: [{}/{epochs}] Loss: {loss:.4} ACC@1: {:.2}% ACC@5: {:.2}%",
                        ended.epoch,
                        100.0 * top1,
                        100.0 * top5
                    ));
                }
            }
        };
        let train = (self.train.as_ref(), &self.train_transform);
        let test = (self.test.as_ref(), &self.test_transform);
        Ok(linear(extractor, train, test, self.train.classes().len(), &self.config, &mut hear)?)
    }
}

/// Evaluates a checkpoint, with raw pixels and a random encoder beside it.
pub(crate) fn command(arguments: &LinearArguments, output: &Output) -> anyhow::Result<Ending> {
    let is_fast = match arguments.method.as_deref() {
        None => !arguments.asks_for_adam(),
        Some("lbfgs") if arguments.asks_for_adam() => {
            let flags = "--epochs, --batch, --lr, --weight-decay and --batch-statistics belong to --method adam";
            return Err(Usage(format!("{flags}, but --method is lbfgs")).into());
        }
        Some("lbfgs") => true,
        Some("adam") => false,
        Some(other) => return Err(Usage(format!("--method is {other}, expected lbfgs or adam")).into()),
    };
    if !is_fast && arguments.imagenet.imagenet.is_some() {
        return Err(Usage(NOT_AUGMENTED.into()).into());
    }
    if !is_fast && arguments.draws.is_some() {
        return Err(Usage("--draws belongs to --method lbfgs, but --method is adam".into()).into());
    }
    let (weights, settings) = checkpoint::evaluated(&arguments.checkpoint, &arguments.data)?;
    let data = &settings.data;
    let config = arguments.training(settings.subset)?;
    let labels = labels(arguments.labels.as_deref())?;
    machine::use_threads(arguments.machine.threads)?;
    let device = machine::device(arguments.machine.device.as_deref().unwrap_or("auto"))?;
    let model = Model::load(&weights, &device, &Context::new())?;
    let Splits { train, test } = Splits::open(&settings, arguments.data.cache.as_deref(), output)?;
    let imagenet = ImageNet::of(&arguments.imagenet, &device)?;
    let random = Model::new(model.config(), config.seed, DType::F32, &device, &Context::new())?;
    let fingerprint = model.fingerprint()?;
    let mut encoders = Vec::new();
    if !arguments.no_baselines {
        encoders.extend([("raw pixels", Encoder::RawPixels), ("random encoder", Encoder::Frozen(&random, "random"))]);
    }
    encoders.extend(imagenet.as_ref().map(|imagenet| (ImageNet::NAME, Encoder::ImageNet(imagenet))));
    encoders.push(("trained", Encoder::Frozen(&model, "trained")));
    let evaluated = if is_fast {
        let draws = (arguments.draws.unwrap_or(1), config.seed);
        let test = LogisticTest::new(&train, labels, test, &settings, draws)?;
        evaluate(
            &encoders,
            |encoder| test.of(encoder, output),
            |result| (result.to_json(train.classes()), result.cells()),
            json!(test.chosen()),
        )?
    } else {
        let test = LinearTest::new(&train, labels, test, &settings, config, arguments.batch_statistics)?;
        let percent = |x: f64| format!("{:.2} %", 100.0 * x);
        evaluate(
            &encoders,
            |encoder| match encoder {
                Encoder::RawPixels => test.raw_pixels(output),
                Encoder::Frozen(model, title) => test.encoder(model, title, output),
                Encoder::ImageNet(_) => Err(Usage(NOT_AUGMENTED.into()).into()),
            },
            |result| (to_json(result), [percent(result.last().top1), percent(result.last().top5)]),
            json!(test.chosen),
        )?
    };
    let Evaluated { mut object, rows, chosen } = evaluated;
    object["method"] = json!(if is_fast { "lbfgs" } else { "adam" });
    object["data"] = json!(data);
    object["checkpoint"] = json!(weights);
    object["encoder_sha256"] = json!(fingerprint);
    object["command"] = json!(output.command());
    object["labels_choice"] = json!(labels.to_string());
    object["batch_statistics"] = json!(arguments.batch_statistics);
    if let Some(path) = &arguments.out {
        // A file has room for the pictures themselves, counted from 0 in the training split.
        let mut object = object.clone();
        object["labelled_pictures"] = chosen;
        write_whole(path, object.to_string().as_bytes()).with_context(|| path.display().to_string())?;
    }
    let count = object["labels"].clone();
    let columns = [format!("{data}, linear on {count} labels"), "top-1".into(), "top-5".into()];
    output.result(Table { columns: columns.into(), rows }.text(), &object);
    Ok(Ending::Done)
}

/// The course's training draws views of the run's size; other encoders know other sizes.
const NOT_AUGMENTED: &str = "--imagenet belongs to --method lbfgs, but --method is adam";

/// What gives the features.
#[derive(Clone, Copy)]
pub(crate) enum Encoder<'a> {
    RawPixels,
    /// A model that knows the run's pictures, and what it is called.
    Frozen(&'a Model, &'static str),
    ImageNet(&'a ImageNet),
}

/// What there is to say of all encoders.
struct Evaluated {
    /// That of the trained one, with the baselines in it.
    object: Value,
    rows: Vec<Vec<String>>,
    chosen: Value,
}

/// Tests encoders, of which the last is the one that it is about; `told` is a result as JSON, and its top-1 and top-5.
fn evaluate<R>(
    encoders: &[(&str, Encoder<'_>)],
    test: impl Fn(Encoder<'_>) -> anyhow::Result<R>,
    told: impl Fn(&R) -> (Value, [String; 2]),
    chosen: Value,
) -> anyhow::Result<Evaluated> {
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    for &(name, encoder) in encoders {
        let (object, [top1, top5]) = told(&test(encoder)?);
        rows.push(vec![name.to_owned(), top1, top5]);
        objects.push((name.replace(' ', "_").to_lowercase(), object));
    }
    let (_, mut object) = objects.pop().context("an evaluation has an encoder")?;
    objects.into_iter().for_each(|(name, other)| object[name] = other);
    Ok(Evaluated { object, rows, chosen })
}

impl LinearArguments {
    /// Whether something is said that only the course's way has.
    fn asks_for_adam(&self) -> bool {
        let Self { epochs, batch, lr, weight_decay, batch_statistics, .. } = self;
        epochs.is_some() || batch.is_some() || lr.is_some() || weight_decay.is_some() || *batch_statistics
    }

    /// The course's training with what was typed in its place.
    fn training(&self, subset: Option<usize>) -> Result<LinearConfig, Usage> {
        let course = LinearConfig::COURSE;
        let config = LinearConfig {
            epochs: self.epochs.unwrap_or(course.epochs),
            batch: self.batch.unwrap_or(course.batch),
            learning_rate: self.lr.unwrap_or(course.learning_rate),
            weight_decay: self.weight_decay.unwrap_or(course.weight_decay),
            seed: self.seed.unwrap_or(course.seed),
        };
        check_training((config.epochs, config.batch), (config.learning_rate, config.weight_decay), subset)?;
        Ok(config)
    }
}

/// A result as `--json` prints it: the last epoch's, and all of them.
pub(crate) fn to_json(result: &LinearResult) -> Value {
    let score = |s: Score| json!({ "loss": s.loss, "top1": s.top1, "top5": s.top5 });
    let Score { top1, top5, .. } = result.last();
    let epochs: Vec<Value> = result
        .epochs
        .iter()
        .map(|e| json!({ "epoch": e.epoch, "train": score(e.train), "test": score(e.test) }))
        .collect();
    json!({ "top1": top1, "top5": top5, "labels": result.labels, "queries": result.queries, "epochs": epochs })
}
