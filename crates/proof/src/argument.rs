//! The argument for any circuit: that somebody knows columns in which everything that the circuit says holds. The steps are those
//! of docs/spec/proofs.md, section 2.

pub mod cost;
#[cfg(feature = "prover")]
pub mod prove;
pub mod verify;

use crate::circuit::evaluate::shared;
use crate::circuit::{Circuit, Contraction, Home};
use crate::claims::{Claims, Layout, Located};
use crate::commitment::{CELLS_MAX, Shape};
use crate::error::PlanError;
use crate::field::ProofField;
use crate::matmul::Matrix;
use crate::transcript::{Hash, Sponge};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// Cells of a witness.
pub const WITNESS_CELLS_MAX: usize = 1 << 27;
/// Lookups and entries of tables, together.
pub const FRACTIONS_MAX: usize = 1 << 27;
/// Numbers of one lookup.
pub const NUMBERS_MAX: usize = 1 << 10;
/// Constraints.
pub const CONSTRAINTS_MAX: usize = 1 << 16;
/// Contractions.
pub const CONTRACTIONS_MAX: usize = 1 << 14;

/// Cells of all vectors of the contractions that are proved in one sum-check, unless it is one contraction.
pub const BATCH_CELLS: usize = 1 << 22;

/// Commitments that are opened: that of the witness, and those that a statement names.
pub const OPENINGS_MAX: usize = 4;

/// A vector that was committed to elsewhere; its root is part of the statement.
#[derive(Clone, Debug)]
pub struct Outside {
    /// Its root.
    pub root: Hash,
    /// Where its columns lie.
    pub layout: Layout,
    /// The shape of its matrix.
    pub shape: Shape,
}

/// The commitments that a statement names.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// Those of columns: [`Home::Outside`] counts them.
    pub columns: Vec<Hash>,
    /// That of all weights of the circuit, one column for each [`crate::circuit::Placed`]; without it the verifier has the weights.
    pub weights: Option<Hash>,
}

/// What is argued for.
#[derive(Clone, Debug)]
pub struct Argument<'a, E: ProofField> {
    /// What must hold.
    pub circuit: Circuit<E::Base>,
    /// Where the columns of the witness lie.
    pub layout: Layout,
    /// The shape of their commitment.
    pub shape: Shape,
    /// What else is opened.
    pub outside: Vec<Outside>,
    /// Which of these holds the weights.
    pub weights: Option<usize>,
    /// Of each column: 0 for the witness or 1 more than the number of what is outside, and which column of that it is.
    places: Vec<(usize, usize)>,
    /// The matrices that [`crate::circuit::Placed`] names.
    pub matrices: Vec<Matrix<'a>>,
    /// A transcript that has absorbed the whole statement, and the roots of what is outside.
    pub sponge: Sponge,
}

/// Columns that are not too large to be committed to.
fn layout_of(logs: Vec<usize>, limit: usize) -> Result<Layout, PlanError> {
    let layout = Layout::new(logs);
    if layout.cells() > limit {
        return Err(PlanError::TooLarge { got: layout.cells(), limit });
    }
    Ok(layout)
}

/// Where the weights of a circuit lie in their commitment.
///
/// # Errors
/// If they are too large for one.
pub fn layout_of_weights<B>(circuit: &Circuit<B>) -> Result<Layout, PlanError> {
    layout_of(circuit.weights.iter().map(|placed| placed.log_rows + placed.log_cols).collect(), CELLS_MAX)
}

impl<'a, E: ProofField> Argument<'a, E> {
    /// The argument for `circuit`, from a transcript that has absorbed the statement.
    ///
    /// # Errors
    /// If it is too large for one proof.
    pub fn new(
        circuit: Circuit<E::Base>,
        matrices: Vec<Matrix<'a>>,
        sponge: Sponge,
    ) -> Result<Argument<'a, E>, PlanError> {
        Argument::with_roots(circuit, matrices, sponge, &Roots::default())
    }

    /// The same for a circuit that has columns, or weights, in other commitments.
    ///
    /// # Errors
    /// If it is too large for one proof.
    pub fn with_roots(
        circuit: Circuit<E::Base>,
        matrices: Vec<Matrix<'a>>,
        mut sponge: Sponge,
        roots: &Roots,
    ) -> Result<Argument<'a, E>, PlanError> {
        // Fewer than the order of the field, or multiplicities could not count them.
        const { assert!(FRACTIONS_MAX < E::Base::ORDER_U32 as usize) };
        let constraints = circuit.checks.iter().map(|check| check.constraints.len()).sum();
        let numbers = circuit.leaves.iter().map(|leaf| leaf.tuple.len()).max().unwrap_or(0);
        for (what, got, limit) in [
            ("fractions", circuit.fractions(), FRACTIONS_MAX),
            ("numbers of a lookup", numbers, NUMBERS_MAX),
            ("constraints", constraints, CONSTRAINTS_MAX),
            ("contractions", circuit.contractions.len(), CONTRACTIONS_MAX),
            ("commitments", 1 + roots.columns.len() + usize::from(roots.weights.is_some()), OPENINGS_MAX),
        ] {
            if got > limit {
                return Err(PlanError::TooMany { what, got, limit });
            }
        }
        let mut logs = vec![Vec::new(); 1 + roots.columns.len()];
        let mut places = Vec::with_capacity(circuit.columns.len());
        for column in &circuit.columns {
            let home = match column.home {
                Home::Witness => 0,
                Home::Outside(number) => 1 + number,
            };
            places.push((home, logs[home].len()));
            logs[home].push(column.log);
        }
        let mut layouts = logs.into_iter().map(|logs| layout_of(logs, WITNESS_CELLS_MAX));
        let layout = layouts.next().unwrap_or_else(|| layout_of(Vec::new(), 0))?;
        let mut outside = Vec::with_capacity(roots.columns.len() + 1);
        for (root, layout) in roots.columns.iter().zip(layouts) {
            let layout = layout?;
            outside.push(Outside { root: *root, shape: Shape::new::<E>(layout.cells()), layout });
        }
        if roots.weights.is_none() && !matrices.iter().all(Matrix::is_held) {
            return Err(PlanError::Unheld);
        }
        let weights = roots.weights.map(|_| outside.len());
        if let Some(root) = roots.weights {
            let layout = layout_of_weights(&circuit)?;
            outside.push(Outside { root, shape: Shape::shared::<E>(layout.cells()), layout });
        }
        let shape = match weights {
            Some(number) => Shape::beside::<E>(layout.cells(), &outside[number].shape),
            None => Shape::new::<E>(layout.cells()),
        };
        outside.iter().for_each(|outside| sponge.absorb("outside", &outside.root));
        Ok(Argument { circuit, layout, shape, outside, weights, places, matrices, sponge })
    }

    /// Where the columns of commitment `home` lie: 0 is the witness.
    fn layout_at(&self, home: usize) -> &Layout {
        match home.checked_sub(1) {
            None => &self.layout,
            Some(number) => &self.outside[number].layout,
        }
    }

    /// The claims on each commitment, with where they lie.
    fn located<'b>(&'b self, claims: &'b [Claims<E>]) -> Vec<Located<'b, E>> {
        let outside = self.outside.iter().map(|outside| (&outside.layout, &outside.shape));
        let all = core::iter::once((&self.layout, &self.shape)).chain(outside);
        all.zip(claims).map(|((layout, shape), claims)| Located { claims, layout, shape }).collect()
    }

    /// The shapes of all commitments, that of the witness first.
    fn shapes(&self) -> Vec<&Shape> {
        core::iter::once(&self.shape).chain(self.outside.iter().map(|outside| &outside.shape)).collect()
    }

    /// The cells of the columns of commitment `home`, joined.
    #[cfg(feature = "prover")]
    fn join(&self, home: usize, columns: &[Vec<E::Base>]) -> Vec<E::Base> {
        let here = self.places.iter().zip(columns).filter(|((at, _), _)| *at == home);
        self.layout_at(home).join(here.map(|(_, column)| column.as_slice()))
    }
}

/// All committed columns, and what is computed from them.
#[cfg(feature = "prover")]
#[derive(Clone, Debug, Default)]
pub struct Witness<B> {
    /// Column after column.
    pub columns: Vec<Vec<B>>,
    /// What each contraction gives.
    pub products: Vec<Vec<B>>,
}

#[cfg(feature = "prover")]
impl<B> Witness<B> {
    /// Its vectors, for the expressions of `circuit`.
    #[must_use]
    pub fn cells<'a>(&'a self, circuit: &'a Circuit<B>) -> crate::circuit::fill::Cells<'a, B> {
        crate::circuit::fill::Cells { circuit, columns: &self.columns, products: &self.products }
    }
}

/// A claim on what a contraction gives, which is still to be proved.
#[derive(Clone, Debug)]
struct Claimed<E> {
    contraction: usize,
    point: Vec<E>,
    value: E,
}

/// A claim that is being proved.
#[derive(Clone, Debug)]
struct Settled<E> {
    contraction: usize,
    /// Where.
    point: Vec<E>,
    value: E,
    /// The coordinates over which its sum runs.
    kept: Vec<usize>,
    /// Those of the claim among the first of them, which both factors have.
    eq: Vec<E>,
}

impl<E: Copy + Default> Settled<E> {
    /// The point in the space of the factors, from that of the batch: the claim's, but the sum's at the coordinates that are kept.
    fn joint(&self, contraction: &Contraction, batch: &[E]) -> Vec<E> {
        let mut point = self.point.clone();
        point.resize(contraction.outer + contraction.inner, E::default());
        let reduced = &batch[batch.len() - self.kept.len()..];
        self.kept.iter().zip(reduced).for_each(|(at, r)| point[*at] = *r);
        point
    }
}

/// The claims that are settled next: all that there are now, in order, as long as the vectors of their sums are not too large together.
fn next_batch<E: Copy>(contractions: &[Contraction], claimed: &mut VecDeque<Claimed<E>>) -> Vec<Settled<E>> {
    let (mut batch, mut cells) = (Vec::new(), 0usize);
    while let Some(claim) = claimed.pop_front() {
        let contraction = &contractions[claim.contraction];
        let kept = shared(contraction);
        let here = 1usize << kept.len();
        if !batch.is_empty() && cells + here > BATCH_CELLS {
            claimed.push_front(claim);
            break;
        }
        cells += here;
        let eq = kept[..kept.len() - contraction.inner].iter().map(|at| claim.point[*at]).collect();
        let Claimed { contraction, point, value } = claim;
        batch.push(Settled { contraction, point, value, kept, eq });
    }
    batch
}
