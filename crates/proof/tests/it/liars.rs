//! Soundness (proofs.md, 6): provers that commit to one wrong value, compute everything behind it from the lie, and claim
//! the output that follows. None is believed.

use crate::harness::{Case, outputs};
use crate::support::{convolutional, dense, inputs, iris_mlp};
use lockstep_base::net::Net;
use lockstep_base::rng::SplitMix64;
use lockstep_proof::argument::prove::Faces;
use lockstep_proof::error::VerifyError;
use lockstep_proof::gadget::Lie;

/// Lies about each value of each network.
const CASES: u64 = 8;

/// What became of a lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It changed nothing.
    Nothing,
    Refused,
    /// Accepted, with the right output: another witness of a true statement.
    Harmless,
    Believed,
}

/// `honest`: declared is what the truth needs, not what the lie does.
fn told(net: &Net, input: &[i32], output: &[i32], truth: &Case<'_>, lie: Lie, honest: bool) -> Fate {
    let declared = honest.then_some(&truth.declared[..]);
    let lying = Case::claimed(net, input, output, Some(lie), declared).expect("a statement");
    if lying.says_the_same_as(truth) {
        return Fate::Nothing;
    }
    // An output that the network cannot give is refused before anything else.
    let Some(case) = Case::claimed(net, input, &lying.outputs, Some(lie), declared) else {
        return Fate::Refused;
    };
    match case.check(&case.witness) {
        Err(_) => Fate::Refused,
        Ok(()) if lying.outputs == output => Fate::Harmless,
        Ok(()) => Fate::Believed,
    }
}

/// Values that a true statement leaves open: the sign of 0, which of two equal elements is the largest, and how often each of
/// the equal entries that fill a table up is counted.
fn is_open(name: &str) -> bool {
    name.ends_with("sign") || name.ends_with("chosen") || name.starts_with("tables")
}

/// proofs.md, 6: wrong outputs, remainders, signs, shifts, codes, steps, maxima, multiplicities, limbs out of range.
#[test]
fn no_lie_is_believed() {
    let mut nets: Vec<(Net, u64)> = Vec::new();
    for seed in 200..202 {
        nets.push((dense(&mut SplitMix64::new(seed), &[4, 5, 3, 2]), seed));
    }
    nets.push((iris_mlp(), 203));
    nets.push((convolutional(&mut SplitMix64::new(204)), 204));
    let (mut tried, mut accepted) = (0, Vec::new());
    for (net, seed) in &nets {
        let mut rng = SplitMix64::new(*seed);
        let input = inputs(&mut rng, net, 2);
        let output = outputs(net, &input);
        let truth = Case::claimed(net, &input, &output, None, None).expect("a statement");
        for (value, (name, cells)) in truth.values.iter().enumerate() {
            let mut refused = 0;
            for case in 0..CASES {
                let by = match case / 2 % 4 {
                    0 => 1,
                    1 => -1,
                    2 => 1 << truth.argument.circuit.limb_bits,
                    _ => (1 << rng.below(20)) + 1,
                };
                let lie = Lie { value, at: rng.below(*cells as u64) as usize, by };
                match told(net, &input, &output, &truth, lie, case % 2 == 0) {
                    Fate::Nothing => {}
                    Fate::Refused => refused += 1,
                    Fate::Harmless if is_open(name) => {}
                    fate => accepted.push(format!("seed {seed}: {name}: {lie:?}: {fate:?}")),
                }
                tried += 1;
            }
            assert!(refused > 0 || is_open(name), "seed {seed}: no lie about {name} changed anything");
        }
    }
    assert!(accepted.is_empty(), "{} accepted:\n{}", accepted.len(), accepted.join("\n"));
    assert!(tried > 1000, "only {tried} lies");
}

/// proofs.md, 2: a prover with several faces. Fractions of an honest witness do not carry columns that lie, and columns of an
/// honest witness do not carry a commitment to another one.
#[test]
fn two_faces_are_refused() {
    let net = iris_mlp();
    let mut rng = SplitMix64::new(204);
    let input = inputs(&mut rng, &net, 2);
    let output = outputs(&net, &input);
    let truth = Case::claimed(&net, &input, &output, None, None).expect("a statement");
    for value in (0..truth.values.len()).step_by(5).filter(|value| !is_open(&truth.values[*value].0)) {
        let name = &truth.values[value].0;
        let lie = Some(Lie { value, at: 1, by: 1 });
        let lying = Case::claimed(&net, &input, &output, lie, Some(&truth.declared)).expect("a statement");
        if lying.witness.columns == truth.witness.columns {
            continue;
        }
        let (lies, honest) = (&lying.witness, &truth.witness);
        let faces = Faces { committed: lies, fractions: honest, spoken: lies };
        assert!(truth.check_faces(faces).is_err(), "{name}");
        let faces = Faces { committed: lies, fractions: honest, spoken: honest };
        let refused = truth.check_faces(faces);
        assert_eq!(refused, Err(VerifyError::SumCheck { what: "claims" }), "{name}");
    }
}
