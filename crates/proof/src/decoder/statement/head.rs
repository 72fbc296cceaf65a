//! The end of a model: which tokens it chooses.

use super::Statement;
use crate::circuit::{Bit, Contraction, Linear, Marks, Public, Source, View};
use crate::field::ProofField;
use crate::gadget::linear::{Layer, Stream};
use crate::gadget::{Builder, whole};
use crate::integer::log2_ceil;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::{PrimeCharacteristicRing, PrimeField32};

/// Bits of the distance of a logit from the largest: with logits below 2^29 no difference is that of another by the order of the field.
const DISTANCE_BITS: u32 = 29;

impl<'a, E: ProofField> Statement<'a, E> {
    /// The generated tokens are the largest logits, the first of equal ones.
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
        for (part, channels) in stream.iter().zip(&self.plan.stream).filter(|_| generated < self.positions())
        {
            let (log, at_most) = (self.tokens + channels, part.owed.min(super::STREAM_MAX));
            builder.owed("unread", log, &part.x, at_most, i64::MAX);
        }
        let picked = |(stream, channels): (Stream<E::Base>, &usize)| Stream {
            x: pick(builder, (picked, log), (self.tokens, *channels), &stream.x),
            ..stream
        };
        let mut stream: Vec<_> = stream.into_iter().zip(&self.plan.stream).map(picked).collect();
        let codes = self.normed(builder, log, &mut stream);
        let logits = builder.linear("logits", &codes, head);

        let (vocab, width) = (self.config().vocab as usize, 1usize << self.plan.vocab);
        let all = log + self.plan.vocab;
        let said = Marks { at: (0..rows).map(|row| tokens[at(row)]).collect(), log: self.plan.vocab };
        let token = Linear::view(whole(builder.circuit.public(Public::OneHot(said.clone())), all));
        let before = Linear::view(whole(builder.circuit.public(Public::Before(said)), all));
        let real = Marks { at: vec![vocab as u32], log: self.plan.vocab };
        let real = builder.circuit.public(Public::Before(real));
        let real = View { source: real, bits: (log..all).map(Bit::At).collect() };
        let values = builder.integers(&logits, all);
        let tops =
            (0..values.len() / width).map(|row| values[row * width + tokens[at(row)] as usize]).collect();
        let top = Linear::view(whole(builder.commit("largest logit", log, tops), log));
        let distance = top.minus(&logits);
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
}

/// Those of the vectors x, over (vectors, channels), that the rows of `picked`, over (row, vector), say.
fn pick<B: PrimeField32>(
    builder: &mut Builder<'_, B>,
    (picked, rows): (Source, usize),
    (vectors, channels): (usize, usize),
    x: &Linear<B>,
) -> Linear<B> {
    let range = |range: core::ops::Range<usize>| range.map(Bit::At);
    let outer = rows + channels;
    let here: Vec<Bit> = range(outer..outer + vectors).chain(range(rows..outer)).collect();
    let mut sum = Linear::constant(x.constant);
    for term in &x.terms {
        let [view] = &term.views[..] else { panic!("a stream is a sum of plain terms") };
        let bits = range(0..rows).chain(range(outer..outer + vectors)).collect();
        let left = View { source: picked, bits };
        let right = view.within(&here);
        let source = builder.contract(Contraction { outer, inner: vectors, left, right });
        sum = sum.plus(&Linear::view(whole(source, outer)).times(term.coefficient));
    }
    sum
}
