//! Soundness (proofs.md, 6): proofs of one statement shown for another, and damaged proofs.

use crate::support::{compute, dense, inputs, iris_mlp};
use lockstep_base::net::{Graph, Net};
use lockstep_base::rng::SplitMix64;
use lockstep_proof::error::{PlanError, VerifyError};
use lockstep_proof::net::{prove, verify};
use lockstep_proof::proof::{MAGIC, PROOF_BYTES_MAX, Proof};

/// Positions of a proof whose bits are flipped, beside the first ones.
const SAMPLED: usize = 1500;
/// The first bytes are all tried: roots, sums, rounds and claims come before opened columns.
const FIRST: usize = 1200;

fn changed(net: &Net, change: impl Fn(&mut Graph, &mut Vec<lockstep_base::weights::Linear>)) -> Net {
    let (mut graph, mut weights) = (net.graph().clone(), net.weights().to_vec());
    change(&mut graph, &mut weights);
    Net::new(graph, weights).expect("still a network")
}

/// proofs.md, 1: the proof holds for this network, these inputs and these outputs, and for nothing else.
#[test]
fn a_proof_of_another_statement_is_refused() {
    let mut rng = SplitMix64::new(11);
    let net = dense(&mut rng, &[4, 6, 3]);
    let input = inputs(&mut rng, &net, 4);
    let (output, proof) = prove(&compute(), &net, &input).expect("a proof");
    verify(&net, &input, &output, &proof).expect("its own proof");
    let refused = |net: &Net, input: &[i32], output: &[i32], what: &str| {
        assert!(verify(net, input, output, &proof).is_err(), "{what}");
    };
    for at in 0..output.len() {
        let mut other = output.clone();
        other[at] += [1, -1, 1 << 20][at % 3];
        refused(&net, &input, &other, &format!("output {at}"));
    }
    // y + p and y - p are the same element of the field.
    for at in 0..output.len() {
        for order in [2_130_706_433i64, -2_130_706_433] {
            let Ok(wrapped) = i32::try_from(i64::from(output[at]) + order) else { continue };
            let mut other = output.clone();
            other[at] = wrapped;
            let error = verify(&net, &input, &other, &proof).expect_err("another integer");
            assert!(matches!(error, VerifyError::Plan(PlanError::OutputBounds { index, .. }) if index == at));
        }
    }
    for at in 0..input.len() {
        let mut other = input.clone();
        other[at] = if other[at] == net.graph().input.high { other[at] - 1 } else { other[at] + 1 };
        refused(&net, &other, &output, &format!("input {at}"));
    }
    let (mut swapped_input, mut swapped_output) = (input.clone(), output.clone());
    swapped_input.rotate_left(4);
    swapped_output.rotate_left(3);
    refused(&net, &swapped_input, &swapped_output, "examples in another order");
    refused(&net, &input[..12], &output[..9], "fewer examples");
    refused(
        &net,
        &[&input[..], &input[12..]].concat(),
        &[&output[..], &output[9..]].concat(),
        "more examples",
    );
    refused(&changed(&net, |graph, _| graph.name.push('x')), &input, &output, "another name");
    refused(&changed(&net, |graph, _| graph.input.low -= 1), &input, &output, "other bounds");
    refused(&changed(&net, |_, weights| weights[1].bias[2] += 1), &input, &output, "a bias");
    refused(&changed(&net, |_, weights| weights[0].multipliers[5] ^= 1), &input, &output, "a multiplier");
    refused(&changed(&net, |_, weights| weights[0].shifts[0] += 1), &input, &output, "a row shift");
}

/// proofs.md, 5: every byte of a proof counts; it ends where it ends.
#[test]
fn a_damaged_proof_is_refused() {
    let net = iris_mlp();
    let mut rng = SplitMix64::new(12);
    let input = inputs(&mut rng, &net, 1);
    let (output, proof) = prove(&compute(), &net, &input).expect("a proof");
    let bytes = proof.as_bytes();
    let check =
        |bytes: Vec<u8>| Proof::from_bytes(bytes).and_then(|proof| verify(&net, &input, &output, &proof));
    let sampled: Vec<usize> = (0..SAMPLED).map(|_| rng.below(bytes.len() as u64) as usize).collect();
    let mut accepted = Vec::new();
    for at in (0..FIRST.min(bytes.len())).chain(sampled) {
        let mut wrong = bytes.to_vec();
        let bit = rng.below(8);
        wrong[at] ^= 1 << bit;
        if check(wrong).is_ok() {
            accepted.push(format!("byte {at}, bit {bit}"));
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
    for _ in 0..200 {
        let end = rng.below(bytes.len() as u64) as usize;
        assert!(check(bytes[..end].to_vec()).is_err(), "the first {end} bytes");
    }
    for extra in [1, 4, 20, 1000] {
        let longer = [bytes, &vec![0; extra]].concat();
        assert_eq!(check(longer), Err(VerifyError::TrailingBytes { got: extra }));
    }
}

/// proofs.md, 5: random bytes, and bytes that are all ones, are refused without a panic.
#[test]
fn noise_is_refused() {
    let net = iris_mlp();
    let mut rng = SplitMix64::new(13);
    let input = inputs(&mut rng, &net, 1);
    let (output, proof) = prove(&compute(), &net, &input).expect("a proof");
    for case in 0..200 {
        let mut body = vec![0xff; proof.body().len()];
        match case % 4 {
            0 => rng.fill(&mut body),
            1 => body.fill(0),
            2 => {
                body.copy_from_slice(proof.body());
                let at = rng.below(body.len() as u64) as usize;
                rng.fill(&mut body[at..]);
            }
            _ => body.truncate(rng.below(4096) as usize),
        }
        assert!(verify(&net, &input, &output, &Proof::new(&body)).is_err(), "case {case}");
    }
    let error = Proof::from_bytes(b"lockNET0....".to_vec());
    assert_eq!(error, Err(VerifyError::Magic { got: "lockNET0".into(), expected: MAGIC }));
    let got = PROOF_BYTES_MAX + 1;
    let error = Proof::from_bytes(vec![0; got]);
    assert_eq!(error, Err(VerifyError::Size { got, limit: PROOF_BYTES_MAX }));
}

/// proofs.md, 1: what is no statement is refused before anything is computed.
#[test]
fn what_is_no_statement_is_refused() {
    let net = iris_mlp();
    let proof = Proof::new(&[]);
    let error =
        |input: &[i32], output: &[i32]| verify(&net, input, output, &proof).expect_err("no statement");
    assert!(matches!(error(&[], &[]), VerifyError::Plan(PlanError::Examples { got: 0, .. })));
    assert!(matches!(error(&[1; 5], &[0; 3]), VerifyError::Plan(PlanError::Examples { got: 5, .. })));
    assert!(matches!(error(&[1; 4], &[0; 2]), VerifyError::Plan(PlanError::OutputLength { got: 2, .. })));
    assert!(matches!(error(&[101; 4], &[0; 3]), VerifyError::Plan(PlanError::InputBounds { got: 101, .. })));
    assert!(matches!(error(&[1; 4], &[0; 3]), VerifyError::Truncated { got: 0, expected: 1 }));
}
