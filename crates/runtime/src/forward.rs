//! The forward pass of a part: embedding, a range of layers, head. One function a step, in the
//! order of docs/spec/arithmetic.md.
//!
//! Shapes: a batch is `(tokens, width)`, row after row. No value of one token depends on which
//! other tokens are in the batch (no scale is shared), so a batched prefill gives the bits of
//! token-by-token decoding.

use crate::arith::{
    RESIDUAL_LIMIT, RHO_ONE, RangeError, Step, choose_cut, inverse_rms, rsh, scale, smallest_shift,
};
use crate::attention;
use crate::ffn;
use crate::kernels::{self, Compute};
use crate::kv::KvCache;
use crate::observe::{Observer, Values};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::config::{FeedForward, Positions};
use lockstep_base::op::{LAYER_EMBED, LAYER_HEAD, Op, Place};
use lockstep_base::weights::{LayerWeights, Linear, ModelWeights};

/// Why a forward pass ended without a result.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardError {
    /// A value left its range.
    #[error("{place}: {error}")]
    Range {
        /// Where.
        place: Place,
        /// Which bound.
        error: RangeError,
    },
    /// A token outside the vocabulary.
    #[error("token {got} at position {position}, expected below {vocab}")]
    Token {
        /// The token.
        got: u32,
        /// Its position.
        position: u32,
        /// Size of the vocabulary.
        vocab: u32,
    },
    /// The sequence would be longer than the model's context.
    #[error("{got} positions, expected at most {context}")]
    Context {
        /// Positions asked for.
        got: usize,
        /// The model's context.
        context: usize,
    },
    /// Input rows do not fit the model's width.
    #[error("{got} residual values, expected a multiple of {width}")]
    Width {
        /// Values given.
        got: usize,
        /// Width of the residual stream.
        width: usize,
    },
    /// The part does not hold what is asked for.
    #[error("this part has no {0}")]
    Missing(&'static str),
}

/// The weights of a part and the means to compute with them.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Weights of the part.
    pub weights: Arc<ModelWeights>,
    /// Kernel and threads.
    pub compute: Arc<Compute>,
}

/// Codes of a batch with one step a token.
struct Coded {
    codes: Vec<i8>,
    steps: Vec<Step>,
}

impl Engine {
    /// An engine over `weights`.
    #[must_use]
    pub fn new(weights: Arc<ModelWeights>, compute: Arc<Compute>) -> Engine {
        Engine { weights, compute }
    }

    /// An empty cache for the layers of this part.
    #[must_use]
    pub fn new_cache(&self) -> KvCache {
        KvCache::new(&self.weights.config, self.weights.layers.len())
    }

    /// Width of the residual stream.
    #[must_use]
    pub fn width(&self) -> usize {
        self.weights.config.d_model as usize
    }

    /// Embeds `tokens` at positions from `start` (section 5); `(tokens, d_model)`.
    ///
    /// # Errors
    /// [`ForwardError`] on unknown tokens, positions beyond the context, or a part without embedding.
    pub fn embed<O: Observer>(
        &self,
        tokens: &[u32],
        start: usize,
        observer: &mut O,
    ) -> Result<Vec<i32>, ForwardError> {
        let config = &self.weights.config;
        self.check_context(start + tokens.len())?;
        let table = self.weights.embed.as_ref().ok_or(ForwardError::Missing("embedding"))?;
        let frac = i32::from(config.residual_frac);
        let mut x = vec![0; tokens.len() * self.width()];
        for (i, (row, &token)) in x.chunks_mut(self.width()).zip(tokens).enumerate() {
            let position = start + i;
            let place = Place { position: position as u32, layer: LAYER_EMBED, op: Op::Embed };
            if token >= config.vocab {
                return Err(ForwardError::Token {
                    got: token,
                    position: position as u32,
                    vocab: config.vocab,
                });
            }
            let embedded = |table: &lockstep_base::weights::Embedding, row: usize, col: usize| {
                scale(i32::from(table.code(row, col)), i32::from(table.frac) - frac, "embedding")
            };
            let mut fill = || -> Result<(), RangeError> {
                for (col, x) in row.iter_mut().enumerate() {
                    *x = embedded(table, token as usize, col)?;
                    if let Some(positions) = &self.weights.positions {
                        *x = residual_sum(*x, embedded(positions, position, col)?)?;
                    }
                }
                Ok(())
            };
            fill().map_err(|error| ForwardError::Range { place, error })?;
            observer.output(place, 0, Values::I32(row));
        }
        Ok(x)
    }

    /// Runs the layers of this part over `x` `(tokens, d_model)`, in place, appending to `cache`.
    /// The first token has position `cache.len()`. After an error the cache is as before.
    ///
    /// # Errors
    /// [`ForwardError`] on a range error or beyond the context.
    pub fn layers<O: Observer>(
        &self,
        x: &mut [i32],
        cache: &mut KvCache,
        observer: &mut O,
    ) -> Result<(), ForwardError> {
        if x.is_empty() || x.len() % self.width() != 0 {
            return Err(ForwardError::Width { got: x.len(), width: self.width() });
        }
        let tokens = x.len() / self.width();
        let start = cache.len();
        self.check_context(start + tokens)?;
        for index in 0..self.weights.layers.len() {
            if let Err(error) = self.layer(index, x, cache, observer) {
                cache.roll_back();
                return Err(error);
            }
        }
        cache.advance(tokens);
        Ok(())
    }

    /// Final norm and head over `x` `(tokens, d_model)`; logits `(tokens, vocab)`. `positions`
    /// are those of the rows.
    ///
    /// # Errors
    /// [`ForwardError`] on a range error or in a part without head.
    pub fn logits<O: Observer>(
        &self,
        x: &[i32],
        positions: &[usize],
        observer: &mut O,
    ) -> Result<Vec<i32>, ForwardError> {
        let head = self.weights.head.as_ref().ok_or(ForwardError::Missing("head"))?;
        let at = |row: usize, op| Place { position: positions[row] as u32, layer: LAYER_HEAD, op };
        let coded = self.norm(x, &at, Op::FinalNorm, observer);
        let logits = self.linear(head, &coded, &at, Op::Logits, RESIDUAL_LIMIT, observer)?;
        Ok(logits)
    }

    fn check_context(&self, got: usize) -> Result<(), ForwardError> {
        let context = self.weights.config.context as usize;
        if got > context { Err(ForwardError::Context { got, context }) } else { Ok(()) }
    }

    fn layer<O: Observer>(
        &self,
        index: usize,
        x: &mut [i32],
        cache: &mut KvCache,
        observer: &mut O,
    ) -> Result<(), ForwardError> {
        let start = cache.len();
        let layer = (self.weights.first_layer + index) as u16;
        let at = move |row: usize, op| Place { position: (start + row) as u32, layer, op };
        let weights = &self.weights.layers[index];
        let attended = self.attention(weights, index, x, cache, &at, observer)?;
        self.add(x, attended, &at, Op::AttnResidual, observer)?;
        let fed = self.feed_forward(weights, x, &at, observer)?;
        self.add(x, fed, &at, Op::FfnResidual, observer)
    }

    /// Section 6, from norm to output projection.
    fn attention<O: Observer>(
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
                let table = &self.weights.tables.rope[(start + row) * dim..(start + row + 1) * dim];
                q.chunks_mut(dim).chain(k.chunks_mut(dim)).for_each(|head| attention::rope(head, table));
            }
            k.iter_mut().zip(&weights.k_center).for_each(|(k, c)| *k -= c);

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
        self.linear(&weights.o, &coded, at, Op::OProj, crate::arith::LIMIT, observer)
    }

    /// Section 7, from norm to down projection.
    fn feed_forward<O: Observer>(
        &self,
        weights: &LayerWeights,
        x: &[i32],
        at: &impl Fn(usize, Op) -> Place,
        observer: &mut O,
    ) -> Result<Vec<i32>, ForwardError> {
        let config = &self.weights.config;
        let coded = self.norm(x, at, Op::FfnNorm, observer);
        let tokens = coded.steps.len();
        let table = &self.weights.tables.activation;
        let (mut hidden, frac) = match (config.feed_forward, &weights.gate) {
            (FeedForward::Gated, Some(gate)) => {
                let frac = i32::from(gate.out_frac);
                let mut g = self.linear(gate, &coded, at, Op::GateProj, i32::from(i16::MAX), observer)?;
                let u =
                    self.linear(&weights.up, &coded, at, Op::UpProj, i32::from(i16::MAX) >> 1, observer)?;
                ffn::gated(&mut g, &u, frac, table)
                    .map_err(|error| ForwardError::Range { place: at(0, Op::Hidden), error })?;
                (g, frac + i32::from(weights.up.out_frac) - ffn::PRODUCT_SHIFT as i32)
            }
            (FeedForward::Plain, None) => {
                let frac = i32::from(weights.up.out_frac);
                let mut u =
                    self.linear(&weights.up, &coded, at, Op::UpProj, i32::from(i16::MAX), observer)?;
                ffn::plain(&mut u, frac, table)
                    .map_err(|error| ForwardError::Range { place: at(0, Op::Hidden), error })?;
                (u, frac)
            }
            _ => return Err(ForwardError::Missing("gate projection, or one too many")),
        };
        let (width, padded) = (weights.up.rows, weights.down.cols);
        for (row, h) in hidden.chunks_mut(width).enumerate() {
            observer.output(at(row, Op::Hidden), 0, Values::I32(h));
        }
        let mut z = vec![0; tokens * padded];
        let block = config.hadamard_block() as usize;
        for (z, h) in z.chunks_mut(padded).zip(hidden.chunks(width)) {
            z[..width].copy_from_slice(h);
            z.chunks_mut(block).for_each(|block| kernels::hadamard(self.compute.kernel, block));
        }
        let coded = self.quantise(&z, padded, frac, padded, at, Op::HiddenCodes, observer);
        self.linear(&weights.down, &coded, at, Op::DownProj, crate::arith::LIMIT, observer)
    }

    /// Section 3: norm and quantise each row of `x`.
    fn norm<O: Observer>(
        &self,
        x: &[i32],
        at: &impl Fn(usize, Op) -> Place,
        op: Op,
        observer: &mut O,
    ) -> Coded {
        let config = &self.weights.config;
        let (width, padded) = (self.width(), config.d_padded() as usize);
        let tokens = x.len() / width;
        let mut coded = Coded { codes: vec![0; tokens * padded], steps: Vec::with_capacity(tokens) };
        for (row, x) in x.chunks(width).enumerate() {
            let max = kernels::max_abs(self.compute.kernel, x);
            let e7 = smallest_shift(max, 127);
            let sum = x.iter().map(|v| rsh(*v, e7)).map(|q| q * q).sum();
            let (rho, kk) = inverse_rms(sum, e7, config.d_model, config.norm_eps);
            let cut = choose_cut(max, rho, -(e7 as i32) - kk as i32);
            let codes = &mut coded.codes[row * padded..(row + 1) * padded];
            kernels::codes(self.compute.kernel, x, cut.e, cut.rho_k, cut.sh, &mut codes[..width]);
            observer.output(at(row, op), 0, Values::Codes8(codes, cut.step));
            coded.steps.push(cut.step);
        }
        coded
    }

    /// Section 2, plain site: rows of `width` values in `frac` fractional bits, padded to `padded`.
    #[allow(clippy::too_many_arguments)]
    fn quantise<O: Observer>(
        &self,
        x: &[i32],
        width: usize,
        frac: i32,
        padded: usize,
        at: &impl Fn(usize, Op) -> Place,
        op: Op,
        observer: &mut O,
    ) -> Coded {
        let tokens = x.len() / width;
        let mut coded = Coded { codes: vec![0; tokens * padded], steps: Vec::with_capacity(tokens) };
        for (row, x) in x.chunks(width).enumerate() {
            let cut = choose_cut(kernels::max_abs(self.compute.kernel, x), RHO_ONE, -14 - frac);
            let codes = &mut coded.codes[row * padded..(row + 1) * padded];
            kernels::codes(self.compute.kernel, x, cut.e, cut.rho_k, cut.sh, &mut codes[..width]);
            observer.output(at(row, op), 0, Values::Codes8(codes, cut.step));
            coded.steps.push(cut.step);
        }
        coded
    }

    /// Section 4; `bound` is the range of the outputs.
    fn linear<O: Observer>(
        &self,
        weights: &Linear,
        coded: &Coded,
        at: &impl Fn(usize, Op) -> Place,
        op: Op,
        bound: i32,
        observer: &mut O,
    ) -> Result<Vec<i32>, ForwardError> {
        let mut out = vec![0; coded.steps.len() * weights.rows];
        let range = |row: usize, error| ForwardError::Range { place: at(row, op), error };
        kernels::linear(
            &self.compute,
            weights,
            &self.weights.tables.int4,
            &coded.codes,
            &coded.steps,
            &mut out,
        )
        .map_err(|error| range(0, error))?;
        for (row, y) in out.chunks_mut(weights.rows).enumerate() {
            let max = kernels::max_abs(self.compute.kernel, y);
            if max > bound {
                return Err(range(row, RangeError { what: op.name(), got: max.into(), limit: bound.into() }));
            }
            let values =
                if op.output() == lockstep_base::op::Output::I16 { Values::I16(y) } else { Values::I32(y) };
            observer.output(at(row, op), 0, values);
        }
        Ok(out)
    }

    /// Adds `y` to the residual stream `x`.
    fn add<O: Observer>(
        &self,
        x: &mut [i32],
        y: Vec<i32>,
        at: &impl Fn(usize, Op) -> Place,
        op: Op,
        observer: &mut O,
    ) -> Result<(), ForwardError> {
        let width = self.width();
        for (row, (x, y)) in x.chunks_mut(width).zip(y.chunks(width)).enumerate() {
            for (x, y) in x.iter_mut().zip(y) {
                *x = residual_sum(*x, *y)
                    .map_err(|error| ForwardError::Range { place: at(row, op), error })?;
            }
            observer.output(at(row, op), 0, Values::I32(x));
        }
        Ok(())
    }
}

/// The sum of two residual values, checked (section 5).
#[inline(always)]
fn residual_sum(a: i32, b: i32) -> Result<i32, RangeError> {
    let sum = i64::from(a) + i64::from(b);
    if sum.abs() >= i64::from(RESIDUAL_LIMIT) {
        return Err(RangeError {
            what: "residual stream",
            got: sum.abs(),
            limit: i64::from(RESIDUAL_LIMIT) - 1,
        });
    }
    Ok(sum as i32)
}
