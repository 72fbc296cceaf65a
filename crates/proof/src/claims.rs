//! Claims about committed columns, and their reduction to one opening.
//!
//! All columns of a witness lie one behind the other in one committed vector Z, largest first, so that each begins at a multiple
//! of its size. A claim `column~(point) = value` is then a claim on Z, and all of them become one by a challenge c and one sum-check:
//!
//! ```text
//! sum_k c^k value_k = sum_x Z(x) B(x),   B(x) = sum_k c^k eq((block_k, point_k), x)      =>   Z~(r) B~(r) = last claim
//! ```
//!
//! Z~(r) is sent and opened; the verifier computes B~(r). Every coordinate of r is a challenge younger than the root of Z, which
//! [`crate::commitment`] relies on. Soundness error: (claims + 2 log |Z|) |F|^-1.

#[cfg(feature = "prover")]
mod prover;

use crate::commitment::{self, Shape};
use crate::error::VerifyError;
use crate::field::ProofField;
use crate::multilinear::{doubled, eq, eq_index};
use crate::sumcheck;
use crate::transcript::{Hash, VerifierTranscript};
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
#[cfg(feature = "prover")]
use {
    crate::cells::CellsRef,
    crate::commitment::Committed,
    crate::error::ProveError,
    crate::lanes::{
        Ext,
        vectors::{dot, eq_groups},
    },
    crate::multilinear::eq_table,
    crate::parallel,
    crate::transcript::ProverTranscript,
    p3_field::PrimeCharacteristicRing,
};

/// Rows that one thread takes at once.
#[cfg(feature = "prover")]
const ROWS_AT_ONCE: usize = 64;

/// Coordinates of the blocks of the largest columns.
const BLOCKS_LOG: usize = 10;

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
}

/// Claims so far; each (column, point) is claimed once.
#[derive(Clone, Debug)]
pub struct Claims<E> {
    points: Vec<Vec<E>>,
    claims: Vec<Claim<E>>,
    /// Values by (column, point).
    values: BTreeMap<(usize, usize), E>,
    #[cfg(feature = "prover")]
    tables: Vec<Vec<Ext>>,
}

impl<E: ProofField> Default for Claims<E> {
    fn default() -> Claims<E> {
        Claims {
            points: Vec::new(),
            claims: Vec::new(),
            values: BTreeMap::new(),
            #[cfg(feature = "prover")]
            tables: Vec::new(),
        }
    }
}

impl<E: ProofField> Claims<E> {
    fn point(&mut self, point: &[E]) -> usize {
        let known = self.points.iter().position(|known| known == point);
        known.unwrap_or_else(|| {
            self.points.push(point.to_vec());
            self.points.len() - 1
        })
    }

    fn known(&self, column: usize, point: usize) -> Option<E> {
        self.values.get(&(column, point)).copied()
    }

    fn add(&mut self, column: usize, point: usize, value: E) -> E {
        self.claims.push(Claim { column, point, value });
        self.values.insert((column, point), value);
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
            self.tables.push(eq_groups(E::ONE, at));
        }
        let value = dot::<E>(cells, &self.tables[point]);
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

    fn batched(&self, batch: E) -> E {
        self.claims.iter().rev().fold(E::ZERO, |sum, claim| sum * batch + claim.value)
    }

    /// Proves all claims.
    ///
    /// # Errors
    /// If a challenge is degenerate.
    #[cfg(feature = "prover")]
    pub fn prove(
        self,
        transcript: &mut ProverTranscript,
        layout: &Layout,
        committed: &Committed<E>,
    ) -> Result<(), ProveError> {
        let batch: E = transcript.sponge.challenge("claims");
        let (cells, log) = (committed.cells(), Shape::new::<E>(layout.cells).log);
        let columns: Vec<CellsRef<'_, E::Base>> =
            (0..layout.logs.len()).map(|column| layout.cells_of(column, cells)).collect();
        let (point, cell) = prover::reduce(&self, transcript, layout, &columns, log, batch);
        transcript.send("cell", &[cell]);
        committed.open(transcript, &point)
    }

    /// B~(r): `sum_k c^k eq((block_k, point_k), r)`.
    fn weight(&self, layout: &Layout, r: &[E], batch: E) -> E {
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
        let lows: Vec<E> = self.points.iter().map(|point| eq(point, &r[r.len() - point.len()..])).collect();
        let (mut weight, mut power) = (E::ZERO, E::ONE);
        for claim in &self.claims {
            let log = layout.logs[claim.column];
            let block = block(r.len() - log, layout.offsets[claim.column] >> log);
            weight += power * block * lows[claim.point];
            power *= batch;
        }
        weight
    }

    /// Checks all claims against the commitment `root`.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(
        &self,
        transcript: &mut VerifierTranscript<'_>,
        layout: &Layout,
        root: &Hash,
    ) -> Result<(), VerifyError> {
        let shape = Shape::new::<E>(layout.cells);
        let batch: E = transcript.sponge.challenge("claims");
        let reduced = sumcheck::verify(transcript, shape.log, None, self.batched(batch))?;
        let [cell] = transcript.receive::<E, 1>("cell")?;
        let weight = self.weight(layout, &reduced.point, batch);
        if cell * weight != reduced.value {
            return Err(VerifyError::SumCheck { what: "claims" });
        }
        commitment::verify(transcript, &shape, root, &reduced.point, cell)
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
