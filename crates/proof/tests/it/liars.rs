//! Soundness (proofs.md, 6): provers that take one wrong decision, compute everything behind it from the lie, and claim
//! the output that follows. None is believed.

use crate::support::{compute, dense, inputs, iris_mlp};
use lockstep_base::net::Net;
use lockstep_base::rng::SplitMix64;
use lockstep_proof::error::VerifyError;
use lockstep_proof::field::Quintic;
use lockstep_proof::net::prove::Faces;
use lockstep_proof::net::statement::Statement;
use lockstep_proof::net::witness::{Decision, Lie, Witness};
use lockstep_proof::net::{prove, verify};
use lockstep_runtime::net::run;
use lockstep_runtime::observe::Silent;

const DECISIONS: [Decision; 11] = [
    Decision::Output,
    Decision::WrappedOutput,
    Decision::Sign,
    Decision::First,
    Decision::Code,
    Decision::Interval,
    Decision::Chosen,
    Decision::Shifted,
    Decision::Largest,
    Decision::Step,
    Decision::Magnitude,
];
/// Lies of each kind in each layer of each network.
const CASES: u64 = 12;

/// What became of a lie.
enum Fate {
    /// It changed nothing.
    Nothing,
    Refused,
    /// Accepted, with the right output: another witness of a true statement.
    Harmless,
    Believed,
}

fn told(net: &Net, input: &[i32], lie: Lie) -> Fate {
    let output = run(&compute(), net, input, &mut Silent).expect("it runs");
    let honest = Statement::<Quintic>::new(net, input, &output).expect("a statement");
    let (truth, lying) = (Witness::new(&honest, None), Witness::new(&honest, Some(lie)));
    if truth.columns == lying.columns {
        return Fate::Nothing;
    }
    let claimed: Vec<i32> = lying.outputs_of(output.len()).iter().map(|y| *y as i32).collect();
    // An output that the network cannot give is refused before anything else.
    let Ok(statement) = Statement::<Quintic>::new(net, input, &claimed) else { return Fate::Refused };
    let proof = prove::prove(&statement, &Witness::new(&statement, Some(lie))).expect("a proof");
    match verify::verify(&statement, &proof) {
        Err(_) => Fate::Refused,
        Ok(()) if claimed == output => Fate::Harmless,
        Ok(()) => Fate::Believed,
    }
}

/// proofs.md, 6: wrong outputs, wrapped remainders, flipped signs, wrong shifts, codes, intervals, steps and maxima.
#[test]
fn no_lie_is_believed() {
    let mut nets: Vec<(Net, u64)> = Vec::new();
    for seed in 200..203 {
        nets.push((dense(&mut SplitMix64::new(seed), &[4, 5, 3, 2]), seed));
    }
    nets.push((iris_mlp(), 203));
    let mut refused = [0; DECISIONS.len()];
    let mut accepted = Vec::new();
    for (net, seed) in &nets {
        let mut rng = SplitMix64::new(*seed);
        let examples = 2;
        let input = inputs(&mut rng, net, examples);
        for layer in 0..net.weights().len() {
            let width = net.weights()[layer].rows.next_power_of_two() as u64;
            for (kind, decision) in DECISIONS.into_iter().enumerate() {
                for case in 0..CASES {
                    let per_example = matches!(
                        decision,
                        Decision::Interval | Decision::Chosen | Decision::Largest | Decision::Step
                    );
                    let cells = if per_example { 1 } else { width } * examples as u64;
                    let by = match decision {
                        Decision::Chosen => 1 + rng.below(width.max(2) - 1) as i64,
                        _ if case % 3 == 0 => 1,
                        _ if case % 3 == 1 => -1,
                        _ => (1 << rng.below(10)) + 1,
                    };
                    let lie = Lie { decision, layer, at: rng.below(cells) as usize, by };
                    match told(net, &input, lie) {
                        Fate::Nothing => {}
                        Fate::Refused => refused[kind] += 1,
                        // The sign of 0, and which of two equal elements is the largest, are free.
                        Fate::Harmless if matches!(decision, Decision::Sign | Decision::Chosen) => {}
                        Fate::Harmless | Fate::Believed => accepted.push(format!("seed {seed}: {lie:?}")),
                    }
                }
            }
        }
    }
    assert!(accepted.is_empty(), "{} accepted:\n{}", accepted.len(), accepted.join("\n"));
    for (decision, refused) in DECISIONS.iter().zip(refused) {
        assert!(refused >= 20, "only {refused} lies about {decision:?} changed anything");
    }
}

/// proofs.md, 2: a prover with several faces. Fractions of an honest witness do not carry columns that lie, and columns of an
/// honest witness do not carry a commitment to another one.
#[test]
fn two_faces_are_refused() {
    let net = iris_mlp();
    let mut rng = SplitMix64::new(204);
    let input = inputs(&mut rng, &net, 2);
    let output = run(&compute(), &net, &input, &mut Silent).expect("it runs");
    let honest = Statement::<Quintic>::new(&net, &input, &output).expect("a statement");
    let truth = Witness::new(&honest, None);
    for decision in [Decision::Output, Decision::Code, Decision::First, Decision::Step] {
        let lie = Lie { decision, layer: 0, at: 1, by: 1 };
        let lying = Witness::new(&honest, Some(lie));
        let claimed: Vec<i32> = lying.outputs_of(output.len()).iter().map(|y| *y as i32).collect();
        let statement = Statement::<Quintic>::new(&net, &input, &claimed).expect("a statement");
        let faces = Faces { committed: &lying, fractions: &truth, spoken: &lying };
        let proof = prove::prove_faces(&statement, faces).expect("a proof");
        let refused = verify::verify(&statement, &proof);
        assert_eq!(refused, Err(VerifyError::SumCheck { what: "leaves" }), "{decision:?}");

        let faces = Faces { committed: &lying, fractions: &truth, spoken: &truth };
        let proof = prove::prove_faces(&honest, faces).expect("a proof");
        let refused = verify::verify(&honest, &proof);
        assert_eq!(refused, Err(VerifyError::SumCheck { what: "claims" }), "{decision:?}");
    }
}
