//! Attention over the rows of a batch (section 6, steps 4 to 7): one unit of work a token and kv
//! head. Where nobody observes, each task of the pool runs its units to the end in memory of its
//! own; else some tokens at a time keep what is in between, and whoever may change it sees each
//! step before the next is begun.

use super::batch::Batch;
use super::buffers::{Heads, sized};
use super::steps::first_failed;
use super::{Engine, ForwardError};
use crate::arith::RangeError;
use crate::attention::{Layer, Query, Unit};
use crate::kv::KvCache;
use crate::observe::{Observer, Values};
use crate::pool::Rows;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::op::Op;

/// Tokens whose scores are kept at the same time, where they are observed.
const TOKENS_AT_ONCE: usize = 8;
/// Products of scores that are worth a task of their own.
const GRAIN_PRODUCTS: usize = 1 << 15;
/// The steps, by what they give.
const STEPS: [Op; 4] = [Op::Scores, Op::Softmax, Op::AttnPartial, Op::Attn];

/// The units of a batch: what the closures of all steps share.
struct Units<'a> {
    engine: &'a Engine,
    layer: Layer<'a>,
    q: &'a Heads<i16>,
    /// By row.
    caches: Vec<&'a KvCache>,
    visible: Vec<Range<usize>>,
    positions: Vec<usize>,
    index: usize,
    /// Query heads of a kv head, kv heads.
    group: usize,
    kv_heads: usize,
}

impl Units<'_> {
    /// What unit `number` of the batch reads.
    fn query(&self, number: usize) -> Query<'_> {
        let (row, kv) = (number / self.kv_heads, number % self.kv_heads);
        let heads = number * self.group..(number + 1) * self.group;
        let slopes = &self.engine.weights.tables.alibi;
        Query {
            codes: &self.q.codes[heads.start * self.layer.dim..heads.end * self.layer.dim],
            exponents: &self.q.exponents[heads],
            slopes: slopes.get(kv * self.group..(kv + 1) * self.group).unwrap_or(&[]),
            kv: &self.caches[row].layer(self.index)[kv],
            visible: self.visible[row].clone(),
            position: self.positions[row],
        }
    }

    /// One step of a unit.
    fn step(&self, op: Op, number: usize, unit: &mut Unit, y: &mut [i32]) -> Result<(), RangeError> {
        let (kernel, layer, query) = (self.engine.compute.kernel, &self.layer, self.query(number));
        match op {
            Op::Scores => {
                unit.score(kernel, layer, &query)?;
                unit.measure(kernel, &query);
            }
            Op::Softmax => unit.sum(kernel, layer, &query),
            Op::AttnPartial => unit.weigh(kernel, layer, &query),
            _ => unit.finish(kernel, layer, &query, y)?,
        }
        Ok(())
    }
}

impl Engine {
    /// Attention of every row over its sequence's cache (which holds the rows already); `out` is
    /// `(rows, n_heads * head_dim)` in F_v + 8 fractional bits.
    pub(super) fn attend<O: Observer>(
        &self,
        index: usize,
        q: &Heads<i16>,
        caches: &[&mut KvCache],
        work: &mut Vec<Unit>,
        out: &mut Vec<i32>,
        batch: &mut Batch<'_, O>,
    ) -> Result<(), ForwardError> {
        let (config, tables) = (&self.weights.config, &self.weights.tables);
        let dim = config.head_dim as usize;
        let kv_heads = config.n_kv_heads as usize;
        let group = config.n_heads as usize / kv_heads;
        let mut units = Units {
            engine: self,
            layer: Layer {
                dim,
                score_frac: self.score_frac(&self.weights.layers[index]),
                exp2: &tables.exp2,
                cap: config.score_cap.map(|shift| (tables.score_cap.as_slice(), shift)),
            },
            q,
            caches: Vec::new(),
            visible: Vec::new(),
            positions: (0..batch.rows()).map(|row| batch.position(row)).collect(),
            index,
            group,
            kv_heads,
        };
        for (cache, rows) in caches.iter().zip(batch.sequences()) {
            for row in rows {
                let position = batch.position(row);
                let first = config.first_visible(self.weights.first_layer + index, position);
                let all = cache.layer(index)[0].k_exponents.len();
                let end = if config.pooling.is_some() { all } else { position + 1 };
                units.visible.push(first..end);
                units.caches.push(cache);
            }
        }
        let out = sized(out, batch.rows() * config.q_dim() as usize);
        if STEPS.iter().any(|op| batch.wanted(*op)) {
            return self.attend_observed(&units, work, out, batch);
        }
        let mut failed = vec![None; batch.rows() * kv_heads];
        let longest = units.visible.iter().map(Range::len).max().unwrap_or(0);
        let grain = (GRAIN_PRODUCTS / (group * dim * longest).max(1)).max(1);
        let rows = (Rows::new(out, group * dim), Rows::new(&mut failed, 1));
        self.compute.pool.rows_with(grain, rows, Unit::default, |unit, number, (y, failed)| {
            failed[0] = unit.run(self.compute.kernel, &units.layer, &units.query(number), y).err();
        });
        first_failed(&failed, |number| batch.at(number / kv_heads, Op::Attn))
    }

    /// The same with everything in between kept and shown.
    fn attend_observed<O: Observer>(
        &self,
        units: &Units<'_>,
        work: &mut Vec<Unit>,
        out: &mut [i32],
        batch: &mut Batch<'_, O>,
    ) -> Result<(), ForwardError> {
        let (width, per_row) = (units.group * units.layer.dim, units.kv_heads);
        let alters = batch.alters();
        for first in (0..batch.rows()).step_by(TOKENS_AT_ONCE) {
            let tokens = first..batch.rows().min(first + TOKENS_AT_ONCE);
            let out = &mut out[first * per_row * width..tokens.end * per_row * width];
            let count = tokens.len() * per_row;
            work.resize_with(count.max(work.len()), Unit::default);
            let work = &mut work[..count];
            for op in STEPS {
                let steps: &[Op] = if alters { &[op] } else { &STEPS };
                if alters || op == STEPS[0] {
                    let mut failed = vec![None; work.len()];
                    let rows = (Rows::new(work, 1), Rows::new(out, width), Rows::new(&mut failed, 1));
                    self.compute.pool.rows(1, rows, |at, (unit, y, failed)| {
                        let mut steps = steps.iter();
                        let run = |op: &Op| units.step(*op, first * per_row + at, &mut unit[0], y).err();
                        failed[0] = steps.find_map(run);
                    });
                    first_failed(&failed, |at| batch.at(first + at / per_row, Op::Attn))?;
                }
                if batch.wanted(op) {
                    show(op, units, tokens.clone(), work, out, batch);
                }
            }
        }
        Ok(())
    }
}

/// Shows what step `op` gave for `tokens`: the units of a token side by side.
fn show<O: Observer>(
    op: Op,
    units: &Units<'_>,
    tokens: Range<usize>,
    work: &mut [Unit],
    out: &mut [i32],
    batch: &mut Batch<'_, O>,
) {
    let (per_row, width) = (units.kv_heads, units.group * units.layer.dim);
    let rows = tokens.clone().zip(work.chunks_mut(per_row));
    match op {
        Op::Scores => {
            let d = rows.map(|(token, row)| (token, 0, Values::U16Parts(parts(row, |unit| &mut unit.d))));
            batch.observe(op, d);
        }
        Op::Softmax => {
            let stats =
                rows.map(|(token, row)| (token, 0, Values::I32Parts(parts(row, |unit| &mut unit.stats))));
            batch.observe(op, stats);
        }
        Op::AttnPartial => {
            let blocks = rows.flat_map(|(token, row)| {
                let mut blocks: Vec<_> = row.iter_mut().map(|unit| unit.partial.chunks_mut(width)).collect();
                (0..).map_while(move |block| {
                    let parts: Vec<_> = blocks.iter_mut().filter_map(Iterator::next).collect();
                    (!parts.is_empty()).then_some((token, block, Values::I32Parts(parts)))
                })
            });
            batch.observe(op, blocks);
        }
        _ => {
            let shown = out.chunks_mut(per_row * width);
            batch.observe(op, tokens.zip(shown).map(|(token, x)| (token, 0, Values::I32(x))));
        }
    }
}

/// What `part` names of each unit.
fn parts<T>(row: &mut [Unit], part: impl Fn(&mut Unit) -> &mut Vec<T>) -> Vec<&mut [T]> {
    row.iter_mut().map(|unit| part(unit).as_mut_slice()).collect()
}
