//! The known ways to get Fiat and Shamir's transform wrong, one by one (proofs.md, 2).

use crate::support::{dense, inputs};
use lockstep_base::net::Net;
use lockstep_base::rng::SplitMix64;
use lockstep_proof::field::{ProofField, Quintic, ext_bytes};
use lockstep_proof::net::statement::Statement;
use lockstep_proof::transcript::{ProverTranscript, Sponge, VerifierTranscript};
use p3_field::{BasedVectorSpace, Field, PrimeCharacteristicRing, PrimeField32};

fn challenge(mut sponge: Sponge) -> Quintic {
    sponge.challenge("test")
}

fn after(calls: &[(&str, &[u8])]) -> Quintic {
    let mut sponge = Sponge::new("test");
    calls.iter().for_each(|(label, bytes)| sponge.absorb(label, bytes));
    challenge(sponge)
}

/// Public inputs that are not hashed let a prover choose them afterwards.
#[test]
fn everything_public_is_absorbed_before_the_first_challenge() {
    let mut rng = SplitMix64::new(21);
    let net = dense(&mut rng, &[3, 4, 2]);
    let input = inputs(&mut rng, &net, 2);
    let middle = i64::midpoint(net.output().low, net.output().high) as i32;
    let output = vec![middle; 4];
    let first = |net: &Net, input: &[i32], output: &[i32]| {
        challenge(Statement::<Quintic>::new(net, input, output).expect("a statement").sponge())
    };
    let ours = first(&net, &input, &output);
    assert_eq!(ours, first(&net, &input, &output));
    for at in 0..output.len() {
        let mut other = output.clone();
        other[at] = middle + 1;
        assert_ne!(ours, first(&net, &input, &other), "output {at}");
    }
    for at in 0..input.len() {
        let mut other = input.clone();
        other[at] = if other[at] == 0 { 1 } else { 0 };
        assert_ne!(ours, first(&net, &other, &output), "input {at}");
    }
    let mut weights = net.weights().to_vec();
    weights[1].bias[0] ^= 1;
    let other = Net::new(net.graph().clone(), weights).expect("a network");
    assert_ne!(ours, first(&other, &input, &output), "weights");
    let mut graph = net.graph().clone();
    graph.name.push('!');
    let other = Net::new(graph, net.weights().to_vec()).expect("a network");
    assert_ne!(ours, first(&other, &input, &output), "graph");
}

/// A challenge that is older than what it should bind: whatever is sent changes every challenge behind it.
#[test]
fn what_is_sent_is_absorbed_on_both_sides() {
    let mut prover = ProverTranscript::new(Sponge::new("test"));
    prover.send("round", &[Quintic::TWO, Quintic::ONE]);
    prover.send_hash("root", &[7; 32]);
    prover.hint(&[1, 2, 3]);
    let ours: Quintic = prover.sponge.challenge("test");
    let proof = prover.finish();
    let read = |proof: &[u8]| -> Quintic {
        let mut verifier = VerifierTranscript::new(Sponge::new("test"), proof);
        let _ = verifier.receive::<Quintic, 2>("round").expect("elements");
        verifier.receive_hash("root").expect("a hash");
        verifier.hint(3).expect("bytes");
        let challenge = verifier.sponge.challenge("test");
        verifier.finish().expect("nothing is left");
        challenge
    };
    assert_eq!(read(&proof), ours);
    for at in (0..72).filter(|at| at % 4 == 0) {
        let mut other = proof.clone();
        other[at] ^= 1;
        assert_ne!(read(&other), ours, "byte {at}");
    }
}

/// Lengths that are not hashed make different conversations equal.
#[test]
fn lengths_and_labels_are_absorbed() {
    let ours = after(&[("a", b"xy"), ("b", b"z")]);
    for other in [
        after(&[("a", b"x"), ("b", b"yz")]),
        after(&[("a", b"xyb"), ("", b"z")]),
        after(&[("ax", b"y"), ("b", b"z")]),
        after(&[("a", b"xy"), ("b", b"z"), ("b", b"")]),
        after(&[("b", b"z"), ("a", b"xy")]),
        after(&[("a", b"xyz")]),
    ] {
        assert_ne!(ours, other);
    }
    assert_ne!(challenge(Sponge::new("test")), challenge(Sponge::new("tests")));
}

/// One challenge twice: drawing changes the state, and labels separate.
#[test]
fn challenges_differ() {
    let mut sponge = Sponge::new("test");
    let first: Quintic = sponge.challenge("a");
    assert_ne!(first, sponge.challenge("a"));
    assert_ne!(Sponge::new("test").challenge::<Quintic>("a"), Sponge::new("test").challenge::<Quintic>("b"));
}

/// Second encodings of one element would let anybody change a proof and its challenges.
#[test]
fn only_canonical_elements_are_read() {
    let order = <Quintic as ProofField>::Base::ORDER_U32;
    for (word, fits) in [(0, true), (order - 1, true), (order, false), (u32::MAX, false)] {
        let mut bytes = vec![0; ext_bytes::<Quintic>()];
        bytes[8..12].copy_from_slice(&word.to_le_bytes());
        let mut transcript = VerifierTranscript::new(Sponge::new("test"), &bytes);
        assert_eq!(transcript.receive::<Quintic, 1>("x").is_ok(), fits, "{word}");
    }
}

/// Positions are uniform over a power of two, and challenges use all coordinates.
#[test]
fn challenges_fill_their_range() {
    let mut sponge = Sponge::new("test");
    let positions = sponge.positions("columns", 4000, 4);
    for position in 0..16 {
        let count = positions.iter().filter(|p| **p == position).count();
        assert!((150..350).contains(&count), "{position}: {count} of 4000");
    }
    let x: Quintic = sponge.challenge("x");
    assert!(
        BasedVectorSpace::<<Quintic as ProofField>::Base>::as_basis_coefficients_slice(&x)
            .iter()
            .all(|c| !c.is_zero())
    );
}
