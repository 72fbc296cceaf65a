//! The attention block of one layer (section 6): norm, projections, RoPE and codes, the cache,
//! attention itself, output projection.

use super::{Engine, ForwardError};
use crate::arith::LIMIT;
use crate::attention;
use crate::kv::KvCache;
use crate::observe::{Observer, Values};
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::config::Positions;
use lockstep_base::op::{Op, Place};
use lockstep_base::weights::LayerWeights;

impl Engine {
    /// Section 6, from norm to output projection.
    pub(super) fn attention<O: Observer>(
        &self,
        weights: &LayerWeights,
        index: usize,
        x: &[i32],
        cache: &mut KvCache,
        at: &impl Fn(usize, Op) -> Place,
        observer: &mut O,
    ) -> Result<Vec<i32>, ForwardError> {
        let config = &self.weights.config;
        let (dim, q_dim, kv_dim) =
            (config.head_dim as usize, config.q_dim() as usize, config.kv_dim() as usize);
        let start = cache.len();
        let coded = self.norm(x, at, Op::AttnNorm, observer);
        let tokens = coded.steps.len();
        let mut q = self.linear(&weights.q, &coded, at, Op::QProj, i32::from(i16::MAX), observer)?;
        let mut k = self.linear(&weights.k, &coded, at, Op::KProj, i32::from(i16::MAX), observer)?;
        let mut v = self.linear(&weights.v, &coded, at, Op::VProj, i32::from(i16::MAX), observer)?;

        let bound = config.qk_code_max();
        let mut q_codes = vec![0i16; tokens * q_dim];
        let mut q_exponents = vec![0u8; tokens * config.n_heads as usize];
        let mut k_row = vec![0i16; kv_dim];
        let mut v_row = vec![0i8; kv_dim];
        let mut exponents = vec![0u8; config.n_kv_heads as usize];
        for row in 0..tokens {
            let q = &mut q[row * q_dim..(row + 1) * q_dim];
            let k = &mut k[row * kv_dim..(row + 1) * kv_dim];
            let v = &mut v[row * kv_dim..(row + 1) * kv_dim];
            if config.positions == Positions::Rope {
                let table = &self.weights.tables.rope[0][(start + row) * dim..(start + row + 1) * dim];
                q.chunks_mut(dim).chain(k.chunks_mut(dim)).for_each(|head| attention::rope(head, table));
            }
            k.iter_mut().zip(&weights.k_center).for_each(|(k, c)| *k = k.wrapping_sub(*c));

            let codes = &mut q_codes[row * q_dim..(row + 1) * q_dim];
            let heads = config.n_heads as usize;
            let q_exponents = &mut q_exponents[row * heads..(row + 1) * heads];
            for ((x, codes), e) in q.chunks(dim).zip(codes.chunks_mut(dim)).zip(q_exponents.iter_mut()) {
                *e = attention::head_codes16(x, bound, codes);
            }
            observer.output(at(row, Op::QCodes), 0, Values::Codes16Heads(codes, q_exponents));

            for ((x, codes), e) in k.chunks(dim).zip(k_row.chunks_mut(dim)).zip(&mut exponents) {
                *e = attention::head_codes16(x, bound, codes);
            }
            observer.output(at(row, Op::KCodes), 0, Values::Codes16Heads(&mut k_row, &exponents));
            for ((head, codes), e) in cache.layer_mut(index).iter_mut().zip(k_row.chunks(dim)).zip(&exponents)
            {
                head.k.extend_from_slice(codes);
                head.k_exponents.push(*e);
            }

            for ((x, codes), e) in v.chunks(dim).zip(v_row.chunks_mut(dim)).zip(&mut exponents) {
                *e = attention::head_codes8(x, codes);
            }
            observer.output(at(row, Op::VCodes), 0, Values::Codes8Heads(&mut v_row, &exponents));
            for ((head, codes), e) in cache.layer_mut(index).iter_mut().zip(v_row.chunks(dim)).zip(&exponents)
            {
                head.v.extend_from_slice(codes);
                head.v_exponents.push(*e);
            }
        }

        let rows = attention::Rows {
            q: &q_codes,
            q_exponents: &q_exponents,
            start,
            score_frac: i32::from(weights.q.out_frac) + i32::from(weights.k.out_frac),
            layer: at(0, Op::Scores).layer,
        };
        let mut out = vec![0; tokens * q_dim];
        attention::attend(
            &self.compute,
            config,
            &self.weights.tables.exp2,
            &rows,
            cache.layer(index),
            &mut out,
            observer,
        )
        .map_err(|error| ForwardError::Range { place: at(0, Op::Attn), error })?;
        let frac = i32::from(weights.v.out_frac) + attention::OUTPUT_EXTRA_FRAC;
        let coded = self.quantise(&out, q_dim, frac, weights.o.cols, at, Op::AttnCodes, observer);
        self.linear(&weights.o, &coded, at, Op::OProj, LIMIT, observer)
    }
}
