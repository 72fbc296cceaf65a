//! Seeded sampling (docs/spec/arithmetic.md, section 8): that a token is the one that a draw chooses.
//!
//! Candidates are drawn in the order of their numbers, so what lies in front of the token is public, and of all weights only sums matter. Where only the likeliest are
//! kept, the order is that of the logits, those of equal ones by number. Nobody sorts them: that some are the first ones, up to candidate v, is a bit for each (f).
//!
//! ```text
//! real (L - l) + added = 2^(e-1) h + r + o         L the largest logit, o >= 0; e = 0: no r. The first two are at most cap, or o is 0
//! (h, w_0, w_1, w_2) in a table                    of h <= cap / 2^(e-1): weights in digits of 10 bits
//! (2 f - 1) (l - l_v) - f [behind v] - (1 - f) [before v] >= 0,   f = 1 at v, 0 where there is no candidate
//! Z = sum over all that are kept, Q = sum over those up to the token, w its weight
//! 2^64 (Q - w) <= draw Z < 2^64 Q                  in digits
//! top k: as many as k; top p: 2^16 Z >= p Z_k > 2^16 (Z - w_v)
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
/// Bits of the largest logit, with its sign: logits are below 2^28.
const LARGEST_BITS: u32 = 29;
/// Bits of a logit's distance from the largest, and of what two logits differ by.
const BEYOND_BITS: u32 = 29;
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

/// A set of candidates: its bits over (row, candidate), how many it has, and the sum of their weights by digit, each below 2^30; over the rows.
struct Set<B> {
    bits: Source,
    count: Linear<B>,
    sums: Vec<Linear<B>>,
    /// 1 at the last one.
    last: Source,
}

/// What is known of candidates, over (row, candidate).
struct Candidates<B> {
    logits: Linear<B>,
    /// Of the weights.
    digits: Vec<Source>,
}

impl<B: PrimeField32> Builder<'_, B> {
    /// The tokens of `draws` are those that the sampler draws by `logits`, over (row, candidate), whose reader shows that no magnitude is above what is owed.
    pub fn drawn(&mut self, sampler: &Sampler<'_>, draws: &Draws<'_>, (logits, owed): (&Linear<B>, i64)) {
        let rows = draws.tokens.len().trailing_zeros() as usize;
        let candidates = self.candidates(sampler, draws, rows, (logits, owed));
        let real = self.before(draws, &vec![sampler.vocab; 1 << rows]);
        let mut kept: Option<Set<B>> = None;
        if sampler.top_k > 0 && sampler.top_k < sampler.vocab {
            let k = sampler.top_k;
            let first = self.first("top k", sampler, draws, &candidates, |order| order.kept_by_number(k));
            let short = first.count.clone().times(B::NEG_ONE).offset(B::from_usize(k));
            self.constrain(rows, vec![], short);
            kept = Some(first);
        }
        let sums = match &kept {
            Some(first) => first.sums.clone(),
            None => self.sums_of(draws, rows, &candidates, real),
        };
        let mut sum = self.sum_digits("weights kept", rows, &sums);
        if sampler.top_p_q16 < 1 << 16 {
            let (p, before) = (sampler.top_p_q16, sum);
            let first = self.first("top p", sampler, draws, &candidates, |order| order.kept_by_mass(sampler));
            let last = self.sums_of(draws, rows, &candidates, first.last);
            sum = self.sum_digits("mass kept", rows, &first.sums);
            self.enough(rows, p, (&sum, &last), &before);
            kept = Some(first);
        }
        let (upto, last) = self.up_to_tokens(draws, rows, &candidates, kept.map(|set| set.bits));
        self.chosen(rows, draws, [&sum, &upto, &last]);
    }

    /// The sums of the weights of those that are kept up to the tokens, which are among them, and the tokens' own weights.
    fn up_to_tokens(
        &mut self,
        draws: &Draws<'_>,
        rows: usize,
        candidates: &Candidates<B>,
        kept: Option<Source>,
    ) -> (Vec<Linear<B>>, Vec<Linear<B>>) {
        let log = rows + draws.vocab;
        let behind: Vec<usize> = draws.tokens.iter().map(|token| token + 1).collect();
        let upto = self.before(draws, &behind);
        let here = self.here(draws, draws.tokens);
        let last = self.sums_of(draws, rows, candidates, here);
        let Some(kept) = kept else { return (self.sums_of(draws, rows, candidates, upto), last) };
        let [kept, upto, here] = [kept, upto, here].map(|source| Linear::view(whole(source, log)));
        let out = kept.clone().times(B::NEG_ONE).offset(B::ONE);
        self.constrain(log, vec![(B::ONE, here, out)], Linear::constant(B::ZERO));
        let both = {
            let [kept, upto] = [&kept, &upto].map(|linear| self.integers(linear, log));
            kept.iter().zip(upto).map(|(kept, upto)| kept * upto).collect()
        };
        let both = self.commit("kept up to the token", log, both);
        let product = Linear::view(whole(both, log)).times(B::NEG_ONE);
        self.constrain(log, vec![(B::ONE, kept, upto)], product);
        (self.sums_of(draws, rows, candidates, both), last)
    }

    /// 1 at one candidate of each row.
    fn here(&mut self, draws: &Draws<'_>, at: &[usize]) -> Source {
        let at = at.iter().map(|at| *at as u32).collect();
        self.circuit.public(Public::OneHot(Marks { at, log: draws.vocab }))
    }

    /// 1 at the candidates in front of one of each row, over (row, candidate).
    fn before(&mut self, draws: &Draws<'_>, at: &[usize]) -> Source {
        let at = at.iter().map(|at| *at as u32).collect();
        self.circuit.public(Public::Before(Marks { at, log: draws.vocab }))
    }

    /// The weight of each candidate.
    fn candidates(
        &mut self,
        sampler: &Sampler<'_>,
        draws: &Draws<'_>,
        rows: usize,
        (logits, owed): (&Linear<B>, i64),
    ) -> Candidates<B> {
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
        let (largest, largest_bits) = self.signed("largest logit", rows, LARGEST_BITS, largest);
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
        // Nobody reads those that fill up: what is shown of all holds for the others.
        let shown = (1 << largest_bits) / 2 + scale.cap + (1 << scale.fine()) + (1 << over_bits);
        self.owed("logits", log, logits, owed, shown);
        let rest = added.minus(&within).minus(&over);
        self.constrain(log, vec![(B::ONE, real, below)], rest);
        if over_bits > 0 {
            let below = within.times(B::NEG_ONE).offset(residue(scale.cap));
            self.constrain(log, vec![(B::ONE, over, below)], Linear::constant(B::ZERO));
        }
        let digits = fetched.iter().map(|digit| digit.terms[0].views[0].source).collect();
        Candidates { logits: logits.clone(), digits }
    }

    /// Sums of weights over the candidates that `set` has, digit by digit.
    fn sums_of(
        &mut self,
        draws: &Draws<'_>,
        rows: usize,
        candidates: &Candidates<B>,
        set: Source,
    ) -> Vec<Linear<B>> {
        let view = whole(set, rows + draws.vocab);
        let sum = |digit: &Source| self.sum_over(*digit, Some(&view), (rows, draws.vocab));
        candidates.digits.iter().map(sum).collect()
    }

    /// The first candidates, whose last one is declared.
    fn first(
        &mut self,
        name: &str,
        sampler: &Sampler<'_>,
        draws: &Draws<'_>,
        candidates: &Candidates<B>,
        last: impl Fn(&Order) -> usize,
    ) -> Set<B> {
        let rows = draws.tokens.len().trailing_zeros() as usize;
        let orders = self.orders(sampler, draws, rows, candidates);
        let mut lasts = Vec::with_capacity(draws.tokens.len());
        for row in 0..draws.tokens.len() {
            lasts.push(self.declare_number(sampler.vocab - 1, || last(&orders[row])));
        }
        self.first_to(name, sampler, draws, candidates, &lasts)
    }

    /// The candidates of each row in their order, where there is a witness.
    fn orders(
        &self,
        sampler: &Sampler<'_>,
        draws: &Draws<'_>,
        rows: usize,
        candidates: &Candidates<B>,
    ) -> Vec<Order> {
        let log = rows + draws.vocab;
        let logits = self.integers(&candidates.logits, log);
        let digits: Vec<Vec<i64>> = candidates
            .digits
            .iter()
            .map(|digit| self.integers(&Linear::view(whole(*digit, log)), log))
            .collect();
        let weight =
            |at: usize| (0..WEIGHT_DIGITS).map(|digit| digits[digit][at] << (10 * digit)).sum::<i64>();
        let of_row = |(row, logits): (usize, &[i64])| {
            let mut order: Vec<usize> = (0..sampler.vocab).collect();
            order.sort_by_key(|v| (core::cmp::Reverse(logits[*v]), *v));
            let weights = order.iter().map(|v| weight((row << draws.vocab) + v)).collect();
            Order { order, weights }
        };
        logits.chunks(1 << draws.vocab).enumerate().map(of_row).collect()
    }

    /// The candidates up to one of each row in the order of logits, itself included.
    fn first_to(
        &mut self,
        name: &str,
        sampler: &Sampler<'_>,
        draws: &Draws<'_>,
        candidates: &Candidates<B>,
        lasts: &[usize],
    ) -> Set<B> {
        let rows = lasts.len().trailing_zeros() as usize;
        let (log, width) = (rows + draws.vocab, 1usize << draws.vocab);
        let (here, before) = (self.here(draws, lasts), self.before(draws, lasts));
        let real = self.before(draws, &vec![sampler.vocab; 1 << rows]);
        let [at_last, before, real] = [here, before, real].map(|source| Linear::view(whole(source, log)));
        let behind = before.clone().plus(&at_last).times(B::NEG_ONE).offset(B::ONE);
        let logits = self.integers(&candidates.logits, log);
        let of_last = logits.chunks(width).zip(lasts).map(|(logits, last)| logits[*last]).collect();
        let of_last = Linear::view(whole(self.commit(&format!("{name} logit"), rows, of_last), rows));
        let above = candidates.logits.clone().minus(&of_last);
        self.constrain(log, vec![(B::ONE, at_last.clone(), above.clone())], Linear::constant(B::ZERO));
        let is_first = |at: usize| {
            let (last, candidate) = (lasts[at / width], at % width);
            let key = |v: usize| (core::cmp::Reverse(logits[at - candidate + v]), v);
            candidate < sampler.vocab && key(candidate) <= key(last)
        };
        let flags = (0..logits.len()).map(|at| i64::from(is_first(at))).collect();
        let bits = self.boolean(&format!("{name} first"), log, flags);
        let flag = Linear::view(whole(bits, log));
        let distance = {
            let [flag, above, before, behind, real] =
                [&flag, &above, &before, &behind, &real].map(|linear| self.integers(linear, log));
            let one = |at: usize| {
                let f = flag[at];
                (2 * f - real[at]) * above[at] - f * behind[at] - (1 - f) * before[at]
            };
            (0..flag.len()).map(one).collect()
        };
        let (distance, _) = self.declared(&format!("{name} logits apart"), log, BEYOND_BITS, distance);
        // (2 f - real) above - f (behind - before) - before; f is 0 where nothing is real.
        let products = vec![
            (B::TWO, flag.clone(), above.clone()),
            (B::NEG_ONE, real.clone(), above),
            (B::NEG_ONE, flag.clone(), behind.minus(&before)),
        ];
        self.constrain(log, products, before.plus(&distance).times(B::NEG_ONE));
        let other = flag.clone().times(B::NEG_ONE).offset(B::ONE);
        let unreal = real.times(B::NEG_ONE).offset(B::ONE);
        for (a, b) in [(at_last, other), (unreal, flag)] {
            self.constrain(log, vec![(B::ONE, a, b)], Linear::constant(B::ZERO));
        }
        Set {
            bits,
            count: self.sum_over(bits, None, (rows, draws.vocab)),
            sums: self.sums_of(draws, rows, candidates, bits),
            last: here,
        }
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

    /// The draws fall on the last of those up to the tokens: `2^64 (Q - w) <= draw Z < 2^64 Q`.
    fn chosen(&mut self, rows: usize, draws: &Draws<'_>, [sum, upto, last]: [&[Linear<B>]; 3]) {
        let prefix = self.sum_digits("weights to the token", rows, upto);
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
        add_digits(&mut positions[6..], B::ONE, &shifted(last, 1));
        let (above, _) = self.rest_of("draw above", rows, REST_DIGITS, &positions);
        add_digits(&mut positions, B::NEG_ONE, &above);
        self.balance("draw at least", rows, positions);
        let mut positions: Vec<Position<B>> = (0..REST_DIGITS + 1).map(|_| Position::new()).collect();
        positions[0].linear = Linear::constant(B::NEG_ONE);
        add_digits(&mut positions[6..], B::ONE, &shifted(last, 1));
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
    /// The last of the first k.
    fn kept_by_number(&self, k: usize) -> usize {
        self.order[k.clamp(1, self.order.len()) - 1]
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

/// h, and the digits of the weight.
fn weight_table(sampler: &Sampler<'_>, scale: &Scale) -> Vec<Vec<i64>> {
    let weight = |h: i64| i64::from(sampler.exp2.get(scale.octaves(h) as usize).copied().unwrap_or(0));
    let entry = |h: i64| core::iter::once(h).chain(digits_of(weight(h) as u128, WEIGHT_DIGITS)).collect();
    (0..=scale.last()).map(entry).collect()
}
