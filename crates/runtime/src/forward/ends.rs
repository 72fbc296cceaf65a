//! Both ends of the model: tokens to residual rows (section 5), residual rows to logits (section 8)
//! or to the one vector of an encoder.

use super::batch::Batch;
use super::buffers::Coded;
use super::steps::grain;
use super::{Engine, ForwardError};
use crate::arith::{LOGIT_LIMIT, RESIDUAL_LIMIT, RangeError, embedded, residual_sum, soft_cap};
use crate::observe::{Observer, Silent, Values};
use crate::pool::Rows;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::config::Pooling;
use lockstep_base::op::{LAYER_EMBED, LAYER_HEAD, Op};

/// Rows of one sequence that the head computes.
#[derive(Debug)]
pub struct HeadRows<'a, O> {
    /// Their positions.
    pub positions: &'a [usize],
    /// Sees what is computed.
    pub observer: &'a mut O,
}

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
        let positions = (start as u32..).take(tokens.len());
        if let Some((token, position)) = tokens.iter().zip(positions.clone()).find(|t| *t.0 >= config.vocab) {
            return Err(ForwardError::Token { got: *token, position, vocab: config.vocab });
        }
        let mut batch = Batch::new(LAYER_EMBED);
        batch.push(positions, observer);
        let (width, frac) = (self.width(), i32::from(config.residual_frac));
        let mut x = vec![0; tokens.len() * width];
        let mut failed: Vec<Option<RangeError>> = vec![None; tokens.len()];
        let rows = (Rows::new(&mut x, width), Rows::new(&mut failed, 1));
        self.compute.pool.rows(grain(width), rows, |row, (x, failed)| {
            let fill = |x: &mut [i32]| -> Result<(), RangeError> {
                let codes = table.row_bytes(tokens[row] as usize).as_chunks().0;
                for (x, code) in x.iter_mut().zip(codes) {
                    *x = embedded(i16::from_le_bytes(*code), table.frac.into(), frac)?;
                }
                let Some(learned) = &self.weights.positions else { return Ok(()) };
                let codes = learned.row_bytes(start + row).as_chunks().0;
                for (x, code) in x.iter_mut().zip(codes) {
                    *x = residual_sum(*x, embedded(i16::from_le_bytes(*code), learned.frac.into(), frac)?)?;
                }
                Ok(())
            };
            failed[0] = fill(x).err();
        });
        super::steps::first_failed(&failed, |row| batch.at(row, Op::Embed))?;
        if let Some(gain) = &self.weights.embed_norm {
            let raw = x.clone();
            let range = (RESIDUAL_LIMIT, RESIDUAL_LIMIT - 1);
            self.gains(&raw, gain, range, &mut x, &|row| batch.at(row, Op::Embed))?;
        }
        batch.observe_rows(Op::Embed, x.chunks_mut(width).map(Values::I32));
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
        self.logits_batch(x, &mut [HeadRows { positions, observer }])
    }

    /// [`Engine::logits`] for rows of several sequences at once, one after another in `x`.
    ///
    /// # Errors
    /// As [`Engine::logits`].
    pub fn logits_batch<O: Observer>(
        &self,
        x: &[i32],
        rows: &mut [HeadRows<'_, O>],
    ) -> Result<Vec<i32>, ForwardError> {
        let head = self.weights.head.as_ref().ok_or(ForwardError::Missing("head"))?;
        let mut batch = Batch::new(LAYER_HEAD);
        for HeadRows { positions, observer } in rows {
            batch.push(positions.iter().map(|position| *position as u32), observer);
        }
        if x.len() != batch.rows() * self.width() {
            return Err(ForwardError::Width { got: x.len(), width: self.width() });
        }
        let (mut coded, mut logits) = (Coded::default(), Vec::new());
        self.site(x, &mut coded, Op::FinalNorm, &mut batch);
        let at = |row| batch.at(row, Op::Logits);
        self.product(head, &coded.prepare(&self.compute), Op::Logits, LOGIT_LIMIT - 1, &mut logits, &at)?;
        if let Some(shift) = self.weights.config.logit_cap {
            let table = &self.weights.tables.logit_cap;
            logits.iter_mut().for_each(|logit| *logit = soft_cap(*logit, table, shift));
        }
        batch.observe_rows(Op::Logits, logits.chunks_mut(head.rows).map(Values::I32));
        Ok(logits)
    }

    /// The vector of an encoder for `tokens`: `(d_model,)` in R fractional bits, the mean of its rows
    /// (rounded half up) or the first of them.
    ///
    /// # Errors
    /// [`ForwardError`] as in embedding and layers, and where the part is not all of an encoder.
    pub fn encode(&self, tokens: &[u32]) -> Result<Vec<i32>, ForwardError> {
        let pooling = self.weights.config.pooling.ok_or(ForwardError::Missing("pooling"))?;
        let mut x = self.embed(tokens, 0, &mut Silent)?;
        self.layers(&mut x, &mut self.new_cache(), &mut Silent)?;
        let width = self.width();
        Ok(pool(&x, width, pooling))
    }
}

/// The vector of an encoder whose rows are `x` `(tokens, width)`: their mean, rounded half up, or the first of them (section 8).
///
/// # Panics
/// If there are no rows.
#[must_use]
pub fn pool(x: &[i32], width: usize, pooling: Pooling) -> Vec<i32> {
    if pooling == Pooling::First {
        return x[..width].to_vec();
    }
    let count = (x.len() / width) as i64;
    let column = |col: usize| x[col..].iter().step_by(width).map(|v| i64::from(*v)).sum::<i64>();
    let rounded = |sum: i64| (2 * sum + count).div_euclid(2 * count) as i32;
    (0..width).map(|col| rounded(column(col))).collect()
}
