//! Expressions as vectors over their space, for the prover.

use super::{Bit, Circuit, Linear, Source, View};
use crate::field::ProofField;
use crate::lanes::LANES;
use crate::lanes::vectors::{elements, sum_rows};
use crate::multilinear::eq_table;
use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// What the prover knows of the vectors.
#[derive(Clone, Copy, Debug)]
pub struct Cells<'a, B> {
    /// The circuit.
    pub circuit: &'a Circuit<B>,
    /// Committed columns.
    pub columns: &'a [Vec<B>],
    /// What contractions give.
    pub products: &'a [Vec<B>],
}

impl<'a, B: PrimeField32> Cells<'a, B> {
    /// A vector.
    ///
    /// # Panics
    /// For weights, which only contractions read.
    #[must_use]
    pub fn source(&self, source: Source) -> Cow<'a, [B]> {
        match source {
            Source::Committed(column) => Cow::Borrowed(&self.columns[column]),
            Source::Public(public) => match &self.circuit.publics[public] {
                super::Public::Vector(values) => Cow::Borrowed(values),
                formula => Cow::Owned(formula.values()),
            },
            Source::Weights(_) => panic!("weights are factors of contractions and nothing else"),
            Source::Product(contraction) => Cow::Borrowed(&self.products[contraction]),
        }
    }
}

/// Which index of its vector a view has at each cell: tables over the upper and the lower half of a cell's bits.
#[derive(Clone, Debug)]
pub(super) struct Indices {
    high: Vec<usize>,
    low: Vec<usize>,
    low_bits: usize,
}

impl Indices {
    /// What each coordinate of a cell adds to the index, and the index of the first cell.
    pub(super) fn weights(bits: &[Bit], log: usize) -> (Vec<usize>, usize) {
        let mut weights = vec![0usize; log];
        let mut constant = 0;
        for (i, bit) in bits.iter().enumerate() {
            let weight = 1 << (bits.len() - 1 - i);
            match bit {
                Bit::At(at) => weights[*at] += weight,
                Bit::One => constant += weight,
                Bit::Zero => {}
            }
        }
        (weights, constant)
    }

    /// Of `bits` over a space of `2^log` cells.
    pub(super) fn new(bits: &[Bit], log: usize) -> Indices {
        let (weights, constant) = Indices::weights(bits, log);
        Indices::linear(&weights, constant)
    }

    /// `constant` plus the weights of the bits that are 1.
    pub(super) fn linear(weights: &[usize], constant: usize) -> Indices {
        let log = weights.len();
        let low_bits = log / 2;
        let table = |weights: &[usize], first: usize| {
            let mut table = vec![first];
            for weight in weights {
                table = table.iter().flat_map(|x| [*x, *x + weight]).collect();
            }
            table
        };
        let (high, low) = weights.split_at(log - low_bits);
        Indices { high: table(high, constant), low: table(low, 0), low_bits }
    }

    /// The index of cell `at`.
    #[inline(always)]
    pub(super) fn at(&self, at: usize) -> usize {
        self.high[at >> self.low_bits] + self.low[at & ((1 << self.low_bits) - 1)]
    }

    /// Calls `f` with each cell's index, in order.
    fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        for (block, high) in self.high.iter().enumerate() {
            for (at, low) in self.low.iter().enumerate() {
                f((block << self.low_bits) + at, high + low);
            }
        }
    }
}

/// Whether a view is the whole vector in order.
fn is_identity(view: &View, log: usize) -> bool {
    view.bits.len() == log && view.bits.iter().enumerate().all(|(i, bit)| *bit == Bit::At(i))
}

/// A view over its space of `2^log` cells.
#[must_use]
pub fn view<'a, B: PrimeField32>(cells: &Cells<'a, B>, view: &View, log: usize) -> Cow<'a, [B]> {
    let source = cells.source(view.source);
    if is_identity(view, log) {
        return source;
    }
    let mut out = vec![B::ZERO; 1 << log];
    Indices::new(&view.bits, log).for_each(|at, index| out[at] = source[index]);
    Cow::Owned(out)
}

/// The product of the views of a term, with its coefficient.
fn term<B: PrimeField32>(cells: &Cells<'_, B>, term: &super::Term<B>, log: usize) -> Vec<B> {
    let mut views = term.views.iter().map(|factor| view(cells, factor, log));
    let mut out = views.next().map_or_else(|| vec![B::ONE; 1 << log], Cow::into_owned);
    for factor in views {
        out.iter_mut().zip(factor.iter()).for_each(|(out, x)| *out *= *x);
    }
    if term.coefficient != B::ONE {
        out.iter_mut().for_each(|out| *out *= term.coefficient);
    }
    out
}

/// The vector of `linear` over the base field.
#[must_use]
pub fn base_vector<B: PrimeField32>(cells: &Cells<'_, B>, linear: &Linear<B>, log: usize) -> Vec<B> {
    let mut terms = linear.terms.iter();
    let mut out = match terms.next() {
        Some(first) => term(cells, first, log),
        None => return vec![linear.constant; 1 << log],
    };
    if linear.constant != B::ZERO {
        out.iter_mut().for_each(|out| *out += linear.constant);
    }
    for one in terms {
        let values = term(cells, one, log);
        out.iter_mut().zip(values).for_each(|(out, x)| *out += x);
    }
    out
}

/// The vector of `linear`, as it is if it is one.
#[must_use]
pub fn column<'a, B: PrimeField32>(cells: &Cells<'a, B>, linear: &Linear<B>, log: usize) -> Cow<'a, [B]> {
    if let [term] = &linear.terms[..]
        && let [view] = &term.views[..]
        && (linear.constant, term.coefficient) == (B::ZERO, B::ONE)
    {
        return self::view(cells, view, log);
    }
    base_vector(cells, linear, log).into()
}

/// Adds `scale * linear` to `out`, cell by cell.
pub fn add<E: ProofField>(
    cells: &Cells<'_, E::Base>,
    linear: &Linear<E::Base>,
    log: usize,
    scale: E,
    out: &mut [E],
) {
    let values = base_vector(cells, linear, log);
    out.iter_mut().zip(values).for_each(|(out, x)| *out += scale * x);
}

/// The vector of `linear` over the extension.
#[must_use]
pub fn vector<E: ProofField>(cells: &Cells<'_, E::Base>, linear: &Linear<E::Base>, log: usize) -> Vec<E> {
    base_vector(cells, linear, log).into_iter().map(E::from).collect()
}

/// A factor of a contraction with the coordinates outside of `kept` bound to `point`: a vector over `kept`, in its order.
#[must_use]
pub fn folded<E: ProofField>(
    cells: &Cells<'_, E::Base>,
    factor: &View,
    kept: &[usize],
    point: &[E],
) -> Vec<E> {
    let source = cells.source(factor.source);
    // The vector's own cells: each of its coordinates is kept, bound to the point, or constant.
    let mut kept_bits = vec![Bit::Zero; kept.len()];
    let (mut bound, mut bound_bits) = (Vec::new(), Vec::new());
    let mut zeros = 0usize;
    for (i, bit) in factor.bits.iter().enumerate() {
        match bit {
            Bit::At(at) => match kept.iter().position(|kept| kept == at) {
                Some(place) => kept_bits[place] = Bit::At(i),
                None => {
                    bound.push(point[*at]);
                    bound_bits.push(Bit::At(i));
                }
            },
            constant => {
                let weight = 1 << (factor.bits.len() - 1 - i);
                zeros |= if *constant == Bit::Zero { weight } else { 0 };
                bound.push(if *constant == Bit::One { E::ONE } else { E::ZERO });
                bound_bits.push(Bit::At(i));
            }
        }
    }
    let weights = eq_table(&bound);
    let log = factor.bits.len();
    // The coordinates that are kept are the last ones: sums of rows.
    let rows = log - kept.len().min(log);
    let in_order = |(place, bit): (usize, &Bit)| *bit == Bit::At(rows + place);
    if rows + kept.len() == log && kept_bits.iter().enumerate().all(in_order) {
        let width = 1 << kept.len();
        let rows = source.chunks(width).zip(weights);
        return elements(&sum_rows::<E>(rows, usize::div_ceil(width, LANES)), width);
    }
    let mut weight_of = vec![0usize; 1 << log];
    Indices::new(&bound_bits, log).for_each(|at, index| weight_of[at] = index);
    let mut out = vec![E::ZERO; 1 << kept.len()];
    Indices::new(&kept_bits, log).for_each(|at, index| {
        if at & zeros == 0 {
            out[index] += weights[weight_of[at]] * source[at];
        }
    });
    // A kept coordinate that the factor does not have: the same on both sides of it.
    for (place, coordinate) in kept.iter().enumerate() {
        if !factor.used().any(|used| used == *coordinate) {
            let bit = 1 << (kept.len() - 1 - place);
            for at in 0..out.len() {
                if at & bit != 0 {
                    out[at] = out[at ^ bit];
                }
            }
        }
    }
    out
}
