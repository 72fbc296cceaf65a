//! Rounds of layers whose children are leaves: `u0 u1 - d0 - d1 - d0 d1`, with u = p + b q and d = p - 1.

use super::super::leaves::Run;
use crate::lanes::arithmetic::{Total, add, combined, mul, mul_base, sub, toward};
use crate::lanes::sums::{Fixed, Sums};
use crate::lanes::{Base, Ext, LANES, ONE, Plain, Task, Wide};
use crate::recycle::Recycled;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// u of even and odd leaves, and d where it is not 0.
#[derive(Debug, Default)]
pub(super) struct Units {
    pub(super) u: Recycled<[Ext; 2]>,
    /// Of the groups from `first` on.
    d: Vec<[Ext; 2]>,
    first: usize,
}

impl Units {
    /// Appends a part that lies behind this one.
    pub(super) fn append(&mut self, more: Units) {
        if !more.d.is_empty() {
            let first = self.u.len() + more.first;
            if self.d.is_empty() {
                self.first = first;
            }
            self.d.resize(first - self.first, [Ext::ZERO; 2]);
            self.d.extend(more.d);
        }
        self.u.extend_from_slice(&more.u);
    }

    /// d of a group.
    #[inline(always)]
    fn d(&self, group: usize) -> [Ext; 2] {
        let at = group.wrapping_sub(self.first);
        if at < self.d.len() { self.d[at] } else { [Ext::ZERO; 2] }
    }

    /// The pairs of groups where d is not 0.
    #[inline(always)]
    fn pairs(&self) -> Range<usize> {
        if self.d.is_empty() { 0..0 } else { self.first / 2..(self.first + self.d.len()).div_ceil(2) }
    }

    /// Binds the last coordinate of d.
    #[inline(always)]
    fn bind<W: Wide>(&mut self, w: W, r: &Fixed) {
        let pairs = self.pairs();
        let mut bound = Vec::with_capacity(pairs.len());
        for pair in pairs.clone() {
            let (low, high) = (self.d(2 * pair), self.d(2 * pair + 1));
            bound.push([toward(w, &low[0], &high[0], r), toward(w, &low[1], &high[1], r)]);
        }
        (self.d, self.first) = (bound, pairs.start);
    }

    /// Takes what d gives from the sums.
    #[inline(always)]
    fn take<W: Wide>(&self, w: W, weights: &[[u32; 5]], sums: [Ext; 2]) -> [Ext; 2] {
        let mut taken = [Total::zero(w); 2];
        for pair in self.pairs() {
            let (low, high) = (self.d(2 * pair), self.d(2 * pair + 1));
            let weight = Fixed::new(weights[pair]);
            let at_zero = add(w, &add(w, &low[0], &low[1]), &mul(w, &low[0], &low[1]));
            taken[0].add_times(w, &at_zero, &weight);
            let leading = mul(w, &sub(w, &high[0], &low[0]), &sub(w, &high[1], &low[1]));
            taken[1].add_times(w, &leading, &weight);
        }
        [sub(w, &sums[0], &taken[0].reduce(w)), sub(w, &sums[1], &taken[1].reduce(w))]
    }
}

/// Adds what two neighbours give of `u0 u1`.
#[inline(always)]
fn add_pair<W: Wide>(w: W, sums: &mut [Total<W>; 2], low: &[Ext; 2], high: &[Ext; 2], weight: &Fixed) {
    sums[0].add_times(w, &mul(w, &low[0], &low[1]), weight);
    let leading = mul(w, &sub(w, &high[0], &low[0]), &sub(w, &high[1], &low[1]));
    sums[1].add_times(w, &leading, weight);
}

/// u as a sum of columns: the constant, and factors of all columns, numerators included.
struct Affine {
    constant: Ext,
    factors: Vec<Ext>,
}

impl Affine {
    #[inline(always)]
    fn new(run: &Run, batch: &Fixed) -> Affine {
        let mut one = Ext::ZERO;
        one.0[0] = [ONE; LANES];
        let constant = run.constant.times(batch);
        let mut factors = Vec::with_capacity(run.width());
        for factor in &run.factors {
            factors.push(factor.times(batch));
        }
        if run.numerators {
            factors.push(one);
            return Affine { constant, factors };
        }
        Affine { constant: constant.add(&one), factors }
    }

    #[inline(always)]
    fn at<W: Wide>(&self, w: W, cells: &[Base]) -> Ext {
        combined(w, &self.constant, &self.factors, cells)
    }

    /// The factors, and the same times r: what is added from one to the other of two neighbours.
    #[inline(always)]
    fn scaled(&self, r: &Fixed) -> Vec<Ext> {
        let mut factors = self.factors.clone();
        for factor in &self.factors {
            factors.push(factor.times(r));
        }
        factors
    }

    /// At r between `low` and `high`; `cells` has room for twice as many.
    #[inline(always)]
    fn between<W: Wide>(&self, w: W, scaled: &[Ext], [low, high]: [&[Base]; 2], cells: &mut [Base]) -> Ext {
        let width = self.factors.len();
        for at in 0..width {
            cells[at] = low[at];
            cells[width + at] = high[at].sub(&low[at]);
        }
        combined(w, &self.constant, scaled, cells)
    }
}

/// The first round.
pub(super) struct LeavesFirst<'a> {
    pub(super) runs: &'a [Run],
    pub(super) batch: &'a Fixed,
    pub(super) weights: &'a [[u32; 5]],
}

impl Task for LeavesFirst<'_> {
    type Output = [Ext; 2];

    #[inline(always)]
    fn run(self) -> [Ext; 2] {
        self.run_wide(Plain)
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) -> [Ext; 2] {
        let (mut sums, mut taken) = ([Total::zero(w); 2], [Total::zero(w); 2]);
        for run in self.runs {
            let affine = Affine::new(run, self.batch);
            let width = run.width();
            let weights = &self.weights[run.groups.start / 4..run.groups.end / 4];
            for (pair, weight) in weights.iter().enumerate() {
                let mut u = [[Ext::ZERO; 2]; 2];
                for leaf in 0..4 {
                    u[leaf / 2][leaf % 2] = affine.at(w, &run.cells[(4 * pair + leaf) * width..][..width]);
                }
                add_pair(w, &mut sums, &u[0], &u[1], &Fixed::new(*weight));
                if run.numerators {
                    let one = Base::splat(ONE);
                    let mut d = [Base::ZERO; 4];
                    for leaf in 0..4 {
                        d[leaf] = run.numerators(4 * pair + leaf).sub(&one);
                    }
                    let [d0, d1, e0, e1] = d;
                    taken[0].add_multiples(w, weight, &d0.add(&d1).add(&mul_base(w, &d0, &d1)));
                    taken[1].add_multiples(w, weight, &mul_base(w, &e0.sub(&d0), &e1.sub(&d1)));
                }
            }
        }
        [sums[0].reduce(w).sub(&taken[0].reduce(w)), sums[1].reduce(w).sub(&taken[1].reduce(w))]
    }
}

/// The second round: what is bound is stored.
pub(super) struct LeavesBound<'a> {
    pub(super) runs: &'a [Run],
    pub(super) batch: &'a Fixed,
    pub(super) r: &'a Fixed,
    pub(super) weights: &'a [[u32; 5]],
    pub(super) out: &'a mut Units,
}

impl Task for LeavesBound<'_> {
    type Output = [Ext; 2];

    #[inline(always)]
    fn run(self) -> [Ext; 2] {
        self.run_wide(Plain)
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) -> [Ext; 2] {
        let mut sums = [Total::zero(w); 2];
        let out = self.out;
        out.u = Recycled::with_capacity(2 * self.weights.len());
        for run in self.runs {
            let affine = Affine::new(run, self.batch);
            let scaled = affine.scaled(self.r);
            let width = run.width();
            let mut both = vec![Base::ZERO; 2 * width];
            let weights = &self.weights[run.groups.start / 8..run.groups.end / 8];
            for (pair, weight) in weights.iter().enumerate() {
                let mut u = [[Ext::ZERO; 2]; 2];
                for side in 0..4 {
                    let leaf = 8 * pair + 4 * (side / 2) + side % 2;
                    let low = &run.cells[leaf * width..][..width];
                    let high = &run.cells[(leaf + 2) * width..][..width];
                    u[side / 2][side % 2] = affine.between(w, &scaled, [low, high], &mut both);
                }
                add_pair(w, &mut sums, &u[0], &u[1], &Fixed::new(*weight));
                out.u.extend(u);
            }
            if run.numerators {
                let first = run.groups.start / 4;
                if out.d.is_empty() {
                    out.first = first;
                }
                out.d.resize(first - out.first, [Ext::ZERO; 2]);
                for group in 0..run.groups.len() / 4 {
                    let mut d = [Ext::ZERO; 2];
                    for side in 0..2 {
                        let [low, high] =
                            [run.numerators(4 * group + side), run.numerators(4 * group + side + 2)];
                        let mut both = Sums::ZERO;
                        both.add_multiples(&self.r.element(), &high.sub(low));
                        d[side] = both.reduce();
                        let one = Base::splat(ONE);
                        d[side].0[0] = Base(d[side].0[0]).add(&low.sub(&one)).0;
                    }
                    out.d.push(d);
                }
            }
        }
        out.take(w, self.weights, [sums[0].reduce(w), sums[1].reduce(w)])
    }
}

/// Every later round.
pub(super) struct UnitsNext<'a> {
    pub(super) units: &'a mut Units,
    pub(super) r: &'a Fixed,
    pub(super) weights: &'a [[u32; 5]],
}

impl Task for UnitsNext<'_> {
    type Output = [Ext; 2];

    #[inline(always)]
    fn run(self) -> [Ext; 2] {
        self.run_wide(Plain)
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) -> [Ext; 2] {
        let mut sums = [Total::zero(w); 2];
        let u = &mut self.units.u;
        for (pair, weight) in self.weights.iter().enumerate() {
            let four = &u[4 * pair..4 * pair + 4];
            let mut both = [[Ext::ZERO; 2]; 2];
            for side in 0..4 {
                let (group, at) = (2 * (side / 2), side % 2);
                both[side / 2][at] = toward(w, &four[group][at], &four[group + 1][at], self.r);
            }
            add_pair(w, &mut sums, &both[0], &both[1], &Fixed::new(*weight));
            u[2 * pair] = both[0];
            u[2 * pair + 1] = both[1];
        }
        u.truncate(2 * self.weights.len());
        self.units.bind(w, self.r);
        self.units.take(w, self.weights, [sums[0].reduce(w), sums[1].reduce(w)])
    }
}

/// Binds the last two groups: u0, u1, d0, d1.
pub(super) struct LastUnits<'a> {
    pub(super) units: &'a Units,
    pub(super) r: &'a Fixed,
}

impl Task for LastUnits<'_> {
    type Output = [Ext; 4];

    #[inline(always)]
    fn run(self) -> [Ext; 4] {
        let mut out = [Ext::ZERO; 4];
        let d = [self.units.d(0), self.units.d(1)];
        for at in 0..2 {
            out[at] = self.units.u[0][at].toward(&self.units.u[1][at], self.r);
            out[2 + at] = d[0][at].toward(&d[1][at], self.r);
        }
        out
    }
}
