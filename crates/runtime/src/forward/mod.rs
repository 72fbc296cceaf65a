//! The forward pass of a part: embedding, a range of layers, head. One function a step, in the
//! order of docs/spec/arithmetic.md.
//!
//! Shapes: a batch is `(tokens, width)`, row after row, of one sequence or of several, one after
//! another. No value of one token depends on which other tokens are in the batch (no scale is
//! shared), so a batched prefill gives the bits of token-by-token decoding, and a sequence among
//! others those of the sequence alone.
//!
//! - `ends`: embedding and head; `attention_block`, `ffn_block`: the two halves of a layer
//! - `attend`: attention over many tokens and heads
//! - `steps`: what they are made of: norm, quantise, linear, residual addition
//! - `adapters`: what low-rank adapters add to a linear layer, sequence by sequence
//! - `batch`, `buffers`: who sees which rows; memory that ops share

mod adapters;
mod attend;
mod attention_block;
mod batch;
mod buffers;
mod ends;
mod ffn_block;
mod steps;

pub use ends::{HeadRows, pool};

use crate::arith::{LIMIT, RESIDUAL_LIMIT, RangeError};
use crate::kernels::Compute;
use crate::kv::KvCache;
use crate::observe::{Observer, Values};
use alloc::sync::Arc;
use alloc::vec::Vec;
use batch::Batch;
use buffers::{Buffers, sized};
use lockstep_base::config::Block;
use lockstep_base::op::{Op, Place};
use lockstep_base::weights::{Gain, ModelWeights};

/// Why a forward pass ended without a result.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardError {
    /// A value left its range.
    #[error("{place}: {error}")]
    Range {
        /// Where. The checks inside of linear layers name the batch's first position.
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
    /// An encoder computes all of a sequence at once: every token sees all others.
    #[error("{got} positions are computed already, expected none in an encoder")]
    Encoder {
        /// Positions that are there.
        got: usize,
    },
    /// The part does not hold what is asked for.
    #[error("this part has no {0}")]
    Missing(&'static str),
}

/// One sequence of a batch.
#[derive(Debug)]
pub struct Segment<'a, O> {
    /// Its keys and values so far.
    pub cache: &'a mut KvCache,
    /// Its rows of the batch; at least one.
    pub rows: usize,
    /// Sees what is computed for it.
    pub observer: &'a mut O,
}

/// The weights of a part and the means to compute with them.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Weights of the part.
    pub weights: Arc<ModelWeights>,
    /// Kernel and threads.
    pub compute: Arc<Compute>,
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
        if !x.len().is_multiple_of(self.width()) {
            return Err(ForwardError::Width { got: x.len(), width: self.width() });
        }
        let rows = x.len() / self.width();
        self.layers_batch(x, &mut [Segment { cache, rows, observer }])
    }

    /// [`Engine::layers`] for several sequences at once, whose rows stand one after another in `x`: weights
    /// are read once for all of them. Each gets the bits that it would get alone. After an error
    /// all caches are as before.
    ///
    /// # Errors
    /// The first [`ForwardError`] of any sequence.
    pub fn layers_batch<O: Observer>(
        &self,
        x: &mut [i32],
        segments: &mut [Segment<'_, O>],
    ) -> Result<(), ForwardError> {
        let rows: usize = segments.iter().map(|segment| segment.rows).sum();
        let empty = segments.iter().any(|segment| segment.rows == 0);
        if rows == 0 || empty || x.len() != rows * self.width() {
            return Err(ForwardError::Width { got: x.len(), width: self.width() });
        }
        let mut batch = Batch::new(0);
        let mut caches: Vec<&mut KvCache> = Vec::with_capacity(segments.len());
        for Segment { cache, rows, observer } in segments {
            let start = cache.len();
            self.check_context(start + *rows)?;
            if self.weights.config.pooling.is_some() && start > 0 {
                return Err(ForwardError::Encoder { got: start });
            }
            batch.push((start as u32..).take(*rows), observer);
            batch.set_adapter(cache.adapter());
            caches.push(cache);
        }
        let mut buffers = Buffers::default();
        for index in 0..self.weights.layers.len() {
            batch.layer = (self.weights.first_layer + index) as u16;
            if let Err(error) = self.layer(index, x, &mut caches, &mut buffers, &mut batch) {
                caches.iter_mut().for_each(|cache| cache.roll_back());
                return Err(error);
            }
        }
        caches.iter_mut().zip(batch.sequences()).for_each(|(cache, rows)| cache.advance(rows.len()));
        Ok(())
    }

    fn check_context(&self, got: usize) -> Result<(), ForwardError> {
        let context = self.weights.config.context as usize;
        if got > context { Err(ForwardError::Context { got, context }) } else { Ok(()) }
    }

    fn layer<O: Observer>(
        &self,
        index: usize,
        x: &mut [i32],
        caches: &mut [&mut KvCache],
        buffers: &mut Buffers,
        batch: &mut Batch<'_, O>,
    ) -> Result<(), ForwardError> {
        let weights = &self.weights.layers[index];
        self.attention(index, x, caches, buffers, batch)?;
        let ops = [Op::AttnPostNorm, Op::AttnResidual];
        self.join(x, weights.attn_post.as_ref(), ops, buffers, batch)?;
        self.feed_forward(weights, x, buffers, batch)?;
        self.join(x, weights.ffn_post.as_ref(), [Op::FfnPostNorm, Op::FfnResidual], buffers, batch)
    }

    /// What a sublayer gave joins the residual stream (section 5): added; or normed, then added
    /// (sandwich); or added, then normed (post-norm).
    fn join<O: Observer>(
        &self,
        x: &mut [i32],
        gain: Option<&Gain>,
        [post_norm, residual]: [Op; 2],
        buffers: &mut Buffers,
        batch: &mut Batch<'_, O>,
    ) -> Result<(), ForwardError> {
        let Buffers { y, normed, .. } = buffers;
        let width = self.width();
        match (self.weights.config.block, gain) {
            (Block::PreNorm, None) => self.add(x, y, residual, batch)?,
            (Block::Sandwich, Some(gain)) => {
                let normed = sized(normed, y.len());
                self.gains(y, gain, (LIMIT, LIMIT), normed, &|row| batch.at(row, post_norm))?;
                batch.observe_rows(post_norm, normed.chunks_mut(width).map(Values::I32));
                self.add(x, normed, residual, batch)?;
            }
            (Block::PostNorm, Some(gain)) => {
                self.add(x, y, residual, batch)?;
                let sum = sized(normed, x.len());
                sum.copy_from_slice(x);
                self.gains(sum, gain, (RESIDUAL_LIMIT, RESIDUAL_LIMIT - 1), x, &|row| {
                    batch.at(row, residual)
                })?;
            }
            _ => return Err(ForwardError::Missing("norm behind a sublayer, or one too many")),
        }
        batch.observe_rows(residual, x.chunks_mut(width).map(Values::I32));
        Ok(())
    }
}
