//! Stages: a whole answer as a chain of statements about some layers each, whose boundaries are committed to (proofs.md, 1).

use crate::decoder::{answered, config};
use lockstep_base::Digest;
use lockstep_base::weights::{ModelWeights, WeightFormat};
use lockstep_proof::argument::Roots;
use lockstep_proof::commitment::Committed;
use lockstep_proof::decoder::statement::Answer;
use lockstep_proof::decoder::{Stage, boundary, prove_stage, verify_stage, weights};
use lockstep_proof::error::{PlanError, VerifyError};
use lockstep_proof::field::Quintic;
use lockstep_proof::proof::Proof;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::synthetic;
use std::sync::Arc;

const ROOT: Digest = Digest([9; 32]);

/// A model of two layers, an answer of it, and the rows between its layers as the runtime computes them.
struct Chain {
    weights: Arc<ModelWeights>,
    tokens: Vec<u32>,
    between: Vec<i32>,
}

impl Chain {
    fn new(kind: usize, format: WeightFormat) -> Chain {
        let weights = Arc::new(synthetic::model(&config(kind), format, 3));
        let tokens = answered(&weights, 5, 6, 3);
        let first = Arc::new(weights.restrict(&lockstep_base::part::Part::layers(0..1, 2)));
        let engine = Engine::new(first, Arc::new(crate::support::compute()));
        let mut cache = engine.new_cache();
        let mut x = engine.embed(&tokens[..tokens.len() - 1], 0, &mut Silent).expect("tokens");
        engine.layers(&mut x, &mut cache, &mut Silent).expect("in range");
        Chain { weights, tokens, between: x }
    }

    fn answer(&self) -> Answer<'_> {
        Answer { weights: &self.weights, root: ROOT, tokens: &self.tokens, generated: 3 }
    }

    fn boundary(&self) -> Committed<Quintic> {
        boundary::commit(&self.between, self.weights.config.d_model as usize, self.tokens.len() - 1)
    }

    /// The proof of one of the two layers.
    fn prove(&self, layer: usize, between: &Committed<Quintic>, held: Option<&Committed<Quintic>>) -> Proof {
        let stage = Stage {
            layers: layer..layer + 1,
            entering: (layer == 1).then_some((&self.between[..], between)),
            leaving: (layer == 0).then_some(between),
            weights: held,
        };
        prove_stage(&self.answer(), &stage, &mut |_| {}).expect("a proof")
    }
}

fn roots(between: &Committed<Quintic>, weights: Option<&Committed<Quintic>>) -> Roots {
    Roots { columns: vec![between.root()], weights: weights.map(Committed::root) }
}

/// proofs.md, 1: each stage is proved on its own from the rows that the runtime has at its boundaries, and the chain is the answer. Whatever is exchanged is refused.
#[test]
fn stages_are_proved_one_by_one() {
    for (kind, format) in [(0, WeightFormat::Int8), (1, WeightFormat::Int4)] {
        let chain = Chain::new(kind, format);
        let (answer, between) = (chain.answer(), chain.boundary());
        let here = roots(&between, None);
        let proofs = [0, 1].map(|layer| chain.prove(layer, &between, None));
        for layer in 0..2 {
            verify_stage(&answer, layer..layer + 1, &here, &proofs[layer]).expect("an honest stage");
            let other = verify_stage(&answer, layer..layer + 1, &here, &proofs[1 - layer]);
            assert!(other.is_err(), "kind {kind}: the proof of another layer");
            // Another boundary, other tokens, another order of commitments.
            let mut rows = chain.between.clone();
            rows[3] += 1;
            let wrong =
                boundary::commit(&rows, chain.weights.config.d_model as usize, chain.tokens.len() - 1);
            let wrong = verify_stage(&answer, layer..layer + 1, &roots(&wrong, None), &proofs[layer]);
            assert!(wrong.is_err(), "kind {kind}: another boundary");
            let mut tokens = chain.tokens.clone();
            tokens[1] ^= 1;
            let said = Answer { tokens: &tokens, ..answer };
            assert!(verify_stage(&said, layer..layer + 1, &here, &proofs[layer]).is_err(), "other tokens");
            let missing = verify_stage(&answer, layer..layer + 1, &Roots::default(), &proofs[layer]);
            let expected = VerifyError::Plan(PlanError::Boundaries { got: 0, expected: 1 });
            assert_eq!(missing, Err(expected), "kind {kind}: no boundary");
        }
        let whole = verify_stage(&answer, 0..2, &Roots::default(), &proofs[0]);
        assert!(whole.is_err(), "a stage is not the whole");
    }
}

/// proofs.md, 1: a prover cannot enter a stage with rows that are not those of the boundary, nor leave it with others.
#[test]
fn a_boundary_is_what_enters_and_what_leaves() {
    let chain = Chain::new(0, WeightFormat::Int8);
    let honest = chain.boundary();
    let mut lying = Chain {
        weights: chain.weights.clone(),
        tokens: chain.tokens.clone(),
        between: chain.between.clone(),
    };
    lying.between[7] += 1;
    let wrong = lying.boundary();
    for (layer, committed, said) in [(0, &wrong, &wrong), (1, &honest, &honest), (1, &wrong, &honest)] {
        let proof = lying.prove(layer, committed, None);
        let result = verify_stage(&chain.answer(), layer..layer + 1, &roots(said, None), &proof);
        assert!(result.is_err(), "layer {layer}");
    }
    let stage =
        Stage { layers: 1..2, entering: Some((&chain.between[1..], &honest)), leaving: None, weights: None };
    assert!(prove_stage(&chain.answer(), &stage, &mut |_| {}).is_err(), "a row that is too short");
}

/// proofs.md, 1, tier B: a verifier without weights accepts what one with weights accepts, and no other weights.
#[test]
fn weights_that_are_committed_to_need_not_be_held() {
    let chain = Chain::new(0, WeightFormat::Int8);
    let (answer, between) = (chain.answer(), chain.boundary());
    for layer in 0..2 {
        let committed = weights::commit::<Quintic>(&chain.weights, layer..layer + 1).expect("weights");
        let proof = chain.prove(layer, &between, Some(&committed));
        let here = roots(&between, Some(&committed));
        verify_stage(&answer, layer..layer + 1, &here, &proof).expect("an honest stage");
        let held = verify_stage(&answer, layer..layer + 1, &roots(&between, None), &proof);
        assert!(held.is_err(), "a proof for another tier");
        // Another model of the same shape: a prover whose weights are not those of the root.
        let mut other = synthetic::model(&config(0), WeightFormat::Int8, 4);
        other.config = chain.weights.config.clone();
        let foreign = weights::commit::<Quintic>(&other, layer..layer + 1).expect("weights");
        let result = verify_stage(&answer, layer..layer + 1, &roots(&between, Some(&foreign)), &proof);
        assert!(result.is_err(), "other weights");
        let proof = chain.prove(layer, &between, Some(&foreign));
        let result = verify_stage(&answer, layer..layer + 1, &roots(&between, Some(&foreign)), &proof);
        assert!(result.is_err(), "a witness of other weights");
    }
}
