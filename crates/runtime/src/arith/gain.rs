//! Norms with gains (docs/spec/arithmetic.md, section 3): RMS norm or layer norm whose result is needed
//! element by element, because a rotation, an addition or another norm follows and nothing can absorb the gains.
//!
//! ```text
//! y_i = g_i 2^-t_i * x_i / rms(x) + offset_i        layer norm: x - mean(x) in place of x
//! ```

use super::{
    Extent, LIMIT, RangeError, bit_length, inverse_rms, regularised, scale, sum_of_squares, within, x16,
};
use alloc::borrow::Cow;
use lockstep_base::weights::Gain;

/// Bits of the largest normalised value, sqrt(n): what remains are its fractional bits.
pub const NORMALISED_BITS: u32 = 17;

/// The norm of `x` with the gains of `gain`, into `y`; both have as many values as there are gains.
///
/// # Errors
/// [`RangeError`] if a value leaves [`LIMIT`], before or after its offset.
///
/// # Panics
/// If lengths differ or are 0.
pub fn gain_norm(x: &[i32], gain: &Gain, y: &mut [i32]) -> Result<(), RangeError> {
    let n = x.len();
    assert!(n > 0 && n == gain.mantissas.len() && n == gain.shifts.len() && n == y.len(), "{n} values");
    let (x, eps) = if gain.centred { centred(x, gain.eps) } else { (Cow::Borrowed(x), gain.eps) };
    let e = Extent::of(&x).shift16();
    let (es, sum) = sum_of_squares(&x, e);
    let (rho, kk) = inverse_rms(regularised(sum, es, eps), n as u32);
    let frac = normalised_frac(n);
    let shift = kk as i32 + es - e - frac;
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        let u = scale(x16(*x, e).wrapping_mul(rho), shift, "normalised value")?;
        let scaled = u.wrapping_mul(gain.mantissas[i].into());
        let to = i32::from(gain.shifts[i]) + frac - i32::from(gain.out_frac);
        let product = scale(scaled, to, "norm with gains")?;
        let sum = i64::from(product) + i64::from(gain.offsets.get(i).copied().unwrap_or(0));
        within(sum.abs(), LIMIT.into(), "norm with gains")?;
        *y = sum as i32;
    }
    Ok(())
}

/// F_u: fractional bits of a normalised value, whose magnitude is at most sqrt(n).
fn normalised_frac(n: usize) -> i32 {
    (NORMALISED_BITS - bit_length(n as u32 - 1).div_ceil(2)) as i32
}

/// `n x16_i - sum x16`, at most `(n - 1) (2^16 - 1)`, hence below 2^29 for n <= 8,192; and epsilon in its units.
fn centred(x: &[i32], eps: u64) -> (Cow<'_, [i32]>, u64) {
    let e = Extent::of(x).shift16();
    let n = x.len() as i32;
    let sum = x.iter().map(|v| x16(*v, e)).fold(0, i32::wrapping_add);
    let centred = x.iter().map(|v| x16(*v, e).wrapping_mul(n).wrapping_sub(sum)).collect();
    // 64 bits and twice 14, and twice 15 where small values are scaled up.
    let (eps, bits) = (u128::from(eps) * (n as u128).pow(2), 2 * e.unsigned_abs());
    let eps = if e < 0 { eps << bits } else { eps >> bits };
    (Cow::Owned(centred), u64::try_from(eps).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use lockstep_base::rng::SplitMix64;

    fn gain(n: usize, mantissa: i16, centred: bool) -> Gain {
        Gain {
            mantissas: vec![mantissa; n],
            shifts: vec![10; n],
            offsets: if centred { vec![7; n] } else { Vec::new() },
            eps: 0,
            out_frac: 12,
            centred,
        }
    }

    /// Section 3: with gains of one, squares of the outputs sum to n, and a layer norm's to n around its offset,
    /// whatever the size of the inputs.
    #[test]
    fn outputs_have_unit_root_mean_square() {
        for (seed, n) in [(1, 2usize), (2, 7), (3, 64), (4, 384), (5, 2_304), (6, 8_192)] {
            for bits in [6, 14, 20, 29] {
                for centred in [false, true] {
                    let mut rng = SplitMix64::new(seed);
                    let half = 1i64 << (bits - 1);
                    let x: Vec<i32> = (0..n)
                        .map(|_| (rng.below(2 * half as u64 - 1) as i64 - half + 1 + half / 4) as i32)
                        .map(|v| v.clamp(-(1 << 29) + 1, (1 << 29) - 1))
                        .collect();
                    let mut y = vec![0; n];
                    gain_norm(&x, &gain(n, 1024, centred), &mut y).expect("in range");
                    let offset = if centred { 7 } else { 0 };
                    let squares: i64 = y.iter().map(|y| i64::from(y - offset).pow(2)).sum();
                    let expected = (n as i64) << 24;
                    let error = (squares - expected).abs();
                    assert!(
                        error < expected / 100,
                        "seed {seed} n {n} bits {bits} centred {centred}: {squares} of {expected}"
                    );
                }
            }
        }
    }

    /// Section 3: zero stays zero with an epsilon, and the largest value of all meets no wrapping product.
    #[test]
    fn extremes_are_in_range_or_named() {
        let n = 8_192;
        let mut y = vec![0; n];
        gain_norm(&vec![0; n], &gain(n, 2047, true), &mut y).expect("zero");
        assert!(y.iter().all(|y| *y == 7));
        let mut x = vec![-((1 << 29) - 1); n];
        x[0] = (1 << 29) - 1;
        gain_norm(&x, &gain(n, 2047, true), &mut y).expect("one value against all others");
        let root = (8_191u64 << 24).isqrt() as i32;
        assert!((y[0] - 7).abs_diff(root / 1024 * 2047) < 4096);
        let steep = Gain { out_frac: 24, shifts: vec![-10; n], ..gain(n, 2047, false) };
        let error = gain_norm(&x, &steep, &mut y).expect_err("far beyond the limit");
        assert_eq!((error.what, error.limit), ("norm with gains", LIMIT.into()));
    }
}
