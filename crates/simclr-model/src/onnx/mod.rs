//! The encoder as an ONNX file, for any runtime: batch norm folded into the convolutions, any batch, any size of pictures.
//!
//! The graph is what a forward pass writes down in place of computing it: [`Drawn`] is a layer of the same network whose maps are
//! names.

mod proto;

use candle_core::{DType, Device, Result, Tensor};
use prost::Message as _;
use simclr_ops::conv2d::Window;
use simclr_ops::max_pool2d::MaxPool;

use crate::config::ModelConfig;
use crate::encoder::{ConvBn, Encoder, Layer};
use proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

/// What the graph asks of a runtime: onnxruntime since 1.12 has it.
const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// A protocol buffer may not be larger.
const MOST_BYTES: usize = i32::MAX as usize;

/// What an exported encoder takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnnxInput {
    /// `pictures`: `[n, 3, h, w]`, f32, normalised as in training.
    Normalized,
    /// `pictures`: `[n, h, w, 3]`, bytes as a decoder gives them; the graph makes `(byte / 255 - mean) / std` of them.
    Pixels {
        /// What is subtracted from red, green, blue.
        mean: [f32; 3],
        /// What the differences are divided by.
        std: [f32; 3],
    },
}

/// The file: input `pictures`, output `features` (`[n, feature_width]`, f32, not normalised), and what there is to say of them. None if
/// it were too large for the format.
pub(crate) fn write(
    encoder: &Encoder,
    config: &ModelConfig,
    input: OnnxInput,
    remarks: &[(String, String)],
) -> Result<Option<Vec<u8>>> {
    let mut graph = Graph::default();
    let pictures = graph.pictures(input)?;
    let map = encoder.map(Drawn::new)?.forward(&mut graph, &pictures)?;
    let pooled = graph.node("GlobalAveragePool", vec![map], Vec::new());
    graph.node_named("features", "Flatten", vec![pooled], vec![int("axis", 1)]);
    let shape = vec![any("n"), known(config.feature_width())];
    graph.0.output.push(value("features", TensorProto::FLOAT, shape));
    graph.0.name = config.arch.to_string();

    let entry = |(key, value): &(String, String)| StringStringEntryProto { key: key.clone(), value: value.clone() };
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "simclr-train".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(graph.0),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: remarks.iter().map(entry).collect(),
    };
    Ok((model.encoded_len() <= MOST_BYTES).then(|| model.encode_to_vec()))
}

/// What was written down so far.
#[derive(Default)]
pub(crate) struct Graph(GraphProto);

impl Graph {
    /// An operation; returns the name of its output.
    fn node(&mut self, op: &str, input: Vec<String>, attribute: Vec<AttributeProto>) -> String {
        let name = format!("{}_{}", op.to_lowercase(), self.0.node.len());
        self.node_named(&name, op, input, attribute);
        name
    }

    fn node_named(&mut self, output: &str, op: &str, input: Vec<String>, attribute: Vec<AttributeProto>) {
        let output = output.to_owned();
        let name = output.clone();
        self.0.node.push(NodeProto { input, output: vec![output], name, op_type: op.into(), attribute });
    }

    /// Numbers that do not change; returns their name.
    fn constant(&mut self, numbers: &Tensor) -> Result<String> {
        let name = format!("constant_{}", self.0.initializer.len());
        let dims = numbers.dims().iter().map(|&dim| dim as i64).collect();
        let numbers = numbers.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let raw_data = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
        self.0.initializer.push(TensorProto { dims, data_type: TensorProto::FLOAT, name: name.clone(), raw_data });
        Ok(name)
    }

    /// The input, as the encoder takes it.
    fn pictures(&mut self, input: OnnxInput) -> Result<String> {
        let name = "pictures".to_owned();
        let [n, height, width] = ["n", "height", "width"].map(any);
        let OnnxInput::Pixels { mean, std } = input else {
            self.0.input.push(value(&name, TensorProto::FLOAT, vec![n, known(3), height, width]));
            return Ok(name);
        };
        self.0.input.push(value(&name, TensorProto::UINT8, vec![n, height, width, known(3)]));
        let x = self.node("Transpose", vec![name], vec![ints("perm", &[0, 3, 1, 2])]);
        let mut x = self.node("Cast", vec![x], vec![int("to", TensorProto::FLOAT.into())]);
        // In the order and precision of the training's own: the same bits.
        for (op, numbers) in [("Div", [255.0; 3]), ("Sub", mean), ("Div", std)] {
            let numbers = self.constant(&Tensor::from_slice(&numbers, (1, 3, 1, 1), &Device::Cpu)?)?;
            x = self.node(op, vec![x, numbers], Vec::new());
        }
        Ok(x)
    }
}

/// A layer that writes down what it would do.
pub(crate) struct Drawn {
    weight: Tensor,
    bias: Tensor,
    window: Window,
}

impl Drawn {
    fn new(layer: &ConvBn) -> Result<Self> {
        let (weight, bias, window) = layer.folded()?;
        Ok(Self { weight, bias, window })
    }
}

impl Layer for Drawn {
    type Pass = Graph;
    /// The name of a map.
    type Map = String;

    fn forward(&self, graph: &mut Graph, x: &String, residual: Option<&String>, relu: bool) -> Result<String> {
        let (weight, bias) = (graph.constant(&self.weight)?, graph.constant(&self.bias)?);
        let kernel = self.weight.dim(2)?;
        let attributes = sliding(kernel, self.window.stride, self.window.padding);
        let mut x = graph.node("Conv", vec![x.clone(), weight, bias], attributes);
        if let Some(residual) = residual {
            x = graph.node("Add", vec![x, residual.clone()], Vec::new());
        }
        Ok(if relu { graph.node("Relu", vec![x], Vec::new()) } else { x })
    }

    fn max_pool(graph: &mut Graph, x: &String, pool: MaxPool) -> Result<String> {
        Ok(graph.node("MaxPool", vec![x.clone()], sliding(pool.kernel, pool.stride, pool.padding)))
    }
}

/// A square window, the same in both directions.
fn sliding(kernel: usize, stride: usize, padding: usize) -> Vec<AttributeProto> {
    let [kernel, stride, padding] = [kernel, stride, padding].map(|number| number as i64);
    vec![ints("kernel_shape", &[kernel; 2]), ints("strides", &[stride; 2]), ints("pads", &[padding; 4])]
}

fn int(name: &str, number: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: Some(number), ints: Vec::new(), r#type: AttributeProto::INT }
}

fn ints(name: &str, numbers: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), i: None, ints: numbers.to_vec(), r#type: AttributeProto::INTS }
}

fn value(name: &str, elem_type: i32, dim: Vec<DimensionProto>) -> ValueInfoProto {
    let tensor = TensorTypeProto { elem_type, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

/// A dimension that may be anything, under a name.
fn any(name: &str) -> DimensionProto {
    DimensionProto { dim_value: None, dim_param: Some(name.into()) }
}

fn known(size: usize) -> DimensionProto {
    DimensionProto { dim_value: Some(size as i64), dim_param: None }
}

#[cfg(test)]
mod tests;
