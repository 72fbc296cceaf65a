//! Rounds of layers whose children are sums: `m q1 + p1 q0`.

use super::super::tree::Node;
use crate::lanes::arithmetic::{Total, add, products, sub, times, toward};
use crate::lanes::sums::Fixed;
use crate::lanes::{Ext, Plain, Task, Wide};
use alloc::vec::Vec;

/// Adds what two neighbours give: `m q1 + p1 q0` at 0, and its leading coefficient.
#[inline(always)]
pub(super) fn add_pair<W: Wide>(w: W, sums: &mut [Total<W>; 2], low: &Node, high: &Node, weight: &Fixed) {
    sums[0].add_times(w, &products(w, [&low[0], &low[3], &low[1], &low[2]]), weight);
    let mut difference = [Ext::ZERO; 4];
    for at in 0..4 {
        difference[at] = sub(w, &high[at], &low[at]);
    }
    let [m, p, q, r] = &difference;
    sums[1].add_times(w, &products(w, [m, r, p, q]), weight);
}

#[inline(always)]
pub(super) fn mixed<W: Wide>(w: W, node: &Node, batch: &Fixed) -> Node {
    [add(w, &node[0], &times(w, &node[2], batch)), node[1], node[2], node[3]]
}

/// Two neighbours become one.
#[inline(always)]
pub(super) fn bound<W: Wide>(w: W, low: &Node, high: &Node, r: &Fixed) -> Node {
    let mut out = [Ext::ZERO; 4];
    for at in 0..4 {
        out[at] = toward(w, &low[at], &high[at], r);
    }
    out
}

#[inline(always)]
pub(super) fn reduced<W: Wide>(w: W, sums: &[Total<W>; 2]) -> [Ext; 2] {
    [sums[0].reduce(w), sums[1].reduce(w)]
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
        self.run_wide(Plain)
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) -> [Ext; 2] {
        let mut sums = [Total::zero(w); 2];
        for (pair, weight) in self.nodes.chunks_exact(2).zip(self.weights) {
            let (low, high) = (mixed(w, &pair[0], self.batch), mixed(w, &pair[1], self.batch));
            add_pair(w, &mut sums, &low, &high, &Fixed::new(*weight));
        }
        reduced(w, &sums)
    }
}

/// Every later round over stored nodes, which become half as many; they are mixed if there is something to mix with.
pub(super) struct NodesNext<'a> {
    pub(super) nodes: &'a mut Vec<Node>,
    pub(super) batch: Option<&'a Fixed>,
    pub(super) r: &'a Fixed,
    pub(super) weights: &'a [[u32; 5]],
}

impl Task for NodesNext<'_> {
    type Output = [Ext; 2];

    #[inline(always)]
    fn run(self) -> [Ext; 2] {
        self.run_wide(Plain)
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) -> [Ext; 2] {
        let mut sums = [Total::zero(w); 2];
        for (at, weight) in self.weights.iter().enumerate() {
            let four = &self.nodes[4 * at..4 * at + 4];
            let (mut low, mut high) =
                (bound(w, &four[0], &four[1], self.r), bound(w, &four[2], &four[3], self.r));
            if let Some(batch) = self.batch {
                (low, high) = (mixed(w, &low, batch), mixed(w, &high, batch));
            }
            add_pair(w, &mut sums, &low, &high, &Fixed::new(*weight));
            self.nodes[2 * at] = low;
            self.nodes[2 * at + 1] = high;
        }
        self.nodes.truncate(2 * self.weights.len());
        reduced(w, &sums)
    }
}
