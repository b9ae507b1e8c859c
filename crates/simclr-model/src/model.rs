//! The whole model: encoder and projection head.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{ModuleT, VarBuilder, VarMap};
use sha2::{Digest, Sha256};
use simclr_ops::autograd::{self, Listener, Sink};
use simclr_ops::tape::Tape;
use simclr_ops::{Context, conv2d};

use crate::config::ModelConfig;
use crate::encoder::{Encoder, LayerSizes};
use crate::error::ModelError;
use crate::frozen::FrozenEncoder;
use crate::head::Head;
use crate::layers::{Mode, Pass, Training};
use crate::layout::layout;
use crate::onnx::{self, OnnxInput};
use crate::statistics::PassStatistics;
use crate::{init, torchvision, weights};

/// Encoder `f` and projection head `g`, the course's `Model`.
///
/// Parameters are candle variables under PyTorch's names. In training the encoder runs on a tape of its own, so gradients
/// come from [`Model::backward`], not from `loss.backward()`.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use simclr_model::{Arch, Model, ModelConfig};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = ModelConfig { width: 4, ..ModelConfig::new(Arch::ResNet18) };
/// let model = Model::new(&config, 0, DType::F32, &Device::Cpu, &Default::default())?;
/// let pictures = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// let (feature, out) = model.forward_t(&pictures, false)?;
/// assert_eq!((feature.dims(), out.dims()), ([2, 32].as_slice(), [2, 128].as_slice()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    ctx: Context,
    encoder: Encoder,
    head: Head,
    /// Every tensor of the state dict, sorted by name.
    state: Vec<(String, Var)>,
    /// Those of them that training moves.
    parameters: Vec<(String, Var)>,
    /// Where the tapes of the encoder leave its gradients.
    sink: Arc<Sink>,
}

impl Model {
    /// A model with torchvision's initial distributions, drawn from `seed`.
    ///
    /// `dtype` is that of parameters and outputs: f32, or f64 to check against.
    ///
    /// # Errors
    /// [`ModelError::Config`] for a size of zero; [`ModelError::Candle`] if the device has not the memory.
    pub fn new(
        config: &ModelConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
        ctx: &Context,
    ) -> std::result::Result<Self, ModelError> {
        config.validate()?;
        let variables = VarMap::new();
        let vb = VarBuilder::from_varmap(&variables, dtype, device);
        let encoder = Encoder::new(config, &vb.pp("f"))?;
        let head = Head::new(config, &vb.pp("g"))?;
        init::initialize(&variables, seed)?;
        let mut state: Vec<(String, Var)> = {
            let entries = variables.data().lock().unwrap_or_else(PoisonError::into_inner);
            entries.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
        };
        state.sort_by(|(a, _), (b, _)| a.cmp(b));
        let parameters = state.iter().filter(|(name, _)| is_parameter(name)).cloned().collect();
        Ok(Self { config: config.clone(), ctx: ctx.clone(), encoder, head, state, parameters, sink: Arc::default() })
    }

    /// A model from a file: safetensors, or a `.pth` file of the course's model in PyTorch's zip form. The content of the
    /// file decides which it is, not its name.
    ///
    /// A file that [`Model::save`] wrote says which model it is; of any other, names and shapes of its tensors do. Float
    /// tensors of any width become f32. The counters `total_ops` and `total_params` of a FLOP counter in a `.pth` file are
    /// passed over. A file with torchvision's names (`conv1.weight`, `layer1.…`) is an encoder alone, its classifier is passed
    /// over; it gets the course's projection head with initial values.
    ///
    /// # Errors
    /// [`ModelError::Io`], [`ModelError::Format`], [`ModelError::Pth`], [`ModelError::Metadata`] or [`ModelError::Unknown`] if
    /// the file cannot be understood; [`ModelError::Entries`] listing every tensor that is missing, unexpected or misshapen.
    pub fn load(path: &Path, device: &Device, ctx: &Context) -> std::result::Result<Self, ModelError> {
        let loaded = weights::load(path)?;
        Self::filled(&loaded.config, 0, &loaded.tensors, device, ctx)
    }

    /// [`Model::load`] to train on: a head that the file has not is that of `head`, drawn from `seed`.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn begin(
        path: &Path,
        head: &ModelConfig,
        seed: u64,
        device: &Device,
        ctx: &Context,
    ) -> std::result::Result<Self, ModelError> {
        let loaded = weights::load(path)?;
        let config = if loaded.has_head { loaded.config } else { loaded.config.with_head_of(head) };
        Self::filled(&config, seed, &loaded.tensors, device, ctx)
    }

    fn filled(
        config: &ModelConfig,
        seed: u64,
        tensors: &BTreeMap<String, Tensor>,
        device: &Device,
        ctx: &Context,
    ) -> std::result::Result<Self, ModelError> {
        let model = Self::new(config, seed, DType::F32, device, ctx)?;
        for (name, var) in &model.state {
            if let Some(tensor) = tensors.get(name) {
                var.set(&tensor.to_dtype(var.dtype())?.to_device(device)?)?;
            }
        }
        Ok(model)
    }

    /// Writes all tensors and the model's description as safetensors; the file is whole or not there.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the file cannot be written.
    pub fn save(&self, path: &Path) -> std::result::Result<(), ModelError> {
        weights::save(path, &self.config, &self.state())
    }

    /// Writes all tensors as a `.pth` file, a state dict in PyTorch's order: `torch.load(path, weights_only=True)` reads it
    /// and the course's `Model` takes it with `load_state_dict(…, strict=True)`. The file is whole or not there.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the file cannot be written.
    pub fn save_pth(&self, path: &Path) -> std::result::Result<(), ModelError> {
        weights::save_pth(path, &self.in_order()?)
    }

    /// The state dict in PyTorch's order.
    pub(crate) fn in_order(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state: BTreeMap<String, Tensor> = self.state().into_iter().collect();
        Ok(layout(&self.config)?.into_iter().filter_map(|(name, _)| state.remove_entry(&name)).collect())
    }

    /// Writes the encoder under torchvision's names, without a classifier, as safetensors: `load_state_dict(…, strict=True)` of
    /// torchvision's ResNet whose `fc` is `torch.nn.Identity()`, and whose stem is this one's. The file is whole or not there.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save_torchvision(&self, path: &Path) -> std::result::Result<(), ModelError> {
        weights::save(path, &self.config, &torchvision::named(self.in_order()?))
    }

    /// [`Model::save_torchvision`] as a `.pth` file.
    ///
    /// # Errors
    /// As [`Model::save_pth`].
    pub fn save_torchvision_pth(&self, path: &Path) -> std::result::Result<(), ModelError> {
        weights::save_pth(path, &torchvision::named(self.in_order()?))
    }

    /// Writes the encoder as an ONNX file (opset 17): `pictures` in, `features` out, f32, not normalised; any batch and size, batch
    /// norm folded into the convolutions. `remarks` are kept with it. The file is whole or not there.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the file cannot be written, [`ModelError::TooLarge`] if ONNX cannot hold so many weights.
    pub fn save_onnx(
        &self,
        path: &Path,
        input: OnnxInput,
        remarks: &[(String, String)],
    ) -> std::result::Result<(), ModelError> {
        let bytes = onnx::write(&self.encoder, &self.config, input, remarks)?;
        let bytes = bytes.ok_or_else(|| ModelError::TooLarge { path: path.to_owned() })?;
        weights::write_whole(path, &bytes).map_err(|source| ModelError::Io { path: path.to_owned(), source })
    }

    /// Features and embeddings of pictures, both with rows of unit length: `(normalize(f(x)), normalize(g(f(x))))`.
    ///
    /// With `train` the batch's own statistics normalise and the running ones follow; the outputs belong to candle's
    /// graph. Without, the running statistics normalise and no graph is recorded.
    ///
    /// # Shapes
    /// `x`: `[n, 3, h, w]`, normalised pictures of the model's type. Returns `[n, feature_width]` and `[n, feature_dim]`.
    ///
    /// # Errors
    /// If `x` is not as above, or has one picture in training (batch norm of the head needs two).
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<(Tensor, Tensor)> {
        if train {
            let (features, mut training) = self.encode(&self.nhwc(x)?, Training::new(Mode::Train, 1))?;
            let embedded = self.embed(&features, Some(&mut training))?;
            training.statistics.follow()?;
            Ok(embedded)
        } else {
            let (feature, out) = self.embed(&self.features(x)?, None)?;
            Ok((feature.detach(), out.detach()))
        }
    }

    /// Embeddings of both views of a batch in training, as two calls of [`Model::forward_t`] give them: each view is normalised by
    /// its own statistics, and the running ones follow the first and then the second. One pass of both is faster.
    ///
    /// # Shapes
    /// `left`, `right`: `[n, 3, h, w]`. Returns twice `[n, feature_dim]`, rows of unit length.
    ///
    /// # Errors
    /// As [`Model::forward_t`], and if the views have different shapes.
    pub fn forward_views(&self, left: &Tensor, right: &Tensor) -> Result<(Tensor, Tensor)> {
        if left.dims() != right.dims() {
            candle_core::bail!("both views have one shape, found {:?} and {:?}", left.dims(), right.dims());
        }
        let n = left.dim(0)?;
        let out = self.forward_groups(&Tensor::cat(&[left, right], 0)?, 2, Mode::Train)?;
        Ok((out.narrow(0, 0, n)?, out.narrow(0, n, n)?))
    }

    /// Embeddings in training of `groups` equal parts of a batch, each normalised by its own statistics, which the running ones
    /// follow in their order: what that many calls of [`Model::forward_t`] give.
    ///
    /// A step on more pictures than memory holds takes two passes over their groups: [`Mode::First`] for all embeddings, and,
    /// when the gradient of the loss for them is known, [`Mode::Second`] for group after group (Gao et al. 2021,
    /// arXiv:2101.06983).
    ///
    /// # Shapes
    /// `x`: `[n, 3, h, w]`, `n` a multiple of `groups`. Returns `[n, feature_dim]`, rows of unit length.
    ///
    /// # Errors
    /// As [`Model::forward_t`], and if the groups are not equal.
    pub fn forward_groups(&self, x: &Tensor, groups: usize, mode: Mode) -> Result<Tensor> {
        let (out, statistics) = self.forward_map(&self.nhwc(x)?, groups, mode)?;
        statistics.follow()?;
        Ok(out)
    }

    /// [`Model::forward_groups`] of pictures that are a map already, as [`conv2d::channels_last`] makes them, or augmentation on a GPU;
    /// and, for whoever makes a step of it only if its numbers are finite, without the running statistics following: that is done by
    /// what is returned beside the embeddings.
    ///
    /// # Shapes
    /// `map`: `[n, h, w, 3]` on the model's device, in the type that maps are kept in. Returns as [`Model::forward_groups`].
    ///
    /// # Errors
    /// As [`Model::forward_groups`].
    pub fn forward_map(&self, map: &Tensor, groups: usize, mode: Mode) -> Result<(Tensor, PassStatistics)> {
        let n = map.dim(0)?;
        if groups == 0 || !n.is_multiple_of(groups) {
            candle_core::bail!("{n} pictures are no {groups} equal groups");
        }
        let (features, mut training) = self.encode(map, Training::new(mode, groups))?;
        let (_, out) = self.embed(&features, Some(&mut training))?;
        Ok((if mode.has_gradients() { out } else { out.detach() }, training.statistics))
    }

    /// Features, and the embeddings made of them, with rows of unit length; `training` is none for evaluation.
    fn embed(&self, features: &Tensor, training: Option<&mut Training>) -> Result<(Tensor, Tensor)> {
        let out = self.head.forward(&self.ctx, features, training)?;
        Ok((autograd::l2_normalize(&self.ctx, features)?, autograd::l2_normalize(&self.ctx, &out)?))
    }

    /// Features of pictures for evaluation: running statistics, no graph, not normalised. For many batches, [`Model::freeze`].
    ///
    /// # Shapes
    /// `x`: `[n, 3, h, w]`. Returns `[n, feature_width]`.
    ///
    /// # Errors
    /// If `x` is not as above.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.freeze().features(x)
    }

    /// Features of pictures as a layer of one's own takes them, not normalised: with `train` in candle's graph, for
    /// [`Model::backward`], normalised by the batch's own statistics, which the running ones follow; without, [`Model::features`].
    ///
    /// # Shapes
    /// As [`Model::features`].
    ///
    /// # Errors
    /// If `x` is not as above, or in training so small that a channel of the last layer has one value.
    pub fn features_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        if train { self.encode_alone(x, Mode::Train) } else { self.features(x) }
    }

    /// The encoder for evaluation, whose weights are made ready once for many batches.
    pub fn freeze(&self) -> FrozenEncoder<'_> {
        FrozenEncoder::new(self)
    }

    /// Features as the course's linear evaluation takes them: of an encoder whose parameters are frozen but which was left in
    /// training mode, so that each batch is normalised by its own statistics and the running ones drift. No graph, not
    /// normalised.
    ///
    /// # Shapes
    /// As [`Model::features`].
    ///
    /// # Errors
    /// If `x` is not as above, or so small that a channel of the last layer has one value.
    pub fn features_with_batch_statistics(&self, x: &Tensor) -> Result<Tensor> {
        self.encode_alone(x, Mode::First)
    }

    /// SHA-256 of the state dict, names and shapes and every bit of the values, in hexadecimal digits: equal if and only if
    /// nothing was changed.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for (name, tensor) in self.state() {
            hash.update(format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.dims()));
            let tensor = tensor.to_device(&Device::Cpu)?.flatten_all()?;
            match tensor.dtype() {
                DType::F32 => tensor.to_vec1::<f32>()?.iter().for_each(|v| hash.update(v.to_le_bytes())),
                DType::F64 => tensor.to_vec1::<f64>()?.iter().for_each(|v| hash.update(v.to_le_bytes())),
                DType::I64 => tensor.to_vec1::<i64>()?.iter().for_each(|v| hash.update(v.to_le_bytes())),
                other => candle_core::bail!("a model has no tensors of type {other:?}"),
            }
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Gradients of `loss` for all parameters: those that candle knows and those of the encoder's tapes, in one store.
    ///
    /// # Errors
    /// If `loss` is not a scalar that comes from this model in training, or was used already.
    pub fn backward(&self, loss: &Tensor) -> Result<GradStore> {
        if loss.elem_count() != 1 {
            candle_core::bail!("a loss is one number, found a tensor of shape {:?}", loss.dims());
        }
        self.sink.clear();
        let mut gradients = loss.backward()?;
        self.sink.drain_into(&mut gradients)?;
        Ok(gradients)
    }

    /// [`Model::backward`] while which `listener` hears of most parameters of the encoder, each with its gradient as soon as that is
    /// complete and before those of earlier layers are computed; the others are in the store alone. For a loss in which the encoder
    /// has run once.
    ///
    /// # Errors
    /// As [`Model::backward`], and what `listener` reports.
    pub fn backward_with(&self, loss: &Tensor, listener: Listener) -> Result<GradStore> {
        self.sink.set_listener(Some(listener));
        let gradients = self.backward(loss);
        self.sink.set_listener(None);
        gradients
    }

    /// What an optimizer updates, sorted by name; not the running statistics.
    pub fn parameters(&self) -> &[(String, Var)] {
        &self.parameters
    }

    /// Those of them that are the encoder's: what [`Model::features_t`] depends on.
    pub fn encoder_parameters(&self) -> Vec<(String, Var)> {
        self.parameters.iter().filter(|(name, _)| name.starts_with("f.")).cloned().collect()
    }

    /// The state dict: all parameters and running statistics, sorted by name. The tensors share the model's memory.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.state.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// Copies of the running statistics, which follow forward passes in training.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn running_statistics(&self) -> Result<Vec<Tensor>> {
        self.statistics().map(|var| var.as_detached_tensor().copy()).collect()
    }

    /// Takes over what [`Model::running_statistics`] gave, of this model earlier or of another one.
    ///
    /// # Errors
    /// If they are not those of this model.
    pub fn set_running_statistics(&self, statistics: &[Tensor]) -> Result<()> {
        let own = self.statistics().count();
        if own != statistics.len() {
            candle_core::bail!("the model has {own} running statistics, found {}", statistics.len());
        }
        self.statistics().zip(statistics).try_for_each(|(var, value)| var.set(value))
    }

    /// Puts the numbers of another model with the same entries, in the order of [`Model::state`], in the place of its own.
    ///
    /// # Errors
    /// If they are not as many, or one has another shape or type.
    pub fn set_state(&self, state: &[Tensor]) -> Result<()> {
        if self.state.len() != state.len() {
            candle_core::bail!("the model has {} tensors, found {}", self.state.len(), state.len());
        }
        self.state.iter().zip(state).try_for_each(|((_, var), value)| var.set(value))
    }

    fn statistics(&self) -> impl Iterator<Item = &Var> {
        self.state.iter().filter(|(name, _)| !is_parameter(name)).map(|(_, var)| var)
    }

    /// Architecture and sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Numbers that training moves (24.62 million for the course's model).
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// Multiply-adds of convolutions and linear layers for one picture of `h`×`w` (1.299 billion for the course's model).
    pub fn multiply_adds(&self, h: usize, w: usize) -> u64 {
        self.encoder.multiply_adds([h, w]) + self.head.multiply_adds()
    }

    /// The convolutions of the encoder on a picture of `h`×`w`, in the order in which they run.
    pub fn layers(&self, h: usize, w: usize) -> Vec<LayerSizes> {
        self.encoder.layers([h, w])
    }

    /// Numbers in a feature vector.
    pub fn feature_width(&self) -> usize {
        self.config.feature_width()
    }

    /// Features of pictures that no head goes on with, in training.
    fn encode_alone(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let (features, training) = self.encode(&self.nhwc(x)?, Training::new(mode, 1))?;
        training.statistics.follow()?;
        Ok(features)
    }

    /// The encoder on its tape; where gradients are wanted the result hangs in candle's graph.
    fn encode(&self, map: &Tensor, training: Training) -> Result<(Tensor, Training)> {
        if map.dims().last() != Some(&3) {
            candle_core::bail!("a map of pictures has shape [n, h, w, 3], found {:?}", map.dims());
        }
        let mut pass = Pass { tape: Tape::new(&self.ctx), training };
        let pictures = pass.tape.constant(map);
        let map = self.encoder.forward(&mut pass, &pictures)?;
        let features = pass.tape.global_avg_pool(&map)?;
        let Pass { tape, training } = pass;
        let features = if training.mode.has_gradients() {
            autograd::attach(tape, &features, &[self.encoder.anchor()], &self.sink)?
        } else {
            features.tensor().clone()
        };
        Ok((features, training))
    }

    /// The device of its parameters.
    pub fn device(&self) -> &Device {
        self.encoder.anchor().device()
    }

    /// The type that maps are kept in.
    pub fn map_dtype(&self) -> DType {
        self.ctx.precision().map_dtype(self.encoder.anchor().dtype())
    }

    /// Pictures `[n, 3, h, w]`, wherever they are, as the encoder takes them: `[n, h, w, 3]`, in the precision of maps, where the model
    /// is.
    ///
    /// # Errors
    /// If they are not pictures of the model's type.
    pub fn nhwc(&self, x: &Tensor) -> Result<Tensor> {
        match *x.dims() {
            [_, 3, h, w] if h > 0 && w > 0 => {}
            _ => candle_core::bail!("pictures have shape [n, 3, h, w], found {:?}", x.dims()),
        }
        let dtype = if x.dtype() == self.encoder.anchor().dtype() { self.map_dtype() } else { x.dtype() };
        Ok(conv2d::channels_last(&x.to_device(self.device())?, dtype)?)
    }

    pub(crate) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// [`Context::algorithms`] of what it has computed.
    pub fn algorithms(&self) -> Vec<String> {
        self.ctx.algorithms()
    }

    pub(crate) fn ctx(&self) -> &Context {
        &self.ctx
    }
}

/// The embeddings, as candle's layers give one tensor.
impl ModuleT for Model {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        Ok(Model::forward_t(self, x, train)?.1)
    }
}

/// Running statistics and counters are state, but no parameters.
fn is_parameter(name: &str) -> bool {
    !["running_mean", "running_var", "num_batches_tracked"].iter().any(|buffer| name.ends_with(buffer))
}

#[cfg(test)]
mod tests;
