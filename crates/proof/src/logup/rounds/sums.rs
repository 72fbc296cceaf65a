//! Rounds of the layer whose nodes are sums of four leaves, each a fraction `1 / (a + f c)`, or of any others, computed from columns.
//!
//! ```text
//! p q' + p' q + b q q' = 4 a^3 + b a^4 + (3 a^2 f + b a^3 f) e1 + (2 a f^2 + b a^2 f^2) e2 + (f^3 + b a f^3) e3 + b f^4 e4
//! s = c0 + c1, m = c0 c1, s' and m' of the others:     e1 = s + s',   e2 = s s' + m + m',   e3 = s m' + s' m,   e4 = m m'
//! ```
//!
//! s and m are what is multilinear: where a coordinate is oo, only products of two of them are left.

use super::super::leaves::Run;
use super::super::tree::Node;
use super::grid::{FINITE, Grid, POINTS, base_points, points};
use super::nodes::{add_pair, bound, mixed, reduced};
use crate::lanes::arithmetic::{Total, add, combined, mul, mul_base, products, products_base, times};
use crate::lanes::sums::Fixed;
use crate::lanes::{self, Base, Ext, Plain, Task, Wide};
use alloc::vec::Vec;

/// The children of group `at`: mixed.
#[inline(always)]
fn children<W: Wide, const KIND: usize>(w: W, run: &Run, at: usize, batch: &Fixed) -> Node {
    let (p0, q0) = run.sums::<W, KIND>(w, 2 * at);
    let (p1, q1) = run.sums::<W, KIND>(w, 2 * at + 1);
    mixed(w, &[p0, p1, q0, q1], batch)
}

/// s and m of both children of group `at` of a run with one column: s, s', m, m'.
#[inline(always)]
fn symmetric<W: Wide>(w: W, run: &Run, at: usize) -> [Base; 4] {
    let [a, b] = [&run.cells[4 * at], &run.cells[4 * at + 1]];
    let [c, d] = [&run.cells[4 * at + 2], &run.cells[4 * at + 3]];
    [a.add(b), c.add(d), mul_base(w, a, b), mul_base(w, c, d)]
}

/// Sums over all cells of one run with one column.
struct Moments<W: Wide> {
    /// e1, where there is no oo.
    first: [Total<W>; 3],
    /// e2, e3 and e4.
    others: [[Total<W>; POINTS]; 3],
    /// Of the weights.
    weights: [u32; 5],
}

impl<W: Wide> Moments<W> {
    #[inline(always)]
    fn zero(w: W) -> Moments<W> {
        let zero = Total::zero(w);
        Moments { first: [zero; 3], others: [[zero; POINTS]; 3], weights: [0; 5] }
    }

    /// Adds four nodes.
    #[inline(always)]
    fn add(&mut self, w: W, run: &Run, cell: usize, weight: &[u32; 5]) {
        for at in 0..5 {
            self.weights[at] = lanes::add(self.weights[at], weight[at]);
        }
        let [a, b] = [symmetric(w, run, 4 * cell), symmetric(w, run, 4 * cell + 1)];
        let [c, d] = [symmetric(w, run, 4 * cell + 2), symmetric(w, run, 4 * cell + 3)];
        let [s, t] = [base_points([a[0], b[0], c[0], d[0]]), base_points([a[1], b[1], c[1], d[1]])];
        let [m, n] = [base_points([a[2], b[2], c[2], d[2]]), base_points([a[3], b[3], c[3], d[3]])];
        for at in 0..POINTS {
            let mut second = mul_base(w, &s[at], &t[at]);
            if FINITE.contains(&at) {
                second = second.add(&m[at]).add(&n[at]);
            }
            self.others[0][at].add_multiples(w, weight, &second);
            let third = products_base(w, [&s[at], &n[at], &t[at], &m[at]]);
            self.others[1][at].add_multiples(w, weight, &third);
            self.others[2][at].add_multiples(w, weight, &mul_base(w, &m[at], &n[at]));
        }
        for (number, at) in FINITE.into_iter().enumerate() {
            self.first[number].add_multiples(w, weight, &s[at].add(&t[at]));
        }
    }

    /// Adds what they give.
    #[inline(always)]
    fn finish(&self, w: W, run: &Run, batch: &Fixed, grid: &mut Grid) {
        let (a, f) = (&run.constant, &run.factors[0]);
        let [aa, af, ff] = [mul(w, a, a), mul(w, a, f), mul(w, f, f)];
        // 1 / a + b times a^i f^j of the last sums, and what is left of numerators.
        let [aaa, aaf, aff, fff] = [mul(w, &aa, a), mul(w, &aa, f), mul(w, &af, f), mul(w, &ff, f)];
        let with = |multiple: &Ext, count: usize, power: &Ext| {
            let mut sum = times(w, power, batch);
            for _ in 0..count {
                sum = add(w, &sum, multiple);
            }
            sum
        };
        let constant = with(&aaa, 4, &mul(w, &aa, &aa));
        let constant = times(w, &constant, &Fixed::new(self.weights));
        let first = with(&aaf, 3, &mul(w, &aa, &af));
        let others = [
            with(&aff, 2, &mul(w, &aa, &ff)),
            with(&fff, 1, &mul(w, &af, &ff)),
            with(&fff, 0, &mul(w, &ff, &ff)),
        ];
        for at in 0..POINTS {
            for (factor, sums) in others.iter().zip(&self.others) {
                grid[at] = add(w, &grid[at], &mul(w, factor, &sums[at].reduce(w)));
            }
        }
        for (number, at) in FINITE.into_iter().enumerate() {
            grid[at] = add(w, &grid[at], &constant);
            grid[at] = add(w, &grid[at], &mul(w, &first, &self.first[number].reduce(w)));
        }
    }
}

/// The first two rounds over nodes whose children are sums of two leaves.
pub(super) struct SumsGrid<'a> {
    pub(super) runs: &'a [Run],
    pub(super) batch: &'a Fixed,
    /// Of the second round.
    pub(super) weights: &'a [[u32; 5]],
}

impl SumsGrid<'_> {
    #[inline(always)]
    fn general<W: Wide, const KIND: usize>(&self, w: W, run: &Run, weights: &[[u32; 5]], grid: &mut Grid) {
        let mut sums = [Total::zero(w); POINTS];
        for (cell, weight) in weights.iter().enumerate() {
            let mut nodes = [[Ext::ZERO; 4]; 4];
            for (at, node) in nodes.iter_mut().enumerate() {
                *node = children::<W, KIND>(w, run, 4 * cell + at, self.batch);
            }
            let [a, b, c, d] = &nodes;
            let mut at_points = [[Ext::ZERO; POINTS]; 4];
            for at in 0..4 {
                at_points[at] = points(w, [&a[at], &b[at], &c[at], &d[at]]);
            }
            let [m, p, q, r] = &at_points;
            let weight = Fixed::new(*weight);
            for at in 0..POINTS {
                sums[at].add_times(w, &products(w, [&m[at], &r[at], &p[at], &q[at]]), &weight);
            }
        }
        for at in 0..POINTS {
            grid[at] = add(w, &grid[at], &sums[at].reduce(w));
        }
    }
}

impl Task for SumsGrid<'_> {
    type Output = Grid;

    #[inline(always)]
    fn run(self) -> Grid {
        self.run_wide(Plain)
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) -> Grid {
        let mut grid = [Ext::ZERO; POINTS];
        for run in self.runs {
            let weights = &self.weights[run.groups.start / 16..run.groups.end / 16];
            match run.kind() {
                1 => {
                    let mut moments = Moments::zero(w);
                    for (cell, weight) in weights.iter().enumerate() {
                        moments.add(w, run, cell, weight);
                    }
                    moments.finish(w, run, self.batch, &mut grid);
                }
                2 => self.general::<W, 2>(w, run, weights, &mut grid),
                _ => self.general::<W, 0>(w, run, weights, &mut grid),
            }
        }
        grid
    }
}

/// What p and q of a child are multiples of: of `KIND` columns each s, then m, and of two columns `c d' + c' d` between both.
#[inline(always)]
fn quantities<W: Wide, const KIND: usize>(w: W, cells: &[Base]) -> ([Base; 2], [Base; 3]) {
    let (mut sums, mut products) = ([Base::ZERO; 2], [Base::ZERO; 3]);
    for column in 0..KIND {
        let (first, second) = (&cells[column], &cells[KIND + column]);
        sums[column] = first.add(second);
        products[2 * column] = mul_base(w, first, second);
    }
    if KIND == 2 {
        products[1] = products_base(w, [&cells[0], &cells[3], &cells[1], &cells[2]]);
    }
    (sums, products)
}

/// The factors of these, and constants, of a node's q, of p, and of `p + b q`, between four neighbours: of the sums of all four, then of products.
struct Between {
    constants: [Ext; 3],
    q: Vec<Ext>,
    p: Vec<Ext>,
    mixed: Vec<Ext>,
}

impl Between {
    #[inline(always)]
    fn new(run: &Run, batch: &Fixed, corners: &[Fixed; 4]) -> Between {
        let a = &run.constant;
        let (aa, twice) = (a.mul(a), a.add(a));
        let mut products = Vec::with_capacity(3);
        for first in 0..run.factors.len() {
            for second in first..run.factors.len() {
                products.push(run.factors[first].mul(&run.factors[second]));
            }
        }
        let mut between = Between {
            constants: [aa, twice, twice.add(&aa.times(batch))],
            q: Vec::with_capacity(20),
            p: Vec::with_capacity(8),
            mixed: Vec::with_capacity(20),
        };
        for corner in corners {
            for factor in &run.factors {
                let of_q = a.mul(factor);
                between.q.push(of_q.times(corner));
                between.p.push(factor.times(corner));
                between.mixed.push(factor.add(&of_q.times(batch)).times(corner));
            }
        }
        for corner in corners {
            for product in &products {
                between.q.push(product.times(corner));
                between.mixed.push(product.times(batch).times(corner));
            }
        }
        between
    }

    /// The node between four groups from `first` on.
    #[inline(always)]
    fn node<W: Wide, const KIND: usize>(&self, w: W, run: &Run, first: usize) -> Node {
        let (mut both, count) = ([[Base::ZERO; 20]; 2], 2 * KIND - 1);
        for at in 0..4 {
            for side in 0..2 {
                let cells = &run.cells[(4 * (first + at) + 2 * side) * KIND..][..2 * KIND];
                let (sums, products) = quantities::<W, KIND>(w, cells);
                both[side][KIND * at..KIND * (at + 1)].copy_from_slice(&sums[..KIND]);
                let from = 4 * KIND + count * at;
                both[side][from..from + count].copy_from_slice(&products[..count]);
            }
        }
        let ([of_q, of_p, of_mixed], [even, odd]) = (&self.constants, &both);
        [
            combined(w, of_mixed, &self.mixed, even),
            combined(w, of_p, &self.p, odd),
            combined(w, of_q, &self.q, even),
            combined(w, of_q, &self.q, odd),
        ]
    }
}

/// The third round over them: what is bound is stored, mixed.
pub(super) struct SumsBound<'a> {
    pub(super) runs: &'a [Run],
    pub(super) batch: &'a Fixed,
    pub(super) r: &'a [Fixed; 2],
    pub(super) corners: &'a [Fixed; 4],
    pub(super) weights: &'a [[u32; 5]],
    pub(super) out: &'a mut Vec<Node>,
}

impl SumsBound<'_> {
    #[inline(always)]
    fn squared<W: Wide, const KIND: usize>(&mut self, w: W, run: &Run, sums: &mut [Total<W>; 2]) {
        let between = Between::new(run, self.batch, self.corners);
        for cell in 0..run.groups.len() / 16 {
            let node = between.node::<W, KIND>(w, run, 4 * cell);
            self.store(w, node, sums);
        }
    }

    /// Any run.
    #[inline(always)]
    fn general<W: Wide>(&mut self, w: W, run: &Run, sums: &mut [Total<W>; 2]) {
        let [r, t] = self.r;
        for cell in 0..run.groups.len() / 16 {
            let mut nodes = [[Ext::ZERO; 4]; 4];
            for at in 0..4 {
                nodes[at] = children::<W, 0>(w, run, 4 * cell + at, self.batch);
            }
            let [a, b, c, d] = &nodes;
            let node = bound(w, &bound(w, a, b, r), &bound(w, c, d, r), t);
            self.store(w, node, sums);
        }
    }

    /// Stores a node; the sums of every two of them.
    #[inline(always)]
    fn store<W: Wide>(&mut self, w: W, node: Node, sums: &mut [Total<W>; 2]) {
        self.out.push(node);
        let stored = self.out.len();
        if stored.is_multiple_of(2) {
            let weight = Fixed::new(self.weights[stored / 2 - 1]);
            add_pair(w, sums, &self.out[stored - 2], &self.out[stored - 1], &weight);
        }
    }
}

impl Task for SumsBound<'_> {
    type Output = [Ext; 2];

    #[inline(always)]
    fn run(self) -> [Ext; 2] {
        self.run_wide(Plain)
    }

    #[inline(always)]
    fn run_wide<W: Wide>(mut self, w: W) -> [Ext; 2] {
        let mut sums = [Total::zero(w); 2];
        for run in self.runs {
            match run.kind() {
                1 => self.squared::<W, 1>(w, run, &mut sums),
                2 => self.squared::<W, 2>(w, run, &mut sums),
                _ => self.general(w, run, &mut sums),
            }
        }
        reduced(w, &sums)
    }
}
