//! The ResNet encoder: pictures in, a map of features out.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use simclr_ops::Context;
use simclr_ops::conv2d::{Folded, Threads, Window};
use simclr_ops::max_pool2d::{self, MaxPool};
use simclr_ops::tape::Value;

use crate::config::ModelConfig;
use crate::layers::{BatchNorm, Conv2d, Pass};

/// The unit of the network: convolution, batch norm, residual, ReLU.
pub(crate) trait Layer {
    /// What a forward pass carries along.
    type Pass;
    /// What comes in and goes out.
    type Map: Clone;

    /// `relu(norm(conv(x)) + residual)`, residual and ReLU each optional.
    fn forward(
        &self,
        pass: &mut Self::Pass,
        x: &Self::Map,
        residual: Option<&Self::Map>,
        relu: bool,
    ) -> Result<Self::Map>;

    /// The greatest number of every window of a map.
    fn max_pool(pass: &mut Self::Pass, x: &Self::Map, pool: MaxPool) -> Result<Self::Map>;
}

/// A ResNet, as torchvision has it or with the small stem that the course gives it.
///
/// Under PyTorch's names of the `Sequential` that the course builds: `f.0` stem, `f.1` its batch norm, `f.3` to `f.6` the
/// four layers (`f.2` is the ReLU; the max-pool, where there is one, has no name).
#[derive(Debug)]
pub(crate) struct Encoder<L = ConvBn> {
    stem: L,
    pool: Option<MaxPool>,
    pub(crate) blocks: Vec<Block<L>>,
}

impl Encoder {
    pub(crate) fn new(config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let expansion = if config.arch.has_bottlenecks() { 4 } else { 1 };
        let (kernel, stride) = (config.stem.kernel(), config.stem.stride());
        let stem = ConvBn::new(3, config.width, kernel, stride, &vb.pp("0"), &vb.pp("1"))?;
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
        Ok(Self { stem, pool: config.stem.pool(), blocks })
    }

    /// A parameter that every output depends on: what ties the encoder's tape to candle's graph.
    pub(crate) fn anchor(&self) -> &Tensor {
        self.stem.conv.weight()
    }

    pub(crate) fn multiply_adds(&self, size: [usize; 2]) -> u64 {
        self.layers(size).iter().map(|layer| layer.multiply_adds).sum()
    }

    /// Its convolutions on a picture of `size`, in the order in which they run.
    pub(crate) fn layers(&self, size: [usize; 2]) -> Vec<LayerSizes> {
        let sizes = |layer: &ConvBn, size, has_residual| {
            let dims = layer.conv.weight().dims();
            let (multiply_adds, size_out) = layer.conv.multiply_adds(size);
            LayerSizes { c_in: dims[1], c_out: dims[0], kernel: dims[2], size, size_out, multiply_adds, has_residual }
        };
        let stem = sizes(&self.stem, size, false);
        let mut size = self.pool.map_or(stem.size_out, |pool| pool.size_out(stem.size_out));
        let mut all = vec![stem];
        for block in &self.blocks {
            all.extend(block.downsample.as_ref().map(|layer| sizes(layer, size, false)));
            for (i, layer) in block.layers.iter().enumerate() {
                let own = sizes(layer, size, i + 1 == block.layers.len());
                size = own.size_out;
                all.push(own);
            }
        }
        all
    }

    /// The same network of other layers.
    pub(crate) fn map<L>(&self, mut to: impl FnMut(&ConvBn) -> Result<L>) -> Result<Encoder<L>> {
        let mut blocks = Vec::new();
        for block in &self.blocks {
            let downsample = block.downsample.as_ref().map(&mut to).transpose()?;
            blocks.push(Block { layers: block.layers.iter().map(&mut to).collect::<Result<_>>()?, downsample });
        }
        Ok(Encoder { stem: to(&self.stem)?, pool: self.pool, blocks })
    }

    /// The same network for evaluation of pictures of `size`: running statistics, batch norm folded into packed weights.
    pub(crate) fn fold(&self, ctx: &Context, size: [usize; 2]) -> Result<Encoder<Folded>> {
        let stem = self.stem.fold(ctx, size)?;
        let mut size = self.pool.map_or(stem.size_out(), |pool| pool.size_out(stem.size_out()));
        let mut blocks = Vec::new();
        for block in &self.blocks {
            let downsample = block.downsample.as_ref().map(|layer| layer.fold(ctx, size)).transpose()?;
            let mut layers = Vec::new();
            for layer in &block.layers {
                let layer = layer.fold(ctx, size)?;
                size = layer.size_out();
                layers.push(layer);
            }
            blocks.push(Block { layers, downsample });
        }
        Ok(Encoder { stem, pool: self.pool, blocks })
    }
}

impl<L: Layer> Encoder<L> {
    /// `[n, h, w, 3]` to what the first block takes.
    pub(crate) fn stem(&self, pass: &mut L::Pass, pictures: &L::Map) -> Result<L::Map> {
        let x = self.stem.forward(pass, pictures, None, true)?;
        self.pool.map_or(Ok(x.clone()), |pool| L::max_pool(pass, &x, pool))
    }

    /// `[n, h, w, 3]` to the map `[n, h / 8, w / 8, c]` (large stem: `h / 32`, `w / 32`) that is pooled.
    pub(crate) fn forward(&self, pass: &mut L::Pass, pictures: &L::Map) -> Result<L::Map> {
        let mut x = self.stem(pass, pictures)?;
        for block in &self.blocks {
            x = block.forward(pass, &x)?;
        }
        Ok(x)
    }
}

/// The sizes of one convolution of an encoder and of the batch norm behind it, for one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSizes {
    /// Channels that come in.
    pub c_in: usize,
    /// Channels that go out.
    pub c_out: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Rows and columns of the map that comes in.
    pub size: [usize; 2],
    /// Rows and columns of the map that goes out.
    pub size_out: [usize; 2],
    /// Multiplications, each with an addition.
    pub multiply_adds: u64,
    /// Whether a shortcut is added behind the batch norm.
    pub has_residual: bool,
}

impl LayerSizes {
    /// Numbers of the map that comes in.
    pub fn numbers_in(&self) -> usize {
        self.c_in * self.size[0] * self.size[1]
    }

    /// Numbers of the map that goes out.
    pub fn numbers_out(&self) -> usize {
        self.c_out * self.size_out[0] * self.size_out[1]
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
pub(crate) struct Block<L> {
    layers: Vec<L>,
    /// The shortcut where size or channels change; else the block's input itself.
    downsample: Option<L>,
}

impl Block<ConvBn> {
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
}

impl<L: Layer> Block<L> {
    pub(crate) fn forward(&self, pass: &mut L::Pass, x: &L::Map) -> Result<L::Map> {
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

impl Block<Folded> {
    /// How many weights it has.
    pub(crate) fn weights(&self) -> usize {
        self.layers.iter().chain(&self.downsample).map(|layer| layer.weight().elem_count()).sum()
    }

    /// How many numbers it makes of a picture.
    pub(crate) fn numbers(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.size_out().iter().product::<usize>() * layer.weight().dims()[0])
    }
}

/// The layer as it learns.
#[derive(Debug)]
pub(crate) struct ConvBn {
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

    /// Weight `[c_out, c_in, k, k]`, f64, and bias of the convolution that is this layer with its running statistics.
    pub(crate) fn folded(&self) -> Result<(Tensor, Tensor, Window)> {
        let (scale, shift) = self.norm.affine()?;
        let weight = self.conv.weight().to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let channels = scale.len();
        let scale = Tensor::from_vec(scale, (channels, 1, 1, 1), &Device::Cpu)?;
        Ok((weight.broadcast_mul(&scale)?, Tensor::from_vec(shift, channels, &Device::Cpu)?, self.conv.window()))
    }

    fn fold(&self, ctx: &Context, size: [usize; 2]) -> Result<Folded> {
        let (scale, shift) = self.norm.affine()?;
        Ok(Folded::new(ctx, self.conv.weight(), self.conv.window(), &scale, &shift, size)?)
    }
}

impl Layer for ConvBn {
    type Pass = Pass;
    type Map = Value;

    fn forward(&self, pass: &mut Pass, x: &Value, residual: Option<&Value>, relu: bool) -> Result<Value> {
        let x = self.conv.forward(pass, x)?;
        self.norm.forward(pass, &x, residual, relu)
    }

    fn max_pool(pass: &mut Pass, x: &Value, pool: MaxPool) -> Result<Value> {
        Ok(pass.tape.max_pool2d(x, pool)?)
    }
}

/// The layer for evaluation.
impl Layer for Folded {
    type Pass = Threads;
    type Map = Tensor;

    fn forward(&self, threads: &mut Threads, x: &Tensor, residual: Option<&Tensor>, relu: bool) -> Result<Tensor> {
        Ok(Folded::forward(self, x, residual, relu, *threads)?)
    }

    fn max_pool(_: &mut Threads, x: &Tensor, pool: MaxPool) -> Result<Tensor> {
        Ok(max_pool2d::forward(&Context::new(), x, pool)?.0)
    }
}
