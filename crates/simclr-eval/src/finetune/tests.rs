use std::collections::HashMap;

use candle_core::{DType, Device};
use simclr_data::{Normalization, Picture, Recipe, Shapes, Split, Subset, compute_test_transform};
use simclr_model::{Arch, ModelConfig};
use simclr_ops::random::stream;

use super::*;

const CONFIG: FinetuneConfig = FinetuneConfig { epochs: 2, batch: 8, learning_rate: 0.05, weight_decay: 0.0, seed: 0 };

fn narrow(width: usize, dtype: DType) -> Model {
    let config = ModelConfig { width, ..ModelConfig::new(Arch::ResNet18) };
    Model::new(&config, 1, dtype, &Device::Cpu, &Context::new()).unwrap()
}

fn shapes(split: Split, len: usize) -> Arc<dyn Pictures> {
    Arc::new(Shapes::new(0, split, len))
}

fn views(seed: u64) -> TrainTransform {
    let recipe = Recipe { jitter_probability: 0.0, grayscale_probability: 0.0, ..Recipe::default() };
    TrainTransform::new(recipe, 32, Normalization::CIFAR10, seed).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn run(
    model: &Model,
    train: &Arc<dyn Pictures>,
    test: &dyn Pictures,
    config: &FinetuneConfig,
) -> Result<Option<Finetuned>, EvalError> {
    let go_on = &mut |_| ControlFlow::Continue(());
    finetune(model, (train, &views(3)), (test, &compute_test_transform()), config, go_on)
}

#[test]
fn ten_steps_follow_pytorch() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/finetune.safetensors");
    let golden: HashMap<String, Tensor> = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let model = narrow(2, DType::F64);
    let config = FinetuneConfig { epochs: 10, learning_rate: 0.05, weight_decay: 1e-2, ..CONFIG };
    let mut learner = Learner::new(&model, 5, 1, &config).unwrap();
    let mut parameters = model.encoder_parameters();
    parameters.extend(learner.classifier.parameters());
    for (name, var) in &parameters {
        var.set(&golden[&format!("start.{name}")].to_dtype(DType::F64).unwrap()).unwrap();
    }
    let pictures = golden["pictures"].to_dtype(DType::F64).unwrap();
    let labels: Vec<u32> = golden["labels"].to_vec1::<i64>().unwrap().into_iter().map(|label| label as u32).collect();

    let logits = learner.classifier.logits(&model.features_t(&pictures, true).unwrap()).unwrap();
    let gradients = model.backward(&BatchScore::of(&logits, &labels).unwrap().1).unwrap();
    for (name, var) in &parameters {
        let gradient = numbers(gradients.get(var).unwrap());
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let product: f64 = gradient.iter().zip(numbers(var)).map(|(g, p)| g * p).sum();
        for (got, want) in [norm, product].into_iter().zip(numbers(&golden[&format!("gradient.{name}")])) {
            assert!((got - want).abs() < 1e-8 * (1.0 + want.abs()), "{name}: {got}, PyTorch {want}");
        }
    }
    // PyTorch has not seen this pass: its statistics begin at 0 and 1.
    let statistics: Vec<Tensor> = narrow(2, DType::F64).running_statistics().unwrap();
    model.set_running_statistics(&statistics).unwrap();
    for (step, want) in numbers(&golden["losses"]).into_iter().enumerate() {
        let got = learner.learn(&pictures, &labels).unwrap().unwrap().loss;
        assert!((got - want).abs() < 1e-8, "loss {step} is {got}, PyTorch's {want}");
    }
    let logits = learner.classifier.logits(&model.features_t(&pictures, false).unwrap()).unwrap();
    for (got, want) in numbers(&logits).into_iter().zip(numbers(&golden["logits"])) {
        assert!((got - want).abs() < 1e-7, "{got}, PyTorch {want}");
    }
}

#[test]
fn the_gradient_of_the_cross_entropy_by_finite_differences() {
    let model = narrow(2, DType::F64);
    let mut draws = stream(4, [0; 3]);
    let pictures: Vec<f64> = (0..6 * 3 * 16 * 16).map(|_| draws.normal()).collect();
    let pictures = Tensor::from_vec(pictures, (6, 3, 16, 16), &Device::Cpu).unwrap();
    let labels = [0, 2, 1, 2, 2, 0];
    let learner = Learner::new(&model, 3, 1, &CONFIG).unwrap();
    let loss = || {
        let logits = learner.classifier.logits(&model.features_t(&pictures, true).unwrap()).unwrap();
        BatchScore::of(&logits, &labels).unwrap().1
    };
    let gradients = model.backward(&loss()).unwrap();
    let mut parameters = model.encoder_parameters();
    parameters.extend(learner.classifier.parameters());
    for (name, var) in &parameters {
        let (gradient, original) = (numbers(gradients.get(var).unwrap()), numbers(var));
        let i = draws.below(original.len() as u64) as usize;
        let at = |x: f64| {
            let mut moved = original.clone();
            moved[i] = x;
            var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap()).unwrap();
            numbers(&loss())[0]
        };
        // As in the model's own tests: so small that no activation crosses a ReLU; rounding is 1e-15 / step.
        let step = 1e-7;
        let slope = (at(original[i] + step) - at(original[i] - step)) / (2.0 * step);
        at(original[i]);
        assert!((gradient[i] - slope).abs() < 1e-5 * (1.0 + slope.abs()), "{name}[{i}]: {} {slope}", gradient[i]);
    }
    // The projection head has no part in it.
    assert!(
        model.parameters().iter().filter(|(name, _)| name.starts_with("g.")).all(|(_, g)| gradients.get(g).is_none())
    );
}

#[test]
fn a_network_learns_some_pictures_by_heart_and_the_head_stays() {
    let (train, model) = (shapes(Split::Train, 32), narrow(8, DType::F32));
    let head = |model: &Model| -> Vec<Vec<f64>> {
        model.state().iter().filter(|(name, _)| name.starts_with("g.")).map(|(_, t)| numbers(t)).collect()
    };
    let before = head(&model);
    let config = FinetuneConfig { epochs: 60, batch: 16, ..CONFIG };
    // The middle of every picture, unflipped: the same at every epoch.
    let recipe =
        Recipe { crop_scale: [1.0, 1.0], crop_ratio: [1.0, 1.0], flip_probability: 0.0, ..views(0).recipe().clone() };
    let transform = TrainTransform::new(recipe, 32, Normalization::CIFAR10, 0).unwrap();
    let (mut learned, mut tested, mut ended) = (0, 0, Vec::new());
    let mut hear = |event| {
        match event {
            FinetuneEvent::Learned(count) => learned += count,
            FinetuneEvent::Tested(count) => tested += count,
            FinetuneEvent::Epoch(epoch, _) => ended.push(epoch),
        }
        ControlFlow::Continue(())
    };
    let tuned = finetune(&model, (&train, &transform), (train.as_ref(), &compute_test_transform()), &config, &mut hear);
    let Finetuned { epochs, test, confusion, .. } = tuned.unwrap().unwrap();
    let last = epochs[59];
    assert!(last.loss < 0.05 * epochs[0].loss && last.top1 == 1.0, "{last:?} after {:?}", epochs[0]);
    assert!(test.top1 == 1.0 && confusion.top1() == 1.0 && confusion.total() == 32, "{test:?}");
    assert_eq!((learned, tested, ended), (60 * 32, 32, (1..=60).collect()));
    assert_eq!(head(&model), before);
}

#[test]
fn bits_do_not_depend_on_threads_and_follow_the_seeds() {
    let (train, test) = (shapes(Split::Train, 20), shapes(Split::Test, 12));
    let bits = |threads: usize, seed: u64| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let model = narrow(4, DType::F32);
            let tuned = run(&model, &train, test.as_ref(), &FinetuneConfig { seed, ..CONFIG }).unwrap().unwrap();
            let [weight, _] = tuned.classifier.parameters().map(|(_, var)| numbers(&var));
            (model.fingerprint().unwrap(), weight, tuned.epochs, tuned.confusion)
        })
    };
    let one = bits(1, 0);
    assert!(one == bits(2, 0) && one == bits(3, 0));
    assert!(one != bits(1, 1));
}

#[test]
fn it_can_be_broken_off_anywhere() {
    let (train, test) = (shapes(Split::Train, 16), shapes(Split::Test, 8));
    // Two steps and their end in each of two epochs, one batch of the test.
    for most in 0..7 {
        let mut events = 0;
        let mut hear = |_| {
            events += 1;
            if events > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let model = narrow(2, DType::F32);
        let sets = ((&train, &views(0)), (test.as_ref(), &compute_test_transform()));
        assert!(finetune(&model, sets.0, sets.1, &CONFIG, &mut hear).unwrap().is_none());
        assert_eq!(events, most + 1);
    }
}

#[test]
fn mistakes_are_named() {
    let (train, test) = (shapes(Split::Train, 16), shapes(Split::Test, 8));
    let message = |train: &Arc<dyn Pictures>, test: &dyn Pictures, config: FinetuneConfig| {
        run(&narrow(2, DType::F32), train, test, &config).unwrap_err().to_string()
    };
    for (config, expected) in [
        (FinetuneConfig { epochs: 0, ..CONFIG }, "epochs of the fine-tuning is 0, expected at least 1"),
        (FinetuneConfig { batch: 0, ..CONFIG }, "batch of the fine-tuning is 0"),
        (FinetuneConfig { learning_rate: -1.0, ..CONFIG }, "learning_rate of the fine-tuning is -1"),
        (FinetuneConfig { weight_decay: f64::INFINITY, ..CONFIG }, "weight_decay of the fine-tuning is inf"),
        (
            FinetuneConfig { learning_rate: 1e30, ..CONFIG },
            "the loss of the fine-tuning is not finite in epoch 1: a lower",
        ),
    ] {
        let message = message(&train, test.as_ref(), config);
        assert!(message.starts_with(expected), "{message}");
    }
    // One step of this size is seen in the test alone, or nowhere.
    let alone = FinetuneConfig { epochs: 1, batch: 16, learning_rate: 1e30, ..CONFIG };
    assert!(message(&train, test.as_ref(), alone).contains("is not finite in epoch 1"));
    let unlabelled: Arc<dyn Pictures> = Arc::new(Unlabelled);
    assert!(message(&unlabelled, test.as_ref(), CONFIG).contains("of a heap has no label"));
    assert!(message(&train, &Unlabelled, FinetuneConfig { epochs: 1, ..CONFIG }).contains("of a heap has no label"));
    let one: Arc<dyn Pictures> = Arc::new(Subset::first(train, 1).unwrap());
    assert!(
        run(&narrow(2, DType::F32), &one, test.as_ref(), &CONFIG).unwrap().is_some(),
        "a single picture is a batch"
    );
}

struct Unlabelled;

impl Pictures for Unlabelled {
    fn len(&self) -> usize {
        4
    }
    fn picture(&self, _: usize) -> Result<Picture, simclr_data::DataError> {
        Ok(Picture::filled(32, 32, [9; 3]))
    }
    fn label(&self, _: usize) -> Option<u32> {
        None
    }
    fn classes(&self) -> &[String] {
        &[]
    }
    fn name(&self) -> &str {
        "a heap"
    }
}
