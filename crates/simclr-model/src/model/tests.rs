use candle_core::{DType, Device, Tensor};
use simclr_ops::random::stream;
use simclr_ops::{Form, Precision};

use super::*;
use crate::config::Arch;

fn tiny(arch: Arch) -> ModelConfig {
    ModelConfig { width: 2, feature_dim: 5, hidden_dim: 6, ..ModelConfig::new(arch) }
}

fn random(dims: &[usize], seed: u64) -> Tensor {
    let mut s = stream(seed, [3; 3]);
    let numbers: Vec<f64> = (0..dims.iter().product()).map(|_| s.normal()).collect();
    Tensor::from_vec(numbers, dims, &Device::Cpu).unwrap()
}

fn model(config: &ModelConfig, dtype: DType) -> Model {
    Model::new(config, 1, dtype, &Device::Cpu, &Context::new()).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn names_and_shapes_are_pytorch_s() {
    for arch in Arch::ALL {
        let model = model(&ModelConfig::new(arch), DType::F32);
        let path = format!("{}/../../tests/golden/state_dict_{arch}.txt", env!("CARGO_MANIFEST_DIR"));
        let golden = std::fs::read_to_string(&path).unwrap();
        let lines = |prefix: &str| golden.lines().filter_map(|l| l.strip_prefix(prefix)).map(String::from).collect();
        let mut want: Vec<String> = lines("entry ");
        want.sort();
        let got: Vec<String> = model.state().iter().map(|(name, t)| format!("{name} {:?}", t.dims())).collect();
        assert_eq!(got, want, "{arch}");
        let count: Vec<String> = lines("parameters ");
        assert_eq!(count, [model.parameter_count().to_string()], "{arch}");
        let multiply_adds: Vec<String> = lines("multiply-adds ");
        assert_eq!(multiply_adds, [model.multiply_adds(32, 32).to_string()], "{arch}");
    }
}

#[test]
fn the_head_follows_its_settings() {
    let names = |config: &ModelConfig| -> Vec<String> {
        model(config, DType::F32).state().into_iter().map(|(n, _)| n).filter(|n| n.starts_with("g.")).collect()
    };
    let plain = ModelConfig { head_batch_norm: false, ..tiny(Arch::ResNet18) };
    assert_eq!(names(&plain), ["g.0.bias", "g.0.weight", "g.2.bias", "g.2.weight"]);
    assert_eq!(names(&ModelConfig { head_layers: 1, ..plain.clone() }), ["g.0.bias", "g.0.weight"]);
    let deep = names(&ModelConfig { head_layers: 3, ..tiny(Arch::ResNet18) });
    assert!(deep.contains(&"g.3.weight".to_owned()) && deep.contains(&"g.6.bias".to_owned()), "{deep:?}");
    assert!(!deep.contains(&"g.3.bias".to_owned()), "{deep:?}");
}

/// The cosines of embeddings, of all gradients and of the frozen encoder's features in another precision with those in f32 on the CPU,
/// from the same start.
fn beside_f32(precision: Precision, device: &Device) -> [f64; 3] {
    let config = ModelConfig { width: 16, ..ModelConfig::new(Arch::ResNet18) };
    let views = [7, 8].map(|seed| random(&[16, 3, 16, 16], seed).to_dtype(DType::F32).unwrap());
    let run = |precision: Precision, device: &Device| {
        let ctx = Context::new().with_precision(precision);
        let model = Model::new(&config, 1, DType::F32, device, &ctx).unwrap();
        let [left, right] = [0, 1].map(|i| model.forward_t(&views[i], true).unwrap().1);
        assert_eq!(left.dtype(), DType::F32);
        let loss = (&left * &right).unwrap().sum_all().unwrap();
        let gradients = model.backward(&loss).unwrap();
        let of = |(_, var): &(String, Var)| numbers(gradients.get(var).unwrap());
        let features = model.freeze().features(&views[0]).unwrap();
        [numbers(&left), model.parameters().iter().flat_map(of).collect(), numbers(&features)]
    };
    let (full, half) = (run(Precision::Full, &Device::Cpu), run(precision, device));
    assert!(full != half, "{precision:?} changes nothing");
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    [0, 1, 2].map(|i| dot(&full[i], &half[i]) / (dot(&full[i], &full[i]) * dot(&half[i], &half[i])).sqrt())
}

#[test]
fn bf16_follows_f32() {
    let [embeddings, gradients, features] = beside_f32(Precision::Bf16, &Device::Cpu);
    assert!(embeddings > 0.995 && features > 0.995, "embeddings: {embeddings}, features: {features}");
    // At the start of training gradients of bf16 are rough: PyTorch's autocast has 0.94 here too.
    assert!(gradients > 0.9, "gradients: {gradients}");
}

#[test]
fn f16_is_for_gpus() {
    let ctx = Context::new().with_precision(Precision::F16);
    let model = Model::new(&tiny(Arch::ResNet18), 1, DType::F32, &Device::Cpu, &ctx).unwrap();
    assert_eq!(model.map_dtype(), DType::F16);
    let pictures = random(&[2, 3, 8, 8], 7).to_dtype(DType::F32).unwrap();
    for refused in [model.forward_t(&pictures, true).map(drop), model.freeze().features(&pictures).map(drop)] {
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("x has elements of type F16, expected f32, f64 or bf16"), "{message}");
    }
}

#[cfg(feature = "cuda")]
#[test]
fn precisions_on_cuda_follow_f32() {
    use std::io::Write as _;
    let device = match simclr_ops::cuda::open(0) {
        Ok(device) => device,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "!! SKIPPED a model on a GPU: there is none here ({error})");
            return;
        }
    };
    for (precision, least) in [(Precision::Bf16, [0.995, 0.9, 0.995]), (Precision::F16, [0.9999, 0.98, 0.9999])] {
        let cosines = beside_f32(precision, &device);
        assert!(cosines.iter().zip(least).all(|(cosine, least)| *cosine > least), "{precision:?}: {cosines:?}");
    }
}

#[test]
fn a_size_of_zero_is_refused() {
    let config = ModelConfig { width: 0, ..tiny(Arch::ResNet18) };
    let error = Model::new(&config, 1, DType::F32, &Device::Cpu, &Context::new()).unwrap_err();
    assert_eq!(error.to_string(), "model setting `width` is 0, expected a number from 1 to 16384");
}

#[test]
fn initial_values_have_torchvision_s_distributions_and_depend_on_the_seed_alone() {
    let config = ModelConfig { width: 32, ..ModelConfig::new(Arch::ResNet18) };
    let model = |seed| Model::new(&config, seed, DType::F32, &Device::Cpu, &Context::new()).unwrap().state();
    let (a, b, other) = (model(1), model(1), model(2));
    let get = |name: &str| numbers(&a.iter().find(|(n, _)| n == name).unwrap().1);
    for ((name, a), ((_, b), (_, other))) in a.iter().zip(b.iter().zip(&other)) {
        assert_eq!(numbers(a), numbers(b), "{name}");
        let drawn = a.rank() >= 2 || name == "g.3.bias";
        assert_eq!(numbers(a) != numbers(other), drawn, "{name}");
    }
    let conv = get("f.6.1.conv2.weight");
    let variance = conv.iter().map(|x| x * x).sum::<f64>() / conv.len() as f64;
    // 589,824 draws: the variance is known to 0.2 %.
    assert!((variance * (256.0 * 9.0) / 2.0 - 1.0).abs() < 0.01, "{variance}");
    let stem = get("f.0.weight");
    let (bound, largest) = (1.0 / 27f64.sqrt(), stem.iter().fold(0.0, |m: f64, x| m.max(x.abs())));
    assert!(largest <= bound && largest > 0.99 * bound, "the 3x3 stem is PyTorch's default: {largest}");
    let linear = get("g.0.weight");
    let (bound, largest) = (1.0 / 16.0, linear.iter().fold(0.0, |m: f64, x| m.max(x.abs())));
    assert!(largest <= bound && largest > 0.999 * bound, "{largest}");
    let mean_square = linear.iter().map(|x| x * x).sum::<f64>() / linear.len() as f64;
    assert!((mean_square * 3.0 / (bound * bound) - 1.0).abs() < 0.02, "{mean_square}");
    assert!(get("f.1.weight").iter().all(|&x| x == 1.0) && get("f.1.bias").iter().all(|&x| x == 0.0));
    assert!(get("f.1.running_var").iter().all(|&x| x == 1.0) && get("f.1.running_mean").iter().all(|&x| x == 0.0));
}

#[test]
fn gradients_of_whole_networks_by_finite_differences() {
    for arch in [Arch::ResNet18, Arch::ResNet50] {
        for form in [Form::Reference, Form::Fast] {
            let ctx = Context::with_form(form);
            let model = Model::new(&tiny(arch), 1, DType::F64, &Device::Cpu, &ctx).unwrap();
            let (left, right) = (random(&[4, 3, 16, 16], 1), random(&[4, 3, 16, 16], 2));
            let (for_left, for_right) = (random(&[4, 5], 3), random(&[4, 5], 4));
            let feature_weights = random(&[4, model.feature_width()], 5);
            // Both outputs of one view and the embedding of the other, as a loss on any of them would use them.
            let objective = || {
                let ((feature, a), (_, b)) =
                    (model.forward_t(&left, true).unwrap(), model.forward_t(&right, true).unwrap());
                let sum = |t: Tensor, w: &Tensor| (t * w).unwrap().sum_all().unwrap();
                ((sum(a, &for_left) + sum(b, &for_right)).unwrap() + sum(feature, &feature_weights)).unwrap()
            };
            let gradients = model.backward(&objective()).unwrap();
            let mut pick = stream(9, [0; 3]);
            for (name, var) in model.parameters() {
                let gradient = numbers(gradients.get(var).unwrap_or_else(|| panic!("no gradient for {name}")));
                let original = numbers(var);
                {
                    let i = pick.below(original.len() as u64) as usize;
                    let at = |x: f64| {
                        let mut moved = original.clone();
                        moved[i] = x;
                        var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap()).unwrap();
                        let value: f64 = objective().to_scalar().unwrap();
                        value
                    };
                    let step = 1e-7;
                    let slope = (at(original[i] + step) - at(original[i] - step)) / (2.0 * step);
                    at(original[i]);
                    // Rounding is about 1e-15 / step. The step is that small because channels that are nearly constant bend the
                    // objective sharply.
                    let difference = (gradient[i] - slope).abs();
                    assert!(
                        difference < 1e-5 * (1.0 + slope.abs()),
                        "{arch} {form:?} {name}[{i}]: {} {slope}",
                        gradient[i]
                    );
                }
            }
        }
    }
}

#[test]
fn outputs_are_unit_rows_and_evaluation_changes_nothing() {
    let model = model(&tiny(Arch::ResNet18), DType::F32);
    let x = random(&[4, 3, 9, 7], 1).to_dtype(DType::F32).unwrap();
    for train in [true, false] {
        let (feature, out) = model.forward_t(&x, train).unwrap();
        for t in [&feature, &out] {
            for norm in numbers(&t.sqr().unwrap().sum(1).unwrap()) {
                assert!((norm - 1.0).abs() < 1e-6, "{norm}");
            }
            assert_eq!(t.track_op(), train);
        }
    }
    let before: Vec<_> = model.state().iter().map(|(_, t)| numbers(t)).collect();
    let (feature, _) = model.forward_t(&x, false).unwrap();
    let raw = model.features(&x).unwrap();
    let norms = raw.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
    for (a, b) in numbers(&feature).iter().zip(numbers(&raw.broadcast_div(&norms).unwrap())) {
        assert!((a - b).abs() < 1e-6);
    }
    let after: Vec<_> = model.state().iter().map(|(_, t)| numbers(t)).collect();
    assert!(before == after);
}

#[test]
fn each_view_updates_the_running_statistics() {
    let model = model(&tiny(Arch::ResNet18), DType::F64);
    let get = |name: &str| numbers(&model.state().into_iter().find(|(n, _)| n == name).unwrap().1);
    let views = [random(&[4, 3, 8, 8], 1), random(&[4, 3, 8, 8], 2)];
    let (mut mean, mut var) = (vec![0.0; 2], vec![1.0; 2]);
    for (step, x) in views.iter().enumerate() {
        model.forward_t(x, true).unwrap();
        let stem = model.state().into_iter().find(|(n, _)| n == "f.0.weight").unwrap().1;
        let y = x.conv2d(&stem, 1, 1, 1, 1).unwrap().transpose(0, 1).unwrap().reshape((2, ())).unwrap();
        let (batch_mean, batch_var) = (numbers(&y.mean(1).unwrap()), numbers(&y.var(1).unwrap()));
        for c in 0..2 {
            mean[c] = 0.9 * mean[c] + 0.1 * batch_mean[c];
            var[c] = 0.9 * var[c] + 0.1 * batch_var[c];
            assert!((get("f.1.running_mean")[c] - mean[c]).abs() < 1e-12);
            assert!((get("f.1.running_var")[c] - var[c]).abs() < 1e-12);
        }
        assert_eq!(get("f.1.num_batches_tracked"), [step as f64 + 1.0]);
        assert_eq!(get("g.1.num_batches_tracked"), [step as f64 + 1.0]);
    }
}

#[test]
fn both_views_in_one_pass_are_two_passes() {
    for (arch, dtype, tolerance) in [(Arch::ResNet18, DType::F64, 1e-12), (Arch::ResNet50, DType::F32, 1e-4)] {
        let config = ModelConfig { width: 8, ..ModelConfig::new(arch) };
        let views = [7, 8].map(|seed| random(&[6, 3, 16, 16], seed).to_dtype(dtype).unwrap());
        let run = |in_one: bool| {
            let model = model(&config, dtype);
            let (left, right) = if in_one {
                model.forward_views(&views[0], &views[1]).unwrap()
            } else {
                (model.forward_t(&views[0], true).unwrap().1, model.forward_t(&views[1], true).unwrap().1)
            };
            let loss = (&left * &right).unwrap().sum_all().unwrap();
            let gradients = model.backward(&loss).unwrap();
            let gradients: Vec<_> =
                model.parameters().iter().flat_map(|(_, var)| numbers(gradients.get(var).unwrap())).collect();
            let state: Vec<_> = model.state().iter().map(|(_, t)| numbers(t)).collect();
            ([numbers(&left), numbers(&right)], state, gradients)
        };
        let [(views, state, gradients), (want_views, want_state, want_gradients)] = [true, false].map(run);
        // To the bit, but for the order in which gradients are summed.
        assert!(views == want_views && state == want_state, "{arch}");
        let size = want_gradients.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
        for (got, want) in gradients.iter().zip(&want_gradients) {
            assert!((got - want).abs() <= tolerance * size, "{arch}: {got} is not {want}");
        }
    }
    let model = model(&tiny(Arch::ResNet18), DType::F64);
    let message = model.forward_views(&random(&[4, 3, 8, 8], 1), &random(&[3, 3, 8, 8], 1)).unwrap_err().to_string();
    assert!(message.contains("[4, 3, 8, 8] and [3, 3, 8, 8]"), "{message}");
}

#[test]
fn bits_do_not_depend_on_threads() {
    let run = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let config = ModelConfig { width: 8, ..ModelConfig::new(Arch::ResNet50) };
            let model = model(&config, DType::F32);
            let x = random(&[5, 3, 32, 32], 1).to_dtype(DType::F32).unwrap();
            let (_, out) = model.forward_t(&x, true).unwrap();
            let loss = (&out * random(&[5, 128], 2).to_dtype(DType::F32).unwrap()).unwrap().sum_all().unwrap();
            let gradients = model.backward(&loss).unwrap();
            let all = model.parameters().iter().map(|(_, var)| numbers(gradients.get(var).unwrap()));
            all.chain([numbers(&out)]).collect::<Vec<_>>()
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(3));
}

#[test]
fn a_file_brings_the_same_model_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let config = ModelConfig { head_batch_norm: false, head_layers: 3, ..tiny(Arch::ResNet34) };
    let model = model(&config, DType::F32);
    model.forward_t(&random(&[4, 3, 8, 8], 1).to_dtype(DType::F32).unwrap(), true).unwrap();
    model.save(&path).unwrap();
    let loaded = Model::load(&path, &Device::Cpu, &Context::new()).unwrap();
    assert_eq!(loaded.config(), model.config());
    for ((name, a), (other, b)) in model.state().iter().zip(loaded.state()) {
        assert_eq!((name, numbers(a)), (&other, numbers(&b)));
    }
    let again = dir.path().join("again.safetensors");
    loaded.save(&again).unwrap();
    assert!(std::fs::read(&path).unwrap() == std::fs::read(&again).unwrap(), "equal models are equal files");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no partial file is left");
}

#[test]
fn bad_files_are_refused_with_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let message = || Model::load(&path, &Device::Cpu, &Context::new()).unwrap_err().to_string();
    assert!(message().contains("model.safetensors: No such file"), "{}", message());
    let config = tiny(Arch::ResNet18);
    model(&config, DType::F32).save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for cut in [0, 7, 100, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(message().contains("not a safetensors file and not a .pth file"), "{}", message());
    }
    let mut tensors = model(&config, DType::F32).state();
    tensors.retain(|(name, _)| name != "f.1.weight");
    tensors.push(("f.fc.bias".to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap()));
    let stem = tensors.iter_mut().find(|(name, _)| name == "f.0.weight").unwrap();
    stem.1 = Tensor::zeros((2, 3, 7, 7), DType::F32, &Device::Cpu).unwrap();
    weights::save(&path, &config, &tensors).unwrap();
    let message = message();
    for problem in
        ["missing f.1.weight [2]", "unexpected f.fc.bias", "f.0.weight has shape [2, 3, 7, 7], expected [2, 3, 3, 3]"]
    {
        assert!(message.contains(problem), "{message}");
    }
    let stray = dir.path().join("plain.safetensors");
    candle_core::safetensors::save(&std::collections::HashMap::<String, Tensor>::new(), &stray).unwrap();
    let message = Model::load(&stray, &Device::Cpu, &Context::new()).unwrap_err().to_string();
    assert!(message.contains("plain.safetensors: not a model that this program knows: it has no tensor"), "{message}");
}

#[test]
fn an_unwritable_place_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no such folder").join("model.safetensors");
    let message = model(&tiny(Arch::ResNet18), DType::F32).save(&path).unwrap_err().to_string();
    assert!(message.contains("model.safetensors: No such file or directory"), "{message}");
}

#[test]
fn wrong_pictures_and_losses_are_named() {
    let model = model(&tiny(Arch::ResNet18), DType::F32);
    let pictures = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let message = model.forward_t(&pictures(&[2, 8, 8, 3]), true).unwrap_err().to_string();
    assert!(message.contains("[n, 3, h, w], found [2, 8, 8, 3]"), "{message}");
    // One picture of one pixel after the last stride: the last layers have one value per channel.
    let message = model.forward_t(&pictures(&[1, 3, 8, 8]), true).unwrap_err().to_string();
    assert!(message.contains("more than one value per channel, found 1"), "{message}");
    let (_, out) = model.forward_t(&pictures(&[2, 3, 8, 8]), true).unwrap();
    let message = model.backward(&out).unwrap_err().to_string();
    assert!(message.contains("a loss is one number"), "{message}");
}

#[test]
fn batch_statistics_without_gradients_are_those_of_training() {
    let pictures = random(&[4, 3, 8, 8], 1);
    let [trained, frozen] = [0, 1].map(|_| model(&tiny(Arch::ResNet18), DType::F64));
    let (features, _) = trained.forward_t(&pictures, true).unwrap();
    let raw = frozen.features_with_batch_statistics(&pictures).unwrap();
    assert!(!raw.track_op(), "nobody can ask for gradients");
    let by_hand = raw.broadcast_div(&raw.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap()).unwrap();
    for (a, b) in numbers(&features).iter().zip(numbers(&by_hand)) {
        assert!((a - b).abs() < 1e-12);
    }
    let of_encoder = |m: &Model| -> Vec<Vec<f64>> {
        m.state().iter().filter(|(name, _)| name.starts_with("f.")).map(|(_, t)| numbers(t)).collect()
    };
    assert_eq!(of_encoder(&trained), of_encoder(&frozen), "the running statistics follow alike");
}

#[test]
fn a_fingerprint_sees_every_change_and_nothing_else() {
    let first = model(&tiny(Arch::ResNet18), DType::F32);
    let before = first.fingerprint().unwrap();
    assert_eq!(before.len(), 64);
    assert_eq!(before, model(&tiny(Arch::ResNet18), DType::F32).fingerprint().unwrap());
    let pictures = random(&[4, 3, 8, 8], 1).to_dtype(DType::F32).unwrap();
    first.features(&pictures).unwrap();
    assert_eq!(before, first.fingerprint().unwrap(), "evaluation changes nothing");
    first.features_with_batch_statistics(&pictures).unwrap();
    assert_ne!(before, first.fingerprint().unwrap(), "running statistics are part of it");
}

#[test]
fn a_frozen_encoder_gives_each_picture_the_same_features_in_every_batch() {
    // Pictures of 32×32 pass through the first blocks in groups of four.
    let pictures = random(&[9, 3, 32, 32], 1).to_dtype(DType::F32).unwrap();
    for arch in Arch::ALL {
        let model = model(&tiny(arch), DType::F32);
        model.features_with_batch_statistics(&pictures).unwrap();
        let frozen = model.freeze();
        let all = numbers(&frozen.features(&pictures).unwrap());
        let width = model.feature_width();
        for (start, n) in [(0, 9), (0, 1), (3, 2), (2, 7)] {
            let some = frozen.features(&pictures.narrow(0, start, n).unwrap()).unwrap();
            assert_eq!(numbers(&some), all[start * width..(start + n) * width], "{arch:?} from {start}, {n} pictures");
        }
        assert_eq!(frozen.features(&pictures.narrow(0, 0, 0).unwrap()).unwrap().dims(), [0, width]);
        let small = random(&[2, 3, 8, 12], 2).to_dtype(DType::F32).unwrap();
        let other = frozen.features(&small).unwrap();
        assert_eq!(numbers(&other), numbers(&model.features(&small).unwrap()), "another size");
        assert_eq!(numbers(&frozen.features(&pictures).unwrap()), all, "{arch:?} again");
    }
}

#[test]
fn running_statistics_can_be_put_back() {
    let model = model(&tiny(Arch::ResNet18), DType::F32);
    let state = || -> Vec<Vec<f64>> { model.state().iter().map(|(_, t)| numbers(t)).collect() };
    let (before, kept) = (state(), model.running_statistics().unwrap());
    let pictures = random(&[4, 3, 8, 8], 1).to_dtype(DType::F32).unwrap();
    model.forward_groups(&pictures, 1, Mode::First).unwrap();
    let followed = state();
    assert!(followed != before);
    model.forward_groups(&pictures, 1, Mode::Second).unwrap();
    assert!(state() == followed, "a second pass leaves them alone");
    model.set_running_statistics(&kept).unwrap();
    assert!(state() == before);
    assert!(model.set_running_statistics(&kept[1..]).unwrap_err().to_string().contains("running statistics, found"));
    let message = model.forward_groups(&pictures, 3, Mode::Train).unwrap_err().to_string();
    assert!(message.contains("4 pictures are no 3 equal groups"), "{message}");
}

#[test]
fn torchvision_s_files_are_encoders_alone() {
    let config = ModelConfig { stem: crate::Stem::Large, ..tiny(Arch::ResNet50) };
    let model = Model::new(&config, 1, DType::F32, &Device::Cpu, &Context::new()).unwrap();
    let pictures = random(&[2, 3, 32, 32], 1).to_dtype(DType::F32).unwrap();
    model.forward_t(&pictures, true).unwrap();
    let theirs = |name: &str| {
        let places =
            [("f.0.", "conv1."), ("f.1.", "bn1."), ("f.3.", "layer1."), ("f.4.", "layer2."), ("f.5.", "layer3.")];
        let places = places.iter().chain(&[("f.6.", "layer4.")]);
        places.clone().find_map(|(ours, theirs)| Some(format!("{theirs}{}", name.strip_prefix(ours)?)))
    };
    let mut file: Vec<(String, Tensor)> =
        model.state().into_iter().filter_map(|(name, t)| Some((theirs(&name)?, t))).collect();
    // An old file counts no batches.
    file.retain(|(name, _)| !name.ends_with("num_batches_tracked"));
    file.push(("fc.weight".into(), Tensor::zeros((10, config.feature_width()), DType::F32, &Device::Cpu).unwrap()));
    file.push(("fc.bias".into(), Tensor::zeros(10, DType::F32, &Device::Cpu).unwrap()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resnet.pth");
    weights::save_pth(&path, &file).unwrap();

    let found = ModelConfig::of_file(&path).unwrap();
    assert!(!found.has_head);
    assert_eq!((found.config.arch, found.config.stem, found.config.width), (config.arch, config.stem, config.width));
    let head = ModelConfig { hidden_dim: 7, head_layers: 3, feature_dim: 5, ..config.clone() };
    let loaded = Model::begin(&path, &head, 4, &Device::Cpu, &Context::new()).unwrap();
    assert_eq!(loaded.config(), &head);
    assert_eq!(numbers(&loaded.features(&pictures).unwrap()), numbers(&model.features(&pictures).unwrap()));
    let other_seed = Model::begin(&path, &head, 5, &Device::Cpu, &Context::new()).unwrap();
    let embedded = |model: &Model| numbers(&model.forward_t(&pictures, false).unwrap().1);
    assert_ne!(embedded(&loaded), embedded(&other_seed));

    file.retain(|(name, _)| name != "layer2.0.conv1.weight");
    file.push(("wat".into(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap()));
    weights::save_pth(&path, &file).unwrap();
    let message = Model::load(&path, &Device::Cpu, &Context::new()).unwrap_err().to_string();
    assert!(message.contains("layers f.3 to f.6 have") || message.contains("missing f.4.0.conv1.weight"), "{message}");
}

#[test]
fn the_layers_are_those_that_run() {
    let layers = |arch| {
        let config = ModelConfig { width: 64, ..ModelConfig::new(arch) };
        let model = Model::new(&config, 0, DType::F32, &Device::Cpu, &Context::new()).unwrap();
        let (layers, head) = (model.layers(32, 32), 512 * model.feature_width() as u64 + 512 * 128);
        assert_eq!(layers.iter().map(|layer| layer.multiply_adds).sum::<u64>() + head, model.multiply_adds(32, 32));
        layers
    };
    // By hand, ResNet-18 at 32 pixels: 5 maps of 64·32², then 5 of half as many numbers, 5 of a quarter, 5 of an eighth.
    let small = layers(Arch::ResNet18);
    assert_eq!(small.len(), 20);
    assert_eq!(small.iter().map(|layer| layer.numbers_out()).sum::<usize>(), 5 * (65536 + 32768 + 16384 + 8192));
    assert_eq!(small.iter().filter(|layer| layer.has_residual).count(), 8);
    assert_eq!((small[0].numbers_in(), small[0].kernel), (3 * 1024, 3));
    assert_eq!(layers(Arch::ResNet50).len(), 53);
}
