//! The prover's side: all layers are kept, each is used once.

use super::{LeafClaim, heights};
use crate::error::ProveError;
use crate::field::ProofField;
use crate::sumcheck::{Product, Sum};
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
        let mut sum = Sum { vectors: Vec::new(), products: Vec::new(), linear: Vec::new() };
        for tree in &active {
            let (p, q) = claims[*tree];
            claim += power * (p + batch * q);
            let (p, q) = core::mem::take(&mut trees[*tree][layer + 1]);
            let first = sum.vectors.len();
            let side = |values: &[E], side: usize| values.iter().skip(side).step_by(2).copied().collect();
            sum.vectors.extend([side(&p, 0), side(&p, 1), side(&q, 0), side(&q, 1)]);
            let product =
                |coefficient, left, right| Product { coefficient, left: first + left, right: first + right };
            sum.products.extend([product(power, 0, 3), product(power, 1, 2), product(power * batch, 2, 3)]);
            power *= batch.square();
        }
        let proved = sum.prove(transcript, layer, Some(&point), claim)?;
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
