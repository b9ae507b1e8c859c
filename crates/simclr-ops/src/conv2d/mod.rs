//! Two-dimensional convolution on NHWC maps, without bias: forward, gradient of the input, gradient of the weights.

mod correlate;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod folded;
mod pictures;
mod reference;
mod transforms;
mod weight_gradient;
mod winograd;

#[cfg(feature = "cuda")]
use candle_core::Device;
use candle_core::{DType, Shape, Tensor};
use num_traits::Zero;

use crate::batch_norm::{Moments, Normalised};
use crate::context::{Context, Form};
use crate::element::Stored;
use crate::error::OpsError;
use crate::profile::Work;
use crate::storage::{
    FloatType, add_assign, dispatch_stored, elements, modify, overwrite, stored_type, tensor, written,
};

pub use folded::{Folded, Threads};
use pictures::Source;

const OP: &str = "conv2d";

/// How the kernel moves over the map, the same in both directions. Zeros surround the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Pixels from one position of the kernel to the next, at least 1.
    pub stride: usize,
    /// Rows and columns of zeros on each side.
    pub padding: usize,
}

/// What [`backward`] needs of the forward pass.
#[derive(Clone, Debug)]
pub struct Saved {
    x: Input,
    weight: Tensor,
    window: Window,
    #[cfg(feature = "cuda")]
    packed: Option<cuda::Packed>,
}

/// The map of a convolution, as its backward needs it.
#[derive(Clone, Debug)]
enum Input {
    Kept(Tensor),
    /// Made again from what came before the batch norm.
    Normalised(Normalised),
}

impl Input {
    /// A map of the same shape and type.
    fn like(&self) -> &Tensor {
        match self {
            Self::Kept(x) => x,
            Self::Normalised(normalised) => normalised.x(),
        }
    }
}

impl Saved {
    fn new(x: &Tensor, weight: &Tensor, window: Window) -> Self {
        Self {
            x: Input::Kept(x.clone()),
            weight: weight.clone(),
            window,
            #[cfg(feature = "cuda")]
            packed: None,
        }
    }

    /// The same without the map, which `normalised` makes again.
    #[must_use]
    pub fn with_input(self, normalised: Normalised) -> Self {
        Self { x: Input::Normalised(normalised), ..self }
    }
}

/// Gradients of the arguments of [`forward`].
#[derive(Clone, Debug)]
pub struct Gradients {
    /// Of the map, `[n, h, w, c_in]`, if it was asked for.
    pub x: Option<Tensor>,
    /// Of the weights, `[c_out, c_in, k_h, k_w]`.
    pub weight: Tensor,
}

/// Cross-correlation of a map with a bank of kernels, PyTorch's `conv2d` with `bias=None`.
///
/// # Shapes
/// `x`: `[n, h, w, c_in]`, contiguous; `weight`: `[c_out, c_in, k_h, k_w]` (PyTorch's order), contiguous; one float type,
/// or a map of bf16 (or, on a GPU, of f16) and weights of f32, which are rounded to its type and multiplied and summed in f32.
/// Returns `[n, h_out, w_out, c_out]` with `h_out = (h + 2·padding - k_h) / stride + 1`.
///
/// # Errors
/// [`OpsError::Shape`], [`OpsError::Dtype`] or [`OpsError::NoForm`] if the arguments are not as above.
pub fn forward(ctx: &Context, x: &Tensor, weight: &Tensor, window: Window) -> Result<(Tensor, Saved), OpsError> {
    let (y, saved, _) = forward_with_moments(ctx, x, weight, window)?;
    Ok((y, saved))
}

/// [`forward`], and the moments of the output where it is cheaper to take them on the way, for the batch norm that follows.
///
/// # Errors
/// As [`forward`].
pub fn forward_with_moments(
    ctx: &Context,
    x: &Tensor,
    weight: &Tensor,
    window: Window,
) -> Result<(Tensor, Saved, Option<Moments>), OpsError> {
    fn run<S: Stored>(
        ctx: &Context,
        x: &Tensor,
        weight: &Tensor,
        g: &Geometry,
    ) -> Result<(Tensor, Option<Moments>), OpsError> {
        let mut moments = None;
        let y = {
            let (x, weight) = (elements::<S>(OP, "x", x)?, elements::<S::Wide>(OP, "weight", weight)?);
            match ctx.form() {
                Form::Reference => {
                    let mut y = vec![S::Wide::zero(); g.rows() * g.c_out];
                    reference::forward(g, &reference::widened(&x), &reference::rounded::<S>(&weight), &mut y);
                    y.into_iter().map(S::narrow).collect()
                }
                // SAFETY: `forward` writes every output of every pixel.
                Form::Fast => unsafe {
                    written(g.rows() * g.c_out, |y| moments = cpu::forward(ctx.instructions(), g, &x, &weight, y))
                },
            }
        };
        Ok((tensor(y, (g.n, g.h_out, g.w_out, g.c_out))?, moments))
    }
    let geometry = Geometry::new(x, weight, window)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = x.device() {
        let (y, packed) = cuda::forward(ctx, device, x, weight, &geometry)?;
        return Ok((y, Saved { packed: Some(packed), ..Saved::new(x, weight, window) }, None));
    }
    let float_type = stored_type(OP, "x", x)?;
    let (y, moments) = ctx.timed(OP, "forward", geometry.work(float_type), || {
        dispatch_stored!(float_type, run(ctx, x, weight, &geometry))
    })?;
    Ok((y, Saved::new(x, weight, window), moments))
}

/// Pictures in PyTorch's order as a map: the channels of a pixel beside each other, in the type that maps are kept in.
///
/// # Shapes
/// `x`: `[n, c, h, w]`, contiguous. Returns `[n, h, w, c]`.
///
/// # Errors
/// [`OpsError::Shape`] or [`OpsError::Dtype`] if `x` is not as above, or maps are not kept in this type.
pub fn channels_last(x: &Tensor, dtype: DType) -> Result<Tensor, OpsError> {
    if x.rank() != 4 {
        return Err(OpsError::shape(OP, "pictures", x, "[n, c, h, w]"));
    }
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = x.device() {
        return cuda::channels_last(device, &x.contiguous()?, dtype);
    }
    Ok(x.permute((0, 2, 3, 1))?.contiguous()?.to_dtype(dtype)?)
}

/// What becomes of the gradient of the map.
#[derive(Clone, Debug)]
pub enum InputGradient {
    /// Nobody asks for it.
    Unwanted,
    /// It is a tensor of its own.
    New,
    /// It is added to the gradient that another use of the map gave, in its memory, which nobody else may be reading.
    AddedTo(Tensor),
}

/// Gradients of [`forward`] for the gradient of its output; that of the map only if `wants_x`.
///
/// # Shapes
/// `grad`: as the output of [`forward`], contiguous.
///
/// # Errors
/// As [`forward`].
pub fn backward(ctx: &Context, saved: &Saved, grad: &Tensor, wants_x: bool) -> Result<Gradients, OpsError> {
    backward_into(ctx, saved, grad, if wants_x { InputGradient::New } else { InputGradient::Unwanted })
}

/// [`backward`] with a say in where the gradient of the map goes.
///
/// # Errors
/// As [`backward`], and if there is a gradient to add to that is not like the map.
pub fn backward_into(ctx: &Context, saved: &Saved, grad: &Tensor, input: InputGradient) -> Result<Gradients, OpsError> {
    fn run<S: Stored>(
        ctx: &Context,
        saved: &Saved,
        grad: &Tensor,
        input: InputGradient,
    ) -> Result<Gradients, OpsError> {
        let g = Geometry::new(saved.x.like(), &saved.weight, saved.window)?;
        g.check_gradient(grad)?;
        let grad = elements::<S>(OP, "grad", grad)?;
        let work = g.work(FloatType::of::<S>());
        let dw = ctx.timed(OP, "dW", work, || {
            let mut dw = vec![S::Wide::zero(); g.c_out * g.taps()];
            match &saved.x {
                Input::Kept(x) => backward_weight(ctx, &g, &*elements::<S>(OP, "x", x)?, &grad, &mut dw),
                Input::Normalised(normalised) => backward_weight(ctx, &g, &normalised.parts()?, &grad, &mut dw),
            }
            tensor(dw, saved.weight.shape())
        })?;
        let dx = match input {
            InputGradient::Unwanted => None,
            InputGradient::New => {
                let new = || backward_input::<S>(ctx, &g, &saved.weight, &grad, saved.x.like().shape());
                Some(ctx.timed(OP, "dX", work, new)?)
            }
            InputGradient::AddedTo(sum) => {
                let add = || add_backward_input::<S>(ctx, &g, &saved.weight, &grad, saved.x.like().shape(), &sum);
                ctx.timed(OP, "dX", work, add)?;
                Some(sum)
            }
        };
        Ok(Gradients { x: dx, weight: dw })
    }
    #[cfg(feature = "cuda")]
    if let (Device::Cuda(device), Input::Kept(x), Some(packed)) = (grad.device(), &saved.x, &saved.packed) {
        let g = Geometry::new(x, &saved.weight, saved.window)?;
        g.check_gradient(grad)?;
        return cuda::backward(ctx, device, (x, packed), &g, grad, input);
    }
    dispatch_stored!(stored_type(OP, "grad", grad)?, run(ctx, saved, grad, input))
}

/// The gradient of the map.
fn backward_input<S: Stored>(
    ctx: &Context,
    g: &Geometry,
    weight: &Tensor,
    grad: &[S],
    shape: &Shape,
) -> Result<Tensor, OpsError> {
    let weight = elements::<S::Wide>(OP, "weight", weight)?;
    let dx = match ctx.form() {
        Form::Reference => {
            let mut dx = vec![S::Wide::zero(); shape.elem_count()];
            reference::backward_input(g, &reference::rounded::<S>(&weight), &reference::widened(grad), &mut dx);
            dx.into_iter().map(S::narrow).collect()
        }
        // SAFETY: `backward_input` writes the gradient of every input.
        Form::Fast => unsafe {
            written(shape.elem_count(), |dx| {
                cpu::backward_input(ctx.instructions(), g, &weight, grad, cpu::To::New(dx));
            })
        },
    };
    tensor(dx, shape)
}

/// Adds the gradient of the map to another.
fn add_backward_input<S: Stored>(
    ctx: &Context,
    g: &Geometry,
    weight: &Tensor,
    grad: &[S],
    shape: &Shape,
    sum: &Tensor,
) -> Result<(), OpsError> {
    if sum.shape() != shape {
        return Err(OpsError::shape(OP, "gradient to add to", sum, format!("{:?}, the shape of x", shape.dims())));
    }
    match ctx.form() {
        Form::Reference => add_assign(sum, &backward_input(ctx, g, weight, grad, shape)?),
        Form::Fast => {
            let weight = elements::<S::Wide>(OP, "weight", weight)?;
            modify(sum, |sum| cpu::backward_input(ctx.instructions(), g, &weight, grad, cpu::To::Sum(sum)))
        }
    }
}

/// Writes all of `dw`.
fn backward_weight<S: Stored>(
    ctx: &Context,
    g: &Geometry,
    x: &(impl Source<S> + ?Sized),
    grad: &[S],
    dw: &mut [S::Wide],
) {
    match ctx.form() {
        Form::Reference => {
            let mut wide = Vec::new();
            // SAFETY: a source writes all of what it is given.
            unsafe { overwrite(&mut wide, x.len(), |to| x.write(0, to)) };
            reference::backward_weight(g, &wide, &reference::widened(grad), dw);
        }
        Form::Fast => cpu::backward_weight(ctx.instructions(), g, x, grad, dw),
    }
}

/// All sizes of one convolution.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    n: usize,
    h: usize,
    w: usize,
    c_in: usize,
    c_out: usize,
    k_h: usize,
    k_w: usize,
    h_out: usize,
    w_out: usize,
    stride: usize,
    pad_h: usize,
    pad_w: usize,
}

impl Geometry {
    fn new(x: &Tensor, weight: &Tensor, window: Window) -> Result<Self, OpsError> {
        match *x.dims() {
            [n, h, w, c_in] => Self::of([n, h, w, c_in], weight, window),
            _ => Err(OpsError::shape(OP, "x", x, "[n, h, w, c_in]")),
        }
    }

    /// That of a map of these sizes.
    fn of(map: [usize; 4], weight: &Tensor, window: Window) -> Result<Self, OpsError> {
        let [n, h, w, c_in] = map;
        let &[c_out, w_c_in, k_h, k_w] = weight.dims() else {
            return Err(OpsError::shape(OP, "weight", weight, "[c_out, c_in, k_h, k_w]"));
        };
        let Window { stride, padding } = window;
        if w_c_in != c_in {
            let expected = format!("[c_out, {c_in}, k_h, k_w] for a map of {c_in} channels");
            return Err(OpsError::shape(OP, "weight", weight, expected));
        }
        if c_in * c_out == 0 {
            return Err(OpsError::shape(OP, "weight", weight, "at least one channel in and one out"));
        }
        if stride == 0 || k_h == 0 || k_w == 0 {
            return Err(OpsError::shape(
                OP,
                "weight",
                weight,
                format!("a kernel and a stride above 0, stride is {stride}"),
            ));
        }
        if h + 2 * padding < k_h || w + 2 * padding < k_w {
            let expected = format!("a map of at least {k_h} x {k_w} with its padding of {padding}");
            return Err(OpsError::Shape { op: OP, argument: "x", found: map.to_vec(), expected });
        }
        let (h_out, w_out) = ((h + 2 * padding - k_h) / stride + 1, (w + 2 * padding - k_w) / stride + 1);
        Ok(Self { n, h, w, c_in, c_out, k_h, k_w, h_out, w_out, stride, pad_h: padding, pad_w: padding })
    }

    fn check_gradient(&self, grad: &Tensor) -> Result<(), OpsError> {
        let expected = [self.n, self.h_out, self.w_out, self.c_out];
        match grad.dims() == expected {
            true => Ok(()),
            false => Err(OpsError::shape(OP, "grad", grad, format!("{expected:?}, the shape of the output"))),
        }
    }

    /// Pixels of the output, over all pictures.
    fn rows(&self) -> usize {
        self.n * self.h_out * self.w_out
    }

    /// Inputs of one output.
    fn taps(&self) -> usize {
        self.k_h * self.k_w * self.c_in
    }

    /// Of each of the three products; the map, the output and the weights pass through memory.
    fn work(&self, float_type: FloatType) -> Work {
        let multiply_adds = self.rows() * self.taps() * self.c_out;
        let elements = self.n * self.h * self.w * self.c_in + self.rows() * self.c_out + self.taps() * self.c_out;
        Work { operations: 2 * multiply_adds as u64, ..Work::pass(elements, float_type.width()) }
    }
}

#[cfg(test)]
mod tests;
