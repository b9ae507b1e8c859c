//! One step of Adam on one parameter, in place.

mod cpu;
mod reference;

use candle_core::Tensor;

use crate::context::{Context, Form};
use crate::element::Element;
use crate::error::OpsError;
use crate::profile::Work;
use crate::storage::{dispatch, elements, float_type, modify};

const OP: &str = "adam";

/// The numbers of one step, the same for all parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub eps: f64,
    /// L2 penalty: this share of the parameter is added to its gradient.
    pub weight_decay: f64,
    /// Which step this is, from 1: the means are corrected for their start at zero.
    pub number: u64,
}

/// What a step moves: all three in one shape.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// The parameter.
    pub parameter: &'a Tensor,
    /// Running mean of its gradients, zero at the start.
    pub exp_avg: &'a Tensor,
    /// Running mean of their squares, zero at the start.
    pub exp_avg_sq: &'a Tensor,
}

/// Moves a parameter and its running means by one gradient, as `torch.optim.Adam` does.
///
/// Kingma and Ba 2014, arXiv:1412.6980, with `torch.optim.Adam`'s L2 weight decay. The tensors are changed where they
/// are: every tensor that shares their memory sees it.
///
/// # Shapes
/// All four tensors have one shape and one float type; those of `state` are contiguous.
///
/// # Errors
/// [`OpsError::Shape`], [`OpsError::Dtype`] or [`OpsError::NoForm`] if they are not as above.
pub fn update(ctx: &Context, state: State<'_>, grad: &Tensor, step: &Step) -> Result<(), OpsError> {
    fn run<T: Element>(
        ctx: &Context,
        State { parameter, exp_avg, exp_avg_sq }: State<'_>,
        grad: &Tensor,
        factors: &Factors<f64>,
    ) -> Result<(), OpsError> {
        let grad = grad.contiguous()?;
        let grad = elements::<T>(OP, "grad", &grad)?;
        let factors = factors.narrowed::<T>();
        // Three tensors are changed at once, each under its own lock.
        let mut inner = Ok(());
        modify::<T>(parameter, |p| {
            inner = modify::<T>(exp_avg, |m| {
                inner_update(ctx, p, m, exp_avg_sq, &grad, &factors);
            });
        })?;
        inner
    }
    fn inner_update<T: Element>(
        ctx: &Context,
        p: &mut [T],
        m: &mut [T],
        exp_avg_sq: &Tensor,
        grad: &[T],
        factors: &Factors<T>,
    ) {
        // Its type, shape and layout were checked before anything was changed.
        let _ = modify::<T>(exp_avg_sq, |v| match ctx.form() {
            Form::Reference => reference::update(p, m, v, grad, factors),
            Form::Fast => cpu::update(p, m, v, grad, factors),
        });
    }
    let State { parameter, exp_avg, exp_avg_sq } = state;
    for (argument, t) in [("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq), ("grad", grad)] {
        if t.dims() != parameter.dims() {
            return Err(OpsError::shape(
                OP,
                argument,
                t,
                format!("{:?}, the shape of the parameter", parameter.dims()),
            ));
        }
        if t.dtype() != parameter.dtype() {
            return Err(OpsError::Dtype { op: OP, argument, found: t.dtype(), expected: parameter.dtype().as_str() });
        }
        float_type(OP, argument, t)?;
    }
    for (argument, t) in [("parameter", parameter), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)] {
        if !t.is_contiguous() {
            return Err(OpsError::shape(OP, argument, t, "contiguous elements"));
        }
    }
    let float_type = float_type(OP, "parameter", parameter)?;
    // Four reads, three writes.
    let work = Work::pass(7 * parameter.elem_count(), float_type.width());
    ctx.timed(OP, "update", work, || dispatch!(float_type, run(ctx, state, grad, &Factors::new(step))))
}

/// The numbers of a step as the loop uses them.
#[derive(Clone, Copy, Debug)]
struct Factors<T> {
    weight_decay: T,
    beta1: T,
    one_minus_beta1: T,
    beta2: T,
    one_minus_beta2: T,
    /// Learning rate over the first bias correction.
    step_size: T,
    /// Root of the second bias correction.
    root: T,
    eps: T,
}

impl Factors<f64> {
    fn new(step: &Step) -> Self {
        let correction = |beta: f64| 1.0 - beta.powf(step.number as f64);
        Self {
            weight_decay: step.weight_decay,
            beta1: step.beta1,
            one_minus_beta1: 1.0 - step.beta1,
            beta2: step.beta2,
            one_minus_beta2: 1.0 - step.beta2,
            step_size: step.learning_rate / correction(step.beta1),
            root: correction(step.beta2).sqrt(),
            eps: step.eps,
        }
    }

    fn narrowed<T: Element>(&self) -> Factors<T> {
        let narrow = crate::element::narrow::<T>;
        Factors {
            weight_decay: narrow(self.weight_decay),
            beta1: narrow(self.beta1),
            one_minus_beta1: narrow(self.one_minus_beta1),
            beta2: narrow(self.beta2),
            one_minus_beta2: narrow(self.one_minus_beta2),
            step_size: narrow(self.step_size),
            root: narrow(self.root),
            eps: narrow(self.eps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, forms, random};
    use candle_core::{DType, Device};

    const STEP: Step = Step { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, number: 3 };

    fn tensors(dims: &[usize], dtype: DType) -> [Tensor; 4] {
        let positive = random(dims, 3).abs().unwrap();
        [random(dims, 1), random(dims, 2), positive, random(dims, 4)].map(|t| t.to_dtype(dtype).unwrap())
    }

    fn run(ctx: &Context, [p, m, v, g]: [Tensor; 4]) -> [Tensor; 3] {
        update(ctx, State { parameter: &p, exp_avg: &m, exp_avg_sq: &v }, &g, &STEP).unwrap();
        [p, m, v]
    }

    #[test]
    fn every_form_follows_the_formula() {
        for len in [1, 31, 70_001] {
            for ctx in forms() {
                let [p, m, v, g] = tensors(&[len], DType::F64);
                let g_decayed = (&g + (&p * 0.1).unwrap()).unwrap();
                let want_m = ((&m * 0.9).unwrap() + (&g_decayed * 0.1).unwrap()).unwrap();
                let want_v = ((&v * 0.999).unwrap() + (g_decayed.sqr().unwrap() * 0.001).unwrap()).unwrap();
                let m_hat = (&want_m / (1.0 - 0.9f64.powi(3))).unwrap();
                let v_hat = (&want_v / (1.0 - 0.999f64.powi(3))).unwrap();
                let move_by = (m_hat / (v_hat.sqrt().unwrap() + 1e-8).unwrap()).unwrap();
                let want_p = (&p - (move_by * 1e-2).unwrap()).unwrap();
                let [p, m, v] = run(&ctx, [p, m, v, g]);
                close(&p, &want_p, 1e-14, "parameter");
                close(&m, &want_m, 1e-14, "mean");
                close(&v, &want_v, 1e-14, "mean of squares");
            }
        }
    }

    #[test]
    fn forms_and_threads_give_the_same_bits() {
        let bits = |ctx: &Context, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                run(ctx, tensors(&[3, 40_001], DType::F32)).map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
            })
        };
        let [reference, fast] = [Form::Reference, Form::Fast].map(Context::with_form);
        let want = bits(&reference, 1);
        assert!(want == bits(&fast, 1) && want == bits(&fast, 3));
    }

    #[test]
    fn a_strided_gradient_is_read_in_its_order() {
        let [p, m, v, g] = tensors(&[5, 7], DType::F64);
        let strided = g.t().unwrap().contiguous().unwrap().t().unwrap();
        assert!(!strided.is_contiguous());
        let copy = |t: &Tensor| t.copy().unwrap();
        let want = run(&Context::new(), [copy(&p), copy(&m), copy(&v), g]);
        let got = run(&Context::new(), [p, m, v, strided]);
        got.iter().zip(&want).for_each(|(got, want)| close(got, want, 0.0, "strided"));
    }

    #[test]
    fn nothing_changes_when_an_argument_is_wrong() {
        let [p, m, v, _] = tensors(&[4], DType::F32);
        let before = p.to_vec1::<f32>().unwrap();
        let state = State { parameter: &p, exp_avg: &m, exp_avg_sq: &v };
        let message = |g: &Tensor| update(&Context::new(), state, g, &STEP).unwrap_err().to_string();
        let short = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        assert!(message(&short).contains("grad has shape [3], expected [4]"));
        let wide = Tensor::zeros(4, DType::F64, &Device::Cpu).unwrap();
        assert!(message(&wide).contains("grad has elements of type F64, expected f32"));
        assert_eq!(p.to_vec1::<f32>().unwrap(), before);
    }
}
