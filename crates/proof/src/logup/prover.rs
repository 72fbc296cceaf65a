//! The prover's side: all layers are kept, each is used once.

use super::{LeafClaim, heights};
use crate::error::ProveError;
use crate::field::ProofField;
use crate::sumcheck::{Sum, Term};
use crate::transcript::ProverTranscript;
use alloc::vec;
use alloc::vec::Vec;

/// Numerators and denominators of one layer.
type Layer<E> = (Vec<E>, Vec<E>);

/// From the leaves (last) up to the root (first).
fn layers<E: ProofField>(numerators: &[E], denominators: &[E]) -> Vec<Layer<E>> {
    let mut layers = vec![(numerators.to_vec(), denominators.to_vec())];
    while layers[layers.len() - 1].0.len() > 1 {
        let (p, q) = &layers[layers.len() - 1];
        let (p, q) = (p.as_chunks::<2>().0, q.as_chunks::<2>().0);
        let sums = p.iter().zip(q).map(|([p0, p1], [q0, q1])| *p0 * *q1 + *p1 * *q0).collect();
        let products = q.iter().map(|[q0, q1]| *q0 * *q1).collect();
        layers.push((sums, products));
    }
    layers.reverse();
    layers
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
    let mut trees: Vec<Vec<Layer<E>>> = Vec::with_capacity(heights.len());
    for height in &heights {
        let range = start..start + (1 << height);
        start = range.end;
        trees.push(layers(&numerators[range.clone()], &denominators[range]));
    }
    let mut claims: Vec<(E, E)> = trees.iter().map(|tree| (tree[0].0[0], tree[0].1[0])).collect();
    let roots: Vec<E> = claims.iter().flat_map(|(p, q)| [*p, *q]).collect();
    transcript.send("roots", &roots);
    let mut point = Vec::new();
    let mut points = vec![Vec::new(); heights.len()];
    for layer in 0..heights.iter().copied().max().unwrap_or(0) {
        let active: Vec<usize> = (0..heights.len()).filter(|tree| heights[*tree] > layer).collect();
        let batch: E = transcript.sponge.challenge("layer");
        let (mut claim, mut power) = (E::ZERO, E::ONE);
        let mut sum = Sum { vectors: Vec::new(), terms: Vec::new() };
        for tree in &active {
            let (p, q) = claims[*tree];
            claim += power * (p + batch * q);
            let (p, q) = core::mem::take(&mut trees[*tree][layer + 1]);
            let first = sum.vectors.len();
            // p0 q1 + p1 q0 + batch q0 q1 in two products: (p0 + batch q0) q1 + p1 q0.
            let pairs = p.as_chunks::<2>().0.iter().zip(q.as_chunks::<2>().0);
            let (mut mixed, mut p1s) = (Vec::with_capacity(pairs.len()), Vec::with_capacity(pairs.len()));
            let (mut q0s, mut q1s) = (Vec::with_capacity(pairs.len()), Vec::with_capacity(pairs.len()));
            for ([p0, p1], [q0, q1]) in pairs {
                mixed.push(*p0 + batch * *q0);
                p1s.push(*p1);
                q0s.push(*q0);
                q1s.push(*q1);
            }
            sum.vectors.extend([mixed, p1s, q0s, q1s]);
            let products = vec![(first, first + 3), (first + 1, first + 2)];
            sum.terms.push(Term { coefficient: power, products, linear: Vec::new() });
            power *= batch.square();
        }
        let mut proved = sum.prove(transcript, layer, Some(&point), claim)?;
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
