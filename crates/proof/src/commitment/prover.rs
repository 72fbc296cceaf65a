//! The prover's side: one batched transform, one tree. What was encoded is kept in memory where that is not much, or in a file ([`super::kept`]); or it is
//! encoded once more when columns of it are asked for.

use super::kept::Kept;
use super::transform::{Encoder, Wanted, place, rows_of_slabs};
use super::{Shape, distinct, inner, together};
use crate::cells::{Cells, CellsRef};
use crate::error::ProveError;
use crate::field::ProofField;
use crate::lanes::vectors::{elements, sum_rows};
use crate::lanes::{Base, LANES};
use crate::merkle::Tree;
use crate::merkle::tree::{Leaves, siblings};
use crate::multilinear::scaled_eq_table;
use crate::parallel::THREADS;
use crate::transcript::{Hash, ProverTranscript};
use alloc::vec;
use alloc::vec::Vec;
use core::convert::Infallible;

/// Up to so many integers a code stays in memory.
const IN_MEMORY_MAX: usize = 1 << 22;

/// A committed vector, with what opens it.
#[derive(Debug)]
pub struct Committed<E: ProofField> {
    cells: Cells<E::Base>,
    pub(super) shape: Shape,
    code: Code,
}

/// The columns of the code, and their tree.
#[derive(Debug)]
enum Code {
    /// All slabs.
    Memory(Vec<Vec<Base>>, Tree),
    /// To be encoded again.
    Again(Tree),
    /// In a file.
    Kept(Kept),
}

/// Encodes `cells` some slabs at a time, which `each` may have; the tree.
pub(super) fn encoded<E: ProofField, F>(
    cells: CellsRef<'_, E::Base>,
    shape: &Shape,
    at_once: usize,
    mut each: impl FnMut(&mut Vec<Vec<Base>>) -> Result<(), F>,
) -> Result<Tree, F> {
    let encoder = Encoder::new::<E>(*shape);
    let (mut leaves, mut slabs) = (Leaves::new(shape.rows, 1 << shape.code_log()), Vec::new());
    for rows in rows_of_slabs(cells, shape).chunks(at_once) {
        encoder.encode::<E>(rows, &Wanted::ALL, &mut slabs);
        leaves.more(&slabs);
        each(&mut slabs)?;
    }
    Ok(Tree::new(leaves.finish(|i| place(shape, i))))
}

fn infallible<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

impl<E: ProofField> Committed<E> {
    /// Commits to `cells`.
    #[must_use]
    pub fn new(cells: impl Into<Cells<E::Base>>) -> Committed<E> {
        let cells = cells.into();
        let shape = Shape::new::<E>(cells.all().len());
        Committed::shaped(cells, shape)
    }

    /// The same with a matrix of another shape for as many cells.
    #[must_use]
    pub fn shaped(cells: impl Into<Cells<E::Base>>, shape: Shape) -> Committed<E> {
        let cells = cells.into();
        if shape.rows.next_multiple_of(LANES) << shape.code_log() > IN_MEMORY_MAX {
            return Committed::lean(cells, shape);
        }
        let mut memory = Vec::new();
        let tree = infallible(encoded::<E, Infallible>(cells.all(), &shape, usize::MAX, |slabs| {
            memory = core::mem::take(slabs);
            Ok(())
        }));
        Committed { cells, shape, code: Code::Memory(memory, tree) }
    }

    /// The same commitment, but what is encoded is not kept.
    #[must_use]
    pub fn lean(cells: impl Into<Cells<E::Base>>, shape: Shape) -> Committed<E> {
        let cells = cells.into();
        let tree = infallible(encoded::<E, Infallible>(cells.all(), &shape, THREADS, |_| Ok(())));
        Committed { cells, shape, code: Code::Again(tree) }
    }

    /// What was committed to before, in a file.
    #[must_use]
    pub fn kept(cells: Cells<E::Base>, kept: Kept) -> Committed<E> {
        Committed { shape: *kept.shape(), cells, code: Code::Kept(kept) }
    }

    /// The commitment.
    #[must_use]
    pub fn root(&self) -> Hash {
        match &self.code {
            Code::Memory(_, tree) | Code::Again(tree) => tree.root(),
            Code::Kept(kept) => kept.root(),
        }
    }

    /// The cells.
    #[must_use]
    pub fn cells(&self) -> CellsRef<'_, E::Base> {
        self.cells.all()
    }

    /// Without its cells, which whoever opens it has to give back: it takes no memory that is worth a thought then.
    pub(crate) fn forget(&mut self) {
        self.cells = Cells::Elements(Vec::new());
    }

    /// With its cells again, those that it was made of.
    pub(crate) fn recall(&mut self, cells: impl Into<Cells<E::Base>>) {
        self.cells = cells.into();
    }

    /// Writes the columns at `positions` and what shows that they are under the root.
    pub(super) fn show(
        &self,
        transcript: &mut ProverTranscript,
        positions: &[usize],
    ) -> Result<(), ProveError> {
        let shape = &self.shape;
        let places: Vec<usize> = positions.iter().map(|i| place(shape, *i)).collect();
        let siblings = siblings(positions, shape.code_log());
        let mut columns: Vec<Vec<u32>> = vec![Vec::with_capacity(shape.rows); positions.len()];
        let mut take = |slabs: &[Vec<Base>]| {
            for (column, place) in columns.iter_mut().zip(&places) {
                column.extend(slabs.iter().flat_map(|slab| slab[*place].0));
            }
        };
        let of_tree = |tree: &Tree| siblings.iter().map(|(layer, at)| tree.layers()[*layer][*at]).collect();
        let hashes: Vec<Hash> = match &self.code {
            Code::Memory(slabs, tree) => {
                take(slabs);
                of_tree(tree)
            }
            Code::Again(tree) => {
                let (encoder, wanted) = (Encoder::new::<E>(*shape), Wanted::of(shape, &places));
                let mut slabs = Vec::new();
                for rows in rows_of_slabs(self.cells(), shape).chunks(THREADS) {
                    encoder.encode::<E>(rows, &wanted, &mut slabs);
                    take(&slabs);
                }
                of_tree(tree)
            }
            Code::Kept(kept) => {
                for (column, (position, place)) in columns.iter_mut().zip(positions.iter().zip(&places)) {
                    *column = kept.column(*position, *place)?;
                }
                siblings.iter().map(|(layer, at)| kept.hash(*layer, *at)).collect::<Result<_, _>>()?
            }
        };
        for column in &columns {
            let bytes: Vec<u8> = column[..shape.rows].iter().flat_map(|x| x.to_le_bytes()).collect();
            transcript.hint(&bytes);
        }
        hashes.iter().for_each(|hash| transcript.hint(hash));
        Ok(())
    }
}

/// Opens some commitments together ([`super::verify`]), each at its point: challenges that are younger than all roots in `transcript`.
///
/// # Errors
/// If a challenge is degenerate, or a file that was kept is damaged.
pub fn open<E: ProofField>(
    transcript: &mut ProverTranscript,
    opened: &[(&Committed<E>, &[E])],
) -> Result<(), ProveError> {
    let Some((first, point)) = opened.first() else { return Ok(()) };
    let (shape, (_, low)) = (&first.shape, first.shape.split(point));
    let width = 1 << shape.log_cols;
    let factors = together::<E>(&mut transcript.sponge, opened.len());
    let rows = opened.iter().zip(factors).flat_map(|((committed, point), factor)| {
        let (high, _) = committed.shape.split(point);
        committed.cells().chunks(width).zip(scaled_eq_table(factor, high))
    });
    let u: Vec<E> = elements(&sum_rows::<E>(rows, width.div_ceil(LANES)), width);
    if shape.nested {
        return inner::open(opened, transcript, low, u);
    }
    transcript.send("folded row", &u);
    let positions = distinct(transcript.sponge.positions("columns", shape.queries(), shape.code_log()));
    opened.iter().try_for_each(|(committed, _)| committed.show(transcript, &positions))
}
