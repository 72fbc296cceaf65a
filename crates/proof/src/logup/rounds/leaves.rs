//! Rounds of layers whose children are leaves: `u0 u1 - d0 - d1 - d0 d1`, with u = p + b q and d = p - 1.

use super::super::leaves::Run;
use super::grid::{FINITE, Grid, POINTS, base_points, points};
use crate::lanes::arithmetic::{Total, add, combined, mul, mul_base, products_base, sub, times, toward};
use crate::lanes::sums::Fixed;
use crate::lanes::{self, Base, Ext, LANES, ONE, Plain, Task, Wide};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// u of even and odd leaves, and d where it is not 0.
#[derive(Debug, Default)]
pub(super) struct Units {
    pub(super) u: Vec<[Ext; 2]>,
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

    /// The factors of four neighbours' columns, whose weights are `corners`.
    #[inline(always)]
    fn cornered(&self, corners: &[Fixed; 4]) -> Vec<Ext> {
        let mut factors = Vec::with_capacity(4 * self.factors.len());
        for corner in corners {
            for factor in &self.factors {
                factors.push(factor.times(corner));
            }
        }
        factors
    }
}

/// The first two rounds.
pub(super) struct LeavesGrid<'a> {
    pub(super) runs: &'a [Run],
    pub(super) batch: &'a Fixed,
    /// Of the second round.
    pub(super) weights: &'a [[u32; 5]],
}

/// Sums over all cells of one run, whose factors are columns: of products, and of the columns alone where there is no oo.
struct Moments<W: Wide> {
    products: [[Total<W>; POINTS]; 3],
    columns: [[Total<W>; 3]; 2],
    /// Of the weights.
    weights: [u32; 5],
}

impl<W: Wide> Moments<W> {
    #[inline(always)]
    fn zero(w: W) -> Moments<W> {
        let zero = Total::zero(w);
        Moments { products: [[zero; POINTS]; 3], columns: [[zero; 3]; 2], weights: [0; 5] }
    }

    /// Adds eight leaves, of `COLUMNS` columns each.
    #[inline(always)]
    fn add<const COLUMNS: usize>(&mut self, w: W, cells: &[Base], weight: &[u32; 5]) {
        for at in 0..5 {
            self.weights[at] = lanes::add(self.weights[at], weight[at]);
        }
        let mut even = [[Base::ZERO; POINTS]; 2];
        let mut odd = [[Base::ZERO; POINTS]; 2];
        for column in 0..COLUMNS {
            let of = |leaf: usize| cells[leaf * COLUMNS + column];
            even[column] = base_points([of(0), of(2), of(4), of(6)]);
            odd[column] = base_points([of(1), of(3), of(5), of(7)]);
        }
        for at in 0..POINTS {
            self.products[0][at].add_multiples(w, weight, &mul_base(w, &even[0][at], &odd[0][at]));
            if COLUMNS == 2 {
                let mixed = products_base(w, [&even[0][at], &odd[1][at], &even[1][at], &odd[0][at]]);
                self.products[1][at].add_multiples(w, weight, &mixed);
                self.products[2][at].add_multiples(w, weight, &mul_base(w, &even[1][at], &odd[1][at]));
            }
        }
        for (number, at) in FINITE.into_iter().enumerate() {
            for column in 0..COLUMNS {
                let both = even[column][at].add(&odd[column][at]);
                self.columns[column][number].add_multiples(w, weight, &both);
            }
        }
    }

    /// Adds what they give where u is `affine`.
    #[inline(always)]
    fn finish<const COLUMNS: usize>(&self, w: W, affine: &Affine, grid: &mut Grid) {
        let (constant, factors) = (&affine.constant, &affine.factors);
        let all = times(w, &mul(w, constant, constant), &Fixed::new(self.weights));
        for at in 0..POINTS {
            let mut number = 0;
            for first in 0..COLUMNS {
                for second in first..COLUMNS {
                    let factor = mul(w, &factors[first], &factors[second]);
                    grid[at] = add(w, &grid[at], &mul(w, &factor, &self.products[number][at].reduce(w)));
                    number += 1;
                }
            }
        }
        for (number, at) in FINITE.into_iter().enumerate() {
            grid[at] = add(w, &grid[at], &all);
            for column in 0..COLUMNS {
                let factor = mul(w, constant, &factors[column]);
                let sum = self.columns[column][number].reduce(w);
                grid[at] = add(w, &grid[at], &mul(w, &factor, &sum));
            }
        }
    }
}

impl LeavesGrid<'_> {
    #[inline(always)]
    fn columns<W: Wide, const COLUMNS: usize>(
        w: W,
        run: &Run,
        affine: &Affine,
        weights: &[[u32; 5]],
        grid: &mut Grid,
    ) {
        let mut moments = Moments::zero(w);
        for (at, weight) in weights.iter().enumerate() {
            moments.add::<COLUMNS>(w, &run.cells[8 * COLUMNS * at..8 * COLUMNS * (at + 1)], weight);
        }
        moments.finish::<COLUMNS>(w, affine, grid);
    }

    /// Any run.
    #[inline(always)]
    fn general<W: Wide>(w: W, run: &Run, affine: &Affine, weights: &[[u32; 5]], grid: &mut Grid) {
        let (mut sums, mut taken) = ([Total::zero(w); POINTS], [Total::zero(w); POINTS]);
        let width = run.width();
        for (number, weight) in weights.iter().enumerate() {
            let mut u = [Ext::ZERO; 8];
            for leaf in 0..8 {
                u[leaf] = affine.at(w, &run.cells[(8 * number + leaf) * width..][..width]);
            }
            let even = points(w, [&u[0], &u[2], &u[4], &u[6]]);
            let odd = points(w, [&u[1], &u[3], &u[5], &u[7]]);
            let fixed = Fixed::new(*weight);
            for at in 0..POINTS {
                sums[at].add_times(w, &mul(w, &even[at], &odd[at]), &fixed);
            }
            if run.numerators {
                let one = Base::splat(ONE);
                let mut d = [Base::ZERO; 8];
                for leaf in 0..8 {
                    d[leaf] = run.numerators(8 * number + leaf).sub(&one);
                }
                let (even, odd) =
                    (base_points([d[0], d[2], d[4], d[6]]), base_points([d[1], d[3], d[5], d[7]]));
                for at in 0..POINTS {
                    let mut sum = mul_base(w, &even[at], &odd[at]);
                    if FINITE.contains(&at) {
                        sum = sum.add(&even[at]).add(&odd[at]);
                    }
                    taken[at].add_multiples(w, weight, &sum);
                }
            }
        }
        for at in 0..POINTS {
            grid[at] = add(w, &grid[at], &sub(w, &sums[at].reduce(w), &taken[at].reduce(w)));
        }
    }
}

impl Task for LeavesGrid<'_> {
    type Output = Grid;

    #[inline(always)]
    fn run(self) -> Grid {
        self.run_wide(Plain)
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) -> Grid {
        let mut grid = [Ext::ZERO; POINTS];
        for run in self.runs {
            let affine = Affine::new(run, self.batch);
            let weights = &self.weights[run.groups.start / 8..run.groups.end / 8];
            match run.kind() {
                1 => Self::columns::<W, 1>(w, run, &affine, weights, &mut grid),
                2 => Self::columns::<W, 2>(w, run, &affine, weights, &mut grid),
                _ => Self::general(w, run, &affine, weights, &mut grid),
            }
        }
        grid
    }
}

/// The third round: what is bound is stored.
pub(super) struct LeavesBound<'a> {
    pub(super) runs: &'a [Run],
    pub(super) batch: &'a Fixed,
    pub(super) corners: &'a [Fixed; 4],
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
        out.u = Vec::with_capacity(2 * self.weights.len());
        for run in self.runs {
            let affine = Affine::new(run, self.batch);
            let factors = affine.cornered(self.corners);
            let width = run.width();
            let mut four = vec![Base::ZERO; 4 * width];
            let weights = &self.weights[run.groups.start / 16..run.groups.end / 16];
            for (pair, weight) in weights.iter().enumerate() {
                let mut u = [[Ext::ZERO; 2]; 2];
                for side in 0..4 {
                    let leaf = 16 * pair + 8 * (side / 2) + side % 2;
                    for corner in 0..4 {
                        for at in 0..width {
                            four[corner * width + at] = run.cells[(leaf + 2 * corner) * width + at];
                        }
                    }
                    u[side / 2][side % 2] = combined(w, &affine.constant, &factors, &four);
                }
                add_pair(w, &mut sums, &u[0], &u[1], &Fixed::new(*weight));
                out.u.extend(u);
            }
            if run.numerators {
                let first = run.groups.start / 8;
                if out.d.is_empty() {
                    out.first = first;
                }
                out.d.resize(first - out.first, [Ext::ZERO; 2]);
                let one = Base::splat(ONE);
                for group in 0..run.groups.len() / 8 {
                    let mut d = [Ext::ZERO; 2];
                    for side in 0..2 {
                        let mut sum = Total::zero(w);
                        for corner in 0..4 {
                            let x = run.numerators(8 * group + side + 2 * corner).sub(&one);
                            sum.add_multiples(w, &self.corners[corner].element(), &x);
                        }
                        d[side] = sum.reduce(w);
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
