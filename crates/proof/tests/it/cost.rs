//! What a verification takes is known before it begins (proofs.md, 5).

use crate::decoder::{answered, config};
use crate::harness::{Case, outputs};
use crate::support::{dense, inputs};
use lockstep_base::Digest;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use lockstep_proof::argument::Argument;
use lockstep_proof::argument::Roots;
use lockstep_proof::argument::cost::{Cost, Costs, cost};
use lockstep_proof::argument::prove::{prove, prove_with};
use lockstep_proof::argument::verify::{Step, verify_watched};
use lockstep_proof::decoder::statement::{Answer, LIMB_BITS, Statement};
use lockstep_proof::decoder::weights;
use lockstep_proof::field::Quintic;
use lockstep_proof::gadget::Builder;
use lockstep_runtime::synthetic;
use std::sync::Arc;

/// Bytes, challenges and compressions of a transcript where steps begin.
type Mark = (Step, usize, usize, usize);

fn marks(argument: &Argument<'_, Quintic>, proof: &[u8]) -> Vec<Mark> {
    let mut marks = Vec::new();
    let mut watch = |step, left, spent: lockstep_proof::transcript::Spent| {
        marks.push((step, proof.len() - left, spent.challenges, spent.compressions));
    };
    verify_watched(argument, proof, &mut watch).expect("our own proof");
    marks
}

/// Everything in front of the openings is exact; so are their challenges; their bytes are a bound, since columns are drawn twice and paths meet, which they do most in the small codes of these.
fn compare(what: &str, costs: &Costs, marks: &[Mark]) {
    let mut so_far = Cost::default();
    let steps = [costs.lookups, costs.constraints, costs.products];
    for (step, (_, bytes, challenges, compressions)) in steps.iter().zip(&marks[1..]) {
        so_far.bytes += step.bytes;
        so_far.challenges += step.challenges;
        so_far.compressions += step.compressions;
        let got = (so_far.bytes, so_far.challenges, so_far.compressions);
        assert_eq!(got, (*bytes, *challenges, *compressions), "{what}");
    }
    let [opening, end] = [3, 4].map(|at| marks[at]);
    assert_eq!((opening.0, end.0), (Step::Opening, Step::End));
    let bytes = end.1 - opening.1;
    assert_eq!(costs.opening.challenges, end.2 - opening.2, "{what}");
    assert!((bytes..2 * bytes).contains(&costs.opening.bytes), "{what}: {bytes}, {costs:?}");
    assert!(costs.opening.compressions > end.3 - opening.3, "{what}");
    let sum = |of: fn(&Cost) -> usize| -> usize { steps.iter().chain([&costs.opening]).map(of).sum() };
    assert_eq!(sum(|cost| cost.bytes), costs.all.bytes, "{what}");
    assert_eq!(sum(|cost| cost.products), costs.all.products, "{what}");
}

/// Networks, whose verifier holds the weights.
#[test]
fn costs_of_networks_are_known() {
    let mut rng = SplitMix64::new(31);
    for (widths, examples) in [(&[4, 1][..], 1), (&[4, 6, 3], 3), (&[8, 16, 4], 40)] {
        let net = dense(&mut rng, widths);
        let input = inputs(&mut rng, &net, examples);
        let output = outputs(&net, &input);
        let case = Case::claimed(&net, &input, &output, None, None).expect("a statement");
        let proof = prove(&case.argument, &case.witness).expect("a proof");
        let costs = cost(&case.argument);
        assert_eq!(
            costs.all.inverses,
            costs.lookups.inverses + costs.constraints.inverses,
            "batches have none"
        );
        compare(&format!("{widths:?}"), &costs, &marks(&case.argument, &proof));
    }
}

/// Decoders, whose verifier holds a commitment to the weights, or the weights.
#[test]
fn costs_of_decoders_are_known() {
    for (kind, keyed) in [(0, true), (1, true), (2, false)] {
        let held = Arc::new(synthetic::model(&config(kind), WeightFormat::Int8, 3));
        let tokens = answered(&held, 5, 6, 3);
        let answer = Answer::greedy(&held, Digest([1; 32]), &tokens, 3);
        let layers = held.config.n_layers as usize;
        let statement = Statement::<Quintic>::new(answer).expect("a statement");
        let mut builder = Builder::proving(LIMB_BITS, None);
        statement.build(&mut builder, &[]);
        let (built, witness) = builder.finish().honest().expect("an honest witness");
        let committed = weights::commit::<Quintic>(&*held, 0..layers).expect("weights");
        let roots = Roots { columns: Vec::new(), weights: keyed.then(|| committed.root()) };
        let argument = statement.argument_with(built, &roots).expect("an argument");
        let outside: Vec<_> = keyed.then_some(&committed).into_iter().collect();
        let proof = prove_with(&argument, &witness, &outside, &mut |_| {}).expect("a proof");
        let costs = cost(&argument);
        compare(&format!("kind {kind}"), &costs, &marks(&argument, &proof));
    }
}
