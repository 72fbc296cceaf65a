//! Soundness (proofs.md, 6): witnesses with one wrong cell, everything else honest. None is accepted.

use crate::harness::{Base, Case, outputs};
use crate::support::{dense, inputs, iris_mlp};
use lockstep_base::net::Net;
use lockstep_base::rng::SplitMix64;
use lockstep_proof::field::{ProofField, Quintic, residue};
use p3_field::{Field, PrimeCharacteristicRing, PrimeField32};

/// Tampered cells of each column.
const CASES: u64 = 8;
/// p.
const ORDER: i64 = <Quintic as ProofField>::Base::ORDER_U32 as i64;

/// Networks with everything that a layer may have: no static shift and one, one hidden layer and two.
fn networks() -> Vec<(Net, Vec<i32>, u64)> {
    let mut all = Vec::new();
    for (seed, widths) in [(101, &[3, 2][..]), (102, &[4, 5, 3]), (103, &[3, 4, 4, 2])] {
        let mut rng = SplitMix64::new(seed);
        let net = dense(&mut rng, widths);
        let input = inputs(&mut rng, &net, 3);
        all.push((net, input, seed));
    }
    let net = iris_mlp();
    let input = inputs(&mut SplitMix64::new(104), &net, 1);
    all.push((net, input, 104));
    all
}

/// Whether a changed cell is one that a true statement leaves open: the sign of 0.
fn is_open(case: &Case<'_>, column: usize, before: Base, after: Base) -> bool {
    case.name(column).ends_with("sign") && after == Base::ONE - before
}

/// proofs.md, 6: every column, wrong by little, by much, by a limb, by a sign, by anything.
#[test]
fn a_tampered_cell_is_refused() {
    let (mut tried, mut accepted) = (0, Vec::new());
    for (net, input, seed) in networks() {
        let output = outputs(&net, &input);
        let case = Case::claimed(&net, &input, &output, None, None).expect("a statement");
        assert_eq!(case.check(&case.witness), Ok(()), "seed {seed}");
        let mut rng = SplitMix64::new(seed);
        for column in 0..case.witness.columns.len() {
            for turn in 0..CASES {
                let cells = &case.witness.columns[column];
                let at = rng.below(cells.len() as u64) as usize;
                let by = match turn % 6 {
                    0 => 1,
                    1 => -1,
                    2 => 1 << case.argument.circuit.limb_bits,
                    3 => -2 * i64::from(cells[at].as_canonical_u32()),
                    4 => 1 << rng.below(31),
                    _ => rng.below(ORDER as u64) as i64,
                };
                let after = cells[at] + residue::<Base>(by);
                if after == cells[at] || is_open(&case, column, cells[at], after) {
                    continue;
                }
                let mut wrong = case.witness.clone();
                wrong.columns[column][at] = after;
                tried += 1;
                if case.check(&wrong).is_ok() {
                    accepted.push(format!("seed {seed}: {}, cell {at}, plus {by}", case.name(column)));
                }
            }
        }
    }
    assert!(accepted.is_empty(), "{} of {tried} accepted:\n{}", accepted.len(), accepted.join("\n"));
    assert!(tried > 1000, "only {tried} cases");
}

/// proofs.md, 3: multiplicities that add up but lie elsewhere are refused.
#[test]
fn moved_multiplicities_are_refused() {
    let mut accepted = Vec::new();
    for (net, input, seed) in networks() {
        let output = outputs(&net, &input);
        let case = Case::claimed(&net, &input, &output, None, None).expect("a statement");
        let mut rng = SplitMix64::new(seed);
        let tables = (0..case.witness.columns.len()).filter(|c| case.name(*c).starts_with("tables"));
        let tables: Vec<usize> = tables.collect();
        for column in tables.into_iter().cycle().take(60) {
            // From an entry that is used to the first one, which nothing fills a table up with.
            let counts = &case.witness.columns[column];
            let used: Vec<usize> = (1..counts.len()).filter(|at| !counts[*at].is_zero()).collect();
            if used.is_empty() {
                continue;
            }
            let from = used[rng.below(used.len() as u64) as usize];
            let mut wrong = case.witness.clone();
            wrong.columns[column][from] -= Base::ONE;
            wrong.columns[column][0] += Base::ONE;
            if case.check(&wrong).is_ok() {
                accepted.push(format!("seed {seed}: {}, {from} to 0", case.name(column)));
            }
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
}

/// proofs.md, 3: columns of one size, exchanged.
#[test]
fn swapped_columns_are_refused() {
    let mut rng = SplitMix64::new(7);
    let net = dense(&mut rng, &[4, 4, 4, 4]);
    let input = inputs(&mut rng, &net, 2);
    let output = outputs(&net, &input);
    let case = Case::claimed(&net, &input, &output, None, None).expect("a statement");
    let columns = &case.witness.columns;
    let mut swapped = 0;
    for a in 0..columns.len() {
        let same = |b: &usize| columns[*b].len() == columns[a].len() && columns[*b] != columns[a];
        for b in (a + 1..columns.len()).filter(same).take(3) {
            let mut wrong = case.witness.clone();
            wrong.columns.swap(a, b);
            swapped += 1;
            assert!(case.check(&wrong).is_err(), "{} and {}", case.name(a), case.name(b));
        }
    }
    assert!(swapped > 100, "only {swapped} pairs");
}

/// proofs.md, 2: products are not committed, and still cannot be chosen.
#[test]
fn wrong_products_are_refused() {
    for (net, input, seed) in networks() {
        let output = outputs(&net, &input);
        let case = Case::claimed(&net, &input, &output, None, None).expect("a statement");
        let mut rng = SplitMix64::new(seed);
        for product in 0..case.witness.products.len() {
            for _ in 0..5 {
                let mut wrong = case.witness.clone();
                let at = rng.below(wrong.products[product].len() as u64) as usize;
                wrong.products[product][at] += residue::<Base>(1 + rng.below(9) as i64);
                assert!(case.check(&wrong).is_err(), "seed {seed}: product {product}, cell {at}");
            }
        }
    }
}
