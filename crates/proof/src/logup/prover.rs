//! The prover's side: trees from the leaves to the roots, then one sum-check a layer from the roots to the leaves.

use super::tree::{Nodes, Tree};
use super::{LeafClaim, heights};
use crate::error::ProveError;
use crate::field::ProofField;
use crate::lanes::{self, Ext, Kernel, LANE_BITS, Task, vectorised};
use crate::parallel;
use crate::sumcheck::wide::{self, Part, WIDE_LOG, spread};
use crate::sumcheck::{Proved, Sum, Term};
use crate::transcript::ProverTranscript;
use alloc::vec;
use alloc::vec::Vec;

/// Smallest height of a tree whose leaves lie in lanes.
const WIDE_HEIGHT: usize = LANE_BITS + 2;

/// `p0 + batch q0`, in place.
struct Mix<'a> {
    nodes: &'a mut Nodes,
    batch: &'a Ext,
}

impl Task for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let [p0, _, q0, _] = self.nodes;
        for (p, q) in p0.iter_mut().zip(q0.iter()) {
            *p = p.add(&q.mul(self.batch));
        }
    }
}

fn tree<E: ProofField>(numerators: &[E], denominators: &[E]) -> Tree<E> {
    let height = numerators.len().trailing_zeros() as usize;
    if height < WIDE_HEIGHT {
        return Tree::small(numerators.to_vec(), denominators.to_vec());
    }
    let halves = |values: &[E]| -> Vec<[Vec<Ext>; 2]> {
        let parts = spread(values, height).into_iter();
        let every = |part: &[Ext], first: usize| part.iter().skip(first).step_by(2).copied().collect();
        parts.map(|part| [every(&part, 0), every(&part, 1)]).collect()
    };
    let parts = halves(numerators).into_iter().zip(halves(denominators));
    Tree::new(parts.map(|([p0, p1], [q0, q1])| [p0, p1, q0, q1]).collect())
}

/// Proves that `numerators[i] / denominators[i]` add up to zero.
///
/// # Errors
/// If a challenge is degenerate.
pub fn prove<E: ProofField>(
    transcript: &mut ProverTranscript,
    numerators: &[E],
    denominators: &[E],
) -> Result<Vec<LeafClaim<E>>, ProveError> {
    let heights = heights(numerators.len());
    let mut start = 0;
    let mut trees = Vec::with_capacity(heights.len());
    for height in &heights {
        let range = start..start + (1 << height);
        start = range.end;
        trees.push(tree(&numerators[range.clone()], &denominators[range]));
    }
    descend(transcript, &heights, trees)
}

/// From the roots to the leaves.
fn descend<E: ProofField>(
    transcript: &mut ProverTranscript,
    heights: &[usize],
    mut trees: Vec<Tree<E>>,
) -> Result<Vec<LeafClaim<E>>, ProveError> {
    let mut claims: Vec<(E, E)> = trees.iter().map(Tree::root).collect();
    let roots: Vec<E> = claims.iter().flat_map(|(p, q)| [*p, *q]).collect();
    transcript.send("roots", &roots);
    let mut point = Vec::new();
    let mut points = vec![Vec::new(); heights.len()];
    for layer in 0..heights.iter().copied().max().unwrap_or(0) {
        let active: Vec<usize> = (0..heights.len()).filter(|tree| heights[*tree] > layer).collect();
        let batch: E = transcript.sponge.challenge("layer");
        let (mut claim, mut power) = (E::ZERO, E::ONE);
        let mut terms = Vec::with_capacity(active.len());
        for (number, tree) in active.iter().enumerate() {
            let (p, q) = claims[*tree];
            claim += power * (p + batch * q);
            // p0 q1 + p1 q0 + batch q0 q1 in two products: (p0 + batch q0) q1 + p1 q0.
            let first = 4 * number;
            let products = vec![(first, first + 3), (first + 1, first + 2)];
            terms.push(Term { coefficient: power, products, linear: Vec::new() });
            power *= batch.square();
        }
        let layers =
            trees.iter_mut().zip(heights).filter(|(_, height)| **height > layer).map(|(tree, _)| tree);
        let mut proved = children(transcript, layers, terms, layer, &point, batch, claim)?;
        for [mixed, _, q0, _] in proved.values.as_chunks_mut::<4>().0 {
            *mixed -= batch * *q0;
        }
        transcript.send("children", &proved.values);
        let child: E = transcript.sponge.challenge("child");
        point = proved.point;
        point.push(child);
        for (tree, [p0, p1, q0, q1]) in active.iter().zip(proved.values.as_chunks::<4>().0) {
            claims[*tree] = (*p0 + child * (*p1 - *p0), *q0 + child * (*q1 - *q0));
            if heights[*tree] == layer + 1 {
                points[*tree] = point.clone();
            }
        }
    }
    let claims = claims.into_iter().zip(points);
    Ok(claims.map(|((numerator, denominator), point)| LeafClaim { point, numerator, denominator }).collect())
}

/// The sum-check over the `2^layer` nodes of a layer, in terms of their children.
fn children<'a, E: ProofField>(
    transcript: &mut ProverTranscript,
    trees: impl Iterator<Item = &'a mut Tree<E>>,
    terms: Vec<Term<E>>,
    layer: usize,
    point: &[E],
    batch: E,
    claim: E,
) -> Result<Proved<E>, ProveError> {
    if layer < WIDE_LOG {
        let mut vectors = Vec::with_capacity(4 * terms.len());
        for tree in trees {
            let [mut mixed, p1, q0, q1] = tree.scalars(layer + 1);
            mixed.iter_mut().zip(&q0).for_each(|(p, q)| *p += batch * *q);
            vectors.extend([mixed, p1, q0, q1]);
        }
        return Sum { vectors, terms }.prove(transcript, layer, Some(point), claim);
    }
    let (kernel, mix) = (Kernel::detect(), Ext::splat(&lanes::raw(batch)));
    let mut parts: Vec<Part> = Vec::new();
    for tree in trees {
        let mut nodes = tree.wide(layer + 1);
        parallel::for_each(&mut nodes, |nodes| vectorised(kernel, Mix { nodes, batch: &mix }));
        parts.resize(nodes.len(), Part::default());
        parts.iter_mut().zip(nodes).for_each(|(part, nodes)| part.vectors.extend(nodes));
    }
    wide::prove(transcript, parts, terms, layer, Some(point), claim)
}
