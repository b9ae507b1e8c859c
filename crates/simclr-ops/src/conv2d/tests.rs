use candle_core::{DType, Device, Tensor};

use super::*;
use crate::check::{close, finite_differences, forms, random};

/// With more output pixels than all threads share: groups of pictures are worked on alone. As [`SHAPES`].
const LARGE: [[usize; 8]; 4] = [
    [9, 32, 32, 3, 5, 3, 1, 1],
    [9, 32, 32, 16, 17, 3, 1, 1],
    [33, 32, 32, 4, 6, 3, 2, 1],
    [9, 32, 32, 4, 40, 1, 1, 0],
];

/// Odd channel counts, picture sizes, kernels, strides and paddings; (n, h, w, c_in, c_out, k, stride, padding).
const SHAPES: [[usize; 8]; 18] = [
    [1, 1, 1, 1, 1, 1, 1, 0],
    [2, 5, 4, 3, 7, 3, 1, 1],
    [1, 8, 8, 31, 33, 3, 2, 1],
    [3, 7, 6, 33, 31, 1, 2, 0],
    [2, 6, 6, 31, 1, 1, 1, 0],
    [1, 33, 3, 1, 31, 3, 1, 1],
    [2, 3, 3, 4, 5, 3, 1, 0],
    [1, 9, 9, 3, 4, 7, 2, 3],
    [2, 4, 5, 2, 3, 1, 1, 1],
    [1, 5, 5, 2, 3, 3, 1, 4],
    [1, 2, 2, 3, 2, 3, 3, 2],
    [2, 6, 5, 3, 2, 2, 1, 1],
    // Winograd's, with every padding, whole and cut tiles, whole and cut vectors.
    [1, 2, 2, 16, 16, 3, 1, 1],
    [2, 4, 6, 17, 33, 3, 1, 1],
    [1, 5, 4, 31, 16, 3, 1, 0],
    [2, 3, 5, 16, 31, 3, 1, 2],
    [1, 33, 31, 33, 48, 3, 1, 1],
    [2, 8, 8, 176, 192, 3, 1, 1],
];

fn arguments([n, h, w, c_in, c_out, k, stride, padding]: [usize; 8]) -> (Tensor, Tensor, Window) {
    (random(&[n, h, w, c_in], 1), random(&[c_out, c_in, k, k], 2), Window { stride, padding })
}

/// Compares output and gradients of every form with those of the reference.
fn the_forms_agree(x: &Tensor, weight: &Tensor, window: Window, tolerance: f64, what: &str) {
    let results: Vec<_> = forms()
        .map(|ctx| {
            let (y, saved) = forward(&ctx, x, weight, window).unwrap();
            let g = backward(&ctx, &saved, &random(y.dims(), 3), true).unwrap();
            (ctx.instructions(), [("y", y), ("dx", g.x.unwrap()), ("dw", g.weight)])
        })
        .collect();
    for (instructions, got) in &results[1..] {
        for ((name, got), (_, want)) in got.iter().zip(&results[0].1) {
            close(got, want, tolerance, &format!("{name} with {instructions}, {what}"));
        }
    }
}

#[test]
fn every_form_agrees_with_candle() {
    for shape in SHAPES {
        let (x, weight, window) = arguments(shape);
        let nchw = x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        let want = nchw.conv2d(&weight, window.padding, window.stride, 1, 1).unwrap().permute((0, 2, 3, 1)).unwrap();
        for ctx in forms() {
            let (y, _) = forward(&ctx, &x, &weight, window).unwrap();
            close(&y, &want, 1e-12, &format!("{shape:?} {ctx:?}"));
        }
    }
}

#[test]
fn gradients_by_finite_differences() {
    for shape in SHAPES {
        let (x, weight, window) = arguments(shape);
        // Every element is moved twice: the large shapes are left to the comparison of the forms.
        if x.elem_count() * weight.elem_count() > 20_000 {
            continue;
        }
        for ctx in forms() {
            finite_differences(
                &[x.clone(), weight.clone()],
                |a| Ok(forward(&ctx, &a[0], &a[1], window)?.0),
                |a, grad| {
                    let g = backward(&ctx, &forward(&ctx, &a[0], &a[1], window)?.1, grad, true)?;
                    Ok(vec![g.x.unwrap(), g.weight])
                },
            );
        }
    }
}

#[test]
fn the_fast_gradients_are_the_reference_s() {
    for shape in SHAPES {
        let (x, weight, window) = arguments(shape);
        the_forms_agree(&x, &weight, window, 1e-12, &format!("{shape:?}"));
    }
}

#[test]
fn f32_is_as_exact_as_f32_can_be() {
    for shape in SHAPES {
        let (x, weight, window) = arguments(shape);
        let narrow = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
        let run = |ctx: &Context, x: &Tensor, weight: &Tensor| {
            let (y, saved) = forward(ctx, x, weight, window).unwrap();
            let grad = random(y.dims(), 3).to_dtype(x.dtype()).unwrap();
            let g = backward(ctx, &saved, &grad, true).unwrap();
            [y, g.x.unwrap(), g.weight]
        };
        let want = run(&Context::with_form(Form::Reference), &x, &weight);
        // Sums of terms of size 1, whose roundings add up like steps of a random walk: some thirty of them.
        let [n, h, w, c_in, c_out, k, ..] = shape;
        let terms = (n * h * w).max(k * k * c_in.max(c_out));
        let tolerance = 2e-6 * (terms as f64).sqrt();
        for ctx in forms() {
            for (got, want) in run(&ctx, &narrow(&x), &narrow(&weight)).iter().zip(&want) {
                close(got, want, tolerance, &format!("{shape:?} {ctx:?}"));
            }
        }
    }
}

#[test]
fn bf16_is_rounded_once() {
    for shape in SHAPES.into_iter().chain(LARGE) {
        let (x, weight, window) = arguments(shape);
        let bf16 = |t: &Tensor| t.to_dtype(DType::F32).unwrap().to_dtype(DType::BF16).unwrap();
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let x = bf16(&x);
        let weight = weight.to_dtype(DType::F32).unwrap();
        let run = |ctx: &Context, x: &Tensor, weight: &Tensor, grad: &Tensor| {
            let (y, saved) = forward(ctx, x, weight, window).unwrap();
            let g = backward(ctx, &saved, grad, true).unwrap();
            [y, g.x.unwrap(), g.weight]
        };
        let y = forward(&Context::new(), &x, &weight, window).unwrap().0;
        let grad = bf16(&random(y.dims(), 3));
        // The same numbers in f64: what is rounded once is the nearest of bf16, 2^-8 of it away at most, but for the roundings of f32.
        let want = run(&Context::with_form(Form::Fast), &wide(&x), &wide(&bf16(&weight)), &wide(&grad));
        for ctx in forms() {
            let [y, dx, dw] = run(&ctx, &x, &weight, &grad);
            assert_eq!([y.dtype(), dx.dtype(), dw.dtype()], [DType::BF16, DType::BF16, DType::F32]);
            let what = format!("{shape:?} {ctx:?}");
            for (got, want) in [(&y, &want[0]), (&dx, &want[1])] {
                close(got, want, 2f64.powi(-8) + 1e-5, &what);
            }
            close(&dw, &want[2], 1e-4, &what);
        }
    }
}

#[test]
fn a_gradient_is_added_to_another() {
    for shape in SHAPES.into_iter().chain(LARGE) {
        let (x, weight, window) = arguments(shape);
        for dtype in [DType::F64, DType::F32, DType::BF16] {
            let to = |t: &Tensor, dtype| t.to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap();
            let (x, weight) = (to(&x, dtype), to(&weight, if dtype == DType::F64 { DType::F64 } else { DType::F32 }));
            // A sum of bf16 is rounded once, where adding a gradient of bf16 rounds twice.
            let tolerance = if dtype == DType::BF16 { 2f64.powi(-7) } else { 1e-6 };
            for ctx in forms() {
                let (y, saved) = forward(&ctx, &x, &weight, window).unwrap();
                let (grad, other) = (to(&random(y.dims(), 3), dtype), to(&random(x.dims(), 4), dtype));
                let new = backward(&ctx, &saved, &grad, true).unwrap().x.unwrap();
                let [new, before] = [new, other.clone()].map(|t| t.to_dtype(DType::F64).unwrap());
                let want = (&new + &before).unwrap();
                let sum = InputGradient::AddedTo(other.copy().unwrap());
                let got = backward_into(&ctx, &saved, &grad, sum).unwrap().x.unwrap();
                // Where both are large and cancel, what is left of a bf16 has their rounding.
                let size = ((new.abs().unwrap() + before.abs().unwrap()).unwrap() + 1.0).unwrap();
                let distance = (got.to_dtype(DType::F64).unwrap() - want).unwrap().abs().unwrap();
                let worst: f64 = (distance / size).unwrap().max_all().unwrap().to_scalar().unwrap();
                assert!(worst <= tolerance, "{shape:?} {dtype:?} {ctx:?}: {worst}");
            }
        }
    }
    let (x, weight, window) = arguments(SHAPES[1]);
    let (y, saved) = forward(&Context::new(), &x, &weight, window).unwrap();
    let wrong = InputGradient::AddedTo(random(&[2, 5, 4, 1], 4));
    let message = backward_into(&Context::new(), &saved, &y, wrong).unwrap_err().to_string();
    assert!(message.contains("gradient to add to has shape [2, 5, 4, 1], expected [2, 5, 4, 3]"), "{message}");
}

#[test]
fn moments_are_those_of_the_map_that_is_kept() {
    use crate::batch_norm::{self, BatchNorm};
    for shape in LARGE {
        let (x, weight, window) = arguments(shape);
        // Far from zero, so that a sum of squares without a pivot would cancel in f32.
        let x = (x + 100.0).unwrap();
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-6), (DType::BF16, 1e-6)] {
            let to = |t: &Tensor, dtype| t.to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap();
            let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
            let (x, weight) = (to(&x, dtype), to(&weight, wide));
            let [scale, shift] = [5, 6].map(|seed| to(&random(&[shape[4]], seed), wide));
            let config = BatchNorm { groups: if shape[0] % 3 == 0 { 3 } else { 1 }, ..BatchNorm::default() };
            let ctx = Context::new();
            let (y, _, moments) = forward_with_moments(&ctx, &x, &weight, window).unwrap();
            assert!(moments.is_some(), "{shape:?}");
            let statistics = |moments: Option<&Moments>| {
                let made = batch_norm::forward_with_moments(&ctx, &y, moments, &scale, &shift, None, config);
                made.unwrap().1.statistics().read().unwrap()
            };
            for (got, want) in statistics(moments.as_ref()).iter().zip(&statistics(None)) {
                assert_eq!(got.count, want.count);
                for c in 0..shape[4] {
                    let size = want.var[c] + want.mean[c].powi(2);
                    let (mean, var) = (got.mean[c] - want.mean[c], got.var[c] - want.var[c]);
                    assert!(mean.abs() <= tolerance * size.sqrt(), "{shape:?} {dtype:?}: mean off by {mean}");
                    assert!(var.abs() <= tolerance * size, "{shape:?} {dtype:?}: variance off by {var}");
                }
            }
        }
    }
}

#[test]
fn many_chunks_give_the_same_as_one() {
    // 2 · 70 · 70 rows of 9 · 16 taps are more than one unfolded chunk holds, with both strides.
    for stride in [1, 2] {
        let (x, weight, window) = arguments([3, 70, 70, 16, 3, 3, stride, 1]);
        the_forms_agree(&x, &weight, window, 1e-11, "chunks");
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let (x, weight, window) = arguments([4, 33, 31, 16, 33, 3, 2, 1]);
    let (x, weight) = (x.to_dtype(DType::F32).unwrap(), weight.to_dtype(DType::F32).unwrap());
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let ctx = Context::new();
            let (y, saved) = forward(&ctx, &x, &weight, window).unwrap();
            let grad = random(y.dims(), 3).to_dtype(DType::F32).unwrap();
            let g = backward(&ctx, &saved, &grad, true).unwrap();
            [y, g.x.unwrap(), g.weight].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        })
    };
    let one = run(1);
    for threads in [2, 5] {
        assert!(one == run(threads), "{threads} threads");
    }
}

#[test]
fn the_gradient_of_the_pictures_is_not_computed_unasked() {
    let (x, weight, window) = arguments(SHAPES[1]);
    let (y, saved) = forward(&Context::new(), &x, &weight, window).unwrap();
    assert!(backward(&Context::new(), &saved, &y, false).unwrap().x.is_none());
}

#[test]
fn wrong_arguments_are_named() {
    let ctx = Context::new();
    let window = Window { stride: 1, padding: 0 };
    let (x, weight) = (random(&[1, 4, 4, 3], 1), random(&[2, 5, 3, 3], 2));
    let message = |x: &Tensor, weight: &Tensor, window| forward(&ctx, x, weight, window).unwrap_err().to_string();
    assert!(message(&x, &weight, window).contains("weight has shape [2, 5, 3, 3], expected [c_out, 3, k_h, k_w]"));
    let small = random(&[1, 2, 2, 5], 1);
    assert!(message(&small, &weight, window).contains("x has shape [1, 2, 2, 5], expected a map of at least 3 x 3"));
    assert!(message(&small, &weight, Window { stride: 0, padding: 1 }).contains("stride is 0"));
    let none = random(&[0, small.dim(3).unwrap(), 3, 3], 2);
    assert!(message(&small, &none, Window { stride: 1, padding: 1 }).contains("at least one channel in and one out"));
    let strided = random(&[1, 5, 4, 4], 1).permute((0, 2, 3, 1)).unwrap();
    assert!(message(&strided, &weight, window).contains("expected contiguous elements"));
    let bytes = Tensor::zeros((1, 4, 4, 5), DType::U8, &Device::Cpu).unwrap();
    assert!(message(&bytes, &weight, window).contains("x has elements of type U8, expected f32, f64 or bf16"));
    let halves = random(&[1, 4, 4, 5], 1).to_dtype(DType::F32).unwrap();
    assert!(message(&halves, &weight, window).contains("weight has elements of type F64, expected f32"));
}
