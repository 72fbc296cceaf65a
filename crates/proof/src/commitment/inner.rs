//! A folded row that is too long to be sent: it is committed to in turn, and opened at one point.
//!
//! ```text
//! Y        the row's coordinates over the base field, one behind the other: Y[c 2^b + l] = coordinate c of u[l];  its root is sent
//! columns  t random ones of the outer code, each with x_j = w^(i_j) and F_j = sum_h eq(r_hi, h) C[h][i_j]
//! claim    value + sum_j d^(j+1) F_j  =  sum_l u[l] B[l],   B[l] = eq(r_lo, l) + sum_j d^(j+1) x_j^l,   d a challenge: one sum-check
//! end      u~(s) = sum_c X^c y_c,   y_c = Y~(c, s), which are sent;   B~(s) = eq(r_lo, s) + sum_j d^(j+1) prod_k (1 + s_k (x_j^(2^(b-1-k)) - 1))
//! Y        is opened at (p, s) with the value sum_c eq(p, c) y_c, p a challenge
//! ```
//!
//! The root of Y is older than the columns, so u is fixed before they are drawn, and every coordinate at which Y is opened is younger
//! than its root. What is new can go wrong with probability at most `(t + 1 + 2 b + log2 of the degree) / |F|`, and by the columns of Y.

use super::{Opened, Shape, distinct};
use crate::error::VerifyError;
use crate::field::ProofField;
use crate::multilinear::{eq, eq_table};
use crate::sumcheck;
use crate::transcript::VerifierTranscript;
use alloc::vec::Vec;
use p3_field::{PrimeCharacteristicRing, TwoAdicField};
#[cfg(feature = "prover")]
use {
    super::Committed,
    crate::error::ProveError,
    crate::lanes::{LANES, vectors},
    crate::parallel,
    crate::sumcheck::{Sum, Term},
    crate::transcript::ProverTranscript,
};

/// Coordinates that choose a coordinate of the extension.
pub(super) fn degree_log<E: ProofField>() -> usize {
    E::DIMENSION.next_power_of_two().trailing_zeros() as usize
}

/// Cells of Y for rows of `2^log_cols`.
pub(super) fn cells<E: ProofField>(log_cols: usize) -> usize {
    E::DIMENSION << log_cols
}

/// Bytes of what is sent besides columns, without the opening of Y.
pub(super) fn bytes(log_cols: usize, ext_bytes: usize, degree: usize) -> usize {
    32 + ext_bytes * (2 * log_cols + degree)
}

/// The row of powers of x: its extension at s.
fn powers_at<E: ProofField>(x: E::Base, s: &[E]) -> E {
    let (mut product, mut power) = (E::ONE, x);
    for s in s.iter().rev() {
        product *= E::ONE + *s * (power - E::Base::ONE);
        power = power.square();
    }
    product
}

/// `Y~(p, s)` from its values at the coordinates.
fn mixed<E: ProofField>(values: &[E], p: &[E]) -> E {
    values.iter().zip(eq_table(p)).map(|(y, weight)| *y * weight).sum()
}

/// The rest of [`super::verify`].
pub(super) fn verify<E: ProofField>(
    transcript: &mut VerifierTranscript<'_>,
    opened: &[Opened<'_, E>],
    factors: &[E],
    low: &[E],
    value: E,
) -> Result<(), VerifyError> {
    let shape = opened[0].shape;
    let row_root = transcript.receive_hash("folded row")?;
    let positions = distinct(transcript.sponge.positions("columns", shape.queries(), shape.code_log()));
    let folded = super::columns(transcript, opened, factors, &positions)?;
    let combine: E = transcript.sponge.challenge("combine columns");
    let (mut claim, mut power) = (value, combine);
    for folded in &folded {
        claim += power * *folded;
        power *= combine;
    }
    let reduced = sumcheck::verify(transcript, shape.log_cols, None, claim)?;
    let coordinates = transcript.receive_many::<E>("coordinates", E::DIMENSION)?;
    let generator = E::Base::two_adic_generator(shape.code_log());
    let (mut weight, mut power) = (eq(low, &reduced.point), combine);
    for position in positions {
        weight += power * powers_at(generator.exp_u64(position as u64), &reduced.point);
        power *= combine;
    }
    let basis = |c: usize| E::from_basis_coefficients_fn(|i| E::Base::from_bool(i == c));
    let row: E = coordinates.iter().enumerate().map(|(c, y)| basis(c) * *y).sum();
    if row * weight != reduced.value {
        return Err(VerifyError::SumCheck { what: "a folded row" });
    }
    let mut point: Vec<E> = transcript.sponge.point("coordinate", degree_log::<E>());
    let value = mixed(&coordinates, &point);
    point.extend_from_slice(&reduced.point);
    let shape = Shape::new::<E>(cells::<E>(shape.log_cols));
    super::verify(transcript, &[Opened { shape: &shape, root: &row_root, point: &point, value }])
}

/// The rest of [`super::open`], for the folded row `u`.
#[cfg(feature = "prover")]
pub(super) fn open<E: ProofField>(
    opened: &[(&Committed<E>, &[E])],
    transcript: &mut ProverTranscript,
    low: &[E],
    u: Vec<E>,
) -> Result<(), ProveError> {
    let shape = opened[0].0.shape;
    let coordinate = |c: usize| u.iter().map(move |x| x.as_basis_coefficients_slice()[c]);
    let elements: Vec<E::Base> = (0..E::DIMENSION).flat_map(coordinate).collect();
    let inner = Committed::<E>::new(elements);
    transcript.send_hash("folded row", &inner.root());
    let positions = distinct(transcript.sponge.positions("columns", shape.queries(), shape.code_log()));
    for (committed, _) in opened {
        committed.show(transcript, &positions)?;
    }
    let combine: E = transcript.sponge.challenge("combine columns");
    let generator = E::Base::two_adic_generator(shape.code_log());
    let points: Vec<E::Base> = positions.iter().map(|i| generator.exp_u64(*i as u64)).collect();
    let mut weights = powers_combined(&points, combine, shape.log_cols);
    weights.iter_mut().zip(eq_table(low)).for_each(|(weight, eq)| *weight += eq);
    let claim = u.iter().zip(&weights).map(|(x, weight)| *x * *weight).sum();
    let sum = Sum { vectors: alloc::vec![u, weights], terms: alloc::vec![Term::product(E::ONE, 0, 1)] };
    let proved = sum.prove(transcript, shape.log_cols, None, claim)?;
    let table = vectors::eq_groups(E::ONE, &proved.point);
    let blocks = inner.cells().chunks(1 << shape.log_cols);
    let coordinates: Vec<E> = blocks.map(|block| vectors::dot::<E>(block, &table)).collect();
    transcript.send("coordinates", &coordinates);
    let mut point: Vec<E> = transcript.sponge.point("coordinate", degree_log::<E>());
    point.extend_from_slice(&proved.point);
    super::open(transcript, &[(&inner, &point)])
}

/// Powers of a point that are multiplied out, as a logarithm: l = (h, these).
#[cfg(feature = "prover")]
const POWERS_LOG: usize = 10;

/// `sum_j d^(j+1) x_j^l` for all `l < 2^log`, of the points x_j: blocks of powers, each times what is in front of it.
#[cfg(feature = "prover")]
fn powers_combined<E: ProofField>(points: &[E::Base], d: E, log: usize) -> Vec<E> {
    let width = 1usize << log.min(POWERS_LOG);
    let rows: Vec<Vec<E::Base>> = points.iter().map(|x| x.powers().collect_n(width)).collect();
    let factors: Vec<E> = d.powers().skip(1).take(points.len()).collect();
    let mut blocks: Vec<(u64, Vec<E>)> =
        (0..1u64 << (log - log.min(POWERS_LOG))).map(|h| (h, Vec::new())).collect();
    parallel::for_each(&mut blocks, |(h, out)| {
        let before = points.iter().map(|x| x.exp_u64(*h * width as u64));
        let weighed = before.zip(&factors).map(|(before, factor)| *factor * before);
        let sums = vectors::sum_rows::<E>(rows.iter().map(Vec::as_slice).zip(weighed), width.div_ceil(LANES));
        *out = vectors::elements(&sums, width);
    });
    blocks.into_iter().flat_map(|(_, block)| block).collect()
}
