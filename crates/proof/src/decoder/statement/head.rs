//! The end of a model: which tokens it chooses.

use super::{Claim, LIMB_BITS, STREAM_MAX, Sampling, Statement};
use crate::circuit::{Bit, Linear, Marks, Public, View};
use crate::decoder::plan::logit_cap;
use crate::field::{ProofField, power_of_two, residue};
use crate::gadget::linear::{Layer, Part, Stream};
use crate::gadget::ranges::Width;
use crate::gadget::sample::{Draws, Sampler};
use crate::gadget::{Builder, whole};
use crate::integer::{bit_length, log2_ceil};
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::Digest;
use lockstep_base::config::Pooling;
use lockstep_base::params::{ONE_Q16, TEMPERATURE_GREEDY_BELOW_Q16, draw};
use lockstep_base::weights::ModelWeights;
use p3_field::PrimeCharacteristicRing;

/// Bits of the largest logit, with its sign: logits are below 2^28.
const LARGEST_BITS: u32 = 29;
/// Bits of the distance of a logit from the largest.
const DISTANCE_BITS: u32 = 29;
/// Bits of what sums of limbs of 1,023 rows carry, either way.
const CARRY_BITS: u32 = 13;

impl<'a, E: ProofField> Statement<'a, E> {
    /// The generated tokens are what is claimed of them.
    pub(super) fn head(
        &self,
        builder: &mut Builder<'a, E::Base>,
        head: &Layer<'a>,
        stream: Vec<Stream<E::Base>>,
    ) {
        let (tokens, generated) = (self.answer.tokens, self.answer.generated);
        let log = log2_ceil(generated);
        // Added rows repeat the last one.
        let at = |row: usize| tokens.len() - generated + row.min(generated - 1);
        let rows = 1usize << log;
        let one_hot = (0..rows).map(|row| at(row) as u32 - 1).collect();
        let picked = builder.circuit.public(Public::OneHot(Marks { at: one_hot, log: self.tokens }));
        // Nobody reads the others; that they are in range is part of the statement.
        let parts = &self.plan.stream;
        for (part, channels) in stream.iter().zip(parts).filter(|_| generated < self.positions()) {
            let (log, at_most) = (self.tokens + channels.log, part.owed.min(super::STREAM_MAX));
            builder.owed("unread", log, &part.x, at_most, i64::MAX);
        }
        let picked = |(stream, part): (Stream<E::Base>, &Part)| Stream {
            x: builder.pick((picked, log), (self.tokens, part.log), &stream.x),
            ..stream
        };
        let mut stream: Vec<_> = stream.into_iter().zip(parts).map(picked).collect();
        let codes = self.site(builder, log, &mut stream);
        let all = log + self.plan.vocab;
        // Whoever chooses shows how far each is from the largest, which is a range of all of them.
        let (mut logits, mut owed) = builder.linear_and_owed("logits", &codes, head);
        if let Some(cap) = logit_cap(self.answer.weights) {
            logits = builder.soft_cap("logit", all, (&logits, owed), cap);
            owed = i64::MAX;
        }
        match sampler(self.answer.weights, &self.answer.claim) {
            Some((sampler, seed)) => {
                let chosen: Vec<usize> = (0..rows).map(|row| tokens[at(row)] as usize).collect();
                let words: Vec<u64> = (0..rows).map(|row| draw(&seed, at(row) as u32)).collect();
                let draws = Draws { tokens: &chosen, words: &words, vocab: self.plan.vocab };
                builder.drawn(&sampler, &draws, (&logits, owed));
            }
            None => {
                let chosen: Vec<usize> = (0..rows).map(|row| tokens[at(row)] as usize).collect();
                self.greedy(builder, (log, &chosen), (&logits, owed));
            }
        }
    }

    /// The tokens of the rows are the largest logits, the first of equal ones.
    fn greedy(
        &self,
        builder: &mut Builder<'a, E::Base>,
        (log, tokens): (usize, &[usize]),
        (logits, owed): (&Linear<E::Base>, i64),
    ) {
        let (vocab, width) = (self.config().vocab as usize, 1usize << self.plan.vocab);
        let all = log + self.plan.vocab;
        let said = Marks { at: tokens.iter().map(|token| *token as u32).collect(), log: self.plan.vocab };
        let token = Linear::view(whole(builder.circuit.public(Public::OneHot(said.clone())), all));
        let before = Linear::view(whole(builder.circuit.public(Public::Before(said)), all));
        let real = Marks { at: vec![vocab as u32], log: self.plan.vocab };
        let real = builder.circuit.public(Public::Before(real));
        let real = View { source: real, bits: (log..all).map(Bit::At).collect() };
        let values = builder.integers(logits, all);
        let tops = (0..values.len() / width).map(|row| values[row * width + tokens[row]]).collect();
        let (top, top_bits) = builder.signed("largest logit", log, LARGEST_BITS, tops);
        let distance = top.minus(logits);
        builder.constrain(
            all,
            vec![(E::Base::ONE, token, distance.clone())],
            Linear::constant(E::Base::ZERO),
        );
        // Every other logit is smaller, and those before it are not even equal.
        let below = {
            let [distance, before] = [&distance, &before].map(|linear| builder.integers(linear, all));
            let value = |at: usize| if at % width < vocab { distance[at] - before[at] } else { 0 };
            (0..distance.len()).map(value).collect()
        };
        let (below, bits) = builder.declared("below the largest", all, DISTANCE_BITS, below);
        // Nobody reads those that fill up: what is shown of all holds for the others.
        builder.owed("logits", all, logits, owed, (1 << top_bits) / 2 + (1 << bits));
        let product = (E::Base::ONE, Linear::view(real), distance);
        builder.constrain(all, vec![product], below.plus(&before).times(E::Base::NEG_ONE));
    }

    /// An encoder's vector is the mean of its rows, or the first of them.
    pub(super) fn pooled(
        &self,
        builder: &mut Builder<'a, E::Base>,
        stream: &[Stream<E::Base>],
        (pooling, vector): (Pooling, &[i32]),
    ) {
        let n = match pooling {
            Pooling::Mean => self.positions(),
            Pooling::First => 1,
        };
        let taken = Marks { at: vec![n as u32], log: self.tokens };
        let taken = builder.circuit.public(Public::Before(taken));
        for (stream, part) in stream.iter().zip(&self.plan.stream) {
            let (channels, log) = (part.log, self.tokens + part.log);
            // Channels that fill up are 0.
            let mut claimed = vec![0; 1 << channels];
            part.places
                .iter()
                .for_each(|at| claimed[*at as usize] = vector[part.first + *at as usize].into());
            let mut public = |of: &dyn Fn(i64) -> i64| {
                let values = claimed.iter().map(|y| residue(of(*y))).collect();
                Linear::view(whole(builder.circuit.vector(values), channels))
            };
            if pooling == Pooling::First {
                let y = public(&|y| y);
                builder.owed("pooled", log, &stream.x, stream.owed.min(STREAM_MAX), i64::MAX);
                let sum = builder.pick((taken, 0), (self.tokens, channels), &stream.x);
                builder.constrain(channels, Vec::new(), sum.minus(&y));
                continue;
            }
            // x + 2^b in limbs: sums of n of these do not wrap.
            let b = stream.owed.min(STREAM_MAX).ilog2();
            let twice = 2 * n as i64;
            let of_claimed = |y: i64| twice * (y + (1 << b));
            let (lower, upper) =
                (public(&|y| of_claimed(y) & 0xffff), public(&|y| of_claimed(y) >> LIMB_BITS));
            let shifted = stream.x.clone().offset(power_of_two(b));
            let values = builder.integers(&shifted, log);
            let limbs = builder.value("pooled", log, Width::Fixed(b + 1), values);
            builder.constrain(log, Vec::new(), limbs.clone().minus(&shifted));
            let [low, high] = [0, 1].map(|at| match limbs.terms.get(at) {
                Some(term) => {
                    let limb = Linear::view(term.views[0].clone());
                    builder.pick((taken, 0), (self.tokens, channels), &limb)
                }
                None => Linear::constant(E::Base::ZERO),
            });
            // 2 n (y + 2^b) + r = 2 low + 2^17 high + n, r in 0 .. 2 n; what is carried over 2^16 is small.
            let carry = high.times(E::Base::TWO).minus(&upper);
            let rest = low.times(E::Base::TWO).offset(E::Base::from_usize(n)).minus(&lower);
            let rest = rest.plus(&carry.clone().times(power_of_two(LIMB_BITS)));
            let bits = bit_length(twice - 1);
            let other = rest.clone().times(E::Base::NEG_ONE).offset(E::Base::from_i64(twice - 1));
            builder.in_range(
                "pooled carry",
                channels,
                CARRY_BITS + 1,
                &carry.offset(power_of_two(CARRY_BITS)),
            );
            builder.in_range("pooled remainder", channels, bits, &rest);
            builder.in_range("pooled remainder", channels, bits, &other);
        }
    }
}

/// Who draws tokens, and from which seed, where somebody does.
fn sampler<'a>(weights: &'a ModelWeights, claim: &Claim<'_>) -> Option<(Sampler<'a>, Digest)> {
    let Claim::Sampled(Sampling { temperature_q16, top_k, top_p_q16, seed }) = claim else { return None };
    if *temperature_q16 < TEMPERATURE_GREEDY_BELOW_Q16 {
        return None;
    }
    // A mass of nothing is that of the first candidate.
    let (top_k, top_p_q16) = if *top_p_q16 == 0 { (1, ONE_Q16) } else { (*top_k, *top_p_q16) };
    let sampler = Sampler {
        frac: weights.head.as_ref().map_or(0, |head| head.out_frac.into()),
        temperature_q16: *temperature_q16,
        top_k: top_k as usize,
        top_p_q16,
        exp2: &weights.tables.exp2_sample,
        vocab: weights.config.vocab as usize,
    };
    Some((sampler, *seed))
}
