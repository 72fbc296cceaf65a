//! One tree: all its layers but the three lowest, each used once and then dropped.
//!
//! Layers lie in lanes, like the vectors of [`crate::sumcheck`]: a node and its two children are in one lane, and the fractions of both
//! children of a group of nodes lie together. The leaves and the layer above them are computed from columns whenever they are
//! needed ([`super::leaves`]), the sums of four leaves once to have the layers above and once when their turn has come: so the largest layer that waits has an eighth of the leaves.

use super::leaves::{Packed, Run};
use crate::field::ProofField;
use crate::lanes::arithmetic::{combined, mul, mul_base, products, products_base};
use crate::lanes::{self, Ext, Kernel, LANE_BITS, LANES, Plain, Task, Wide, vectorised};
use crate::parallel;
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
    Nodes(Vec<Vec<Node>>),
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
    wide: Vec<Vec<Vec<Node>>>,
    /// Whether the sums of four leaves are computed once more.
    again: bool,
    /// Leaves in lanes, if they are not scalars.
    leaves: Option<Packed>,
}

/// The sums of four leaves each.
struct Fourths<'a> {
    runs: &'a [Run],
    out: &'a mut Vec<Node>,
}

impl Fourths<'_> {
    /// Of a run with one column: `p = 4 a^3 + 3 a^2 f e1 + 2 a f^2 e2 + f^3 e3` and `q = a^4 + a^3 f e1 + a^2 f^2 e2 + a f^3 e3 + f^4 e4`, as in `rounds::sums`.
    #[inline(always)]
    fn one<W: Wide>(w: W, run: &Run, out: &mut Vec<Node>) {
        let (a, f) = (&run.constant, &run.factors[0]);
        let [aa, af, ff] = [a.mul(a), a.mul(f), f.mul(f)];
        let [aaa, aaf, aff, fff] = [aa.mul(a), aa.mul(f), af.mul(f), ff.mul(f)];
        let twice = |x: &Ext| x.add(x);
        let constants = [twice(&twice(&aaa)), aa.mul(&aa)];
        let of_p = [twice(&aaf).add(&aaf), twice(&aff), fff];
        let of_q = [aa.mul(&af), af.mul(&af), af.mul(&ff), ff.mul(&ff)];
        for cells in run.cells.as_chunks::<8>().0 {
            let mut node = [Ext::ZERO; 4];
            for side in 0..2 {
                let [a, b] = [&cells[4 * side], &cells[4 * side + 1]];
                let [c, d] = [&cells[4 * side + 2], &cells[4 * side + 3]];
                let [s, t, m, n] = [a.add(b), c.add(d), mul_base(w, a, b), mul_base(w, c, d)];
                let second = mul_base(w, &s, &t).add(&m).add(&n);
                let e = [s.add(&t), second, products_base(w, [&s, &n, &t, &m]), mul_base(w, &m, &n)];
                node[side] = combined(w, &constants[0], &of_p, &e);
                node[2 + side] = combined(w, &constants[1], &of_q, &e);
            }
            out.push(node);
        }
    }

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
                1 => Self::one(w, run, self.out),
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

/// The sums of four leaves of a part each.
fn fourths(kernel: Kernel, runs: &[Run]) -> Vec<Node> {
    let groups: usize = runs.iter().map(|run| run.groups.len()).sum();
    let mut layer = Vec::with_capacity(groups / 8);
    vectorised(kernel, Fourths { runs, out: &mut layer });
    layer
}

/// Layers above a part of the leaves, from below; without the largest unless there is no other.
fn above(kernel: Kernel, runs: &[Run]) -> Vec<Vec<Node>> {
    let mut layer = fourths(kernel, runs);
    let mut layers = Vec::new();
    while layer.len() > SMALL_GROUPS {
        let mut above = Vec::with_capacity(layer.len() / 2);
        vectorised(kernel, Above { nodes: &layer, above: &mut above });
        let below = core::mem::replace(&mut layer, above);
        layers.push(below);
    }
    layers.push(layer);
    if layers.len() > 1 {
        layers.remove(0);
    }
    layers
}

/// The layer above, element by element.
fn above_scalars<E: ProofField>((p, q): &Scalars<E>) -> Scalars<E> {
    let (p, q) = (p.as_chunks::<2>().0, q.as_chunks::<2>().0);
    let sums = p.iter().zip(q).map(|([p0, p1], [q0, q1])| *p0 * *q1 + *p1 * *q0).collect();
    (sums, q.iter().map(|[q0, q1]| *q0 * *q1).collect())
}

/// The nodes of a layer, element by element.
fn elements<E: ProofField>(parts: &[Vec<Node>]) -> Scalars<E> {
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
        Tree { scalars, wide: Vec::new(), again: false, leaves: None }
    }

    /// The tree over leaves in lanes.
    pub(super) fn packed(leaves: Packed) -> Tree<E> {
        let kernel = Kernel::detect();
        let mut parts: Vec<(&Vec<Run>, Vec<Vec<Node>>)> =
            leaves.iter().map(|part| (part, Vec::new())).collect();
        parallel::for_each(&mut parts, |(runs, layers)| *layers = above(kernel, runs));
        let mut parts: Vec<_> = parts.into_iter().map(|(_, layers)| layers.into_iter()).collect();
        let mut wide: Vec<Vec<Vec<Node>>> = Vec::new();
        loop {
            let layer: Vec<Vec<Node>> = parts.iter_mut().filter_map(Iterator::next).collect();
            if layer.is_empty() {
                break;
            }
            wide.push(layer);
        }
        let largest = leaves.iter().flatten().map(|run| run.groups.len() / 8).sum::<usize>();
        let again = wide.first().is_some_and(|layer| layer.iter().map(Vec::len).sum::<usize>() < largest);
        let (p, q) = wide.pop().map(|last| elements(&last)).unwrap_or_default();
        wide.reverse();
        Tree { wide, again, leaves: Some(leaves), ..Tree::small(p, q) }
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
        let below = at - self.wide.len();
        match &self.leaves {
            Some(leaves) if self.again && below == 0 => {
                let mut parts: Vec<_> = leaves.iter().map(|runs| (runs, Vec::new())).collect();
                parallel::for_each(&mut parts, |(runs, layer)| *layer = fourths(Kernel::detect(), runs));
                Children::Nodes(parts.into_iter().map(|(_, layer)| layer).collect())
            }
            Some(leaves) if below == usize::from(self.again) => Children::Sums(leaves),
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
