//! The prover's side: trees from the leaves to the roots, then one sum-check a layer from the roots to the leaves.

use super::leaves::{Leaves, pack, packable};
use super::rounds;
use super::tree::Tree;
use super::{LeafClaim, heights};
use crate::error::ProveError;
use crate::field::ProofField;
use crate::transcript::ProverTranscript;
use alloc::vec;
use alloc::vec::Vec;

/// Proves that all leaves add up to zero. Largest blocks come first, so that each lies in one tree.
///
/// # Errors
/// If a challenge is degenerate.
pub fn prove_leaves<E: ProofField>(
    transcript: &mut ProverTranscript,
    leaves: Vec<Leaves<'_, E>>,
) -> Result<Vec<LeafClaim<E>>, ProveError> {
    let heights = heights(leaves.iter().map(|block| 1usize << block.log).sum());
    let (mut rest, mut trees) = (leaves.into_iter(), Vec::with_capacity(heights.len()));
    for height in &heights {
        let (mut size, mut blocks) = (0usize, Vec::new());
        while size < 1 << height
            && let Some(block) = rest.next()
        {
            size += 1 << block.log;
            blocks.push(block);
        }
        if packable(&blocks, *height) {
            let packed = pack(&blocks, *height);
            // Columns were copied into lanes.
            drop(blocks);
            trees.push(Tree::packed(packed));
            continue;
        }
        let (mut numerators, mut denominators) = (Vec::new(), Vec::new());
        for (p, q) in blocks.iter().map(Leaves::fractions) {
            numerators.extend(p);
            denominators.extend(q);
        }
        trees.push(Tree::small(numerators, denominators));
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
        trees.push(Tree::small(numerators[range.clone()].to_vec(), denominators[range].to_vec()));
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
        let proved = rounds::prove(transcript, layers.collect(), &coefficients, &point, batch, claim)?;
        transcript.send("children", &proved.values);
        let child: E = transcript.sponge.challenge("child");
        point = proved.point;
        point.push(child);
        for (tree, [p0, p1, q0, q1]) in active.iter().zip(proved.values.as_chunks::<4>().0) {
            claims[*tree] = (*p0 + child * (*p1 - *p0), *q0 + child * (*q1 - *q0));
            if heights[*tree] == layer + 1 {
                points[*tree] = point.clone();
                trees[*tree].forget();
            }
        }
    }
    let claims = claims.into_iter().zip(points);
    Ok(claims.map(|((numerator, denominator), point)| LeafClaim { point, numerator, denominator }).collect())
}
