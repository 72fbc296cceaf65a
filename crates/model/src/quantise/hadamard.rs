//! Rotations by random signs and Hadamard matrices.
//!
//! A norm without gain does not see a rotation of the residual stream, so one can be folded into
//! everything that writes and reads it; afterwards no channel stands out and one step per token
//! loses little. `Q = (H_b / sqrt(b) in blocks) diag(signs)`, b = the largest power of two that
//! divides the width (QuaRot, Ashkboos et al. 2024). Run time never sees it.

use lockstep_base::rng::SplitMix64;

/// Unnormalised Walsh-Hadamard transform of every block of `block` (a power of two that divides
/// the length): `z_i = sum_j (-1)^popcount(i & j) x_j`.
pub fn hadamard_blocks(x: &mut [f64], block: usize) {
    for chunk in x.chunks_exact_mut(block) {
        let mut half = 1;
        while half < block {
            for start in (0..block).step_by(2 * half) {
                for i in start..start + half {
                    let (a, b) = (chunk[i], chunk[i + half]);
                    chunk[i] = a + b;
                    chunk[i + half] = a - b;
                }
            }
            half *= 2;
        }
    }
}

/// An orthogonal matrix that costs nothing to store.
#[derive(Clone, Debug)]
pub struct Rotation {
    signs: Vec<f64>,
    block: usize,
}

impl Rotation {
    /// A rotation of vectors of `width`, by the next bits of `rng`.
    #[must_use]
    pub fn random(width: usize, rng: &mut SplitMix64) -> Rotation {
        let signs = (0..width).map(|_| if rng.next_u64() >> 63 == 0 { 1.0 } else { -1.0 }).collect();
        Rotation { signs, block: 1 << width.trailing_zeros() }
    }

    /// The rotation that changes nothing.
    #[must_use]
    pub fn identity(width: usize) -> Rotation {
        Rotation { signs: vec![1.0; width], block: 1 }
    }

    /// `Q x`. A row of a matrix that *reads* rotated vectors becomes `Q row` too: `w . x = (Q w) . (Q x)`.
    pub fn apply(&self, x: &mut [f64]) {
        for (x, sign) in x.iter_mut().zip(&self.signs) {
            *x *= sign;
        }
        hadamard_blocks(x, self.block);
        let norm = 1.0 / (self.block as f64).sqrt();
        x.iter_mut().for_each(|x| *x *= norm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantise::linalg::dot;

    #[test]
    fn a_rotation_keeps_inner_products() {
        for width in [1, 2, 6, 64, 96, 172] {
            let rotation = Rotation::random(width, &mut SplitMix64::new(width as u64));
            let mut a: Vec<f64> = (0..width).map(|i| (i as f64 * 0.7).sin()).collect();
            let mut b: Vec<f64> = (0..width).map(|i| (i as f64 * 1.3).cos()).collect();
            let before = dot(&a, &b);
            rotation.apply(&mut a);
            rotation.apply(&mut b);
            assert!((dot(&a, &b) - before).abs() < 1e-10 * width as f64, "width {width}");
        }
    }

    #[test]
    fn the_transform_is_the_formula_of_the_specification() {
        let x: Vec<f64> = (0..16).map(|i| f64::from(i * i % 7 - 3)).collect();
        let mut z = x.clone();
        hadamard_blocks(&mut z, 8);
        for (i, z) in z.iter().enumerate() {
            let (block, row) = (i / 8, i % 8);
            let expected: f64 = (0..8)
                .map(|j| if (row & j).count_ones() % 2 == 0 { x[block * 8 + j] } else { -x[block * 8 + j] })
                .sum();
            assert_eq!(*z, expected);
        }
    }
}
