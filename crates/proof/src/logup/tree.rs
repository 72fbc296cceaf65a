//! One tree: all its layers but the two lowest, each used once and then dropped.
//!
//! Layers lie in lanes, like the vectors of [`crate::sumcheck`]: a node and its two children are in one lane, and the fractions of both
//! children of a group of nodes lie together. The leaves and the layer above them are computed from columns whenever they are
//! needed ([`super::leaves`]), so the largest layer that is stored has a quarter of the leaves.

use super::leaves::{Packed, Run};
use crate::field::ProofField;
use crate::lanes::arithmetic::{mul, products};
use crate::lanes::{self, Ext, Kernel, LANE_BITS, LANES, Plain, Task, Wide, vectorised};
use crate::parallel;
use crate::recycle::Recycled;
use alloc::vec::Vec;

/// Numerators of the even and the odd child of a group of nodes, then their denominators.
pub(super) type Node = [Ext; 4];
/// Numerators and denominators.
type Scalars<E> = (Vec<E>, Vec<E>);
/// Groups below which layers are computed element by element.
const SMALL_GROUPS: usize = 32;

/// The children of the nodes of one layer.
pub(super) enum Children<'a, E> {
    /// Element by element: numerators of even and odd children, then their denominators.
    Scalars([Vec<E>; 4]),
    /// In lanes, in parts.
    Nodes(Vec<Recycled<Node>>),
    /// Sums of two leaves.
    Sums(&'a Packed),
    /// Leaves.
    Leaves(&'a Packed),
}

/// Layers from the root to the leaves.
#[derive(Debug)]
pub(super) struct Tree<E> {
    /// Layers of 1, 2, ... nodes.
    scalars: Vec<Scalars<E>>,
    /// Larger ones, in parts.
    wide: Vec<Vec<Recycled<Node>>>,
    /// Leaves in lanes, if they are not scalars.
    leaves: Option<Packed>,
}

/// The sums of four leaves each.
struct Fourths<'a> {
    runs: &'a [Run],
    out: &'a mut Vec<Node>,
}

impl Fourths<'_> {
    #[inline(always)]
    fn go<W: Wide, const KIND: usize>(w: W, run: &Run, out: &mut Vec<Node>) {
        for group in 0..run.groups.len() / 8 {
            let mut node = [Ext::ZERO; 4];
            for side in 0..2 {
                let (p0, q0) = run.sums::<W, KIND>(w, 4 * group + 2 * side);
                let (p1, q1) = run.sums::<W, KIND>(w, 4 * group + 2 * side + 1);
                node[side] = products(w, [&p0, &q1, &p1, &q0]);
                node[2 + side] = mul(w, &q0, &q1);
            }
            out.push(node);
        }
    }
}

impl Task for Fourths<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.run_wide(Plain);
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) {
        for run in self.runs {
            match run.kind() {
                1 => Self::go::<W, 1>(w, run, self.out),
                2 => Self::go::<W, 2>(w, run, self.out),
                _ => Self::go::<W, 0>(w, run, self.out),
            }
        }
    }
}

/// The layer above, for one part.
struct Above<'a> {
    nodes: &'a [Node],
    above: &'a mut Vec<Node>,
}

impl Task for Above<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.run_wide(Plain);
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) {
        for pair in self.nodes.chunks_exact(2) {
            let mut node = [Ext::ZERO; 4];
            for side in 0..2 {
                let [p0, p1, q0, q1] = &pair[side];
                node[side] = products(w, [p0, q1, p1, q0]);
                node[2 + side] = mul(w, q0, q1);
            }
            self.above.push(node);
        }
    }
}

/// Stored layers above a part of the leaves, from below.
fn above(kernel: Kernel, runs: &[Run]) -> Vec<Recycled<Node>> {
    let groups: usize = runs.iter().map(|run| run.groups.len()).sum();
    let mut layer = Recycled::with_capacity(groups / 8);
    vectorised(kernel, Fourths { runs, out: &mut layer });
    let mut layers = Vec::new();
    while layer.len() > SMALL_GROUPS {
        let mut above = Recycled::with_capacity(layer.len() / 2);
        vectorised(kernel, Above { nodes: &layer, above: &mut above });
        layers.push(core::mem::replace(&mut layer, above));
    }
    layers.push(layer);
    layers
}

/// The layer above, element by element.
fn above_scalars<E: ProofField>((p, q): &Scalars<E>) -> Scalars<E> {
    let (p, q) = (p.as_chunks::<2>().0, q.as_chunks::<2>().0);
    let sums = p.iter().zip(q).map(|([p0, p1], [q0, q1])| *p0 * *q1 + *p1 * *q0).collect();
    (sums, q.iter().map(|[q0, q1]| *q0 * *q1).collect())
}

/// The nodes of a layer, element by element.
fn elements<E: ProofField>(parts: &[Recycled<Node>]) -> Scalars<E> {
    let of = |first: usize| -> Vec<E> {
        let lane = |lane: usize| {
            let groups = parts.iter().flat_map(|part| part.iter());
            groups.flat_map(move |node| [first, first + 1].map(|at| lanes::element(node[at].at(lane))))
        };
        (0..LANES).flat_map(lane).collect()
    };
    (of(0), of(2))
}

/// Children that are scalars in lanes.
pub(super) fn spread<E: ProofField>(children: &[Vec<E>; 4]) -> Vec<Node> {
    let groups = children[0].len() / LANES;
    let mut nodes = alloc::vec![[Ext::ZERO; 4]; groups];
    for (at, values) in children.iter().enumerate() {
        for (index, x) in values.iter().enumerate() {
            nodes[index % groups][at].put(index / groups, lanes::raw(*x));
        }
    }
    nodes
}

impl<E: ProofField> Tree<E> {
    /// The tree over leaves that are written out.
    pub(super) fn small(numerators: Vec<E>, denominators: Vec<E>) -> Tree<E> {
        let mut scalars = alloc::vec![(numerators, denominators)];
        while scalars[scalars.len() - 1].0.len() > 1 {
            scalars.push(above_scalars(&scalars[scalars.len() - 1]));
        }
        scalars.reverse();
        Tree { scalars, wide: Vec::new(), leaves: None }
    }

    /// The tree over leaves in lanes.
    pub(super) fn packed(leaves: Packed) -> Tree<E> {
        let kernel = Kernel::detect();
        let mut parts: Vec<(&Vec<Run>, Vec<Recycled<Node>>)> =
            leaves.iter().map(|part| (part, Vec::new())).collect();
        parallel::for_each(&mut parts, |(runs, layers)| *layers = above(kernel, runs));
        let mut parts: Vec<_> = parts.into_iter().map(|(_, layers)| layers.into_iter()).collect();
        let mut wide: Vec<Vec<Recycled<Node>>> = Vec::new();
        loop {
            let layer: Vec<Recycled<Node>> = parts.iter_mut().filter_map(Iterator::next).collect();
            if layer.is_empty() {
                break;
            }
            wide.push(layer);
        }
        let (p, q) = wide.pop().map(|last| elements(&last)).unwrap_or_default();
        wide.reverse();
        Tree { wide, leaves: Some(leaves), ..Tree::small(p, q) }
    }

    /// The sum of all leaves.
    pub(super) fn root(&self) -> (E, E) {
        (self.scalars[0].0[0], self.scalars[0].1[0])
    }

    /// The children of the layer of `2^log` nodes, which are asked for once.
    pub(super) fn children(&mut self, log: usize) -> Children<'_, E> {
        if log + 1 < self.scalars.len() {
            let (p, q) = core::mem::take(&mut self.scalars[log + 1]);
            let every = |values: &[E], first: usize| values.iter().skip(first).step_by(2).copied().collect();
            return Children::Scalars([every(&p, 0), every(&p, 1), every(&q, 0), every(&q, 1)]);
        }
        let at = log + 1 - self.scalars.len();
        if let Some(layer) = self.wide.get_mut(at) {
            return Children::Nodes(core::mem::take(layer));
        }
        match &self.leaves {
            Some(leaves) if at == self.wide.len() => Children::Sums(leaves),
            Some(leaves) => Children::Leaves(leaves),
            None => Children::Scalars(Default::default()),
        }
    }

    /// Forgets the leaves.
    pub(super) fn forget(&mut self) {
        self.leaves = None;
    }
}

/// Coordinates of a layer whose children lie in lanes.
pub(super) const WIDE_LOG: usize = LANE_BITS + 2;
