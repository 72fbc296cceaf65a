//! Vectors that both sides have: written out, or by a formula whose extension needs no table.

use super::range;
use crate::field::{ProofField, residue};
use crate::multilinear::{before, eq_index, eq_table, index};
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// A vector that the verifier has.
#[derive(Clone, Debug)]
pub enum Public<B> {
    /// Written out; a power of two of values.
    Vector(Vec<B>),
    /// `x -> x`, of so many coordinates.
    Index(usize),
    /// The widths of the range table, see [`range`].
    Width(usize),
    /// Its values.
    Value(usize),
    /// The Hadamard matrix `(i, j) -> (-1)^popcount(i & j)` of order `2^log`, so of twice as many coordinates.
    Hadamard(usize),
    /// Which place of one vector each place of another is taken from.
    Gather(Gather),
    /// Rows of zeros with a 1 at one place each.
    OneHot(Marks),
    /// Rows of ones up to a place each, and of zeros from there on.
    Before(Marks),
}

/// A place in each of some rows.
#[derive(Clone, Debug)]
pub struct Marks {
    /// The place in each row; a power of two of them.
    pub at: Vec<u32>,
    /// Coordinates of a row.
    pub log: usize,
}

impl Marks {
    /// Coordinates that say which row.
    fn log_rows(&self) -> usize {
        self.at.len().trailing_zeros() as usize
    }

    /// `sum over rows of eq(r, row) of(place)`.
    fn sum<E: ProofField>(&self, rows: &[E], of: impl Fn(usize) -> E) -> E {
        eq_table(rows).into_iter().zip(&self.at).map(|(weight, at)| weight * of(*at as usize)).sum()
    }
}

/// `(x, y) -> 1` where place x of a new vector is place y of an old one, else 0.
#[derive(Clone, Debug)]
pub struct Gather {
    /// The place that each new one is taken from; `None` gives 0. A power of two of them.
    pub taken: Vec<Option<u32>>,
    /// Coordinates of the old vector.
    pub log_from: usize,
}

impl Gather {
    /// Coordinates of the new vector.
    fn log_to(&self) -> usize {
        self.taken.len().trailing_zeros() as usize
    }

    /// `y -> sum_x eq(to, x) gather(x, y)`.
    #[must_use]
    pub fn fold<E: ProofField>(&self, to: &[E]) -> Vec<E> {
        let mut out = vec![E::ZERO; 1 << self.log_from];
        for (weight, place) in eq_table(to).into_iter().zip(&self.taken) {
            if let Some(place) = place {
                out[*place as usize] += weight;
            }
        }
        out
    }
}

impl<B: PrimeField32> Public<B> {
    /// Coordinates.
    #[must_use]
    pub fn log(&self) -> usize {
        match self {
            Public::Vector(values) => values.len().trailing_zeros() as usize,
            Public::Index(log) | Public::Width(log) | Public::Value(log) => *log,
            Public::Hadamard(log) => 2 * log,
            Public::Gather(gather) => gather.log_to() + gather.log_from,
            Public::OneHot(marks) | Public::Before(marks) => marks.log_rows() + marks.log,
        }
    }

    /// The value at an index.
    #[must_use]
    pub fn at(&self, at: usize) -> B {
        match self {
            Public::Vector(values) => values[at],
            Public::Index(_) => residue(at as i64),
            Public::Width(_) => residue(range::entry(at).0),
            Public::Value(_) => residue(range::entry(at).1),
            Public::Hadamard(log) => {
                let both = (at >> log) & at & ((1 << log) - 1);
                if both.count_ones().is_multiple_of(2) { B::ONE } else { B::NEG_ONE }
            }
            Public::Gather(gather) => {
                let from = (at & ((1 << gather.log_from) - 1)) as u32;
                B::from_bool(gather.taken[at >> gather.log_from] == Some(from))
            }
            Public::OneHot(marks) => {
                B::from_bool(at & ((1 << marks.log) - 1) == marks.at[at >> marks.log] as usize)
            }
            Public::Before(marks) => {
                B::from_bool(at & ((1 << marks.log) - 1) < marks.at[at >> marks.log] as usize)
            }
        }
    }

    /// All values.
    #[must_use]
    pub fn values(&self) -> Vec<B> {
        (0..1 << self.log()).map(|at| self.at(at)).collect()
    }
}

/// The extension of a vector that is a formula; `None` of one that is written out.
#[must_use]
pub fn closed_form<E: ProofField>(public: &Public<E::Base>, point: &[E]) -> Option<E> {
    match public {
        Public::Vector(_) => None,
        Public::Index(_) => Some(index(point)),
        Public::Width(_) => Some(range::extensions(point).0),
        Public::Value(_) => Some(range::extensions(point).1),
        Public::Hadamard(log) => {
            let (i, j) = point.split_at(*log);
            Some(i.iter().zip(j).map(|(i, j)| E::ONE - (*i * *j).double()).product())
        }
        Public::Gather(gather) => {
            let (to, from) = point.split_at(gather.log_to());
            Some(gather.fold(to).into_iter().zip(eq_table(from)).map(|(x, weight)| x * weight).sum())
        }
        Public::OneHot(marks) => {
            let (rows, row) = point.split_at(marks.log_rows());
            Some(marks.sum(rows, |at| eq_index(row, at)))
        }
        Public::Before(marks) => {
            let (rows, row) = point.split_at(marks.log_rows());
            Some(marks.sum(rows, |at| before(row, at)))
        }
    }
}
