//! Every form of the loss against PyTorch, against each other, and against finite differences.

#[path = "../../../tests/golden/fixture.rs"]
mod fixture;
#[path = "../../../tests/golden/loss.rs"]
mod golden;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use fixture::numbers;
use golden::{Golden, value_and_gradients};
use simclr_dist::{ProcessGroup, threads};
use simclr_loss::*;
use simclr_ops::random::stream;

const FORMS: [(&str, golden::Loss); 3] =
    [("naive", simclr_loss_naive), ("vectorized", simclr_loss_vectorized), ("nt_xent", nt_xent)];

fn random(dims: &[usize], seed: u64) -> Tensor {
    let mut s = stream(seed, [11; 3]);
    let numbers: Vec<f64> = (0..dims.iter().product()).map(|_| s.normal()).collect();
    Tensor::from_vec(numbers, dims, &Device::Cpu).unwrap()
}

fn assert_close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "{what}: number {i} is {g}, expected {w}");
    }
}

#[test]
fn values_and_gradients_are_pytorch_s() {
    let golden = Golden::load();
    assert_eq!(golden.cases().count(), 7);
    for case in golden.cases() {
        let (left, right, tau) = (case.get("left"), case.get("right"), case.tau());
        let (loss, want) = case.wanted();
        for (name, form) in FORMS {
            let (value, gradients) = value_and_gradients(form, left, right, tau);
            assert_close(&[value], &[loss], 1e-10, &format!("{name}, case {}", case.i));
            assert_close(&gradients, &want, 1e-10, &format!("gradient of {name}, case {}", case.i));
            if tau >= 0.1 {
                let narrow = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
                let (value, _) = value_and_gradients(form, &narrow(left), &narrow(right), tau);
                assert!((value - loss).abs() <= 1e-6 * loss.abs(), "{name} in f32, case {}: {value} {loss}", case.i);
            }
        }
    }
}

#[test]
fn similarities_are_pytorch_s() {
    for case in Golden::load().cases() {
        let (left, right) = (case.get("left"), case.get("right"));
        let matrix = compute_sim_matrix(&Tensor::cat(&[left, right], 0).unwrap()).unwrap();
        assert_eq!(matrix.dims(), case.get("sim_matrix").dims());
        assert_close(&numbers(&matrix), &numbers(case.get("sim_matrix")), 1e-14, "matrix");
        let positives = sim_positive_pairs(left, right).unwrap();
        assert_eq!(positives.dims(), [left.dim(0).unwrap(), 1]);
        assert_close(&numbers(&positives), &numbers(case.get("positives")), 1e-14, "positives");
        let one = sim(&left.get(0).unwrap(), &right.narrow(0, 0, 1).unwrap()).unwrap();
        assert_eq!(one.dims(), [] as [usize; 0]);
        assert_close(&numbers(&one), &numbers(&positives)[..1], 1e-14, "sim");
    }
}

#[test]
fn all_forms_are_one_function() {
    for (n, d) in [(1, 1), (1, 5), (2, 128), (3, 5), (31, 1), (33, 5), (31, 128)] {
        let (left, right) = (random(&[n, d], 1), random(&[n, d], 2));
        let want = value_and_gradients(simclr_loss_vectorized, &left, &right, 0.3);
        for (name, form) in FORMS {
            // The naive form is a graph of (2n)² small tensors: small sizes say as much.
            if name == "naive" && n > 3 {
                continue;
            }
            let (value, gradients) = value_and_gradients(form, &left, &right, 0.3);
            assert_close(&[value], &[want.0], 1e-12, &format!("{name} {n} {d}"));
            assert_close(&gradients, &want.1, 1e-12, &format!("gradient of {name} {n} {d}"));
        }
    }
}

#[test]
fn tiles_join_without_a_seam() {
    // 2n just below, at and above one tile of columns, and several tiles of both.
    for n in [1, 2, 64, 65, 255, 256, 257, 600, 1100] {
        let (left, right) = (random(&[n, 3], 1), random(&[n, 3], 2));
        let want = value_and_gradients(simclr_loss_vectorized, &left, &right, 0.2);
        let got = value_and_gradients(nt_xent, &left, &right, 0.2);
        assert_close(&[got.0], &[want.0], 1e-12, "value");
        assert_close(&got.1, &want.1, 1e-12, "gradient");
        // f32 has a form of its own, down to a temperature of 0.05.
        let [left, right] = [&left, &right].map(|t| t.to_dtype(DType::F32).unwrap());
        for (tau, tolerance) in [(0.2, 1e-6), (0.05, 4e-6), (0.04, 4e-6)] {
            let wide = [&left, &right].map(|t| t.to_dtype(DType::F64).unwrap());
            let want = value_and_gradients(simclr_loss_vectorized, &wide[0], &wide[1], tau);
            let got = value_and_gradients(nt_xent, &left, &right, tau);
            assert!(
                (got.0 - want.0).abs() <= tolerance * want.0 + 1e-12,
                "n {n}, tau {tau}: {} is not {}",
                got.0,
                want.0
            );
            let largest = want.1.iter().fold(0.0, |most: f64, g| most.max(g.abs()));
            for (got, want) in got.1.iter().zip(&want.1) {
                assert!(
                    (got - want).abs() <= 10.0 * tolerance * largest + 1e-12,
                    "n {n}, tau {tau}: {got} is not {want}"
                );
            }
        }
    }
}

#[test]
fn gradients_by_finite_differences() {
    for (name, form) in FORMS {
        let (left, right) = (random(&[3, 4], 1), random(&[3, 4], 2));
        let (_, gradients) = value_and_gradients(form, &left, &right, 0.5);
        let all = [numbers(&left), numbers(&right)].concat();
        let at = |i: usize, by: f64| {
            let mut moved = all.clone();
            moved[i] += by;
            let tensor = |numbers: &[f64]| Tensor::from_slice(numbers, (3, 4), &Device::Cpu).unwrap();
            numbers(&form(&tensor(&moved[..12]), &tensor(&moved[12..]), 0.5).unwrap())[0]
        };
        let slopes: Vec<f64> = (0..all.len()).map(|i| (at(i, 1e-5) - at(i, -1e-5)) / 2e-5).collect();
        assert_close(&gradients, &slopes, 1e-9, name);
    }
}

#[test]
fn a_low_temperature_does_not_overflow() {
    let (left, right) = (random(&[6, 8], 1), random(&[6, 8], 2));
    let narrow = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    for (name, form) in FORMS {
        // exp(1 / 0.01) is beyond f32, and opposite vectors would underflow around any fixed centre.
        let (want, _) = value_and_gradients(form, &left, &right, 0.01);
        let (value, gradients) = value_and_gradients(form, &narrow(&left), &narrow(&right), 0.01);
        assert!((value - want).abs() < 1e-4 * want, "{name}: {value} {want}");
        assert!(gradients.iter().all(|g| g.is_finite()), "{name}");
        let opposite = Tensor::new(&[[1f32, 0.0]], &Device::Cpu).unwrap();
        let (value, _) = value_and_gradients(form, &opposite, &opposite.neg().unwrap(), 0.01);
        assert_eq!(value, 0.0, "{name}: one pair has no negatives");
    }
}

#[test]
fn a_zero_row_has_similarity_zero_and_no_gradient() {
    let mut rows = numbers(&random(&[4, 3], 1));
    rows[3..6].fill(0.0);
    let left = Tensor::from_vec(rows, (4, 3), &Device::Cpu).unwrap();
    let right = random(&[4, 3], 2);
    assert_eq!(numbers(&sim(&left.get(1).unwrap(), &right.get(1).unwrap()).unwrap()), [0.0]);
    assert_eq!(numbers(&sim_positive_pairs(&left, &right).unwrap())[1], 0.0);
    assert!(numbers(&compute_sim_matrix(&left).unwrap())[4..8].iter().all(|&s| s == 0.0));
    let want = value_and_gradients(simclr_loss_vectorized, &left, &right, 0.5);
    for (name, form) in FORMS {
        let (value, gradients) = value_and_gradients(form, &left, &right, 0.5);
        assert_close(&[value], &[want.0], 1e-12, name);
        assert_eq!(gradients[3..6], [0.0; 3], "{name}");
        assert!(gradients.iter().all(|g| g.is_finite()), "{name}");
        assert!(gradients.iter().filter(|&&g| g != 0.0).count() >= 18, "{name}: the others learn");
    }
}

#[test]
fn a_broken_network_shows_as_nan() {
    let left = Tensor::new(&[[f32::NAN, 1.0], [1.0, 0.0]], &Device::Cpu).unwrap();
    let right = Tensor::new(&[[1f32, 1.0], [1.0, 0.0]], &Device::Cpu).unwrap();
    for (name, form) in FORMS {
        assert!(value_and_gradients(form, &left, &right, 0.5).0.is_nan(), "{name}");
    }
}

#[test]
fn strided_views_and_scaled_losses_are_differentiated_rightly() {
    let columns = random(&[5, 4], 1);
    let (left, right) = (columns.t().unwrap(), random(&[4, 5], 2));
    let var = Var::from_tensor(&columns).unwrap();
    let loss = |form: golden::Loss| (form(&var.t().unwrap(), &right, 0.5).unwrap() * 3.0).unwrap();
    let want = numbers(loss(simclr_loss_vectorized).backward().unwrap().get(&var).unwrap());
    assert_close(&numbers(loss(nt_xent).backward().unwrap().get(&var).unwrap()), &want, 1e-12, "strided");
    let contiguous = value_and_gradients(nt_xent, &left.contiguous().unwrap(), &right, 0.5).0;
    assert_close(&numbers(&loss(nt_xent)), &[3.0 * contiguous], 1e-12, "value");
}

#[test]
fn bits_do_not_depend_on_threads() {
    let narrow = |t: Tensor| t.to_dtype(DType::F32).unwrap();
    let (left, right) = (narrow(random(&[300, 17], 1)), narrow(random(&[300, 17], 2)));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| value_and_gradients(nt_xent, &left, &right, 0.5))
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}

#[test]
fn wrong_arguments_are_named() {
    let (a, b) = (random(&[3, 4], 1), random(&[2, 4], 2));
    for (_, form) in FORMS {
        let message = form(&a, &b, 0.5).unwrap_err().to_string();
        assert_eq!(message, "right has shape [2, 4], expected [3, 4], the shape of left");
        for tau in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let message = form(&a, &a, tau).unwrap_err().to_string();
            assert_eq!(message, format!("temperature is {tau}, expected a finite number above 0"));
        }
        let message = form(&a, &a.to_dtype(DType::F32).unwrap(), 0.5).unwrap_err().to_string();
        assert_eq!(message, "right has elements of type F32, expected F64 as left");
        let bytes = a.to_dtype(DType::U8).unwrap();
        let message = form(&bytes, &bytes, 0.5).unwrap_err().to_string();
        assert_eq!(message, "left has elements of type U8, expected F32 or F64");
        let empty = Tensor::zeros((0, 4), DType::F64, &Device::Cpu).unwrap();
        assert!(form(&empty, &empty, 0.5).unwrap_err().to_string().contains("[n, d] with n and d above 0"));
    }
    assert!(sim(&a, &a).unwrap_err().to_string().contains("z_i has shape [3, 4], expected [d] or [1, d]"));
    let short = sim(&random(&[3], 1), &random(&[4], 1)).unwrap_err().to_string();
    assert_eq!(short, "z_j has shape [4], expected 3 numbers as z_i");
}

/// Loss and gradients of the two views when `ranks` processes have equal parts of them.
fn over_ranks(ranks: usize, left: &Tensor, right: &Tensor, tau: f64) -> (f64, Vec<f64>) {
    let (n, d) = left.dims2().unwrap();
    let own = n / ranks;
    let run = |group: Arc<dyn ProcessGroup>| {
        let part = |t: &Tensor| Var::from_tensor(&t.narrow(0, group.rank() * own, own).unwrap()).unwrap();
        let (left, right) = (part(left), part(right));
        let loss = nt_xent_over(&left, &right, tau, &group).unwrap();
        let gradients = (&loss * 1.0).unwrap().backward().unwrap();
        (numbers(&loss)[0], numbers(gradients.get(&left).unwrap()), numbers(gradients.get(&right).unwrap()))
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let ranks: Vec<_> = threads(ranks).into_iter().map(|group| scope.spawn(|| run(group))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert!(all.iter().all(|(loss, ..)| loss.to_bits() == all[0].0.to_bits()), "one loss on all ranks, to the bit");
    let lefts = all.iter().flat_map(|(_, left, _)| left.clone());
    let gradients: Vec<f64> = lefts.chain(all.iter().flat_map(|(.., right)| right.clone())).collect();
    assert_eq!(gradients.len(), 2 * n * d);
    (all[0].0, gradients)
}

#[test]
fn ranks_have_the_loss_of_the_whole_batch() {
    // 300 rows a view: tiles that are full and tiles that are not; a temperature for each form in f32.
    for (n, tau, dtype, tolerance) in [
        (12, 0.5, DType::F64, 1e-13),
        (300, 0.02, DType::F64, 1e-12),
        (300, 0.5, DType::F32, 2e-6),
        (300, 0.02, DType::F32, 2e-4),
    ] {
        let [left, right] = [1, 2].map(|seed| random(&[n, 16], seed).to_dtype(dtype).unwrap());
        let (loss, gradients) = value_and_gradients(nt_xent, &left, &right, tau);
        let largest = gradients.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
        for ranks in [1, 2, 3, 4] {
            let (got, got_gradients) = over_ranks(ranks, &left, &right, tau);
            assert!((got - loss).abs() <= tolerance * loss, "{ranks} ranks, {n} {tau} {dtype:?}: {got} {loss}");
            let far = got_gradients.iter().zip(&gradients).fold(0.0, |m: f64, (g, w)| m.max((g - w).abs()));
            assert!(
                far <= tolerance * largest,
                "{ranks} ranks, {n} {tau} {dtype:?}: gradients off by {far} of {largest}"
            );
        }
        // The parts of four ranks are cut as those of two: the same sums.
        if n == 300 && dtype == DType::F32 && tau == 0.5 {
            assert!(over_ranks(2, &left, &right, tau).0 == over_ranks(4, &left, &right, tau).0);
        }
    }
}

#[test]
fn ranks_of_other_shapes_are_named() {
    let run = |group: Arc<dyn ProcessGroup>| {
        let views = random(&[3 + group.rank(), 4], 1);
        nt_xent_over(&views, &views, 0.5, &group).unwrap_err().to_string()
    };
    let messages = std::thread::scope(|scope| {
        let ranks: Vec<_> = threads(2).into_iter().map(|group| scope.spawn(|| run(group))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(messages[0], "left has shape [3, 4], expected 16 numbers, as another process has");
    assert_eq!(messages[1], "left has shape [4, 4], expected 12 numbers, as another process has");
}
