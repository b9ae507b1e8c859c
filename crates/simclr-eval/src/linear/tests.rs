use simclr_data::{DataError, Picture, Shapes, Split, compute_test_transform, compute_train_transform};
use simclr_model::{Arch, Model, ModelConfig};

use super::*;
use crate::extractor::{BatchStatistics, RawPixels};

/// Pictures of one brightness a class, which any crop and flip leaves as it is.
struct Levels {
    len: usize,
    labelled: bool,
    classes: Vec<String>,
}

impl Levels {
    fn new(len: usize) -> Self {
        Self { len, labelled: true, classes: (0..4).map(|c| format!("level {c}")).collect() }
    }
}

impl Pictures for Levels {
    fn len(&self) -> usize {
        self.len
    }
    fn picture(&self, index: usize) -> Result<Picture, DataError> {
        Ok(Picture::filled(32, 32, [(40 + 60 * (index % 4)) as u8; 3]))
    }
    fn label(&self, index: usize) -> Option<u32> {
        self.labelled.then_some((index % 4) as u32)
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn name(&self) -> &str {
        "levels"
    }
}

/// The mean brightness, one-hot by level or not at all.
struct Means {
    useful: bool,
}

impl FeatureExtractor for Means {
    fn testing(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        let means = pictures.mean((1, 2, 3))?.to_vec1::<f32>()?;
        let rows: Vec<f32> = means
            .iter()
            .flat_map(|&mean| {
                // Levels lie 60/255 apart, which normalisation makes nearly one apart, from below zero on.
                (0..4).map(move |c| if self.useful && (mean + 1.2 - c as f32).abs() < 0.5 { 1.0 } else { 0.0 })
            })
            .collect();
        Tensor::from_vec(rows, (means.len(), 4), pictures.device())
    }
}

fn run(extractor: &dyn FeatureExtractor, set: &dyn Pictures, config: &LinearConfig) -> Result<LinearResult, EvalError> {
    // Without jitter and gray, a picture of one colour stays as it is.
    let recipe = simclr_data::Recipe { jitter_probability: 0.0, ..Default::default() };
    let transform = TrainTransform::new(recipe, 32, simclr_data::Normalization::CIFAR10, 5).unwrap();
    linear(extractor, (set, &transform), (set, &compute_test_transform()), set.classes().len(), config, &mut |_| ())
}

#[test]
fn what_is_there_is_found_and_what_is_not_is_not() {
    let set = Levels::new(50);
    let config = LinearConfig { epochs: 60, batch: 16, learning_rate: 0.05, ..LinearConfig::COURSE };
    let found = run(&Means { useful: true }, &set, &config).unwrap();
    assert_eq!((found.epochs.len(), found.labels, found.queries), (60, 50, 50));
    assert!(found.last().top1 == 1.0 && found.last().loss < 0.1, "{:?}", found.last());
    assert!(found.epochs[0].train.loss > found.epochs[59].train.loss);
    let nothing = run(&Means { useful: false }, &set, &config).unwrap();
    // 13 of the 50 are of the first level, and of the second: no bias can do better.
    assert!(nothing.last().top1 <= 0.26 && nothing.last().loss > 1.3, "{:?}", nothing.last());
    assert!(nothing.best().top1 >= nothing.last().top1);
    assert_eq!(nothing.last().top5, 1.0, "there are but four classes");
}

#[test]
fn one_step_follows_the_gradient_of_the_cross_entropy() {
    let config = LinearConfig { learning_rate: 0.01, weight_decay: 0.0, ..LinearConfig::COURSE };
    let mut learner = Learner::new(3, 2, &config).unwrap();
    let [weight, bias] = learner.classifier.parameters().map(|(_, var)| var);
    let rows = [[0.5f32, -1.0, 2.0], [1.5, 0.25, -0.5]];
    let labels = [1u32, 0];
    let features = Tensor::new(&rows, &Device::Cpu).unwrap();
    let (before, bias) = (weight.to_vec2::<f32>().unwrap(), bias.to_vec1::<f32>().unwrap());
    let score = learner.learn(&features, &labels).unwrap();
    let (mut loss, mut gradient) = (0.0, [[0f64; 3]; 2]);
    for (row, &label) in rows.iter().zip(&labels) {
        let logit = |c: usize| -> f64 {
            f64::from(bias[c]) + row.iter().zip(&before[c]).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>()
        };
        let total = logit(0).exp() + logit(1).exp();
        loss -= (logit(label as usize).exp() / total).ln() / 2.0;
        for (c, gradient) in gradient.iter_mut().enumerate() {
            let residual = logit(c).exp() / total - f64::from(u8::from(label as usize == c));
            gradient.iter_mut().zip(row).for_each(|(g, &x)| *g += residual * f64::from(x) / 2.0);
        }
    }
    assert!((score.loss - loss).abs() < 1e-6, "{} {loss}", score.loss);
    let after = weight.to_vec2::<f32>().unwrap();
    for c in 0..2 {
        for i in 0..3 {
            // Adam's first step is one learning rate against the sign of the gradient.
            let moved = f64::from(after[c][i]) - f64::from(before[c][i]);
            assert!((moved + 0.01 * gradient[c][i].signum()).abs() < 1e-5, "{moved} for {}", gradient[c][i]);
        }
    }
}

#[test]
fn a_frozen_encoder_stays_what_it_is_and_the_course_s_drifts() {
    let config = ModelConfig { width: 2, ..ModelConfig::new(Arch::ResNet18) };
    let model = Model::new(&config, 0, DType::F32, &Device::Cpu, &Context::new()).unwrap();
    let set = Shapes::new(0, Split::Train, 24);
    let settings = LinearConfig { epochs: 2, batch: 8, ..LinearConfig::COURSE };
    let before = model.fingerprint().unwrap();
    let mut encoded = 0;
    let mut count = |event| {
        if let LinearEvent::Encoded(pictures) = event {
            encoded += pictures;
        }
    };
    let transforms = (compute_train_transform(3), compute_test_transform());
    let (train, test): ((&dyn Pictures, _), (&dyn Pictures, _)) = ((&set, &transforms.0), (&set, &transforms.1));
    linear(&model.freeze(), train, test, 10, &settings, &mut count).unwrap();
    assert_eq!(encoded, 24 * 3, "what does not change is tested on once");
    assert_eq!(model.fingerprint().unwrap(), before);
    let parameters = |model: &Model| -> Vec<Vec<f32>> {
        model.parameters().iter().map(|(_, var)| var.flatten_all().unwrap().to_vec1().unwrap()).collect()
    };
    let old = parameters(&model);
    encoded = 0;
    let mut count = |event| {
        if let LinearEvent::Encoded(pictures) = event {
            encoded += pictures;
        }
    };
    linear(&BatchStatistics(&model), train, test, 10, &settings, &mut count).unwrap();
    assert_eq!(encoded, 24 * 4);
    assert_eq!(parameters(&model), old, "the parameters are frozen");
    assert_ne!(model.fingerprint().unwrap(), before, "the running statistics are not");
}

#[test]
fn the_same_settings_give_the_same_result() {
    let set = Levels::new(20);
    let config = LinearConfig { epochs: 2, batch: 7, ..LinearConfig::COURSE };
    let result = |seed| run(&RawPixels, &set, &LinearConfig { seed, ..config }).unwrap();
    assert_eq!(result(1), result(1));
    assert_ne!(result(1), result(2));
}

#[test]
fn mistakes_are_named() {
    let set = Levels::new(8);
    let message = |set: &dyn Pictures, config| run(&Means { useful: true }, set, &config).unwrap_err().to_string();
    let course = LinearConfig::COURSE;
    for (config, expected) in [
        (LinearConfig { epochs: 0, ..course }, "epochs of the linear evaluation is 0, expected at least 1"),
        (LinearConfig { batch: 0, ..course }, "batch of the linear evaluation is 0"),
        (LinearConfig { learning_rate: 0.0, ..course }, "learning_rate of the linear evaluation is 0"),
        (LinearConfig { weight_decay: f64::NAN, ..course }, "weight_decay of the linear evaluation is NaN"),
        (LinearConfig { learning_rate: 1e38, ..course }, "the loss of the linear evaluation is not finite in epoch 2"),
    ] {
        assert!(message(&set, config).starts_with(expected), "{}", message(&set, config));
    }
    let unlabelled = Levels { labelled: false, ..Levels::new(8) };
    assert!(message(&unlabelled, course).contains("of levels has no label"));
    let few = Levels { classes: vec!["one".into()], ..Levels::new(8) };
    assert!(message(&few, course).contains("expected 0 to 0"));
    assert_eq!(message(&Levels::new(0), course), "levels has no pictures");
}
