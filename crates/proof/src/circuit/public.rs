//! Vectors that both sides have: written out, or by a formula whose extension needs no table.

use super::range;
use crate::field::{ProofField, residue};
use crate::multilinear::index;
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
}

impl<B: PrimeField32> Public<B> {
    /// Coordinates.
    #[must_use]
    pub fn log(&self) -> usize {
        match self {
            Public::Vector(values) => values.len().trailing_zeros() as usize,
            Public::Index(log) | Public::Width(log) | Public::Value(log) => *log,
            Public::Hadamard(log) => 2 * log,
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
                if both.count_ones() % 2 == 0 { B::ONE } else { B::NEG_ONE }
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
    }
}
