//! Gains that stay, on their grid: `g_i 2^-t_i` with 11 bits, exactly as `gain_norm` multiplies
//! (docs/spec/arithmetic.md, section 3.2), and what its outputs can reach.

use super::folded::FoldedNorm;
use super::formats::rms_error;
use crate::bundle::structure::GAIN_SHIFT_MAX;
use lockstep_base::weights::Gain;

/// Bits of a mantissa that is not zero.
const MANTISSA_BITS: i32 = 11;
/// Fractional bits of normalised values and bits of the largest: docs/spec/arithmetic.md, section 3.2, step 3.
const NORMALISED_BITS: u32 = 17;
/// What rounding down to 16 bits loses, relative to the largest value.
const FLOOR_16: f64 = 1.0 / 16_384.0;

/// A norm over inputs in `in_frac` fractional bits, with outputs in `out_frac`; the row whose gain is too large otherwise.
pub(super) fn gain(norm: &FoldedNorm, eps: f64, in_frac: u8, out_frac: i8) -> Result<Gain, usize> {
    let mut out = Gain {
        eps: (norm.gain.len() as f64 * eps * f64::from(2 * i32::from(in_frac)).exp2()).round() as u64,
        out_frac,
        centred: norm.offset.is_some(),
        ..Gain::default()
    };
    for (row, value) in norm.gain.iter().enumerate() {
        let (mantissa, shift) = on_grid(*value).ok_or(row)?;
        out.mantissas.push(mantissa);
        out.shifts.push(shift);
    }
    let unit = f64::from(out_frac).exp2();
    out.offsets = norm.offset.iter().flatten().map(|offset| (offset * unit).round() as i32).collect();
    Ok(out)
}

/// The nearest `m 2^-t`, |m| in [1024, 2047]; zero below the smallest, `None` above the largest.
fn on_grid(value: f64) -> Option<(i16, i8)> {
    let limit = GAIN_SHIFT_MAX as i32;
    let exponent = value.abs().log2().floor(); // -inf for zero
    if exponent < f64::from(MANTISSA_BITS - 1 - limit) {
        return Some((0, 0));
    }
    if exponent.is_nan() || exponent >= f64::from(MANTISSA_BITS - 2 + limit) {
        return None;
    }
    let mut shift = MANTISSA_BITS - 1 - exponent as i32;
    let mut mantissa = (value * f64::from(shift).exp2()).round();
    if mantissa.abs() >= f64::from(MANTISSA_BITS).exp2() {
        mantissa /= 2.0;
        shift -= 1;
    }
    Some((mantissa as i16, shift as i8))
}

fn value(gain: &Gain, row: usize) -> f64 {
    f64::from(gain.mantissas[row]) * (-f64::from(gain.shifts[row])).exp2()
}

fn largest(gain: &Gain) -> f64 {
    (0..gain.mantissas.len()).map(|row| value(gain, row).abs()).fold(0.0, f64::max)
}

/// Bound on the L2 norm, and on each value, of a normalised vector of width n as it is computed.
pub(super) fn normalised(n: usize) -> f64 {
    let root = (n as f64).sqrt();
    let width_bits = usize::BITS - n.saturating_sub(1).leading_zeros();
    let frac = NORMALISED_BITS - width_bits.div_ceil(2);
    root * rms_error(n) * (1.0 + root * FLOOR_16) + root * (-f64::from(frac + 1)).exp2()
}

/// The largest output, in units of the output format.
pub(super) fn reach(gain: &Gain) -> f64 {
    let unit = f64::from(gain.out_frac).exp2();
    let n = gain.mantissas.len();
    let offset = |row: usize| gain.offsets.get(row).map_or(0.0, |offset| f64::from(offset.unsigned_abs()));
    (0..n).map(|row| value(gain, row).abs() * normalised(n) * unit + offset(row)).fold(0.0, f64::max) + 1.0
}

/// Bound on the L2 norm of the outputs, in real units.
pub(super) fn norm_bound(gain: &Gain) -> f64 {
    let unit = (-f64::from(gain.out_frac)).exp2();
    let n = gain.mantissas.len();
    let offset = gain.offsets.iter().map(|offset| (f64::from(*offset) * unit).powi(2)).sum::<f64>().sqrt();
    largest(gain) * normalised(n) + offset + (n as f64).sqrt() * unit
}

/// The finest format of at most `frac_max` bits in which outputs stay within `limit`; the row whose gain is too large,
/// or that of the largest gain where no format does.
pub(super) fn fitting(
    norm: &FoldedNorm,
    eps: f64,
    in_frac: u8,
    frac_max: i8,
    limit: f64,
) -> Result<Gain, usize> {
    for frac in (0..=frac_max).rev() {
        let gain = gain(norm, eps, in_frac, frac)?;
        if reach(&gain) <= limit {
            return Ok(gain);
        }
    }
    let by_size = |a: &usize, b: &usize| norm.gain[*a].abs().total_cmp(&norm.gain[*b].abs());
    Err((0..norm.gain.len()).max_by(by_size).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_base::rng::SplitMix64;
    use lockstep_runtime::arith::gain_norm;

    /// Section 3.2: a gain is met within half a unit of 11 bits, its mantissa has 11 bits, zero stays zero.
    #[test]
    fn gains_are_met_within_eleven_bits() {
        for value in [1.0, -1.0, 0.1, 2047.4, 2047.6, -2e-9, 63.999, 1e9, 1.0009] {
            let (mantissa, shift) = on_grid(value).unwrap();
            assert!((1024..=2047).contains(&mantissa.abs()), "{value}: {mantissa}");
            let met = f64::from(mantissa) * (-f64::from(shift)).exp2();
            assert!((met - value).abs() <= value.abs() / 2048.0, "{value}: {met}");
        }
        assert_eq!((on_grid(0.0), on_grid(1e-30)), (Some((0, 0)), Some((0, 0))));
        assert_eq!((on_grid(1e20), on_grid(f64::NAN)), (None, None));
    }

    /// Section 9: no input, neither random nor one that stands alone, leaves what is said to be reached; one that stands
    /// alone comes close.
    #[test]
    fn outputs_stay_within_their_reach() {
        for (seed, n) in [(1u64, 2usize), (2, 6), (3, 64), (4, 128), (5, 384), (6, 2048)] {
            let mut rng = SplitMix64::new(seed);
            let mut uniform = |size: f64| size * ((rng.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0);
            for centred in [false, true] {
                let norm = FoldedNorm {
                    gain: (0..n).map(|_| uniform(3.0)).collect(),
                    offset: centred.then(|| (0..n).map(|_| uniform(2.0)).collect()),
                };
                let gain = fitting(&norm, 1e-6, 12, 24, 32_767.0).unwrap();
                let reach = reach(&gain);
                let mut most = 0;
                for kind in 0..40 {
                    let size = f64::from(4 + kind % 20).exp2();
                    let mut x: Vec<i32> = (0..n).map(|_| uniform(size) as i32).collect();
                    if kind % 2 == 0 {
                        x.fill(0);
                        x[kind as usize % n] = size as i32;
                    }
                    let mut y = vec![0; n];
                    gain_norm(&x, &gain, &mut y).unwrap();
                    most = y.iter().fold(most, |most, y| most.max(y.unsigned_abs()));
                    let l2 = y.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>().sqrt();
                    let unit = f64::from(gain.out_frac).exp2();
                    assert!(l2 <= norm_bound(&gain) * unit, "seed {seed} n {n}: norm {l2}");
                }
                assert!(f64::from(most) <= reach, "seed {seed} n {n}: {most} beyond {reach}");
            }
        }
    }
}
