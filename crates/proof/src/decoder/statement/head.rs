//! The end of a model: which tokens it chooses.

use super::{Claim, Sampling, Statement, pooled_max};
use crate::circuit::{Bit, Linear, Marks, Public, View};
use crate::decoder::plan::logit_cap;
use crate::field::{ProofField, residue};
use crate::gadget::linear::{Layer, Part, Stream};
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

/// Bits of the distance of a logit from the largest: with logits below 2^29 no difference is that of another by the order of the field.
const DISTANCE_BITS: u32 = 29;

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
        let mut logits = builder.linear("logits", &codes, head);
        if let Some(cap) = logit_cap(self.answer.weights) {
            logits = builder.soft_cap("logit", all, (&logits, i64::MAX), cap);
        }
        match sampler(self.answer.weights, &self.answer.claim) {
            Some((sampler, seed)) => {
                let chosen: Vec<usize> = (0..rows).map(|row| tokens[at(row)] as usize).collect();
                let words: Vec<u64> = (0..rows).map(|row| draw(&seed, at(row) as u32)).collect();
                let draws = Draws { tokens: &chosen, words: &words, vocab: self.plan.vocab };
                builder.drawn(&sampler, &draws, &logits);
            }
            None => {
                let chosen: Vec<usize> = (0..rows).map(|row| tokens[at(row)] as usize).collect();
                self.greedy(builder, (log, &chosen), &logits);
            }
        }
    }

    /// The tokens of the rows are the largest logits, the first of equal ones.
    fn greedy(
        &self,
        builder: &mut Builder<'a, E::Base>,
        (log, tokens): (usize, &[usize]),
        logits: &Linear<E::Base>,
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
        let top = Linear::view(whole(builder.commit("largest logit", log, tops), log));
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
        let (below, _) = builder.declared("below the largest", all, DISTANCE_BITS, below);
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
            let channels = part.log;
            let at_most = stream.owed.min(pooled_max(self.positions()));
            builder.owed("pooled", self.tokens + channels, &stream.x, at_most, i64::MAX);
            let sum = builder.pick((taken, 0), (self.tokens, channels), &stream.x);
            let mut values = vec![E::Base::ZERO; 1 << channels];
            for place in &part.places {
                values[*place as usize] = residue(vector[part.first + *place as usize].into());
            }
            let y = Linear::view(whole(builder.circuit.vector(values), channels));
            if pooling == Pooling::First {
                builder.constrain(channels, Vec::new(), sum.minus(&y));
                continue;
            }
            // 2 n y + r = 2 sum + n, r in 0 .. 2 n.
            let twice = E::Base::from_usize(2 * n);
            let rest = sum.times(E::Base::TWO).offset(E::Base::from_usize(n)).minus(&y.times(twice));
            let bits = bit_length(2 * n as i64 - 1);
            let other = rest.clone().times(E::Base::NEG_ONE).offset(twice - E::Base::ONE);
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
