//! The router of a mixture of experts (docs/spec/arithmetic.md, section 7): which experts a token uses, and
//! with which weights. A weight becomes the factor rho of the quantisation in front of the expert's down
//! projection, so it costs nothing and rounds once.

use super::{RangeError, scale};
use alloc::vec::Vec;
use lockstep_base::config::Experts;

/// One expert of a token, with weight `rho 2^-kk`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Number of the expert.
    pub expert: u32,
    /// Mantissa of its weight, in [2^13, 2^14).
    pub rho: i32,
    /// Shift of its weight.
    pub kk: u32,
}

/// The experts of a token by its router's `logits`, octaves in `frac` fractional bits: the largest
/// first, lowest number on ties; those whose weight is zero are left out.
///
/// # Errors
/// [`RangeError`] if logits are so coarse that Q8 octaves leave the range.
pub fn route(logits: &[i32], frac: i32, experts: &Experts, exp2: &[u16]) -> Result<Vec<Choice>, RangeError> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by_key(|expert| (core::cmp::Reverse(logits[*expert as usize]), *expert));
    let chosen = &order[..order.len().min(experts.per_token as usize)];
    let Some(first) = order.first() else { return Ok(Vec::new()) };
    let most = logits[*first as usize];
    let part = |expert: u32| -> Result<u64, RangeError> {
        let below = i64::from(most) - i64::from(logits[expert as usize]);
        let d = scale(below.min(1 << 29) as i32, frac - 8, "router logit")?;
        Ok(exp2[d.clamp(0, 4095) as usize].into())
    };
    let counted = if experts.normalise { chosen } else { &order };
    let mut z = 0;
    for expert in counted {
        z += part(*expert)?;
    }
    let mut choices = Vec::with_capacity(chosen.len());
    for expert in chosen {
        let p = part(*expert)?;
        if p == 0 {
            continue;
        }
        // p <= Z < 2^25 and p >= 1, so at most 2^38 is multiplied by less than 2^16.
        let mut kk = 0;
        while (p << kk) / z < 1 << 13 {
            kk += 1;
        }
        // Alone in its row an expert has weight one, which is 2^13 2^-13.
        choices.push(Choice { expert: *expert, rho: ((p << kk) / z) as i32, kk });
    }
    Ok(choices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_base::rng::SplitMix64;

    fn exp2() -> Vec<u16> {
        let mut power = 1u64 << 32;
        let mut table = Vec::new();
        for _ in 0..4095 {
            table.push((power >> 17) as u16);
            power = (power * 4_283_353_744) >> 32;
        }
        table.push(0);
        table
    }

    /// Section 7: rho is the unique integer of its inequality, weights of the chosen sum to one where they are
    /// normalised and to less where not, and ties go to the lower number.
    #[test]
    fn weights_are_parts_of_the_sum() {
        let table = exp2();
        for seed in 0..50 {
            let mut rng = SplitMix64::new(seed);
            let count = 2 + rng.below(30) as u32;
            let logits: Vec<i32> = (0..count).map(|_| rng.below(4096) as i32 - 2048).collect();
            for normalise in [true, false] {
                let experts = Experts { count, per_token: 1 + count / 3, normalise };
                let choices = route(&logits, 9, &experts, &table).expect("in range");
                assert_eq!(choices.len(), experts.per_token as usize);
                let sum: u64 = choices.iter().map(|c| ((c.rho as u64) << 40) >> c.kk).sum();
                let one = 1u64 << 40;
                assert!(sum <= one && (!normalise || sum > one - (one >> 9)), "seed {seed}: {sum}");
                assert!(choices.iter().all(|c| (1 << 13..1 << 14).contains(&c.rho)));
                for pair in choices.windows(2) {
                    let key = |c: &Choice| (core::cmp::Reverse(logits[c.expert as usize]), c.expert);
                    assert!(key(&pair[0]) < key(&pair[1]), "seed {seed}");
                }
            }
        }
        let experts = Experts { count: 4, per_token: 2, normalise: true };
        let tie = route(&[5, 5, 5, 5], 8, &experts, &table).expect("in range");
        assert_eq!(
            tie.iter().map(|c| (c.expert, c.rho, c.kk)).collect::<Vec<_>>(),
            [(0, 8192, 14), (1, 8192, 14)]
        );
        let far = route(&[0, 1 << 20, 0, 0], 8, &experts, &table).expect("in range");
        assert_eq!(far, [Choice { expert: 1, rho: 8192, kk: 13 }], "an expert without weight is not run");
    }
}
