//! Vectors to int8 codes (docs/spec/arithmetic.md, sections 2 and 3.1), in two stages.
//!
//! *To 16 bits.* One lookup a vector says how x is shifted (e, or that all of it is 0). With L = 2^-e for e < 0, else 1, and P = 2^e for e > 0, else 1:
//!
//! ```text
//! x = P z + r,   r in 0 .. P,   z in -2^(w-1) .. 2^(w-1),   w = 16 + min(e, 0)          x16 = L z
//! ```
//!
//! *To codes.* A second lookup gives the step (k, sh), its reciprocal and that of the next smaller step (k*, sh*):
//!
//! ```text
//! L rho_k z + 2^(sh-1) = 2^sh code + r,   r in 0 .. 2^sh,   code in -127 ..= 127
//! ```
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
//! All zero is an entry of its own in both tables: z and codes have width 0 there, and both bounds are 0.

use super::linear::Codes;
use super::ranges::{Width, widths};
use super::{Builder, whole};
use crate::circuit::{Bit, Contraction, Linear, Source, View};
use crate::field::{power_of_two, residue};
use crate::integer::{half, rsh};
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// The smallest shift: 16 bits have room for one bit, 15 to the left.
const E_MIN: i64 = -15;
/// Bits of x16.
const FIRST_BITS: u32 = 16;
/// Most bits of the first remainder.
const FIRST_SHIFT_MAX: u32 = 15;
/// Second shifts of vectors that are not zero: products of 27 to 30 bits become 7.
const SECOND_SHIFT_MIN: i64 = 18;
/// The largest: 2^15 times 2^14 is 120 of the step (17, 22), and `255 2^22` is below the order of the field.
const SECOND_SHIFT_MAX: u32 = 22;
/// Step mantissas.
const MANTISSAS: core::ops::RangeInclusive<i64> = 16..=31;
/// Largest code.
const CODE_MAX: i64 = 127;
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

/// Vectors in 16 bits.
#[derive(Clone, Debug)]
pub struct Sixteen<B> {
    /// log2 of the vectors.
    pub log_vectors: usize,
    /// log2 of the channels.
    pub log_channels: usize,
    /// z, over (vectors, channels): x16 is L z.
    pub z: Linear<B>,
    /// L, over the vectors.
    pub left: Linear<B>,
    /// e, over the vectors.
    pub e: Linear<B>,
    /// The key of the first table.
    pub key: Linear<B>,
    /// 1 where all of a vector is 0.
    pub zero: Linear<B>,
    /// |x16| of the largest element.
    largest: Linear<B>,
    /// 1 where it is negative.
    negative: Linear<B>,
}

/// `reciprocal(k)` of a step mantissa.
fn reciprocal(k: i64) -> i64 {
    ((1 << 18) + k / 2) / k
}

/// The key of e in the first table; 0 is that of a vector of zeros.
fn shift_key(e: i64) -> i64 {
    e - E_MIN + 1
}

/// e of a vector that is not all zero: the smallest that leaves 16 bits.
fn shift_of(x: &[i64]) -> Option<i64> {
    let bits = x.iter().map(|x| i64::BITS - (x ^ (x >> 63)).leading_zeros()).max()?;
    let zero = x.iter().all(|x| *x == 0);
    (!zero).then_some((i64::from(bits) - 15).max(E_MIN))
}

/// The key, then e, P, L, the bound of the largest element, the offset of z, whether all is zero, the widths of z and of the remainder.
fn first_table(e_max: i64, limb_bits: u32) -> Vec<Vec<i64>> {
    let entry = |key: i64, e: i64, zero: bool| {
        let (right, left) = (e.max(0) as u32, (-e).max(0) as u32);
        let bits = if zero { 0 } else { FIRST_BITS - left };
        let least = if zero { 0 } else { 1 << 14 };
        let mut entry = vec![key, e, 1 << right, 1 << left, least, if zero { 0 } else { 1 << (bits - 1) }];
        entry.push(zero.into());
        entry.extend(widths(bits, FIRST_BITS, limb_bits));
        entry.extend(widths(right, FIRST_SHIFT_MAX, limb_bits));
        entry
    };
    let shifts = (E_MIN..=e_max).map(|e| entry(shift_key(e), e, false));
    core::iter::once(entry(0, 0, true)).chain(shifts).collect()
}

/// The key of a step in the second table; 0 is that of a vector of zeros.
fn step_key(k: i64, sh: i64) -> i64 {
    1 + (sh - SECOND_SHIFT_MIN) * 16 + k - MANTISSAS.start()
}

/// The next smaller step.
fn smaller(k: i64, sh: i64) -> (i64, i64) {
    if k == *MANTISSAS.start() { (*MANTISSAS.end(), sh - 1) } else { (k - 1, sh) }
}

/// The key, then k, sh, the reciprocal, that of the next smaller step, 2^sh, the bound of the next smaller step, whether all is zero, the widths of
/// the remainder.
fn second_table(limb_bits: u32) -> Vec<Vec<i64>> {
    let mut zero = vec![0, *MANTISSAS.start(), 0, reciprocal(16), reciprocal(16), 1, 0, 1];
    zero.extend(widths(0, SECOND_SHIFT_MAX, limb_bits));
    let mut entries = vec![zero];
    for sh in SECOND_SHIFT_MIN..=SECOND_SHIFT_MAX.into() {
        for k in MANTISSAS {
            let (k_smaller, sh_smaller) = smaller(k, sh);
            let mut entry = vec![step_key(k, sh), k, sh, reciprocal(k), reciprocal(k_smaller)];
            entry.extend([1 << sh, (2 * CODE_MAX + 1) << sh_smaller, 0]);
            entry.extend(widths(sh as u32, SECOND_SHIFT_MAX, limb_bits));
            entries.push(entry);
        }
    }
    entries
}

/// The smallest step in which every code of `x16` fits: (k, sh).
fn step_of(x16: &[i64], rho: i64) -> (i64, i64) {
    let fits =
        |rho_k: i64, sh: i64| x16.iter().all(|x| (-CODE_MAX..=CODE_MAX).contains(&rsh(x * rho_k, sh as u32)));
    let steps = (SECOND_SHIFT_MIN..=SECOND_SHIFT_MAX.into()).flat_map(|sh| MANTISSAS.map(move |k| (k, sh)));
    let rho_of = |k| if rho == 1 << 14 { reciprocal(k) } else { rsh(rho * reciprocal(k), 14) };
    let mut steps = steps.skip_while(|(k, sh)| !fits(rho_of(*k), *sh));
    steps.next().unwrap_or((*MANTISSAS.end(), SECOND_SHIFT_MAX.into()))
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
        let mut values = vec![0; places.len() << channels];
        places.iter().enumerate().for_each(|(vector, place)| values[(vector << channels) + place] = 1);
        let chosen = self.boolean(name, vectors + channels, values);
        let ones = self.sum_over(chosen, None, (vectors, channels));
        self.constrain(vectors, vec![], ones.clone().offset(B::NEG_ONE));
        // x is a sum of columns and of what is the same for the whole vector, of which there is one copy.
        let mut out = Linear::constant(x.constant);
        for term in &x.terms {
            let inside = |view: &View| view.used().any(|at| at >= vectors);
            let [view] = &term.views[..] else { panic!("a chosen value is a sum of plain terms") };
            if inside(view) {
                let sum = self.sum_over(chosen, Some(view), (vectors, channels));
                out = out.plus(&sum.times(term.coefficient));
            } else {
                out.terms.push(term.clone());
            }
        }
        out
    }

    /// Vectors in 16 bits.
    pub fn sixteen(
        &mut self,
        name: &str,
        x: &Linear<B>,
        (vectors, channels): (usize, usize),
        extent: Extent,
    ) -> Sixteen<B> {
        let (log, limb_bits) = (vectors + channels, self.circuit.limb_bits);
        let table = match extent {
            Extent::Stream => self.table("shift of the stream to 16 bits", || first_table(13, limb_bits)),
            Extent::Any => self.table("shift to 16 bits", || first_table(15, limb_bits)),
        };
        let values = self.integers(x, log);
        let rows = || values.chunks(1 << channels);
        let keys = rows().map(|x| shift_of(x).map_or(0, shift_key)).collect();
        let key = Linear::view(whole(self.commit(&alloc::format!("{name} key"), vectors, keys), vectors));
        let fetched = self.fetch(&alloc::format!("{name} shift"), table, vectors, key.clone());
        let [e, power, left, least, offset, zero] = [0, 1, 2, 3, 4, 5].map(|at| fetched[at].clone());
        let limbs = super::ranges::limbs(FIRST_BITS, limb_bits);
        let everywhere: Vec<Bit> = (0..vectors).map(Bit::At).collect();
        let widths: Vec<Linear<B>> = fetched[6..].iter().map(|width| width.within(&everywhere)).collect();

        let powers = self.integers(&power, vectors);
        let offsets = self.integers(&offset, vectors);
        let shifted = |(at, x): (usize, &i64)| {
            let vector = at >> channels;
            x.div_euclid(powers[vector].max(1)) + offsets[vector]
        };
        let shifted = values.iter().enumerate().map(shifted).collect();
        let z = self.value(&alloc::format!("{name} z"), log, Width::Computed(&widths[..limbs]), shifted);
        let z = z.minus(&offset);
        let rest = {
            let z = self.integers(&z, log);
            values.iter().enumerate().map(|(at, x)| x - powers[at >> channels] * z[at]).collect()
        };
        let rest_name = alloc::format!("{name} first remainder");
        let rest = self.value(&rest_name, log, Width::Computed(&widths[limbs..]), rest);
        self.constrain(log, vec![(B::ONE, power, z.clone())], rest.minus(x));

        // The element that is largest: a positive one, if two are.
        let z_values = self.integers(&z, log);
        let places: Vec<usize> = z_values
            .chunks(1 << channels)
            .map(|z| {
                (0..z.len()).max_by_key(|at| (z[*at].abs(), z[*at], core::cmp::Reverse(*at))).unwrap_or(0)
            })
            .collect();
        let element = self.choose(&alloc::format!("{name} chosen"), (vectors, channels), &z, &places);
        let lefts = self.integers(&left, vectors);
        let elements = self.integers(&element, vectors);
        let x16 = elements.iter().zip(&lefts).map(|(z, left)| z * left).collect();
        let x16 = self.commit(&alloc::format!("{name} largest"), vectors, x16);
        let x16 = Linear::view(whole(x16, vectors));
        self.constrain(vectors, vec![(B::ONE, left.clone(), element)], x16.clone().times(B::NEG_ONE));
        let (magnitude, negative) =
            self.magnitude(&alloc::format!("{name} largest"), vectors, &x16, FIRST_BITS);
        let above = magnitude.clone().minus(&negative).minus(&least);
        self.in_range(&alloc::format!("{name} no smaller shift"), vectors, FIRST_BITS, &above);
        Sixteen {
            log_vectors: vectors,
            log_channels: channels,
            z,
            left,
            e,
            key,
            zero,
            largest: magnitude,
            negative,
        }
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
        let (vectors, channels) = (x.log_vectors, x.log_channels);
        let (log, limb_bits) = (vectors + channels, self.circuit.limb_bits);
        let table = self.table("step", || second_table(limb_bits));
        let z = self.integers(&x.z, log);
        let lefts = self.integers(&x.left, vectors);
        let zeros = self.integers(&x.zero, vectors);
        let rhos = rho.map(|rho| self.integers(rho, vectors));
        let keys = z.chunks(1 << channels).enumerate().map(|(vector, z)| {
            let x16: Vec<i64> = z.iter().map(|z| z * lefts[vector]).collect();
            let (k, sh) = step_of(&x16, rhos.as_ref().map_or(1 << 14, |rhos| rhos[vector]));
            if zeros[vector] == 1 { 0 } else { step_key(k, sh) }
        });
        let keys = keys.collect();
        let key =
            Linear::view(whole(self.commit(&alloc::format!("{name} step key"), vectors, keys), vectors));
        let fetched = self.fetch(&alloc::format!("{name} step"), table, vectors, key);
        let [k, sh, own, smaller, power, bound, zero] = [0, 1, 2, 3, 4, 5, 6].map(|at| fetched[at].clone());
        self.constrain(vectors, vec![], zero.clone().minus(&x.zero));
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
        let factors = {
            let own = self.integers(&own, vectors);
            own.iter().zip(&lefts).map(|(rho, left)| rho * left).collect()
        };
        let factor = self.commit(&alloc::format!("{name} whole factor"), vectors, factors);
        let factor = Linear::view(whole(factor, vectors));
        self.constrain(vectors, vec![(B::ONE, own, x.left.clone())], factor.clone().times(B::NEG_ONE));

        let shifts = self.integers(&sh, vectors);
        let factors = self.integers(&factor, vectors);
        let product = |at: usize| {
            let vector = at >> channels;
            factors[vector] * z[at] + half(shifts[vector].clamp(0, 40) as u32)
        };
        let code = (0..z.len()).map(|at| product(at) >> shifts[at >> channels].clamp(0, 40)).collect();
        let code = self.commit(&alloc::format!("{name} code"), log, code);
        let codes = Linear::view(whole(code, log));
        let bounded = self.bounded("code", CODE_MAX);
        self.look_up(bounded, log, vec![codes.clone()]);
        let rest = {
            let codes = self.integers(&codes, log);
            (0..z.len()).map(|at| product(at) - (codes[at] << shifts[at >> channels].clamp(0, 40))).collect()
        };
        let everywhere: Vec<Bit> = (0..vectors).map(Bit::At).collect();
        let widths: Vec<Linear<B>> = fetched[7..].iter().map(|width| width.within(&everywhere)).collect();
        let rest =
            self.value(&alloc::format!("{name} second remainder"), log, Width::Computed(&widths), rest);
        // The half of 2^sh; of the vector of zeros, whose sh is 0, none.
        let halves = power.clone().minus(&zero).times(B::TWO.inverse());
        self.constrain(
            log,
            vec![(B::ONE, factor, x.z.clone()), (B::NEG_ONE, power, codes)],
            halves.minus(&rest),
        );
        let f = x.e.clone().plus(&sh).plus(base);
        Codes { source: code, log_vectors: vectors, log_channels: channels, log_steps: vectors, k, f }
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
