//! Fixed-point formats that are proved by Cauchy-Schwarz (docs/spec/arithmetic.md, section 9).
//!
//! What enters q, k, v, gate, up, a router and the head has L2 norm at most N, so
//! `|y_i| <= N L2(row_i) + |b_i|`, and F is the largest number of fractional bits, capped, that keeps it below the bound
//! of the format. No calibration is involved. N, for vectors of width n (padded: p) and blocks of B that rotate online:
//!
//! ```text
//! norms in front     sqrt(n) rms(n) code(n)
//! on both sides      sqrt(n) rms(n) sqrt(B) (1 + sqrt(n) 2^-14) code(p)
//! behind             (max |gain| sqrt(n) rms(n) + L2(offset)) sqrt(B) (1 + sqrt(n) 2^-14) code(p)
//! rms(n)  = 1 + sqrt(n) / 2^b                    squares of b bits, the largest at least 2^(b-1)
//! code(n) = sqrt(1 + 1/234 + c + c^2) (1 + 2^-12),  c = sqrt(n)/234
//!                                                codes whose largest is above 119: half a step, and a 128th that x16
//!                                                lost, are at most 1/234 of it; reciprocals
//! ```

use super::gains;
use lockstep_base::config::{Block, ModelConfig};
use lockstep_base::limits::PRE_SHIFTED_BITS;
use lockstep_base::weights::{Gain, WeightFormat};

/// Bound of q, k, v, gate, a router and a plain up projection.
pub(super) const BOUND_I16: f64 = 32_767.0;
/// Bound of a gated up projection.
pub(super) const BOUND_UP: f64 = 16_383.0;
/// Bound of logits.
pub(super) const BOUND_LOGITS: f64 = ((1u64 << 28) - 1) as f64;
/// Codes reach at least this, so a step is at most the norm divided by it (arithmetic.md, section 2).
const CODE_REACH: f64 = 119.0;
/// Bits of the sum of squares of a norm.
const SQUARES_BITS: u32 = 29;
/// The largest value is at least this many errors of a code: half a step, and a unit of x16, a 128th of one.
const CODE_ERRORS: f64 = 234.0;
/// What rounding down to 16 bits loses, relative to the largest value.
const FLOOR_16: f64 = 1.0 / 16_384.0;

/// How much larger a normalised vector of width n is than sqrt(n): its root mean square is that of rounded values.
#[must_use]
pub(super) fn rms_error(n: usize) -> f64 {
    let width_bits = usize::BITS - n.saturating_sub(1).leading_zeros();
    let bits = (SQUARES_BITS - width_bits) / 2;
    1.0 + (n as f64).sqrt() / f64::from(bits).exp2()
}

/// How much larger than a vector of width n its codes are.
fn code_error(n: u32) -> f64 {
    let c = f64::from(n).sqrt() / CODE_ERRORS;
    (1.0 + 1.0 / CODE_ERRORS + c + c * c).sqrt() * (1.0 + 1.0 / 4096.0)
}

/// N: bound on the L2 norm of what readers of the residual stream multiply. `behind` is the norm that made the stream,
/// where norms stand behind blocks.
#[must_use]
pub(super) fn input_norm(config: &ModelConfig, behind: Option<&Gain>) -> f64 {
    let (n, root) = (config.d_model, f64::from(config.d_model).sqrt());
    let exact = match behind.filter(|_| config.block == Block::PostNorm) {
        Some(gain) => gains::norm_bound(gain),
        None => root * rms_error(n as usize),
    };
    if config.rotates_online() {
        let block = f64::from(config.stream_block());
        exact * block.sqrt() * (1.0 + root * FLOOR_16) * code_error(config.d_padded())
    } else {
        exact * code_error(n)
    }
}

/// s1 of a matrix whose rows have at most `l1` as sum of magnitudes: the smallest with `rsh(127 l1, s1) < 2^19`.
#[must_use]
pub(crate) fn pre_shift(l1: u64) -> u8 {
    let bits = u64::BITS - (127 * l1).leading_zeros();
    let s1 = bits.saturating_sub(PRE_SHIFTED_BITS);
    // What is rounded up may have one bit more.
    let rounded = (127 * l1 + ((1 << s1) >> 1)) >> s1;
    (s1 + u32::from(rounded >> PRE_SHIFTED_BITS != 0)) as u8
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
    /// Of a row with scale `scale`, norm `l2` (in units of the scale) and `bias`, over inputs of norm `norm`.
    #[must_use]
    pub(super) fn new(norm: f64, scale: f64, l2: f64, bias: f64, rounding_units: f64) -> RowBound {
        RowBound {
            magnitude: norm * scale * l2 + bias.abs(),
            rounding: rounding_units * scale * norm / CODE_REACH,
        }
    }

    /// The largest magnitude in units of `frac` fractional bits, with both final roundings.
    #[must_use]
    pub(super) fn in_units(self, frac: i8) -> f64 {
        (self.magnitude + self.rounding) * f64::from(frac).exp2() + 1.0
    }
}

/// Largest error of the static shift s1 (and of joining two planes) in units of the accumulator.
#[must_use]
pub(super) fn rounding_units(format: WeightFormat, s1: u8) -> f64 {
    match (s1, format) {
        (0, WeightFormat::Int16) => 1.0,
        (0, _) => 0.0,
        _ => f64::from(s1 - 1).exp2(),
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

    /// Section 9: after the shift, 961 t stays within the field.
    #[test]
    fn the_static_shift_keeps_products_in_the_field() {
        for l1 in [1u64, 4_128, 4_129, 8_256, 8_257, 66_052, 1 << 20, 127 * 65_024] {
            let s1 = u32::from(pre_shift(l1));
            let t = if s1 == 0 { 127 * l1 } else { (127 * l1 + (1 << (s1 - 1))) >> s1 };
            assert!(t < 1 << 19 && t * 961 < 1 << 29, "l1 {l1}");
            assert!(
                s1 == 0 || (127 * l1 + ((1 << (s1 - 1)) >> 1)) >> (s1 - 1) >= 1 << 19,
                "l1 {l1}: a smaller shift would do"
            );
        }
    }

    /// Section 9.2: the norm grows with the width, and costs less than 8 % up to 64 and 25 % up to 2,048.
    #[test]
    fn norms_of_inputs_stay_close_to_the_root_of_the_width() {
        let excess = |n: u32| {
            let config = ModelConfig { d_model: n, ..ModelConfig::decoder() };
            input_norm(&config, None) / f64::from(n).sqrt()
        };
        assert!(excess(64) < 1.04 && excess(2048) < 1.25, "{} {}", excess(64), excess(2048));
        assert!([8, 64, 288, 1024, 4096, 16_384].map(excess).is_sorted());
    }
}
