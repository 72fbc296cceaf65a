//! The forward pass of a part: embedding, a range of layers, head. One function a step, in the
//! order of docs/spec/arithmetic.md.
//!
//! Shapes: a batch is `(tokens, width)`, row after row. No value of one token depends on which
//! other tokens are in the batch (no scale is shared), so a batched prefill gives the bits of
//! token-by-token decoding.
//!
//! - `ends`: embedding and head; `attention_block`, `ffn_block`: the two halves of a layer
//! - `steps`: what they are made of: norm, quantise, linear, residual addition

mod attention_block;
mod ends;
mod ffn_block;
mod steps;

use crate::arith::RangeError;
use crate::kernels::Compute;
use crate::kv::KvCache;
use crate::observe::Observer;
use alloc::sync::Arc;
use lockstep_base::op::{Op, Place};
use lockstep_base::weights::ModelWeights;

/// Why a forward pass ended without a result.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardError {
    /// A value left its range.
    #[error("{place}: {error}")]
    Range {
        /// Where. Steps that work on a whole batch (the checks inside of linear layers, attention,
        /// activation) name the batch's first position.
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
        if x.is_empty() || !x.len().is_multiple_of(self.width()) {
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
        self.add(x, &attended, &at, Op::AttnResidual, observer)?;
        let fed = self.feed_forward(weights, x, &at, observer)?;
        self.add(x, &fed, &at, Op::FfnResidual, observer)
    }
}
