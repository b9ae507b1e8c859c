use super::*;
use crate::check::{close, forms, random};
use candle_core::{DType, Device};

const ADAM: Adam =
    Adam { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, decoupled: false, number: 3 };
const SGD: Sgd = Sgd { learning_rate: 1e-2, momentum: 0.9, nesterov: false, weight_decay: 0.1 };
const LARS: Lars =
    Lars { learning_rate: 1e-2, momentum: 0.9, nesterov: false, weight_decay: 0.1, trust_coefficient: Some(1e-3) };

fn rules() -> [Rule; 6] {
    [
        Rule::Adam(ADAM),
        Rule::Adam(Adam { decoupled: true, ..ADAM }),
        Rule::Sgd(SGD),
        Rule::Sgd(Sgd { nesterov: true, ..SGD }),
        Rule::Lars(LARS),
        Rule::Lars(Lars { trust_coefficient: None, nesterov: true, ..LARS }),
    ]
}

/// Parameter, two moments (the second not negative) and gradient.
fn tensors(dims: &[usize], dtype: DType) -> [Tensor; 4] {
    let positive = random(dims, 3).abs().unwrap();
    [random(dims, 1), random(dims, 2), positive, random(dims, 4)].map(|t| t.to_dtype(dtype).unwrap())
}

/// One step with a rule; the parameter and its moments after it.
fn run(ctx: &Context, [p, m, v, g]: [Tensor; 4], rule: Rule, scale: f64) -> Vec<Tensor> {
    let moments = &[m, v][..rule.moments()];
    update(ctx, &[Slot { parameter: &p, moments, grad: &g, rule }], scale).unwrap();
    std::iter::once(p).chain(moments.iter().cloned()).collect()
}

/// The same by candle's own operations.
fn expected([p, m, v, g]: [Tensor; 4], rule: Rule, scale: f64) -> candle_core::Result<Vec<Tensor>> {
    let g = (g * scale)?;
    let norm = |t: &Tensor| t.sqr()?.sum_all()?.to_scalar::<f64>().map(f64::sqrt);
    let momentum = |g: &Tensor, momentum: f64, nesterov: bool| -> candle_core::Result<[Tensor; 2]> {
        let v = ((&m * momentum)? + g)?;
        Ok([if nesterov { (g + (&v * momentum)?)? } else { v.clone() }, v])
    };
    Ok(match rule {
        Rule::Adam(a) => {
            let (l2, keep) =
                if a.decoupled { (0.0, 1.0 - a.learning_rate * a.weight_decay) } else { (a.weight_decay, 1.0) };
            let g = (g + (&p * l2)?)?;
            let m = ((m * a.beta1)? + (&g * (1.0 - a.beta1))?)?;
            let v = ((v * a.beta2)? + (g.sqr()? * (1.0 - a.beta2))?)?;
            let m_hat = (&m / (1.0 - a.beta1.powi(a.number as i32)))?;
            let v_hat = (&v / (1.0 - a.beta2.powi(a.number as i32)))?;
            let by = (m_hat / (v_hat.sqrt()? + a.eps)?)?;
            vec![((p * keep)? - (by * a.learning_rate)?)?, m, v]
        }
        Rule::Sgd(s) => {
            let [by, v] = momentum(&(g + (&p * s.weight_decay)?)?, s.momentum, s.nesterov)?;
            vec![(p - (by * s.learning_rate)?)?, v]
        }
        Rule::Lars(l) => {
            let g = (g + (&p * l.weight_decay)?)?;
            let trust = match l.trust_coefficient {
                Some(c) if norm(&p)? > 0.0 && norm(&g)? > 0.0 => c * norm(&p)? / norm(&g)?,
                _ => 1.0,
            };
            let [by, v] = momentum(&(g * (trust * l.learning_rate))?, l.momentum, l.nesterov)?;
            vec![(p - by)?, v]
        }
    })
}

fn copies(tensors: &[Tensor; 4]) -> [Tensor; 4] {
    tensors.each_ref().map(|t| t.copy().unwrap())
}

#[test]
fn every_form_of_every_rule_follows_its_formula() {
    for len in [1, 31, 70_001] {
        for ctx in forms() {
            for rule in rules() {
                for scale in [1.0, 0.125] {
                    let tensors = tensors(&[len], DType::F64);
                    let want = expected(copies(&tensors), rule, scale).unwrap();
                    let got = run(&ctx, tensors, rule, scale);
                    assert_eq!(got.len(), want.len());
                    got.iter().zip(&want).for_each(|(got, want)| close(got, want, 1e-13, &format!("{rule:?}")));
                }
            }
        }
    }
}

#[test]
fn where_a_norm_is_zero_lars_keeps_its_rate() {
    for zero in [0, 3] {
        let mut tensors = tensors(&[40], DType::F64);
        tensors[zero] = tensors[zero].zeros_like().unwrap();
        let rule = Rule::Lars(Lars { weight_decay: 0.0, ..LARS });
        let plain = Rule::Lars(Lars { weight_decay: 0.0, trust_coefficient: None, ..LARS });
        let want = run(&Context::new(), copies(&tensors), plain, 1.0);
        let got = run(&Context::new(), tensors, rule, 1.0);
        got.iter().zip(&want).for_each(|(got, want)| close(got, want, 0.0, "zero norm"));
    }
}

#[test]
fn forms_and_threads_give_the_same_bits() {
    let bits = |ctx: &Context, rule: Rule, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let end = pool.install(|| run(ctx, tensors(&[3, 40_001], DType::F32), rule, 0.7));
        end.iter().map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect::<Vec<_>>()
    };
    let [reference, fast] = [Form::Reference, Form::Fast].map(Context::with_form);
    for rule in rules() {
        let want = bits(&fast, rule, 1);
        assert!(want == bits(&fast, rule, 3), "{rule:?}");
        // The norms of LARS are summed in another order.
        if !matches!(rule, Rule::Lars(_)) {
            assert!(want == bits(&reference, rule, 1), "{rule:?}");
        }
    }
}

#[test]
fn many_parameters_move_at_once_as_one_by_one() {
    let all: Vec<[Tensor; 4]> = [1, 7, 70_000].map(|len| tensors(&[len], DType::F32)).into();
    let alone: Vec<_> = all.iter().map(|t| run(&Context::new(), copies(t), Rule::Sgd(SGD), 1.0)).collect();
    let moments: Vec<[Tensor; 1]> = all.iter().map(|[_, m, ..]| [m.clone()]).collect();
    let slots: Vec<Slot<'_>> = all
        .iter()
        .zip(&moments)
        .map(|([p, _, _, g], moments)| Slot { parameter: p, moments, grad: g, rule: Rule::Sgd(SGD) })
        .collect();
    update(&Context::new(), &slots, 1.0).unwrap();
    for ([p, m, ..], alone) in all.iter().zip(&alone) {
        close(p, &alone[0], 0.0, "parameter");
        close(m, &alone[1], 0.0, "velocity");
    }
}

#[test]
fn a_strided_gradient_is_read_in_its_order() {
    let [p, m, v, g] = tensors(&[5, 7], DType::F64);
    let strided = g.t().unwrap().contiguous().unwrap().t().unwrap();
    assert!(!strided.is_contiguous());
    let want = run(&Context::new(), copies(&[p.clone(), m.clone(), v.clone(), g]), Rule::Adam(ADAM), 1.0);
    let got = run(&Context::new(), [p, m, v, strided], Rule::Adam(ADAM), 1.0);
    got.iter().zip(&want).for_each(|(got, want)| close(got, want, 0.0, "strided"));
}

#[test]
fn norms_are_sums_of_squares_and_tell_what_is_not_finite() {
    for len in [0, 1, 31, 70_001] {
        let t = random(&[len], 5);
        let want: f64 = t.to_vec1::<f64>().unwrap().iter().map(|x| x * x).sum();
        for ctx in forms() {
            let got = squared_norm(&ctx, &t).unwrap();
            assert!((got - want).abs() <= 1e-12 * want, "{got} {want}");
        }
    }
    let large = Tensor::full(1e30f32, 10, &Device::Cpu).unwrap();
    assert!(squared_norm(&Context::new(), &large).unwrap().is_finite(), "squares of f32 fit in f64");
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut numbers = vec![1f32; 50_000];
        numbers[40_001] = wrong;
        let t = Tensor::new(numbers, &Device::Cpu).unwrap();
        forms().for_each(|ctx| assert!(!squared_norm(&ctx, &t).unwrap().is_finite()));
    }
}

#[test]
fn nothing_changes_when_an_argument_is_wrong() {
    let right = tensors(&[4], DType::F32);
    let [p, m, v, g] = tensors(&[4], DType::F32);
    let before = right[0].to_vec1::<f32>().unwrap();
    let rule = Rule::Adam(ADAM);
    let message = |moments: &[Tensor], grad: &Tensor| {
        // One that is right goes first.
        let first = Slot { parameter: &right[0], moments: &right[1..3], grad: &right[3], rule };
        let wrong = Slot { parameter: &p, moments, grad, rule };
        update(&Context::new(), &[first, wrong], 1.0).unwrap_err().to_string()
    };
    let moments = [m.clone(), v];
    let short = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    assert!(message(&moments, &short).contains("grad has shape [3], expected [4]"));
    let wide = Tensor::zeros(4, DType::F64, &Device::Cpu).unwrap();
    assert!(message(&moments, &wide).contains("grad has elements of type F64, expected f32"));
    assert!(message(&[m], &g).contains("moments are 1 tensors, expected 2"));
    assert_eq!(right[0].to_vec1::<f32>().unwrap(), before);
}

fn counter(steps: f64) -> Tensor {
    Tensor::new(steps, &Device::Cpu).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn on<'a>(loss: &'a Tensor, steps: &'a Tensor) -> Condition<'a> {
    Condition { loss, steps, loss_scale: None, after: None }
}

#[test]
fn a_step_whose_numbers_are_finite_is_the_same_step() {
    let loss = Tensor::new(2.5, &Device::Cpu).unwrap();
    let norm = numbers(&tensors(&[31], DType::F64)[3]).iter().map(|g| g * g).sum::<f64>().sqrt() * 0.5;
    for ctx in forms() {
        for rule in rules() {
            for max_norm in [None, Some(1e3), Some(norm / 3.0)] {
                let clip = if max_norm == Some(norm / 3.0) { norm / 3.0 / (norm + 1e-6) } else { 1.0 };
                let want = run(&ctx, tensors(&[31], DType::F64), rule, 0.5 * clip);
                let [p, m, v, grad] = tensors(&[31], DType::F64);
                // It is the third step, whatever the rule says.
                let (steps, other) = (
                    counter(2.0),
                    match rule {
                        Rule::Adam(adam) => Rule::Adam(Adam { number: 77, ..adam }),
                        other => other,
                    },
                );
                let moments = &[m, v][..rule.moments()];
                let slot = Slot { parameter: &p, moments, grad: &grad, rule: other };
                let scale = Scale { mean: 0.5, max_norm };
                let report = update_if_finite(&ctx, &[slot], scale, on(&loss, &steps)).unwrap().read().unwrap();
                assert_eq!((report.loss, report.outcome, report.loss_scale), (2.5, Outcome::Applied, 1.0));
                assert!(numbers(&steps)[0] == 3.0 && (report.norm - norm).abs() < 1e-12 * norm, "{report:?} {norm}");
                for (got, want) in std::iter::once(&p).chain(moments).zip(&want) {
                    close(got, want, 1e-14, &format!("{rule:?} {max_norm:?}"));
                }
            }
        }
    }
}

#[test]
fn a_step_whose_numbers_are_not_finite_changes_nothing() {
    for (loss, bad) in [(f64::NAN, 1.0), (f64::NEG_INFINITY, 1.0), (1.0, f32::NAN), (1.0, f32::INFINITY)] {
        for rule in rules() {
            let [p, m, v, _] = tensors(&[4], DType::F32);
            let before = [&p, &m, &v].map(numbers);
            let grad = Tensor::new(&[1f32, 2.0, bad, 3.0], &Device::Cpu).unwrap();
            let (loss, steps) = (Tensor::new(loss, &Device::Cpu).unwrap(), counter(5.0));
            let moments = &[m.clone(), v.clone()][..rule.moments()];
            let slot = Slot { parameter: &p, moments, grad: &grad, rule };
            let scale = Scale { mean: 1.0, max_norm: Some(1.0) };
            let report = update_if_finite(&Context::new(), &[slot], scale, on(&loss, &steps)).unwrap().read().unwrap();
            assert_eq!((report.outcome, numbers(&steps)), (Outcome::NotFinite, vec![5.0]));
            assert!(!(report.loss.is_finite() && report.norm.is_finite()), "{report:?}");
            assert_eq!([&p, &m, &v].map(numbers), before);
        }
    }
}

#[test]
fn what_a_condition_needs_is_named() {
    let [p, m, v, grad] = tensors(&[4], DType::F32);
    let (scale, moments) = (Scale { mean: 1.0, max_norm: None }, [m, v]);
    let slot = Slot { parameter: &p, moments: &moments, grad: &grad, rule: Rule::Adam(ADAM) };
    let message = |loss: &Tensor, steps: &Tensor| {
        update_if_finite(&Context::new(), &[slot], scale, on(loss, steps)).unwrap_err().to_string()
    };
    let one = Tensor::new(1f32, &Device::Cpu).unwrap();
    let message = [message(&grad, &counter(0.0)), message(&counter(1.0), &one)];
    assert!(message[0].contains("loss has shape [4], expected [], one number"), "{}", message[0]);
    assert!(message[1].contains("steps has elements of type F32, expected f64"), "{}", message[1]);
}

#[test]
fn a_step_that_was_left_out_takes_those_behind_it_along() {
    let [p, m, _, grad] = tensors(&[4], DType::F32);
    let (scale, moments, before) = (Scale { mean: 1.0, max_norm: None }, [m], numbers(&p));
    let slot = Slot { parameter: &p, moments: &moments, grad: &grad, rule: rules()[2] };
    let [good, bad] = [1.0, f64::NAN].map(|loss| Tensor::new(loss, &Device::Cpu).unwrap());
    let steps = counter(0.0);
    let step = |loss, after: Option<&Report>| {
        update_if_finite(&Context::new(), &[slot], scale, Condition { after, ..on(loss, &steps) }).unwrap()
    };
    let first = step(&bad, None);
    let second = step(&good, Some(&first));
    let third = step(&good, Some(&second));
    assert_eq!(
        (third.read().unwrap().outcome, numbers(&p), numbers(&steps)),
        (Outcome::NotFinite, before.clone(), vec![0.0])
    );
    let fourth = step(&good, None);
    assert_eq!(step(&good, Some(&fourth)).read().unwrap().outcome, Outcome::Applied);
    assert!(numbers(&steps) == [2.0] && numbers(&p) != before);
}

#[test]
fn the_scale_of_a_loss_finds_itself() {
    let [p, m, v, _] = tensors(&[4], DType::F64);
    let moments = [m, v];
    let loss = Tensor::new(1.0, &Device::Cpu).unwrap();
    let (steps, found) = (counter(0.0), LossScale::new(&Device::Cpu).unwrap());
    let step = |gradient: f64, loss_scale: &LossScale| {
        let grad = Tensor::new(&[gradient; 4], &Device::Cpu).unwrap();
        let slot = Slot { parameter: &p, moments: &moments, grad: &grad, rule: Rule::Adam(ADAM) };
        let condition = Condition { loss_scale: Some(loss_scale), ..on(&loss, &steps) };
        let scale = Scale { mean: 0.5, max_norm: None };
        update_if_finite(&Context::new(), &[slot], scale, condition).unwrap().read().unwrap()
    };
    assert_eq!(numbers(&found.of_loss(&loss).unwrap()), [65536.0]);
    // The norm is that of gradients without it.
    let report = step(65536.0 * 3.0, &found);
    assert_eq!((report.outcome, report.norm, report.loss_scale), (Outcome::Applied, 3.0, 65536.0));
    let before = numbers(&p);
    assert_eq!(step(f64::INFINITY, &found).outcome, Outcome::Overflowed);
    assert_eq!((numbers(found.numbers()), numbers(&p), numbers(&steps)), (vec![32768.0, 0.0], before, vec![1.0]));
    for _ in 0..2000 {
        assert_eq!(step(1.0, &found).loss_scale, 32768.0);
    }
    assert_eq!(numbers(found.numbers()), [65536.0, 0.0]);
    // What does not fit at the smallest scale fits at none.
    let least = LossScale::of(&Tensor::new(&[1.0, 7.0], &Device::Cpu).unwrap()).unwrap();
    assert_eq!((step(f64::NAN, &least).outcome, numbers(least.numbers())), (Outcome::NotFinite, vec![1.0, 7.0]));
    let refused = LossScale::of(&Tensor::new(&[1f32, 0.0], &Device::Cpu).unwrap()).unwrap_err().to_string();
    assert!(refused.contains("loss scale has elements of type F32, expected f64"), "{refused}");
}
