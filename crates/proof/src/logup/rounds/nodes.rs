//! Rounds of layers whose children are sums: `m q1 + p1 q0`.

use super::super::leaves::Run;
use super::super::tree::Node;
use crate::lanes::sums::{Fixed, Sums};
use crate::lanes::{Ext, Task};
use alloc::vec::Vec;

/// Adds what two neighbours give: `m q1 + p1 q0` at 0, and its leading coefficient.
#[inline(always)]
fn add_pair(sums: &mut [Sums; 2], low: &Node, high: &Node, weight: &Fixed) {
    sums[0].add_times(&low[0].products(&low[3], &low[1], &low[2]), weight);
    let mut difference = [Ext::ZERO; 4];
    for at in 0..4 {
        difference[at] = high[at].sub(&low[at]);
    }
    let leading = difference[0].products(&difference[3], &difference[1], &difference[2]);
    sums[1].add_times(&leading, weight);
}

#[inline(always)]
fn mixed(node: &Node, batch: &Fixed) -> Node {
    [node[0].add(&node[2].times(batch)), node[1], node[2], node[3]]
}

/// Two neighbours become one.
#[inline(always)]
fn bound(low: &Node, high: &Node, r: &Fixed) -> Node {
    let mut out = [Ext::ZERO; 4];
    for at in 0..4 {
        out[at] = low[at].toward(&high[at], r);
    }
    out
}

#[inline(always)]
fn reduced(sums: &[Sums; 2]) -> [Ext; 2] {
    [sums[0].reduce(), sums[1].reduce()]
}

/// The first round over stored nodes.
pub(super) struct NodesFirst<'a> {
    pub(super) nodes: &'a [Node],
    pub(super) batch: &'a Fixed,
    pub(super) weights: &'a [[u32; 5]],
}

impl Task for NodesFirst<'_> {
    type Output = [Ext; 2];

    #[inline(always)]
    fn run(self) -> [Ext; 2] {
        let mut sums = [Sums::ZERO; 2];
        for (pair, weight) in self.nodes.chunks_exact(2).zip(self.weights) {
            let (low, high) = (mixed(&pair[0], self.batch), mixed(&pair[1], self.batch));
            add_pair(&mut sums, &low, &high, &Fixed::new(*weight));
        }
        reduced(&sums)
    }
}

/// The second round over stored nodes, which become half as many, mixed.
pub(super) struct NodesBound<'a> {
    pub(super) nodes: &'a mut Vec<Node>,
    pub(super) batch: &'a Fixed,
    pub(super) r: &'a Fixed,
    pub(super) weights: &'a [[u32; 5]],
}

impl Task for NodesBound<'_> {
    type Output = [Ext; 2];

    #[inline(always)]
    fn run(self) -> [Ext; 2] {
        let mut sums = [Sums::ZERO; 2];
        for (at, weight) in self.weights.iter().enumerate() {
            let four = &self.nodes[4 * at..4 * at + 4];
            let low = mixed(&bound(&four[0], &four[1], self.r), self.batch);
            let high = mixed(&bound(&four[2], &four[3], self.r), self.batch);
            add_pair(&mut sums, &low, &high, &Fixed::new(*weight));
            self.nodes[2 * at] = low;
            self.nodes[2 * at + 1] = high;
        }
        self.nodes.truncate(2 * self.weights.len());
        reduced(&sums)
    }
}

/// Every later round.
pub(super) struct NodesNext<'a> {
    pub(super) nodes: &'a mut Vec<Node>,
    pub(super) r: &'a Fixed,
    pub(super) weights: &'a [[u32; 5]],
}

impl Task for NodesNext<'_> {
    type Output = [Ext; 2];

    #[inline(always)]
    fn run(self) -> [Ext; 2] {
        let mut sums = [Sums::ZERO; 2];
        for (at, weight) in self.weights.iter().enumerate() {
            let four = &self.nodes[4 * at..4 * at + 4];
            let low = bound(&four[0], &four[1], self.r);
            let high = bound(&four[2], &four[3], self.r);
            add_pair(&mut sums, &low, &high, &Fixed::new(*weight));
            self.nodes[2 * at] = low;
            self.nodes[2 * at + 1] = high;
        }
        self.nodes.truncate(2 * self.weights.len());
        reduced(&sums)
    }
}

/// The children of group `at` of the nodes whose children are sums of two leaves.
#[inline(always)]
fn children<const KIND: usize>(run: &Run, at: usize) -> Node {
    let (p0, q0) = run.sums::<KIND>(2 * at);
    let (p1, q1) = run.sums::<KIND>(2 * at + 1);
    [p0, p1, q0, q1]
}

/// The first round over nodes whose children are sums of two leaves.
pub(super) struct SumsFirst<'a> {
    pub(super) runs: &'a [Run],
    pub(super) batch: &'a Fixed,
    pub(super) weights: &'a [[u32; 5]],
}

impl SumsFirst<'_> {
    #[inline(always)]
    fn go<const KIND: usize>(&self, run: &Run, sums: &mut [Sums; 2]) {
        let weights = &self.weights[run.groups.start / 8..run.groups.end / 8];
        for (pair, weight) in weights.iter().enumerate() {
            let mut nodes = [[Ext::ZERO; 4]; 2];
            for side in 0..2 {
                nodes[side] = mixed(&children::<KIND>(run, 2 * pair + side), self.batch);
            }
            add_pair(sums, &nodes[0], &nodes[1], &Fixed::new(*weight));
        }
    }
}

impl Task for SumsFirst<'_> {
    type Output = [Ext; 2];

    #[inline(always)]
    fn run(self) -> [Ext; 2] {
        let mut sums = [Sums::ZERO; 2];
        for run in self.runs {
            match run.kind() {
                1 => self.go::<1>(run, &mut sums),
                2 => self.go::<2>(run, &mut sums),
                _ => self.go::<0>(run, &mut sums),
            }
        }
        reduced(&sums)
    }
}

/// The second round over them: what is bound is stored, mixed.
pub(super) struct SumsBound<'a> {
    pub(super) runs: &'a [Run],
    pub(super) batch: &'a Fixed,
    pub(super) r: &'a Fixed,
    pub(super) weights: &'a [[u32; 5]],
    pub(super) out: &'a mut Vec<Node>,
}

impl SumsBound<'_> {
    #[inline(always)]
    fn go<const KIND: usize>(&mut self, run: &Run, sums: &mut [Sums; 2]) {
        let weights = &self.weights[run.groups.start / 16..run.groups.end / 16];
        for (pair, weight) in weights.iter().enumerate() {
            let mut nodes = [[Ext::ZERO; 4]; 2];
            for side in 0..2 {
                let at = 4 * pair + 2 * side;
                let both = bound(&children::<KIND>(run, at), &children::<KIND>(run, at + 1), self.r);
                nodes[side] = mixed(&both, self.batch);
            }
            add_pair(sums, &nodes[0], &nodes[1], &Fixed::new(*weight));
            self.out.extend(nodes);
        }
    }
}

impl Task for SumsBound<'_> {
    type Output = [Ext; 2];

    #[inline(always)]
    fn run(mut self) -> [Ext; 2] {
        let mut sums = [Sums::ZERO; 2];
        for run in self.runs {
            match run.kind() {
                1 => self.go::<1>(run, &mut sums),
                2 => self.go::<2>(run, &mut sums),
                _ => self.go::<0>(run, &mut sums),
            }
        }
        reduced(&sums)
    }
}
