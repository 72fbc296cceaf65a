//! Seeded sampling (docs/spec/arithmetic.md, section 8): that a token is the one that a draw chooses.
//!
//! Candidates are ordered by weight, those of equal weights by number. Nobody sorts them: that some are the first ones, up to candidate v, is a bit for each (f),
//! compared with v; and of a set that is known to be first ones only the sum of the weights matters.
//!
//! ```text
//! real (L - l) + added = 2^(e-1) h + r + o         L the largest logit, o >= 0; e = 0: no r. The first two are at most cap, or o is 0
//! (h, rank, w_0, w_1, w_2) in a table              of h <= cap / 2^(e-1): weights in digits of 10 bits, and how many larger ones there are
//! (2 f - 1) (rank_v - rank) - f [behind v] - (1 - f) [before v] >= 0,   f = 1 at v
//! Z = sum over all that are kept, Q = sum up to the token, w its weight
//! 2^64 (Q - w) <= draw Z < 2^64 Q                  in digits
//! top k: as many as k, or the rest weighs nothing; top p: 2^16 Z >= p Z_k > 2^16 (Z - w_v)
//! ```
//!
//! Which candidate is the last that is kept is declared, so that what lies before and behind it is public.

use super::digits::{Position, add_digits, add_product, digits_of};
use super::ranges::Width;
use super::{Builder, whole};
use crate::circuit::{Linear, Marks, Public, Source};
use crate::field::{power_of_two, residue};
use crate::integer::{bit_length, rsh};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// `round(2^30 log2 e)`.
const LOG2_E_Q30: u64 = 1_549_082_005;
/// Bits of a logit's distance from the largest.
const BEYOND_BITS: u32 = 30;
/// Bits of a rank, and of what a rank differs from another by.
const RANK_BITS: u32 = 13;
/// What a distance in octaves is cut to.
const OCTAVES_MAX: i64 = 4095;
/// Digits of a weight.
const WEIGHT_DIGITS: usize = 3;
/// Those of a sum of weights.
const SUM_DIGITS: usize = 5;
/// Those of a draw.
const DRAW_DIGITS: usize = 7;
/// Those of what a product has above a multiple of 2^64.
const REST_DIGITS: usize = 9;

/// How tokens are drawn: the numbers of section 8, valid for a temperature of at least 2^-10.
#[derive(Clone, Debug)]
pub struct Sampler<'t> {
    /// Of the logits.
    pub frac: i64,
    /// Temperature in 16 fractional bits.
    pub temperature_q16: u32,
    /// Candidates kept; 0 keeps all.
    pub top_k: usize,
    /// Mass kept, in 16 fractional bits.
    pub top_p_q16: u32,
    /// Weights by distance in octaves.
    pub exp2: &'t [u32],
    /// Candidates that are not filling.
    pub vocab: usize,
}

/// What distances become: the reduced temperature and its shifts.
struct Scale {
    beta: i64,
    shift: u32,
    cap: i64,
    e: u32,
}

impl Sampler<'_> {
    fn scale(&self) -> Scale {
        let c = (LOG2_E_Q30 << 16) / u64::from(self.temperature_q16.max(1));
        let reduce = bit_length(c as i64).saturating_sub(14);
        let beta = (c >> reduce) as i64;
        let shift = (22 + self.frac - i64::from(reduce)).max(0) as u32;
        let cap = (4096i64 << shift) / beta.max(1) + 1;
        let e = bit_length(cap).saturating_sub(15).min(shift);
        Scale { beta, shift, cap, e }
    }
}

impl Scale {
    /// log2 of the steps that distances are counted in: one less than e, whose rounding then is that of an integer.
    fn fine(&self) -> u32 {
        self.e.saturating_sub(1)
    }

    /// The last step.
    fn last(&self) -> i64 {
        self.cap >> self.fine()
    }

    /// The distance in octaves of step `h`.
    fn octaves(&self, h: i64) -> i64 {
        let rounded = if self.e == 0 { h } else { (h + 1) >> 1 };
        rsh(rounded * self.beta, self.shift - self.e).min(OCTAVES_MAX)
    }
}

/// Rows of logits that are drawn from.
#[derive(Clone, Debug)]
pub struct Draws<'t> {
    /// The token of each row, also of those that are filling.
    pub tokens: &'t [usize],
    /// Its draw.
    pub words: &'t [u64],
    /// log2 of the candidates.
    pub vocab: usize,
}

/// A set of first candidates: how many, and the sum of their weights by digit, each below 2^30; over the rows.
struct First<B> {
    count: Linear<B>,
    sums: Vec<Linear<B>>,
    /// The weight of the last one, in digits.
    last: Vec<Linear<B>>,
}

/// Weights of candidates, over (row, candidate).
struct Weights<B> {
    rank: Linear<B>,
    digits: Vec<Source>,
}

impl<B: PrimeField32> Builder<'_, B> {
    /// The tokens of `draws` are those that the sampler draws by `logits`, over (row, candidate).
    pub fn drawn(&mut self, sampler: &Sampler<'_>, draws: &Draws<'_>, logits: &Linear<B>) {
        let rows = draws.tokens.len().trailing_zeros() as usize;
        let weights = self.weights_of(sampler, draws, rows, logits);
        let real = self.before(draws, &vec![sampler.vocab; 1 << rows]);
        let all = self.sums_of(draws, rows, &weights, real);
        let mut kept = all.clone();
        if sampler.top_k > 0 {
            let k = sampler.top_k.min(sampler.vocab);
            let first = self.first("top k", sampler, draws, &weights, |order| order.kept_by_number(k));
            self.as_many(rows, k, &first, &all);
            kept = first.sums;
        }
        let mut sum = self.sum_digits("weights kept", rows, &kept);
        if sampler.top_p_q16 < 1 << 16 {
            let (p, before) = (sampler.top_p_q16, sum);
            let first = self.first("top p", sampler, draws, &weights, |order| order.kept_by_mass(sampler));
            sum = self.sum_digits("mass kept", rows, &first.sums);
            self.enough(rows, p, (&sum, &first.last), &before);
        }
        let tokens: Vec<usize> = draws.tokens.to_vec();
        let upto = self.first_to("drawn", draws, &weights, &tokens);
        self.chosen(rows, draws, (&sum, &upto));
    }

    /// 1 at the candidates in front of one of each row, over (row, candidate).
    fn before(&mut self, draws: &Draws<'_>, at: &[usize]) -> Source {
        let at = at.iter().map(|at| *at as u32).collect();
        self.circuit.public(Public::Before(Marks { at, log: draws.vocab }))
    }

    /// Rank and weight of each candidate.
    fn weights_of(
        &mut self,
        sampler: &Sampler<'_>,
        draws: &Draws<'_>,
        rows: usize,
        logits: &Linear<B>,
    ) -> Weights<B> {
        let (vocab, scale) = (sampler.vocab, sampler.scale());
        let (log, width, fine) = (rows + draws.vocab, 1usize << draws.vocab, scale.fine());
        let values = self.integers(logits, log);
        let real = Linear::view(whole(self.before(draws, &vec![vocab; 1 << rows]), log));
        // Candidates that are added are as far away as one can be.
        let far = residue::<B>(scale.last() << fine);
        let added = real.clone().times(-far).offset(far);
        let best = |row: &[i64]| (0..vocab).max_by_key(|v| (row[*v], core::cmp::Reverse(*v))).unwrap_or(0);
        let places: Vec<usize> = values.chunks(width).map(best).collect();
        let largest = values.chunks(width).zip(&places).map(|(row, best)| row[*best]).collect();
        let largest = Linear::view(whole(self.commit("largest logit", rows, largest), rows));
        let below = largest.minus(logits);
        let chosen = (0..values.len()).map(|at| i64::from(places[at / width] == at % width)).collect();
        let chosen = self.boolean("largest logit chosen", log, chosen);
        let ones = self.sum_over(chosen, None, (rows, draws.vocab));
        self.constrain(rows, vec![], ones.offset(B::NEG_ONE));
        let chosen = Linear::view(whole(chosen, log));
        let unreal = real.clone().times(B::NEG_ONE).offset(B::ONE);
        for other in [below.clone(), unreal] {
            self.constrain(log, vec![(B::ONE, chosen.clone(), other)], Linear::constant(B::ZERO));
        }

        let distances: Vec<i64> = {
            let [real, below, added] = [&real, &below, &added].map(|linear| self.integers(linear, log));
            (0..real.len()).map(|at| real[at] * below[at] + added[at]).collect()
        };
        let inside: Vec<i64> = distances.iter().map(|distance| (*distance).min(scale.cap)).collect();
        let steps = inside.iter().map(|inside| inside >> fine).collect();
        let step = Linear::view(whole(self.commit("distance step", log, steps), log));
        let table = self.table("weights of distances", || weight_table(sampler, &scale));
        let fetched = self.fetch("weight", table, log, step.clone());
        let mut within = step.times(power_of_two(fine));
        if fine > 0 {
            let rest = inside.iter().map(|inside| inside & ((1 << fine) - 1)).collect();
            within = within.plus(&self.value("distance rest", log, Width::Fixed(fine), rest));
        }
        let over = distances.iter().zip(&inside).map(|(all, inside)| all - inside).collect();
        let (over, over_bits) = self.declared("distance over", log, BEYOND_BITS, over);
        let rest = added.minus(&within).minus(&over);
        self.constrain(log, vec![(B::ONE, real, below)], rest);
        if over_bits > 0 {
            let below = within.times(B::NEG_ONE).offset(residue(scale.cap));
            self.constrain(log, vec![(B::ONE, over, below)], Linear::constant(B::ZERO));
        }
        let digits = fetched[1..].iter().map(|digit| digit.terms[0].views[0].source).collect();
        Weights { rank: fetched[0].clone(), digits }
    }

    /// Sums of weights over the candidates that `set` has, digit by digit.
    fn sums_of(
        &mut self,
        draws: &Draws<'_>,
        rows: usize,
        weights: &Weights<B>,
        set: Source,
    ) -> Vec<Linear<B>> {
        let view = whole(set, rows + draws.vocab);
        let sum = |digit: &Source| self.sum_over(*digit, Some(&view), (rows, draws.vocab));
        weights.digits.iter().map(sum).collect()
    }

    /// A set of first candidates whose last one is declared.
    fn first(
        &mut self,
        name: &str,
        sampler: &Sampler<'_>,
        draws: &Draws<'_>,
        weights: &Weights<B>,
        last: impl Fn(&Order) -> usize,
    ) -> First<B> {
        let rows = draws.tokens.len().trailing_zeros() as usize;
        let orders = self.orders(sampler, draws, rows, weights);
        let mut lasts = Vec::with_capacity(draws.tokens.len());
        for row in 0..draws.tokens.len() {
            lasts.push(self.declare_number(sampler.vocab - 1, || last(&orders[row])));
        }
        self.first_to(name, draws, weights, &lasts)
    }

    /// The candidates of each row in their order, where there is a witness.
    fn orders(
        &self,
        sampler: &Sampler<'_>,
        draws: &Draws<'_>,
        rows: usize,
        weights: &Weights<B>,
    ) -> Vec<Order> {
        let log = rows + draws.vocab;
        let ranks = self.integers(&weights.rank, log);
        let digits: Vec<Vec<i64>> = weights
            .digits
            .iter()
            .map(|digit| self.integers(&Linear::view(whole(*digit, log)), log))
            .collect();
        let weight =
            |at: usize| (0..WEIGHT_DIGITS).map(|digit| digits[digit][at] << (10 * digit)).sum::<i64>();
        let of_row = |(row, ranks): (usize, &[i64])| {
            let mut order: Vec<usize> = (0..sampler.vocab).collect();
            order.sort_by_key(|v| (ranks[*v], *v));
            let weights = order.iter().map(|v| weight((row << draws.vocab) + v)).collect();
            Order { order, weights }
        };
        ranks.chunks(1 << draws.vocab).enumerate().map(of_row).collect()
    }

    /// The candidates up to one of each row, itself included.
    fn first_to(&mut self, name: &str, draws: &Draws<'_>, weights: &Weights<B>, lasts: &[usize]) -> First<B> {
        let rows = lasts.len().trailing_zeros() as usize;
        let (log, width) = (rows + draws.vocab, 1usize << draws.vocab);
        let at = lasts.iter().map(|at| *at as u32).collect();
        let here = self.circuit.public(Public::OneHot(Marks { at, log: draws.vocab }));
        let before = self.before(draws, lasts);
        let [at_last, before] = [here, before].map(|source| Linear::view(whole(source, log)));
        let behind = before.clone().plus(&at_last).times(B::NEG_ONE).offset(B::ONE);
        let ranks = self.integers(&weights.rank, log);
        let of_last = ranks.chunks(width).zip(lasts).map(|(ranks, last)| ranks[*last]).collect();
        let of_last = Linear::view(whole(self.commit(&format!("{name} rank"), rows, of_last), rows));
        let above = of_last.clone().minus(&weights.rank);
        self.constrain(log, vec![(B::ONE, at_last.clone(), above.clone())], Linear::constant(B::ZERO));
        let is_first = |at: usize| {
            let last = lasts[at / width];
            (ranks[at], at % width) <= (ranks[at - at % width + last], last)
        };
        let flags = (0..ranks.len()).map(|at| i64::from(is_first(at))).collect();
        let source = self.boolean(&format!("{name} first"), log, flags);
        let flag = Linear::view(whole(source, log));
        let distance = {
            let [flag, above, before, behind] =
                [&flag, &above, &before, &behind].map(|linear| self.integers(linear, log));
            let one = |at: usize| {
                let f = flag[at];
                (2 * f - 1) * above[at] - f * behind[at] - (1 - f) * before[at]
            };
            (0..flag.len()).map(one).collect()
        };
        let distance = self.value(&format!("{name} ranks apart"), log, Width::Fixed(RANK_BITS), distance);
        // (2 f - 1) above - f (behind - before) - before
        let products =
            vec![(B::TWO, flag.clone(), above.clone()), (B::NEG_ONE, flag.clone(), behind.minus(&before))];
        self.constrain(log, products, above.plus(&before).plus(&distance).times(B::NEG_ONE));
        let other = flag.times(B::NEG_ONE).offset(B::ONE);
        self.constrain(log, vec![(B::ONE, at_last, other)], Linear::constant(B::ZERO));
        First {
            count: self.sum_over(source, None, (rows, draws.vocab)),
            sums: self.sums_of(draws, rows, weights, source),
            last: self.sums_of(draws, rows, weights, here),
        }
    }

    /// The first ones are `k`, or all others weigh nothing and are no more.
    fn as_many(&mut self, rows: usize, k: usize, first: &First<B>, all: &[Linear<B>]) {
        let short = first.count.clone().times(B::NEG_ONE).offset(B::from_usize(k));
        self.in_range("top k count", rows, bit_length(k as i64), &short);
        let whole_k = self.integers(&short, rows).into_iter().map(|short| i64::from(short == 0)).collect();
        let whole_k = Linear::view(whole(self.boolean("top k whole", rows, whole_k), rows));
        self.constrain(rows, vec![(B::ONE, whole_k.clone(), short)], Linear::constant(B::ZERO));
        let rest = whole_k.times(B::NEG_ONE).offset(B::ONE);
        for (first, all) in first.sums.iter().zip(all) {
            let others = all.clone().minus(first);
            self.constrain(rows, vec![(B::ONE, rest.clone(), others)], Linear::constant(B::ZERO));
        }
        // The last one weighs something.
        let mut last = Linear::constant(B::NEG_ONE);
        for (digit, weight) in first.last.iter().enumerate() {
            last = last.plus(&weight.clone().times(power_of_two(10 * digit as u32)));
        }
        self.in_range("top k least weight", rows, 24, &last);
    }

    /// `2^16 sum >= p before > 2^16 (sum - last)`.
    fn enough(
        &mut self,
        rows: usize,
        p: u32,
        (sum, last): (&[Linear<B>], &[Linear<B>]),
        before: &[Linear<B>],
    ) {
        // 2^16 is 64 in the digit above.
        let mut positions: Vec<Position<B>> = (0..SUM_DIGITS + 3).map(|_| Position::new()).collect();
        let shifted = |digits: &[Linear<B>]| -> Vec<Linear<B>> {
            digits.iter().map(|digit| digit.clone().times(B::from_u32(64))).collect()
        };
        add_digits(&mut positions[1..], B::ONE, &shifted(sum));
        for (at, part) in digits_of(p.into(), 2).enumerate() {
            let goal: Vec<Linear<B>> =
                before.iter().map(|digit| digit.clone().times(residue(part))).collect();
            add_digits(&mut positions[at..], B::NEG_ONE, &goal);
        }
        let (beyond, _) = self.rest_of("mass beyond", rows, 5, &positions);
        add_digits(&mut positions, B::NEG_ONE, &beyond);
        self.balance("mass enough", rows, positions);
        let mut positions: Vec<Position<B>> = (0..6).map(|_| Position::new()).collect();
        positions[0].linear = Linear::constant(B::NEG_ONE);
        add_digits(&mut positions[1..], B::ONE, &shifted(last));
        add_digits(&mut positions, B::NEG_ONE, &beyond);
        let (short, _) = self.rest_of("mass short", rows, 5, &positions);
        add_digits(&mut positions, B::NEG_ONE, &short);
        self.balance("mass no less", rows, positions);
    }

    /// The draws fall on the last of `upto`: `2^64 (Q - w) <= draw Z < 2^64 Q`.
    fn chosen(&mut self, rows: usize, draws: &Draws<'_>, (sum, upto): (&[Linear<B>], &First<B>)) {
        let prefix = self.sum_digits("weights to the token", rows, &upto.sums);
        let word = |digit: usize| {
            let of = |word: &u64| residue(digits_of((*word).into(), DRAW_DIGITS).nth(digit).unwrap_or(0));
            draws.words.iter().map(of).collect::<Vec<B>>()
        };
        let words: Vec<Linear<B>> = (0..DRAW_DIGITS)
            .map(|digit| Linear::view(whole(self.circuit.vector(word(digit)), rows)))
            .collect();
        // 2^64 is 16 in the seventh digit.
        let shifted = |digits: &[Linear<B>], sign: i64| -> Vec<Linear<B>> {
            digits.iter().map(|digit| digit.clone().times(residue(16 * sign))).collect()
        };
        let mut positions: Vec<Position<B>> =
            (0..DRAW_DIGITS + SUM_DIGITS).map(|_| Position::new()).collect();
        add_product(&mut positions, B::ONE, &words, sum);
        add_digits(&mut positions[6..], B::ONE, &shifted(&prefix, -1));
        add_digits(&mut positions[6..], B::ONE, &shifted(&upto.last, 1));
        let (above, _) = self.rest_of("draw above", rows, REST_DIGITS, &positions);
        add_digits(&mut positions, B::NEG_ONE, &above);
        self.balance("draw at least", rows, positions);
        let mut positions: Vec<Position<B>> = (0..REST_DIGITS + 1).map(|_| Position::new()).collect();
        positions[0].linear = Linear::constant(B::NEG_ONE);
        add_digits(&mut positions[6..], B::ONE, &shifted(&upto.last, 1));
        add_digits(&mut positions, B::NEG_ONE, &above);
        let (below, _) = self.rest_of("draw below", rows, REST_DIGITS, &positions);
        add_digits(&mut positions, B::NEG_ONE, &below);
        self.balance("draw less", rows, positions);
    }

    /// Digits of what positions add up to, and that as integers.
    fn rest_of(
        &mut self,
        name: &str,
        rows: usize,
        count: usize,
        positions: &[Position<B>],
    ) -> (Vec<Linear<B>>, Vec<i128>) {
        let cells = if self.has_witness() { 1usize << rows } else { 0 };
        let mut sums = vec![0i128; cells];
        for (at, position) in positions.iter().enumerate() {
            let mut here = self.integers(&position.linear, rows);
            for (_, a, b) in &position.products {
                let [a, b] = [a, b].map(|linear| self.integers(linear, rows));
                here.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
            }
            sums.iter_mut().zip(here).for_each(|(sum, here)| *sum += i128::from(here) << (10 * at));
        }
        let values: Vec<u128> = sums.iter().map(|sum| (*sum).max(0) as u128).collect();
        (self.digits(name, rows, count, &values), sums)
    }

    /// The digits of a sum whose digits are sums themselves, each below 2^30.
    fn sum_digits(&mut self, name: &str, rows: usize, sums: &[Linear<B>]) -> Vec<Linear<B>> {
        let mut positions: Vec<Position<B>> = (0..SUM_DIGITS + 1).map(|_| Position::new()).collect();
        for (at, sum) in sums.iter().enumerate() {
            let parts = self.digits_of(&format!("{name}, digit {at}"), rows, sum, 3);
            add_digits(&mut positions[at..], B::ONE, &parts);
        }
        let (digits, _) = self.rest_of(name, rows, SUM_DIGITS, &positions);
        add_digits(&mut positions, B::NEG_ONE, &digits);
        self.balance(name, rows, positions);
        digits
    }
}

/// The candidates of a row in their order, and their weights.
struct Order {
    order: Vec<usize>,
    weights: Vec<i64>,
}

impl Order {
    /// The last of the first k that weigh something.
    fn kept_by_number(&self, k: usize) -> usize {
        let heavy = self.weights.iter().take_while(|weight| **weight > 0).count();
        self.order[k.min(heavy).max(1) - 1]
    }

    /// The last of as few as have enough of the mass of those that are kept by number.
    fn kept_by_mass(&self, sampler: &Sampler<'_>) -> usize {
        let k = if sampler.top_k == 0 { self.order.len() } else { sampler.top_k.min(self.order.len()) };
        let all: i128 = self.weights[..k].iter().map(|weight| i128::from(*weight)).sum();
        let mut so_far = 0;
        let enough = |weight: &i64| {
            so_far += i128::from(*weight);
            so_far << 16 >= all * i128::from(sampler.top_p_q16)
        };
        self.order[self.weights[..k].iter().position(enough).unwrap_or(0)]
    }
}

/// h, how many larger weights there are, and the digits of the weight.
fn weight_table(sampler: &Sampler<'_>, scale: &Scale) -> Vec<Vec<i64>> {
    let weight = |h: i64| i64::from(sampler.exp2.get(scale.octaves(h) as usize).copied().unwrap_or(0));
    let (mut rank, mut before) = (0, weight(0));
    let entry = |h: i64| {
        let weight = weight(h);
        rank += i64::from(weight < before);
        before = weight;
        [h, rank].into_iter().chain(digits_of(weight as u128, WEIGHT_DIGITS)).collect()
    };
    (0..=scale.last()).map(entry).collect()
}
