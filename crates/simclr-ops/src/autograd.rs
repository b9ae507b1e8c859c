//! Ops of this crate as nodes of candle's graph.
//!
//! One adaptor serves a single op and a whole encoder alike: a finished [`Tape`] becomes one custom op, whose backward
//! runs the tape. candle's custom ops have at most three arguments, so the gradients of further leaves (the parameters of
//! an encoder) go to a [`Sink`], from where they join the `GradStore`.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage as _};

use crate::batch_norm::{BatchNorm, BatchStatistics};
use crate::context::Context;
use crate::conv2d::Window;
use crate::error::OpsError;
use crate::storage::add_assign;
use crate::tape::{Tape, Value};

/// Hears of a leaf and its gradient while the tape still runs backwards.
pub type Listener = Arc<dyn Fn(&Tensor, &Tensor) -> Result<()> + Send + Sync>;

/// Where the gradients of those leaves of a tape go that are no arguments of its node.
#[derive(Default)]
pub struct Sink {
    gradients: Mutex<Vec<(Tensor, Tensor)>>,
    listener: Mutex<Option<Listener>>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sink of {} gradients", self.lock().len())
    }
}

impl Sink {
    /// Forgets all gradients, as of a backward pass that nobody collected.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Lets `listener`, in place of the one before, hear of every gradient as it comes. What one tape gives is complete; if several
    /// give to one leaf, it hears of it as often.
    pub fn set_listener(&self, listener: Option<Listener>) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = listener;
    }

    /// Moves all gradients into `store`, adding where the store has one already.
    ///
    /// # Errors
    /// If two gradients of one leaf do not fit, which is a mistake of whoever filled the sink.
    pub fn drain_into(&self, store: &mut GradStore) -> Result<()> {
        for (leaf, gradient) in self.lock().drain(..) {
            match store.get(&leaf) {
                // The store's own gradient may be shared with candle's graph: this sum must be a new tensor.
                Some(sum) => {
                    let sum = (sum + gradient)?.detach();
                    store.insert(&leaf, sum);
                }
                None => {
                    store.insert(&leaf, gradient);
                }
            }
        }
        Ok(())
    }

    fn add(&self, leaf: Tensor, gradient: Tensor) -> Result<()> {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(listener) = listener {
            listener(&leaf, &gradient)?;
        }
        let mut held = self.lock();
        match held.iter().find(|(other, _)| other.id() == leaf.id()) {
            Some((_, sum)) => add_assign(sum, &gradient)?,
            None => held.push((leaf, gradient)),
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Tensor, Tensor)>> {
        self.gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes `output`, the end of a finished `tape`, a tensor of candle's graph that depends on `arguments`.
///
/// `arguments` are one to three leaves of the tape, at least one of them tracked by candle. Their gradients go the way of
/// candle; those of all other leaves go to `sink` when candle runs backwards.
///
/// # Errors
/// If there are no arguments or more than three.
pub fn attach(tape: Tape, output: &Value, arguments: &[&Tensor], sink: &Arc<Sink>) -> Result<Tensor> {
    let recorded = Recorded {
        forward: Mutex::new(Some(output.tensor().clone())),
        tape: Mutex::new(Some((tape, output.clone()))),
        sink: sink.clone(),
    };
    match *arguments {
        [a] => a.apply_op1(recorded),
        [a, b] => a.apply_op2(b, recorded),
        [a, b, c] => a.apply_op3(b, c, recorded),
        _ => candle_core::bail!("a node has one to three arguments, found {}", arguments.len()),
    }
}

/// [`crate::conv2d`] as a candle op.
///
/// # Errors
/// Those of the op; so for all that follow.
pub fn conv2d(ctx: &Context, x: &Tensor, weight: &Tensor, window: Window) -> Result<Tensor> {
    let mut tape = Tape::new(ctx);
    let (x_value, weight_value) = (argument(&mut tape, x), argument(&mut tape, weight));
    let y = tape.conv2d(&x_value, &weight_value, window)?;
    node(tape, &y, &[x, weight])
}

/// [`crate::batch_norm`] as a candle op, without residual (add it with candle), with the statistics of the batch.
///
/// # Errors
/// Those of the op.
pub fn batch_norm(
    ctx: &Context,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    config: BatchNorm,
) -> Result<(Tensor, BatchStatistics)> {
    let mut tape = Tape::new(ctx);
    let [x_value, weight_value, bias_value] = [x, weight, bias].map(|t| argument(&mut tape, t));
    let (y, statistics) = tape.batch_norm(&x_value, &weight_value, &bias_value, None, config)?;
    Ok((node(tape, &y, &[x, weight, bias])?, statistics))
}

/// [`crate::global_avg_pool`] as a candle op.
///
/// # Errors
/// Those of the op.
pub fn global_avg_pool(ctx: &Context, x: &Tensor) -> Result<Tensor> {
    let mut tape = Tape::new(ctx);
    let value = argument(&mut tape, x);
    let y = tape.global_avg_pool(&value)?;
    node(tape, &y, &[x])
}

/// [`crate::linear`] as a candle op.
///
/// # Errors
/// Those of the op.
pub fn linear(ctx: &Context, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let mut tape = Tape::new(ctx);
    let arguments: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    let values: Vec<Value> = arguments.iter().map(|t| argument(&mut tape, t)).collect();
    let y = tape.linear(&values[0], &values[1], values.get(2))?;
    node(tape, &y, &arguments)
}

/// [`crate::l2_normalize`] as a candle op.
///
/// # Errors
/// Those of the op.
pub fn l2_normalize(ctx: &Context, x: &Tensor) -> Result<Tensor> {
    let mut tape = Tape::new(ctx);
    let value = argument(&mut tape, x);
    let y = tape.l2_normalize(&value)?;
    node(tape, &y, &[x])
}

/// A gradient is only computed for what candle tracks.
fn argument(tape: &mut Tape, tensor: &Tensor) -> Value {
    if tensor.track_op() { tape.leaf(tensor) } else { tape.constant(tensor) }
}

/// The output of a single op: a node if candle tracks any argument, else just its numbers.
fn node(tape: Tape, output: &Value, arguments: &[&Tensor]) -> Result<Tensor> {
    if arguments.iter().any(|a| a.track_op()) {
        attach(tape, output, arguments, &Arc::default())
    } else {
        Ok(output.tensor().clone())
    }
}

/// A tape as a custom op of candle.
struct Recorded {
    /// The output, handed to candle when it asks for it.
    forward: Mutex<Option<Tensor>>,
    tape: Mutex<Option<(Tape, Value)>>,
    sink: Arc<Sink>,
}

impl Recorded {
    fn output(&self) -> Result<Tensor> {
        let output = self.forward.lock().unwrap_or_else(PoisonError::into_inner).take();
        output.ok_or_else(|| candle_core::Error::Msg("a recorded op runs forward once".into()))
    }

    fn forward(&self) -> Result<(CpuStorage, Shape)> {
        let output = self.output()?;
        let (storage, layout) = output.storage_and_layout();
        match &*storage {
            // Outputs of ops fill their storage: nothing is copied that is not needed.
            Storage::Cpu(storage) if layout.is_contiguous() => Ok((storage.clone(), layout.shape().clone())),
            _ => Err(OpsError::NoForm { op: "a recorded op", device: "CUDA" }.into()),
        }
    }

    /// A copy: candle wants storage of its own, and these are rows of features.
    #[cfg(feature = "cuda")]
    fn cuda_forward(&self) -> Result<(CudaStorage, Shape)> {
        let output = self.output()?;
        let (storage, layout) = output.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) if layout.is_contiguous() && layout.start_offset() == 0 => {
                Ok((storage.try_clone(layout)?, layout.shape().clone()))
            }
            _ => Err(OpsError::Tape("its output is not on the device of its arguments").into()),
        }
    }

    fn backward<const N: usize>(&self, arguments: [&Tensor; N], grad: &Tensor) -> Result<[Option<Tensor>; N]> {
        let taken = self.tape.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (tape, output) = taken.ok_or(OpsError::Tape("it has run already (backward was called twice)"))?;
        let mut gradients = [const { None }; N];
        tape.backward_with(&output, grad, &mut |leaf, gradient| {
            match arguments.iter().position(|a| a.id() == leaf.id()) {
                // One tensor may be several leaves, or several arguments: the first place takes all.
                Some(place) => match &gradients[place] {
                    Some(sum) => add_assign(sum, &gradient)?,
                    None => gradients[place] = Some(gradient),
                },
                None => self.sink.add(leaf, gradient)?,
            }
            Ok(())
        })?;
        Ok(gradients)
    }
}

impl CustomOp1 for Recorded {
    fn name(&self) -> &'static str {
        "tape"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda_forward()
    }

    fn bwd(&self, a: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [a] = self.backward([a], grad)?;
        Ok(a)
    }
}

impl CustomOp2 for Recorded {
    fn name(&self) -> &'static str {
        "tape"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda_forward()
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = self.backward([a, b], grad)?;
        Ok((a, b))
    }
}

impl CustomOp3 for Recorded {
    fn name(&self) -> &'static str {
        "tape"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward()
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda_forward()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = self.backward([a, b, c], grad)?;
        Ok((a, b, c))
    }
}

#[cfg(test)]
mod tests;
