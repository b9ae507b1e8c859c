use super::*;
use crate::random::stream;

fn numbers<T: Element>(seed: u64, len: usize) -> Vec<T> {
    let mut s = stream(seed, [0; 3]);
    (0..len).map(|_| crate::element::narrow(s.normal())).collect()
}

/// The definition, and the sum of the magnitudes of its terms.
fn naive(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<(f64, f64)> {
    let terms = |i: usize, j: usize| (0..k).map(move |l| a[i * k + l] * b[l * n + j]);
    let cell = |c: usize| (terms(c / n, c % n).sum(), terms(c / n, c % n).map(f64::abs).sum());
    (0..m * n).map(cell).collect()
}

/// Every product of the two factors, as they are and turned, on one thread and on all.
fn every_product<T: Element>(instructions: Instructions, a: &[T], b: &[T], [m, k, n]: [usize; 3]) -> Vec<Vec<T>> {
    let turned = |x: &[T], rows: usize, cols: usize| -> Vec<T> {
        (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
    };
    let (a_t, b_t) = (turned(a, m, k), turned(b, k, n));
    let lefts = [Matrix::new(a, m, k), Matrix::new(&a_t, k, m).t()];
    let rights = [Matrix::new(b, k, n), Matrix::new(&b_t, n, k).t()];
    let mut products = Vec::new();
    for left in lefts {
        for right in rights {
            for parallel in [false, true] {
                let mut out = vec![T::nan(); m * n];
                product(instructions, &mut MatrixMut::new(&mut out, m, n), left, right, false, parallel);
                products.push(out);
            }
        }
    }
    products
}

fn check_every_form<T: Element>(shape: [usize; 3], unit: f64) {
    let [m, k, n] = shape;
    let (a, b) = (numbers::<T>(1, m * k), numbers::<T>(2, k * n));
    let widened = |x: &[T]| -> Vec<f64> { x.iter().map(|&x| crate::element::wide(x)).collect() };
    let want = naive(&widened(&a), &widened(&b), m, k, n);
    for instructions in Instructions::available() {
        let products = every_product(instructions, &a, &b, shape);
        for got in &products {
            assert!(got == &products[0], "{instructions} {shape:?}: the bits depend on how the factors lie");
        }
        for (&got, &(want, size)) in products[0].iter().zip(&want) {
            let error = (crate::element::wide(got) - want).abs();
            assert!(error <= unit * (k as f64 + 1.0) * size, "{instructions} {shape:?}: {got} is not {want}");
        }
    }
}

#[test]
fn every_form_is_the_definition_on_odd_shapes() {
    let odd = [(1, 1, 1), (1, 33, 31), (31, 1, 33), (33, 31, 1), (64, 600, 70), (3, 0, 2), (0, 3, 2), (2, 3, 0)];
    // Every number of rows and columns of a tile, and sums that are cut into pieces.
    let tiles = (1..=13).map(|m| (m, 7, 3 * m)).chain([(12, 5, 32), (25, 1600, 33), (200, 769, 65)]);
    for (m, k, n) in odd.into_iter().chain(tiles) {
        check_every_form::<f32>([m, k, n], f64::from(f32::EPSILON));
        check_every_form::<f64>([m, k, n], f64::EPSILON);
    }
}

#[test]
fn the_forms_with_fused_rounding_give_the_same_bits() {
    let shape = [37, 1000, 45];
    let (a, b) = (numbers::<f32>(1, 37 * 1000), numbers::<f32>(2, 1000 * 45));
    let fused: Vec<_> = Instructions::available().filter(|&i| i != Instructions::Portable).collect();
    for &instructions in fused.iter().skip(1) {
        let [first, other] = [fused[0], instructions].map(|i| every_product(i, &a, &b, shape).remove(0));
        assert!(first == other, "{} and {instructions}", fused[0]);
    }
}

#[test]
fn agrees_with_the_library() {
    let (m, k, n) = (150, 900, 130);
    let (a, b) = (numbers::<f32>(1, m * k), numbers::<f32>(2, k * n));
    let mut want = vec![0f32; m * n];
    // SAFETY: the three slices hold as many elements as shapes and strides reach.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            want.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            k as isize,
            b.as_ptr(),
            1,
            n as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    for instructions in Instructions::available() {
        for (got, want) in every_product(instructions, &a, &b, [m, k, n])[0].iter().zip(&want) {
            assert!((got - want).abs() < 1e-4, "{instructions}: {got} is not {want}");
        }
    }
}

#[test]
fn accumulates_and_keeps_what_is_beside_it() {
    let (m, k, n, stride) = (14, 800, 35, 40);
    let (a, b) = (numbers::<f64>(1, m * k), numbers::<f64>(2, k * n));
    let want = naive(&a, &b, m, k, n);
    for instructions in Instructions::available() {
        let mut wide = vec![9.0; m * stride];
        let out = &mut MatrixMut::with_row_stride(&mut wide, m, n, stride);
        product(instructions, out, Matrix::new(&a, m, k), Matrix::new(&b, k, n), true, true);
        for (i, &got) in wide.iter().enumerate() {
            let (row, col) = (i / stride, i % stride);
            let expected = if col < n { 9.0 + want[row * n + col].0 } else { 9.0 };
            assert!((got - expected).abs() < 1e-10, "{instructions}: ({row}, {col}) is {got}, expected {expected}");
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let (m, k, n) = (301, 1200, 130);
    let (a, b) = (numbers::<f32>(1, m * k), numbers::<f32>(2, k * n));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut out = vec![0f32; m * n];
            let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            product(Instructions::best(), &mut MatrixMut::new(&mut out, m, n), a, b, false, true);
            out
        })
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert_eq!(one, run(threads), "{threads} threads");
    }
}

#[test]
fn all_of_memory_that_was_not_written_is_written() {
    for (m, k, n) in [(1, 1, 1), (33, 31, 7), (3, 0, 2)] {
        let (a, b) = (numbers::<f64>(1, m * k), numbers::<f64>(2, k * n));
        // SAFETY: the product writes every element of its output.
        let got = unsafe {
            crate::storage::written(m * n, |out| {
                let out = &mut MatrixMut::uninitialised(out, m, n);
                product(Instructions::best(), out, Matrix::new(&a, m, k), Matrix::new(&b, k, n), false, true);
            })
        };
        for (g, (w, _)) in got.iter().zip(naive(&a, &b, m, k, n)) {
            assert!((g - w).abs() < 1e-12 * (k as f64 + 1.0), "{m} {k} {n}: {g} {w}");
        }
    }
}

#[test]
#[should_panic(expected = "nothing to add to")]
fn what_was_not_written_cannot_be_added_to() {
    let mut memory = [MaybeUninit::<f32>::uninit(); 1];
    let out = &mut MatrixMut::uninitialised(&mut memory, 1, 1);
    let (a, b) = (Matrix::new(&[1.0], 1, 1), Matrix::new(&[1.0], 1, 1));
    product(Instructions::best(), out, a, b, true, true);
}

#[test]
#[should_panic(expected = "is more than 5")]
fn a_short_slice_is_refused() {
    Matrix::new(&[0f32; 5], 2, 3);
}
