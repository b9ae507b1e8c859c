//! Models from `.pth` files and back.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use simclr_model::{Arch, InferError, Model, ModelConfig, ModelError};
use simclr_ops::Context;

fn golden(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../tests/golden", name].iter().collect()
}

fn load(path: &Path) -> Result<Model, ModelError> {
    Model::load(path, &Device::Cpu, &Context::new())
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn state(model: &Model) -> Vec<(String, Vec<usize>, DType, Vec<f64>)> {
    model.state().into_iter().map(|(name, t)| (name, t.dims().to_vec(), t.dtype(), numbers(&t))).collect()
}

fn tiny(arch: Arch) -> ModelConfig {
    ModelConfig { width: 2, feature_dim: 5, hidden_dim: 6, ..ModelConfig::new(arch) }
}

fn random(config: &ModelConfig) -> Model {
    Model::new(config, 3, DType::F32, &Device::Cpu, &Context::new()).unwrap()
}

/// The file has `_metadata` and the counters of thop, like the course's.
#[test]
fn the_course_s_file_becomes_the_model_that_wrote_it() {
    let model = load(&golden("pth_course.pth")).unwrap();
    assert_eq!(*model.config(), tiny(Arch::ResNet18));

    // tests/golden/golden_pth.py, fill: tensors by their place in PyTorch's order.
    let order = fs::read_to_string(golden("state_dict_resnet18.txt")).unwrap();
    let names = order.lines().filter_map(|line| line.strip_prefix("entry ")?.split(' ').next());
    let place: HashMap<&str, usize> = names.enumerate().map(|(place, name)| (name, place)).collect();
    assert_eq!(model.state().len(), place.len());
    for (name, tensor) in model.state() {
        let k = place[name.as_str()];
        for (i, found) in numbers(&tensor).into_iter().enumerate() {
            let value = ((37 * i + 11 * k) % 101) as f64 / 100.0 - 0.5;
            let expected = if name.ends_with("num_batches_tracked") {
                k as f64
            } else if name.ends_with("running_var") {
                1.0 + value
            } else if name.ends_with("weight") && tensor.rank() == 1 {
                1.0 + value / 2.0
            } else {
                value
            };
            assert!((found - expected).abs() < 1e-7, "{name}[{i}] is {found}, expected {expected}");
        }
    }

    let pictures: Vec<f32> = (0..2 * 3 * 16 * 16).map(|i| ((29 * i % 251) as f64 / 250.0 - 0.5) as f32).collect();
    let pictures = Tensor::from_vec(pictures, (2, 3, 16, 16), &Device::Cpu).unwrap();
    let (feature, out) = model.forward_t(&pictures, false).unwrap();
    let pytorch = candle_core::safetensors::load(golden("pth_course.safetensors"), &Device::Cpu).unwrap();
    for (name, found) in [("feature", feature), ("out", out)] {
        for (found, expected) in numbers(&found).into_iter().zip(numbers(&pytorch[name])) {
            // Rows of unit length; 20 layers of f32, each a rounding of some 1e-7.
            assert!((found - expected).abs() < 1e-5, "{name}: {found}, expected {expected}");
        }
    }
}

#[test]
fn every_model_goes_out_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pth");
    for arch in Arch::ALL {
        for config in [tiny(arch), ModelConfig { head_batch_norm: false, head_layers: 3, ..tiny(arch) }] {
            let model = random(&config);
            model.save_pth(&path).unwrap();
            let loaded = load(&path).unwrap();
            assert_eq!(loaded.config(), &config);
            assert_eq!(state(&loaded), state(&model));
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no partial file is left");
    let message = random(&tiny(Arch::ResNet18)).save_pth(&dir.path().join("none/model.pth")).unwrap_err().to_string();
    assert!(message.contains("model.pth: No such file or directory"), "{message}");
}

#[test]
fn a_safetensors_file_of_others_is_known_by_its_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain.safetensors");
    let model = random(&tiny(Arch::ResNet50));
    let mut tensors: HashMap<String, Tensor> = model.state().into_iter().collect();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let loaded = load(&path).unwrap();
    assert_eq!((loaded.config(), state(&loaded)), (model.config(), state(&model)));

    // In half precision it is the same model, rounded.
    for tensor in tensors.values_mut().filter(|t| t.dtype() == DType::F32) {
        *tensor = tensor.to_dtype(DType::BF16).unwrap();
    }
    candle_core::safetensors::save(&tensors, &path).unwrap();
    for ((name, _, dtype, half), (.., full)) in state(&load(&path).unwrap()).into_iter().zip(state(&model)) {
        assert!(matches!(dtype, DType::F32 | DType::I64));
        for (a, b) in half.into_iter().zip(full) {
            assert!((a - b).abs() <= b.abs() / 256.0, "{name}: {a} {b}");
        }
    }

    tensors.retain(|name, _| !name.starts_with("f."));
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let error = load(&path).unwrap_err();
    assert!(matches!(error, ModelError::Unknown { source: InferError::NoStem { .. }, .. }), "{error}");
}

#[test]
fn every_difference_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let mut tensors: HashMap<String, Tensor> = random(&tiny(Arch::ResNet18)).state().into_iter().collect();
    tensors.remove("f.4.0.downsample.1.bias");
    tensors.insert("f.5.0.conv2.weight".into(), Tensor::zeros((8, 8, 1, 1), DType::F32, &Device::Cpu).unwrap());
    tensors.insert("f.fc\u{1b}".into(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
    tensors.insert("f.1.bias".into(), Tensor::zeros(2, DType::I64, &Device::Cpu).unwrap());
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let message = load(&path).unwrap_err().to_string();
    for problem in [
        "missing f.4.0.downsample.1.bias [4]",
        "f.5.0.conv2.weight has shape [8, 8, 1, 1], expected [8, 8, 3, 3]",
        "unexpected f.fc\\u{1b}",
        "f.1.bias has type I64, expected F32",
    ] {
        assert!(message.contains(problem), "{message}");
    }
}

#[test]
fn a_size_that_no_machine_has_the_memory_for_is_only_a_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let sizes = "width=16384 feature_dim=16384 hidden_dim=16384 head_layers=64 head_batch_norm=true";
    let metadata = HashMap::from([("simclr.model".to_owned(), format!("arch=resnet50 stem=3x3 {sizes}"))]);
    let stem = Tensor::zeros((2, 3, 3, 3), DType::F32, &Device::Cpu).unwrap();
    fs::write(&path, safetensors::serialize([("f.0.weight", &stem)], Some(metadata)).unwrap()).unwrap();
    let message = load(&path).unwrap_err().to_string();
    assert!(message.contains("f.0.weight has shape [2, 3, 3, 3], expected [16384, 3, 3, 3]"), "{message}");
}

#[test]
fn wrong_pth_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.pth");
    let message = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        load(&path).unwrap_err().to_string()
    };
    let whole = fs::read(golden("pth_course.pth")).unwrap();
    let cut = message(&whole[..whole.len() / 2]);
    assert!(cut.contains("weights.pth: not a whole zip archive"), "{cut}");
    let legacy = message(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.");
    assert!(legacy.contains("weights.pth: a pickle that is not in a zip archive"), "{legacy}");
    let views = message(&fs::read(golden("pth_views.pth")).unwrap());
    assert!(views.contains("weights.pth: not a model that this program knows"), "{views}");
    let html = message(b"<!DOCTYPE html><p>404 Not Found");
    assert!(html.contains("weights.pth: not a safetensors file and not a .pth file"), "{html}");
}
