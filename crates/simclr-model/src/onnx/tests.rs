//! The written graph, read back and computed operation by operation with candle, gives the encoder's features.

use std::collections::HashMap;

use super::*;
use crate::config::{Arch, Stem};
use crate::model::Model;

/// A model whose running statistics and affine parameters are not what they begin as.
fn trained(config: &ModelConfig) -> Model {
    let model = Model::new(config, 3, DType::F32, &Device::Cpu, &Default::default()).unwrap();
    let noise = |dims: &[usize]| Tensor::randn(0f32, 1.0, dims, &Device::Cpu).unwrap();
    for _ in 0..3 {
        let pictures = (noise(&[4, 3, 32, 32]) * 2.0).unwrap();
        model.forward_t(&pictures, true).unwrap();
    }
    for (name, var) in model.parameters().iter().filter(|(_, var)| var.dims().len() == 1) {
        let moved = (var.as_tensor() + (noise(var.dims()) * 0.1).unwrap()).unwrap();
        var.set(&moved).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    model
}

fn attribute(node: &NodeProto, name: &str) -> Vec<i64> {
    let found = node.attribute.iter().find(|attribute| attribute.name == name).unwrap();
    found.i.map_or_else(|| found.ints.clone(), |i| vec![i])
}

/// What a runtime does, of the few operations that an encoder has.
fn compute(bytes: &[u8], pictures: Tensor) -> Tensor {
    let graph = ModelProto::decode(bytes).unwrap().graph.unwrap();
    let mut values = HashMap::from([(graph.input[0].name.clone(), pictures)]);
    for tensor in &graph.initializer {
        let dims: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
        let numbers = Tensor::from_raw_buffer(&tensor.raw_data, DType::F32, &dims, &Device::Cpu).unwrap();
        values.insert(tensor.name.clone(), numbers);
    }
    for node in &graph.node {
        let x: Vec<&Tensor> = node.input.iter().map(|name| &values[name]).collect();
        let y = match node.op_type.as_str() {
            "Conv" => {
                let (padding, stride) = (attribute(node, "pads"), attribute(node, "strides"));
                assert_eq!(
                    attribute(node, "kernel_shape"),
                    x[1].dims()[2..].iter().map(|&k| k as i64).collect::<Vec<_>>()
                );
                let y = x[0].conv2d(x[1], padding[0] as usize, stride[0] as usize, 1, 1).unwrap();
                y.broadcast_add(&x[2].reshape((1, (), 1, 1)).unwrap()).unwrap()
            }
            "MaxPool" => {
                assert_eq!(["kernel_shape", "strides", "pads"].map(|name| attribute(node, name)[0]), [3, 2, 1]);
                // Behind a ReLU zeros around the map are never greater than all of a window.
                let padded = x[0].pad_with_zeros(2, 1, 1).unwrap().pad_with_zeros(3, 1, 1).unwrap();
                padded.max_pool2d_with_stride(3, 2).unwrap()
            }
            "Relu" => x[0].relu().unwrap(),
            "Add" => (x[0] + x[1]).unwrap(),
            "Sub" => x[0].broadcast_sub(x[1]).unwrap(),
            "Div" => x[0].broadcast_div(x[1]).unwrap(),
            "Transpose" => {
                assert_eq!(attribute(node, "perm"), [0, 3, 1, 2]);
                x[0].permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
            }
            "Cast" => {
                assert_eq!(attribute(node, "to"), [i64::from(TensorProto::FLOAT)]);
                x[0].to_dtype(DType::F32).unwrap()
            }
            "GlobalAveragePool" => x[0].mean_keepdim((2, 3)).unwrap(),
            "Flatten" => x[0].flatten_from(attribute(node, "axis")[0] as usize).unwrap(),
            other => panic!("an encoder has no {other}"),
        };
        assert!(values.insert(node.output[0].clone(), y).is_none(), "{} is computed once", node.output[0]);
    }
    values[&graph.output[0].name].clone()
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

#[test]
fn the_graph_computes_the_features() {
    for (arch, stem) in [(Arch::ResNet18, Stem::Small), (Arch::ResNet18, Stem::Large), (Arch::ResNet50, Stem::Small)] {
        let config = ModelConfig { width: 4, stem, ..ModelConfig::new(arch) };
        let model = trained(&config);
        for [n, h, w] in [[1, 32, 32], [3, 40, 33]] {
            let pictures = Tensor::randn(0f32, 1.0, (n, 3, h, w), &Device::Cpu).unwrap();
            let bytes = write(model.encoder(), &config, OnnxInput::Normalized, &[]).unwrap().unwrap();
            let expected = model.features(&pictures).unwrap();
            let found = compute(&bytes, pictures);
            assert_eq!(found.dims(), expected.dims());
            let scale: f32 = expected.abs().unwrap().max_all().unwrap().to_scalar().unwrap();
            let distance = distance(&found, &expected);
            assert!(scale > 0.1 && distance < 1e-5 * (1.0 + scale), "{arch} {stem} {n}x{h}x{w}: {distance} of {scale}");
        }
    }
}

#[test]
fn bytes_are_normalised_inside() {
    let config = ModelConfig { width: 4, ..ModelConfig::new(Arch::ResNet18) };
    let model = trained(&config);
    let (mean, std) = ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]);
    let bytes: Vec<u8> = (0..2 * 32 * 32 * 3).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let pixels = Tensor::from_vec(bytes, (2, 32, 32, 3), &Device::Cpu).unwrap();
    let row = |numbers: [f32; 3]| Tensor::from_slice(&numbers, (1, 3, 1, 1), &Device::Cpu).unwrap();
    let numbers = (pixels.to_dtype(DType::F32).unwrap().permute((0, 3, 1, 2)).unwrap() / 255.0).unwrap();
    let numbers = numbers.broadcast_sub(&row(mean)).unwrap().broadcast_div(&row(std)).unwrap();
    let remarks = [("mean".to_owned(), "[0.5]".to_owned())];
    let file = write(model.encoder(), &config, OnnxInput::Pixels { mean, std }, &remarks).unwrap().unwrap();
    assert!(distance(&compute(&file, pixels), &model.features(&numbers).unwrap()) < 1e-4);

    let model = ModelProto::decode(&file[..]).unwrap();
    assert_eq!((model.ir_version, model.opset_import[0].version), (8, 17));
    assert_eq!((model.metadata_props[0].key.as_str(), model.metadata_props[0].value.as_str()), ("mean", "[0.5]"));
    let dims = |value: &ValueInfoProto| -> Vec<String> {
        let shape = value.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap().shape.as_ref().unwrap();
        shape.dim.iter().map(|d| d.dim_param.clone().unwrap_or_else(|| d.dim_value.unwrap().to_string())).collect()
    };
    let graph = model.graph.unwrap();
    assert_eq!(dims(&graph.input[0]), ["n", "height", "width", "3"]);
    assert_eq!(dims(&graph.output[0]), ["n", "32"]);
}
