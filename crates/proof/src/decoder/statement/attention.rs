//! The attention half of a layer: queries, keys and values, what they see of each other, and what their heads give.

use super::adapter::BetweenHeads;
use super::{HEAD_MAX, Seen, Statement, in_bounds, plain};
use crate::circuit::{Bit, Linear, Marks, Public, Source, View};
use crate::decoder::plan::{self, Adapters, HeadPart, Matrices};
use crate::field::{ProofField, residue};
use crate::gadget::attention::{Axes, Heads};
use crate::gadget::heads::{HeadCodes, ROTATED_BITS};
use crate::gadget::linear::{Codes, Part, Stream};
use crate::gadget::quantise::{Extent, part_name};
use crate::gadget::{Builder, whole};
use crate::integer::{bit_length, rsh};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::config::Positions;
use lockstep_base::weights::{Gain, LayerWeights};
use p3_field::PrimeCharacteristicRing;

impl<'a, E: ProofField> Statement<'a, E> {
    /// Codes of what attention gives, all heads of it.
    pub(super) fn attention(
        &self,
        builder: &mut Builder<'a, E::Base>,
        matrices: &Matrices<'a>,
        codes: &Codes<E::Base>,
        number: usize,
        seen: &Seen,
    ) -> Codes<E::Base> {
        let (mut parts, mut owed) = (Vec::new(), i64::MAX);
        let Adapters { q, k, v, .. } = &matrices.adapters;
        let between = [("q", q), ("k", k), ("v", v)];
        let between = between.map(|(name, adapted)| self.between(builder, name, codes, adapted.as_ref()));
        for (at, part) in self.plan.heads.iter().enumerate() {
            builder.scope(part_name(&format!("layer {number}, attention"), at));
            let heads = self.heads(builder, (matrices, at), (codes, &between), number, seen);
            let exp2 = &self.answer.weights.tables.exp2;
            let (y, here) = builder.attention(part.axes, &heads, exp2, !self.adds_heads());
            owed = owed.min(here);
            let Axes { kv, group, channels, .. } = part.axes;
            parts.push((self.without_added_heads(builder, part.axes, y), kv + group + channels));
        }
        builder.scope(format!("layer {number}, attention"));
        let frac = i64::from(matrices.weights.v.out_frac) + 8;
        plain(builder, "heads", (&parts, owed), self.tokens, frac)
    }

    /// Which positions see which, and what falls with their distance.
    pub(super) fn seen(&self, builder: &mut Builder<'a, E::Base>) -> Seen {
        let windows = self.plan.layers.iter().map(|(number, _)| self.window(*number));
        let masks = windows.collect::<BTreeSet<_>>().into_iter();
        let (mut all, mut shifts) = (BTreeMap::new(), BTreeMap::new());
        for window in masks {
            all.insert(window, self.mask(builder, window));
            shifts.insert(window, self.block_shift(builder, window));
        }
        let slopes = &self.answer.weights.tables.alibi;
        let biases = self.plan.heads.iter();
        let biases = biases.map(|part| (!slopes.is_empty()).then(|| self.bias(builder, part))).collect();
        Seen { masks: all, shifts, biases }
    }

    /// How many positions a token sees in a layer, where these are not all.
    fn window(&self, number: usize) -> Option<usize> {
        let window = self.config().layer_pattern(number).window as usize;
        (window > 0 && window < self.positions()).then_some(window)
    }

    /// The mask over (i, j).
    fn mask(&self, builder: &mut Builder<'a, E::Base>, window: Option<usize>) -> Source {
        let (n, width) = (self.positions(), 1usize << self.tokens);
        // Filling is the first position, which sees all of them in an encoder.
        let behind = |i: usize| match self.config().pooling {
            Some(_) => n,
            None => self.position(i) + 1,
        };
        let Some(window) = window else {
            let at = (0..width).map(|i| behind(i) as u32).collect();
            return builder.circuit.public(Public::Before(Marks { at, log: self.tokens }));
        };
        let sees = |i: usize, j: usize| (behind(i).saturating_sub(window)..behind(i)).contains(&j);
        let cells = (0..width * width).map(|at| E::Base::from_bool(sees(at / width, at % width)));
        builder.circuit.vector(cells.collect())
    }

    /// By how much each position shifts sums of blocks: w = max(0, bl(n) - 8), where it sees n positions.
    fn block_shift(&self, builder: &mut Builder<'a, E::Base>, window: Option<usize>) -> Option<Source> {
        let sees = |at: usize| match self.config().pooling {
            Some(_) => self.positions(),
            None => window.map_or(at + 1, |window| window.min(at + 1)),
        };
        let shift = |at: usize| i64::from(bit_length(sees(self.position(at)) as i64).saturating_sub(8));
        let shifts: Vec<i64> = (0..1usize << self.tokens).map(shift).collect();
        let any = shifts.iter().any(|shift| *shift > 0);
        any.then(|| builder.circuit.vector(shifts.into_iter().map(residue).collect()))
    }

    /// What scores of some heads lose with distance, over (i, kv, g, j), and the largest of it.
    fn bias(&self, builder: &mut Builder<'a, E::Base>, part: &HeadPart) -> (Source, i64) {
        let HeadPart { first, count, axes: Axes { tokens, kv, group, .. } } = *part;
        let grouped = (self.config().n_heads / self.config().n_kv_heads) as usize;
        let mut values = vec![0; 1 << (2 * tokens + kv + group)];
        for (at, value) in values.iter_mut().enumerate() {
            let axis = |from: usize, log: usize| (at >> from) & ((1 << log) - 1);
            let (j, g, h) = (axis(0, tokens), axis(tokens, group), axis(tokens + group, kv));
            let i = axis(tokens + group + kv, tokens);
            if i < self.positions() && j < i && g < grouped && h < count {
                let slope = self.answer.weights.tables.alibi[(first + h) * grouped + g];
                *value = rsh(i64::from(slope.a) * (i - j) as i64, slope.b.into());
            }
        }
        let most = values.iter().copied().max().unwrap_or(0);
        (builder.circuit.vector(values.into_iter().map(residue).collect()), most)
    }

    /// Queries, keys and values.
    fn heads(
        &self,
        builder: &mut Builder<'a, E::Base>,
        (matrices, part): (&Matrices<'a>, usize),
        (codes, [of_q, of_k, of_v]): (&Codes<E::Base>, &BetweenHeads<'_, 'a, E::Base>),
        number: usize,
        seen: &Seen,
    ) -> Heads<'a, E::Base> {
        let HeadPart { axes: Axes { tokens, kv, group, channels }, .. } = self.plan.heads[part];
        let shape = (kv + group, channels);
        let LayerWeights { q_norm, k_norm, .. } = matrices.weights;
        let y = self.linear(builder, "q", (codes, &matrices.q[part]), (of_q.as_ref(), part), HEAD_MAX);
        let q = self.head_codes(builder, ("q", y, q_norm.as_ref()), shape, number, None);
        let centre = self.centre(builder, matrices, part);
        let y = self.linear(builder, "k", (codes, &matrices.k[part]), (of_k.as_ref(), part), HEAD_MAX);
        let k = self.head_codes(builder, ("k", y, k_norm.as_ref()), (kv, channels), number, centre);
        let v = self.linear(builder, "v", (codes, &matrices.v[part]), (of_v.as_ref(), part), HEAD_MAX);
        let parts = [(&v, channels)];
        let sixteen = builder.sixteen("v", (&parts, i64::MAX), tokens + kv, Extent::Any, None);
        in_bounds(builder, tokens + kv + channels, &v, sixteen.at_most);
        let base = Linear::constant(residue(-14));
        let mut v = builder.codes("v", &sixteen, None, &base);
        // Of zeros the step is the smallest that there is: f = -7.
        if let Some(zero) = sixteen.zero {
            v.f = v.f.plus(&zero.times(E::Base::from_u32(7)));
        }
        let weights = matrices.weights;
        let frac = |gain: &Option<Gain>, linear: &lockstep_base::weights::Linear| {
            i64::from(gain.as_ref().map_or(linear.out_frac, |gain| gain.out_frac))
        };
        let shift = frac(&weights.q_norm, &weights.q) + frac(&weights.k_norm, &weights.k) - 8;
        let (mask, cap) = (seen.masks[&self.window(number)], plan::score_cap(self.answer.weights));
        Heads {
            q,
            k,
            v,
            shift,
            mask,
            bias: seen.biases[part],
            cap,
            block_shift: seen.shifts[&self.window(number)],
        }
    }

    /// Codes of queries or keys, of which `centre` is subtracted: its values, and the largest.
    fn head_codes(
        &self,
        builder: &mut Builder<'a, E::Base>,
        (name, mut y, gain): (&str, Linear<E::Base>, Option<&Gain>),
        (heads, channels): (usize, usize),
        number: usize,
        centre: Option<(Linear<E::Base>, i64)>,
    ) -> HeadCodes<E::Base> {
        let (vectors, log) = (self.tokens + heads, self.tokens + heads + channels);
        if let Some(gain) = gain {
            let places = (0..self.config().head_dim).collect();
            let part = [Part { first: 0, places, log: channels }];
            let (name, parts) = (format!("{name} norm"), (vectors, &part[..]));
            let of = (gain, Extent::Any);
            let (mut gained, shown) = builder.gain_norm(&name, (&[&y], i64::MAX), parts, of, None);
            in_bounds(builder, log, &y, shown);
            let Stream { x, owed, .. } = gained.remove(0);
            builder.owed(&name, log, &x, owed, HEAD_MAX);
            y = x;
        }
        let rotates = self.config().positions == Positions::Rope;
        let x = if rotates { self.rotated(builder, name, &y, (log, channels), number) } else { y.clone() };
        let (centred, centre_max) = match centre {
            Some((centre, largest)) => (x.clone().minus(&centre), largest),
            None => (x.clone(), 0),
        };
        let bound = i64::from(self.config().qk_code_max());
        let codes = builder.head_codes(name, &centred, (vectors, channels), bound);
        let at_most = codes.at_most + centre_max;
        if rotates {
            builder.owed(&format!("{name} rotated"), log, &x, 1 << ROTATED_BITS, at_most);
            in_bounds(builder, log, &y, i64::MAX);
        } else {
            in_bounds(builder, log, &y, at_most);
        }
        codes
    }

    /// Whether groups of heads are filled up.
    fn adds_heads(&self) -> bool {
        !(self.config().n_heads / self.config().n_kv_heads).is_power_of_two()
    }

    /// Heads, 0 where a group was filled up: a query of zeros sees the mean of the values of its group, which must not decide a step.
    fn without_added_heads(
        &self,
        builder: &mut Builder<'a, E::Base>,
        Axes { tokens, kv, group, channels }: Axes,
        y: Linear<E::Base>,
    ) -> Linear<E::Base> {
        if !self.adds_heads() {
            return y;
        }
        let grouped = (self.config().n_heads / self.config().n_kv_heads) as usize;
        let real = (0..1usize << group).map(|head| E::Base::from_bool(head < grouped)).collect();
        let bits = (tokens + kv..tokens + kv + group).map(Bit::At).collect();
        let real = Linear::view(View { source: builder.circuit.vector(real), bits });
        let log = tokens + kv + group + channels;
        let kept = {
            let [real, y] = [&real, &y].map(|linear| builder.integers(linear, log));
            real.iter().zip(y).map(|(real, y)| real * y).collect()
        };
        let kept = Linear::view(whole(builder.commit("real heads", log, kept), log));
        builder.constrain(log, vec![(E::Base::ONE, real, y)], kept.clone().times(E::Base::NEG_ONE));
        kept
    }

    /// Rotated heads.
    fn rotated(
        &self,
        builder: &mut Builder<'a, E::Base>,
        name: &str,
        x: &Linear<E::Base>,
        (log, channels): (usize, usize),
        number: usize,
    ) -> Linear<E::Base> {
        let tokens = self.tokens;
        let table = &self.answer.weights.tables.rope[usize::from(self.config().layer_pattern(number).rope)];
        let pairs = self.config().rope_dim as usize / 2;
        let mut of = |sine: usize| {
            let value = |at: usize| {
                let (position, pair) =
                    (self.position(at >> (channels - 1)), at & ((1 << (channels - 1)) - 1));
                // Channels that do not rotate have an angle of 0.
                let still = if sine == 0 { 1 << 14 } else { 0 };
                let turned = || i64::from(table[(position * pairs + pair) * 2 + sine]);
                residue(if pair < pairs { turned() } else { still })
            };
            let source = builder.circuit.vector((0..1usize << (tokens + channels - 1)).map(value).collect());
            let bits = (0..tokens).chain(log - channels..log - 1).map(Bit::At).collect();
            Linear::view(View { source, bits })
        };
        let (cosine, sine) = (of(0), of(1));
        builder.rotate(&format!("{name} rotated"), log, x, (&cosine, &sine))
    }

    /// What is subtracted from keys, and its largest magnitude; nothing where it is 0.
    fn centre(
        &self,
        builder: &mut Builder<'a, E::Base>,
        matrices: &Matrices<'a>,
        part: usize,
    ) -> Option<(Linear<E::Base>, i64)> {
        let HeadPart { first, count, axes: Axes { tokens, kv, channels, .. } } = self.plan.heads[part];
        let dim = self.config().head_dim as usize;
        let here = matrices.weights.k_center.iter().skip(first * dim).take(count * dim);
        let centres = here.map(|centre| i64::from(*centre));
        let largest = centres.clone().map(i64::abs).max().filter(|largest| *largest > 0)?;
        let mut values = vec![E::Base::ZERO; 1 << (kv + channels)];
        for (at, centre) in centres.enumerate() {
            values[((at / dim) << channels) + at % dim] = residue(centre);
        }
        let source = builder.circuit.vector(values);
        let bits = (tokens..tokens + kv + channels).map(Bit::At).collect();
        Some((Linear::view(View { source, bits }), largest))
    }
}
