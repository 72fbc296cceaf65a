//! The functions inside feed-forward blocks, in f64.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, FRAC_2_SQRT_PI};

/// The function inside the feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU by tanh: `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// GELU by the error function: `x/2 (1 + erf(x / sqrt 2))`.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
}

impl Act {
    /// The function's value.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            Act::Silu => x / (1.0 + (-x).exp()),
            Act::GeluTanh => 0.5 * x * (1.0 + (FRAC_2_PI.sqrt() * (x + 0.044_715 * x * x * x)).tanh()),
            Act::GeluErf => 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)),
            Act::Relu => x.max(0.0),
        }
    }
}

/// Beyond this, erf is 1 in f64 (1 - erf(6) = 2.2e-17).
const ERF_ONE: f64 = 6.0;

/// `erf(x) = 2/sqrt(pi) e^(-x^2) sum_n 2^n x^(2n+1) / (1 3 5 .. (2n+1))`: terms of one sign, so nothing cancels
/// (Abramowitz and Stegun 7.1.6).
fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() >= ERF_ONE {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
        if term.abs() <= f64::EPSILON * 0.25 * sum.abs() {
            break;
        }
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Abramowitz and Stegun, table 7.1, and of mpmath beyond it.
    #[test]
    fn erf_equals_the_printed_table() {
        for (x, wanted) in [
            (0.0, 0.0),
            (0.1, 0.112_462_916_018_284_89),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (3.5, 0.999_999_256_901_627_6),
            (5.9, 1.0),
            (40.0, 1.0),
        ] {
            assert!((erf(x) - wanted).abs() < 2e-15, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert!(erf(f64::NAN).is_nan());
    }
}
