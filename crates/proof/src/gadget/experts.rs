//! The router of a mixture of experts (docs/spec/arithmetic.md, section 7, steps 5 and 6): who is chosen, and with which weight.
//!
//! The prover declares for each token the experts that it uses, best first, and how many of them have no weight. With C the chosen (1, others -1, added ones 0),
//! all public:
//!
//! ```text
//! C (r - t) - before = b >= 0              t the logit of the last that is chosen; before is 1 where a tie would put an expert on the other side
//! real (m - r) = d >= 0                    m the logit of the first
//! (d, p) in a table                        p = EXP2[min(scale(d, F_r - 8), 4095)], 0 of those that have no weight
//! Z = sum of p over the chosen, or over all
//! rho Z <= 2^kk p < (rho + 1) Z            over (token, slot), rho in 2^13 .. 2^14, in digits
//! ```
//!
//! Slots without an expert are copies of the first one. An expert then computes the rows of its tokens alone.

use super::digits::{Position, add_digits, add_product, digits_of};
use super::ranges::Width;
use super::tables::number;
use super::{Builder, whole};
use crate::circuit::{Bit, Contraction, Linear, Source};
use crate::field::{power_of_two, residue};
use crate::integer::rsh;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::config::Experts;
use p3_field::PrimeField32;

/// Bits of a difference of two logits, each within 2^15 - 1.
const DISTANCE_BITS: u32 = 16;
/// The same, as coordinates of a table.
const DISTANCE_LOG: usize = DISTANCE_BITS as usize;
/// What a distance is cut to.
const DISTANCE_MAX: i64 = 4095;
/// Bits of a factor, without its highest.
const RHO_BITS: u32 = 13;
/// Powers of two that a weight is multiplied by: of at least 1, with a sum below 2^25.
const POWERS: core::ops::RangeInclusive<i64> = 0..=38;
/// Bits of the sum of all weights.
const SUM_BITS: u32 = 25;

/// A router, and the logarithms of its axes.
#[derive(Clone, Copy, Debug)]
pub struct Router<'t> {
    /// Who there is.
    pub experts: Experts,
    /// Fractional bits of the logits.
    pub frac: i64,
    /// Powers of two.
    pub exp2: &'t [u16],
    /// Tokens.
    pub tokens: usize,
    /// Those that are not filling.
    pub positions: usize,
}

/// A token that uses an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The token.
    pub token: usize,
    /// Which of its experts this is.
    pub slot: usize,
}

/// Who was chosen.
#[derive(Clone, Debug)]
pub struct Chosen<B> {
    /// The tokens of each expert.
    pub members: Vec<Vec<Member>>,
    /// log2 of the slots of a token.
    pub slots: usize,
    /// Mantissas of the weights, over (token, slot).
    pub rho: Linear<B>,
    /// Shifts of the weights.
    pub kk: Linear<B>,
}

/// The experts of one token, best first, and how many of them have a weight.
struct Row {
    order: Vec<usize>,
    used: usize,
}

impl Router<'_> {
    fn log_experts(&self) -> usize {
        (self.experts.count as usize).next_power_of_two().trailing_zeros() as usize
    }

    fn weight(&self, distance: i64) -> i64 {
        let shift = self.frac - 8;
        let d = if shift < 0 { distance << -shift } else { rsh(distance, shift as u32) };
        self.exp2.get(d.min(DISTANCE_MAX) as usize).copied().unwrap_or(0).into()
    }
}

impl<B: PrimeField32> Builder<'_, B> {
    /// What each token declares: `logits` over (token, expert), where there is a witness.
    fn declared_rows(&mut self, router: &Router<'_>, logits: &[i64]) -> Vec<Row> {
        let Experts { count, per_token, .. } = router.experts;
        let (count, per_token) = (count as usize, per_token as usize);
        let mut rows = Vec::with_capacity(router.positions);
        for token in 0..router.positions {
            let here = logits.get(token << router.log_experts()..).unwrap_or(&[]);
            let mut best: Vec<usize> = (0..here.len().min(count)).collect();
            best.sort_by_key(|expert| (core::cmp::Reverse(here[*expert]), *expert));
            let top = best.first().map_or(0, |first| here[*first]);
            let weighs = |expert: &&usize| router.weight(top - here[**expert]) > 0;
            let used = best.iter().take(per_token).filter(weighs).count();
            let mut order = Vec::with_capacity(per_token);
            for slot in 0..per_token {
                let expert = self.declare_number(count - 1, || best[slot]);
                if order.contains(&expert) {
                    self.undeclared(expert);
                }
                order.push(expert);
            }
            let left_out = self.declare_number(per_token - 1, || per_token - used.max(1));
            rows.push(Row { order, used: per_token - left_out });
        }
        rows
    }

    /// A vector over (token, expert), of what `of` says of a token's row and an expert; filling is the first token, added experts have 0.
    fn by_expert(&mut self, router: &Router<'_>, rows: &[Row], of: impl Fn(&Row, usize) -> i64) -> Source {
        let (experts, count) = (router.log_experts(), router.experts.count as usize);
        let value = |at: usize| {
            let (token, expert) = (at >> experts, at & ((1 << experts) - 1));
            let row = &rows[if token < rows.len() { token } else { 0 }];
            if expert < count { of(row, expert) } else { 0 }
        };
        self.circuit.vector((0..1usize << (router.tokens + experts)).map(|at| residue(value(at))).collect())
    }

    /// Who is chosen by logits over (token, expert), whose range their reader has shown.
    pub fn route(&mut self, router: &Router<'_>, logits: &Linear<B>) -> Chosen<B> {
        let (tokens, experts) = (router.tokens, router.log_experts());
        let log = tokens + experts;
        let values = self.integers(logits, log);
        let rows = self.declared_rows(router, &values);
        let nothing = || Linear::constant(B::ZERO);
        let per_token = router.experts.per_token as usize;
        let last = |row: &Row| row.order[per_token - 1];
        let sign = |row: &Row, expert: usize| if row.order.contains(&expert) { 1 } else { -1 };
        let before = |row: &Row, expert: usize| {
            let over = if row.order.contains(&expert) { expert > last(row) } else { expert < last(row) };
            i64::from(over)
        };
        let chosen = self.by_expert(router, &rows, |row, expert| i64::from(row.order.contains(&expert)));
        let signs = self.by_expert(router, &rows, sign);
        let before = self.by_expert(router, &rows, before);
        let first_of = self.by_expert(router, &rows, |row, expert| i64::from(row.order[0] == expert));
        let last_of = self.by_expert(router, &rows, |row, expert| i64::from(last(row) == expert));
        let unused = |row: &Row, expert: usize| i64::from(row.order[row.used..].contains(&expert));
        let unused = self.by_expert(router, &rows, unused);
        let real = self.by_expert(router, &rows, |_, _| 1);
        let view = |source: Source| Linear::view(whole(source, log));

        // The logits of the last that is chosen and of the first.
        let mut logit_of = |name: &str, which: &dyn Fn(&Row) -> usize, of: Source| {
            let at = |token: usize| &rows[if token < rows.len() { token } else { 0 }];
            let take = |(token, row): (usize, &[i64])| row[which(at(token))];
            let taken = values.chunks(1 << experts).enumerate().map(take).collect();
            let taken = Linear::view(whole(self.commit(name, tokens, taken), tokens));
            let product = vec![(B::ONE, view(of), logits.clone().minus(&taken))];
            self.constrain(log, product, nothing());
            taken
        };
        let threshold = logit_of("last logit", &last, last_of);
        let most = logit_of("largest router logit", &|row| row.order[0], first_of);

        let above = logits.clone().minus(&threshold);
        let beyond = {
            let [sign, above, before] =
                [&view(signs), &above, &view(before)].map(|linear| self.integers(linear, log));
            (0..sign.len()).map(|at| sign[at] * above[at] - before[at]).collect()
        };
        let beyond = self.value("beyond the last logit", log, Width::Fixed(DISTANCE_BITS), beyond);
        let rest = beyond.plus(&view(before)).times(B::NEG_ONE);
        self.constrain(log, vec![(B::ONE, view(signs), above)], rest);

        let below = most.minus(logits);
        let distances = {
            let [real, below] = [&view(real), &below].map(|linear| self.integers(linear, log));
            real.iter().zip(below).map(|(real, below)| real * below).collect()
        };
        let distance = Linear::view(whole(self.commit("router distance", log, distances), log));
        let rest = distance.clone().times(B::NEG_ONE);
        self.constrain(log, vec![(B::ONE, view(real), below)], rest);
        let table = alloc::format!("weights of {} bits", router.frac);
        let table = self.formula_table(&table, (DISTANCE_LOG, 1), |circuit| {
            let weights = (0..1i64 << DISTANCE_LOG).map(|distance| residue(router.weight(distance)));
            let weights = circuit.vector(weights.collect());
            vec![number(circuit, 0..DISTANCE_LOG), Linear::view(whole(weights, DISTANCE_LOG))]
        });
        let weight = self.fetch("router weight", table, log, distance).remove(0);
        self.constrain(log, vec![(B::ONE, view(unused), weight.clone())], nothing());
        let counted = if router.experts.normalise { chosen } else { real };
        let [weights] = &weight.terms[..] else { panic!("what is fetched is a column") };
        let (weights, counted) = (weights.views[0].clone(), whole(counted, log));
        let sum = self.contract(Contraction {
            outer: tokens,
            inner: experts,
            left: weights.clone(),
            right: counted,
        });
        let sum = Linear::view(whole(sum, tokens));

        // Weights by slot; those without an expert are the first one's.
        let slots = per_token.next_power_of_two().trailing_zeros() as usize;
        let outer = tokens + slots;
        let mut picked = vec![B::ZERO; 1 << (outer + experts)];
        for at in 0..1usize << outer {
            let (token, slot) = (at >> slots, at & ((1 << slots) - 1));
            let row = &rows[if token < rows.len() { token } else { 0 }];
            let expert = row.order[if slot < row.used { slot } else { 0 }];
            picked[(at << experts) + expert] = B::ONE;
        }
        let inner = (outer..outer + experts).map(Bit::At);
        let here: Vec<Bit> = (0..tokens).map(Bit::At).chain(inner).collect();
        let right = whole(self.circuit.vector(picked), outer + experts);
        let left = weights.within(&here);
        let of_slot = self.contract(Contraction { outer, inner: experts, left, right });
        let of_slot = Linear::view(whole(of_slot, outer));
        let (rho, kk) = self.part_of_sum(outer, &of_slot, &sum);

        let mut members = vec![Vec::new(); router.experts.count as usize];
        for (token, row) in rows.iter().enumerate() {
            let used = row.order[..row.used].iter().enumerate();
            used.for_each(|(slot, expert)| members[*expert].push(Member { token, slot }));
        }
        Chosen { members, slots, rho, kk }
    }

    /// rho and kk with `rho Z <= 2^kk p < (rho + 1) Z`; Z over the first coordinates.
    fn part_of_sum(&mut self, log: usize, p: &Linear<B>, sum: &Linear<B>) -> (Linear<B>, Linear<B>) {
        let table = self.table("powers of weights", || {
            let entry = |kk: i64| core::iter::once(kk).chain(digits_of(1 << kk, 4)).collect::<Vec<_>>();
            POWERS.map(entry).collect()
        });
        let [ps, sums] = [p, sum].map(|linear| self.integers(linear, log));
        let rho_at = |kk: i64, at: usize| (i128::from(ps[at].max(0)) << kk) / i128::from(sums[at].max(1));
        let kk_of = |at: usize| POWERS.clone().find(|kk| rho_at(*kk, at) >= 1 << RHO_BITS).unwrap_or(0);
        let kks = (0..ps.len()).map(kk_of).collect();
        let kk = Linear::view(whole(self.commit("weight kk", log, kks), log));
        let power = self.fetch("weight power", table, log, kk.clone());
        let kks: Vec<i64> = self.integers(&kk, log).iter().map(|kk| *kk.clamp(&0, POWERS.end())).collect();
        let rhos = (0..ps.len()).map(|at| rho_at(kks[at], at) as i64 - (1 << RHO_BITS)).collect();
        let rho = self.value("weight rho", log, Width::Fixed(RHO_BITS), rhos);
        let rho = rho.offset(power_of_two(RHO_BITS));
        let rhos = self.integers(&rho, log);
        let rest = |at: usize| (i128::from(ps[at]) << kks[at]) - i128::from(rhos[at]) * i128::from(sums[at]);
        let rests = (0..ps.len()).map(|at| rest(at) as i64).collect();
        let rest = Linear::view(whole(self.commit("weight remainder", log, rests), log));
        let p_digits = self.digits_of("weight", log, p, 2);
        let sum_digits = self.digits_of("weight sum", log, sum, 3);
        let rho_digits = self.digits_of("weight rho", log, &rho, 2);
        let rest_digits = self.digits_of("weight remainder", log, &rest, 3);
        let below = sum.clone().minus(&rest).offset(B::NEG_ONE);
        self.in_range("weight remainder below the sum", log, SUM_BITS, &below);
        let mut positions: Vec<Position<B>> = (0..6).map(|_| Position::new()).collect();
        add_product(&mut positions, B::ONE, &power, &p_digits);
        add_product(&mut positions, B::NEG_ONE, &rho_digits, &sum_digits);
        add_digits(&mut positions, B::NEG_ONE, &rest_digits);
        self.balance("weight division", log, positions);
        (rho, kk)
    }
}
