//! The prover's side: trees from the leaves to the roots, then one sum-check a layer from the roots to the leaves.

use super::leaves::{Leaves, pack};
use super::tree::{Leafage, Nodes, Tree};
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

/// `1 + batch q` for both children, in place.
struct Shift<'a> {
    nodes: &'a mut Nodes,
    batch: &'a Ext,
    one: &'a Ext,
}

impl Task for Shift<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let [_, _, q0, q1] = self.nodes;
        for q in q0.iter_mut() {
            *q = self.one.add(&q.mul(self.batch));
        }
        for q in q1.iter_mut() {
            *q = self.one.add(&q.mul(self.batch));
        }
    }
}

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
    let parts = parts.map(|([p0, p1], [q0, q1])| [p0, p1, q0, q1]).collect();
    Tree::new(Leafage { parts, ones: false })
}

/// Proves that all leaves add up to zero. Largest blocks come first, so that each lies in one tree.
///
/// # Errors
/// If a challenge is degenerate.
pub fn prove_leaves<E: ProofField>(
    transcript: &mut ProverTranscript,
    leaves: &[Leaves<'_, E>],
) -> Result<Vec<LeafClaim<E>>, ProveError> {
    let heights = heights(leaves.iter().map(|block| 1usize << block.log).sum());
    let (mut rest, mut trees) = (leaves, Vec::with_capacity(heights.len()));
    for height in &heights {
        let (mut size, mut count) = (0usize, 0);
        while size < 1 << height {
            size += 1 << rest[count].log;
            count += 1;
        }
        let blocks;
        (blocks, rest) = rest.split_at(count);
        if *height < WIDE_HEIGHT {
            let (mut numerators, mut denominators) = (Vec::new(), Vec::new());
            for (p, q) in blocks.iter().map(Leaves::fractions) {
                numerators.extend(p);
                denominators.extend(q);
            }
            trees.push(Tree::small(numerators, denominators));
        } else {
            trees.push(Tree::new(pack(blocks, *height)));
        }
    }
    descend(transcript, &heights, trees)
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
        let mut coefficients = Vec::with_capacity(active.len());
        for tree in &active {
            let (p, q) = claims[*tree];
            claim += power * (p + batch * q);
            coefficients.push(power);
            power *= batch.square();
        }
        let layers =
            trees.iter_mut().zip(heights).filter(|(_, height)| **height > layer).map(|(tree, _)| tree);
        let proved = children(transcript, layers, &coefficients, layer, &point, batch, claim)?;
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

/// The sum-check over the `2^layer` nodes of a layer, in terms of their children: `p0, p1, q0, q1` of each tree.
///
/// With `m = p0 + batch q0` the summand `p0 q1 + p1 q0 + batch q0 q1` has two products, `m q1 + p1 q0`; with numerators of 1 and
/// `u = 1 + batch q` it has one, `(u0 u1 - 1) / batch`.
fn children<'a, E: ProofField>(
    transcript: &mut ProverTranscript,
    trees: impl Iterator<Item = &'a mut Tree<E>>,
    coefficients: &[E],
    layer: usize,
    point: &[E],
    batch: E,
    claim: E,
) -> Result<Proved<E>, ProveError> {
    let inverse = batch.try_inverse().ok_or(ProveError::Degenerate { what: "a layer of lookups" })?;
    let wide = layer >= WIDE_LOG;
    let (mut vectors, mut parts): (Vec<Vec<E>>, Vec<Part>) = (Vec::new(), Vec::new());
    let (mut terms, mut ones, mut constant) = (Vec::with_capacity(coefficients.len()), Vec::new(), E::ZERO);
    for (tree, coefficient) in trees.zip(coefficients) {
        let are_ones = wide && tree.are_ones(layer + 1);
        let first = if wide { parts.first().map_or(0, |part| part.vectors.len()) } else { vectors.len() };
        ones.push(are_ones);
        terms.push(if are_ones {
            constant -= *coefficient * inverse;
            Term::product(*coefficient * inverse, first, first + 1)
        } else {
            let products = vec![(first, first + 3), (first + 1, first + 2)];
            Term { coefficient: *coefficient, products, linear: Vec::new() }
        });
        if wide {
            let nodes = mixed(tree.wide(layer + 1), batch, are_ones);
            parts.resize(nodes.len(), Part::default());
            for (part, nodes) in parts.iter_mut().zip(nodes) {
                part.vectors.extend(nodes.into_iter().filter(|vector| !vector.is_empty()));
            }
        } else {
            let [mut mixed, p1, q0, q1] = tree.scalars(layer + 1);
            mixed.iter_mut().zip(&q0).for_each(|(p, q)| *p += batch * *q);
            vectors.extend([mixed, p1, q0, q1]);
        }
    }
    let Proved { point, values } = if wide {
        wide::prove(transcript, parts, terms, layer, Some(point), claim, constant)?
    } else {
        Sum { vectors, terms }.prove(transcript, layer, Some(point), claim)?
    };
    let (mut values, mut children) = (values.into_iter(), Vec::with_capacity(4 * ones.len()));
    let mut next = || values.next().unwrap_or(E::ZERO);
    for are_ones in ones {
        if are_ones {
            let (u0, u1) = (next(), next());
            children.extend([E::ONE, E::ONE, (u0 - E::ONE) * inverse, (u1 - E::ONE) * inverse]);
        } else {
            let (mixed, p1, q0, q1) = (next(), next(), next(), next());
            children.extend([mixed - batch * q0, p1, q0, q1]);
        }
    }
    Ok(Proved { point, values: children })
}

/// The vectors of a layer as its summand has them.
fn mixed<E: ProofField>(mut layer: Vec<Nodes>, batch: E, ones: bool) -> Vec<Nodes> {
    let (kernel, batch) = (Kernel::detect(), Ext::splat(&lanes::raw(batch)));
    let one = Ext::splat(&lanes::raw(E::ONE));
    parallel::for_each(&mut layer, |nodes| {
        if ones {
            vectorised(kernel, Shift { nodes, batch: &batch, one: &one });
        } else {
            vectorised(kernel, Mix { nodes, batch: &batch });
        }
    });
    layer
}
