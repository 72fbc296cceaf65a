//! Nothing in a decoder's circuit is superfluous, and nothing untested: for each constraint, lookup and contraction there is a lie that breaks it and
//! nothing else; with it taken out on both sides, that lie is believed.

use super::ROOT;
use super::satisfied::{Checker, Item};
use super::subjects::{Kind, encoders, experts, matrices, norms_and_caps, samplers};
use crate::decoder::{answered, config, is_open_here};
use crate::harness::{Base, Case};
use lockstep_base::config::ModelConfig;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use lockstep_proof::argument::{Argument, Witness};
use lockstep_proof::circuit::{Circuit, Home, Linear, Source, fill};
use lockstep_proof::decoder::statement::Answer;
use lockstep_proof::error::VerifyError;
use lockstep_proof::gadget::Lie;
use lockstep_runtime::synthetic;
use p3_field::{Field, PrimeCharacteristicRing, PrimeField32};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reads another source.
fn renamed(linear: &mut Linear<Base>, from: Source, to: Source) {
    let views = linear.terms.iter_mut().flat_map(|term| &mut term.views);
    views.filter(|view| view.source == from).for_each(|view| view.source = to);
}

/// The circuit without an item, and a witness that fits it.
fn without(circuit: &Circuit<Base>, witness: &Witness<Base>, item: Item) -> (Circuit<Base>, Witness<Base>) {
    let (mut circuit, mut witness) = (circuit.clone(), witness.clone());
    match item {
        Item::Constraint(check, at) => {
            circuit.checks[check].constraints.remove(at);
        }
        Item::Lookup(leaf) => {
            circuit.leaves.remove(leaf);
        }
        Item::Contraction(product) => {
            // What it gives is whatever was committed to.
            let values = witness.products[product].clone();
            let log = values.len().trailing_zeros() as usize;
            let free = circuit.column("free".into(), log, Home::Witness);
            witness.columns.push(values);
            let from = Source::Product(product);
            for leaf in &mut circuit.leaves {
                leaf.tuple.iter_mut().for_each(|linear| renamed(linear, from, free));
            }
            for constraint in circuit.checks.iter_mut().flat_map(|check| &mut check.constraints) {
                renamed(&mut constraint.linear, from, free);
                for (_, left, right) in &mut constraint.products {
                    renamed(left, from, free);
                    renamed(right, from, free);
                }
            }
            for contraction in &mut circuit.contractions {
                for view in [&mut contraction.left, &mut contraction.right] {
                    view.source = if view.source == from { free } else { view.source };
                }
            }
        }
    }
    Checker::new(&circuit).recount(&mut witness);
    (circuit, witness)
}

/// What a verifier makes of a lie, without an item and with it.
fn verdicts(case: &Case<'_>, lying: &Witness<Base>, item: Item) -> [Result<(), VerifyError>; 2] {
    let Argument { circuit, matrices, sponge, .. } = &case.argument;
    let (pruned, witness) = without(circuit, lying, item);
    let argument = Argument::new(pruned, matrices.clone(), sponge.clone()).expect("not too large");
    let (values, outputs, declared) = (Vec::new(), Vec::new(), Vec::new());
    let pruned = Case { argument, witness, values, outputs, declared, fault: None };
    let mut counted = lying.clone();
    Checker::new(circuit).recount(&mut counted);
    [pruned.check(&pruned.witness), case.check(&counted)]
}

/// How wrong lies are: by little, by a limb, by anything, and by what a shift to the right makes 1.
fn how_wrong(rng: &mut SplitMix64, case: usize) -> i64 {
    let sign = 1 - 2 * rng.below(2) as i64;
    let bits = rng.below(30) as u32;
    match case {
        0 => 1,
        1 => -1,
        2 => 1 << 16,
        3 => sign << bits,
        4 => sign * ((1 << rng.below(20)) + 1),
        _ => sign * i64::from(Base::TWO.exp_u64(bits.into()).inverse().as_canonical_u32()),
    }
}

/// The same sums of products for a column that was changed.
fn contracted_again(circuit: &Circuit<Base>, witness: &mut Witness<Base>, column: usize) {
    for (number, contraction) in circuit.contractions.iter().enumerate() {
        if contraction.left.source != Source::Committed(column) {
            continue;
        }
        let log = contraction.outer + contraction.inner;
        let cells = witness.cells(circuit);
        let [left, right] =
            [&contraction.left, &contraction.right].map(|view| fill::view(&cells, view, log).into_owned());
        let rows = left.chunks(1 << contraction.inner).zip(right.chunks(1 << contraction.inner));
        let sums = rows.map(|(left, right)| left.iter().zip(right).map(|(a, b)| *a * *b).sum()).collect();
        witness.products[number] = sums;
    }
}

/// Witnesses with two cells that are wrong together: limbs whose sum is right, and choices of something else besides.
fn forged(truth: &Case<'_>, column: usize, rng: &mut SplitMix64) -> Vec<Witness<Base>> {
    let (circuit, mut all) = (&truth.argument.circuit, Vec::new());
    let name = truth.name(column);
    let at = rng.below(truth.witness.columns[column].len() as u64) as usize;
    let changed = |changes: &[(usize, usize, Base)]| {
        let mut witness = truth.witness.clone();
        changes.iter().for_each(|(column, at, by)| witness.columns[*column][*at] += *by);
        witness
    };
    if let Some(stem) = name.strip_suffix("[0]")
        && circuit.columns.get(column + 1).is_some_and(|next| next.name == format!("{stem}[1]"))
    {
        let limb = Base::TWO.exp_u64(circuit.limb_bits.into());
        all.push(changed(&[(column, at, limb), (column + 1, at, Base::NEG_ONE)]));
        all.push(changed(&[(column, at, Base::NEG_ONE), (column + 1, at, limb.inverse())]));
        all.push(changed(&[(column, at, Base::ONE), (column + 1, at, -limb.inverse())]));
    }
    if name.ends_with("chosen") || name.ends_with("nearest") {
        let other = at ^ 1;
        for mut witness in [
            changed(&[(column, at, Base::ONE)]),
            changed(&[(column, at, Base::ONE), (column, other, Base::NEG_ONE)]),
        ] {
            contracted_again(circuit, &mut witness, column);
            all.push(witness);
        }
    }
    all
}

/// Every how many values are lied about, and how often: all and often with `LOCKSTEP_SLOW`.
fn effort() -> (usize, usize) {
    if std::env::var_os("LOCKSTEP_SLOW").is_some() { (1, 9) } else { (31, 6) }
}

/// proofs.md, 6: what each part of a decoder's circuit is for.
#[test]
fn every_part_of_a_circuit_refuses_a_lie_of_its_own() {
    for kind in 0..2 {
        let seed = 60 + kind as u64;
        let config = ModelConfig { n_layers: 1, vocab: 9, n_heads: 6, ..config(kind) };
        let config = ModelConfig { n_kv_heads: if kind == 0 { 2 } else { 6 }, ..config };
        let weights = Arc::new(synthetic::model(&config, WeightFormat::Int8, seed));
        let tokens = answered(&weights, seed, 3, 2);
        every_part_refuses(Answer::greedy(&weights, ROOT, &tokens, 2), seed);
    }
}

/// The same of other operators.
fn every_part_of(kinds: &[Kind]) {
    for (number, kind) in kinds.iter().enumerate() {
        let seed = 70 + number as u64;
        every_part_refuses(kind.small().answered(seed, 3, 2).answer(), seed);
    }
}

/// Norms with gains, windows, rotated streams, caps and slopes.
#[test]
fn every_part_of_norms_and_caps_refuses_a_lie_of_its_own() {
    every_part_of(&norms_and_caps());
}

/// Mixtures of experts, adapters, weights of 16 bits.
#[test]
fn every_part_of_other_matrices_refuses_a_lie_of_its_own() {
    every_part_of(&experts()[..1]);
    every_part_of(&matrices()[..2]);
}

/// Sampling and encoders.
#[test]
fn every_part_of_other_ends_refuses_a_lie_of_its_own() {
    every_part_of(&samplers()[3..4]);
    every_part_of(&encoders()[..1]);
}

fn every_part_refuses(answer: Answer<'_>, seed: u64) {
    let (step, cases) = effort();
    let truth = Case::answered(answer, None, None);
    let checker = Checker::new(&truth.argument.circuit);
    assert_eq!(checker.violated(&truth.witness), [], "seed {seed}");
    let mut rng = SplitMix64::new(seed);
    let (mut alone, mut believed) = (BTreeMap::<Item, Lie>::new(), Vec::new());
    for (value, (name, cells)) in truth.values.iter().enumerate().skip(seed as usize % 2).step_by(step) {
        if name.starts_with("tables") {
            continue;
        }
        for case in 0..cases {
            let by = how_wrong(&mut rng, case);
            let lie = Lie { value, at: rng.below(*cells as u64) as usize, by };
            let lying = Case::answered(answer, Some(lie), Some(&truth.declared));
            if lying.says_the_same_as(&truth) {
                continue;
            }
            let mut broken = checker.violated_since(&lying.witness, &truth.witness);
            broken.extend(
                name.rsplit_once("product ").map(|(_, at)| Item::Contraction(at.parse().expect("a number"))),
            );
            match broken[..] {
                [] if !is_open_here(&truth, &lying, name, lie.at) => {
                    believed.push(format!("{name}: {lie:?}"));
                }
                [item] => {
                    alone.entry(item).or_insert(lie);
                }
                _ => {}
            }
        }
    }
    // Cells that are wrong together.
    let mut together = BTreeMap::<Item, Option<Witness<Base>>>::new();
    for column in (0..truth.witness.columns.len()).skip(seed as usize % 2).step_by(step.min(7)) {
        for _ in 0..2 * cases {
            for witness in forged(&truth, column, &mut rng) {
                if let [item] = checker.violated_since(&witness, &truth.witness)[..] {
                    let kept = together.len() < 4;
                    together.entry(item).or_insert_with(|| kept.then_some(witness));
                }
            }
        }
    }
    let items = checker.items();
    let missing: Vec<String> = items
        .iter()
        .filter(|item| !alone.contains_key(item) && !together.contains_key(item))
        .map(|item| checker.describe(*item))
        .collect();
    eprintln!(
        "seed {seed}: {} of {} items refuse a lie of their own",
        items.len() - missing.len(),
        items.len()
    );
    if step == 1 {
        eprintln!("not found:\n{}", missing.join("\n"));
    }
    assert!(believed.is_empty(), "seed {seed}: {} believed:\n{}", believed.len(), believed.join("\n"));
    // The argument agrees with what was found cell by cell.
    let proved = alone.len().div_ceil(if step == 1 { 40 } else { 4 });
    for (item, lie) in alone.iter().step_by(proved.max(1)) {
        let lying = Case::answered(answer, Some(*lie), Some(&truth.declared));
        let [pruned, whole] = verdicts(&lying, &lying.witness, *item);
        assert_eq!(pruned, Ok(()), "seed {seed}: {lie:?} without {}", checker.describe(*item));
        assert!(whole.is_err(), "seed {seed}: {lie:?} with {}", checker.describe(*item));
    }
    for (item, witness) in together.iter().filter_map(|(item, witness)| Some((item, witness.as_ref()?))) {
        let [pruned, whole] = verdicts(&truth, witness, *item);
        assert_eq!(pruned, Ok(()), "seed {seed}: without {}", checker.describe(*item));
        assert!(whole.is_err(), "seed {seed}: with {}", checker.describe(*item));
    }
    assert!(!alone.is_empty() && !together.is_empty(), "seed {seed}");
}
