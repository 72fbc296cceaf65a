//! Completeness: what the runtime computes is proved and accepted (proofs.md, 1).

use crate::support::{compute, dense, inputs, iris_mlp, iris_ols};
use lockstep_base::net::Net;
use lockstep_base::rng::SplitMix64;
use lockstep_proof::net::{prove, verify};
use lockstep_proof::proof::Proof;
use lockstep_runtime::net::run;
use lockstep_runtime::observe::Silent;

fn accepted(net: &Net, input: &[i32], what: &str) -> usize {
    let (output, proof) = prove(&compute(), net, input).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(output, run(&compute(), net, input, &mut Silent).expect("it runs"), "{what}");
    let read = Proof::from_bytes(proof.as_bytes().to_vec()).expect("our own file");
    verify(net, input, &output, &read).unwrap_or_else(|error| panic!("{what}: {error}"));
    proof.as_bytes().len()
}

/// proofs.md, 1: Iris, one input and many, with limbs of 8 and of 16 bits.
#[test]
fn iris_is_proved() {
    let mut rng = SplitMix64::new(1);
    for (net, name) in [(iris_ols(), "OLS"), (iris_mlp(), "MLP")] {
        for examples in [1, 2, 3, 150, 500] {
            let input = inputs(&mut rng, &net, examples);
            let bytes = accepted(&net, &input, &format!("{name}, {examples} examples"));
            eprintln!("{name}, {examples} examples: {bytes} bytes");
        }
    }
}

/// proofs.md, 1: random dense networks, with static shifts, shifts to both sides, zeros and extremes.
#[test]
fn random_dense_networks_are_proved() {
    for seed in 0..30 {
        let mut rng = SplitMix64::new(seed);
        let depth = 1 + rng.below(4) as usize;
        let widths: Vec<usize> = (0..=depth).map(|_| 1 + rng.below(40) as usize).collect();
        let net = dense(&mut rng, &widths);
        let examples = 1 + rng.below(6) as usize;
        let mut input = inputs(&mut rng, &net, examples);
        let (low, high) = (net.graph().input.low, net.graph().input.high);
        input[..widths[0]].fill([0, low, high][seed as usize % 3]);
        accepted(&net, &input, &format!("seed {seed}, widths {widths:?}"));
    }
}
