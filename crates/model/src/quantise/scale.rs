//! Row scales on their grid: exactly `m 2^-s` with m in [16, 31], chosen *before* the weights are
//! rounded, so that a multiplier of five bits costs no accuracy (docs/spec/arithmetic.md, 4).

use lockstep_base::weights::Linear;

/// Smallest multiplier that the importer chooses.
const MULTIPLIER_MIN: i32 = 16;
/// Largest multiplier.
const MULTIPLIER_MAX: i32 = 31;
/// Largest shift of a row.
pub(super) const SHIFT_MAX: u8 = 60;

/// A row scale `m 2^-s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowScale {
    /// m.
    pub(super) multiplier: u8,
    /// s.
    pub(super) shift: u8,
}

impl RowScale {
    /// The smallest grid value that is at least `least`; `None` if it would exceed 31.
    #[must_use]
    pub(super) fn at_least(least: f64) -> Option<RowScale> {
        // Going down from the finest grid, the first m that fits is the smallest value.
        for shift in (0..=SHIFT_MAX).rev() {
            let multiplier = (least * f64::from(shift).exp2()).ceil();
            if multiplier <= f64::from(MULTIPLIER_MAX) {
                return Some(RowScale { multiplier: multiplier.max(f64::from(MULTIPLIER_MIN)) as u8, shift });
            }
        }
        None
    }

    /// The scale as a number.
    #[must_use]
    pub(super) fn value(self) -> f64 {
        f64::from(self.multiplier) * (-f64::from(self.shift)).exp2()
    }
}

/// The scale of a row of a packed layer.
#[must_use]
pub(super) fn value(linear: &Linear, row: usize) -> f64 {
    f64::from(linear.multipliers[row]) * (-f64::from(linear.shifts[row])).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_the_smallest_of_the_grid() {
        for least in [1e-12, 0.001, 0.03, 0.5, 1.0, 15.2, 30.9, 31.0] {
            let scale = RowScale::at_least(least).expect("in range");
            assert!(scale.value() >= least);
            assert!((16..=31).contains(&scale.multiplier));
            let below = f64::from(scale.multiplier - 1) * (-f64::from(scale.shift)).exp2();
            assert!(below < least, "{least}: {scale:?}");
        }
        assert_eq!(RowScale::at_least(31.01), None);
        assert_eq!(RowScale::at_least(0.0), Some(RowScale { multiplier: 16, shift: 60 }));
    }
}
