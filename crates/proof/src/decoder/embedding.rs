//! What enters the first layer: the tokens' rows of the embedding, docs/spec/arithmetic.md, section 5. They are public.

use crate::error::PlanError;
use crate::integer::rsh;
use alloc::vec::Vec;
use lockstep_base::config::{ModelConfig, Positions};
use lockstep_base::weights::ModelWeights;

/// Values of the stream are at least the negative of this, and below it.
const STREAM_MAX: i64 = 1 << 28;

/// A row of a table: i16 codes, little-endian, in `frac` fractional bits.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Two bytes a channel.
    pub codes: &'a [u8],
    /// Fractional bits.
    pub frac: i8,
}

impl Row<'_> {
    fn value(&self, col: usize, residual: i32) -> i64 {
        let code = i64::from(i16::from_le_bytes([self.codes[2 * col], self.codes[2 * col + 1]]));
        let shift = i32::from(self.frac) - residual;
        if shift < 0 { code << shift.unsigned_abs().min(40) } else { rsh(code, shift.min(60) as u32) }
    }
}

/// The stream of each position, `(positions, d_model)`, from the token's row and, where positions are learned, the position's.
///
/// # Errors
/// If a value is too large.
///
/// # Panics
/// If a row is shorter than `d_model` codes.
pub fn rows<'a>(
    config: &ModelConfig,
    of: impl Iterator<Item = (Row<'a>, Option<Row<'a>>)>,
) -> Result<Vec<i64>, PlanError> {
    let residual = i32::from(config.residual_frac);
    let mut all = Vec::new();
    for (position, (token, learned)) in of.enumerate() {
        for col in 0..config.d_model as usize {
            let x = token.value(col, residual) + learned.map_or(0, |row| row.value(col, residual));
            if !(-STREAM_MAX..STREAM_MAX).contains(&x) {
                return Err(PlanError::Embedding { position, got: x, limit: STREAM_MAX - 1 });
            }
            all.push(x);
        }
    }
    Ok(all)
}

/// The same from a model's own tables, for the tokens `tokens`.
///
/// # Errors
/// If a value is too large, or `weights` have no tables.
pub fn embedded(weights: &ModelWeights, tokens: &[u32]) -> Result<Vec<i64>, PlanError> {
    let learned = weights.config.positions == Positions::Learned;
    let missing = PlanError::Layers { first: 0, end: weights.layers.len() };
    let (Some(embed), true) = (&weights.embed, weights.positions.is_some() == learned) else {
        return Err(missing);
    };
    let of = tokens.iter().enumerate().map(|(position, token)| {
        let positions = weights.positions.as_ref();
        let learned = positions.map(|table| Row { codes: table.row_bytes(position), frac: table.frac });
        (Row { codes: embed.row_bytes(*token as usize), frac: embed.frac }, learned)
    });
    rows(&weights.config, of)
}
