//! Attention in integers (docs/spec/arithmetic.md, section 6): RoPE, codes of q, k and v, scores
//! in octaves, base-2 softmax in two passes, one normalisation per row.
//!
//! Tokens are taken in small batches and op by op, so that an observer sees (and may change)
//! each output before the next op reads it. What an observer leaves may lie outside every bound:
//! where a bound is not checked anyway, the arithmetic wraps or saturates, so that a fault drill
//! gives wrong bits or a range error and never a panic.

use crate::arith::{
    LIMIT, RESIDUAL_LIMIT, RangeError, bit_length, max_abs, rsh, scale, smallest_shift, within,
};
use crate::kernels::{Compute, Kernel};
use crate::kv::HeadKv;
use crate::observe::{Observer, Values};
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::config::ModelConfig;
use lockstep_base::limits::ATTENTION_BLOCK_POSITIONS;
use lockstep_base::op::{Op, Place};

/// Tokens whose scores are held at the same time.
const TOKENS_MAX: usize = 8;
/// Extra fractional bits of the attention output over those of v.
pub const OUTPUT_EXTRA_FRAC: i32 = 8;

/// Rotates adjacent pairs of one head (step 1); `table` holds (cos, sin) in Q14.
pub fn rope(head: &mut [i32], table: &[i16]) {
    for (pair, cs) in head.chunks_exact_mut(2).zip(table.chunks_exact(2)) {
        let (a, b) = (pair[0], pair[1]);
        let (c, s) = (i32::from(cs[0]), i32::from(cs[1]));
        pair[0] = rsh(a.wrapping_mul(c).wrapping_sub(b.wrapping_mul(s)), 14);
        pair[1] = rsh(a.wrapping_mul(s).wrapping_add(b.wrapping_mul(c)), 14);
    }
}

/// Codes of one head as i16 and their exponent (step 3).
pub fn head_codes16(x: &[i32], bound: i32, codes: &mut [i16]) -> u8 {
    let e = smallest_shift(max_abs(x), bound);
    for (code, value) in codes.iter_mut().zip(x) {
        *code = rsh(*value, e) as i16;
    }
    e as u8
}

/// Codes of one head as int8 and their exponent (step 3, values).
pub fn head_codes8(x: &[i32], codes: &mut [i8]) -> u8 {
    let e = smallest_shift(max_abs(x), 127);
    for (code, value) in codes.iter_mut().zip(x) {
        *code = rsh(*value, e) as i8;
    }
    e as u8
}

/// Step 4: scores of one head against the first `t.len()` positions, in Q8 octaves. `frac` is
/// F_q + F_k.
///
/// # Errors
/// [`RangeError`] at the first score above 2^29.
pub fn scores(
    kernel: Kernel,
    q: &[i16],
    q_exponent: u8,
    kv: &HeadKv,
    frac: i32,
    t: &mut [i32],
) -> Result<(), RangeError> {
    crate::kernels::scores(kernel, q, &kv.k[..t.len() * q.len()], t);
    for (t, e) in t.iter_mut().zip(&kv.k_exponents) {
        let shift = frac - 8 - i32::from(q_exponent) - i32::from(*e);
        *t = scale(*t, shift, "attention score")?;
        within(i64::from(*t).abs(), RESIDUAL_LIMIT.into(), "attention score")?;
    }
    Ok(())
}

/// Steps 5 and 6, first pass: (m, Z, E), which are row maximum, sum of weights, largest value exponent.
#[must_use]
pub fn softmax(t: &[i32], v_exponents: &[u8], exp2: &[u16]) -> [i32; 3] {
    let m = t.iter().copied().max().unwrap_or(0);
    let z = t.iter().map(|t| weight(m, *t, width_shift(v_exponents.len()), exp2)).sum();
    let e = v_exponents.iter().copied().max().unwrap_or(0);
    [m, z, i32::from(e)]
}

/// w of step 5: weights lose bits as the row grows, so that the sum with v stays in bounds.
const fn width_shift(n: usize) -> u32 {
    bit_length(n as u32).saturating_sub(8)
}

#[inline(always)]
fn weight(m: i32, t: i32, w: u32, exp2: &[u16]) -> i32 {
    let d = m.wrapping_sub(t).clamp(0, 4095);
    rsh(i32::from(exp2[d as usize]), w)
}

/// Step 6, second pass: the weights p', with the value exponents folded in.
pub fn weights(t: &[i32], stats: [i32; 3], v_exponents: &[u8], exp2: &[u16], p: &mut [i32]) {
    let w = width_shift(t.len());
    for ((p, t), e) in p.iter_mut().zip(t).zip(v_exponents) {
        let shift = stats[2].saturating_sub(i32::from(*e)).clamp(0, 28);
        *p = rsh(weight(stats[0], *t, w, exp2), shift as u32);
    }
}

/// Step 7: one normalisation per row.
///
/// # Errors
/// [`RangeError`] if an output exceeds [`LIMIT`], or Z the bound of step 6.
pub fn normalise(o: &[i32], stats: [i32; 3], y: &mut [i32]) -> Result<(), RangeError> {
    let z = stats[1];
    if !(1..=LIMIT / 127).contains(&z) {
        return Err(RangeError { what: "softmax sum", got: z.into(), limit: (LIMIT / 127).into() });
    }
    let sh = bit_length(127 * z as u32).saturating_sub(15);
    let kz = bit_length(z as u32) + 13;
    let rz = ((1u64 << kz) / z as u64) as i32;
    let shift = (kz as i32 - sh as i32 - OUTPUT_EXTRA_FRAC).saturating_sub(stats[2]);
    for (y, o) in y.iter_mut().zip(o) {
        let o16 = rsh(*o, sh);
        *y = scale(o16.wrapping_mul(rz), shift, "attention output")?;
    }
    Ok(())
}

/// What attention reads besides the cache.
#[derive(Debug)]
pub struct Rows<'a> {
    /// `(tokens, n_heads * head_dim)` query codes.
    pub q: &'a [i16],
    /// `(tokens, n_heads)` exponents.
    pub q_exponents: &'a [u8],
    /// Position of the first token.
    pub start: usize,
    /// F_q + F_k.
    pub score_frac: i32,
    /// Layer number, for the trace.
    pub layer: u16,
}

/// Attention of every token of `rows` over the cache `kv` (which holds them already); `out` is
/// `(tokens, n_heads * head_dim)` in F_v + 8 fractional bits.
///
/// # Errors
/// The first [`RangeError`] in (token, head) order.
pub fn attend<O: Observer>(
    compute: &Compute,
    config: &ModelConfig,
    exp2: &[u16],
    rows: &Rows<'_>,
    kv: &[HeadKv],
    out: &mut [i32],
    observer: &mut O,
) -> Result<(), RangeError> {
    let q_dim = config.q_dim() as usize;
    let tokens = rows.q.len() / q_dim;
    for first in (0..tokens).step_by(TOKENS_MAX) {
        let last = tokens.min(first + TOKENS_MAX);
        batch(compute, config, exp2, rows, kv, first..last, &mut out[first * q_dim..last * q_dim], observer)?;
    }
    Ok(())
}

/// One head of one token on its way through the steps.
struct Row {
    token: usize,
    head: usize,
    t: Vec<i32>,
    stats: [i32; 3],
    /// `(blocks, head_dim)` partial sums.
    partial: Vec<i32>,
    failed: Option<RangeError>,
}

#[allow(clippy::too_many_arguments)]
fn batch<O: Observer>(
    compute: &Compute,
    config: &ModelConfig,
    exp2: &[u16],
    rows: &Rows<'_>,
    kv: &[HeadKv],
    tokens: core::ops::Range<usize>,
    out: &mut [i32],
    observer: &mut O,
) -> Result<(), RangeError> {
    let (n_heads, dim) = (config.n_heads as usize, config.head_dim as usize);
    let per_kv = n_heads / config.n_kv_heads as usize;
    let visible = |token: usize| rows.start + token + 1;
    let mut work: Vec<Row> = tokens
        .clone()
        .flat_map(|token| (0..n_heads).map(move |head| (token, head)))
        .map(|(token, head)| Row {
            token,
            head,
            t: vec![0; visible(token)],
            stats: [0; 3],
            partial: vec![0; visible(token).div_ceil(ATTENTION_BLOCK_POSITIONS) * dim],
            failed: None,
        })
        .collect();
    let place = |token: usize, op| Place { position: (rows.start + token) as u32, layer: rows.layer, op };

    compute.pool.for_each(&mut work, |row| {
        let at = row.token * n_heads + row.head;
        let q = &rows.q[at * dim..(at + 1) * dim];
        let kv = &kv[row.head / per_kv];
        row.failed = scores(compute.kernel, q, rows.q_exponents[at], kv, rows.score_frac, &mut row.t).err();
    });
    if let Some(error) = work.iter().find_map(|row| row.failed) {
        return Err(error);
    }
    for heads in work.chunks_mut(n_heads) {
        let mut joined = heads.iter().flat_map(|row| row.t.iter().copied()).collect::<Vec<_>>();
        observer.output(place(heads[0].token, Op::Scores), 0, Values::I32(&mut joined));
        let n = heads[0].t.len();
        heads.iter_mut().zip(joined.chunks(n)).for_each(|(row, t)| row.t.copy_from_slice(t));
    }

    compute.pool.for_each(&mut work, |row| {
        let kv = &kv[row.head / per_kv];
        row.stats = softmax(&row.t, &kv.v_exponents[..row.t.len()], exp2);
    });
    for heads in work.chunks_mut(n_heads) {
        let mut joined = heads.iter().flat_map(|row| row.stats).collect::<Vec<_>>();
        observer.output(place(heads[0].token, Op::Softmax), 0, Values::I32(&mut joined));
        heads.iter_mut().zip(joined.chunks(3)).for_each(|(row, s)| row.stats.copy_from_slice(s));
    }

    compute.pool.for_each(&mut work, |row| {
        let kv = &kv[row.head / per_kv];
        let n = row.t.len();
        let mut p = vec![0; n];
        weights(&row.t, row.stats, &kv.v_exponents[..n], exp2, &mut p);
        for (block, partial) in row.partial.chunks_mut(dim).enumerate() {
            let from = block * ATTENTION_BLOCK_POSITIONS;
            let to = n.min(from + ATTENTION_BLOCK_POSITIONS);
            crate::kernels::weighted_values(
                compute.kernel,
                &p[from..to],
                &kv.v[from * dim..to * dim],
                partial,
            );
        }
    });
    for heads in work.chunks_mut(n_heads) {
        for block in 0..heads[0].partial.len() / dim {
            let range = block * dim..(block + 1) * dim;
            let mut joined =
                heads.iter().flat_map(|row| row.partial[range.clone()].iter().copied()).collect::<Vec<_>>();
            observer.output(place(heads[0].token, Op::AttnPartial), block as u32, Values::I32(&mut joined));
            for (row, part) in heads.iter_mut().zip(joined.chunks(dim)) {
                row.partial[range.clone()].copy_from_slice(part);
            }
        }
    }

    for (heads, out) in work.chunks_mut(n_heads).zip(out.chunks_mut(n_heads * dim)) {
        for (row, y) in heads.iter().zip(out.chunks_mut(dim)) {
            let mut o = vec![0i32; dim];
            for partial in row.partial.chunks(dim) {
                o.iter_mut().zip(partial).for_each(|(o, p)| *o = o.wrapping_add(*p));
            }
            normalise(&o, row.stats, y)?;
        }
        observer.output(place(heads[0].token, Op::Attn), 0, Values::I32(out));
    }
    Ok(())
}
