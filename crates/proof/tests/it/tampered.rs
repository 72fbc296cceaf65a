//! Soundness (proofs.md, 6): witnesses with one wrong cell, everything else honest. None is accepted.

use crate::support::{compute, dense, inputs, iris_mlp};
use lockstep_base::net::Net;
use lockstep_base::rng::SplitMix64;
use lockstep_proof::error::VerifyError;
use lockstep_proof::field::{ProofField, Quintic, residue};
use lockstep_proof::net::statement::Statement;
use lockstep_proof::net::witness::Witness;
use lockstep_proof::net::{prove, verify};
use lockstep_runtime::net::run;
use lockstep_runtime::observe::Silent;
use p3_field::{Field, PrimeCharacteristicRing, PrimeField32};

type Base = <Quintic as ProofField>::Base;
/// Tampered cells of each column.
const CASES: u64 = 12;
/// p.
const ORDER: i64 = Base::ORDER_U32 as i64;

/// A statement with its honest witness.
fn honest<'a>(net: &'a Net, input: &[i32]) -> (Statement<'a, Quintic>, Witness<Base>) {
    let output = run(&compute(), net, input, &mut Silent).expect("it runs");
    let statement = Statement::new(net, input, &output).expect("a statement");
    let witness = Witness::new(&statement, None);
    (statement, witness)
}

fn checked(statement: &Statement<'_, Quintic>, witness: &Witness<Base>) -> Result<(), VerifyError> {
    let proof = prove::prove(statement, witness).expect("no challenge is degenerate");
    verify::verify(statement, &proof)
}

/// Networks with everything that a layer may have: no static shift and one, one hidden layer and two.
fn networks() -> Vec<(Net, Vec<i32>, u64)> {
    let mut all = Vec::new();
    for seed in 100..103 {
        let mut rng = SplitMix64::new(seed);
        let net = dense(&mut rng, &[3, 4, 3, 2][..3 + seed as usize % 2]);
        let input = inputs(&mut rng, &net, 2);
        all.push((net, input, seed));
    }
    let (net, mut rng) = (iris_mlp(), SplitMix64::new(103));
    let input = inputs(&mut rng, &net, 1);
    all.push((net, input, 103));
    all
}

/// The signs of zeros say nothing: both satisfy the constraints, and both give 0.
fn is_sign_of_zero(
    statement: &Statement<'_, Quintic>,
    witness: &Witness<Base>,
    column: usize,
    at: usize,
) -> bool {
    let hidden = statement.layers.iter().filter_map(|layer| layer.hidden.as_ref());
    hidden
        .filter(|hidden| hidden.sign == column)
        .any(|hidden| hidden.magnitude.iter().all(|limb| witness.columns[*limb][at].is_zero()))
}

/// proofs.md, 6: every column, cells anywhere (also those of added rows), small, large and random errors; the lookups
/// of ranges counted again for the wrong cells, and not.
#[test]
fn a_wrong_cell_is_refused() {
    let (mut tried, mut accepted) = (0, Vec::new());
    for (net, input, seed) in networks() {
        let (statement, witness) = honest(&net, &input);
        assert_eq!(checked(&statement, &witness), Ok(()), "seed {seed}");
        let mut rng = SplitMix64::new(seed);
        for (column, cells) in witness.columns.iter().enumerate() {
            for case in 0..CASES {
                let at = rng.below(cells.len() as u64) as usize;
                let by = match case % 6 {
                    0 => 1,
                    1 => -1,
                    2 => 1 << statement.circuit.limb_bits,
                    3 => -2 * i64::from(cells[at].as_canonical_u32()),
                    4 => 1 << rng.below(31),
                    _ => rng.below(ORDER as u64) as i64,
                };
                if residue::<Base>(by).is_zero() {
                    continue;
                }
                let flips_sign = cells[at] + residue::<Base>(by) == Base::ONE - cells[at];
                if flips_sign && is_sign_of_zero(&statement, &witness, column, at) {
                    continue;
                }
                let mut wrong = witness.clone();
                wrong.columns[column][at] += residue::<Base>(by);
                if case % 2 == 0 && column != statement.ranges {
                    wrong.count(&statement);
                }
                tried += 1;
                if checked(&statement, &wrong).is_ok() {
                    let name = &statement.circuit.columns[column].name;
                    accepted.push(format!("seed {seed}: {name}, cell {at}, plus {by}"));
                }
            }
        }
    }
    assert!(accepted.is_empty(), "{} of {tried} accepted:\n{}", accepted.len(), accepted.join("\n"));
    assert!(tried > 1000, "only {tried} cases");
}

/// The limbs of all values of a statement, with the bits that they may have.
fn values(statement: &Statement<'_, Quintic>) -> Vec<(Vec<usize>, bool)> {
    let mut all = Vec::new();
    for layer in &statement.layers {
        all.push((layer.output.clone(), true));
        all.push((layer.remainder.clone(), false));
        if let Some((shifted, rest)) = &layer.shifted {
            all.extend([(shifted.clone(), false), (rest.clone(), false)]);
        }
        if let Some(hidden) = &layer.hidden {
            let limbs = [&hidden.magnitude, &hidden.first, &hidden.first_rest];
            all.extend(limbs.map(|limbs| (limbs.clone(), false)));
            all.push((hidden.second_rest.clone(), false));
            all.push((hidden.above.clone(), false));
        }
    }
    all
}

/// proofs.md, 4: a value that is right modulo p but not in range is refused: x + p, and limbs that borrow from each other.
#[test]
fn a_wrapped_range_is_refused() {
    let (mut tried, mut accepted) = (0, Vec::new());
    for (net, input, seed) in networks() {
        let (statement, witness) = honest(&net, &input);
        let (bits, mut rng) = (statement.circuit.limb_bits, SplitMix64::new(seed));
        for (limbs, output) in values(&statement) {
            for case in 0..8 {
                let at = rng.below(witness.columns[limbs[0]].len() as u64) as usize;
                let limb = |limb: usize| i64::from(witness.columns[limbs[limb]][at].as_canonical_u32());
                let value: i64 = (0..limbs.len()).map(|k| limb(k) << (bits * k as u32)).sum();
                let mut wrong = witness.clone();
                if case % 2 == 0 {
                    // An output of 31 bits below 2^24 has two representations of one element: the same proof of the same output.
                    if output && value + ORDER < 1 << 31 {
                        continue;
                    }
                    let mut rest = value + ORDER;
                    for (k, column) in limbs.iter().enumerate() {
                        let last = k + 1 == limbs.len();
                        let part = if last { rest } else { rest & ((1 << bits) - 1) };
                        wrong.columns[*column][at] = residue(part);
                        rest >>= bits;
                    }
                    let same =
                        limbs.iter().all(|column| wrong.columns[*column][at] == witness.columns[*column][at]);
                    if same {
                        continue;
                    }
                } else if limbs.len() > 1 {
                    let low = rng.below(limbs.len() as u64 - 1) as usize;
                    wrong.columns[limbs[low]][at] += residue::<Base>(1 << bits);
                    wrong.columns[limbs[low + 1]][at] -= Base::ONE;
                } else {
                    continue;
                }
                wrong.count(&statement);
                tried += 1;
                if checked(&statement, &wrong).is_ok() {
                    let name = &statement.circuit.columns[limbs[0]].name;
                    accepted.push(format!("seed {seed}: {name}, cell {at}, case {case}, value {value}"));
                }
            }
        }
    }
    assert!(accepted.is_empty(), "{} of {tried} accepted:\n{}", accepted.len(), accepted.join("\n"));
    assert!(tried > 100, "only {tried} cases");
}

/// proofs.md, 3: multiplicities that add up but lie elsewhere are refused, and so is a largest element counted elsewhere.
#[test]
fn moved_multiplicities_are_refused() {
    let mut accepted = Vec::new();
    for (net, input, seed) in networks() {
        let (statement, witness) = honest(&net, &input);
        let mut rng = SplitMix64::new(seed);
        let hidden = statement.layers.iter().filter_map(|layer| layer.hidden.as_ref());
        let columns: Vec<usize> =
            hidden.map(|hidden| hidden.multiplicity).chain([statement.ranges]).collect();
        for column in columns.into_iter().cycle().take(60) {
            let size = witness.columns[column].len() as u64;
            let (from, to) = (rng.below(size) as usize, rng.below(size) as usize);
            // The interval table is filled up with its last entry: among those it does not matter which is counted.
            let entries = |at: usize| {
                let hidden = statement.layers.iter().filter_map(|layer| layer.hidden.as_ref());
                hidden
                    .filter(|h| h.multiplicity == column)
                    .map(|h| at.min(h.cuts.len() - 1))
                    .next()
                    .unwrap_or(at)
            };
            if entries(from) == entries(to) {
                continue;
            }
            let mut wrong = witness.clone();
            wrong.columns[column][from] -= Base::ONE;
            wrong.columns[column][to] += Base::ONE;
            if checked(&statement, &wrong).is_ok() {
                accepted.push(format!("seed {seed}: column {column}, {from} to {to}"));
            }
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
}

/// proofs.md, 3: columns of two layers of one shape, exchanged.
#[test]
fn swapped_layers_are_refused() {
    let mut rng = SplitMix64::new(7);
    let net = dense(&mut rng, &[4, 4, 4, 4]);
    let input = inputs(&mut rng, &net, 2);
    let (statement, witness) = honest(&net, &input);
    let hidden = |layer: usize| statement.layers[layer].hidden.as_ref().expect("a hidden layer");
    let mut all = witness.clone();
    for (a, b) in [(hidden(0).code, hidden(1).code), (hidden(0).sign, hidden(1).sign)] {
        let mut wrong = witness.clone();
        wrong.columns.swap(a, b);
        assert!(checked(&statement, &wrong).is_err(), "columns {a} and {b}");
        all.columns.swap(a, b);
    }
    for (a, b) in statement.layers[0].output.iter().zip(&statement.layers[1].output) {
        all.columns.swap(*a, *b);
    }
    all.accumulators.swap(0, 1);
    all.count(&statement);
    assert!(checked(&statement, &all).is_err());
}

/// proofs.md, 2: accumulators are not committed, and still cannot be chosen.
#[test]
fn wrong_accumulators_are_refused() {
    for (net, input, seed) in networks() {
        let (statement, witness) = honest(&net, &input);
        let mut rng = SplitMix64::new(seed);
        for matmul in 0..witness.accumulators.len() {
            for _ in 0..10 {
                let mut wrong = witness.clone();
                let at = rng.below(wrong.accumulators[matmul].len() as u64) as usize;
                wrong.accumulators[matmul][at] += residue::<Base>(1 + rng.below(9) as i64);
                assert!(checked(&statement, &wrong).is_err(), "seed {seed}: product {matmul}, cell {at}");
            }
        }
    }
}
