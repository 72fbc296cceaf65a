//! Vectors in lanes, sixteen consecutive elements a group: tables of eq, inner products, sums of rows.

use super::arithmetic::{Total, sub, times};
use super::sums::Fixed;
use super::{Ext, Kernel, LANE_BITS, LANES, Plain, Task, Wide, element, raw, total, vectorised};
use crate::cells::CellsRef;
use crate::field::ProofField;
use crate::multilinear::scaled_eq_table;
use crate::parallel;
use alloc::vec;
use alloc::vec::Vec;

/// Groups whose sums stay in the first cache while rows pass, of which each is in another page.
const BLOCK_GROUPS: usize = 16;
/// Groups of an inner product that are worth another thread.
const DOT_GROUPS: usize = 1 << 10;

/// Doubles a table: one coordinate more, the least significant of a group's number.
struct Doubled<'a> {
    table: &'a [Ext],
    coordinate: Fixed,
    out: &'a mut Vec<Ext>,
}

impl Task for Doubled<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.run_wide(Plain);
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) {
        for x in self.table {
            let high = times(w, x, &self.coordinate);
            self.out.push(sub(w, x, &high));
            self.out.push(high);
        }
    }
}

/// `scale * eq(point, x)` for all x, in groups; zeros behind the last.
pub(crate) fn eq_groups<E: ProofField>(scale: E, point: &[E]) -> Vec<Ext> {
    let (groups, lanes) = point.split_at(point.len().saturating_sub(LANE_BITS));
    let mut first = Ext::ZERO;
    scaled_eq_table(scale, lanes).into_iter().enumerate().for_each(|(lane, x)| first.put(lane, raw(x)));
    let (kernel, mut table) = (Kernel::detect(), vec![first]);
    for coordinate in groups {
        let mut out = Vec::with_capacity(2 * table.len());
        vectorised(kernel, Doubled { table: &table, coordinate: Fixed::of(*coordinate), out: &mut out });
        table = out;
    }
    table
}

struct Dot<'a, E: ProofField> {
    values: CellsRef<'a, E::Base>,
    table: &'a [Ext],
}

impl<E: ProofField> Task for Dot<'_, E> {
    type Output = Ext;

    #[inline(always)]
    fn run(self) -> Ext {
        self.run_wide(Plain)
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) -> Ext {
        let mut sum = Total::zero(w);
        for (at, weights) in self.table.iter().take(self.values.len().div_ceil(LANES)).enumerate() {
            sum.add_scaled(w, weights, &self.values.group::<E>(at * LANES));
        }
        sum.reduce(w)
    }
}

/// `sum of values[x] table[x]`.
pub(crate) fn dot<'a, E: ProofField>(values: impl Into<CellsRef<'a, E::Base>>, table: &[Ext]) -> E {
    let (values, kernel) = (values.into(), Kernel::detect());
    let each = table.len().div_ceil(parallel::THREADS).max(DOT_GROUPS);
    let parts = table.chunks(each).enumerate();
    let mut parts: Vec<_> = parts
        .map(|(part, table)| (values.part(part * each * LANES..(part + 1) * each * LANES), table, E::ZERO))
        .collect();
    parallel::for_each(&mut parts, |(values, table, sum)| {
        *sum = total(&vectorised(kernel, Dot::<E> { values: *values, table }));
    });
    parts.into_iter().map(|(.., sum)| sum).sum()
}

/// Coordinates of a row of [`EqTable`]: its weights stay in the first cache.
const ROW_LOG: usize = 9;

/// eq of a point: weights of rows, and in a row. As long as a root of what it weighs.
#[derive(Clone, Debug)]
pub(crate) struct EqTable {
    high: Vec<[u32; 5]>,
    low: Vec<Ext>,
}

impl EqTable {
    /// That of `point`.
    pub(crate) fn new<E: ProofField>(point: &[E]) -> EqTable {
        let (high, low) = point.split_at(point.len().saturating_sub(ROW_LOG));
        EqTable {
            high: scaled_eq_table(E::ONE, high).into_iter().map(raw).collect(),
            low: eq_groups(E::ONE, low),
        }
    }

    /// The extension of `values` at the point.
    pub(crate) fn evaluate<'a, E: ProofField>(&self, values: impl Into<CellsRef<'a, E::Base>>) -> E {
        let (values, kernel, width) = (values.into(), Kernel::detect(), LANES * self.low.len());
        let each = self.high.len().div_ceil(parallel::THREADS).max(DOT_GROUPS / self.low.len());
        let parts = self.high.chunks(each).enumerate();
        let part = |number: usize| values.part(number * each * width..(number + 1) * each * width);
        let mut parts: Vec<_> = parts.map(|(number, high)| (part(number), high, E::ZERO)).collect();
        parallel::for_each(&mut parts, |(values, high, sum)| {
            *sum = total(&vectorised(kernel, DotRows::<E> { values: *values, high, low: &self.low }));
        });
        parts.into_iter().map(|(.., sum)| sum).sum()
    }
}

struct DotRows<'a, E: ProofField> {
    values: CellsRef<'a, E::Base>,
    high: &'a [[u32; 5]],
    low: &'a [Ext],
}

impl<E: ProofField> Task for DotRows<'_, E> {
    type Output = Ext;

    #[inline(always)]
    fn run(self) -> Ext {
        self.run_wide(Plain)
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) -> Ext {
        let (mut sum, width) = (Total::zero(w), LANES * self.low.len());
        for (row, weight) in self.high.iter().enumerate() {
            let first = row * width;
            if first >= self.values.len() {
                break;
            }
            let mut of_row = Total::zero(w);
            for (at, weights) in self.low.iter().enumerate() {
                of_row.add_scaled(w, weights, &self.values.group::<E>(first + at * LANES));
            }
            sum.add_times(w, &of_row.reduce(w), &Fixed::new(*weight));
        }
        sum.reduce(w)
    }
}

/// Sums of rows for some of the groups.
struct Rows<'a, E: ProofField> {
    rows: &'a [(CellsRef<'a, E::Base>, [u32; 5])],
    first: usize,
    out: &'a mut [Ext],
}

impl<E: ProofField> Task for Rows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.run_wide(Plain);
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) {
        for (block, out) in self.out.chunks_mut(BLOCK_GROUPS).enumerate() {
            let first = (self.first + block * BLOCK_GROUPS) * LANES;
            let mut sums = [Total::zero(w); BLOCK_GROUPS];
            for (row, weight) in self.rows {
                for (at, sum) in sums.iter_mut().enumerate() {
                    sum.add_multiples(w, weight, &row.group::<E>(first + at * LANES));
                }
            }
            for (out, sums) in out.iter_mut().zip(&sums) {
                *out = sums.reduce(w);
            }
        }
    }
}

/// `out[x] = sum over rows of weight row[x]`, `groups` groups; a row that is too short continues with zeros.
pub(crate) fn sum_rows<'a, E: ProofField>(
    rows: impl Iterator<Item = (impl Into<CellsRef<'a, E::Base>>, E)>,
    groups: usize,
) -> Vec<Ext> {
    let rows: Vec<(CellsRef<'_, E::Base>, [u32; 5])> =
        rows.map(|(row, weight)| (row.into(), raw(weight))).collect();
    let mut out = vec![Ext::ZERO; groups];
    let each = groups.div_ceil(parallel::THREADS).next_multiple_of(BLOCK_GROUPS);
    let mut parts: Vec<(usize, &mut [Ext])> =
        out.chunks_mut(each).enumerate().map(|(part, out)| (part * each, out)).collect();
    let kernel = Kernel::detect();
    parallel::for_each(&mut parts, |(first, out)| {
        vectorised(kernel, Rows::<E> { rows: &rows, first: *first, out });
    });
    out
}

/// The first `count` elements.
pub(crate) fn elements<E: ProofField>(groups: &[Ext], count: usize) -> Vec<E> {
    let all = groups.iter().flat_map(|group| (0..LANES).map(move |lane| element(group.at(lane))));
    all.take(count).collect()
}
