//! Both ends of the model: tokens to residual rows (section 5), residual rows to logits (section 8).

use super::{Engine, ForwardError};
use crate::arith::{RESIDUAL_LIMIT, RangeError, embedded, residual_sum};
use crate::observe::{Observer, Values};
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::op::{LAYER_EMBED, LAYER_HEAD, Op, Place};
use lockstep_base::weights::Embedding;

impl Engine {
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
            let value = |table: &Embedding, row: usize, col: usize| {
                embedded(table.code(row, col), table.frac.into(), frac)
            };
            let mut fill = || -> Result<(), RangeError> {
                for (col, x) in row.iter_mut().enumerate() {
                    *x = value(table, token as usize, col)?;
                    if let Some(positions) = &self.weights.positions {
                        *x = residual_sum(*x, value(positions, position, col)?)?;
                    }
                }
                Ok(())
            };
            fill().map_err(|error| ForwardError::Range { place, error })?;
            observer.output(place, 0, Values::I32(row));
        }
        Ok(x)
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
}
