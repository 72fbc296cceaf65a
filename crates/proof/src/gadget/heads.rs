//! Queries and keys (docs/spec/arithmetic.md, section 6, steps 1 to 3): rotation, and their codes.
//!
//! Vectors are heads of tokens; channels of a head are its last axis. A rotation mixes neighbours, so it is said of pairs: the
//! even channels are the vector with its last coordinate 0, the odd ones with 1.
//!
//! ```text
//! a' 2^14 + r = a c - b s + 2^13,   b' 2^14 + r' = a s + b c + 2^13
//! code 2^e + r = x + H              every code within B; (e, code, r) are one entry of a table while e is small
//!                                   e is 0, or the largest element has no code with e - 1:
//!                                   W >= (B + 1) 2^(e-1) - H* for x = W, W > B 2^(e-1) + H* for x = -W
//! ```
//!
//! The prover declares the largest e. Codes and remainders leave `|x| <= (B + 1/2) 2^e`, which is mostly more than x needs to have shown.

use super::quantise::largest_of;
use super::ranges::Width;
use super::tables::{log_of_bound, width_and_value, within};
use super::{Builder, each, of_rows, whole};
use crate::circuit::{Bit, Linear, Source};
use crate::field::{power_of_two, residue};
use crate::integer::{floor_div, half, rsh};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// Bits of the magnitude of a rotated value: at most 32,767 times the root of 2. `2^14 a'` is at most 2^30, and `a c - b s` below 2^29.6, as
/// [`crate::decoder::plan`] checks of the angles: the sides cannot differ by p.
pub const ROTATED_BITS: u32 = 16;
/// Fractional bits of cosine and sine.
const ROPE_BITS: u32 = 14;
/// Largest shift of a code.
const SHIFT_MAX: u32 = 8;
/// Largest shift for which codes and remainders are one lookup.
const JOINT_MAX: u32 = 3;
/// Bits of a limb with which they are.
const JOINT_LIMB: u32 = 16;
/// Bits of the magnitude of what is coded: a rotated value and a centre.
const MAGNITUDE_BITS: u32 = 18;

/// Codes of heads.
#[derive(Clone, Debug)]
pub struct HeadCodes<B> {
    /// The codes, over (vectors, channels).
    pub source: Source,
    /// e, over the vectors.
    pub e: Linear<B>,
    /// The largest e.
    pub e_max: u32,
    /// The largest magnitude of x that they leave.
    pub at_most: i64,
}

/// The smallest e with every `rsh(x, e)` within `bound`.
fn shift_of(x: &[i64], bound: i64) -> i64 {
    let fits = |e: &i64| x.iter().all(|x| rsh(*x, *e as u32).abs() <= bound);
    (0..=i64::from(SHIFT_MAX)).find(fits).unwrap_or(SHIFT_MAX.into())
}

impl<B: PrimeField32> Builder<'_, B> {
    /// Rotates pairs of channels by `cosine` and `sine`, which are over the pairs; both within a space of `2^log` cells whose last axis is that of channels. That
    /// magnitudes are at most `2^ROTATED_BITS` is shown by whoever reads them.
    pub fn rotate(
        &mut self,
        name: &str,
        log: usize,
        x: &Linear<B>,
        (cosine, sine): (&Linear<B>, &Linear<B>),
    ) -> Linear<B> {
        let pairs = log - 1;
        let half_of =
            |x: &Linear<B>, last: Bit| x.within(&(0..pairs).map(Bit::At).chain([last]).collect::<Vec<_>>());
        let (a, b) = (half_of(x, Bit::Zero), half_of(x, Bit::One));
        let sums: Vec<i64> = {
            let [a, b, c, s] = [&a, &b, cosine, sine].map(|linear| self.integers(linear, pairs));
            let of = |at: usize, odd: bool| match odd {
                false => a[at] * c[at] - b[at] * s[at],
                true => a[at] * s[at] + b[at] * c[at],
            };
            each(2 * a.len(), |at| of(at / 2, at % 2 == 1))
        };
        let rotated = each(sums.len(), |at| rsh(sums[at], ROPE_BITS));
        let rotated = Linear::view(whole(self.commit(name, log, rotated), log));
        let rest = {
            let rotated = self.integers(&rotated, log);
            each(sums.len(), |at| sums[at] + half(ROPE_BITS) - (rotated[at] << ROPE_BITS))
        };
        let rest = self.value(&format!("{name} remainder"), log, Width::Fixed(ROPE_BITS), rest);
        let both =
            rotated.clone().times(power_of_two(ROPE_BITS)).plus(&rest).offset(-residue::<B>(half(ROPE_BITS)));
        let even = vec![(B::ONE, a.clone(), cosine.clone()), (B::NEG_ONE, b.clone(), sine.clone())];
        self.constrain(pairs, even, half_of(&both, Bit::Zero).times(B::NEG_ONE));
        let odd = vec![(B::ONE, a, sine.clone()), (B::ONE, b, cosine.clone())];
        self.constrain(pairs, odd, half_of(&both, Bit::One).times(B::NEG_ONE));
        rotated
    }

    /// Codes of heads within `bound`.
    pub fn head_codes(
        &mut self,
        name: &str,
        x: &Linear<B>,
        (vectors, channels): (usize, usize),
        bound: i64,
    ) -> HeadCodes<B> {
        let (log, limb_bits) = (vectors + channels, self.circuit.limb_bits);
        // One element is chosen from plain terms only.
        let plain = x.terms.iter().all(|term| term.views.len() == 1);
        let x = &if plain { x.clone() } else { self.settle(name, log, x) };
        let values = self.integers(x, log);
        let shifts: Vec<i64> = of_rows(&values, 1 << channels, |_, x| shift_of(x, bound));
        let e_max = self.declare(SHIFT_MAX, || shifts.iter().max().map_or(0, |e| *e as u32));
        let at_most = ((2 * bound + 1) << e_max) / 2;
        let bounded = format!("within {bound}");
        if e_max == 0 {
            // The codes are the elements.
            let source = self.commit(&format!("{name} code"), log, values);
            let codes = Linear::view(whole(source, log));
            let bounded = self.bounded(&bounded, bound);
            self.look_up(bounded, log, vec![codes.clone()]);
            self.constrain(log, vec![], codes.minus(x));
            return HeadCodes { source, e: Linear::constant(B::ZERO), e_max, at_most };
        }
        let table = self.table(&format!("shift to {bound} by {e_max}"), || {
            // e, 2^e, 2^(e-1), the least magnitude of a positive element, how much more of a negative one.
            let entry = |e: u32| {
                let (least, more) = match e {
                    0 => (0, 0),
                    e => (((bound + 1) << (e - 1)) - half(e - 1), 1 + 2 * half(e - 1) - (1 << (e - 1))),
                };
                vec![e.into(), 1 << e, half(e), least, more]
            };
            (0..=e_max).map(entry).collect()
        });
        let e = Linear::view(whole(self.commit(&format!("{name} shift"), vectors, shifts), vectors));
        let fetched = self.fetch(&format!("{name} power"), table, vectors, e.clone());
        let [power, halves, least, more] = [0, 1, 2, 3].map(|at| fetched[at].clone());
        let powers = self.integers(&power, vectors);
        let halves_of = self.integers(&halves, vectors);
        let codes = each(values.len(), |at| {
            floor_div(values[at] + halves_of[at >> channels], powers[at >> channels])
        });
        let source = self.commit(&format!("{name} code"), log, codes);
        let codes = Linear::view(whole(source, log));
        let rest = {
            let codes = self.integers(&codes, log);
            let rest =
                |at: usize| values[at] + halves_of[at >> channels] - codes[at] * powers[at >> channels];
            each(values.len(), rest)
        };
        let rest_name = format!("{name} remainder");
        let rest = if e_max <= JOINT_MAX && limb_bits >= JOINT_LIMB {
            let rest = Linear::view(whole(self.commit(&rest_name, log, rest), log));
            let name = format!("codes {bounded} by {e_max}");
            let table = match log_of_bound(bound) {
                Some(code_log) => {
                    let rest_log = e_max as usize + 1;
                    self.formula_table(&name, (rest_log + code_log, 3), |circuit| {
                        let (e, rest) = width_and_value(circuit, 0..rest_log);
                        vec![e, within(circuit, rest_log..rest_log + code_log), rest]
                    })
                }
                None => self.keyed_table(&name, 3, || {
                    let entries = (0..=i64::from(e_max)).flat_map(|e| {
                        let rests = move |code: i64| (0..1i64 << e).map(move |rest| vec![e, code, rest]);
                        (-bound..=bound).flat_map(rests)
                    });
                    entries.collect()
                }),
            };
            self.look_up(table, log, vec![e.clone(), codes.clone(), rest.clone()]);
            rest
        } else {
            let bounded = self.bounded(&bounded, bound);
            self.look_up(bounded, log, vec![codes.clone()]);
            // Of at most eight bits: one limb.
            self.value(&rest_name, log, Width::Computed(core::slice::from_ref(&e)), rest)
        };
        self.constrain(log, vec![(B::ONE, power, codes)], rest.minus(x).minus(&halves));

        let places: Vec<usize> = of_rows(&values, 1 << channels, |_, x| largest_of(x));
        let element = self.choose(&format!("{name} chosen"), (vectors, channels), x, &places);
        let (magnitude, negative) =
            self.magnitude(&format!("{name} largest"), vectors, &element, MAGNITUDE_BITS);
        let above = {
            let [w, least, more, g] =
                [&magnitude, &least, &more, &negative].map(|linear| self.integers(linear, vectors));
            (0..w.len()).map(|at| w[at] - least[at] - more[at] * g[at]).collect()
        };
        let name = format!("{name} no smaller shift");
        let above = self.value(&name, vectors, Width::Fixed(MAGNITUDE_BITS), above);
        let rest = above.plus(&least).minus(&magnitude);
        self.constrain(vectors, vec![(B::ONE, more, negative)], rest);
        HeadCodes { source, e, e_max, at_most }
    }
}
