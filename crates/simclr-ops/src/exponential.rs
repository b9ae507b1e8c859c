//! Exponentials of many numbers at once.

use crate::simd::simd;

/// Numbers per step of the loop below: a vector of the widest instruction set, or some of a narrower one.
const LANES: usize = 16;

/// Arguments below this give the exponential of it, the smallest normal number; NaN stays NaN.
const LOWEST: f32 = -87.336_54;
const HIGHEST: f32 = 88.0;

/// Replaces each `x` by `exp(scale · x + shift)` and returns the sum of all. Errors are below three units in the last place.
///
/// Range reduction and polynomial of Cephes' `expf` (S. Moshier), without branches.
pub fn exponentials(numbers: &mut [f32], scale: f32, shift: f32) -> f64 {
    let mut sums = [0f32; LANES];
    let mut rest = 0.0;
    simd(
        #[inline(always)]
        || {
            let (whole, tail) = numbers.as_chunks_mut::<LANES>();
            for numbers in whole {
                for (number, sum) in numbers.iter_mut().zip(&mut sums) {
                    *number = exponential(scale * *number + shift);
                    *sum += *number;
                }
            }
            for number in tail {
                *number = exponential(scale * *number + shift);
                rest += f64::from(*number);
            }
        },
    );
    sums.iter().map(|&sum| f64::from(sum)).sum::<f64>() + rest
}

#[inline(always)]
fn exponential(x: f32) -> f32 {
    /// Adding it rounds to a whole number: no digits are left behind the point.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < LOWEST { LOWEST } else { x };
    let x = if x > HIGHEST { HIGHEST } else { x };
    let power = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - power * LN_2_HIGH - power * LN_2_LOW;
    let polynomial =
        ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_5e-1) * r
            + 0.5;
    let mantissa = polynomial * r * r + r + 1.0;
    // SAFETY: `power` is a whole number from -126 to 127; of NaN, whose `mantissa` is NaN whatever it is multiplied with, the
    // conversion gives some number.
    let exponent = unsafe { (if power.is_nan() { 0.0 } else { power }).to_int_unchecked::<i32>() };
    mantissa * f32::from_bits(((exponent + 127) << 23) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_exact_to_three_units() {
        let mut worst = 0f64;
        for start in (-8_700..8_800).step_by(37) {
            let x: Vec<f32> = (0..37).map(|i| (start + i) as f32 * 0.01).collect();
            let mut got = x.clone();
            let sum = exponentials(&mut got, 1.0, 0.0);
            let mut want_sum = 0.0;
            for (&x, &got) in x.iter().zip(&got) {
                let want = f64::from(x.min(88.0)).exp();
                worst = worst.max((f64::from(got) - want).abs() / want);
                want_sum += want;
            }
            assert!((sum - want_sum).abs() < 1e-6 * want_sum);
        }
        assert!(worst < 3.0 * f64::from(f32::EPSILON) / 2.0, "{worst}");
    }

    #[test]
    fn scale_shift_and_the_ends_of_the_range() {
        let mut numbers = [1.0, -1e9, 1e9, f32::NAN, f32::NEG_INFINITY];
        let sum = exponentials(&mut numbers, 2.0, -1.0);
        assert!((numbers[0] - 1f32.exp()).abs() < 1e-6);
        assert!(numbers[1] > 0.0 && numbers[1] < 2e-38 && numbers[4] == numbers[1]);
        assert!(numbers[2] > 1e38 && numbers[2].is_finite());
        assert!(numbers[3].is_nan() && sum.is_nan());
    }
}
