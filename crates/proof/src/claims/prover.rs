//! The prover's sum-check over Z, without Z: columns that are claimed at one point are combined first.
//!
//! Of all columns of one size `2^l`, those with a claim at point P give `V_P = sum_k c^k column_k`, and the first l rounds are those of
//! `sum_x eq(P, x) V_P(x)`, of which a round needs two sums:
//!
//! ```text
//! a(b) = sum_y eq(P_0..P_i-1, y) V_P(y, b)        h(X) = bound eq(P_i, X) (a(0) + X (a(1) - a(0)))
//! ```
//!
//! Nor is V_P ever written out. Its coordinates are halved, `x = (h, l)`, and eq is a product: the rounds of l need `sum_h eq(P_h, h) V_P(h, l)`, one pass over the columns,
//! and those of h need `V_P(h, r_l)`, another one. Both are vectors of the size of a root.
//!
//! After l rounds every such column is one number: its value at the challenges, and its weight `sum_k c^k eq(P_k, challenges)`.
//! From there on, the column is one block of Z, and blocks are paired as they lie.

use super::{Claims, Layout, Located};
use crate::cells::CellsRef;
use crate::field::ProofField;
use crate::lanes::sums::Sums;
use crate::lanes::vectors::{dot, elements, eq_groups};
use crate::lanes::{self, Ext, Kernel, LANE_BITS, LANES, Task, vectorised, weighted};
use crate::multilinear::{bind_last, eq, eq_table};
use crate::parallel;
use crate::sumcheck::wide::{WIDE_LOG, scalars, spread};
use crate::transcript::ProverTranscript;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

/// Columns of fewer coordinates are not halved.
const HALVED_LOG: usize = 10;

/// Coordinates that are bound first, of columns of `2^log` cells.
fn low(log: usize) -> usize {
    if log < HALVED_LOG { log } else { log / 2 }
}

/// `sum_x bound eq(point, x) V(x)`.
struct PointSum<'a, E> {
    /// log2 of the size of its columns.
    log: usize,
    /// Which claims it adds up.
    numbers: &'a [usize],
    /// Coordinates of the half behind this one.
    behind: Vec<E>,
    /// Coordinates of this half that are not bound.
    point: Vec<E>,
    /// eq of the others.
    bound: E,
    /// V while it is long, in lanes as a sum-check has them.
    groups: Vec<Ext>,
    /// V when it is short.
    small: Vec<E>,
}

/// a(0) and a(1), lane by lane.
struct Halves<'a> {
    groups: &'a [Ext],
    weights: &'a [[u32; 5]],
}

impl Task for Halves<'_> {
    type Output = [Ext; 2];

    #[inline(always)]
    fn run(self) -> [Ext; 2] {
        let (mut low, mut high) = (Ext::ZERO, Ext::ZERO);
        for (pair, weight) in self.groups.chunks_exact(2).zip(self.weights) {
            let weight = Ext::splat(weight);
            low = low.add(&pair[0].mul(&weight));
            high = high.add(&pair[1].mul(&weight));
        }
        [low, high]
    }
}

struct Fold<'a> {
    groups: &'a mut Vec<Ext>,
    r: Ext,
}

impl Task for Fold<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let half = self.groups.len() / 2;
        for i in 0..half {
            self.groups[i] = self.groups[2 * i].line(&self.groups[2 * i + 1], &self.r);
        }
        self.groups.truncate(half);
    }
}

/// Adds the rows of columns, weighed.
struct Rows<'a, E: ProofField> {
    /// Columns and their weights.
    columns: &'a [(CellsRef<'a, E::Base>, E)],
    /// The weight of each of their rows.
    high: &'a [E],
    /// One row.
    out: &'a mut [Ext],
}

impl<E: ProofField> Task for Rows<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut sums = vec![Sums::ZERO; self.out.len()];
        for (cells, factor) in self.columns {
            let width = cells.len() / self.high.len();
            for (number, high) in self.high.iter().enumerate() {
                let weight = lanes::raw(*factor * *high);
                let row = cells.part(number * width..(number + 1) * width);
                for (at, sum) in sums.iter_mut().enumerate() {
                    sum.add_multiples(&weight, &row.group::<E>(at * LANES));
                }
            }
        }
        for (out, sums) in self.out.iter_mut().zip(&sums) {
            *out = out.add(&sums.reduce());
        }
    }
}

impl<'a, E: ProofField> PointSum<'a, E> {
    /// For the claims `numbers`, all at `point`; nothing is computed yet.
    fn new(point: &[E], numbers: &'a [usize]) -> PointSum<'a, E> {
        let (behind, first) = point.split_at(point.len() - low(point.len()));
        PointSum {
            log: point.len(),
            numbers,
            behind: behind.to_vec(),
            point: first.to_vec(),
            bound: E::ONE,
            groups: Vec::new(),
            small: Vec::new(),
        }
    }

    /// Begins with the lower half of the columns, which have these weights.
    fn begin(&mut self, columns: &[(CellsRef<'_, E::Base>, E)], kernel: Kernel) {
        let mut out = vec![Ext::ZERO; (1usize << self.point.len()).div_ceil(LANES)];
        vectorised(kernel, Rows { columns, high: &eq_table(&self.behind), out: &mut out });
        self.fill(elements(&out, 1 << self.point.len()));
    }

    fn fill(&mut self, all: Vec<E>) {
        let log = self.point.len();
        if log < WIDE_LOG {
            self.small = all;
        } else {
            self.groups = spread(&all, log).into_iter().flatten().collect();
        }
    }

    /// Goes on with the upper half: `rows` are the columns' values at what was bound, row by row, `powers` the weights of all claims.
    fn rise(&mut self, claims: &Claims<E>, rows: &[Vec<E>], powers: &[E]) {
        self.point = core::mem::take(&mut self.behind);
        let mut all = vec![E::ZERO; 1 << self.point.len()];
        for number in self.numbers {
            let row = &rows[claims.claims[*number].column];
            all.iter_mut().zip(row).for_each(|(sum, value)| *sum += powers[*number] * *value);
        }
        self.fill(all);
    }

    /// h(0) and the leading coefficient.
    fn round(&self, kernel: Kernel) -> [E; 2] {
        let Some((last, rest)) = self.point.split_last() else { return [E::ZERO; 2] };
        let [low, high] = if self.groups.is_empty() {
            let (mut sums, weights) = ([E::ZERO; 2], eq_table(rest));
            for ([low, high], weight) in self.small.as_chunks::<2>().0.iter().zip(weights) {
                sums[0] += *low * weight;
                sums[1] += *high * weight;
            }
            sums
        } else {
            let weights: Vec<[u32; 5]> = eq_table(&rest[LANE_BITS..]).into_iter().map(lanes::raw).collect();
            let lane_weights = eq_table(&rest[..LANE_BITS]);
            let sums = vectorised(kernel, Halves { groups: &self.groups, weights: &weights });
            sums.map(|sum| weighted(&sum, &lane_weights))
        };
        [self.bound * (E::ONE - *last) * low, self.bound * (last.double() - E::ONE) * (high - low)]
    }

    fn bind(&mut self, r: E, kernel: Kernel) {
        let Some(last) = self.point.pop() else { return };
        self.bound *= eq(&[last], &[r]);
        if self.groups.is_empty() {
            bind_last(&mut self.small, r);
        } else {
            vectorised(kernel, Fold { groups: &mut self.groups, r: Ext::splat(&lanes::raw(r)) });
            if self.groups.len() == 1 {
                self.small = scalars(&core::mem::take(&mut self.groups));
            }
        }
    }
}

/// A block of Z that is one number, and its weight.
#[derive(Clone, Copy, Debug)]
struct Block<E> {
    at: usize,
    cell: E,
    weight: E,
}

/// Two neighbours, either of which may be zeros.
fn pairs<E: ProofField>(blocks: &[Block<E>]) -> impl Iterator<Item = (usize, [(E, E); 2])> + '_ {
    blocks.chunk_by(|a, b| a.at / 2 == b.at / 2).map(|both| {
        let mut pair = [(E::ZERO, E::ZERO); 2];
        for block in both {
            let side = &mut pair[block.at % 2];
            *side = (side.0 + block.cell, side.1 + block.weight);
        }
        (both[0].at / 2, pair)
    })
}

/// The claims on one commitment while they are reduced.
struct Reducing<'a, E: ProofField> {
    located: &'a Located<'a, E>,
    columns: Vec<CellsRef<'a, E::Base>>,
    /// The weights of its claims.
    powers: Vec<E>,
    sums: Vec<PointSum<'a, E>>,
    /// Of columns whose lower half is bound: their values there, row by row.
    rows: Vec<Vec<E>>,
    blocks: Vec<Block<E>>,
    /// Z at the point, when that is known.
    value: E,
}

/// Proves `sum_x Z(x) B(x)` for all commitments, over `log` variables; the point, and each Z at its last coordinates. The verifier knows the sum.
pub(super) fn reduce<E: ProofField>(
    located: &[Located<'_, E>],
    cells: &[CellsRef<'_, E::Base>],
    transcript: &mut ProverTranscript,
    log: usize,
    batch: E,
) -> (Vec<E>, Vec<E>) {
    let kernel = Kernel::detect();
    let mut powers = batch.powers();
    // Of each commitment, (size, point) of every claim, and which claims have it.
    let shared: Vec<BTreeMap<(usize, usize), Vec<usize>>> = located.iter().map(shared).collect();
    let mut all: Vec<Reducing<'_, E>> = Vec::with_capacity(located.len());
    for ((each, cells), shared) in located.iter().zip(cells).zip(&shared) {
        let Located { claims, layout, .. } = each;
        let powers: Vec<E> = powers.by_ref().take(claims.claims.len()).collect();
        let columns: Vec<_> = (0..layout.logs.len()).map(|column| layout.cells_of(column, *cells)).collect();
        let sums = shared.iter().map(|((_, point), numbers)| PointSum::new(&claims.points[*point], numbers));
        let mut sums: Vec<PointSum<'_, E>> = sums.collect();
        parallel::for_each(&mut sums, |sum| {
            let of = |number: &usize| (columns[claims.claims[*number].column], powers[*number]);
            let columns: Vec<_> = sum.numbers.iter().map(of).collect();
            sum.begin(&columns, kernel);
        });
        let (rows, blocks) = (vec![Vec::new(); columns.len()], Vec::new());
        all.push(Reducing { located: each, columns, powers, sums, rows, blocks, value: E::ZERO });
    }
    let mut point = vec![E::ZERO; log];
    for level in 0..=log {
        all.iter_mut().for_each(|each| each.bound(level, &point[log - level..]));
        if level == log {
            break;
        }
        let mut sent = [E::ZERO; 2];
        let sums = all.iter_mut().flat_map(|each| &mut each.sums);
        let mut rounds: Vec<(&mut PointSum<'_, E>, [E; 2])> = sums.map(|sum| (sum, [E::ZERO; 2])).collect();
        parallel::for_each(&mut rounds, |(sum, sent)| *sent = sum.round(kernel));
        for (_, [h0, lead]) in &rounds {
            sent = [sent[0] + *h0, sent[1] + *lead];
        }
        for (_, [(z0, b0), (z1, b1)]) in all.iter().flat_map(|each| pairs(&each.blocks)) {
            sent = [sent[0] + z0 * b0, sent[1] + (z1 - z0) * (b1 - b0)];
        }
        transcript.send("round", &sent);
        let r: E = transcript.sponge.challenge("bind");
        let sums = all.iter_mut().flat_map(|each| &mut each.sums);
        parallel::for_each(&mut sums.collect::<Vec<_>>(), |sum| sum.bind(r, kernel));
        let line = |low: E, high: E| low + r * (high - low);
        for Reducing { blocks, .. } in &mut all {
            let bound = pairs(blocks).map(|(at, [(z0, b0), (z1, b1)])| Block {
                at,
                cell: line(z0, z1),
                weight: line(b0, b1),
            });
            *blocks = bound.collect();
        }
        point[log - 1 - level] = r;
    }
    (point, all.iter().map(|each| each.value).collect())
}

/// (size, point) of every claim, and which claims have it.
fn shared<E: ProofField>(located: &Located<'_, E>) -> BTreeMap<(usize, usize), Vec<usize>> {
    let mut shared: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (number, claim) in located.claims.claims.iter().enumerate() {
        let key = (located.layout.logs[claim.column], claim.point);
        shared.entry(key).or_default().push(number);
    }
    shared
}

impl<E: ProofField> Reducing<'_, E> {
    /// The last `level` coordinates are bound to `point`: what ends here becomes numbers.
    fn bound(&mut self, level: usize, point: &[E]) {
        let Located { claims, layout, shape } = self.located;
        if level <= shape.log {
            bind_rows(layout, &self.columns, &mut self.rows, level, point);
            for sum in self.sums.iter_mut().filter(|sum| sum.log > level && low(sum.log) == level) {
                sum.rise(claims, &self.rows, &self.powers);
            }
            self.blocks.extend(numbers_of(claims, layout, &self.rows, &self.powers, level, point));
            self.blocks.sort_by_key(|block| block.at);
        }
        self.sums.retain(|sum| sum.log > level);
        if level == shape.log {
            self.value = self.blocks.iter().map(|block| block.cell).sum();
        }
    }
}

/// The values of each row of the columns whose lower half is all that is bound, `bound`.
fn bind_rows<E: ProofField>(
    layout: &Layout,
    columns: &[CellsRef<'_, E::Base>],
    rows: &mut [Vec<E>],
    level: usize,
    bound: &[E],
) {
    let mut these: Vec<(CellsRef<'_, E::Base>, &mut Vec<E>)> = Vec::new();
    for ((column, rows), log) in columns.iter().zip(rows).zip(&layout.logs) {
        if low(*log) == level {
            these.push((*column, rows));
        }
    }
    if these.is_empty() {
        return;
    }
    let table = eq_groups(E::ONE, bound);
    parallel::for_each(&mut these, |(column, rows)| {
        **rows = column.chunks(1 << level).map(|row| dot::<E>(row, &table)).collect();
    });
}

/// The columns of size `2^log` as blocks, all their coordinates being bound; `rows` are their values row by row.
fn numbers_of<E: ProofField>(
    claims: &Claims<E>,
    layout: &Layout,
    rows: &[Vec<E>],
    powers: &[E],
    log: usize,
    bound: &[E],
) -> Vec<Block<E>> {
    let of_size = (0..rows.len()).filter(|column| layout.logs[*column] == log);
    let block = |column: usize| Block { at: layout.offsets[column] >> log, cell: E::ZERO, weight: E::ZERO };
    let mut blocks: Vec<(usize, Block<E>)> = of_size.map(|column| (column, block(column))).collect();
    if blocks.is_empty() {
        return Vec::new();
    }
    let table = eq_table(&bound[..log - low(log)]);
    for (column, block) in &mut blocks {
        block.cell = rows[*column].iter().zip(&table).map(|(value, weight)| *value * *weight).sum();
    }
    let weights: Vec<E> =
        claims.points.iter().map(|p| if p.len() == log { eq(p, bound) } else { E::ZERO }).collect();
    let mut place = vec![None; rows.len()];
    blocks.iter().enumerate().for_each(|(at, (column, _))| place[*column] = Some(at));
    for (claim, power) in claims.claims.iter().zip(powers) {
        if let Some(at) = place[claim.column] {
            blocks[at].1.weight += *power * weights[claim.point];
        }
    }
    blocks.into_iter().map(|(_, block)| block).collect()
}
