//! Claims about committed columns, and their reduction to one opening.
//!
//! All columns of a witness lie one behind the other in one committed vector Z, largest first, so that each begins at a multiple
//! of its size. A claim `column~(point) = value` is then a claim on Z, and all of them become one by a challenge c and one sum-check:
//!
//! ```text
//! sum_k c^k value_k = sum_x Z(x) B(x),   B(x) = sum_k c^k eq((block_k, point_k), x)      =>   Z~(r) B~(r) = last claim
//! ```
//!
//! Several commitments are reduced together: a smaller one is filled with zeros up to the largest, in front of its coordinates. So all openings are at one point,
//! and some of them are one ([`crate::commitment`]).
//!
//! Z~(r) is sent and opened; the verifier computes B~(r). Every coordinate of r is a challenge younger than the root of Z, which
//! [`crate::commitment`] relies on. Soundness error: (claims + 2 log |Z|) |F|^-1.

#[cfg(feature = "prover")]
mod prover;

use crate::commitment::{self, Opened, Shape};
use crate::error::VerifyError;
use crate::field::ProofField;
use crate::multilinear::{doubled, eq, eq_index};
use crate::sumcheck;
use crate::transcript::{Hash, VerifierTranscript};
use alloc::vec;
use alloc::vec::Vec;
#[cfg(feature = "prover")]
use {
    crate::cells::CellsRef,
    crate::commitment::Committed,
    crate::error::ProveError,
    crate::lanes::vectors::{EqTable, dot, eq_groups},
    crate::multilinear::eq_table,
    crate::parallel,
    crate::transcript::ProverTranscript,
    p3_field::PrimeCharacteristicRing,
};

/// Rows that one thread takes at once.
#[cfg(feature = "prover")]
const ROWS_AT_ONCE: usize = 64;

/// Coordinates of the blocks of the largest columns.
pub(crate) const BLOCKS_LOG: usize = 10;

/// Where each column lies.
#[derive(Clone, Debug)]
pub struct Layout {
    /// log2 of the size of each column.
    logs: Vec<usize>,
    offsets: Vec<usize>,
    cells: usize,
}

impl Layout {
    /// Columns of sizes `2^logs[i]`.
    #[must_use]
    pub fn new(logs: Vec<usize>) -> Layout {
        let mut order: Vec<usize> = (0..logs.len()).collect();
        order.sort_by_key(|column| core::cmp::Reverse(logs[*column]));
        let (mut offsets, mut cells) = (vec![0; logs.len()], 0usize);
        for column in order {
            offsets[column] = cells;
            cells = cells.saturating_add(1 << logs[column]);
        }
        Layout { logs, offsets, cells }
    }

    /// Cells of all columns.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// log2 of the size of a column.
    #[must_use]
    pub fn log(&self, column: usize) -> usize {
        self.logs[column]
    }

    /// The cells of a column among all of them.
    #[cfg(feature = "prover")]
    #[must_use]
    pub fn cells_of<'a, B: Copy>(&self, column: usize, cells: CellsRef<'a, B>) -> CellsRef<'a, B> {
        let first = self.offsets[column];
        cells.part(first..first + (1 << self.logs[column]))
    }

    /// The same, to be written.
    #[cfg(feature = "prover")]
    pub fn cells_of_mut<'a, T>(&self, column: usize, cells: &'a mut [T]) -> &'a mut [T] {
        &mut cells[self.offsets[column]..][..1 << self.logs[column]]
    }

    /// All columns as one vector.
    #[cfg(feature = "prover")]
    #[must_use]
    pub fn join<'a, B: PrimeCharacteristicRing + Copy + 'a>(
        &self,
        columns: impl IntoIterator<Item = &'a [B]>,
    ) -> Vec<B> {
        let mut cells = vec![B::ZERO; self.cells];
        for (column, offset) in columns.into_iter().zip(&self.offsets) {
            cells[*offset..offset + column.len()].copy_from_slice(column);
        }
        cells
    }
}

/// `column~(points[point]) = value`.
#[derive(Clone, Copy, Debug)]
struct Claim<E> {
    column: usize,
    point: usize,
    value: E,
    /// The claim on the same column before this one.
    before: Option<usize>,
}

/// Claims so far; each (column, point) is claimed once.
#[derive(Clone, Debug)]
pub struct Claims<E> {
    points: Vec<Vec<E>>,
    claims: Vec<Claim<E>>,
    /// The last claim on each column.
    last: Vec<Option<usize>>,
    #[cfg(feature = "prover")]
    tables: Vec<EqTable>,
}

impl<E: ProofField> Default for Claims<E> {
    fn default() -> Claims<E> {
        Claims {
            points: Vec::new(),
            claims: Vec::new(),
            last: Vec::new(),
            #[cfg(feature = "prover")]
            tables: Vec::new(),
        }
    }
}

impl<E: ProofField> Claims<E> {
    fn point(&mut self, point: &[E]) -> usize {
        let known = self.points.iter().rposition(|known| known == point);
        known.unwrap_or_else(|| {
            self.points.push(point.to_vec());
            self.points.len() - 1
        })
    }

    fn known(&self, column: usize, point: usize) -> Option<E> {
        let claim = |at: &usize| &self.claims[*at];
        let mut claims =
            core::iter::successors(self.last.get(column).copied().flatten(), |at| claim(at).before);
        claims.find(|at| claim(at).point == point).map(|at| claim(&at).value)
    }

    fn add(&mut self, column: usize, point: usize, value: E) -> E {
        if self.last.len() <= column {
            self.last.resize(column + 1, None);
        }
        let before = self.last[column].replace(self.claims.len());
        self.claims.push(Claim { column, point, value, before });
        value
    }

    /// The claimed value of a column at a point: read from the proof, unless it was claimed before.
    ///
    /// # Errors
    /// If the proof ends before.
    pub fn receive(
        &mut self,
        transcript: &mut VerifierTranscript<'_>,
        column: usize,
        at: &[E],
    ) -> Result<E, VerifyError> {
        let point = self.point(at);
        if let Some(value) = self.known(column, point) {
            return Ok(value);
        }
        let [value] = transcript.receive::<E, 1>("claim")?;
        Ok(self.add(column, point, value))
    }

    /// Claims the value of a column, which has these cells, at a point, unless it was claimed before.
    #[cfg(feature = "prover")]
    pub fn send(
        &mut self,
        transcript: &mut ProverTranscript,
        (column, cells): (usize, &[E::Base]),
        at: &[E],
    ) -> E {
        let point = self.point(at);
        if let Some(value) = self.known(column, point) {
            return value;
        }
        if self.tables.len() == point {
            self.tables.push(EqTable::new(at));
        }
        let value = self.tables[point].evaluate::<E>(cells);
        transcript.send("claim", &[value]);
        self.add(column, point, value)
    }

    /// The same of a column at a point where no other is claimed: no table of its size is kept.
    #[cfg(feature = "prover")]
    pub fn send_alone(
        &mut self,
        transcript: &mut ProverTranscript,
        (column, cells): (usize, CellsRef<'_, E::Base>),
        at: &[E],
    ) -> E {
        let point = self.point(at);
        if let Some(value) = self.known(column, point) {
            return value;
        }
        // Such claims and those with tables are in different commitments.
        debug_assert!(self.tables.is_empty());
        let value = evaluated(cells, at);
        transcript.send("claim", &[value]);
        self.add(column, point, value)
    }
}

/// The claims on one commitment.
#[derive(Clone, Copy, Debug)]
pub struct Located<'a, E> {
    /// What is claimed.
    pub claims: &'a Claims<E>,
    /// Where its columns lie.
    pub layout: &'a Layout,
    /// The shape of its matrix.
    pub shape: &'a Shape,
}

/// The shapes of some commitments.
fn shapes_of<'a, E>(located: &[Located<'a, E>]) -> Vec<&'a Shape> {
    located.iter().map(|each| each.shape).collect()
}

/// Coordinates of the largest of some commitments.
fn log_of<E>(located: &[Located<'_, E>]) -> usize {
    located.iter().map(|each| each.shape.log).max().unwrap_or(0)
}

/// The commitments whose openings are one, in order.
pub(crate) fn groups(shapes: &[&Shape]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (number, shape) in shapes.iter().enumerate() {
        match groups.iter_mut().find(|group| shapes[group[0]].goes_with(shape)) {
            Some(group) => group.push(number),
            None => groups.push(vec![number]),
        }
    }
    groups
}

/// Proves all claims on all commitments.
///
/// # Errors
/// If a challenge is degenerate, or a file that was kept is damaged.
#[cfg(feature = "prover")]
pub fn prove<E: ProofField>(
    transcript: &mut ProverTranscript,
    located: &[Located<'_, E>],
    committed: &[&Committed<E>],
) -> Result<(), ProveError> {
    let batch: E = transcript.sponge.challenge("claims");
    let cells: Vec<CellsRef<'_, E::Base>> = committed.iter().map(|committed| committed.cells()).collect();
    let (point, values) = prover::reduce(located, &cells, transcript, log_of(located), batch);
    transcript.send("cells", &values);
    for group in groups(&shapes_of(located)) {
        let opened: Vec<(&Committed<E>, &[E])> =
            group.iter().map(|at| (committed[*at], &point[point.len() - located[*at].shape.log..])).collect();
        commitment::open(transcript, &opened)?;
    }
    Ok(())
}

/// Checks all claims on all commitments, which have the roots `roots`.
///
/// # Errors
/// The first check that fails.
pub fn verify<E: ProofField>(
    transcript: &mut VerifierTranscript<'_>,
    located: &[Located<'_, E>],
    roots: &[&Hash],
) -> Result<(), VerifyError> {
    let batch: E = transcript.sponge.challenge("claims");
    let all = located.iter().rev().flat_map(|each| each.claims.claims.iter().rev());
    let sum = all.fold(E::ZERO, |sum, claim| sum * batch + claim.value);
    let reduced = sumcheck::verify(transcript, log_of(located), None, sum)?;
    let values = transcript.receive_many::<E>("cells", located.len())?;
    let (mut expected, mut power) = (E::ZERO, E::ONE);
    for (each, value) in located.iter().zip(&values) {
        let (above, point) = reduced.point.split_at(reduced.point.len() - each.shape.log);
        // Behind what is committed to there are zeros, and so there are behind the weights.
        let filled = eq_index(above, 0).square();
        expected += filled * *value * each.weight(point, batch, &mut power);
    }
    if expected != reduced.value {
        return Err(VerifyError::SumCheck { what: "claims" });
    }
    for group in groups(&shapes_of(located)) {
        let opened = |at: &usize| {
            let shape = located[*at].shape;
            let point = &reduced.point[reduced.point.len() - shape.log..];
            Opened { shape, root: roots[*at], point, value: values[*at] }
        };
        commitment::verify(transcript, &group.iter().map(opened).collect::<Vec<_>>())?;
    }
    Ok(())
}

impl<E: ProofField> Located<'_, E> {
    /// B~(r): `sum_k c^k eq((block_k, point_k), r)`, where the first claim has the weight `power`; it ends as that of the next one.
    fn weight(&self, r: &[E], batch: E, power: &mut E) -> E {
        let Located { claims, layout, .. } = self;
        // Most columns lie in blocks that are known by a few coordinates: the tables of these are written out.
        let mut blocks = vec![vec![E::ONE]];
        for coordinate in r.iter().take(BLOCKS_LOG) {
            blocks.push(doubled(&blocks[blocks.len() - 1], *coordinate));
        }
        let block = |bits: usize, at: usize| match blocks.get(bits) {
            Some(blocks) => blocks[at],
            None => {
                let rest = bits - (blocks.len() - 1);
                blocks[blocks.len() - 1][at >> rest] * eq_index(&r[bits - rest..bits], at & ((1 << rest) - 1))
            }
        };
        let lows: Vec<E> = claims.points.iter().map(|point| eq(point, &r[r.len() - point.len()..])).collect();
        let mut sum = E::ZERO;
        for claim in &claims.claims {
            let log = layout.logs[claim.column];
            let block = block(r.len() - log, layout.offsets[claim.column] >> log);
            sum += *power * block * lows[claim.point];
            *power *= batch;
        }
        sum
    }
}

/// The extension of `cells` at `at`, row by row of a square.
#[cfg(feature = "prover")]
fn evaluated<E: ProofField>(cells: CellsRef<'_, E::Base>, at: &[E]) -> E {
    let (high, low) = at.split_at(at.len() / 2);
    let table = eq_groups(E::ONE, low);
    let rows: Vec<CellsRef<'_, E::Base>> = cells.chunks(1 << low.len()).collect();
    let weights = eq_table(high);
    let mut parts: Vec<(usize, E)> =
        (0..rows.len()).step_by(ROWS_AT_ONCE).map(|first| (first, E::ZERO)).collect();
    parallel::for_each(&mut parts, |(first, sum)| {
        let rows = rows[*first..].iter().zip(&weights[*first..]).take(ROWS_AT_ONCE);
        *sum = rows.map(|(row, weight)| *weight * dot::<E>(*row, &table)).sum();
    });
    parts.into_iter().map(|(_, sum)| sum).sum()
}
