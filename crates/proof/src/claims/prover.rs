//! The prover's sum-check over Z, without Z: columns that are claimed at one point are combined first.
//!
//! Of all columns of one size `2^l`, those with a claim at point P give `V_P = sum_k c^k column_k`, and the first l rounds are those of
//! `sum_x eq(P, x) V_P(x)`, of which a round needs two sums:
//!
//! ```text
//! a(b) = sum_y eq(P_0..P_i-1, y) V_P(y, b)        h(X) = bound eq(P_i, X) (a(0) + X (a(1) - a(0)))
//! ```
//!
//! After l rounds every such column is one number: its value at the challenges, and its weight `sum_k c^k eq(P_k, challenges)`.
//! From there on, the column is one block of Z, and blocks are paired as they lie.

use super::{Claims, Layout};
use crate::field::ProofField;
use crate::lanes::vectors::{dot, elements, eq_groups, sum_rows};
use crate::lanes::{self, Ext, Kernel, LANE_BITS, LANES, Task, vectorised, weighted};
use crate::multilinear::{bind_last, eq, eq_table};
use crate::parallel;
use crate::sumcheck::wide::{WIDE_LOG, scalars, spread};
use crate::transcript::ProverTranscript;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

/// `sum_x bound eq(point, x) V(x)`.
struct PointSum<E> {
    /// log2 of the size of its columns.
    log: usize,
    /// Coordinates that are not bound.
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

impl<E: ProofField> PointSum<E> {
    fn new(point: &[E], combined: &[Ext]) -> PointSum<E> {
        let log = point.len();
        let all: Vec<E> = elements(combined, 1 << log);
        let (groups, small) = if log < WIDE_LOG {
            (Vec::new(), all)
        } else {
            (spread(&all, log).into_iter().flatten().collect(), Vec::new())
        };
        PointSum { log, point: point.to_vec(), bound: E::ONE, groups, small }
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

/// Proves `sum_x Z(x) B(x)`, over `log` variables; the point, and Z there. The verifier knows the sum.
pub(super) fn reduce<E: ProofField>(
    claims: &Claims<E>,
    transcript: &mut ProverTranscript,
    layout: &Layout,
    columns: &[&[E::Base]],
    log: usize,
    batch: E,
) -> (Vec<E>, E) {
    let kernel = Kernel::detect();
    let powers = batch.powers().collect_n(claims.claims.len());
    // (size, point) of every claim, and which claims have it.
    let mut shared: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (number, claim) in claims.claims.iter().enumerate() {
        let key = (layout.logs[claim.column], claim.point);
        shared.entry(key).or_default().push(number);
    }
    let mut sums: Vec<PointSum<E>> = Vec::with_capacity(shared.len());
    for ((log, point), numbers) in &shared {
        let rows = numbers.iter().map(|number| (columns[claims.claims[*number].column], powers[*number]));
        let combined = sum_rows::<E>(rows, (1usize << log).div_ceil(LANES));
        sums.push(PointSum::new(&claims.points[*point], &combined));
    }
    let mut blocks: Vec<Block<E>> = Vec::new();
    let mut point = vec![E::ZERO; log];
    for level in 0..=log {
        let done = numbers_of(claims, layout, columns, &powers, level, &point[log - level..]);
        blocks.extend(done);
        blocks.sort_by_key(|block| block.at);
        if level == log {
            break;
        }
        sums.retain(|sum| sum.log > level);
        let mut rounds: Vec<(&mut PointSum<E>, [E; 2])> =
            sums.iter_mut().map(|sum| (sum, [E::ZERO; 2])).collect();
        parallel::for_each(&mut rounds, |(sum, sent)| *sent = sum.round(kernel));
        let mut sent = [E::ZERO; 2];
        for (_, [h0, lead]) in &rounds {
            sent = [sent[0] + *h0, sent[1] + *lead];
        }
        for (_, [(z0, b0), (z1, b1)]) in pairs(&blocks) {
            sent = [sent[0] + z0 * b0, sent[1] + (z1 - z0) * (b1 - b0)];
        }
        transcript.send("round", &sent);
        let r: E = transcript.sponge.challenge("bind");
        parallel::for_each(&mut rounds, |(sum, _)| sum.bind(r, kernel));
        let line = |low: E, high: E| low + r * (high - low);
        let bound = pairs(&blocks).map(|(at, [(z0, b0), (z1, b1)])| Block {
            at,
            cell: line(z0, z1),
            weight: line(b0, b1),
        });
        blocks = bound.collect();
        point[log - 1 - level] = r;
    }
    let cell = blocks.iter().map(|block| block.cell).sum();
    (point, cell)
}

/// The columns of size `2^log` as blocks, all their coordinates being bound.
fn numbers_of<E: ProofField>(
    claims: &Claims<E>,
    layout: &Layout,
    columns: &[&[E::Base]],
    powers: &[E],
    log: usize,
    bound: &[E],
) -> Vec<Block<E>> {
    let of_size = (0..columns.len()).filter(|column| layout.logs[*column] == log);
    let block = |column: usize| Block { at: layout.offsets[column] >> log, cell: E::ZERO, weight: E::ZERO };
    let mut blocks: Vec<(usize, Block<E>)> = of_size.map(|column| (column, block(column))).collect();
    if blocks.is_empty() {
        return Vec::new();
    }
    let table = eq_groups(E::ONE, bound);
    parallel::for_each(&mut blocks, |(column, block)| block.cell = dot::<E>(columns[*column], &table));
    let weights: Vec<E> =
        claims.points.iter().map(|p| if p.len() == log { eq(p, bound) } else { E::ZERO }).collect();
    let mut place = vec![None; columns.len()];
    blocks.iter().enumerate().for_each(|(at, (column, _))| place[*column] = Some(at));
    for (claim, power) in claims.claims.iter().zip(powers) {
        if let Some(at) = place[claim.column] {
            blocks[at].1.weight += *power * weights[claim.point];
        }
    }
    blocks.into_iter().map(|(_, block)| block).collect()
}
