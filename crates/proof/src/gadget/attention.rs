//! Attention (docs/spec/arithmetic.md, section 6, steps 4 to 7).
//!
//! Axes: i a token that looks, h = (kv, g) a head, j a token that is looked at, c a channel. A public mask says which j an i sees.
//!
//! ```text
//! s = sum_c q k                                   over (i, kv, g, j): a contraction
//! P t + r = s + P / 2                             shift F_q + F_k - 8 - e_q - e_k: (shift, P, r) in a table
//! mask (m - t - d - o) = 0, o (4095 - d) = 0      o >= 0: d = min(m - t, 4095)
//! (d, p) in the table of powers, (1 - mask) p = 0
//! one j with d = 0                                so m is a score that is seen, and none is above
//! Z = sum_j p                                     a contraction
//! mask (W - E + f_v) = 0                          over (i, kv, j), W >= 0: E >= f_v where the mask is 1, and equal once
//! P' p' + r' = p k_v + P' / 2                     shift 5 + W: (W, P', r') in a table
//! o = sum_j p' v                                  over (i, kv, g, c): a contraction
//! P'' o16 + r'' = o + H''                         shift bl(127 Z) - 15
//! rz Z <= 2^(bl(Z) + 13) < (rz + 1) Z
//! P* y + r* = o16 rz + H*                         shift bl(Z) + 28 - bl(127 Z) - E - 9
//! ```
//!
//! Where rows see more than 255 positions, Z and o are sums over blocks of 256 positions of `2^w x + r = (sum over the block) + H`, w public.
//!
//! Caps ([`super::cap`]) and what falls with distance (ALiBi, public) stand between the first t and the second.
//!
//! t has no range of its own where it is seen: it is m - d - o there, all of which have one. Where it is not seen nobody reads it.

use super::cap::Cap;
use super::digits::{Position, add_digits, add_product, digits_of};
use super::heads::HeadCodes;
use super::linear::Codes;
use super::ranges::{Width, widths};
use super::tables::number;
use super::{Builder, each, of_rows, whole};
use crate::circuit::{Bit, Contraction, Linear, Source, View};
use crate::field::{power_of_two, residue};
use crate::integer::{bit_length, floor_div};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// Tokens that one proof can attend over. How many a proof has room for is another question.
pub const TOKENS_MAX: usize = 1023;
/// log2 of the positions of a block.
const BLOCK_BITS: usize = 8;
/// Largest magnitude of a sum of weighted values: those of a block, of weights of at most `rsh(2^15 31, 5)`; sums of several are shifted so far that they are not larger, but for
/// what is rounded. With 2^30 more it is below the order of the field.
const SUM_MAX: i64 = (127 * 31_744 + 1) << BLOCK_BITS;
/// Largest sum of a block's powers.
const POWERS_MAX: i64 = 1 << 23;
/// Bits of the magnitude of a score: 2047^2 times 128 channels, or 1023^2 times 256.
const SCORE_BITS: u32 = 29;
/// Largest magnitude of a score, and of a product of what is normalised and its factor.
pub(super) const PRODUCT_MAX: i64 = 1 << SCORE_BITS;
/// Bits of what a distance has beyond 4095. A bit more, and -2^30 - 2^30 would come near the order of the field: what is further away
/// (two million octaves) has no argument.
const BEYOND_BITS: u32 = 29;
/// Largest shift of a score.
const SCORE_SHIFT_MAX: i64 = 28;
/// What a distance is cut to.
const DISTANCE_MAX: i64 = 4095;
/// Coordinates of a table of all distances.
const DISTANCE_LOG: usize = 12;
/// Least shift of a probability times a step mantissa.
const WEIGHED_SHIFT: u32 = 5;
/// How much more it may be.
const WEIGHED_MORE: u32 = 15;
/// Bits of the result, which has so many less as the shift is more.
const WEIGHED_BITS: u32 = 16;
/// Bits of the sum of probabilities, of which one is 2^15, but shifted by at most 2.
const SUM_BITS: core::ops::RangeInclusive<u32> = 13..=23;
/// Bits of 127 times it.
const SCALED_BITS: core::ops::RangeInclusive<u32> = 19..=30;

/// The axes of attention, as logarithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axes {
    /// Tokens.
    pub tokens: usize,
    /// Heads of keys and values.
    pub kv: usize,
    /// Heads of queries for each of them.
    pub group: usize,
    /// Channels of a head.
    pub channels: usize,
}

/// What attention reads.
#[derive(Clone, Debug)]
pub struct Heads<'t, B> {
    /// Queries, vectors (i, kv, g).
    pub q: HeadCodes<B>,
    /// Keys, vectors (j, kv).
    pub k: HeadCodes<B>,
    /// Values, vectors (j, kv), in one part; f is -7 where all is 0.
    pub v: Codes<B>,
    /// F_q + F_k - 8.
    pub shift: i64,
    /// The public mask over (i, j).
    pub mask: Source,
    /// What falls with distance, over (i, kv, g, j), and its largest magnitude: public, 0 where the mask is.
    pub bias: Option<(Source, i64)>,
    /// What caps scores.
    pub cap: Option<Cap<'t>>,
    /// By how much sums of blocks are shifted, over i: public, where it is not always 0.
    pub block_shift: Option<Source>,
}

impl Axes {
    fn bits(range: core::ops::Range<usize>) -> impl Iterator<Item = Bit> {
        range.map(Bit::At)
    }
    /// Coordinates of (i, kv, g).
    fn rows(&self) -> usize {
        self.tokens + self.kv + self.group
    }
    /// Coordinates of (i, kv, g, j).
    fn scores(&self) -> usize {
        self.rows() + self.tokens
    }
    /// (j, kv), read in (i, kv, g, j).
    fn keys_in_scores(&self) -> Vec<Bit> {
        Self::bits(self.rows()..self.scores()).chain(Self::bits(self.tokens..self.tokens + self.kv)).collect()
    }
    /// (i, kv, j), read in (i, kv, g, j).
    fn shared_in_scores(&self) -> Vec<Bit> {
        Self::bits(0..self.tokens + self.kv).chain(Self::bits(self.rows()..self.scores())).collect()
    }
    /// (i, j), read in (i, kv, g, j).
    fn pairs_in_scores(&self) -> Vec<Bit> {
        Self::bits(0..self.tokens).chain(Self::bits(self.rows()..self.scores())).collect()
    }
}

impl<B: PrimeField32> Builder<'_, B> {
    /// A remainder of `least + w` bits, w at most `more`, and 2^w where w is not always 0: one lookup has both, and a lower limb what it has no room for.
    fn power_remainder(
        &mut self,
        name: &str,
        log: usize,
        (least, more): (u32, u32),
        (w, power): (Linear<B>, Option<Linear<B>>),
        mut values: Vec<i64>,
    ) -> Linear<B> {
        let name = format!("{name} remainder");
        self.said(&name, &mut values);
        self.reduced(&mut values);
        let limb_bits = self.circuit.limb_bits;
        let lower_bits = (least + more).saturating_sub(limb_bits);
        let constant = |bits: u32| Linear::constant(B::from_u32(bits));
        let mut limb = |part: &str, values: Vec<i64>| {
            Linear::view(whole(self.column(&format!("{name}{part}"), log, &values), log))
        };
        let upper = limb("", each(values.len(), |at| values[at] >> lower_bits));
        let mut remainder = upper.clone().times(power_of_two(lower_bits));
        if lower_bits > 0 {
            let lower = limb(" low", each(values.len(), |at| values[at] & ((1 << lower_bits) - 1)));
            self.look_up_range(log, constant(lower_bits), lower.clone());
            remainder = remainder.plus(&lower);
        }
        let bits = least - lower_bits;
        match power {
            None => self.look_up_range(log, constant(bits), upper),
            Some(power) => self.look_up_power(log, (bits, more), [w, power, upper]),
        }
        remainder
    }

    /// t over (i, kv, g, j), and the largest magnitude of it that does not wrap.
    fn scores(&mut self, axes: Axes, heads: &Heads<'_, B>, products: Linear<B>) -> (Linear<B>, i64) {
        let scores = axes.scores();
        let most = heads.shift;
        let more = heads.q.e_max + heads.k.e_max;
        let least = most - i64::from(more);
        let e_k = heads.k.e.within(&axes.keys_in_scores());
        if least < 1 || most > SCORE_SHIFT_MAX {
            let key = Linear::constant(residue(most)).minus(&heads.q.e).minus(&e_k);
            let everywhere: Vec<Bit> = Axes::bits(0..scores).collect();
            let (t, _) = self.shifted(
                "score",
                scores,
                (&key, scores, &everywhere),
                (Vec::new(), products, PRODUCT_MAX),
                false,
            );
            return (t, i64::MAX);
        }
        let w = Linear::constant(B::from_u32(more)).minus(&heads.q.e).minus(&e_k);
        let (least, most) = (least as u32, most as u32);
        let power = (more > 0).then(|| {
            let powers = self.integers(&w, scores);
            let powers = each(powers.len(), |at| 1 << powers[at].clamp(0, 40));
            Linear::view(whole(self.commit("score power", scores, powers), scores))
        });
        let whole_power =
            power.clone().unwrap_or_else(|| Linear::constant(B::ONE)).times(power_of_two(least));
        let halves = whole_power.clone().times(B::TWO.inverse());
        let powers = self.integers(&whole_power, scores);
        let sums: Vec<i64> = self.integers(&products, scores);
        let sums: Vec<i64> = each(sums.len(), |at| sums[at] + powers[at] / 2);
        let values = each(sums.len(), |at| floor_div(sums[at], powers[at]));
        let t = Linear::view(whole(self.commit("score", scores, values), scores));
        let rest = {
            let t = self.integers(&t, scores);
            each(t.len(), |at| sums[at] - powers[at] * t[at])
        };
        let rest = self.power_remainder("score", scores, (least, more), (w, power), rest);
        let left = vec![(B::ONE, whole_power, t.clone())];
        self.constrain(scores, left, rest.minus(&products).minus(&halves));
        (t, (i64::from(B::ORDER_U32) - 1 - (1 << SCORE_BITS) - (1 << most)) >> most)
    }

    /// Attention: y over (i, kv, g, c), in F_v + 8 fractional bits, and the largest magnitude that its reader owes, if it shows that of all of them.
    pub fn attention(
        &mut self,
        axes: Axes,
        heads: &Heads<'_, B>,
        exp2: &[u16],
        reader: bool,
    ) -> (Linear<B>, i64) {
        let Axes { tokens, kv, channels, .. } = axes;
        let (rows, scores) = (axes.rows(), axes.scores());
        let range = Axes::bits;
        let identity: Vec<Bit> = range(0..rows).collect();
        let mask = Linear::view(View { source: heads.mask, bits: axes.pairs_in_scores() });

        // Scores.
        let products = self.contract(Contraction {
            outer: scores,
            inner: channels,
            left: View {
                source: heads.q.source,
                bits: range(0..rows).chain(range(scores..scores + channels)).collect(),
            },
            right: View {
                source: heads.k.source,
                bits: axes.keys_in_scores().into_iter().chain(range(scores..scores + channels)).collect(),
            },
        });
        let (mut t, mut allowed) = self.scores(axes, heads, Linear::view(whole(products, scores)));
        if let Some(cap) = heads.cap {
            t = self.soft_cap("score", scores, (&t, allowed), cap);
            allowed = i64::MAX;
        }
        if let Some((bias, most)) = heads.bias {
            t = t.minus(&Linear::view(whole(bias, scores)));
            allowed = allowed.saturating_sub(most);
        }

        let (p, p_source) = self.probabilities(axes, (&t, allowed), &mask, exp2);
        let inner = heads.block_shift.map_or(tokens, |_| tokens.min(BLOCK_BITS));
        let blocks = tokens - inner;
        let z = self.sum_over(p_source, None, (rows + blocks, inner));
        let z = self.of_blocks("powers", heads.block_shift, (rows, blocks), tokens, (z, POWERS_MAX));

        // The steps of values.
        let (e_max, weighed) = self.weighed(axes, heads, &p);
        let outer = rows + channels + blocks;
        let keys: Vec<Bit> = range(rows + channels..outer + inner).collect();
        let sums = self.contract(Contraction {
            outer,
            inner,
            left: View { source: weighed, bits: range(0..rows).chain(keys.iter().copied()).collect() },
            right: View {
                source: heads.v.parts[0].0,
                bits: keys
                    .into_iter()
                    .chain(range(tokens..tokens + kv))
                    .chain(range(rows..rows + channels))
                    .collect(),
            },
        });
        let log = rows + channels;
        let sums = Linear::view(whole(sums, outer));
        let sums = self.of_blocks("values", heads.block_shift, (log, blocks), tokens, (sums, SUM_MAX));

        // Down to 16 bits, by the size of 127 Z.
        let scaled = z.clone().times(B::from_u32(127));
        let size = self.bit_length("attention 127 Z", rows, &scaled, SCALED_BITS);
        let key = size.clone().offset(-B::from_u32(15));
        let (o16, _) = self.shifted("sum", log, (&key, rows, &identity), (Vec::new(), sums, SUM_MAX), false);

        let (rz, z_bits) = self.reciprocal(rows, &z);
        let key = z_bits.offset(B::from_u32(19)).minus(&size).minus(&e_max);
        let y = (vec![(B::ONE, o16, rz)], Linear::constant(B::ZERO), PRODUCT_MAX);
        self.shifted("quotient", log, (&key, rows, &identity), y, reader)
    }

    /// The sum over blocks of what each gives, shifted where rows see more than 255 positions.
    fn of_blocks(
        &mut self,
        name: &str,
        shift: Option<Source>,
        (log, blocks): (usize, usize),
        tokens: usize,
        (sums, largest): (Linear<B>, i64),
    ) -> Linear<B> {
        let Some(shift) = shift else { return sums };
        let key = Linear::view(whole(shift, tokens));
        let rows: Vec<Bit> = Axes::bits(0..tokens).collect();
        let of = (Vec::new(), sums, largest);
        let name = format!("{name} of a block");
        let (shifted, _) = self.shifted(&name, log + blocks, (&key, tokens, &rows), of, false);
        self.sum_of(&shifted, (log, blocks))
    }

    /// p over (i, kv, g, j).
    fn probabilities(
        &mut self,
        axes: Axes,
        (t, allowed): (&Linear<B>, i64),
        mask: &Linear<B>,
        exp2: &[u16],
    ) -> (Linear<B>, Source) {
        let (rows, scores, tokens) = (axes.rows(), axes.scores(), axes.tokens);
        let values = self.integers(t, scores);
        let seen = self.integers(mask, scores);
        let largest = |row: usize, t: &[i64]| {
            let seen = &seen[row << tokens..];
            t.iter().zip(seen).filter(|(_, seen)| **seen == 1).map(|(t, _)| *t).max().unwrap_or(0)
        };
        let m: Vec<i64> = of_rows(&values, 1 << tokens, largest);
        // Within 2^29, as every score is.
        let (m, m_bits) = self.signed("largest score", rows, SCORE_BITS + 1, m);
        let ms = self.integers(&m, scores);
        let distance =
            |at: usize| if seen[at] == 1 { (ms[at] - values[at]).min(DISTANCE_MAX) } else { DISTANCE_MAX };
        let d = each(values.len(), distance);
        let d = Linear::view(whole(self.commit("distance", scores, d), scores));
        let ds = self.integers(&d, scores);
        let over = |at: usize| if seen[at] == 1 { ms[at] - values[at] - ds[at] } else { 0 };
        let over = each(values.len(), over);
        let (over, over_bits) = self.declared("distance beyond", scores, BEYOND_BITS, over);
        let shown = ((1i64 << m_bits) / 2) + DISTANCE_MAX + (1 << over_bits);
        self.owed("score", scores, t, allowed, shown);
        let rest = m.minus(t).minus(&d).minus(&over);
        self.constrain(scores, vec![(B::ONE, mask.clone(), rest)], Linear::constant(B::ZERO));
        let below = d.clone().times(B::NEG_ONE).offset(residue(DISTANCE_MAX));
        if over_bits > 0 {
            self.constrain(scores, vec![(B::ONE, over, below)], Linear::constant(B::ZERO));
        }

        let table = self.formula_table("powers of two", (DISTANCE_LOG, 1), |circuit| {
            let power = |d: usize| B::from_u16(exp2.get(d).copied().unwrap_or(0));
            let powers = circuit.vector((0..1usize << DISTANCE_LOG).map(power).collect());
            vec![number(circuit, 0..DISTANCE_LOG), Linear::view(whole(powers, DISTANCE_LOG))]
        });
        let p = each(ds.len(), |at| exp2.get(ds[at] as usize).copied().unwrap_or(0).into());
        let source = self.commit("probability", scores, p);
        let p = Linear::view(whole(source, scores));
        self.look_up(table, scores, vec![d.clone(), p.clone()]);
        let unseen = mask.clone().times(B::NEG_ONE).offset(B::ONE);
        self.constrain(scores, vec![(B::ONE, unseen, p.clone())], Linear::constant(B::ZERO));

        // One distance of a row is 0; it is seen, since others have p > 0 only there.
        let first = of_rows(&ds, 1 << tokens, |row, d| {
            (0..d.len()).find(|at| d[*at] == 0 && seen[(row << tokens) + at] == 1).unwrap_or(0)
        });
        let nearest = each(ds.len(), |at| i64::from(at & ((1 << tokens) - 1) == first[at >> tokens]));
        let nearest = self.boolean("nearest", scores, nearest);
        let ones = self.sum_over(nearest, None, (rows, tokens));
        self.constrain(rows, vec![], ones.offset(B::NEG_ONE));
        let products = vec![(B::ONE, Linear::view(whole(nearest, scores)), d)];
        self.constrain(scores, products, Linear::constant(B::ZERO));
        (p, source)
    }

    /// E over (i, kv), read in (i, kv, g), and p' over (i, kv, g, j).
    fn weighed(&mut self, axes: Axes, heads: &Heads<'_, B>, p: &Linear<B>) -> (Linear<B>, Source) {
        let Axes { tokens, kv, .. } = axes;
        let scores = axes.scores();
        let (few, shared) = (tokens + kv, 2 * tokens + kv);
        let range = Axes::bits;
        // (j, kv) and (i, j), read in (i, kv, j).
        let keys: Vec<Bit> = range(few..shared).chain(range(tokens..few)).collect();
        let pairs: Vec<Bit> = range(0..tokens).chain(range(few..shared)).collect();
        let f = heads.v.f.within(&keys);
        let mask = Linear::view(View { source: heads.mask, bits: pairs });
        let fs = self.integers(&f, shared);
        let seen = self.integers(&mask, shared);
        let largest = |(row, f): (usize, &[i64])| {
            let seen = &seen[row << tokens..];
            f.iter().zip(seen).filter(|(_, seen)| **seen == 1).map(|(f, _)| *f).max().unwrap_or(0)
        };
        let e: Vec<i64> = fs.chunks(1 << tokens).enumerate().map(largest).collect();
        let e = Linear::view(whole(self.commit("largest exponent", few, e), few));
        let es = self.integers(&e, shared);
        let first = |row: usize| {
            let at = |j: &usize| (row << tokens) + j;
            let found = (0..1usize << tokens).find(|j| seen[at(j)] == 1 && fs[at(j)] == es[at(j)]);
            let found = found.unwrap_or(0);
            (0..1usize << tokens).map(move |j| i64::from(j == found))
        };
        let rows_of = if self.has_witness() { 1usize << few } else { 0 };
        let chosen = (0..rows_of).flat_map(first).collect();
        let chosen = self.boolean("largest exponent chosen", shared, chosen);
        let ones = self.sum_over(chosen, None, (few, tokens));
        self.constrain(few, vec![], ones.offset(B::NEG_ONE));
        let chosen = Linear::view(whole(chosen, shared));
        let distance = e.clone().minus(&f);
        let nothing = || Linear::constant(B::ZERO);
        self.constrain(shared, vec![(B::ONE, chosen.clone(), distance.clone())], nothing());
        let unseen = mask.clone().times(B::NEG_ONE).offset(B::ONE);
        self.constrain(shared, vec![(B::ONE, chosen, unseen)], nothing());

        let (powers, w, more) = self.weights_shift((shared, &mask), &distance);
        let here = axes.shared_in_scores();
        let w = w.within(&here);
        let power = powers.as_ref().map(|power| power.within(&here));
        let whole_power = power.clone().unwrap_or_else(|| Linear::constant(B::ONE));
        let whole_power = whole_power.times(power_of_two(WEIGHED_SHIFT));
        let k = heads.v.k.within(&axes.keys_in_scores());
        let powers = self.integers(&whole_power, scores);
        let sums: Vec<i64> = {
            let [p, k] = [p, &k].map(|linear| self.integers(linear, scores));
            each(p.len(), |at| p[at] * k[at] + powers[at] / 2)
        };
        let values = each(sums.len(), |at| floor_div(sums[at], powers[at]));
        let source = self.commit("weight", scores, values);
        let weight = Linear::view(whole(source, scores));
        let width = w.clone().times(B::NEG_ONE).offset(B::from_u32(WEIGHED_BITS));
        self.look_up_range(scores, width, weight.clone());
        let rest = {
            let weights = self.integers(&weight, scores);
            each(sums.len(), |at| sums[at] - powers[at] * weights[at])
        };
        let rest = self.power_remainder("weight", scores, (WEIGHED_SHIFT, more), (w, power), rest);
        let half = whole_power.clone().times(B::TWO.inverse());
        let products = vec![(B::ONE, whole_power, weight), (B::NEG_ONE, p.clone(), k)];
        self.constrain(scores, products, rest.minus(&half));
        (e, source)
    }

    /// W, which is `distance` where the mask is 1 and is not negative, 2^W where it is not always 0, and the largest W.
    fn weights_shift(
        &mut self,
        (shared, mask): (usize, &Linear<B>),
        distance: &Linear<B>,
    ) -> (Option<Linear<B>>, Linear<B>, u32) {
        let mut shifts = self.integers(distance, shared);
        let seen = self.integers(mask, shared);
        shifts.iter_mut().zip(seen).for_each(|(shift, seen)| *shift *= seen);
        let most = self.declare(WEIGHED_MORE, || {
            shifts.iter().copied().max().map_or(0, |most| most.clamp(0, 15) as u32)
        });
        let (w, power) = if most == 0 {
            (Linear::constant(B::ZERO), None)
        } else {
            let w = Linear::view(whole(self.commit("weight shift", shared, shifts), shared));
            let powers = self.integers(&w, shared).into_iter().map(|w| 1 << w.clamp(0, 15)).collect();
            (w, Some(Linear::view(whole(self.commit("weight power", shared, powers), shared))))
        };
        let rest = distance.clone().minus(&w);
        self.constrain(shared, vec![(B::ONE, mask.clone(), rest)], Linear::constant(B::ZERO));
        (power, w, most)
    }

    /// Bits of an expression that is not 0: over `2^log` cells, one of `sizes`.
    fn bit_length(
        &mut self,
        name: &str,
        log: usize,
        x: &Linear<B>,
        sizes: core::ops::RangeInclusive<u32>,
    ) -> Linear<B> {
        let limb_bits = self.circuit.limb_bits;
        let most = sizes.end() - 1;
        let table = self.table(&format!("{name} bits"), || {
            let entry = |bits: u32| {
                let mut entry = vec![bits.into(), 1 << (bits - 1)];
                entry.extend(widths(bits - 1, most, limb_bits));
                entry
            };
            sizes.map(entry).collect()
        });
        let values = self.integers(x, log);
        let bits = values.iter().map(|x| bit_length((*x).max(0)).into()).collect();
        let bits = Linear::view(whole(self.commit(&format!("{name} bits"), log, bits), log));
        let fetched = self.fetch(&format!("{name} size"), table, log, bits.clone());
        let rest = {
            let powers = self.integers(&fetched[0], log);
            values.iter().zip(powers).map(|(x, power)| x - power).collect()
        };
        let rest = self.value(&format!("{name} rest"), log, Width::Computed(&fetched[1..]), rest);
        self.constrain(log, vec![], rest.plus(&fetched[0]).minus(x));
        bits
    }

    /// rz = floor(2^(bl(Z) + 13) / Z), and bl(Z).
    fn reciprocal(&mut self, log: usize, z: &Linear<B>) -> (Linear<B>, Linear<B>) {
        let bits = self.bit_length("attention Z", log, z, SUM_BITS);
        let table = self.table("powers of sums", || {
            let entry = |bits: u32| {
                core::iter::once(i64::from(bits)).chain(digits_of(1 << (bits + 13), 4)).collect::<Vec<_>>()
            };
            SUM_BITS.map(entry).collect()
        });
        let power = self.fetch("attention power", table, log, bits.clone());
        let zs = self.integers(z, log);
        let sizes = self.integers(&bits, log);
        let product = |at: usize| 1i64 << (sizes[at].clamp(0, 40) + 13);
        let rz = (0..zs.len()).map(|at| product(at) / zs[at].max(1)).collect();
        let rz = Linear::view(whole(self.commit("attention reciprocal", log, rz), log));
        let rzs = self.integers(&rz, log);
        let below = (0..zs.len()).map(|at| product(at) - rzs[at] * zs[at]).collect();
        let below = self.commit("attention remainder", log, below);
        let below = Linear::view(whole(below, log));
        let z_digits = self.digits_of("attention Z", log, z, 3);
        let rz_digits = self.digits_of("attention reciprocal", log, &rz, 2);
        let below_digits = self.digits_of("attention remainder", log, &below, 3);
        self.in_range("attention remainder below Z", log, 24, &z.clone().minus(&below).offset(B::NEG_ONE));
        let mut positions: Vec<Position<B>> = (0..5).map(|_| Position::new()).collect();
        add_digits(&mut positions, B::ONE, &power);
        add_product(&mut positions, B::NEG_ONE, &rz_digits, &z_digits);
        add_digits(&mut positions, B::NEG_ONE, &below_digits);
        self.balance("attention division", log, positions);
        (rz, bits)
    }
}
