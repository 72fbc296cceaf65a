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

/// `f~(r)` from the table of `eq(r, .)`.
#[must_use]
pub fn weighted<E: ProofField>(values: &[E::Base], table: &[E]) -> E {
    values.iter().zip(table).map(|(x, weight)| *weight * *x).sum()
}

/// `f~(r)` of a vector over the base field.
#[must_use]
pub fn evaluate<E: ProofField>(values: &[E::Base], point: &[E]) -> E {
    weighted(values, &eq_table(point))
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
