//! Choosing the next token in integers (docs/spec/arithmetic.md, section 8): a sampled token is
//! as checkable as a greedy one.

use crate::arith::{bit_length, rsh};
use alloc::vec::Vec;
use lockstep_base::params::{ONE_Q16, Parameters, TEMPERATURE_GREEDY_BELOW_Q16};

/// `round(2^30 log2 e)`.
const LOG2_E_Q30: u64 = 1_549_082_005;

/// Index of the largest logit, the lowest on ties.
#[must_use]
pub fn greedy(logits: &[i32]) -> u32 {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// Steps 1 and 2: the weight of every logit at `temperature_q16` (at least 64), with 24
/// fractional bits relative to the largest.
pub fn weights<'a>(
    logits: &'a [i32],
    frac: i32,
    temperature_q16: u32,
    exp2_sample: &'a [u32],
) -> impl Iterator<Item = u32> + 'a {
    let c = (LOG2_E_Q30 << 16) / u64::from(temperature_q16);
    let reduce = u64::BITS - c.leading_zeros() - 14;
    let beta = (c >> reduce) as i32;
    let bs = (22 + frac - reduce as i32).max(0) as u32;
    let cap = ((4096u64 << bs) / beta as u64 + 1) as i32;
    let e = bit_length(cap as u32).saturating_sub(15).min(bs);
    let largest = logits.iter().copied().max().unwrap_or(0);
    logits.iter().map(move |logit| {
        let distance = largest.wrapping_sub(*logit).clamp(0, cap);
        let x = rsh(rsh(distance, e) * beta, bs - e).min(4095);
        exp2_sample[x as usize]
    })
}

/// Step 3: the candidates that are kept, as (weight, token), in the order of their numbers.
#[must_use]
pub fn kept(logits: &[i32], frac: i32, parameters: &Parameters, exp2_sample: &[u32]) -> Vec<(u32, u32)> {
    let all: Vec<(u32, u32)> =
        weights(logits, frac, parameters.temperature_q16, exp2_sample).zip(0u32..).collect();
    let k = if parameters.top_k == 0 { all.len() } else { all.len().min(parameters.top_k as usize) };
    if k == all.len() && parameters.top_p_q16 >= ONE_Q16 {
        return all;
    }
    // Likeliest first: by the logits themselves, of which several have one weight.
    let order =
        |a: &(u32, u32), b: &(u32, u32)| logits[b.1 as usize].cmp(&logits[a.1 as usize]).then(a.1.cmp(&b.1));
    let mut kept = all;
    if k < kept.len() {
        kept.select_nth_unstable_by(k, order);
        kept.truncate(k);
    }
    if parameters.top_p_q16 < ONE_Q16 {
        kept.sort_unstable_by(order);
        let goal = mass(&kept) * u64::from(parameters.top_p_q16);
        let mut so_far = 0;
        let enough = kept.iter().position(|(weight, _)| {
            so_far += u64::from(*weight);
            so_far << 16 >= goal
        });
        kept.truncate(enough.map_or(kept.len(), |last| last + 1));
    }
    kept.sort_unstable_by_key(|(_, token)| *token);
    kept
}

/// Z: the sum of the weights of candidates.
#[must_use]
pub fn mass(candidates: &[(u32, u32)]) -> u64 {
    candidates.iter().map(|(weight, _)| u64::from(*weight)).sum()
}

/// The token for one draw (64 random bits).
#[must_use]
pub fn sample(logits: &[i32], frac: i32, parameters: &Parameters, draw: u64, exp2_sample: &[u32]) -> u32 {
    if parameters.temperature_q16 < TEMPERATURE_GREEDY_BELOW_Q16 {
        return greedy(logits);
    }
    let kept = kept(logits, frac, parameters, exp2_sample);
    let u = ((u128::from(draw) * u128::from(mass(&kept))) >> 64) as u64;
    let mut prefix = 0;
    for (weight, token) in &kept {
        prefix += u64::from(*weight);
        if prefix > u {
            return *token;
        }
    }
    unreachable!("u is below the sum of all weights, and the largest weight is not 0")
}

/// What log-probabilities are shown from: integers only, turned into floats by whoever shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// Fractional bits of the logits.
    pub frac: i8,
    /// The largest logit.
    pub largest: i32,
    /// Sum of all weights at temperature 1, 24 fractional bits.
    pub weight_sum: u64,
    /// Logit of the chosen token.
    pub chosen: i32,
    /// The most likely tokens and their logits, best first.
    pub top: Vec<(u32, i32)>,
}

/// The distribution around `token`, with `top` alternatives.
#[must_use]
pub fn distribution(logits: &[i32], frac: i32, token: u32, top: usize, exp2_sample: &[u32]) -> Distribution {
    let mut order: Vec<(u32, i32)> = Vec::new();
    if top > 0 {
        order = (0u32..).zip(logits.iter().copied()).collect();
        order.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        order.truncate(top);
    }
    Distribution {
        frac: frac as i8,
        largest: logits.iter().copied().max().unwrap_or(0),
        weight_sum: weights(logits, frac, ONE_Q16, exp2_sample).map(u64::from).sum(),
        chosen: logits.get(token as usize).copied().unwrap_or(0),
        top: order,
    }
}
