//! The parts of the protocol alone: sum-checks, fractions, commitments, tables.

use lockstep_base::rng::SplitMix64;
use lockstep_proof::cells::Cells;
use lockstep_proof::circuit::range;
use lockstep_proof::commitment::kept::{Kept, KeptError};
use lockstep_proof::commitment::{self, COLUMN_BITS, Committed, DEPTH_MAX, Opened, QUERIES, Shape};
use lockstep_proof::error::{ProveError, VerifyError};
use lockstep_proof::field::{ProofField, Quintic, residue};
use lockstep_proof::logup;
use lockstep_proof::multilinear::{eq, eq_index, eq_table, evaluate, evaluate_ext, fold_rows, index};
use lockstep_proof::sumcheck::{self, Sum, Term};
use lockstep_proof::transcript::{ProverTranscript, Sponge, VerifierTranscript};
use p3_field::{Field, PrimeCharacteristicRing};

type Base = <Quintic as ProofField>::Base;

fn base(rng: &mut SplitMix64) -> Base {
    residue(rng.below(1 << 31) as i64)
}

fn ext(rng: &mut SplitMix64) -> Quintic {
    let seed = rng.next_u64().to_le_bytes();
    let mut sponge = Sponge::new("random");
    sponge.absorb("seed", &seed);
    sponge.challenge("x")
}

fn point(rng: &mut SplitMix64, log: usize) -> Vec<Quintic> {
    (0..log).map(|_| ext(rng)).collect()
}

/// multilinear: all ways to an extension agree, coordinate 0 being the most significant bit.
#[test]
fn extensions_agree() {
    let mut rng = SplitMix64::new(31);
    for log in 0..7 {
        let values: Vec<Base> = (0..1 << log).map(|_| base(&mut rng)).collect();
        let at = point(&mut rng, log);
        let naive: Quintic = values.iter().enumerate().map(|(i, x)| eq_index(&at, i) * *x).sum();
        assert_eq!(evaluate(&values, &at), naive);
        let bits = |i: usize| -> Vec<Quintic> {
            (0..log).rev().map(|bit| Quintic::from_bool(i >> bit & 1 == 1)).collect()
        };
        for i in 0..1 << log {
            assert_eq!(evaluate(&values, &bits(i)), Quintic::from(values[i]));
            assert_eq!(eq(&at, &bits(i)), eq_table(&at)[i]);
            assert_eq!(index(&bits(i)), Quintic::from_usize(i));
        }
        let (high, low) = at.split_at(log / 2);
        assert_eq!(evaluate_ext(&fold_rows(&values, 1 << low.len(), high), low), naive);
    }
}

/// circuit::range: the closed forms are the extensions of the table.
#[test]
fn the_range_table_has_its_closed_form() {
    let mut rng = SplitMix64::new(32);
    for limb_bits in [1, 3, 8] {
        let at = point(&mut rng, limb_bits + 1);
        let column = |get: fn((i64, i64)) -> i64| -> Vec<Base> {
            (0..2 << limb_bits).map(|x| residue(get(range::entry(x)))).collect()
        };
        let expected = (evaluate(&column(|e| e.0), &at), evaluate(&column(|e| e.1), &at));
        assert_eq!(range::extensions(&at), expected);
    }
}

/// sumcheck: true sums are accepted with the right reduction, without eq, with eq of all or of the
/// first variables, also for short vectors; false ones are not.
#[test]
fn sum_checks_reduce_to_evaluations() {
    for seed in 0..40 {
        let mut rng = SplitMix64::new(seed);
        let log = rng.below(7) as usize;
        let lengths: Vec<usize> = (0..4).map(|_| 1 + rng.below(1 << log) as usize).collect();
        let vectors: Vec<Vec<Quintic>> =
            lengths.iter().map(|n| (0..*n).map(|_| ext(&mut rng)).collect()).collect();
        let (first, second) = (ext(&mut rng), ext(&mut rng));
        let terms = vec![
            Term { coefficient: first, products: vec![(0, 1), (2, 2)], linear: vec![3] },
            Term::product(second, 1, 3),
            Term::linear(first, 0),
        ];
        let t = point(&mut rng, log);
        let g = |x: &dyn Fn(usize) -> Quintic| -> Quintic {
            first * (x(0) * x(1) + x(2) * x(2) + x(3) + x(0)) + second * x(1) * x(3)
        };
        for weighed in [0, rng.below(log as u64 + 1) as usize, log] {
            let weights = eq_table(&t[..weighed]);
            let claim: Quintic = (0..1 << log)
                .map(|i| {
                    let value = g(&|v| vectors[v].get(i).copied().unwrap_or(Quintic::ZERO));
                    weights[i >> (log - weighed)] * value
                })
                .sum();
            let eq = (weighed > 0).then_some(&t[..weighed]);
            for error in [Quintic::ZERO, Quintic::ONE] {
                let sum = Sum { vectors: vectors.clone(), terms: terms.clone() };
                let mut prover = ProverTranscript::new(Sponge::new("test"));
                let proved = sum.prove(&mut prover, log, eq, claim + error).expect("no zero");
                let proof = prover.finish();
                let mut verifier = VerifierTranscript::new(Sponge::new("test"), &proof);
                let reduced = sumcheck::verify(&mut verifier, log, eq, claim + error).expect("whole");
                let at = |v: usize| evaluate_ext(&vectors[v], &reduced.point);
                assert_eq!(proved.point, reduced.point);
                assert!((0..4).all(|v| proved.values[v] == at(v)), "seed {seed}");
                assert_eq!(reduced.value == g(&at), error.is_zero(), "seed {seed}, eq of {weighed}");
            }
        }
    }
}

/// logup: sums of zero are accepted for every number of leaves and end in the extensions of the leaves; other sums are refused.
#[test]
fn fractions_that_cancel_are_accepted() {
    for count in [1, 2, 3, 5, 8, 13, 64, 100] {
        let mut rng = SplitMix64::new(count as u64);
        let mut p: Vec<Quintic> = (0..count).map(|_| ext(&mut rng)).collect();
        let q: Vec<Quintic> = (0..count).map(|_| ext(&mut rng)).collect();
        let rest: Quintic = p[1..].iter().zip(&q[1..]).map(|(p, q)| *p * q.inverse()).sum();
        p[0] = -rest * q[0];
        for error in [Quintic::ZERO, Quintic::ONE] {
            p[count - 1] += error;
            let mut prover = ProverTranscript::new(Sponge::new("test"));
            logup::prove(&mut prover, &p, &q).expect("a proof");
            let proof = prover.finish();
            let mut verifier = VerifierTranscript::new(Sponge::new("test"), &proof);
            let heights = logup::heights(count);
            let claims = logup::verify::<Quintic>(&mut verifier, &heights);
            if !error.is_zero() {
                assert_eq!(claims.expect_err("not zero"), VerifyError::Lookup);
                continue;
            }
            let mut start = 0;
            for (claim, height) in claims.expect("zero").iter().zip(heights) {
                let leaves = start..start + (1 << height);
                start = leaves.end;
                assert_eq!(claim.numerator, evaluate_ext(&p[leaves.clone()], &claim.point));
                assert_eq!(claim.denominator, evaluate_ext(&q[leaves], &claim.point));
            }
            verifier.finish().expect("nothing is left");
        }
    }
}

/// logup: a denominator of zero makes every sum meaningless and is refused.
#[test]
fn zero_denominators_are_refused() {
    let mut prover = ProverTranscript::new(Sponge::new("test"));
    let (p, q) = ([Quintic::ZERO, Quintic::ZERO, Quintic::ONE], [Quintic::ONE, Quintic::ZERO, Quintic::ONE]);
    logup::prove(&mut prover, &p, &q).expect("a proof");
    let proof = prover.finish();
    let mut verifier = VerifierTranscript::new(Sponge::new("test"), &proof);
    let refused = logup::verify::<Quintic>(&mut verifier, &logup::heights(3)).expect_err("zero");
    assert_eq!(refused, VerifyError::ZeroDenominator);
}

/// commitment: openings are accepted for sizes that are no powers of two; another value, root or point is not.
#[test]
fn openings_are_of_what_was_committed() {
    for (seed, cells) in [(1, 1), (2, 2), (3, 37), (4, 1000), (5, 4096), (6, 70_001)] {
        let mut rng = SplitMix64::new(seed);
        let values: Vec<Base> = (0..cells).map(|_| base(&mut rng)).collect();
        let shape = Shape::new::<Quintic>(cells);
        let at = point(&mut rng, shape.log);
        let value: Quintic = values.iter().zip(eq_table(&at)).map(|(x, w)| w * *x).sum();
        let committed = Committed::<Quintic>::new(values.clone());
        let mut prover = ProverTranscript::new(Sponge::new("test"));
        commitment::open(&mut prover, &[(&committed, &at)]).expect("no zero");
        let proof = prover.finish();
        let check = |root: &[u8; 32], at: &[Quintic], value| {
            let mut verifier = VerifierTranscript::new(Sponge::new("test"), &proof);
            commitment::verify(&mut verifier, &[Opened { shape: &shape, root, point: at, value }])
                .and_then(|()| verifier.finish())
        };
        assert_eq!(check(&committed.root(), &at, value), Ok(()), "{cells} cells, {shape:?}");
        let refused = check(&committed.root(), &at, value + Quintic::ONE);
        let rest =
            if shape.nested { VerifyError::SumCheck { what: "a folded row" } } else { VerifyError::Value };
        assert_eq!(refused, Err(rest), "{shape:?}");
        assert!(check(&[0; 32], &at, value).is_err());
        if let Some(last) = at.len().checked_sub(1) {
            let mut other = at.clone();
            other[last] += Quintic::ONE;
            assert!(check(&committed.root(), &other, value).is_err());
        }
        // Another vector with the same value at this point, opened against the first one's root.
        if cells > 2 {
            let weights = eq_table(&at);
            let mut other: Vec<Base> = values.clone();
            other[0] += Base::ONE;
            let moved = Committed::<Quintic>::new(other);
            let mut prover = ProverTranscript::new(Sponge::new("test"));
            commitment::open(&mut prover, &[(&moved, &at)]).expect("no zero");
            let proof = prover.finish();
            let mut verifier = VerifierTranscript::new(Sponge::new("test"), &proof);
            let value = value + weights[0];
            let refused = commitment::verify(
                &mut verifier,
                &[Opened { shape: &shape, root: &committed.root(), point: &at, value }],
            );
            assert_eq!(refused, Err(VerifyError::Root), "{cells} cells");
        }
    }
}

/// commitment: matrices with as many columns are opened together, each at its own rows; no other values, roots or orders are accepted, nor values whose errors cancel.
#[test]
fn several_matrices_are_opened_together() {
    for (seed, cells) in [(1, [40, 41, 42]), (2, [3000, 3001, 2999]), (3, [300_000, 299_001, 300_500])] {
        let mut rng = SplitMix64::new(seed);
        let log = Shape::new::<Quintic>(cells[0]).log;
        let at = point(&mut rng, log + 1);
        let shape = Shape::new::<Quintic>(cells[0]);
        let mut committed = Vec::new();
        for cells in cells {
            let values: Vec<Base> = (0..cells).map(|_| base(&mut rng)).collect();
            let of = Committed::<Quintic>::new(values.clone());
            let own = Shape::new::<Quintic>(cells);
            assert!(own.goes_with(&shape), "{own:?} and {shape:?}");
            let point = &at[at.len() - own.log..];
            let value: Quintic = values.iter().zip(eq_table(point)).map(|(x, w)| w * *x).sum();
            committed.push((of, own, point, value));
        }
        let mut prover = ProverTranscript::new(Sponge::new("test"));
        let opened: Vec<_> = committed.iter().map(|(of, _, point, _)| (of, *point)).collect();
        commitment::open(&mut prover, &opened).expect("no zero");
        let proof = prover.finish();
        let roots: Vec<_> = committed.iter().map(|(of, ..)| of.root()).collect();
        let all = committed.iter().zip(&roots);
        let honest: Vec<_> = all
            .map(|((_, shape, point, value), root)| Opened { shape, root, point, value: *value })
            .collect();
        let check = |opened: &[Opened<'_, Quintic>]| {
            let mut verifier = VerifierTranscript::new(Sponge::new("test"), &proof);
            commitment::verify(&mut verifier, opened).and_then(|()| verifier.finish())
        };
        assert_eq!(check(&honest), Ok(()), "{shape:?}");
        let mut cancelling = honest.clone();
        cancelling[0].value += Quintic::ONE;
        cancelling[2].value -= Quintic::ONE;
        assert!(check(&cancelling).is_err(), "errors that cancel");
        for at in 0..3 {
            let mut wrong = honest.clone();
            wrong[at].value += Quintic::ONE;
            assert!(check(&wrong).is_err(), "value {at}");
            let mut wrong = honest.clone();
            wrong[at].root = &roots[(at + 1) % 3];
            assert_eq!(check(&wrong), Err(VerifyError::Root), "root {at}");
            let mut wrong = honest.clone();
            wrong.swap(at, (at + 1) % 3);
            assert!(check(&wrong).is_err(), "order {at}");
            assert!(check(&[&honest[..at], &honest[at + 1..]].concat()).is_err(), "without {at}");
        }
    }
}

/// commitment: whether cells are elements or codes, and whether what is encoded is in memory, encoded again or in a file: one root, and one opening.
#[test]
fn an_opening_does_not_depend_on_how_it_is_kept() {
    let folder = std::env::temp_dir().join(format!("lockstep-kept-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    for (seed, cells) in [(1, 1), (2, 9), (3, 37), (4, 5000), (5, 100_003), (6, 600_000)] {
        let mut rng = SplitMix64::new(seed);
        let codes: Vec<i8> = (0..cells).map(|_| rng.next_u64() as i8).collect();
        let elements: Vec<Base> = codes.iter().map(|code| residue(i64::from(*code))).collect();
        let shape = Shape::new::<Quintic>(cells);
        let at = point(&mut rng, shape.log);
        let opened = |committed: &Committed<Quintic>| {
            let mut prover = ProverTranscript::new(Sponge::new("test"));
            commitment::open(&mut prover, &[(committed, &at)]).map(|()| (committed.root(), prover.finish()))
        };
        let expected = opened(&Committed::new(elements)).expect("an opening");
        let codes = Cells::Codes(codes);
        let path = folder.join(format!("{cells}.code"));
        let root = Kept::write::<Quintic>(codes.all(), shape, &path).expect("a file");
        let kept = || Kept::open(&path, cells, shape, &root).expect("the file");
        let of_codes = [
            Committed::new(codes.clone()),
            Committed::lean(codes.clone(), shape),
            Committed::kept(codes.clone(), kept()),
        ];
        for committed in &of_codes {
            assert!(opened(committed) == Ok(expected.clone()), "{cells} cells, {shape:?}");
        }
        // What is damaged is refused by name, wherever it is read.
        let whole = std::fs::read(&path).expect("the file");
        let mut damaged = whole.clone();
        damaged[64..].iter_mut().for_each(|byte| *byte ^= 1);
        std::fs::write(&path, &damaged).expect("a file");
        let refused = opened(&Committed::kept(codes.clone(), kept()));
        assert!(matches!(refused, Err(ProveError::Kept(KeptError::Damaged { .. }))), "{refused:?}");
        for (at, expected) in [(0, "no encoded weights"), (16, "cells, expected"), (32, "another root")] {
            let mut other = whole.clone();
            other[at] ^= 1;
            std::fs::write(&path, &other).expect("a file");
            let refused = Kept::open(&path, cells, shape, &root).expect_err("damaged").to_string();
            assert!(refused.contains(expected), "{refused}");
        }
        for bytes in [&whole[..whole.len() - 1], &whole[..63], &[whole.as_slice(), &[0]].concat()] {
            std::fs::write(&path, bytes).expect("a file");
            assert!(Kept::open(&path, cells, shape, &root).is_err());
        }
    }
    std::fs::remove_dir_all(&folder).expect("the folder");
}

/// proofs.md, 4: the numbers of columns give at least 110 bits, and are the least that do.
#[test]
fn the_columns_give_their_bits() {
    for (rate, queries) in QUERIES.iter().enumerate() {
        let inverse = f64::from(1u32 << (rate + 1));
        let bits = -((1.0 + 1.0 / inverse) / 2.0).log2();
        assert!(bits * *queries as f64 >= f64::from(COLUMN_BITS), "rate 1/{inverse}");
        assert!(bits * (*queries - 1) as f64 <= f64::from(COLUMN_BITS), "rate 1/{inverse}");
    }
}

/// merkle, commitment: the prover's leaves, hashed sixteen at once, are those that the verifier hashes one by one, for rows that
/// fill blocks and chunks of the hash, and for those that do not.
#[test]
fn openings_have_their_root_whatever_their_rows() {
    for cells in [16 << 7, (16 << 7) + 1, 60_000, 140_001, 1 << 18] {
        let mut rng = SplitMix64::new(cells);
        let values: Vec<Base> = (0..cells).map(|_| base(&mut rng)).collect();
        let shape = Shape::new::<Quintic>(values.len());
        let at = point(&mut rng, shape.log);
        let value: Quintic = values.iter().zip(eq_table(&at)).map(|(x, w)| w * *x).sum();
        let committed = Committed::<Quintic>::new(values);
        let mut prover = ProverTranscript::new(Sponge::new("test"));
        commitment::open(&mut prover, &[(&committed, &at)]).expect("no zero");
        let proof = prover.finish();
        let mut verifier = VerifierTranscript::new(Sponge::new("test"), &proof);
        let result = commitment::verify(
            &mut verifier,
            &[Opened { shape: &shape, root: &committed.root(), point: &at, value }],
        );
        assert_eq!(result.and_then(|()| verifier.finish()), Ok(()), "{shape:?}");
    }
}

/// proofs.md, 5: however large, an opening has at most three commitments, each of which may err.
#[test]
fn openings_have_at_most_three_commitments() {
    for log in 0..=25 {
        for cells in [1usize << log, (3usize << log) / 2] {
            let shape = Shape::new::<Quintic>(cells.min(commitment::CELLS_MAX));
            assert!(shape.depth::<Quintic>() <= DEPTH_MAX, "{shape:?}");
            let flat = Shape { nested: false, ..shape };
            assert!(shape.opening_bytes::<Quintic>() <= flat.opening_bytes::<Quintic>(), "{shape:?}");
        }
    }
    assert!(Shape::new::<Quintic>(1 << 20).nested);
}

/// proofs.md, 6: openings whose folded row is committed to, damaged anywhere, cut off anywhere, or continued.
#[test]
fn damaged_nested_openings_are_refused() {
    let mut rng = SplitMix64::new(44);
    let values: Vec<Base> = (0..(1 << 19) + 5).map(|_| base(&mut rng)).collect();
    let shape = Shape::new::<Quintic>(values.len());
    assert!(shape.nested);
    let at = point(&mut rng, shape.log);
    let value: Quintic = values.iter().zip(eq_table(&at)).map(|(x, w)| w * *x).sum();
    let committed = Committed::<Quintic>::new(values);
    let mut prover = ProverTranscript::new(Sponge::new("test"));
    commitment::open(&mut prover, &[(&committed, &at)]).expect("no zero");
    let proof = prover.finish();
    let check = |proof: &[u8]| {
        let mut verifier = VerifierTranscript::new(Sponge::new("test"), proof);
        commitment::verify(
            &mut verifier,
            &[Opened { shape: &shape, root: &committed.root(), point: &at, value }],
        )
        .and_then(|()| verifier.finish())
    };
    assert_eq!(check(&proof), Ok(()), "{shape:?}");
    let mut accepted = Vec::new();
    for case in 0..400 {
        let byte = if case < 40 { case } else { rng.below(proof.len() as u64) as usize };
        let mut wrong = proof.clone();
        wrong[byte] ^= 1 << rng.below(8);
        if check(&wrong).is_ok() {
            accepted.push(byte);
        }
    }
    assert!(accepted.is_empty(), "bytes {accepted:?} of {}", proof.len());
    for _ in 0..40 {
        let end = rng.below(proof.len() as u64) as usize;
        assert!(check(&proof[..end]).is_err(), "the first {end} bytes");
    }
    let longer = [&proof[..], &[0; 4]].concat();
    assert_eq!(check(&longer), Err(VerifyError::TrailingBytes { got: 4 }));
}
