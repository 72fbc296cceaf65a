//! Multilinear extensions of vectors.
//!
//! A vector of `2^k` values is a function on `{0,1}^k`; `f~(r) = sum_x f(x) eq(r, x)` with
//! `eq(r, x) = prod_i (r_i x_i + (1 - r_i)(1 - x_i))` is its one multilinear extension. Coordinate 0 is the *most
//! significant* bit of an index, everywhere in this crate; so a block that begins at a multiple of its size `2^j` is evaluated at the
//! last j coordinates, and the others say which block.
//!
//! A vector that is shorter than `2^k` continues with zeros.

use crate::field::ProofField;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// `eq(r, x)` for all x, in order.
#[must_use]
pub fn eq_table<E: ProofField>(point: &[E]) -> Vec<E> {
    scaled_eq_table(E::ONE, point)
}

/// `scale * eq(r, x)` for all x, in order.
#[must_use]
pub fn scaled_eq_table<E: ProofField>(scale: E, point: &[E]) -> Vec<E> {
    let mut table = Vec::with_capacity(1 << point.len());
    table.push(scale);
    for coordinate in point {
        table = doubled(&table, *coordinate);
    }
    table
}

/// The table for one coordinate more, which becomes the least significant bit.
#[must_use]
pub fn doubled<E: ProofField>(table: &[E], coordinate: E) -> Vec<E> {
    let mut next = Vec::with_capacity(2 * table.len());
    for x in table {
        let high = *x * coordinate;
        next.push(*x - high);
        next.push(high);
    }
    next
}

/// `eq(a, b)` of two points.
#[must_use]
pub fn eq<E: ProofField>(a: &[E], b: &[E]) -> E {
    a.iter().zip(b).fold(E::ONE, |product, (a, b)| {
        let both = *a * *b;
        product * (both + both + E::ONE - *a - *b)
    })
}

/// `eq(r, index)` for an index of `point.len()` bits.
#[must_use]
pub fn eq_index<E: ProofField>(point: &[E], index: usize) -> E {
    let bits = point.len();
    point.iter().enumerate().fold(E::ONE, |product, (i, r)| {
        product * if index >> (bits - 1 - i) & 1 == 1 { *r } else { E::ONE - *r }
    })
}

/// The extension of `x -> x < end`, at most `2^k`.
#[must_use]
pub fn before<E: ProofField>(point: &[E], end: usize) -> E {
    if end >> point.len() != 0 {
        return E::ONE;
    }
    // Below: equal so far, and 0 here where `end` has a 1.
    let (mut below, mut equal) = (E::ZERO, E::ONE);
    for (i, r) in point.iter().enumerate() {
        let zero = equal * (E::ONE - *r);
        if end >> (point.len() - 1 - i) & 1 == 1 {
            below += zero;
            equal -= zero;
        } else {
            equal = zero;
        }
    }
    below
}

/// `f~(r)` from the table of `eq(r, .)`.
#[must_use]
pub fn weighted<E: ProofField>(values: &[E::Base], table: &[E]) -> E {
    values.iter().zip(table).map(|(x, weight)| *weight * *x).sum()
}

/// Coordinates of a row of a vector that is evaluated row by row: its table stays in the first cache.
pub(crate) const ROW_LOG: usize = 8;

/// `f~(r)` of a vector over the base field: no table of its size.
#[must_use]
pub fn evaluate<E: ProofField>(values: &[E::Base], point: &[E]) -> E {
    let (high, low) = point.split_at(point.len().saturating_sub(ROW_LOG));
    evaluate_rows(values, high, &Weights::of(&eq_table(low)))
}

/// The same, where rows have the weights of the last coordinates.
#[must_use]
pub(crate) fn evaluate_rows<E: ProofField>(values: &[E::Base], high: &[E], weights: &Weights<E>) -> E {
    let (width, unraw) = (weights.len(), E::from_raw(1));
    let mut raw = Vec::with_capacity(width);
    let rows = values.chunks(width).zip(eq_table(high));
    // Coordinates of a view that are constant leave rows without weight.
    let rows = rows.filter(|(_, weight)| !weight.is_zero());
    rows.map(|(row, weight)| {
        raw.clear();
        raw.extend(row.iter().map(|x| E::raw(*x)));
        weight * weights.sum(&raw) * unraw
    })
    .sum()
}

/// Weights of a sum, coordinate by coordinate, as [`ProofField::raw`] has them.
#[derive(Clone, Debug)]
pub struct Weights<E> {
    coordinates: Vec<Vec<u32>>,
    _field: core::marker::PhantomData<E>,
}

impl<E: ProofField> Weights<E> {
    /// These.
    #[must_use]
    pub fn of(weights: &[E]) -> Weights<E> {
        let raw =
            |at: usize| weights.iter().map(move |x| E::raw(x.as_basis_coefficients_slice()[at])).collect();
        Weights { coordinates: (0..E::DIMENSION).map(raw).collect(), _field: core::marker::PhantomData }
    }

    /// How many.
    fn len(&self) -> usize {
        self.coordinates.first().map_or(0, Vec::len)
    }

    /// `sum of weight * integer`, of integers below p.
    #[must_use]
    pub fn sum(&self, integers: &[u32]) -> E {
        E::from_basis_coefficients_fn(|at| raw_product::<E>(&self.coordinates[at], integers))
    }
}

/// `sum of weight * integer`: as both are below p, four products are below 2^64, and their halves are added up.
fn raw_product<E: ProofField>(weights: &[u32], integers: &[u32]) -> E::Base {
    const { assert!((E::Base::ORDER_U32 as u128 - 1) * (E::Base::ORDER_U32 as u128 - 1) * 4 < 1 << 64) };
    let (mut low, mut high) = (0u64, 0u64);
    let product = |w: u32, x: u32| u64::from(w) * u64::from(x);
    let mut add = |sum: u64| {
        low += sum & u64::from(u32::MAX);
        high += sum >> 32;
    };
    let count = weights.len().min(integers.len());
    let ((fours, rest), (integers, last)) =
        (weights[..count].as_chunks::<4>(), integers[..count].as_chunks::<4>());
    for ([a, b, c, d], [e, f, g, h]) in fours.iter().zip(integers) {
        add(product(*a, *e) + product(*b, *f) + product(*c, *g) + product(*d, *h));
    }
    rest.iter().zip(last).for_each(|(w, x)| add(product(*w, *x)));
    let order = u64::from(E::Base::ORDER_U32);
    let sum = (high % order * ((1u64 << 32) % order) + low % order) % order;
    E::from_raw(sum as u32)
}

/// `f~(r)` of a vector over the extension.
#[must_use]
pub fn evaluate_ext<E: ProofField>(values: &[E], point: &[E]) -> E {
    values.iter().zip(eq_table(point)).map(|(x, weight)| weight * *x).sum()
}

/// Binds the first coordinates: `out[y] = sum_x eq(r, x) f(x, y)` for rows of `width` values.
#[must_use]
pub fn fold_rows<E: ProofField>(values: &[E::Base], width: usize, point: &[E]) -> Vec<E> {
    let mut out = vec![E::ZERO; width];
    for (row, weight) in values.chunks(width).zip(eq_table(point)) {
        for (out, x) in out.iter_mut().zip(row) {
            *out += weight * *x;
        }
    }
    out
}

/// Binds the last coordinate, in place: `f(x) = f(x, 0) + r (f(x, 1) - f(x, 0))`.
pub fn bind_last<E: ProofField>(values: &mut Vec<E>, r: E) {
    if values.len() % 2 == 1 {
        values.push(E::ZERO);
    }
    let half = values.len() / 2;
    for i in 0..half {
        let (low, high) = (values[2 * i], values[2 * i + 1]);
        values[i] = low + r * (high - low);
    }
    values.truncate(half);
}

/// The extension of `x -> x`: `sum_i 2^(k-1-i) r_i`.
#[must_use]
pub fn index<E: ProofField>(point: &[E]) -> E {
    point.iter().fold(E::ZERO, |sum, r| sum + sum + *r)
}
