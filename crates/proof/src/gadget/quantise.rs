//! Vectors to int8 codes (docs/spec/arithmetic.md, sections 2 and 3.1), in two stages.
//!
//! *To 16 bits.* One lookup a vector says how x is shifted (e, or that all of it is 0). With L = 2^-e for e < 0, else 1, and P = 2^e for e > 0, else 1:
//!
//! ```text
//! x = P z + r,   r in 0 .. P,   z in -2^(w-1) .. 2^(w-1),   w = 16 + min(e, 0)          x16 = L z
//! ```
//!
//! The prover declares the smallest and the largest e, and whether there are vectors of zeros; where e is never negative, L is 1 and w is 16, where it is never
//! positive, there is no r. A range of z may be shown by a table that has what z is rounded to as well, if somebody needs that.
//!
//! *To codes.* A second lookup gives the step (k, sh), its reciprocal and that of the next smaller step (k*, sh*):
//!
//! ```text
//! L rho_k z + 2^(sh-1) = 2^sh code + r,   r in 0 .. 2^sh,   code in -127 ..= 127
//! ```
//!
//! (sh, code, r >> 16) are one entry of a table.
//!
//! The ranges show that everything fits e and the step. That nothing smaller fits is shown by one element, the largest in magnitude (a positive
//! one, if there are two; arithmetic.md says why one is enough): column `chosen` is 1 there and 0 elsewhere, X = L sum(chosen z) is its
//! x16, g says whether it is negative, W = |X|, and
//!
//! ```text
//! W - g >= 2^14                       x16 of a smaller e would not fit
//! 2 W rho_k* - g >= 255 2^sh*         its code of the next smaller step would not fit
//! ```
//!
//! All zero is an entry of its own in both tables: both bounds are 0, and sh and the codes. Then `|L rho_k z|`, which is below 2^29, is 0, so z is.

mod tables;

use super::linear::Codes;
use super::ranges::Width;
use super::tables::number;
use super::{Builder, each, of_rows, whole};
use crate::circuit::{Bit, Contraction, Home, Linear, Source, View};
use crate::field::{power_of_two, residue};
use crate::integer::{floor_div, half, rsh};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;
use tables::{
    CODE_LIMB, CODE_MAX, CODE_TABLE_LOG, Declared, E_MIN, FIRST_BITS, MANTISSAS, code_table, reciprocal,
    second_table, shift_of, step_key, step_of,
};

/// Bits of what the largest element has above the bound of the next smaller step.
const ABOVE_BITS: u32 = 28;
/// Bits of the factor of a norm: it lies in 2^13 ..= 2^14.
const RHO_BITS: u32 = 15;

/// Largest magnitude of a vector, as a shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The residual stream: below 2^28. The arithmetic allows all below 2^29, but not -2^29 itself, which no shift tells from them.
    Stream,
    /// Everything else: below 2^30.
    Any,
}

/// Some channels of vectors in 16 bits.
#[derive(Clone, Debug)]
pub struct SixteenPart<B> {
    /// log2 of the channels.
    pub log_channels: usize,
    /// z, over (vectors, channels): x16 is L z.
    pub z: Linear<B>,
    /// `rsh(x16, s)`, where its reader asked for it and the same lookup has it.
    pub rounded: Option<Source>,
}

/// Vectors in 16 bits.
#[derive(Clone, Debug)]
pub struct Sixteen<B> {
    /// log2 of the vectors.
    pub log_vectors: usize,
    /// Their channels, part by part.
    pub parts: Vec<SixteenPart<B>>,
    /// L, over the vectors, where it is not 1.
    pub left: Option<Linear<B>>,
    /// e, over the vectors; 0 of a vector of zeros.
    pub e: Linear<B>,
    /// 1 where all of a vector is 0, where there is such a vector.
    pub zero: Option<Linear<B>>,
    /// The largest magnitude of x that codes leave.
    pub at_most: i64,
    /// |x16| of the largest element.
    largest: Linear<B>,
    /// 1 where it is negative.
    negative: Linear<B>,
}

/// Where the largest magnitude is: that of a positive element, if there are two, and the first of equal ones.
pub(super) fn largest_of(x: &[i64]) -> usize {
    let mut best = (0, i64::MIN);
    for (at, x) in x.iter().enumerate() {
        // Twice the magnitude, and one more if it is positive.
        let key = 2 * x.abs() + i64::from(*x > 0);
        if key > best.1 {
            best = (at, key);
        }
    }
    best.0
}

/// What values of part `at` of the channels are called.
#[must_use]
pub(crate) fn part_name(name: &str, at: usize) -> String {
    if at == 0 { name.into() } else { alloc::format!("{name}, part {at},") }
}

/// Codes of a vector that both sides have, and their step (k, f) for rho = 2^14 and base 0.
#[must_use]
pub fn public_codes(x: &[i64]) -> (Vec<i64>, (i64, i64)) {
    let Some(e) = shift_of(x) else { return (vec![0; x.len()], (*MANTISSAS.start(), 0)) };
    let shift = |x: &i64| if e < 0 { x << -e } else { x >> e };
    let x16: Vec<i64> = x.iter().map(shift).collect();
    let (k, sh) = step_of(&x16, 1 << 14);
    let codes = x16.iter().map(|x| rsh(x * reciprocal(k), sh as u32)).collect();
    (codes, (k, sh + e))
}

impl<B: PrimeField32> Builder<'_, B> {
    /// `sum over channels of left right`, over the vectors; `right` is a view of (vectors, channels), 1 if there is none.
    pub(super) fn sum_over(
        &mut self,
        left: Source,
        right: Option<&View>,
        (vectors, channels): (usize, usize),
    ) -> Linear<B> {
        let right = right.cloned();
        let right = right.unwrap_or_else(|| View { source: self.one(), bits: Vec::new() });
        let left = whole(left, vectors + channels);
        let sum = self.contract(Contraction { outer: vectors, inner: channels, left, right });
        Linear::view(whole(sum, vectors))
    }

    /// The element of each vector at the places `places`: `sum(chosen x)`, with `chosen` being 1 at one place of each vector.
    pub fn choose(
        &mut self,
        name: &str,
        (vectors, channels): (usize, usize),
        x: &Linear<B>,
        places: &[usize],
    ) -> Linear<B> {
        self.choose_of(name, vectors, &[(x, channels)], places)
    }

    /// The same of vectors in parts, whose terms that are the same for a whole vector do not differ.
    fn choose_of(
        &mut self,
        name: &str,
        vectors: usize,
        parts: &[(&Linear<B>, usize)],
        places: &[usize],
    ) -> Linear<B> {
        let (mut ones, mut first) = (Linear::constant(B::NEG_ONE), 0);
        let mut out = Linear::constant(parts[0].0.constant);
        for (at, (x, channels)) in parts.iter().enumerate() {
            let mut values = vec![0; places.len() << channels];
            for (vector, place) in places.iter().enumerate() {
                if let Some(here) = place.checked_sub(first).filter(|here| *here < 1 << channels) {
                    values[(vector << channels) + here] = 1;
                }
            }
            first += 1 << channels;
            let name = if at == 0 { String::from(name) } else { alloc::format!("part {at}, {name}") };
            let chosen = self.boolean(&name, vectors + channels, values);
            ones = ones.plus(&self.sum_over(chosen, None, (vectors, *channels)));
            // x is a sum of columns and of what is the same for the whole vector, of which there is one copy.
            for term in &x.terms {
                let [view] = &term.views[..] else { panic!("a chosen value is a sum of plain terms") };
                if view.used().any(|at| at >= vectors) {
                    let sum = self.sum_over(chosen, Some(view), (vectors, *channels));
                    out = out.plus(&sum.times(term.coefficient));
                } else if at == 0 {
                    out.terms.push(term.clone());
                }
            }
        }
        self.constrain(vectors, vec![], ones);
        out
    }

    /// What `of` gives for the integers of every vector, its parts one behind the other.
    fn of_vectors<T: Copy + Default + Send>(
        &self,
        vectors: usize,
        parts: &[(&Linear<B>, usize)],
        of: impl Fn(usize, &[i64]) -> T + Sync,
    ) -> Vec<T> {
        let values: Vec<(Vec<i64>, usize)> =
            parts.iter().map(|(x, channels)| (self.integers(x, vectors + channels), 1 << channels)).collect();
        if let [(values, size)] = &values[..] {
            return of_rows(values, *size, of);
        }
        let size = values.iter().map(|(_, size)| *size).sum();
        let count = if self.has_witness() { 1usize << vectors } else { 0 };
        let mut all = Vec::with_capacity(count * size);
        for vector in 0..count {
            for (values, size) in &values {
                all.extend_from_slice(&values[vector * size..(vector + 1) * size]);
            }
        }
        of_rows(&all, size, of)
    }

    /// What vectors are declared to be.
    fn extent(&mut self, extent: Extent, shifts: &[Option<i64>]) -> Declared {
        let most = match extent {
            Extent::Stream => 13,
            Extent::Any => 15,
        };
        let of = |pick: fn(i64, i64) -> i64| shifts.iter().flatten().copied().reduce(pick).unwrap_or(0);
        let (least, largest) = (of(i64::min), of(i64::max));
        let from = i64::from(self.declare((most - E_MIN) as u32, || (least - E_MIN) as u32)) + E_MIN;
        let to = i64::from(self.declare((most - from) as u32, || (largest - from).max(0) as u32)) + from;
        let zeros = self.declare(1, || u32::from(shifts.iter().any(Option::is_none))) == 1;
        Declared { from, to, zeros }
    }

    /// Vectors in 16 bits, in parts of so many channels, of magnitudes of at most `owed`. With `rounded`, by so many bits, what the reader may have in the same lookup.
    pub fn sixteen(
        &mut self,
        name: &str,
        (x, owed): (&[(&Linear<B>, usize)], i64),
        vectors: usize,
        extent: Extent,
        rounded: Option<u32>,
    ) -> Sixteen<B> {
        let limb_bits = self.circuit.limb_bits;
        let shifts: Vec<Option<i64>> = self.of_vectors(vectors, x, |_, x| shift_of(x));
        let declared = self.extent(extent, &shifts);
        let keys: Vec<i64> = shifts.iter().map(|e| e.unwrap_or(declared.zero_key())).collect();
        let (key, mut fetched) = if declared.is_constant() {
            (Linear::constant(residue(declared.from)), Vec::new())
        } else {
            let Declared { from, to, zeros } = declared;
            let table =
                self.table(&alloc::format!("shift of {from} to {to}, {zeros}"), || declared.table(limb_bits));
            let key = Linear::view(whole(self.commit(&alloc::format!("{name} key"), vectors, keys), vectors));
            let fetched = self.fetch(&alloc::format!("{name} shift"), table, vectors, key.clone());
            (key, fetched)
        };
        let mut next =
            |there: bool| if there && !fetched.is_empty() { Some(fetched.remove(0)) } else { None };
        let zero = next(declared.zeros);
        let power = next(declared.to > 0);
        let (left, offset) = (next(declared.from < 0), next(declared.from < 0));
        let power = power.unwrap_or_else(|| Linear::constant(power_of_two(declared.from.max(0) as u32)));
        let e = match &zero {
            Some(zero) => key.minus(&zero.clone().times(residue(declared.zero_key()))),
            None => key,
        };

        let powers = self.integers(&power, vectors);
        let widths = match &left {
            Some(_) => fetched.drain(..super::ranges::limbs(FIRST_BITS, limb_bits)).collect(),
            None => Vec::new(),
        };
        let offset = offset.map(|offset| (offset, widths));
        let at_most = 1 << (FIRST_BITS as i64 - 1 + declared.to);
        let mut parts = Vec::with_capacity(x.len());
        for (at, (x, channels)) in x.iter().enumerate() {
            let (log, name) = (vectors + channels, part_name(name, at));
            let values = self.integers(x, log);
            let shifted = each(values.len(), |at| floor_div(values[at], powers[at >> channels]));
            let (z, rounded) = self.sixteen_bits(&name, (vectors, log), shifted, offset.clone(), rounded);
            let rest: Vec<i64> = {
                let z = self.integers(&z, log);
                each(values.len(), |at| values[at] - powers[at >> channels] * z[at])
            };
            if declared.to > 0 {
                let e = [e.clone()];
                let width = match declared {
                    _ if declared.is_constant() => Width::Fixed(declared.to as u32),
                    _ if declared.plain_remainder(limb_bits) => Width::Computed(&e),
                    _ => Width::Computed(&fetched),
                };
                let rest = self.value(&alloc::format!("{name} first remainder"), log, width, rest);
                self.constrain(log, vec![(B::ONE, power.clone(), z.clone())], rest.minus(x));
            } else {
                self.constrain(log, vec![], z.clone().minus(x));
            }
            self.owed(&name, log, x, owed, at_most);
            parts.push(SixteenPart { log_channels: *channels, z, rounded });
        }
        let (largest, negative) = self.largest(name, vectors, &parts, left.as_ref(), zero.as_ref());
        Sixteen { log_vectors: vectors, parts, left, e, zero, at_most, largest, negative }
    }

    /// z, of 16 bits, or of as many as `offset` has: what is added to it, and the widths of its limbs. And what it is rounded to, if one lookup has both.
    fn sixteen_bits(
        &mut self,
        name: &str,
        (vectors, log): (usize, usize),
        mut values: Vec<i64>,
        offset: Option<(Linear<B>, Vec<Linear<B>>)>,
        rounded: Option<u32>,
    ) -> (Linear<B>, Option<Source>) {
        let name_of = alloc::format!("{name} z");
        match (offset, rounded) {
            (Some((offset, widths)), _) => {
                let offsets = self.integers(&offset, vectors);
                let channels = log - vectors;
                values.iter_mut().enumerate().for_each(|(at, z)| *z += offsets[at >> channels]);
                let z = self.value(&name_of, log, Width::Computed(&widths), values);
                (z.minus(&offset), None)
            }
            (None, Some(s)) if self.circuit.limb_bits == FIRST_BITS => {
                let half = 1i64 << (FIRST_BITS - 1);
                let (all, cut) = (FIRST_BITS as usize, (FIRST_BITS - s) as usize);
                let table = self.formula_table(&alloc::format!("16 bits without {s}"), (all, 1), |circuit| {
                    // All z from -2^15 on: without its last s bits, and 1 more where the highest of these is 1.
                    let z = number(circuit, 0..all).offset(-residue::<B>(half));
                    let rounded = number(circuit, 0..cut).plus(&number(circuit, cut..cut + 1));
                    vec![z, rounded.offset(-residue::<B>(half >> s))]
                });
                let z = Linear::view(whole(self.commit(&name_of, log, values), log));
                let q = self.integers(&z, log);
                let q = each(q.len(), |at| rsh(q[at], s));
                let q = self.commit(&alloc::format!("{name} q"), log, q);
                self.look_up(table, log, vec![z.clone(), Linear::view(whole(q, log))]);
                (z, Some(q))
            }
            (None, _) => {
                let offset = power_of_two::<B>(FIRST_BITS - 1);
                values.iter_mut().for_each(|z| *z += 1 << (FIRST_BITS - 1));
                (self.value(&name_of, log, Width::Fixed(FIRST_BITS), values).offset(-offset), None)
            }
        }
    }

    /// The element that is largest, a positive one, if two are: its magnitude, at least 2^14, or 1 more if it is negative, and whether it is.
    fn largest(
        &mut self,
        name: &str,
        vectors: usize,
        parts: &[SixteenPart<B>],
        left: Option<&Linear<B>>,
        zero: Option<&Linear<B>>,
    ) -> (Linear<B>, Linear<B>) {
        let parts: Vec<(&Linear<B>, usize)> = parts.iter().map(|part| (&part.z, part.log_channels)).collect();
        let places: Vec<usize> = self.of_vectors(vectors, &parts, |_, z| largest_of(z));
        let element = self.choose_of(&alloc::format!("{name} chosen"), vectors, &parts, &places);
        let x16 = match left {
            None => element,
            Some(left) => {
                let lefts = self.integers(left, vectors);
                let elements = self.integers(&element, vectors);
                let x16 = elements.iter().zip(&lefts).map(|(z, left)| z * left).collect();
                let x16 = self.commit(&alloc::format!("{name} largest"), vectors, x16);
                let x16 = Linear::view(whole(x16, vectors));
                let product = vec![(B::ONE, left.clone(), element)];
                self.constrain(vectors, product, x16.clone().times(B::NEG_ONE));
                x16
            }
        };
        let (magnitude, negative) =
            self.magnitude(&alloc::format!("{name} largest"), vectors, &x16, FIRST_BITS);
        let mut above = magnitude.clone().minus(&negative).offset(-power_of_two::<B>(14));
        if let Some(zero) = zero {
            above = above.plus(&zero.clone().times(power_of_two(14)));
        }
        self.in_range(&alloc::format!("{name} no smaller shift"), vectors, FIRST_BITS, &above);
        (magnitude, negative)
    }

    /// `|x|` in `bits` bits, and whether x is negative (either, for 0).
    pub fn magnitude(&mut self, name: &str, log: usize, x: &Linear<B>, bits: u32) -> (Linear<B>, Linear<B>) {
        let values = self.integers(x, log);
        let signs = values.iter().map(|x| i64::from(*x < 0)).collect();
        let sign = Linear::view(whole(self.boolean(&alloc::format!("{name} sign"), log, signs), log));
        let magnitudes = values.iter().map(|x| x.abs()).collect();
        let magnitude = self.value(&alloc::format!("{name} magnitude"), log, Width::Fixed(bits), magnitudes);
        self.constrain(log, vec![(B::TWO, sign.clone(), x.clone())], magnitude.clone().minus(x));
        (magnitude, sign)
    }

    /// Codes of vectors in 16 bits, times `rho` 2^-14 (over the vectors) if there is one. The step is in units of x 2^base; `base` over the vectors.
    pub fn codes(
        &mut self,
        name: &str,
        x: &Sixteen<B>,
        rho: Option<&Linear<B>>,
        base: &Linear<B>,
    ) -> Codes<B> {
        let (vectors, limb_bits) = (x.log_vectors, self.circuit.limb_bits);
        let zeros = x.zero.is_some();
        let table = if zeros { "step, or zeros" } else { "step" };
        let table = self.table(table, || second_table(zeros, limb_bits));
        let parts: Vec<(&Linear<B>, usize)> =
            x.parts.iter().map(|part| (&part.z, part.log_channels)).collect();
        let lefts = self.lefts(x);
        let zeros = self.integers(x.zero.as_ref().unwrap_or(&Linear::constant(B::ZERO)), vectors);
        let rhos = rho.map(|rho| self.integers(rho, vectors));
        let keys = self.of_vectors(vectors, &parts, |vector, z| {
            let x16: Vec<i64> = z.iter().map(|z| z * lefts[vector]).collect();
            let (k, sh) = step_of(&x16, rhos.as_ref().map_or(1 << 14, |rhos| rhos[vector]));
            if zeros[vector] == 1 { 0 } else { step_key(k, sh) }
        });
        let key =
            Linear::view(whole(self.commit(&alloc::format!("{name} step key"), vectors, keys), vectors));
        let mut fetched = self.fetch(&alloc::format!("{name} step"), table, vectors, key);
        let [k, sh, own, smaller, power, bound] = [0, 1, 2, 3, 4, 5].map(|at| fetched[at].clone());
        let mut widths = fetched.split_off(6);
        let zero = match &x.zero {
            None => Linear::constant(B::ZERO),
            Some(known) => {
                let zero = widths.remove(0);
                self.constrain(vectors, vec![], zero.clone().minus(known));
                zero
            }
        };
        let (own, smaller) = match rho {
            None => (own, smaller),
            Some(rho) => {
                let mut scaled = |what: &str, reciprocal| {
                    self.scaled(&alloc::format!("{name} {what}"), vectors, rho, reciprocal)
                };
                (scaled("factor", &own), scaled("smaller factor", &smaller))
            }
        };
        // 2 W rho - g - 255 2^sh >= 0 for the next smaller step.
        let above = {
            let [w, rho, g, bound] =
                [&x.largest, &smaller, &x.negative, &bound].map(|linear| self.integers(linear, vectors));
            // A bound may be above half of the field's order.
            let order = i64::from(B::ORDER_U32);
            (0..w.len()).map(|at| 2 * w[at] * rho[at] - g[at] - bound[at].rem_euclid(order)).collect()
        };
        let above =
            self.value(&alloc::format!("{name} no smaller step"), vectors, Width::Fixed(ABOVE_BITS), above);
        let rest = above.plus(&x.negative).plus(&bound);
        self.constrain(vectors, vec![(B::TWO, x.largest.clone(), smaller)], rest.times(B::NEG_ONE));

        // A = L rho_k.
        let factor = match &x.left {
            None => own,
            Some(left) => {
                let own_values = self.integers(&own, vectors);
                let factors = own_values.iter().zip(&lefts).map(|(rho, left)| rho * left).collect();
                let factor = self.commit(&alloc::format!("{name} whole factor"), vectors, factors);
                let factor = Linear::view(whole(factor, vectors));
                let product = vec![(B::ONE, own, left.clone())];
                self.constrain(vectors, product, factor.clone().times(B::NEG_ONE));
                factor
            }
        };

        let shifts: Vec<i64> = self.integers(&sh, vectors).into_iter().map(|sh| sh.clamp(0, 40)).collect();
        let factors = self.integers(&factor, vectors);
        // The half of 2^sh; of the vector of zeros, whose sh is 0, none.
        let halves = power.clone().minus(&zero).times(B::TWO.inverse());
        let mut parts = Vec::with_capacity(x.parts.len());
        for (at, SixteenPart { z, log_channels, .. }) in x.parts.iter().enumerate() {
            let (log, name) = (vectors + log_channels, part_name(name, at));
            let values = self.integers(z, log);
            let products: Vec<i64> = each(values.len(), |at| {
                let vector = at >> log_channels;
                factors[vector] * values[at] + half(shifts[vector] as u32)
            });
            let shift = |at: usize| shifts[at >> log_channels];
            let code = each(products.len(), |at| products[at] >> shift(at));
            let code = self.commit(&alloc::format!("{name} code"), log, code);
            let codes = Linear::view(whole(code, log));
            let rest: Vec<i64> = {
                let codes = self.integers(&codes, log);
                each(products.len(), |at| products[at] - (codes[at] << shift(at)))
            };
            let rest = self.second_remainder(&name, (vectors, log), (&sh, &zero, &widths), &codes, rest);
            let products = vec![(B::ONE, factor.clone(), z.clone()), (B::NEG_ONE, power.clone(), codes)];
            self.constrain(log, products, halves.clone().minus(&rest));
            parts.push((code, *log_channels));
        }
        let f = x.e.clone().plus(&sh).plus(base);
        Codes { parts, log_vectors: vectors, log_steps: vectors, k, f }
    }

    /// L of every vector.
    pub(super) fn lefts(&self, x: &Sixteen<B>) -> Vec<i64> {
        self.integers(x.left.as_ref().unwrap_or(&Linear::constant(B::ONE)), x.log_vectors)
    }

    /// A code's range, and its remainder in `0 .. 2^sh`: its upper limb in one lookup with the code, if limbs are large.
    fn second_remainder(
        &mut self,
        name: &str,
        (vectors, log): (usize, usize),
        (sh, zero, widths): (&Linear<B>, &Linear<B>, &[Linear<B>]),
        code: &Linear<B>,
        mut rest: Vec<i64>,
    ) -> Linear<B> {
        let name = alloc::format!("{name} second remainder");
        if self.circuit.limb_bits < CODE_LIMB {
            let bounded = self.bounded("code", CODE_MAX);
            self.look_up(bounded, log, vec![code.clone()]);
            return self.value(&name, log, Width::Computed(widths), rest);
        }
        let everywhere: Vec<Bit> = (0..vectors).map(Bit::At).collect();
        self.said(&name, &mut rest);
        self.reduced(&mut rest);
        let mut limb = |part: usize, below: u32, mask: i64| {
            let of = |at: usize| (rest[at] >> below) & mask;
            let column = self.column_of(Home::Witness, &alloc::format!("{name}[{part}]"), log, of);
            Linear::view(whole(column, log))
        };
        let low = limb(0, 0, (1 << CODE_LIMB) - 1);
        let high = limb(1, CODE_LIMB, -1);
        let bits = B::from_u32(CODE_LIMB);
        let width = zero.within(&everywhere).times(-bits).offset(bits);
        self.look_up_range(log, width, low.clone());
        let table = self.formula_table("code", (CODE_TABLE_LOG, 3), code_table);
        self.look_up(table, log, vec![sh.within(&everywhere), code.clone(), high.clone()]);
        low.plus(&high.times(power_of_two(CODE_LIMB)))
    }

    /// `rsh(rho reciprocal, 14)`.
    fn scaled(&mut self, name: &str, log: usize, rho: &Linear<B>, reciprocal: &Linear<B>) -> Linear<B> {
        let products: Vec<i64> = {
            let [rho, reciprocal] = [rho, reciprocal].map(|linear| self.integers(linear, log));
            rho.iter().zip(reciprocal).map(|(rho, r)| rho * r + (1 << 13)).collect()
        };
        let scaled = products.iter().map(|product| product >> 14).collect();
        let scaled = self.value(name, log, Width::Fixed(RHO_BITS), scaled);
        let rest = {
            let scaled = self.integers(&scaled, log);
            products.iter().zip(scaled).map(|(product, scaled)| product - (scaled << 14)).collect()
        };
        let rest = self.value(&alloc::format!("{name} remainder"), log, Width::Fixed(14), rest);
        let both = scaled.clone().times(power_of_two(14)).plus(&rest).offset(-residue::<B>(1 << 13));
        self.constrain(log, vec![(B::ONE, rho.clone(), reciprocal.clone())], both.times(B::NEG_ONE));
        scaled
    }
}
