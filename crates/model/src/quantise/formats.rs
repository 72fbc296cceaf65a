//! Fixed-point formats that are proved by Cauchy-Schwarz (docs/spec/arithmetic.md, section 9).
//!
//! What enters q, k, v, gate, up and head has L2 norm at most `sqrt(n) N`, so
//! `|y_i| <= sqrt(n) N L2(row_i) + |b_i|`, and F is the largest number of fractional bits, capped,
//! that keeps it below the bound of the format. No calibration is involved.

/// Bound of q, k, v, gate and a plain up projection.
pub(super) const BOUND_I16: f64 = 32_767.0;
/// Bound of a gated up projection.
pub(super) const BOUND_UP: f64 = 16_383.0;
/// Bound of logits.
pub(super) const BOUND_LOGITS: f64 = (1u64 << 29) as f64;
/// Codes reach at least this, so a step is at most the norm divided by it (arithmetic.md, section 2).
const CODE_REACH: f64 = 100.0;
/// Bits of t after the static shift s1.
const T_BITS: u32 = 22;

/// `sqrt(n) N`: bound on the L2 norm of normalised, quantised inputs of width n.
#[must_use]
pub(super) fn norm_bound(n: u32) -> f64 {
    let root = f64::from(n).sqrt();
    let c = root / 202.0;
    root * (1.0 + c + c * c).sqrt() * (1.0 + root / 128.0) * (1.0 + 1.0 / 4096.0)
}

/// s1 of a matrix whose rows have at most `l1` as sum of magnitudes: `max(0, bl(127 l1) - 22)`.
#[must_use]
pub(super) fn pre_shift(l1: u64) -> u8 {
    let bits = u64::BITS - (127 * l1).leading_zeros();
    bits.saturating_sub(T_BITS) as u8
}

/// What bounds one row's output: all of it in real units.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowBound {
    /// Largest magnitude of the exact output with its bias.
    pub(super) magnitude: f64,
    /// Largest error of the rounding of the accumulator.
    pub(super) rounding: f64,
}

impl RowBound {
    /// Of a row with scale `scale`, int8 norm `l2` and `bias`, in a matrix with shift `s1`.
    #[must_use]
    pub(super) fn new(n: u32, scale: f64, l2: f64, bias: f64, s1: u8) -> RowBound {
        let norm = norm_bound(n);
        let rounding = if s1 == 0 { 0.0 } else { f64::from(s1 - 1).exp2() * scale * norm / CODE_REACH };
        RowBound { magnitude: norm * scale * l2 + bias.abs(), rounding }
    }

    /// The largest magnitude in units of `frac` fractional bits, with both final roundings.
    #[must_use]
    pub(super) fn in_units(self, frac: i8) -> f64 {
        (self.magnitude + self.rounding) * f64::from(frac).exp2() + 1.0
    }
}

/// The most fractional bits in `0..=most` with which `bounds` stay within `limit`; negative if even 0 are too many.
#[must_use]
pub(super) fn fitting_frac(bounds: &[RowBound], limit: f64, most: i8) -> i8 {
    let fits = |frac: i8| bounds.iter().all(|bound| bound.in_units(frac) <= limit);
    (-64..=most).rev().find(|frac| fits(*frac)).unwrap_or(-64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section 9: after the shift, 217 t stays within the field.
    #[test]
    fn the_static_shift_keeps_products_in_the_field() {
        for l1 in [1u64, 33_025, 33_026, 1 << 20, 127 * 65_536] {
            let s1 = u32::from(pre_shift(l1));
            let t = if s1 == 0 { 127 * l1 } else { (127 * l1 + (1 << (s1 - 1))) >> s1 };
            assert!(t <= 1 << 22 && t * 217 <= 127 << 23, "l1 {l1}");
            assert!(s1 == 0 || (127 * l1) >> (s1 - 1) >= 1 << 22, "l1 {l1}: a smaller shift would do");
        }
    }
}
