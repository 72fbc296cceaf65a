//! One tree: all its layers, each used once and then dropped.
//!
//! Layers of 32 nodes and more lie in lanes, like the vectors of [`crate::sumcheck`] that they become: numerators and denominators of
//! even nodes and of odd nodes, four vectors. So a node and its two children are in one lane, and a sum-check takes a layer as it is.

use crate::field::ProofField;
use crate::lanes::{Ext, Kernel, LANE_BITS, LANES, Task, vectorised};
use crate::parallel;
use crate::sumcheck::wide::{PART_GROUPS, scalars};
use alloc::vec;
use alloc::vec::Vec;

/// Numerators of even and odd nodes, then their denominators: four vectors of groups.
pub(crate) type Nodes = [Vec<Ext>; 4];
/// Numerators and denominators.
type Scalars<E> = (Vec<E>, Vec<E>);

/// Leaves in lanes, in parts of a power of two of groups.
#[derive(Debug)]
pub(crate) struct Leafage {
    pub(crate) parts: Vec<Nodes>,
    /// All numerators are 1, and their vectors empty.
    pub(crate) ones: bool,
}

/// Layers from the root to the leaves.
#[derive(Debug)]
pub(crate) struct Tree<E> {
    /// Numerators of the leaves are 1 and not stored.
    ones: bool,
    /// Of 1, 2, ... nodes.
    scalars: Vec<Scalars<E>>,
    /// Of 32, 64, ... nodes, in parts.
    wide: Vec<Vec<Nodes>>,
}

fn empty(groups: usize) -> Nodes {
    core::array::from_fn(|_| Vec::with_capacity(groups / 2))
}

/// The layer above, for one part.
struct Above<'a> {
    nodes: &'a Nodes,
    above: &'a mut Nodes,
}

impl Task for Above<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let [p0, p1, q0, q1] = self.nodes;
        for g in 0..q0.len() {
            let sum = if p0.is_empty() { q0[g].add(&q1[g]) } else { p0[g].products(&q1[g], &p1[g], &q0[g]) };
            self.above[g % 2].push(sum);
            self.above[2 + g % 2].push(q0[g].mul(&q1[g]));
        }
    }
}

/// All layers above a part, until few groups are left: from below.
fn above(kernel: Kernel, leaves: Nodes) -> Vec<Nodes> {
    let mut layers = vec![leaves];
    while layers[layers.len() - 1][2].len() >= PART_GROUPS {
        let nodes = &layers[layers.len() - 1];
        let mut above = empty(nodes[2].len());
        vectorised(kernel, Above { nodes, above: &mut above });
        layers.push(above);
    }
    layers
}

/// Parts of one layer, one behind the other.
fn join(parts: Vec<Nodes>) -> Nodes {
    let mut parts = parts.into_iter();
    let mut joined = parts.next().unwrap_or_else(|| empty(0));
    for part in parts {
        joined.iter_mut().zip(part).for_each(|(joined, more)| joined.extend(more));
    }
    joined
}

/// The nodes of a layer, element by element; numerators that are not stored are 1.
fn elements<E: ProofField>(nodes: &Nodes) -> [Vec<E>; 4] {
    let mut vectors = nodes.each_ref().map(|v| scalars::<E>(v));
    let count = vectors[2].len();
    vectors.iter_mut().filter(|v| v.is_empty()).for_each(|v| *v = vec![E::ONE; count]);
    vectors
}

/// The layer above, element by element.
fn above_scalars<E: ProofField>((p, q): &Scalars<E>) -> Scalars<E> {
    let (p, q) = (p.as_chunks::<2>().0, q.as_chunks::<2>().0);
    let sums = p.iter().zip(q).map(|([p0, p1], [q0, q1])| *p0 * *q1 + *p1 * *q0).collect();
    (sums, q.iter().map(|[q0, q1]| *q0 * *q1).collect())
}

impl<E: ProofField> Tree<E> {
    /// The tree over few leaves.
    pub(crate) fn small(numerators: Vec<E>, denominators: Vec<E>) -> Tree<E> {
        let mut scalars = vec![(numerators, denominators)];
        while scalars[scalars.len() - 1].0.len() > 1 {
            scalars.push(above_scalars(&scalars[scalars.len() - 1]));
        }
        scalars.reverse();
        Tree { ones: false, scalars, wide: Vec::new() }
    }

    /// The tree over leaves in lanes.
    pub(crate) fn new(leaves: Leafage) -> Tree<E> {
        let kernel = Kernel::detect();
        let Leafage { parts: leaves, ones } = leaves;
        let mut parts: Vec<(Option<Nodes>, Vec<Nodes>)> =
            leaves.into_iter().map(|part| (Some(part), Vec::new())).collect();
        parallel::for_each(&mut parts, |(leaves, layers)| {
            *layers = leaves.take().map(|leaves| above(kernel, leaves)).unwrap_or_default();
        });
        let mut parts: Vec<_> = parts.into_iter().map(|(_, layers)| layers.into_iter()).collect();
        let mut wide: Vec<Vec<Nodes>> = Vec::new();
        loop {
            let layer: Vec<Nodes> = parts.iter_mut().filter_map(Iterator::next).collect();
            if layer.is_empty() {
                break;
            }
            wide.push(layer);
        }
        if let Some(last) = wide.pop() {
            wide.push(vec![join(last)]);
        }
        while let Some([nodes]) = wide.last().map(Vec::as_slice)
            && nodes[2].len() > 1
        {
            let mut above = empty(nodes[2].len());
            vectorised(kernel, Above { nodes, above: &mut above });
            wide.push(vec![above]);
        }
        // 32 nodes are left: two groups, of which every lane becomes one node.
        let last = wide.last().and_then(|layer| layer.first());
        let [p0, p1, q0, q1] = last.map_or_else(Default::default, |nodes| elements::<E>(nodes));
        let p = (0..LANES).map(|i| p0[i] * q1[i] + p1[i] * q0[i]).collect();
        let q = q0.iter().zip(&q1).map(|(q0, q1)| *q0 * *q1).collect();
        wide.reverse();
        Tree { ones, wide, ..Tree::small(p, q) }
    }

    /// The sum of all leaves.
    pub(crate) fn root(&self) -> (E, E) {
        (self.scalars[0].0[0], self.scalars[0].1[0])
    }

    /// Whether the layer of `2^log` nodes has numerators of 1, which are not stored.
    pub(crate) fn are_ones(&self, log: usize) -> bool {
        self.ones && log == LANE_BITS + self.wide.len()
    }

    /// The layer of `2^log` nodes, element by element, even and odd.
    pub(crate) fn scalars(&mut self, log: usize) -> [Vec<E>; 4] {
        if log >= self.scalars.len() {
            return self.wide(log).first().map_or_else(Default::default, |nodes| elements(nodes));
        }
        let (p, q) = core::mem::take(&mut self.scalars[log]);
        let every = |values: &[E], first: usize| values.iter().skip(first).step_by(2).copied().collect();
        [every(&p, 0), every(&p, 1), every(&q, 0), every(&q, 1)]
    }

    /// The layer of `2^log` nodes, more than there are lanes, in parts.
    pub(crate) fn wide(&mut self, log: usize) -> Vec<Nodes> {
        core::mem::take(&mut self.wide[log - LANE_BITS - 1])
    }
}
