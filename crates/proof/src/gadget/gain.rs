//! Norms with gains (docs/spec/arithmetic.md, section 3.2): of queries and keys, behind sublayers, behind the embedding.
//!
//! ```text
//! c = n x16 - real sum x16                           layer norm: c takes the place of x
//! P_v u + r = L rho z + P_v / 2                      P_v = 2^(kk + s - F_u), fetched for each vector; s as in the norm
//! P_i y' + r' = G_i u + H_i                          public for each channel, r' in 0 .. P_i
//! x = before + y' + offset                           the stream, or nothing before
//! ```
//!
//! `(P_i, G_i, H_i)` is `(2^w, g, 2^(w-1))` for `w = t_i + F_u - F_y` in 0..=28, `(1, g 2^-w, 0)` for a shift to the left, and `(1, 0, 0)` for w above 28 and
//! channels that fill up. u is what the arithmetic has, so it is at most 132,000: the norm divides by no less than what the largest element alone has.
//! Without a wrap, y' is unique where `P |y'| + |G u| + 2 P` is below the order of the field. Whoever reads x shows that it is small enough, or y' is shown to have
//! 30 - w bits, channel by channel. A vector of zeros has the shift 0 and any rho: its u is 0.

use super::attention;
use super::linear::{Part, Stream};
use super::norm::Norm;
use super::quantise::{Extent, Sixteen, part_name};
use super::ranges::{Width, limbs, widths};
use super::{Builder, whole};
use crate::circuit::{Bit, Contraction, Linear, View};
use crate::error::PlanError;
use crate::field::residue;
use crate::integer::{bit_length, half};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::weights::Gain;
use p3_field::PrimeField32;

/// Largest magnitude of a normalised value: the root of n, a little more, in 17 bits without their sign.
const NORMALISED_MAX: i64 = 132_000;
/// Bits of the root of n and its fractional bits.
const NORMALISED_BITS: u32 = 17;
/// Largest magnitude of a normalised value times a gain.
const PRODUCT_MAX: i64 = 1 << 29;
/// Largest magnitude of an offset.
const OFFSET_MAX: i64 = 1 << 28;
/// Shifts above this give 0.
const SHIFT_MAX: i64 = 28;
/// Bits of the magnitude of `P y'`.
const OUTPUT_BITS: u32 = 30;
/// Largest magnitude of the stream that has an argument.
const STREAM_MAX: i64 = 1 << 28;
/// What a reader shows at least.
const READ_MAX: i64 = 1 << 16;
/// Most channels of a norm that subtracts the mean.
const CENTRED_MAX: usize = 8192;

/// F_u: fractional bits of a normalised value.
fn normalised_frac(width: usize) -> i64 {
    i64::from(NORMALISED_BITS - bit_length(width as i64 - 1).div_ceil(2))
}

/// The shift and the factor of a channel: w, 0 to the left, and G.
fn scaled(gain: &Gain, at: usize) -> (u32, i64) {
    let w = i64::from(gain.shifts[at]) + normalised_frac(gain.mantissas.len()) - i64::from(gain.out_frac);
    let g = i64::from(gain.mantissas[at]);
    match w {
        w if w > SHIFT_MAX => (0, 0),
        w if w < 0 => (0, g.saturating_mul(1 << (-w).min(50))),
        w => (w as u32, g),
    }
}

/// Whether a norm has as many gains as it should, and nothing of it can wrap.
///
/// # Errors
/// What it lacks or what is too large.
pub fn check(name: &str, gain: &Gain, width: usize, centred: bool) -> Result<(), PlanError> {
    let place = || String::from(name);
    let offsets = if centred { width } else { 0 };
    let counts = [(gain.mantissas.len(), width), (gain.shifts.len(), width), (gain.offsets.len(), offsets)];
    if counts.iter().any(|(got, expected)| got != expected)
        || gain.centred != centred
        || width < 2
        || (centred && width > CENTRED_MAX)
    {
        let expected = "gains of its width, and offsets where the mean is subtracted";
        return Err(PlanError::Unsupported { place: place(), op: "a norm with gains", expected });
    }
    let factor = (0..width).map(|at| scaled(gain, at).1.abs()).max().unwrap_or(0);
    let offset = gain.offsets.iter().map(|offset| i64::from(*offset).abs()).max().unwrap_or(0);
    for (what, got, limit) in [
        ("a normalised value and its gain", factor.saturating_mul(NORMALISED_MAX), PRODUCT_MAX),
        ("an offset", offset, OFFSET_MAX),
    ] {
        if got > limit {
            return Err(PlanError::CouldWrap { place: place(), what, got, limit });
        }
    }
    Ok(())
}

/// What the channels of a part are multiplied by: views of their coordinates.
struct Channels<B> {
    power: Linear<B>,
    factor: Linear<B>,
    half: Linear<B>,
    offset: Option<Linear<B>>,
    /// Widths of the limbs of r'.
    rest: Vec<Linear<B>>,
    /// What is added to y' of 30 - w bits, and the widths of its limbs with it.
    output: (Linear<B>, Vec<Linear<B>>),
    /// The largest |y'| that wraps nowhere.
    allowed: i64,
}

impl<B: PrimeField32> Builder<'_, B> {
    /// The sum over channels of an expression of plain terms.
    pub(super) fn sum_of(&mut self, x: &Linear<B>, (vectors, channels): (usize, usize)) -> Linear<B> {
        let all = B::from_u32(1 << channels);
        let mut sum = Linear::constant(x.constant * all);
        for term in &x.terms {
            let [view] = &term.views[..] else { panic!("what is summed up is a sum of plain terms") };
            if view.used().all(|at| at < vectors) {
                sum = sum.plus(&Linear::view(view.clone()).times(term.coefficient * all));
                continue;
            }
            let right = View { source: self.one(), bits: Vec::new() };
            let left = view.clone();
            let part = self.contract(Contraction { outer: vectors, inner: channels, left, right });
            sum = sum.plus(&Linear::view(whole(part, vectors)).times(term.coefficient));
        }
        sum
    }

    /// x16 of each part, in plain terms.
    pub fn sixteen_of(&mut self, name: &str, x: &Sixteen<B>) -> Vec<Linear<B>> {
        let Some(left) = &x.left else { return x.parts.iter().map(|part| part.z.clone()).collect() };
        let (vectors, lefts) = (x.log_vectors, self.lefts(x));
        let mut all = Vec::with_capacity(x.parts.len());
        for (at, part) in x.parts.iter().enumerate() {
            let (channels, name) = (part.log_channels, format!("{} 16 bits", part_name(name, at)));
            let log = vectors + channels;
            let values = self.integers(&part.z, log);
            let values = values.iter().enumerate().map(|(at, z)| z * lefts[at >> channels]).collect();
            let x16 = Linear::view(whole(self.commit(&name, log, values), log));
            let product = vec![(B::ONE, left.clone(), part.z.clone())];
            self.constrain(log, product, x16.clone().times(B::NEG_ONE));
            all.push(x16);
        }
        all
    }

    /// What the channels of `part` are multiplied by, in a space of `vectors` coordinates and those of channels.
    fn channels(&mut self, gain: &Gain, part: &Part, vectors: usize) -> Channels<B> {
        let limb_bits = self.circuit.limb_bits;
        let bits: Vec<Bit> = (vectors..vectors + part.log).map(Bit::At).collect();
        let scales: Vec<(u32, i64)> =
            (0..part.places.len()).map(|at| scaled(gain, part.first + at)).collect();
        let mut view = |added: i64, of: &dyn Fn(usize) -> i64| {
            let mut values = vec![residue(added); 1 << part.log];
            part.places.iter().enumerate().for_each(|(at, place)| values[*place as usize] = residue(of(at)));
            Linear::view(View { source: self.circuit.vector(values), bits: bits.clone() })
        };
        let most = scales.iter().map(|(w, _)| *w).max().unwrap_or(0);
        let factor = scales.iter().map(|(_, factor)| factor.abs()).max().unwrap_or(0);
        let width = |bits: u32, most: u32, limb: usize| widths(bits, most, limb_bits).nth(limb).unwrap_or(0);
        let rest = (0..limbs(most, limb_bits)).map(|limb| view(0, &|at| width(scales[at].0, most, limb)));
        let rest = rest.collect();
        let output_limbs = 0..limbs(OUTPUT_BITS + 1, limb_bits);
        let of_output = |w: u32, limb: usize| width(OUTPUT_BITS + 1 - w, OUTPUT_BITS + 1, limb);
        let output = output_limbs.map(|limb| view(of_output(0, limb), &|at| of_output(scales[at].0, limb)));
        let output = output.collect();
        let offsets = (!gain.offsets.is_empty()).then_some(&gain.offsets);
        Channels {
            power: view(1, &|at| 1 << scales[at].0),
            factor: view(0, &|at| scales[at].1),
            half: view(0, &|at| half(scales[at].0)),
            offset: offsets.map(|offsets| view(0, &|at| offsets[part.first + at].into())),
            rest,
            output: (view(1 << OUTPUT_BITS, &|at| 1 << (OUTPUT_BITS - scales[at].0)), output),
            allowed: (i64::from(B::ORDER_U32) - 1 - factor * NORMALISED_MAX - (2 << most)) >> most,
        }
    }

    /// `before + gain_norm(x)` of vectors in the parts `parts`, whose reader shows what it owes; and the largest magnitude that x is shown to have, which is at least `owed`.
    pub fn gain_norm(
        &mut self,
        name: &str,
        (x, owed): (&[&Linear<B>], i64),
        (vectors, parts): (usize, &[Part]),
        (gain, extent): (&Gain, Extent),
        before: Option<&[Stream<B>]>,
    ) -> (Vec<Stream<B>>, i64) {
        let norm = Norm { width: gain.mantissas.len(), eps: gain.eps };
        let of: Vec<_> = x.iter().zip(parts).map(|(x, part)| (*x, part.log)).collect();
        let rounds = Some(norm.rounds());
        let first_rounds = if gain.centred { None } else { rounds };
        let mut sixteen = self.sixteen(name, (&of, owed), vectors, extent, first_rounds);
        let at_most = sixteen.at_most;
        let mut centred = None;
        if gain.centred {
            let rest = self.without_mean(name, &sixteen, parts, norm.width);
            let of: Vec<_> = rest.iter().zip(parts).map(|(x, part)| (x, part.log)).collect();
            centred = Some(sixteen.e);
            let name = format!("{name} centred");
            sixteen = self.sixteen(&name, (&of, i64::MAX), vectors, Extent::Any, rounds);
        }
        let (rho, kk) = self.factor(name, &sixteen, norm, centred.as_ref());
        let factor = self.whole_factor(name, &sixteen, rho);
        let key = kk.offset(residue(i64::from(norm.rounds()) - normalised_frac(norm.width)));
        let key = self.shift_of_zeros(name, &sixteen, key);
        let everywhere: Vec<Bit> = (0..vectors).map(Bit::At).collect();
        let mut out = Vec::with_capacity(parts.len());
        for (at, (part, z)) in parts.iter().zip(&sixteen.parts).enumerate() {
            let (log, name) = (vectors + part.log, part_name(name, at));
            let product = vec![(B::ONE, factor.clone(), z.z.clone())];
            let product = (product, Linear::constant(B::ZERO), attention::PRODUCT_MAX);
            let key = (&key, vectors, &everywhere[..]);
            let (u, _) = self.shifted(&format!("{name} normalised"), log, key, product, false);
            let channels = self.channels(gain, part, vectors);
            out.push(self.gained(&name, log, &u, channels, before.map(|before| &before[at])));
        }
        (out, at_most)
    }

    /// `n x16 - sum x16`, 0 where channels are filled up.
    fn without_mean(&mut self, name: &str, x: &Sixteen<B>, parts: &[Part], width: usize) -> Vec<Linear<B>> {
        let (vectors, x16) = (x.log_vectors, self.sixteen_of(name, x));
        let mut sum = Linear::constant(B::ZERO);
        for (x, part) in x16.iter().zip(parts) {
            sum = sum.plus(&self.sum_of(x, (vectors, part.log)));
        }
        let values = self.integers(&sum, vectors);
        let sum = {
            let settled = Linear::view(whole(self.commit(&format!("{name} mean"), vectors, values), vectors));
            self.constrain(vectors, vec![], settled.clone().minus(&sum));
            settled
        };
        let mut rest = Vec::with_capacity(parts.len());
        for (x, part) in x16.into_iter().zip(parts) {
            let mut real = vec![B::ZERO; 1 << part.log];
            part.places.iter().for_each(|place| real[*place as usize] = B::ONE);
            let bits = (vectors..vectors + part.log).map(Bit::At).collect();
            let real = View { source: self.circuit.vector(real), bits };
            rest.push(x.times(B::from_usize(width)).minus(&sum.clone().by(&real)));
        }
        rest
    }

    /// L rho.
    fn whole_factor(&mut self, name: &str, x: &Sixteen<B>, rho: Linear<B>) -> Linear<B> {
        let Some(left) = &x.left else { return rho };
        let (vectors, lefts) = (x.log_vectors, self.lefts(x));
        let rhos = self.integers(&rho, vectors);
        let factors = rhos.iter().zip(lefts).map(|(rho, left)| rho * left).collect();
        let factor = self.commit(&format!("{name} whole factor"), vectors, factors);
        let factor = Linear::view(whole(factor, vectors));
        self.constrain(vectors, vec![(B::ONE, rho, left.clone())], factor.clone().times(B::NEG_ONE));
        factor
    }

    /// The shift `key`, of a vector of zeros 0.
    fn shift_of_zeros(&mut self, name: &str, x: &Sixteen<B>, key: Linear<B>) -> Linear<B> {
        let Some(zero) = &x.zero else { return key };
        let vectors = x.log_vectors;
        let (keys, zeros) = (self.integers(&key, vectors), self.integers(zero, vectors));
        let keys = keys.iter().zip(&zeros).map(|(key, zero)| key * (1 - zero)).collect();
        let own = Linear::view(whole(self.commit(&format!("{name} own shift"), vectors, keys), vectors));
        let rest = own.clone().minus(&key);
        self.constrain(vectors, vec![(B::ONE, zero.clone(), key)], rest);
        own
    }

    /// `before + y' + offset`.
    fn gained(
        &mut self,
        name: &str,
        log: usize,
        u: &Linear<B>,
        channels: Channels<B>,
        before: Option<&Stream<B>>,
    ) -> Stream<B> {
        let Channels { power, factor, half, offset, rest, output, allowed } = channels;
        let (before, at_most) = match before {
            Some(stream) => (stream.x.clone(), stream.at_most),
            None => (Linear::constant(B::ZERO), 0),
        };
        let (before, offset_max) = match &offset {
            Some(offset) => (before.plus(offset), OFFSET_MAX),
            None => (before, 0),
        };
        let [powers, products, befores] = {
            let [u, factor, half, power, before] =
                [u, &factor, &half, &power, &before].map(|linear| self.integers(linear, log));
            let products = (0..u.len()).map(|at| factor[at] * u[at] + half[at]).collect::<Vec<i64>>();
            [power, products, before]
        };
        let mut values: Vec<i64> =
            products.iter().zip(&powers).map(|(x, power)| x.div_euclid((*power).max(1))).collect();
        let largest = values.iter().zip(&befores).map(|(y, before)| (y + before).abs()).max().unwrap_or(0);
        let owed = allowed - at_most - offset_max;
        // What a reader shows is a power of two.
        let read = owed >= READ_MAX && self.declare(1, || u32::from(2 * largest > owed)) == 0;
        let stream = format!("{name} with gains");
        let (y, stream) = if read {
            values.iter_mut().zip(&befores).for_each(|(y, before)| *y += before);
            let x = Linear::view(whole(self.commit(&stream, log, values), log));
            (x.clone().minus(&before), Stream { x, at_most: STREAM_MAX, owed: owed.min(STREAM_MAX) })
        } else {
            let order = i64::from(B::ORDER_U32);
            let offsets = self.integers(&output.0, log);
            values.iter_mut().zip(offsets).for_each(|(y, offset)| *y += offset.rem_euclid(order));
            let y = self.value(&format!("{name} gained"), log, Width::Computed(&output.1), values);
            let y = y.minus(&output.0);
            let x = self.settle(&stream, log, &before.plus(&y));
            (y, Stream { x, at_most: STREAM_MAX, owed: STREAM_MAX })
        };
        let remainders = {
            let y = self.integers(&y, log);
            (0..y.len()).map(|at| products[at] - powers[at] * y[at]).collect()
        };
        let rest = self.value(&format!("{name} gained remainder"), log, Width::Computed(&rest), remainders);
        let products = vec![(B::ONE, power, y), (B::NEG_ONE, factor, u.clone())];
        self.constrain(log, products, rest.minus(&half));
        stream
    }
}
