//! lanes: sixteen at once give what one gives, with every kernel of this machine.

use lockstep_base::rng::SplitMix64;
use lockstep_proof::field::{ProofField, Quintic, residue};
use lockstep_proof::lanes::arithmetic::{self, Fixed, Total};
use lockstep_proof::lanes::{self, Base, Ext, Kernel, LANES, Plain, Task, Wide, vectorised};
use lockstep_proof::logup::{self, Leaves, Numerators};
use lockstep_proof::multilinear::{eq_table, evaluate_ext};
use lockstep_proof::sumcheck::{self, Sum, Term};
use lockstep_proof::transcript::{ProverTranscript, Sponge, VerifierTranscript};
use p3_field::{BasedVectorSpace, Field, PrimeCharacteristicRing, PrimeField32};

type Small = <Quintic as ProofField>::Base;

/// Often an end of the field: sums that could wrap do so there.
fn base(rng: &mut SplitMix64) -> Small {
    match rng.below(4) {
        0 => Small::ZERO,
        1 => Small::NEG_ONE,
        // The integer whose representation is the largest, p - 1.
        2 => Small::from_raw_max(),
        _ => residue(rng.below(1 << 31) as i64),
    }
}

trait RawMax {
    fn from_raw_max() -> Self;
}

impl RawMax for Small {
    fn from_raw_max() -> Small {
        Quintic::from_raw(Small::ORDER_U32 - 1)
    }
}

fn ext(rng: &mut SplitMix64) -> Quintic {
    BasedVectorSpace::<Small>::from_basis_coefficients_fn(|_| base(rng))
}

struct All {
    x: [Ext; 4],
    factor: Base,
}

impl Task for All {
    type Output = ([Ext; 6], [Base; 3]);

    #[inline(always)]
    fn run(self) -> Self::Output {
        let [a, b, c, d] = self.x;
        let results =
            [a.add(&b), a.sub(&b), a.mul(&b), a.products(&b, &c, &d), a.scale(&self.factor), a.line(&b, &c)];
        let other = Base(a.0[0]);
        (results, [self.factor.add(&other), self.factor.sub(&other), self.factor.mul(&other)])
    }
}

/// Every operation of [`arithmetic`].
#[derive(Clone)]
struct Wider {
    x: [Ext; 4],
    base: [Base; 6],
    fixed: [u32; 5],
}

impl Task for Wider {
    type Output = (Vec<Ext>, Vec<Base>);

    #[inline(always)]
    fn run(self) -> Self::Output {
        self.run_wide(Plain)
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) -> Self::Output {
        let ([a, b, c, d], x, r) = (&self.x, &self.base, Fixed::new(self.fixed));
        let mut results = vec![
            arithmetic::add(w, a, b),
            arithmetic::sub(w, a, b),
            arithmetic::mul(w, a, b),
            arithmetic::products(w, [a, b, c, d]),
            arithmetic::scale(w, a, &x[0]),
            arithmetic::times(w, a, &r),
            arithmetic::toward(w, a, b, &r),
        ];
        let factors = [*a, *b, *c, *d, *b, *a];
        for count in 0..=factors.len() {
            results.push(arithmetic::combined(w, d, &factors[..count], x));
        }
        let mut total = Total::zero(w);
        for _ in 0..4 {
            total.add_times(w, a, &r);
            total.add_times(w, b, &r);
            total.add_scaled(w, c, &x[0]);
            total.add_multiples(w, &self.fixed, &x[1]);
        }
        results.push(total.reduce(w));
        let mut bases = vec![
            arithmetic::mul_base(w, &x[0], &x[1]),
            arithmetic::products_base(w, [&x[0], &x[1], &x[2], &x[3]]),
            arithmetic::scaled_base(w, &x[0], self.fixed[0]),
        ];
        let t = [self.fixed[1], self.fixed[2], self.fixed[3]];
        bases.extend(arithmetic::butterflies(w, [&x[0], &x[1], &x[2], &x[3]], t));
        (results, bases)
    }
}

/// lanes::arithmetic: instructions give what plain code gives, which [`lanes_compute_in_the_field`] compares with the field.
#[test]
fn instructions_compute_in_the_field() {
    let mut rng = SplitMix64::new(43);
    for case in 0..2000 {
        let mut base = || Base(core::array::from_fn(|_| Quintic::raw(base(&mut rng))));
        let x = core::array::from_fn(|_| Ext(core::array::from_fn(|_| base().0)));
        let fixed = core::array::from_fn(|at| base().0[at]);
        let task = Wider { x, base: core::array::from_fn(|_| base()), fixed };
        let expected = task.clone().run();
        let [a, b, c, d] = &task.x;
        assert_eq!(expected.0[..4], [a.add(b), a.sub(b), a.mul(b), a.products(b, c, d)], "case {case}");
        for kernel in Kernel::available() {
            assert_eq!(vectorised(kernel, task.clone()), expected, "case {case}, {kernel}");
        }
    }
}

/// lanes: all operations, on random elements and on those next to p.
#[test]
fn lanes_compute_in_the_field() {
    let mut rng = SplitMix64::new(41);
    for case in 0..300 {
        let x: [Vec<Quintic>; 4] = core::array::from_fn(|_| (0..LANES).map(|_| ext(&mut rng)).collect());
        let factors: Vec<Small> = (0..LANES).map(|_| base(&mut rng)).collect();
        let pack = |values: &Vec<Quintic>| {
            let mut lanes = Ext::ZERO;
            values.iter().enumerate().for_each(|(lane, x)| lanes.put(lane, lanes::raw(*x)));
            lanes
        };
        let factor = Base(core::array::from_fn(|lane| Quintic::raw(factors[lane])));
        for kernel in Kernel::available() {
            let (got, based) = vectorised(kernel, All { x: x.each_ref().map(pack), factor });
            for lane in 0..LANES {
                let (a, b, c, d) = (x[0][lane], x[1][lane], x[2][lane], x[3][lane]);
                let expected = [a + b, a - b, a * b, a * b + c * d, a * factors[lane], a + c * (b - a)];
                for (number, (got, expected)) in got.iter().zip(expected).enumerate() {
                    let got: Quintic = lanes::element(got.at(lane));
                    assert_eq!(got, expected, "case {case}, {kernel}, operation {number}, lane {lane}");
                }
                let other: Small = BasedVectorSpace::<Small>::as_basis_coefficients_slice(&a)[0];
                let expected = [factors[lane] + other, factors[lane] - other, factors[lane] * other];
                for (got, expected) in based.iter().zip(expected) {
                    assert_eq!(
                        Quintic::from_raw(got.0[lane]),
                        expected,
                        "case {case}, {kernel}, lane {lane}"
                    );
                }
            }
        }
    }
}

/// field: the representation in lanes is below p, and is taken back.
#[test]
fn raw_integers_are_taken_back() {
    let mut rng = SplitMix64::new(42);
    for _ in 0..1000 {
        let x = base(&mut rng);
        let raw = Quintic::raw(x);
        assert!(raw < Small::ORDER_U32);
        assert_eq!(Quintic::from_raw(raw), x);
        assert_eq!(lanes::canonical(raw), x.as_canonical_u32());
    }
}

/// sumcheck: sums in lanes, in one part and in two, give the rounds of the definition: the verifier accepts, and ends in the
/// extensions of the vectors.
#[test]
fn wide_sum_checks_reduce_to_evaluations() {
    for (seed, log) in [(1, 6), (2, 7), (3, 9), (4, 12), (5, 13), (6, 14)] {
        let mut rng = SplitMix64::new(seed);
        let full = 1usize << log;
        let vectors: Vec<Vec<Quintic>> = [full, full - 1, full / 2 + 3, 1, full]
            .into_iter()
            .map(|length| (0..length).map(|_| ext(&mut rng)).collect())
            .collect();
        let (first, second) = (ext(&mut rng), ext(&mut rng));
        let terms = vec![
            Term { coefficient: first, products: vec![(0, 1), (2, 2), (0, 4)], linear: vec![3] },
            Term::product(second, 1, 3),
            Term::linear(first, 4),
        ];
        let g = |x: &dyn Fn(usize) -> Quintic| -> Quintic {
            first * (x(0) * x(1) + x(2) * x(2) + x(0) * x(4) + x(3) + x(4)) + second * x(1) * x(3)
        };
        let t: Vec<Quintic> = Sponge::new("test").point("t", log);
        // Without the factor, with one of the first three and the first five variables, of all.
        for known in [0, 3, 5, log] {
            let at = |i: usize| g(&|v| vectors[v].get(i).copied().unwrap_or(Quintic::ZERO));
            let claim: Quintic = (0..full).map(|i| eq_table(&t[..known])[i >> (log - known)] * at(i)).sum();
            let eq = (known > 0).then_some(&t[..known]);
            for error in [Quintic::ZERO, Quintic::ONE] {
                let sum = Sum { vectors: vectors.clone(), terms: terms.clone() };
                let mut prover = ProverTranscript::new(Sponge::new("test"));
                let proved = sum.prove(&mut prover, log, eq, claim + error).expect("no zero");
                let proof = prover.finish();
                let mut verifier = VerifierTranscript::new(Sponge::new("test"), &proof);
                let reduced = sumcheck::verify(&mut verifier, log, eq, claim + error).expect("whole");
                let at = |v: usize| evaluate_ext(&vectors[v], &reduced.point);
                assert_eq!(proved.point, reduced.point);
                assert!((0..5).all(|v| proved.values[v] == at(v)), "2^{log}, eq of {known}");
                assert_eq!(reduced.value == g(&at), error.is_zero(), "2^{log}, eq of {known}");
            }
        }
    }
}

/// logup: trees in lanes, in one part and in two, end in the extensions of their leaves.
#[test]
fn wide_trees_are_accepted() {
    for count in [64, 96, 4096 + 2048 + 64 + 3, 8191] {
        let mut rng = SplitMix64::new(count as u64);
        let mut p: Vec<Quintic> = (0..count).map(|_| ext(&mut rng)).collect();
        let q: Vec<Quintic> = (0..count).map(|_| ext(&mut rng) + Quintic::TWO).collect();
        let rest: Quintic = p[1..].iter().zip(&q[1..]).map(|(p, q)| *p * q.inverse()).sum();
        p[0] = -rest * q[0];
        let mut prover = ProverTranscript::new(Sponge::new("test"));
        logup::prove(&mut prover, &p, &q).expect("a proof");
        let proof = prover.finish();
        let mut verifier = VerifierTranscript::new(Sponge::new("test"), &proof);
        let heights = logup::heights(count);
        let mut start = 0;
        for (claim, height) in
            logup::verify::<Quintic>(&mut verifier, &heights).expect("zero").iter().zip(heights)
        {
            let leaves = start..start + (1 << height);
            start = leaves.end;
            assert_eq!(claim.numerator, evaluate_ext(&p[leaves.clone()], &claim.point), "{count}");
            assert_eq!(claim.denominator, evaluate_ext(&q[leaves], &claim.point), "{count}");
        }
        verifier.finish().expect("nothing is left");
    }
}

/// logup: leaves given as columns of the base field give the same proof, byte by byte, as the fractions that they stand for: with
/// numerators of 1 and others, one column, several and none, blocks of one lane and of many.
#[test]
fn columns_and_fractions_give_one_proof() {
    let shapes: [&[(usize, bool, usize)]; 10] = [
        // Two parts, and a table in one lane of one of them.
        &[(13, true, 1), (12, true, 2), (11, false, 2), (10, true, 1), (10, true, 2)],
        &[(14, true, 2), (13, false, 1), (13, true, 1), (12, true, 3), (5, false, 1), (4, true, 2)],
        &[(5, true, 1), (4, true, 2), (3, false, 1), (2, true, 3), (1, true, 1), (0, false, 2), (0, true, 1)],
        &[(11, true, 2), (10, true, 1), (9, true, 0), (8, true, 1), (8, true, 2)],
        &[(12, true, 1), (10, true, 2), (10, false, 1)],
        &[(11, true, 2), (11, true, 1)],
        &[(7, true, 2), (3, false, 3), (3, true, 0), (2, true, 1), (0, false, 1)],
        &[(6, true, 1), (6, true, 1), (5, true, 3)],
        &[(9, false, 0), (8, true, 2), (2, true, 1), (1, true, 1), (1, false, 4)],
        // One tree, down to blocks of one leaf.
        &[
            (8, true, 1),
            (7, true, 2),
            (6, false, 1),
            (5, true, 1),
            (4, true, 1),
            (3, true, 1),
            (2, true, 1),
            (1, true, 1),
            (0, true, 2),
            (0, false, 1),
        ],
    ];
    for (case, blocks) in shapes.into_iter().enumerate() {
        let mut rng = SplitMix64::new(43 + case as u64);
        let leaves: Vec<Leaves<'_, Quintic>> = blocks
            .iter()
            .map(|(log, ones, columns)| Leaves {
                log: *log,
                numerators: if *ones {
                    Numerators::One
                } else {
                    Numerators::Each((0..1 << log).map(|_| base(&mut rng)).collect())
                },
                constant: ext(&mut rng),
                columns: (0..*columns)
                    .map(|_| (ext(&mut rng), (0..1 << log).map(|_| base(&mut rng)).collect()))
                    .collect(),
            })
            .collect();
        let (mut p, mut q) = (Vec::new(), Vec::new());
        for block in &leaves {
            for at in 0..1 << block.log {
                p.push(match &block.numerators {
                    Numerators::One => Quintic::ONE,
                    Numerators::Each(values) => values[at].into(),
                });
                let columns = block.columns.iter();
                q.push(
                    block.constant + columns.map(|(factor, column)| *factor * column[at]).sum::<Quintic>(),
                );
            }
        }
        let mut ours = ProverTranscript::new(Sponge::new("test"));
        let claims = logup::prove_leaves(&mut ours, leaves).expect("a proof");
        let mut theirs = ProverTranscript::new(Sponge::new("test"));
        logup::prove(&mut theirs, &p, &q).expect("a proof");
        assert!(ours.finish() == theirs.finish(), "case {case}");
        let mut start = 0;
        for (claim, height) in claims.iter().zip(logup::heights(p.len())) {
            let range = start..start + (1 << height);
            start = range.end;
            assert_eq!(claim.numerator, evaluate_ext(&p[range.clone()], &claim.point), "case {case}");
            assert_eq!(claim.denominator, evaluate_ext(&q[range], &claim.point), "case {case}");
        }
    }
}
