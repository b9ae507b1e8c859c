use candle_core::{DType, Device, Tensor};

use super::*;
use crate::check::{close, finite_differences, forms, random};

const CONFIG: BatchNorm = BatchNorm { eps: 1e-5, relu: true, groups: 1 };

/// The formula in candle's own ops.
fn formula(a: &[Tensor], residual: Option<&Tensor>, config: BatchNorm) -> Tensor {
    let (x, weight, bias) = (&a[0], &a[1], &a[2]);
    let channels = weight.elem_count();
    let rows = x.reshape(((), channels)).unwrap();
    let mean = rows.mean_keepdim(0).unwrap();
    let centred = rows.broadcast_sub(&mean).unwrap();
    let var = centred.sqr().unwrap().mean_keepdim(0).unwrap();
    let unit = centred.broadcast_div(&(var + config.eps).unwrap().sqrt().unwrap()).unwrap();
    let y = unit.broadcast_mul(weight).unwrap().broadcast_add(bias).unwrap().reshape(x.shape()).unwrap();
    let y = residual.map_or(Ok(y.clone()), |r| y + r).unwrap();
    if config.relu { y.relu().unwrap() } else { y }
}

fn arguments(dims: &[usize]) -> Vec<Tensor> {
    let channels = [*dims.last().unwrap()];
    vec![random(dims, 1), random(&channels, 2), random(&channels, 3)]
}

#[test]
fn every_form_agrees_with_the_formula() {
    for dims in [&[2usize, 1][..], &[2, 3, 3, 31], &[1, 5, 7, 33], &[300, 5], &[33, 3, 3, 64]] {
        let (a, r) = (arguments(dims), random(dims, 4));
        for ctx in forms() {
            for relu in [false, true] {
                let config = BatchNorm { relu, ..CONFIG };
                let (y, _) = forward(&ctx, &a[0], &a[1], &a[2], None, config).unwrap();
                close(&y, &formula(&a, None, config), 1e-12, &format!("{dims:?} {ctx:?}"));
                let (y, _) = forward(&ctx, &a[0], &a[1], &a[2], Some(&r), config).unwrap();
                close(&y, &formula(&a, Some(&r), config), 1e-12, &format!("residual {dims:?} {ctx:?}"));
            }
        }
    }
}

#[test]
fn gradients_by_finite_differences() {
    for dims in [&[2usize, 1][..], &[3, 4], &[2, 2, 3, 5]] {
        let (mut a, r) = (arguments(dims), random(dims, 4));
        for ctx in forms() {
            for relu in [false, true] {
                let config = BatchNorm { relu, ..CONFIG };
                finite_differences(
                    &a,
                    |a| Ok(forward(&ctx, &a[0], &a[1], &a[2], None, config)?.0),
                    |a, grad| {
                        let g = backward(&ctx, &forward(&ctx, &a[0], &a[1], &a[2], None, config)?.1, grad)?;
                        assert!(g.residual.is_none());
                        Ok(vec![g.x, g.weight, g.bias])
                    },
                );
                a.push(r.clone());
                finite_differences(
                    &a,
                    |a| Ok(forward(&ctx, &a[0], &a[1], &a[2], Some(&a[3]), config)?.0),
                    |a, grad| {
                        let g = backward(&ctx, &forward(&ctx, &a[0], &a[1], &a[2], Some(&a[3]), config)?.1, grad)?;
                        Ok(vec![g.x, g.weight, g.bias, g.residual.unwrap()])
                    },
                );
                a.pop();
            }
        }
    }
}

#[test]
fn the_fast_gradients_are_the_reference_s() {
    // More rows than a block, more blocks than a task.
    for dims in [&[300usize, 33][..], &[70, 16, 9, 31]] {
        let (a, r) = (arguments(dims), random(dims, 4));
        let [reference, fast] = [Form::Reference, Form::Fast].map(Context::with_form).map(|ctx| {
            let (y, saved) = forward(&ctx, &a[0], &a[1], &a[2], Some(&r), CONFIG).unwrap();
            let g = backward(&ctx, &saved, &random(dims, 5)).unwrap();
            [y, g.x, g.weight, g.bias, g.residual.unwrap()]
        });
        fast.iter().zip(&reference).for_each(|(f, r)| close(f, r, 1e-11, &format!("{dims:?}")));
    }
}

#[test]
fn bf16_maps_are_computed_in_f32_and_rounded_once() {
    let dims = [70, 16, 9, 31];
    let round = |t: &Tensor, to| t.to_dtype(DType::F32).unwrap().to_dtype(to).unwrap();
    let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    let maps: Vec<Tensor> = [1, 4, 5].map(|seed| round(&random(&dims, seed), DType::BF16)).into();
    let channels: Vec<Tensor> = [2, 3].map(|seed| round(&random(&[31], seed), DType::F32)).into();
    let run = |ctx: &Context, maps: &[Tensor], channels: &[Tensor], y: Option<&Tensor>| {
        let (own, mut saved) = forward(ctx, &maps[0], &channels[0], &channels[1], Some(&maps[1]), CONFIG).unwrap();
        // The mask of the ReLU is that of the rounded output.
        saved.y = y.cloned().or(saved.y);
        let g = backward(ctx, &saved, &maps[2]).unwrap();
        [own, g.x, g.residual.unwrap(), g.weight, g.bias]
    };
    for form in [Form::Reference, Form::Fast] {
        let got = run(&Context::with_form(form), &maps, &channels, None);
        let widened = |t: &[Tensor]| t.iter().map(wide).collect::<Vec<_>>();
        let reference = Context::with_form(Form::Reference);
        let want = run(&reference, &widened(&maps), &widened(&channels), Some(&wide(&got[0])));
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let (dtype, tolerance) = if i < 3 { (DType::BF16, 2f64.powi(-8) + 1e-5) } else { (DType::F32, 2e-4) };
            assert_eq!(got.dtype(), dtype);
            close(got, want, tolerance, &format!("{form:?}, result {i}"));
        }
    }
}

#[test]
fn groups_are_batches_of_their_own() {
    for (dims, relu) in [([6, 3, 2, 5], true), ([4, 2, 2, 33], false)] {
        let (maps, a) = ([1, 4, 5].map(|seed| random(&dims, seed)), arguments(&dims));
        for ctx in [Form::Reference, Form::Fast].map(Context::with_form) {
            for with_residual in [false, true] {
                let run = |[x, r, grad]: &[Tensor; 3], groups| {
                    let config = BatchNorm { relu, groups, ..CONFIG };
                    let (y, saved) = forward(&ctx, x, &a[1], &a[2], with_residual.then_some(r), config).unwrap();
                    let statistics = saved.statistics().read().unwrap();
                    (y, backward(&ctx, &saved, grad).unwrap(), statistics)
                };
                let half = dims[0] / 2;
                let halves = [0, half]
                    .map(|from| run(&maps.each_ref().map(|m| m.narrow(0, from, half).unwrap().copy().unwrap()), 1));
                let (y, g, statistics) = run(&maps, 2);
                assert_eq!(statistics, [halves[0].2[0].clone(), halves[1].2[0].clone()]);
                let joined = |part: &dyn Fn(usize) -> Tensor| Tensor::cat(&[part(0), part(1)], 0).unwrap();
                close(&y, &joined(&|i| halves[i].0.clone()), 1e-15, "y");
                close(&g.x, &joined(&|i| halves[i].1.x.clone()), 1e-14, "dx");
                close(&g.weight, &(&halves[0].1.weight + &halves[1].1.weight).unwrap(), 1e-13, "weight");
                close(&g.bias, &(&halves[0].1.bias + &halves[1].1.bias).unwrap(), 1e-13, "bias");
                assert_eq!(g.residual.is_some(), with_residual);
                if let Some(residual) = &g.residual {
                    close(residual, &joined(&|i| halves[i].1.residual.clone().unwrap()), 1e-15, "residual");
                }
            }
        }
    }
    let a = arguments(&[5, 4]);
    let three = BatchNorm { groups: 3, ..CONFIG };
    let message = forward(&Context::new(), &a[0], &a[1], &a[2], None, three).unwrap_err().to_string();
    assert!(message.contains("x has shape [5, 4], expected a first dimension that 3 groups divide"), "{message}");
}

#[test]
fn statistics_survive_a_mean_far_from_zero() {
    // In plain f32 sums of squares a mean of 1000 leaves no digit of a variance of 1.
    let x = (random(&[4096, 3], 1) + 1000.0).unwrap();
    let (_, saved) = {
        let x = x.to_dtype(DType::F32).unwrap();
        let channel = Tensor::ones(3, DType::F32, &Device::Cpu).unwrap();
        forward(&Context::new(), &x, &channel, &channel, None, CONFIG).unwrap()
    };
    let channel = Tensor::ones(3, DType::F64, &Device::Cpu).unwrap();
    let reference = Context::with_form(Form::Reference);
    // The numbers themselves are rounded to 6e-5 in f32, so the variance is known to about 1e-5.
    let (_, want) = forward(&reference, &x, &channel, &channel, None, CONFIG).unwrap();
    for c in 0..3 {
        assert!(
            (saved.statistics().read().unwrap()[0].mean[c] - want.statistics().read().unwrap()[0].mean[c]).abs() < 1e-5
        );
        assert!(
            (saved.statistics().read().unwrap()[0].var[c] - want.statistics().read().unwrap()[0].var[c]).abs() < 2e-5
        );
    }
}

#[test]
fn running_variance_is_unbiased_and_inference_uses_what_it_is_given() {
    let a = arguments(&[5, 4]);
    let (y, saved) = forward(&Context::new(), &a[0], &a[1], &a[2], None, CONFIG).unwrap();
    let statistics = &saved.statistics().read().unwrap()[0];
    assert_eq!(statistics.count, 5);
    let unbiased = Tensor::from_vec(statistics.unbiased_var(), 4, &Device::Cpu).unwrap();
    close(&unbiased, &a[0].var(0).unwrap(), 1e-13, "variance");
    let mean = Tensor::from_vec(statistics.mean.clone(), 4, &Device::Cpu).unwrap();
    let var = Tensor::from_vec(statistics.var.clone(), 4, &Device::Cpu).unwrap();
    for ctx in forms() {
        let same = inference(&ctx, &a[0], &a[1], &a[2], &mean, &var, None, CONFIG).unwrap();
        close(&same, &y, 1e-13, "inference with the statistics of the batch");
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let narrow = |t: Tensor| t.to_dtype(DType::F32).unwrap();
    let a: Vec<Tensor> = arguments(&[9, 33, 31, 33]).into_iter().map(narrow).collect();
    let grad = narrow(random(&[9, 33, 31, 33], 5));
    let run = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let (y, saved) = forward(&Context::new(), &a[0], &a[1], &a[2], None, CONFIG).unwrap();
            let g = backward(&Context::new(), &saved, &grad).unwrap();
            [y, g.x, g.weight, g.bias].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        })
    };
    assert!(run(1) == run(2) && run(1) == run(5));
}

#[test]
fn two_processes_normalise_as_one() {
    /// Adds what the other process would have contributed, recorded beforehand.
    #[derive(Debug)]
    struct Other(std::sync::Mutex<Vec<Vec<f64>>>);
    impl crate::context::Reduction for Other {
        fn sum(&self, values: &mut [f64]) -> Result<(), OpsError> {
            let theirs = self.0.lock().unwrap().remove(0);
            values.iter_mut().zip(theirs).for_each(|(v, t)| *v += t);
            Ok(())
        }
    }
    /// Records what a process contributes, and what all contribute is `total` in the end.
    #[derive(Debug, Default)]
    struct Record(std::sync::Mutex<Vec<Vec<f64>>>);
    impl crate::context::Reduction for Record {
        fn sum(&self, values: &mut [f64]) -> Result<(), OpsError> {
            self.0.lock().unwrap().push(values.to_vec());
            Ok(())
        }
    }
    let (a, grad) = (arguments(&[6, 4]), random(&[6, 4], 5));
    let halves = |t: &Tensor| [0, 3].map(|start| t.narrow(0, start, 3).unwrap().contiguous().unwrap());
    let ctx = Context::new();
    let (y, saved) = forward(&ctx, &a[0], &a[1], &a[2], None, CONFIG).unwrap();
    let whole = backward(&ctx, &saved, &grad).unwrap();

    let [first, second] = halves(&a[0]);
    let [first_grad, _] = halves(&grad);
    // The second half's contributions: its moments, then its gradient sums under the common statistics.
    let record = std::sync::Arc::new(Record::default());
    let recording = Context::new().with_reduction(record.clone());
    forward(&recording, &second, &a[1], &a[2], None, CONFIG).unwrap();
    let moments = record.0.lock().unwrap().remove(0);
    let inv_std: Vec<f64> =
        saved.statistics().read().unwrap()[0].var.iter().map(|v| 1.0 / (v + CONFIG.eps).sqrt()).collect();
    let partial = |g: &Gradients| -> Vec<f64> {
        let weight: Vec<f64> = g.weight.to_vec1().unwrap();
        let bias: Vec<f64> = g.bias.to_vec1().unwrap();
        bias.into_iter().chain(weight.into_iter().zip(&inv_std).map(|(w, s)| w / s)).collect()
    };
    let other = |sums: Vec<Vec<f64>>| Context::new().with_reduction(std::sync::Arc::new(Other(sums.into())));
    let share = {
        let ctx = other(vec![moments.clone(), vec![0.0; 8]]);
        let (_, saved) = forward(&ctx, &first, &a[1], &a[2], None, CONFIG).unwrap();
        partial(&backward(&ctx, &saved, &first_grad).unwrap())
    };
    let rest = partial(&whole).iter().zip(share).map(|(all, first)| all - first).collect();
    let ctx = other(vec![moments, rest]);
    let (half_y, half_saved) = forward(&ctx, &first, &a[1], &a[2], None, CONFIG).unwrap();
    assert_eq!(half_saved.statistics().read().unwrap()[0].count, 6);
    close(&half_y, &halves(&y)[0], 1e-12, "outputs of the first half");
    let half = backward(&ctx, &half_saved, &first_grad).unwrap();
    close(&half.x, &halves(&whole.x)[0], 1e-12, "gradient of the first half");
}

#[test]
fn one_value_per_channel_is_an_error() {
    let a = arguments(&[1, 4]);
    let message = forward(&Context::new(), &a[0], &a[1], &a[2], None, CONFIG).unwrap_err().to_string();
    assert!(message.contains("more than one value per channel, found 1"), "{message}");
}

#[test]
fn wrong_shapes_are_named() {
    let a = arguments(&[3, 4]);
    let ctx = Context::new();
    let message = forward(&ctx, &a[0], &random(&[3], 1), &a[2], None, CONFIG).unwrap_err().to_string();
    assert!(message.contains("weight has shape [3], expected [4]"), "{message}");
    let message = forward(&ctx, &a[0], &a[1], &a[2], Some(&random(&[4, 4], 1)), CONFIG).unwrap_err().to_string();
    assert!(message.contains("residual has shape [4, 4], expected [3, 4]"), "{message}");
}
