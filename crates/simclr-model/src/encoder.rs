//! The ResNet encoder: pictures in, pooled features out.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use simclr_ops::tape::Value;

use crate::config::ModelConfig;
use crate::layers::{BatchNorm, Conv2d, Mode, Pass};

/// A ResNet with a 3×3 stem and no max-pool, as the course makes it of torchvision's.
///
/// Under PyTorch's names of the `Sequential` that the course builds: `f.0` stem, `f.1` its batch norm, `f.3` to `f.6` the
/// four layers (`f.2` is the ReLU).
#[derive(Debug)]
pub(crate) struct Encoder {
    stem: ConvBn,
    blocks: Vec<Block>,
}

impl Encoder {
    pub(crate) fn new(config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let expansion = if config.arch.has_bottlenecks() { 4 } else { 1 };
        let stem = ConvBn::new(3, config.width, 3, 1, &vb.pp("0"), &vb.pp("1"))?;
        let mut blocks = Vec::new();
        let mut c_in = config.width;
        for (layer, count) in config.arch.blocks().into_iter().enumerate() {
            let (width, vb) = (config.width << layer, vb.pp(layer + 3));
            for block in 0..count {
                let stride = if layer > 0 && block == 0 { 2 } else { 1 };
                let sizes = BlockSizes { c_in, width, c_out: width * expansion, stride };
                blocks.push(Block::new(&sizes, config.arch.has_bottlenecks(), &vb.pp(block))?);
                c_in = sizes.c_out;
            }
        }
        Ok(Self { stem, blocks })
    }

    /// `[n, h, w, 3]` to pooled features `[n, c]`.
    pub(crate) fn forward(&self, pass: &mut Pass, pictures: &Value) -> Result<Value> {
        let mut x = self.stem.forward(pass, pictures, None, true)?;
        for block in &self.blocks {
            x = block.forward(pass, &x)?;
        }
        Ok(pass.tape.global_avg_pool(&x)?)
    }

    /// A parameter that every output depends on: what ties the encoder's tape to candle's graph.
    pub(crate) fn anchor(&self) -> &Tensor {
        self.stem.conv.weight()
    }

    pub(crate) fn multiply_adds(&self, size: [usize; 2]) -> u64 {
        let (mut total, mut size) = self.stem.conv.multiply_adds(size);
        for block in &self.blocks {
            if let Some(downsample) = &block.downsample {
                total += downsample.conv.multiply_adds(size).0;
            }
            for layer in &block.layers {
                let (own, next) = layer.conv.multiply_adds(size);
                (total, size) = (total + own, next);
            }
        }
        total
    }
}

struct BlockSizes {
    c_in: usize,
    width: usize,
    c_out: usize,
    stride: usize,
}

/// A residual block, basic or bottleneck: `relu(layers(x) + shortcut(x))`.
#[derive(Debug)]
struct Block {
    layers: Vec<ConvBn>,
    /// The shortcut where size or channels change; else the block's input itself.
    downsample: Option<ConvBn>,
}

impl Block {
    fn new(sizes: &BlockSizes, bottleneck: bool, vb: &VarBuilder<'_>) -> Result<Self> {
        let &BlockSizes { c_in, width, c_out, stride } = sizes;
        let layer = |i: usize, c_in, c_out, kernel, stride| {
            ConvBn::new(c_in, c_out, kernel, stride, &vb.pp(format!("conv{i}")), &vb.pp(format!("bn{i}")))
        };
        let layers = if bottleneck {
            vec![layer(1, c_in, width, 1, 1)?, layer(2, width, width, 3, stride)?, layer(3, width, c_out, 1, 1)?]
        } else {
            vec![layer(1, c_in, width, 3, stride)?, layer(2, width, c_out, 3, 1)?]
        };
        let downsample = (stride != 1 || c_in != c_out).then(|| {
            let vb = vb.pp("downsample");
            ConvBn::new(c_in, c_out, 1, stride, &vb.pp("0"), &vb.pp("1"))
        });
        Ok(Self { layers, downsample: downsample.transpose()? })
    }

    fn forward(&self, pass: &mut Pass, x: &Value) -> Result<Value> {
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward(pass, x, None, false)?,
            None => x.clone(),
        };
        let last = self.layers.len() - 1;
        let mut x = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(pass, &x, (i == last).then_some(&shortcut), true)?;
        }
        Ok(x)
    }
}

/// The unit of the network: convolution, batch norm, residual, ReLU.
#[derive(Debug)]
struct ConvBn {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvBn {
    fn new(
        c_in: usize,
        c_out: usize,
        kernel: usize,
        stride: usize,
        conv: &VarBuilder<'_>,
        norm: &VarBuilder<'_>,
    ) -> Result<Self> {
        Ok(Self { conv: Conv2d::new(c_in, c_out, kernel, stride, conv)?, norm: BatchNorm::new(c_out, norm)? })
    }

    fn forward(&self, pass: &mut Pass, x: &Value, residual: Option<&Value>, relu: bool) -> Result<Value> {
        if pass.mode == Mode::Evaluate {
            return self.conv.forward_folded(pass, x, &self.norm, residual, relu);
        }
        let x = self.conv.forward(pass, x)?;
        self.norm.forward(pass, &x, residual, relu)
    }
}
