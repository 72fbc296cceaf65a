//! Commitment to a vector as an interleaved Reed-Solomon matrix (Ligero; Brakedown's tensor queries), opened at one point.
//!
//! ```text
//! cells    Z[h 2^b + l],  h < rows: a matrix of `rows` messages of 2^b coefficients, filled with zeros
//! code     C[h][i] = sum_l Z[h 2^b + l] w^(i l),   i < 2^(b + s), w of order 2^(b + s), rate 2^-s
//! root     of the hash tree over the columns (C[0][i], ..., C[rows - 1][i])
//! opening  at r = (r_hi, r_lo):  u[l] = sum_h eq(r_hi, h) Z[h 2^b + l],  sent whole
//!          value = sum_l eq(r_lo, l) u[l]
//!          t random columns i:  sum_h eq(r_hi, h) C[h][i] = sum_l u[l] w^(i l)
//! ```
//!
//! # Soundness: unique decoding only
//! Let d = 2^(b+s) - 2^b + 1 be the distance. *Either* the columns where the committed matrix agrees with some matrix of codewords are more than a
//! fraction `1 - d / (2 2^(b+s))`: then that matrix is unique, u* is its folded message, and another u agrees with the folded columns in at most
//! that fraction. *Or* it is further from every matrix of codewords: then, but with probability at most `b_hi 2^(b+s) / |F|` over r_hi
//! (proximity gaps of affine lines within the unique decoding radius, one line for each of the b_hi coordinates of a tensor: Ben-Sasson,
//! Carmon, Ishai, Kopparty, Saraf 2020; Diamond and Gruen 2025), the folded word is as far from every codeword. In both
//! cases each random column passes with probability below `(1 + 2^-s) / 2`, and t of them below 2^-110. r_hi is a
//! challenge that is drawn after the root was absorbed, which the second case needs; [`crate::claims`] makes it so.
//! No conjecture, no grinding, no list decoding.
//!
//! Several matrices with as many columns are opened together where their points have the same r_lo: their folded rows are added up with powers of a challenge, which is
//! younger than all values, and columns are drawn at the same places of each. Then the rows of all of them are those of one matrix, folded by a curve instead of lines alone:
//! as many times `2^(b+s) / |F|` as there are matrices more than one.
//!
//! Where it is shorter, u is not sent but committed to by the same code once more: `inner`.

mod inner;
#[cfg(feature = "prover")]
pub mod kept;
#[cfg(feature = "prover")]
mod prover;
#[cfg(feature = "prover")]
mod transform;

use crate::error::VerifyError;
use crate::field::{BASE_BYTES, ProofField, ext_bytes, get_integers};
use crate::merkle;
use crate::multilinear::{Weights, evaluate_ext, scaled_eq_table};
use crate::transcript::{Hash, Sponge, VerifierTranscript};
use alloc::vec;
use alloc::vec::Vec;
use p3_field::{PrimeCharacteristicRing, PrimeField32, TwoAdicField};
#[cfg(feature = "prover")]
pub use prover::{Committed, open};

/// Bits of soundness of the columns of one opening.
pub const COLUMN_BITS: u32 = 110;
/// Columns that are opened at rates 1/2, 1/4, 1/8, 1/16: the least t with `((1 + 2^-s) / 2)^t <= 2^-110`.
pub const QUERIES: [usize; 4] = [266, 163, 133, 121];
/// Cells of one commitment.
pub const CELLS_MAX: usize = 1 << 28;
/// Up to this many cells the code has rate 1/16, above 1/4.
const LOW_RATE_CELLS: usize = 1 << 18;
/// A folded row is committed to if the vector has so many times the cells of the row.
const NESTED_SHRINK: usize = 8;
/// Rows that a matrix has at least if its columns are another one's.
const ROWS_BESIDE_MIN: usize = 4;
/// Commitments of one opening: each may err.
pub const DEPTH_MAX: usize = 3;
/// Most columns of the code, as a logarithm: what the base field has roots of unity for.
const CODE_LOG_MAX: usize = 22;

/// What the opening of a row is that is committed to.
#[derive(Clone, Copy, Debug)]
struct RowOpened {
    bytes: usize,
    depth: usize,
}

/// That of rows of `2^i` elements, for every `i < count`: the shape of each is the smallest of those whose rows are shorter.
fn rows_opened<E: ProofField>(count: usize) -> Vec<RowOpened> {
    let mut known = Vec::with_capacity(count);
    for log_cols in 0..count {
        let shape = Shape::smallest::<E>(inner::cells::<E>(log_cols), &known, |_| 0);
        known.push(RowOpened { bytes: shape.bytes::<E>(&known), depth: shape.depth_of(&known) });
    }
    known
}

/// The shape of the matrix; it follows from the number of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Coordinates of a point.
    pub log: usize,
    /// Rows that are not zero.
    pub rows: usize,
    /// b.
    pub log_cols: usize,
    /// s.
    pub log_inverse_rate: usize,
    /// The folded row is committed to, not sent.
    pub nested: bool,
}

impl Shape {
    /// The shape for `cells` cells, 1 to [`CELLS_MAX`]: the one with the smallest opening.
    #[must_use]
    pub fn new<E: ProofField>(cells: usize) -> Shape {
        Shape::cheapest::<E>(cells, |_| 0)
    }

    /// The shape for `cells` cells that are always opened beside others: as if there were as many of them.
    #[must_use]
    pub fn shared<E: ProofField>(cells: usize) -> Shape {
        Shape::cheapest::<E>(cells, Shape::column_bytes)
    }

    /// The one with the smallest opening, if that is `more` than it is.
    fn cheapest<E: ProofField>(cells: usize, more: impl Fn(&Shape) -> usize) -> Shape {
        let shorter = |log_cols: &usize| NESTED_SHRINK * inner::cells::<E>(*log_cols) <= cells;
        let known = rows_opened::<E>((0..CODE_LOG_MAX).take_while(shorter).count());
        Shape::smallest::<E>(cells, &known, more)
    }

    /// The same, from what openings of committed rows are.
    fn smallest<E: ProofField>(cells: usize, known: &[RowOpened], more: impl Fn(&Shape) -> usize) -> Shape {
        let log = cells.next_power_of_two().trailing_zeros() as usize;
        let log_inverse_rate = if cells <= LOW_RATE_CELLS { 4 } else { 2 };
        let shape = |log_cols: usize, nested: bool| Shape {
            log,
            rows: cells.div_ceil(1 << log_cols),
            log_cols,
            log_inverse_rate,
            nested,
        };
        let logs = 0..=log.min(CODE_LOG_MAX - log_inverse_rate);
        // A row that is committed to is much shorter than what it is folded from, so commitments to rows come to an end.
        let nested = |log_cols: &usize| {
            NESTED_SHRINK * inner::cells::<E>(*log_cols) <= cells
                && known.get(*log_cols).is_some_and(|row| row.depth < DEPTH_MAX)
        };
        let all = logs.clone().map(|log_cols| shape(log_cols, false));
        let all = all.chain(logs.filter(nested).map(|log_cols| shape(log_cols, true)));
        all.min_by_key(|shape| shape.bytes::<E>(known) + more(shape)).unwrap_or_else(|| shape(0, false))
    }

    /// How many commitments an opening has, the first included.
    #[must_use]
    pub fn depth<E: ProofField>(&self) -> usize {
        self.depth_of(&rows_opened::<E>(1 + self.log_cols))
    }

    fn depth_of(&self, known: &[RowOpened]) -> usize {
        1 + if self.nested { known[self.log_cols].depth } else { 0 }
    }

    /// Columns of the code, as a logarithm.
    #[must_use]
    pub fn code_log(&self) -> usize {
        self.log_cols + self.log_inverse_rate
    }

    /// Columns that are drawn.
    #[must_use]
    pub fn queries(&self) -> usize {
        QUERIES[self.log_inverse_rate - 1]
    }

    /// Bytes of an opening, at most.
    #[must_use]
    pub fn opening_bytes<E: ProofField>(&self) -> usize {
        self.bytes::<E>(&rows_opened::<E>(1 + self.log_cols))
    }

    fn bytes<E: ProofField>(&self, known: &[RowOpened]) -> usize {
        let row = if self.nested {
            inner::bytes(self.log_cols, ext_bytes::<E>(), E::DIMENSION) + known[self.log_cols].bytes
        } else {
            ext_bytes::<E>() << self.log_cols
        };
        row + self.column_bytes()
    }

    /// Bytes of its columns and their paths, at most.
    fn column_bytes(&self) -> usize {
        self.queries().min(1 << self.code_log()) * (4 * self.rows + 32 * self.path())
    }

    /// Whether openings of both may be one.
    #[must_use]
    pub fn goes_with(&self, other: &Shape) -> bool {
        let of = |shape: &Shape| (shape.log_cols, shape.log_inverse_rate, shape.nested);
        of(self) == of(other)
    }

    /// The shape for `cells` cells that are opened beside a commitment of shape `other`: one that goes with it, if that is smaller.
    #[must_use]
    pub fn beside<E: ProofField>(cells: usize, other: &Shape) -> Shape {
        let alone = Shape::new::<E>(cells);
        let rows = cells.div_ceil(1 << other.log_cols);
        let with = Shape { log: alone.log, rows, ..*other };
        let fits = rows >= ROWS_BESIDE_MIN && with.column_bytes() <= alone.opening_bytes::<E>();
        if fits { with } else { alone }
    }

    /// Siblings of each column that is opened, at most: the paths of t leaves meet in the upper log2 t layers.
    pub(crate) fn path(&self) -> usize {
        let columns = self.queries().min(1 << self.code_log());
        self.code_log() - columns.ilog2() as usize + 1
    }

    /// That of the commitment to the folded row, if there is one.
    pub(crate) fn inner<E: ProofField>(&self) -> Option<Shape> {
        self.nested.then(|| Shape::new::<E>(inner::cells::<E>(self.log_cols)))
    }

    /// r_hi and r_lo.
    fn split<'a, E>(&self, point: &'a [E]) -> (&'a [E], &'a [E]) {
        point.split_at(self.log - self.log_cols)
    }
}

/// Coordinates that choose a coordinate of the extension.
pub(crate) fn coordinate_log<E: ProofField>() -> usize {
    inner::degree_log::<E>()
}

/// Powers of a point that are written out.
const POWERS: usize = 128;

/// The polynomial with coefficients `u` at each of `points`: blocks of coefficients times powers, then Horner's rule.
fn values_at<E: ProofField>(u: &[E], points: &[E::Base]) -> Vec<E> {
    let blocks: Vec<Weights<E>> = u.chunks(POWERS).map(Weights::of).collect();
    let mut powers = Vec::with_capacity(POWERS);
    let value = |x: &E::Base| {
        powers.clear();
        powers.extend(x.powers().take(POWERS.min(u.len())).map(|power| power.as_canonical_u32()));
        let step = x.exp_u64(POWERS as u64);
        blocks.iter().rev().fold(E::ZERO, |sum, block| sum * step + block.sum(&powers))
    };
    points.iter().map(value).collect()
}

/// Sorted and distinct.
fn distinct(mut positions: Vec<usize>) -> Vec<usize> {
    positions.sort_unstable();
    positions.dedup();
    positions
}

/// A commitment that is opened, and what it should have where.
#[derive(Clone, Copy, Debug)]
pub struct Opened<'a, E> {
    /// The shape of its matrix.
    pub shape: &'a Shape,
    /// Its root.
    pub root: &'a Hash,
    /// A point, which was drawn after the root was absorbed.
    pub point: &'a [E],
    /// The extension's value there.
    pub value: E,
}

/// The rows of several matrices as those of one: each times a power of a challenge.
fn together<E: ProofField>(sponge: &mut Sponge, count: usize) -> Vec<E> {
    let factor = if count > 1 { sponge.challenge("together") } else { E::ONE };
    factor.powers().collect_n(count)
}

/// Checks some openings at once. Their matrices have as many columns at the same rate, and their points the same low coordinates: their rows are
/// rows of one matrix, of which one row is folded.
///
/// # Errors
/// The first check that fails.
pub fn verify<E: ProofField>(
    transcript: &mut VerifierTranscript<'_>,
    opened: &[Opened<'_, E>],
) -> Result<(), VerifyError> {
    let Some(first) = opened.first() else { return Ok(()) };
    let (shape, (_, low)) = (first.shape, first.shape.split(first.point));
    debug_assert!(
        opened.iter().all(|each| each.shape.goes_with(shape) && each.shape.split(each.point).1 == low)
    );
    let factors = together::<E>(&mut transcript.sponge, opened.len());
    let value: E = opened.iter().zip(&factors).map(|(opened, factor)| opened.value * *factor).sum();
    if shape.nested {
        return inner::verify(transcript, opened, &factors, low, value);
    }
    let u = transcript.receive_many::<E>("folded row", 1 << shape.log_cols)?;
    if evaluate_ext(&u, low) != value {
        return Err(VerifyError::Value);
    }
    let positions = distinct(transcript.sponge.positions("columns", shape.queries(), shape.code_log()));
    let generator = E::Base::two_adic_generator(shape.code_log());
    let folded = columns(transcript, opened, &factors, &positions)?;
    let points: Vec<E::Base> = positions.iter().map(|i| generator.exp_u64(*i as u64)).collect();
    let expected = values_at(&u, &points);
    let wrong = folded.iter().zip(&expected).position(|(folded, expected)| folded != expected);
    if let Some(at) = wrong {
        return Err(VerifyError::Column { column: positions[at] });
    }
    Ok(())
}

/// Reads the columns at `positions` of each commitment, checks that they are under its root, and folds them.
fn columns<E: ProofField>(
    transcript: &mut VerifierTranscript<'_>,
    opened: &[Opened<'_, E>],
    factors: &[E],
    positions: &[usize],
) -> Result<Vec<E>, VerifyError> {
    let (mut folded, mut column) = (vec![E::ZERO; positions.len()], Vec::new());
    for (Opened { shape, root, point, .. }, factor) in opened.iter().zip(factors) {
        let weights = scaled_eq_table(*factor, shape.split(point).0);
        let weights = Weights::of(&weights[..shape.rows]);
        let mut leaves = Vec::with_capacity(positions.len());
        for (position, folded) in positions.iter().zip(&mut folded) {
            let bytes = transcript.hint(BASE_BYTES * shape.rows)?;
            get_integers::<E::Base>(bytes, &mut column).ok_or(VerifyError::NotCanonical)?;
            *folded += weights.sum(&column);
            leaves.push((*position, merkle::leaf_of_bytes(bytes)));
        }
        if merkle::root_of(transcript, leaves, shape.code_log())? != **root {
            return Err(VerifyError::Root);
        }
    }
    Ok(folded)
}
