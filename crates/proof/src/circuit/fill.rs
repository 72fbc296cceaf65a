//! Expressions as vectors over their domain, for the prover.

use super::{Atom, Circuit, Domain, Linear, Source, range};
use crate::field::{ProofField, residue};
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// What the prover knows of the sources.
#[derive(Clone, Copy, Debug)]
pub struct Cells<'a, B> {
    /// The circuit.
    pub circuit: &'a Circuit<B>,
    /// Committed columns.
    pub columns: &'a [Vec<B>],
    /// Accumulators.
    pub accumulators: &'a [Vec<B>],
}

impl<B> Cells<'_, B> {
    /// The vector of a source.
    #[must_use]
    pub fn source(&self, source: Source) -> &[B] {
        match source {
            Source::Committed(column) => &self.columns[column],
            Source::Public(public) => &self.circuit.publics[public],
            Source::Accumulator(matmul) => &self.accumulators[matmul],
        }
    }
}

/// Adds `scale * linear` to `out`, cell by cell.
pub fn add<E: ProofField>(
    cells: &Cells<'_, E::Base>,
    linear: &Linear<E::Base>,
    domain: &Domain,
    scale: E,
    out: &mut [E],
) {
    let constant = scale * linear.constant;
    out.iter_mut().for_each(|out| *out += constant);
    let width = 1 << domain.log_width;
    for (coefficient, atom) in &linear.terms {
        let scale = scale * *coefficient;
        match *atom {
            Atom::Cell(source) => {
                out.iter_mut().zip(cells.source(source)).for_each(|(out, x)| *out += scale * *x);
            }
            Atom::Example(source, row) => {
                for (out, x) in out.chunks_mut(width).zip(cells.source(source)) {
                    let scale = scale * *x;
                    out.iter_mut().zip(&cells.circuit.rows[row]).for_each(|(out, y)| *out += scale * *y);
                }
            }
            Atom::Spread(source) => {
                for (out, x) in out.chunks_mut(width).zip(cells.source(source)) {
                    let x = scale * *x;
                    out.iter_mut().for_each(|out| *out += x);
                }
            }
            Atom::Row(row) => {
                for out in out.chunks_mut(width) {
                    out.iter_mut().zip(&cells.circuit.rows[row]).for_each(|(out, y)| *out += scale * *y);
                }
            }
            Atom::Index => {
                for (example, out) in out.chunks_mut(width).enumerate() {
                    let x = scale * residue::<E::Base>(example as i64);
                    out.iter_mut().for_each(|out| *out += x);
                }
            }
            Atom::Width => {
                for (x, out) in out.iter_mut().enumerate() {
                    *out += scale * residue::<E::Base>(range::entry(x).0);
                }
            }
            Atom::Value => {
                for (x, out) in out.iter_mut().enumerate() {
                    *out += scale * residue::<E::Base>(range::entry(x).1);
                }
            }
        }
    }
}

/// The vector of `linear`.
#[must_use]
pub fn vector<E: ProofField>(
    cells: &Cells<'_, E::Base>,
    linear: &Linear<E::Base>,
    domain: &Domain,
) -> Vec<E> {
    let mut out = vec![E::ZERO; 1 << domain.log()];
    add(cells, linear, domain, E::ONE, &mut out);
    out
}

/// The vector of `linear` over the base field.
#[must_use]
pub fn base_vector<B: PrimeField32>(cells: &Cells<'_, B>, linear: &Linear<B>, domain: &Domain) -> Vec<B> {
    let mut out = vec![linear.constant; 1 << domain.log()];
    let places = (1 << domain.log_width) - 1;
    for (coefficient, atom) in &linear.terms {
        for (at, out) in out.iter_mut().enumerate() {
            let (example, place) = (at >> domain.log_width, at & places);
            *out += *coefficient
                * match *atom {
                    Atom::Cell(source) => cells.source(source)[at],
                    Atom::Example(source, row) => {
                        cells.source(source)[example] * cells.circuit.rows[row][place]
                    }
                    Atom::Spread(source) => cells.source(source)[example],
                    Atom::Row(row) => cells.circuit.rows[row][place],
                    Atom::Index => residue(example as i64),
                    Atom::Width => residue(range::entry(at).0),
                    Atom::Value => residue(range::entry(at).1),
                };
        }
    }
    out
}
