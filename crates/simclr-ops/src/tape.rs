//! A tape of ops: recorded forward, run backward once, freed as it goes.
//!
//! candle's own graph keeps every activation until the loss is dropped and gives every gradient a zero-filled tensor and
//! a sum. Here a node's saved tensors are dropped as soon as its gradients are known, a gradient that arrives first is
//! taken as it is, and what wants no gradient (the pictures) costs nothing.

use std::sync::Arc;

use candle_core::Tensor;

use crate::batch_norm::{self, BatchNorm, BatchStatistics, Moments, Normalised};
use crate::context::Context;
use crate::conv2d::{self, InputGradient, Window};
use crate::error::OpsError;
use crate::max_pool2d::MaxPool;
use crate::profile::Work;
use crate::storage::add_assign;
use crate::{global_avg_pool, l2_normalize, linear, max_pool2d};

/// A tensor on a tape.
#[derive(Clone, Debug)]
pub struct Value {
    id: usize,
    tensor: Tensor,
    /// What makes the tensor again, for those who need it only when the tape runs backwards.
    normalised: Option<Normalised>,
    /// Its moments, if they are known already.
    moments: Option<Arc<Moments>>,
}

impl Value {
    /// The numbers. They carry no candle graph.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }
}

/// From the gradient of a node's output to those of the values it was made of, which it adds to those that there are. The gradient is
/// the tape's own: its memory may be used again.
type Backward = Box<dyn FnOnce(&Context, Tensor, &mut Gradients) -> Result<(), OpsError> + Send>;

/// The gradients of the values of a tape, as far as they are known. They are the tape's own.
struct Gradients {
    /// By value: whether its gradient is wanted.
    wants: Vec<bool>,
    of_values: Vec<Option<Tensor>>,
}

impl Gradients {
    /// Takes the gradient of a value, to be added to where it is.
    fn take(&mut self, id: usize) -> Option<Tensor> {
        self.of_values[id].take()
    }

    /// Adds to the gradient of a value, if it is wanted.
    fn add(&mut self, ctx: &Context, id: usize, term: Tensor) -> Result<(), OpsError> {
        match &self.of_values[id] {
            _ if !self.wants[id] => {}
            Some(sum) => {
                let work = Work::pass(3 * sum.elem_count(), sum.dtype().size_in_bytes());
                ctx.timed("tape", "sum of gradients", work, || add_assign(sum, &term))?;
            }
            None => self.of_values[id] = Some(term),
        }
        Ok(())
    }
}

struct Node {
    output: usize,
    backward: Backward,
    /// Leaves that no earlier node uses: when this one has run backwards, their gradients are complete.
    completes: Vec<usize>,
}

/// The ops of one forward pass, in order.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use simclr_ops::{Context, tape::Tape};
/// # fn main() -> Result<(), simclr_ops::OpsError> {
/// let x = Tensor::new(&[[3f64, 4.0]], &Device::Cpu)?;
/// let mut tape = Tape::new(&Context::new());
/// let value = tape.leaf(&x);
/// let unit = tape.l2_normalize(&value)?;
/// let gradients = tape.backward(&unit, &Tensor::new(&[[1f64, 0.0]], &Device::Cpu)?)?;
/// assert_eq!(gradients[0].1.to_vec2::<f64>()?, [[0.128, -0.096]]);
/// # Ok(())
/// # }
/// ```
pub struct Tape {
    ctx: Context,
    /// By value: whether its gradient is wanted.
    wants: Vec<bool>,
    leaves: Vec<Leaf>,
    nodes: Vec<Node>,
}

struct Leaf {
    id: usize,
    tensor: Tensor,
    /// Whether a node uses it already.
    is_used: bool,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { wants, leaves, nodes, .. } = self;
        write!(f, "Tape of {} values, {} leaves, {} nodes", wants.len(), leaves.len(), nodes.len())
    }
}

impl Tape {
    /// An empty tape whose ops run as `ctx` says.
    pub fn new(ctx: &Context) -> Self {
        Self { ctx: ctx.clone(), wants: Vec::new(), leaves: Vec::new(), nodes: Vec::new() }
    }

    /// A value whose gradient is wanted: a parameter, or the input of what is differentiated.
    pub fn leaf(&mut self, tensor: &Tensor) -> Value {
        let value = self.value(tensor.detach(), true);
        self.leaves.push(Leaf { id: value.id, tensor: tensor.clone(), is_used: false });
        value
    }

    /// A value whose gradient nobody needs: pictures, or parameters at inference. Ops on constants alone record nothing.
    pub fn constant(&mut self, tensor: &Tensor) -> Value {
        self.value(tensor.detach(), false)
    }

    /// [`conv2d::forward`].
    ///
    /// # Errors
    /// Those of the op; so for all that follow.
    pub fn conv2d(&mut self, x: &Value, weight: &Value, window: Window) -> Result<Value, OpsError> {
        let (y, saved, moments) = conv2d::forward_with_moments(&self.ctx, &x.tensor, &weight.tensor, window)?;
        let saved = match &x.normalised {
            Some(normalised) => saved.with_input(normalised.clone()),
            None => saved,
        };
        let (x_id, weight_id) = (x.id, weight.id);
        let y = self.record(y, &[x, weight], move |ctx, grad, gradients| {
            let input = match gradients.take(x_id) {
                Some(sum) => InputGradient::AddedTo(sum),
                None if gradients.wants[x_id] => InputGradient::New,
                None => InputGradient::Unwanted,
            };
            let own = conv2d::backward_into(ctx, &saved, &grad, input)?;
            own.x.map_or(Ok(()), |dx| gradients.add(ctx, x_id, dx))?;
            gradients.add(ctx, weight_id, own.weight)
        });
        Ok(Value { moments: moments.map(Arc::new), ..y })
    }

    /// [`batch_norm::forward`], with the statistics of the batch.
    ///
    /// # Errors
    /// Those of the op.
    pub fn batch_norm(
        &mut self,
        x: &Value,
        weight: &Value,
        bias: &Value,
        residual: Option<&Value>,
        config: BatchNorm,
    ) -> Result<(Value, BatchStatistics), OpsError> {
        let residual_tensor = residual.map(|r| &r.tensor);
        let (y, saved) = batch_norm::forward_with_moments(
            &self.ctx,
            &x.tensor,
            x.moments.as_deref(),
            &weight.tensor,
            &bias.tensor,
            residual_tensor,
            config,
        )?;
        let statistics = saved.statistics().clone();
        let ids = [x.id, weight.id, bias.id];
        let residual_id = residual.map(|r| r.id);
        let inputs: Vec<&Value> = [x, weight, bias].into_iter().chain(residual).collect();
        let normalised = saved.normalised()?;
        let y = self.record(y, &inputs, move |ctx, grad, gradients| {
            let g = batch_norm::backward_in_place(ctx, &saved, grad)?;
            let own = ids.into_iter().zip([g.x, g.weight, g.bias]).chain(residual_id.zip(g.residual));
            own.into_iter().try_for_each(|(id, gradient)| gradients.add(ctx, id, gradient))
        });
        Ok((Value { normalised, ..y }, statistics))
    }

    /// [`global_avg_pool::forward`].
    ///
    /// # Errors
    /// Those of the op.
    pub fn global_avg_pool(&mut self, x: &Value) -> Result<Value, OpsError> {
        let (y, saved) = global_avg_pool::forward(&self.ctx, &x.tensor)?;
        let x_id = x.id;
        Ok(self.record(y, &[x], move |ctx, grad, gradients| {
            gradients.add(ctx, x_id, global_avg_pool::backward(ctx, &saved, &grad)?)
        }))
    }

    /// [`max_pool2d::forward`].
    ///
    /// # Errors
    /// Those of the op.
    pub fn max_pool2d(&mut self, x: &Value, pool: MaxPool) -> Result<Value, OpsError> {
        let (y, saved) = max_pool2d::forward(&self.ctx, &x.tensor, pool)?;
        let x_id = x.id;
        Ok(self.record(y, &[x], move |ctx, grad, gradients| {
            gradients.add(ctx, x_id, max_pool2d::backward(ctx, &saved, &grad)?)
        }))
    }

    /// [`linear::forward`].
    ///
    /// # Errors
    /// Those of the op.
    pub fn linear(&mut self, x: &Value, weight: &Value, bias: Option<&Value>) -> Result<Value, OpsError> {
        let (y, saved) = linear::forward(&self.ctx, &x.tensor, &weight.tensor, bias.map(|b| &b.tensor))?;
        let (x_id, weight_id, bias_id) = (x.id, weight.id, bias.map(|b| b.id));
        let inputs: Vec<&Value> = [x, weight].into_iter().chain(bias).collect();
        Ok(self.record(y, &inputs, move |ctx, grad, gradients| {
            let g = linear::backward(ctx, &saved, &grad)?;
            let own = [(x_id, g.x), (weight_id, g.weight)].into_iter().chain(bias_id.map(|id| (id, g.bias)));
            own.into_iter().try_for_each(|(id, gradient)| gradients.add(ctx, id, gradient))
        }))
    }

    /// [`l2_normalize::forward`].
    ///
    /// # Errors
    /// Those of the op.
    pub fn l2_normalize(&mut self, x: &Value) -> Result<Value, OpsError> {
        let (y, saved) = l2_normalize::forward(&self.ctx, &x.tensor)?;
        let x_id = x.id;
        Ok(self.record(y, &[x], move |ctx, grad, gradients| {
            gradients.add(ctx, x_id, l2_normalize::backward(ctx, &saved, &grad)?)
        }))
    }

    /// Runs backwards from the gradient of `output` and returns each leaf that it depends on with its gradient.
    ///
    /// # Shapes
    /// `grad`: as `output`. The gradients have the shapes of their leaves.
    ///
    /// # Errors
    /// [`OpsError::Tape`] if `output` depends on no leaf; those of the ops.
    pub fn backward(self, output: &Value, grad: &Tensor) -> Result<Vec<(Tensor, Tensor)>, OpsError> {
        let mut all = Vec::new();
        self.backward_with(output, grad, &mut |leaf, gradient| {
            all.push((leaf, gradient));
            Ok(())
        })?;
        Ok(all)
    }

    /// [`Tape::backward`] that hands over each leaf with its gradient as soon as that is complete, while those of earlier ops are
    /// still to come.
    ///
    /// # Errors
    /// As [`Tape::backward`], and what `take` reports.
    pub fn backward_with(
        mut self,
        output: &Value,
        grad: &Tensor,
        take: &mut dyn FnMut(Tensor, Tensor) -> Result<(), OpsError>,
    ) -> Result<(), OpsError> {
        if !self.wants.get(output.id).is_some_and(|&wants| wants) {
            return Err(OpsError::Tape("its output depends on no value whose gradient is wanted"));
        }
        let mut gradients = Gradients { of_values: vec![None; self.wants.len()], wants: self.wants };
        // Whoever gave this one may still look at it.
        gradients.of_values[output.id] = Some(grad.detach().contiguous()?.copy()?);
        // Popping drops a node, and with it the tensors that it saved, before the next one runs.
        while let Some(Node { output, backward, completes }) = self.nodes.pop() {
            if let Some(grad) = gradients.take(output) {
                backward(&self.ctx, grad, &mut gradients)?;
            }
            for leaf in completes.into_iter().map(|leaf| &self.leaves[leaf]) {
                gradients.take(leaf.id).map_or(Ok(()), |gradient| take(leaf.tensor.clone(), gradient))?;
            }
        }
        // A leaf that is the output itself.
        for leaf in self.leaves {
            gradients.take(leaf.id).map_or(Ok(()), |gradient| take(leaf.tensor, gradient))?;
        }
        Ok(())
    }

    fn value(&mut self, tensor: Tensor, wants_gradient: bool) -> Value {
        self.wants.push(wants_gradient);
        Value { id: self.wants.len() - 1, tensor, normalised: None, moments: None }
    }

    /// Adds the output of an op; its backward is kept only if a gradient of an input is wanted.
    fn record<F>(&mut self, output: Tensor, inputs: &[&Value], backward: F) -> Value
    where
        F: FnOnce(&Context, Tensor, &mut Gradients) -> Result<(), OpsError> + Send + 'static,
    {
        let wants = inputs.iter().any(|input| self.wants[input.id]);
        let value = self.value(output, wants);
        if wants {
            let mut completes = Vec::new();
            for (i, leaf) in self.leaves.iter_mut().enumerate() {
                if !leaf.is_used && inputs.iter().any(|input| input.id == leaf.id) {
                    leaf.is_used = true;
                    completes.push(i);
                }
            }
            self.nodes.push(Node { output: value.id, backward: Box::new(backward), completes });
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::random;
    use candle_core::DType;

    #[test]
    fn a_value_used_twice_gets_both_gradients() {
        // y = norm(x · Aᵀ) and z = bn(y + residual y): y is an input of the batch norm and its residual.
        let (x, w) = (random(&[4, 3], 1), random(&[5, 3], 2));
        let (scale, shift) = (random(&[5], 3), random(&[5], 4));
        let config = BatchNorm { eps: 1e-5, relu: true, groups: 1 };
        let run = |x: &Tensor, grad: &Tensor| -> Result<(Tensor, Vec<(Tensor, Tensor)>), OpsError> {
            let mut tape = Tape::new(&Context::new());
            let (x, w) = (tape.leaf(x), tape.constant(&w));
            let (scale, shift) = (tape.constant(&scale), tape.constant(&shift));
            let y = tape.linear(&x, &w, None)?;
            let (z, _) = tape.batch_norm(&y, &scale, &shift, Some(&y), config)?;
            let out = z.tensor().clone();
            Ok((out, tape.backward(&z, grad)?))
        };
        let nothing = random(&[4, 5], 5);
        crate::check::finite_differences(
            &[x],
            |a| Ok(run(&a[0], &nothing)?.0),
            |a, grad| {
                let gradients = run(&a[0], grad)?.1;
                assert_eq!(gradients.len(), 1, "only the leaf has a gradient");
                Ok(vec![gradients[0].1.clone()])
            },
        );
    }

    #[test]
    fn what_is_made_again_is_what_was_there() {
        // conv(relu(bn(x))): the convolution's backward makes its input again. Few pixels, and as many as tasks share; two groups.
        for (dims, dtype) in
            [([4, 3, 5, 17], DType::F64), ([10, 32, 32, 3], DType::F32), ([10, 32, 32, 3], DType::BF16)]
        {
            let to = |t: &Tensor, dtype| t.to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap();
            let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
            let channels = dims[3];
            let (x, grad) = (to(&random(&dims, 1), dtype), to(&random(&[dims[0], dims[1], dims[2], 4], 2), dtype));
            let weight = to(&random(&[4, channels, 3, 3], 3), wide);
            let [scale, shift] = [4, 5].map(|seed| to(&random(&[channels], seed), wide));
            let run = |makes_again: bool| {
                let mut tape = Tape::new(&Context::new());
                let (x, weight) = (tape.leaf(&x), tape.leaf(&weight));
                let (scale, shift) = (tape.leaf(&scale), tape.leaf(&shift));
                let config = BatchNorm { relu: true, groups: 2, ..BatchNorm::default() };
                let (mut y, _) = tape.batch_norm(&x, &scale, &shift, None, config).unwrap();
                assert!(y.normalised.is_some());
                y.normalised = y.normalised.filter(|_| makes_again);
                let z = tape.conv2d(&y, &weight, Window { stride: 1, padding: 1 }).unwrap();
                let gradients = tape.backward(&z, &grad).unwrap();
                let numbers = |t: &Tensor| to(t, DType::F64).flatten_all().unwrap().to_vec1::<f64>().unwrap();
                gradients.iter().map(|(_, gradient)| numbers(gradient)).collect::<Vec<_>>()
            };
            let [again, kept] = [true, false].map(run);
            for (again, kept) in again.iter().zip(&kept) {
                let size = kept.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
                // The same numbers; other groups of them are summed at a time.
                assert!(again.iter().zip(kept).all(|(a, k)| (a - k).abs() <= 1e-5 * size), "{dims:?} {dtype:?}");
            }
        }
    }

    #[test]
    fn a_gradient_is_handed_over_when_it_is_complete() {
        // w is used twice, u between: u's gradient is complete first, w's and x's when the first op has run backwards.
        let [x, w, u] = [1, 2, 3].map(|seed| random(&[3, 3], seed));
        let record = || {
            let mut tape = Tape::new(&Context::new());
            let values @ [x_value, w_value, u_value] = &[&x, &w, &u].map(|t| tape.leaf(t));
            let a = tape.linear(x_value, w_value, None).unwrap();
            let b = tape.linear(&a, u_value, None).unwrap();
            let c = tape.linear(&b, w_value, None).unwrap();
            assert_eq!(values.len(), 3);
            (tape, c)
        };
        let grad = random(&[3, 3], 4);
        let mut order = Vec::new();
        let (tape, y) = record();
        tape.backward_with(&y, &grad, &mut |leaf, gradient| {
            order.push((leaf.id(), gradient));
            Ok(())
        })
        .unwrap();
        assert_eq!(order.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [u.id(), x.id(), w.id()]);
        // Both uses of w are in its gradient.
        let (tape, y) = record();
        let again = tape.backward(&y, &grad).unwrap();
        let sum = |t: &Tensor| t.sum_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(order.iter().zip(&again).all(|((_, g), (_, a))| sum(g) == sum(a)));
        let (tape, y) = record();
        let failed = tape.backward_with(&y, &grad, &mut |_, _| Err(OpsError::Tape("enough"))).unwrap_err();
        assert!(failed.to_string().contains("enough"));
    }

    #[test]
    fn constants_record_nothing() {
        let mut tape = Tape::new(&Context::new());
        let x = tape.constant(&random(&[2, 3], 1));
        let y = tape.l2_normalize(&x).unwrap();
        assert!(tape.nodes.is_empty());
        let message = tape.backward(&y, &random(&[2, 3], 2)).unwrap_err().to_string();
        assert!(message.contains("depends on no value whose gradient is wanted"), "{message}");
    }
}
