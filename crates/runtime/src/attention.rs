//! Attention in integers (docs/spec/arithmetic.md, section 6): RoPE, codes of q, k and v, scores
//! in octaves, base-2 softmax in two passes, sums in blocks of 256 positions, one normalisation per row.
//!
//! The unit of work is one token and the query heads that share one kv head ([`Unit`]): keys and
//! values are read once for all of them, block by block. Its five steps run one after another, or
//! with a fault drill between them. What a drill leaves may lie outside every bound: where a bound
//! is not checked anyway, the arithmetic wraps or saturates, so that a drill gives wrong bits or a
//! range error and never a panic.

mod rows;

pub use rows::{head_codes8, head_codes16, rope};

use crate::arith::{
    LIMIT, RangeError, SCORE_LIMIT, SHIFT_MAX, bit_length, rsh, scale, soft_cap, value_exponent, within,
};
use crate::kernels::{self, Kernel};
use crate::kv::HeadKv;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::limits::ATTENTION_BLOCK_POSITIONS;
use lockstep_base::weights::Slope;
use rows::EXP2_ENTRIES;

/// Extra fractional bits of the attention output over those of v.
pub const OUTPUT_EXTRA_FRAC: i32 = 8;
/// Values of [`Unit::stats`] for one head: m, Z, E.
pub const STATS: usize = 3;

/// What the heads of a layer have in common.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Width of a head.
    pub dim: usize,
    /// F_q + F_k.
    pub score_frac: i32,
    /// The table of 2^-x.
    pub exp2: &'a [u16],
    /// Table and shift of the soft cap of scores.
    pub cap: Option<(&'a [i32], u8)>,
}

/// The query heads of one token that share a kv head, and what they see.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    /// `(heads, dim)` codes.
    pub codes: &'a [i16],
    /// One exponent a head.
    pub exponents: &'a [u8],
    /// Slopes of these heads; empty but for ALiBi.
    pub slopes: &'a [Slope],
    /// Keys and values.
    pub kv: &'a HeadKv,
    /// Visible positions.
    pub visible: Range<usize>,
    /// The position of the token.
    pub position: usize,
}

/// The attention of one [`Query`], step by step. A unit can be used again for another.
#[derive(Debug, Clone, Default)]
pub struct Unit {
    /// `(heads, n)`: scores t (step 4), then weights p (step 5), then p' (step 6).
    pub t: Vec<i32>,
    /// `(heads, n)`: d of step 5.
    pub d: Vec<u16>,
    /// `(heads, 3)`: m, Z, E.
    pub stats: Vec<i32>,
    /// `(blocks, heads, dim)`: o_b of step 6, from the first block that has visible positions.
    pub partial: Vec<i32>,
    /// o of step 6, of one head.
    o: Vec<i32>,
}

/// The absolute blocks of 256 positions that have visible ones, as ranges of visible positions.
fn blocks(visible: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let Range { start, end } = visible.clone();
    let size = ATTENTION_BLOCK_POSITIONS;
    (start / size..end.div_ceil(size)).map(move |block| start.max(block * size)..end.min((block + 1) * size))
}

/// w of step 5: sums of blocks lose bits as the row grows, so that they stay in bounds.
const fn width_shift(n: usize) -> u32 {
    bit_length(n as u32).saturating_sub(8)
}

impl Unit {
    /// All steps; `y` is `(heads, dim)`.
    ///
    /// # Errors
    /// The first [`RangeError`].
    pub fn run(
        &mut self,
        kernel: Kernel,
        layer: &Layer<'_>,
        query: &Query<'_>,
        y: &mut [i32],
    ) -> Result<(), RangeError> {
        self.score(kernel, layer, query)?;
        self.measure(kernel, query);
        self.sum(kernel, layer, query);
        self.weigh(kernel, layer, query);
        self.finish(kernel, layer, query, y)
    }

    /// Step 4: scores in Q8 octaves.
    ///
    /// # Errors
    /// [`RangeError`] at a score of 2^27 or more, or where it would have to be shifted to the left.
    pub fn score(&mut self, kernel: Kernel, layer: &Layer<'_>, query: &Query<'_>) -> Result<(), RangeError> {
        let (n, dim, first) = (query.visible.len(), layer.dim, query.visible.start);
        self.t.resize(query.exponents.len() * n, 0);
        for block in blocks(&query.visible) {
            let keys = &query.kv.k[block.start * dim..block.end * dim];
            for (q, t) in query.codes.chunks(dim).zip(self.t.chunks_mut(n)) {
                kernels::scores(kernel, q, keys, &mut t[block.start - first..block.end - first]);
            }
        }
        let exponents = &query.kv.k_exponents[query.visible.clone()];
        for (head, t) in self.t.chunks_mut(n).enumerate() {
            octaves(kernel, t, layer.score_frac - 8 - i32::from(query.exponents[head]), exponents)?;
            if let Some((table, shift)) = layer.cap {
                t.iter_mut().for_each(|t| *t = soft_cap(*t, table, shift));
            }
            if let Some(slope) = query.slopes.get(head) {
                for (t, j) in t.iter_mut().zip(first..) {
                    let distance = query.position.saturating_sub(j) as i32;
                    *t = t.wrapping_sub(rsh(distance.wrapping_mul(slope.a.into()), slope.b.into()));
                }
            }
        }
        Ok(())
    }

    /// Step 5: m and d.
    pub fn measure(&mut self, kernel: Kernel, query: &Query<'_>) {
        let n = query.visible.len();
        let heads = self.t.len() / n;
        self.d.resize(heads * n, 0);
        self.stats.resize(heads * STATS, 0);
        for ((t, d), stats) in self.t.chunks(n).zip(self.d.chunks_mut(n)).zip(self.stats.chunks_mut(STATS)) {
            stats[0] = rows::distances(kernel, t, d);
        }
    }

    /// Steps 5 and 6: weights p, their sum Z, the largest exponent E of a value's step.
    ///
    /// # Panics
    /// If the table of 2^-x has not 4,096 entries.
    pub fn sum(&mut self, kernel: Kernel, layer: &Layer<'_>, query: &Query<'_>) {
        let (n, first) = (query.visible.len(), query.visible.start);
        let exp2: &[u16; EXP2_ENTRIES] = layer.exp2.try_into().expect("4,096 entries");
        let steps = &query.kv.v_steps[query.visible.clone()];
        let largest = value_exponent(steps.iter().fold(0, |largest, step| largest.max(*step)));
        let w = width_shift(n);
        for ((p, d), stats) in self.t.chunks_mut(n).zip(self.d.chunks(n)).zip(self.stats.chunks_mut(STATS)) {
            let of_block = |block: Range<usize>| {
                let here = block.start - first..block.end - first;
                rsh(rows::powers(kernel, &d[here.clone()], exp2, &mut p[here]) as i32, w)
            };
            stats[1] = blocks(&query.visible).map(of_block).sum();
            stats[2] = largest;
        }
    }

    /// Step 6: weights p' and the sums o_b.
    pub fn weigh(&mut self, kernel: Kernel, layer: &Layer<'_>, query: &Query<'_>) {
        let n = query.visible.len();
        let steps = &query.kv.v_steps[query.visible.clone()];
        for (p, stats) in self.t.chunks_mut(n).zip(self.stats.chunks(STATS)) {
            rows::fold_steps(kernel, p, stats[2], steps);
        }
        self.accumulate(kernel, layer, query);
    }

    /// The rest of step 6: the sums o_b of weights p'.
    pub fn accumulate(&mut self, kernel: Kernel, layer: &Layer<'_>, query: &Query<'_>) {
        let (n, dim, first) = (query.visible.len(), layer.dim, query.visible.start);
        let heads = self.t.len() / n;
        self.partial.resize(blocks(&query.visible).count() * heads * dim, 0);
        for (block, partial) in blocks(&query.visible).zip(self.partial.chunks_mut(heads * dim)) {
            let values = &query.kv.v[block.start * dim..block.end * dim];
            for (p, o) in self.t.chunks(n).zip(partial.chunks_mut(dim)) {
                kernels::weighted_values(kernel, &p[block.start - first..block.end - first], values, o);
            }
        }
    }

    /// The end of step 6: o of one head.
    #[must_use]
    pub fn total(&mut self, dim: usize, query: &Query<'_>, head: usize) -> &[i32] {
        let w = width_shift(query.visible.len());
        let heads = self.stats.len() / STATS;
        self.o.clear();
        self.o.resize(dim, 0);
        for partial in self.partial.chunks(heads * dim) {
            let partial = &partial[head * dim..(head + 1) * dim];
            self.o.iter_mut().zip(partial).for_each(|(o, p)| *o = o.wrapping_add(rsh(*p, w)));
        }
        &self.o
    }

    /// Step 7: one normalisation per row, into `y` `(heads, dim)`.
    ///
    /// # Errors
    /// [`RangeError`] if an output exceeds [`LIMIT`], or Z the bound of step 6.
    pub fn finish(
        &mut self,
        kernel: Kernel,
        layer: &Layer<'_>,
        query: &Query<'_>,
        y: &mut [i32],
    ) -> Result<(), RangeError> {
        for (head, y) in y.chunks_mut(layer.dim).enumerate() {
            let (z, exponent) = (self.stats[head * STATS + 1], self.stats[head * STATS + 2]);
            normalise(kernel, self.total(layer.dim, query, head), z, exponent, y)?;
        }
        Ok(())
    }
}

/// The end of step 4: `t_j = scale(t_j, base - e_j)`, where `base` is F_q + F_k - 8 - e_q.
///
/// # Errors
/// [`RangeError`] at a score of 2^27 or more, or where it would have to be shifted to the left.
pub fn octaves(kernel: Kernel, t: &mut [i32], base: i32, exponents: &[u8]) -> Result<(), RangeError> {
    let (least, most) = exponents.iter().fold((u8::MAX, 0), |(least, most), e| (least.min(*e), most.max(*e)));
    // The common case has only shifts to the right, and none that is too far.
    let plain = base >= i32::from(most)
        && base - i32::from(least) <= SHIFT_MAX
        && kernels::extent(kernel, t).magnitude() < 1 << 30;
    let top = if plain {
        rows::shift(kernel, t, base, exponents)
    } else {
        for (t, e) in t.iter_mut().zip(exponents) {
            let shift = base - i32::from(*e);
            within((-i64::from(shift)).max(0), 0, "left shift of a score")?;
            *t = scale(*t, shift, "attention score")?;
        }
        t.iter().fold(0, |top, t| top.max(t.unsigned_abs()))
    };
    within(top.into(), i64::from(SCORE_LIMIT) - 1, "attention score")
}

/// Step 7 for one head.
///
/// # Errors
/// [`RangeError`] if an output exceeds [`LIMIT`], or Z the bound of step 6.
pub fn normalise(kernel: Kernel, o: &[i32], z: i32, exponent: i32, y: &mut [i32]) -> Result<(), RangeError> {
    if !(1..=LIMIT / 127).contains(&z) {
        return Err(RangeError { what: "softmax sum", got: z.into(), limit: (LIMIT / 127).into() });
    }
    let sh = bit_length(127 * z as u32).saturating_sub(15);
    let kz = bit_length(z as u32) + 13;
    let rz = ((1u64 << kz) / z as u64) as i32;
    // The mantissas of the steps were sixteenths, and weights were halved to stay below 2^15.
    let shift = (kz as i32 - sh as i32 - OUTPUT_EXTRA_FRAC - 1).saturating_sub(exponent);
    if (0..=SHIFT_MAX).contains(&shift) {
        rows::scaled(kernel, o, sh, rz, shift as u32, y);
        return Ok(());
    }
    for (y, o) in y.iter_mut().zip(o) {
        *y = scale(rsh(*o, sh).wrapping_mul(rz), shift, "attention output")?;
    }
    Ok(())
}
