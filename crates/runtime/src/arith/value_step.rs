//! The step of a head's values in one byte (docs/spec/arithmetic.md, section 6, step 3): what the cache holds and
//! receipts commit to.
//!
//! ```text
//! byte = 16 (f + 7) + k - 16,   k in 16..=31, f in -7..=8 since 1 <= |v| <= 32,767
//! ```
//! A larger byte is a larger step.

use super::{Cut, Extent, RHO_ONE, Step, choose_cut};

/// Smallest exponent: that of a largest magnitude of 1.
const EXPONENT_MIN: i16 = -7;
/// Largest exponent: that of 32,767.
const EXPONENT_MAX: i16 = 8;
/// Mantissas of one exponent.
const MANTISSAS: u8 = 16;

/// The byte of a step; exponents that only a fault leaves count as the nearest.
#[must_use]
pub const fn value_step_byte(step: Step) -> u8 {
    let f = if step.f < EXPONENT_MIN {
        return 0;
    } else if step.f > EXPONENT_MAX {
        EXPONENT_MAX
    } else {
        step.f
    };
    MANTISSAS * (f - EXPONENT_MIN) as u8 + step.k % MANTISSAS
}

/// k of a byte.
#[inline(always)]
#[must_use]
pub const fn value_mantissa(byte: u8) -> i32 {
    (MANTISSAS + byte % MANTISSAS) as i32
}

/// f of a byte.
#[inline(always)]
#[must_use]
pub const fn value_exponent(byte: u8) -> i32 {
    (byte / MANTISSAS) as i32 + EXPONENT_MIN as i32
}

/// How the values of a head are cut to codes: section 2, in units of v.
#[must_use]
pub fn value_cut(extent: Extent) -> Cut {
    choose_cut(extent, RHO_ONE, -14)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section 6, step 3: every magnitude of v has a step whose byte means it, and steps grow with bytes.
    #[test]
    fn bytes_mean_the_steps_of_all_values() {
        for sign in [1, -1] {
            let mut before = 0;
            for magnitude in 1..=32_767 {
                let x = sign * magnitude;
                let step = value_cut(Extent::of(&[x])).step;
                let byte = value_step_byte(step);
                assert_eq!(
                    (value_mantissa(byte), value_exponent(byte)),
                    (step.k.into(), step.f.into()),
                    "{x}"
                );
                assert!(byte >= before, "{x}: {byte} after {before}");
                before = byte;
            }
        }
        assert_eq!(value_cut(Extent::of(&[-1])).step, Step { k: 17, f: -7 });
        assert_eq!(value_step_byte(value_cut(Extent::default()).step), 0);
        assert_eq!(value_step_byte(Step { k: 31, f: 100 }), 255);
    }
}
