//! Queries and keys (docs/spec/arithmetic.md, section 6, steps 1 to 3): rotation, and their codes.
//!
//! Vectors are heads of tokens; channels of a head are its last axis. A rotation mixes neighbours, so it is said of pairs: the
//! even channels are the vector with its last coordinate 0, the odd ones with 1.
//!
//! ```text
//! a' 2^14 + r = a c - b s + 2^13,   b' 2^14 + r' = a s + b c + 2^13
//! code 2^e + r = x + H              every code within B; e is 0, or the largest element has no code with e - 1:
//!                                   W >= (B + 1) 2^(e-1) - H* for x = W, W > B 2^(e-1) + H* for x = -W
//! ```

use super::ranges::{Width, widths};
use super::{Builder, whole};
use crate::circuit::{Bit, Linear, Source};
use crate::field::{power_of_two, residue};
use crate::integer::{half, rsh};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// Bits of the magnitude of a rotated value: at most 32,767 times the root of 2. `2^14 a'` is below 2^30, and `a c - b s` below 2^29.6, as
/// [`crate::decoder::plan`] checks of the angles: the sides cannot differ by p.
const ROTATED_BITS: u32 = 16;
/// Fractional bits of cosine and sine.
const ROPE_BITS: u32 = 14;
/// Largest shift of a code.
const SHIFT_MAX: u32 = 8;
/// Bits of the magnitude of what is coded: a rotated value and a centre.
const MAGNITUDE_BITS: u32 = 18;

/// Codes of heads.
#[derive(Clone, Debug)]
pub struct HeadCodes<B> {
    /// The codes, over (vectors, channels).
    pub source: Source,
    /// e, over the vectors.
    pub e: Linear<B>,
}

/// The smallest e with every `rsh(x, e)` within `bound`.
fn shift_of(x: &[i64], bound: i64) -> i64 {
    let fits = |e: &i64| x.iter().all(|x| rsh(*x, *e as u32).abs() <= bound);
    (0..=i64::from(SHIFT_MAX)).find(fits).unwrap_or(SHIFT_MAX.into())
}

impl<B: PrimeField32> Builder<'_, B> {
    /// Rotates pairs of channels by `cosine` and `sine`, which are over the pairs; both within a space of `2^log` cells whose last axis is that of channels.
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
            (0..a.len())
                .flat_map(|at| [a[at] * c[at] - b[at] * s[at], a[at] * s[at] + b[at] * c[at]])
                .collect()
        };
        let offset = power_of_two::<B>(ROTATED_BITS);
        let rotated = sums.iter().map(|sum| rsh(*sum, ROPE_BITS) + (1 << ROTATED_BITS)).collect();
        let rotated = self.value(name, log, Width::Fixed(ROTATED_BITS + 1), rotated).offset(-offset);
        let rest = {
            let rotated = self.integers(&rotated, log);
            let rest = sums.iter().zip(rotated).map(|(sum, x)| sum + half(ROPE_BITS) - (x << ROPE_BITS));
            rest.collect()
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
        let table = self.table(&format!("shift to {bound}"), || {
            // e, 2^e, 2^(e-1), the least magnitude of a positive element, how much more of a negative one, widths of the remainder.
            let entry = |e: u32| {
                let (least, more) = match e {
                    0 => (0, 0),
                    e => (((bound + 1) << (e - 1)) - half(e - 1), 1 + 2 * half(e - 1) - (1 << (e - 1))),
                };
                let mut entry = vec![e.into(), 1 << e, half(e), least, more];
                entry.extend(widths(e, SHIFT_MAX, limb_bits));
                entry
            };
            (0..=SHIFT_MAX).map(entry).collect()
        });
        let values = self.integers(x, log);
        let shifts = values.chunks(1 << channels).map(|x| shift_of(x, bound)).collect();
        let e = Linear::view(whole(self.commit(&format!("{name} shift"), vectors, shifts), vectors));
        let fetched = self.fetch(&format!("{name} power"), table, vectors, e.clone());
        let [power, halves, least, more] = [0, 1, 2, 3].map(|at| fetched[at].clone());
        let powers = self.integers(&power, vectors);
        let halves_of = self.integers(&halves, vectors);
        let shifted = |(at, x): (usize, &i64)| {
            (x + halves_of[at >> channels]).div_euclid(powers[at >> channels].max(1))
        };
        let codes = values.iter().enumerate().map(shifted).collect();
        let source = self.commit(&format!("{name} code"), log, codes);
        let codes = Linear::view(whole(source, log));
        let bounded = self.bounded(&format!("within {bound}"), bound);
        self.look_up(bounded, log, vec![codes.clone()]);
        let rest = {
            let codes = self.integers(&codes, log);
            let rest =
                |(at, x): (usize, &i64)| x + halves_of[at >> channels] - codes[at] * powers[at >> channels];
            values.iter().enumerate().map(rest).collect()
        };
        let rest = self.value(&format!("{name} remainder"), log, Width::Computed(&fetched[4..]), rest);
        self.constrain(log, vec![(B::ONE, power, codes)], rest.minus(x).minus(&halves));

        let places: Vec<usize> = values
            .chunks(1 << channels)
            .map(|x| {
                (0..x.len()).max_by_key(|at| (x[*at].abs(), x[*at], core::cmp::Reverse(*at))).unwrap_or(0)
            })
            .collect();
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
        HeadCodes { source, e }
    }
}
