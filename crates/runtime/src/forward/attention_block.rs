//! The attention block of one layer (section 6): projections, RoPE and codes, the cache, attention
//! itself, output projection.

use super::batch::Batch;
use super::buffers::{Buffers, Heads};
use super::steps::{grain, values};
use super::{Engine, ForwardError};
use crate::arith::{LIMIT, RHO_ONE};
use crate::attention;
use crate::kernels::Kernel;
use crate::kv::KvCache;
use crate::observe::{Observer, Values};
use crate::pool::Rows;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::config::Positions;
use lockstep_base::op::{Op, Place};
use lockstep_base::weights::{Gain, LayerWeights, Linear};

/// Bound of q, k and v.
const PROJECTION_BOUND: i32 = i16::MAX as i32;

impl Engine {
    /// Section 6, from norm to output projection; `buffers.y` is what the block gives. `index` is
    /// the layer among those that are held.
    pub(super) fn attention<O: Observer>(
        &self,
        index: usize,
        x: &[i32],
        caches: &mut [&mut KvCache],
        buffers: &mut Buffers,
        batch: &mut Batch<'_, O>,
    ) -> Result<(), ForwardError> {
        let (config, weights) = (&self.weights.config, &self.weights.layers[index]);
        let Buffers { site, q, k, v, q_codes, k_codes, v_codes, units, .. } = buffers;
        let Buffers { attended, attended_codes, y, normed, .. } = buffers;
        self.site(x, site, Op::AttnNorm, batch);
        let ready = site.prepare(&self.compute);
        self.linear(&weights.q, &ready, Op::QProj, PROJECTION_BOUND, q, batch)?;
        self.linear(&weights.k, &ready, Op::KProj, PROJECTION_BOUND, k, batch)?;
        self.linear(&weights.v, &ready, Op::VProj, PROJECTION_BOUND, v, batch)?;
        let (q_dim, kv_dim) = (config.q_dim() as usize, config.kv_dim() as usize);
        self.head_norm(weights.q_norm.as_ref(), q, normed, q_dim, &|row| batch.at(row, Op::QCodes))?;
        self.head_norm(weights.k_norm.as_ref(), k, normed, kv_dim, &|row| batch.at(row, Op::KCodes))?;

        let positions: Vec<usize> = (0..batch.rows()).map(|row| batch.position(row)).collect();
        self.rotated_codes(index, q, &[], &positions, q_codes);
        self.rotated_codes(index, k, &weights.k_center, &positions, k_codes);
        self.value_codes(v, v_codes);
        let heads = config.n_heads as usize;
        let rows = q_codes.codes.chunks_mut(q_dim).zip(q_codes.exponents.chunks(heads));
        batch.observe_rows(Op::QCodes, rows.map(|(codes, e)| Values::Codes16Heads(codes, e)));
        let heads = config.n_kv_heads as usize;
        let rows = k_codes.codes.chunks_mut(kv_dim).zip(k_codes.exponents.chunks(heads));
        batch.observe_rows(Op::KCodes, rows.map(|(codes, e)| Values::Codes16Heads(codes, e)));
        let rows = v_codes.codes.chunks_mut(kv_dim).zip(v_codes.exponents.chunks(heads));
        batch.observe_rows(Op::VCodes, rows.map(|(codes, e)| Values::Codes8Heads(codes, e)));
        for (cache, rows) in caches.iter_mut().zip(batch.sequences()) {
            self.remember(index, cache, rows, k_codes, v_codes);
        }

        self.attend(index, q_codes, caches, units, attended, batch)?;
        let frac = i32::from(weights.v.out_frac) + attention::OUTPUT_EXTRA_FRAC;
        let plain = move |_| (RHO_ONE, -14 - frac);
        self.quantise(attended, q_dim, weights.o.cols, plain, attended_codes);
        batch.observe_rows(Op::AttnCodes, attended_codes.rows());
        let ready = attended_codes.prepare(&self.compute);
        let y = self.product(&weights.o, &ready, Op::OProj, LIMIT, y, &|row| batch.at(row, Op::OProj))?;
        self.adapt(Op::OProj, attended_codes, y, LIMIT, batch)?;
        batch.observe_rows(Op::OProj, y.chunks_mut(self.width()).map(|y| values(Op::OProj, y)));
        Ok(())
    }

    /// The norm of each query or key head, in place, where the model has one; the range of
    /// projections holds for it too.
    fn head_norm(
        &self,
        gain: Option<&Gain>,
        x: &mut Vec<i32>,
        scratch: &mut Vec<i32>,
        width: usize,
        at: &dyn Fn(usize) -> Place,
    ) -> Result<(), ForwardError> {
        let Some(gain) = gain else { return Ok(()) };
        let per_row = width / self.weights.config.head_dim as usize;
        scratch.resize(x.len(), 0);
        self.gains(x, gain, (PROJECTION_BOUND, PROJECTION_BOUND), scratch, &|head| at(head / per_row))?;
        core::mem::swap(x, scratch);
        Ok(())
    }

    /// Steps 1 to 3 for queries (whose `center` is empty) or keys: RoPE, centring, codes.
    fn rotated_codes(
        &self,
        index: usize,
        x: &mut [i32],
        center: &[i32],
        positions: &[usize],
        out: &mut Heads<i16>,
    ) {
        let config = &self.weights.config;
        let (dim, kernel) = (config.head_dim as usize, self.compute.kernel);
        let heads = x.len() / dim;
        let per_row = heads / positions.len();
        let (table, rope_dim) = match config.positions {
            Positions::Rope => {
                let pattern = config.layer_pattern(self.weights.first_layer + index);
                let table = self.weights.tables.rope[usize::from(pattern.rope)].as_slice();
                (table, config.rope_dim as usize)
            }
            Positions::Learned | Positions::Alibi => (&[] as &[i16], 0),
        };
        let bound = config.qk_code_max();
        out.shape(heads, dim);
        let rows = (Rows::new(x, dim), Rows::new(&mut out.codes, dim), Rows::new(&mut out.exponents, 1));
        self.compute.pool.rows(grain(dim * 8), rows, |head, (x, codes, e)| {
            if rope_dim > 0 {
                let at = positions[head / per_row] * rope_dim;
                attention::rope(kernel, &mut x[..rope_dim], &table[at..at + rope_dim]);
            }
            if let Some(center) = center.chunks(dim).nth(head % per_row) {
                x.iter_mut().zip(center).for_each(|(x, c)| *x = x.wrapping_sub(*c));
            }
            e[0] = attention::head_codes16(kernel, x, bound, codes);
        });
    }

    /// Step 3 for values.
    fn value_codes(&self, x: &[i32], out: &mut Heads<i8>) {
        let (dim, kernel): (usize, Kernel) = (self.weights.config.head_dim as usize, self.compute.kernel);
        out.shape(x.len() / dim, dim);
        let rows = (Rows::new(&mut out.codes, dim), Rows::new(&mut out.exponents, 1));
        self.compute.pool.rows(grain(dim * 4), rows, |head, (codes, e)| {
            e[0] = attention::head_codes8(kernel, &x[head * dim..(head + 1) * dim], codes);
        });
    }

    /// Appends the codes of a sequence's rows to its cache.
    fn remember(&self, index: usize, cache: &mut KvCache, rows: Range<usize>, k: &Heads<i16>, v: &Heads<i8>) {
        let (dim, heads) = (self.weights.config.head_dim as usize, self.weights.config.n_kv_heads as usize);
        for (number, head) in cache.layer_mut(index).iter_mut().enumerate() {
            for at in rows.clone().map(|row| row * heads + number) {
                head.k.extend_from_slice(&k.codes[at * dim..(at + 1) * dim]);
                head.k_exponents.push(k.exponents[at]);
                head.v.extend_from_slice(&v.codes[at * dim..(at + 1) * dim]);
                head.v_steps.push(v.exponents[at]);
            }
        }
    }

    /// F_q + F_k: those of the norms of heads, where there are any.
    pub(super) fn score_frac(&self, weights: &LayerWeights) -> i32 {
        let frac = |gain: &Option<Gain>, linear: &Linear| {
            i32::from(gain.as_ref().map_or(linear.out_frac, |gain| gain.out_frac))
        };
        frac(&weights.q_norm, &weights.q) + frac(&weights.k_norm, &weights.k)
    }
}
