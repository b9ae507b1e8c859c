//! The linear layer: `x · weightᵀ + bias`.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod reference;

#[cfg(feature = "cuda")]
use candle_core::Device;
use candle_core::Tensor;

use crate::context::{Context, Form};
use crate::element::Element;
use crate::error::OpsError;
use crate::profile::Work;
use crate::storage::{FloatType, dispatch, elements, float_type, tensor};

const OP: &str = "linear";

/// What [`backward`] needs of the forward pass.
#[derive(Clone, Debug)]
pub struct Saved {
    x: Tensor,
    weight: Tensor,
}

/// Gradients of the arguments of [`forward`].
#[derive(Clone, Debug)]
pub struct Gradients {
    /// Of the rows, `[n, c_in]`.
    pub x: Tensor,
    /// Of the weights, `[c_out, c_in]`.
    pub weight: Tensor,
    /// Of the bias, `[c_out]`, whether there was one or not.
    pub bias: Tensor,
}

/// `x · weightᵀ + bias`, PyTorch's `linear`.
///
/// # Shapes
/// `x`: `[n, c_in]`, `weight`: `[c_out, c_in]`, `bias`: `[c_out]`, contiguous, one float type. Returns `[n, c_out]`.
///
/// # Errors
/// [`OpsError::Shape`], [`OpsError::Dtype`] or [`OpsError::NoForm`] if the arguments are not as above.
pub fn forward(ctx: &Context, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<(Tensor, Saved), OpsError> {
    fn run<T: Element>(
        ctx: &Context,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        [n, c_in, c_out]: [usize; 3],
    ) -> Result<Tensor, OpsError> {
        let (x, weight) = (elements::<T>(OP, "x", x)?, elements::<T>(OP, "weight", weight)?);
        let mut y = vec![T::zero(); n * c_out];
        if let Some(bias) = bias {
            let bias = elements::<T>(OP, "bias", bias)?;
            y.chunks_exact_mut(c_out).for_each(|row| row.copy_from_slice(&bias));
        }
        match ctx.form() {
            Form::Reference => reference::add_product(&x, &weight, c_in, &mut y),
            Form::Fast => cpu::add_product(ctx.instructions(), &x, &weight, c_in, &mut y),
        }
        tensor(y, (n, c_out))
    }
    let (&[n, c_in], &[c_out, w_c_in]) = (x.dims(), weight.dims()) else {
        return Err(OpsError::shape(
            OP,
            "x",
            x,
            format!("[n, c_in] and weights [c_out, c_in], not {:?}", weight.dims()),
        ));
    };
    if w_c_in != c_in || c_in * c_out == 0 {
        return Err(OpsError::shape(OP, "weight", weight, format!("[c_out, {c_in}] for rows of {c_in}")));
    }
    if let Some(bias) = bias.filter(|bias| bias.dims() != [c_out]) {
        return Err(OpsError::shape(OP, "bias", bias, format!("[{c_out}], one value per output")));
    }
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = x.device() {
        let y = cuda::forward(device, x, weight, bias, [n, c_in, c_out])?;
        return Ok((y, Saved { x: x.clone(), weight: weight.clone() }));
    }
    let (float_type, sizes) = (float_type(OP, "x", x)?, [n, c_in, c_out]);
    let work = work(sizes, 1, float_type);
    let y = ctx.timed(OP, "forward", work, || dispatch!(float_type, run(ctx, x, weight, bias, sizes)))?;
    Ok((y, Saved { x: x.clone(), weight: weight.clone() }))
}

/// Gradients of [`forward`] for the gradient of its output.
///
/// # Shapes
/// `grad`: `[n, c_out]`, contiguous.
///
/// # Errors
/// As [`forward`].
pub fn backward(ctx: &Context, saved: &Saved, grad: &Tensor) -> Result<Gradients, OpsError> {
    fn run<T: Element>(
        ctx: &Context,
        saved: &Saved,
        grad: &Tensor,
        [n, c_in, c_out]: [usize; 3],
    ) -> Result<Gradients, OpsError> {
        let grad = elements::<T>(OP, "grad", grad)?;
        let (x, weight) = (elements::<T>(OP, "x", &saved.x)?, elements::<T>(OP, "weight", &saved.weight)?);
        let (mut dx, mut dw) = (vec![T::zero(); n * c_in], vec![T::zero(); c_out * c_in]);
        match ctx.form() {
            Form::Reference => reference::gradients(&x, &weight, &grad, c_out, &mut dx, &mut dw),
            Form::Fast => cpu::gradients(ctx.instructions(), &x, &weight, &grad, c_out, &mut dx, &mut dw),
        }
        let mut db = vec![T::zero(); c_out];
        for row in grad.chunks_exact(c_out) {
            db.iter_mut().zip(row).for_each(|(db, &g)| *db += g);
        }
        Ok(Gradients { x: tensor(dx, (n, c_in))?, weight: tensor(dw, (c_out, c_in))?, bias: tensor(db, c_out)? })
    }
    let (&[n, c_in], &[c_out, _]) = (saved.x.dims(), saved.weight.dims()) else {
        return Err(OpsError::shape(OP, "x", &saved.x, "[n, c_in]"));
    };
    if grad.dims() != [n, c_out] {
        return Err(OpsError::shape(OP, "grad", grad, format!("[{n}, {c_out}], the shape of the output")));
    }
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = grad.device() {
        return cuda::backward(device, &saved.x, &saved.weight, grad, [n, c_in, c_out]);
    }
    let (float_type, sizes) = (float_type(OP, "grad", grad)?, [n, c_in, c_out]);
    let work = work(sizes, 2, float_type);
    ctx.timed(OP, "backward", work, || dispatch!(float_type, run(ctx, saved, grad, sizes)))
}

/// Of `products` products of these sizes.
fn work([n, c_in, c_out]: [usize; 3], products: usize, float_type: FloatType) -> Work {
    let elements = n * c_in + c_in * c_out + n * c_out;
    let operations = 2 * (products * n * c_in * c_out) as u64;
    Work { operations, ..Work::pass(products * elements, float_type.width()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, finite_differences, forms, random};

    #[test]
    fn every_form_agrees_with_candle() {
        for ctx in forms() {
            for (n, c_in, c_out) in [(1, 1, 1), (31, 33, 5), (2, 1, 33)] {
                let (x, w, b) = (random(&[n, c_in], 1), random(&[c_out, c_in], 2), random(&[c_out], 3));
                let want = x.matmul(&w.t().unwrap()).unwrap();
                close(&forward(&ctx, &x, &w, None).unwrap().0, &want, 1e-13, "without bias");
                let want = want.broadcast_add(&b).unwrap();
                close(&forward(&ctx, &x, &w, Some(&b)).unwrap().0, &want, 1e-13, "with bias");
            }
        }
    }

    #[test]
    fn gradients_by_finite_differences() {
        for ctx in forms() {
            finite_differences(
                &[random(&[3, 5], 1), random(&[4, 5], 2), random(&[4], 3)],
                |a| Ok(forward(&ctx, &a[0], &a[1], Some(&a[2]))?.0),
                |a, grad| {
                    let g = backward(&ctx, &forward(&ctx, &a[0], &a[1], Some(&a[2]))?.1, grad)?;
                    Ok(vec![g.x, g.weight, g.bias])
                },
            );
        }
    }

    #[test]
    fn wrong_shapes_are_named() {
        let (x, w) = (random(&[2, 3], 1), random(&[4, 5], 2));
        let message = forward(&Context::new(), &x, &w, None).unwrap_err().to_string();
        assert!(message.contains("weight has shape [4, 5], expected [c_out, 3]"), "{message}");
        let (w, b) = (random(&[4, 3], 2), random(&[3], 3));
        let message = forward(&Context::new(), &x, &w, Some(&b)).unwrap_err().to_string();
        assert!(message.contains("bias has shape [3], expected [4]"), "{message}");
    }
}
