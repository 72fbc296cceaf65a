//! Stages: a whole answer as a chain of statements about some layers each, whose boundaries are committed to (proofs.md, 1).

use crate::decoder::{answered, config};
use lockstep_base::Digest;
use lockstep_base::weights::{ModelWeights, WeightFormat};
use lockstep_proof::argument::Roots;
use lockstep_proof::commitment::Committed;
use lockstep_proof::commitment::kept::KeptError;
use lockstep_proof::decoder::statement::Answer;
use lockstep_proof::decoder::{Stage, boundary, prove_stage, verify_stage, weights};
use lockstep_proof::error::{PlanError, ProveError, VerifyError};
use lockstep_proof::field::Quintic;
use lockstep_proof::file::make::{Order, make};
use lockstep_proof::file::{AnswerFile, FileError, Sample};
use lockstep_proof::key::{Key, KeyError};
use lockstep_proof::proof::Proof;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::synthetic;
use std::sync::Arc;

pub(crate) const ROOT: Digest = Digest([9; 32]);

/// A model of two layers, an answer of it, and the rows between its layers as the runtime computes them.
pub(crate) struct Chain {
    pub(crate) weights: Arc<ModelWeights>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) between: Vec<i32>,
}

impl Chain {
    pub(crate) fn new(kind: usize, format: WeightFormat) -> Chain {
        Chain::of(kind, format, 5)
    }

    /// The same for another prompt.
    pub(crate) fn of(kind: usize, format: WeightFormat, seed: u64) -> Chain {
        let weights = Arc::new(synthetic::model(&config(kind), format, 3));
        let tokens = answered(&weights, seed, 6, 3);
        let first = Arc::new(weights.restrict(&lockstep_base::part::Part::layers(0..1, 2)));
        let engine = Engine::new(first, Arc::new(crate::support::compute()));
        let mut cache = engine.new_cache();
        let mut x = engine.embed(&tokens[..tokens.len() - 1], 0, &mut Silent).expect("tokens");
        engine.layers(&mut x, &mut cache, &mut Silent).expect("in range");
        Chain { weights, tokens, between: x }
    }

    pub(crate) fn answer(&self) -> Answer<'_> {
        Answer::greedy(&self.weights, ROOT, &self.tokens, 3)
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
            verify_stage(&answer, layer..layer + 1, None, &here, &proofs[layer]).expect("an honest stage");
            let other = verify_stage(&answer, layer..layer + 1, None, &here, &proofs[1 - layer]);
            assert!(other.is_err(), "kind {kind}: the proof of another layer");
            // Another boundary, other tokens, another order of commitments.
            let mut rows = chain.between.clone();
            rows[3] += 1;
            let wrong =
                boundary::commit(&rows, chain.weights.config.d_model as usize, chain.tokens.len() - 1);
            let wrong = verify_stage(&answer, layer..layer + 1, None, &roots(&wrong, None), &proofs[layer]);
            assert!(wrong.is_err(), "kind {kind}: another boundary");
            let mut tokens = chain.tokens.clone();
            tokens[1] ^= 1;
            let said = Answer { tokens: &tokens, ..answer };
            assert!(
                verify_stage(&said, layer..layer + 1, None, &here, &proofs[layer]).is_err(),
                "other tokens"
            );
            let missing = verify_stage(&answer, layer..layer + 1, None, &Roots::default(), &proofs[layer]);
            let expected = VerifyError::Plan(PlanError::Boundaries { got: 0, expected: 1 });
            assert_eq!(missing, Err(expected), "kind {kind}: no boundary");
        }
        let whole = verify_stage(&answer, 0..2, None, &Roots::default(), &proofs[0]);
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
        let result = verify_stage(&chain.answer(), layer..layer + 1, None, &roots(said, None), &proof);
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
        let committed = weights::commit::<Quintic>(&*chain.weights, layer..layer + 1).expect("weights");
        let proof = chain.prove(layer, &between, Some(&committed));
        let here = roots(&between, Some(&committed));
        verify_stage(&answer, layer..layer + 1, None, &here, &proof).expect("an honest stage");
        let held = verify_stage(&answer, layer..layer + 1, None, &roots(&between, None), &proof);
        assert!(held.is_err(), "a proof for another tier");
        // Another model of the same shape: a prover whose weights are not those of the root.
        let mut other = synthetic::model(&config(0), WeightFormat::Int8, 4);
        other.config = chain.weights.config.clone();
        let foreign = weights::commit::<Quintic>(&other, layer..layer + 1).expect("weights");
        let result = verify_stage(&answer, layer..layer + 1, None, &roots(&between, Some(&foreign)), &proof);
        assert!(result.is_err(), "other weights");
        let proof = chain.prove(layer, &between, Some(&foreign));
        let result = verify_stage(&answer, layer..layer + 1, None, &roots(&between, Some(&foreign)), &proof);
        assert!(result.is_err(), "a witness of other weights");
    }
}

/// The file of an answer in two stages.
pub(crate) fn made(chain: &Chain, key: Option<&Key>, sample: Option<Sample>) -> AnswerFile {
    let between = [chain.between.clone()];
    let order = Order { answer: chain.answer(), ends: &[1, 2], between: &between, sample, key, kept: None };
    let file = make(&order, &mut |_, _, _| {}).expect("a file");
    let read = AnswerFile::from_bytes(&file.to_bytes()).expect("our own file");
    assert_eq!(read, file);
    read
}

/// file.rs: a file in stages verifies with the model; exchanged stages, a moved boundary, a left out stage and other tokens do not.
#[test]
fn a_file_in_stages_is_the_whole_answer() {
    let chain = Chain::new(0, WeightFormat::Int8);
    let file = made(&chain, None, None);
    assert_eq!(file.verify(&chain.weights, ROOT), Ok(()));
    let mut exchanged = file.clone();
    let (first, second) = exchanged.stages.split_at_mut(1);
    core::mem::swap(&mut first[0].proof, &mut second[0].proof);
    let mut moved = file.clone();
    moved.stages[0].leaving = Some([1; 32]);
    let mut short = file.clone();
    short.stages.truncate(1);
    short.stages[0].leaving = None;
    let mut one = short.clone();
    one.stages[0].end = 2;
    for (what, wrong) in [("exchanged", exchanged), ("moved", moved), ("short", short), ("one", one)] {
        assert!(wrong.verify(&chain.weights, ROOT).is_err(), "{what}");
    }
}

/// decoder/weights.rs: with encoded weights that were kept, a prover says the very same; without them, or with those of another key, there is no proof.
#[test]
fn kept_weights_give_the_same_proof() {
    let folder = std::env::temp_dir().join(format!("lockstep-weights-{}", std::process::id()));
    let empty = folder.join("empty");
    std::fs::create_dir_all(&empty).expect("a folder");
    for (kind, format) in [(0, WeightFormat::Int8), (1, WeightFormat::Int4)] {
        let chain = Chain::new(kind, format);
        let key = Key::new(&chain.weights, ROOT, &[1, 2]).expect("a key");
        let keeping = Key::keeping(&chain.weights, ROOT, &[1, 2], &folder).expect("a key");
        assert_eq!(keeping.to_bytes(), key.to_bytes(), "kind {kind}");
        let between = [chain.between.clone()];
        let with = |kept| {
            let (answer, key) = (chain.answer(), Some(&key));
            let order = Order { answer, ends: &[1, 2], between: &between, sample: None, key, kept };
            make(&order, &mut |_, _, _| {})
        };
        let file = with(Some(&folder)).expect("a file");
        assert!(file == with(None).expect("a file"), "kind {kind}");
        assert_eq!(file.verify_with_key(&key), Ok(()));
        assert!(matches!(with(Some(&empty)), Err(ProveError::Kept(KeptError::File { .. }))));
    }
    std::fs::remove_dir_all(&folder).expect("the folder");
}

/// key.rs, tier B: who has the key alone verifies; with the model's proof, another key, another row or other tokens nothing verifies.
#[test]
fn a_key_is_enough() {
    for kind in [0, 1, 3, 4, 5, 7] {
        let chain = Chain::new(kind, WeightFormat::Int8);
        let key = Key::new(&chain.weights, ROOT, &[1, 2]).expect("a key");
        let read = Key::from_bytes(&key.to_bytes()).expect("our own key");
        assert_eq!((read.digest(), read.root()), (key.digest(), ROOT));
        let file = made(&chain, Some(&key), None);
        assert_eq!(file.verify_with_key(&read), Ok(()), "kind {kind}");
        let digest = key.digest();
        assert_eq!(file.verify(&chain.weights, ROOT), Err(FileError::NeedsKey { got: digest }));
        let plain = made(&chain, None, None);
        assert_eq!(plain.verify_with_key(&read), Err(FileError::Key { got: None, expected: digest }));
        let whole = Key::new(&chain.weights, ROOT, &[2]).expect("a key");
        assert!(matches!(file.verify_with_key(&whole), Err(FileError::Key { .. })), "other stages");
        let mut row = file.clone();
        row.keyed.as_mut().expect("rows").tokens[1].codes[3] ^= 1;
        assert!(matches!(row.verify_with_key(&read), Err(FileError::Row { table: "embedding", .. })));
        let mut fewer = file.clone();
        fewer.keyed.as_mut().expect("rows").tokens.pop();
        assert!(matches!(fewer.verify_with_key(&read), Err(FileError::Row { .. })));
        if kind == 1 {
            // The key has the rows of positions: one code of another key is another key.
            let codes = chain.weights.positions.as_ref().expect("positions").row_bytes(1).to_vec();
            let mut bytes = key.to_bytes();
            let at = bytes.windows(codes.len()).position(|window| window == codes).expect("the row");
            bytes[at] ^= 1;
            let other = Key::from_bytes(&bytes).expect("a key");
            let mut keyed = file.clone();
            keyed.keyed.as_mut().expect("rows").digest = other.digest();
            assert!(matches!(keyed.verify_with_key(&other), Err(FileError::Refused { .. })));
        }
        for at in 0..file.tokens.len() {
            let mut other = file.clone();
            other.tokens[at] ^= 1;
            assert!(other.verify_with_key(&read).is_err(), "kind {kind}, token {at}");
        }
        // A prover that holds another model cannot answer for this one.
        let mut foreign = synthetic::model(&config(kind), WeightFormat::Int8, 8);
        foreign.config = chain.weights.config.clone();
        let foreign = Arc::new(foreign);
        let theirs = Key::new(&foreign, ROOT, &[1, 2]).expect("a key");
        assert_ne!(theirs.digest(), digest);
        let mut claimed = file.clone();
        claimed.keyed.as_mut().expect("rows").digest = theirs.digest();
        assert!(claimed.verify_with_key(&theirs).is_err(), "kind {kind}: another model's key");
    }
}

/// key.rs: damaged keys are refused, or are keys of something else; nothing panics.
#[test]
fn damaged_keys_do_not_verify() {
    let chain = Chain::new(0, WeightFormat::Int8);
    let key = Key::new(&chain.weights, ROOT, &[1, 2]).expect("a key");
    let file = made(&chain, Some(&key), None);
    let bytes = key.to_bytes();
    let seed = 79;
    let mut rng = lockstep_base::rng::SplitMix64::new(seed);
    let mut read = 0;
    for case in 0..300 {
        let mut damaged = bytes.clone();
        let at = rng.below(if case % 2 == 0 { 400 } else { bytes.len() as u64 }) as usize;
        damaged[at] ^= 1 << rng.below(8);
        if let Ok(key) = Key::from_bytes(&damaged) {
            read += 1;
            assert!(file.verify_with_key(&key).is_err(), "seed {seed}, case {case}, byte {at}");
            // It may be a model of its own, but it does not stop the verifier.
            let mut claimed = file.clone();
            claimed.keyed.as_mut().expect("rows").digest = key.digest();
            let _ = claimed.verify_with_key(&key);
        }
        let end = rng.below(bytes.len() as u64) as usize;
        assert!(Key::from_bytes(&bytes[..end]).is_err(), "seed {seed}, case {case}: cut off at {end}");
    }
    assert!(read > 10, "only {read} read");
    assert!(matches!(Key::from_bytes(b"\x00"), Err(KeyError::Cbor(_))));
}

/// file.rs: of a sampled file exactly the drawn stages are proved; other roots, another beacon or more tokens draw again.
#[test]
fn a_sample_is_drawn_after_everything_is_fixed() {
    let chain = Chain::new(0, WeightFormat::Int8);
    let mut drawn = [0, 0];
    for seed in 0..6 {
        let sample = Sample { stages: 1, beacon: Digest([seed; 32]) };
        let file = made(&chain, None, Some(sample));
        assert_eq!((file.proved(), file.verify(&chain.weights, ROOT)), (1, Ok(())), "beacon {seed}");
        let stage = usize::from(file.stages[0].proof.is_none());
        drawn[stage] += 1;
        let later = (0..64).map(|other| Sample { stages: 1, beacon: Digest([100 + other; 32]) });
        let moved = later.map(|sample| AnswerFile { sample: Some(sample), ..file.clone() });
        let elsewhere = moved.filter(|file| file.drawn()[stage] != (file.stages[stage].proof.is_some()));
        for other in elsewhere.take(1) {
            let refused = AnswerFile::from_bytes(&other.to_bytes()).expect_err("not what was drawn");
            assert!(matches!(refused, FileError::Drawn { .. }), "{refused}");
        }
    }
    assert!(drawn.iter().all(|count| *count > 0), "{drawn:?}");
}
