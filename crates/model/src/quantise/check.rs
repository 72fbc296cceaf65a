//! The interval checker: what docs/spec/arithmetic.md, section 9, asks the importer to prove.
//!
//! Given integer weights alone (no float model, no calibration) it proves that every accumulator
//! fits the field and that every 16-bit output fits its format for *any* input, or names the first
//! tensor and row where it cannot, with what was got and the bound.

use super::formats::{self, BOUND_I16, BOUND_LOGITS, BOUND_UP, RowBound};
use crate::bundle::names;
use crate::bundle::structure::{self, EMBEDDING_FRACS, K_CENTER_MAX, LIMIT, Matrix, StructureError};
use lockstep_base::config::{ConfigError, FeedForward, ModelConfig};
use lockstep_base::weights::{Embedding, LayerWeights, Linear, ModelWeights, Tables};

/// Residual values are below this.
const RESIDUAL_LIMIT: f64 = (1u64 << 29) as f64;

/// What was proved for one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Margin {
    /// The tensor.
    pub tensor: String,
    /// Largest rescaled accumulator as a part of the field's bound.
    pub accumulator: f64,
    /// Largest output as a part of its format's bound, where a format is proved.
    pub output: Option<f64>,
}

/// Why the bounds of a model do not hold.
#[derive(Debug, thiserror::Error, Clone, PartialEq)]
#[non_exhaustive]
pub enum BoundsError {
    /// A number of the configuration.
    #[error("config: {0}")]
    Config(#[from] ConfigError),
    /// A number that even the runtime refuses, among them `rsh(127 L1, s1) * 7 m`.
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// A tensor of a whole model is not there.
    #[error("{tensor} is missing")]
    Missing {
        /// The tensor.
        tensor: String,
    },
    /// The static shift is not that of the specification.
    #[error("{tensor}: the static shift is {got}, expected {expected}")]
    PreShift {
        /// The tensor.
        tensor: String,
        /// The shift.
        got: u8,
        /// `max(0, bl(127 max L1) - 22)`.
        expected: u8,
    },
    /// An output can leave its format.
    #[error("{tensor}, row {row}: outputs reach {got:.1}, expected at most {bound}")]
    Output {
        /// The tensor.
        tensor: String,
        /// The row.
        row: usize,
        /// Bound by Cauchy-Schwarz, in output units.
        got: f64,
        /// Bound of the format.
        bound: f64,
    },
    /// Scores of a layer can leave their range.
    #[error("layer {layer}: q and k have {got} fractional bits together, expected at least {expected}")]
    ScoreFrac {
        /// The layer.
        layer: usize,
        /// F_q + F_k.
        got: i32,
        /// The least.
        expected: i32,
    },
    /// An embedded token can leave the residual stream.
    #[error("{tensor}, row {row}: the residual stream reaches {got}, expected below {bound}")]
    Embedding {
        /// The table.
        tensor: String,
        /// The row.
        row: usize,
        /// Largest magnitude in units of the residual stream.
        got: f64,
        /// The bound.
        bound: f64,
    },
    /// An embedded token is too coarse in the residual format.
    #[error(
        "{tensor}, row {row}: root mean square is {got:.1} units of the residual stream, expected at least {bound}"
    )]
    EmbeddingCoarse {
        /// The table.
        tensor: String,
        /// The row.
        row: usize,
        /// Root mean square in units of the residual stream.
        got: f64,
        /// The bound.
        bound: f64,
    },
}

/// Proves the bounds of a whole model.
///
/// # Errors
/// The first bound that does not hold.
pub fn check(weights: &ModelWeights) -> Result<Vec<Margin>, BoundsError> {
    let config = &weights.config;
    config.validate()?;
    structure::check_tables(&weights.tables, config)?;
    check_embeddings(weights)?;
    let mut margins = Vec::new();
    for (index, layer) in weights.layers.iter().enumerate() {
        check_layer(weights.first_layer + index, layer, &weights.tables, config, &mut margins)?;
    }
    let head = weights.head.as_ref().ok_or_else(|| BoundsError::Missing { tensor: names::HEAD.into() })?;
    margins.push(check_linear(names::HEAD.into(), Matrix::Head, head, &weights.tables, config)?);
    Ok(margins)
}

fn check_layer(
    index: usize,
    layer: &LayerWeights,
    tables: &Tables,
    config: &ModelConfig,
    margins: &mut Vec<Margin>,
) -> Result<(), BoundsError> {
    for matrix in Matrix::of_layer(config, index) {
        let tensor = names::layer(index, matrix.name());
        let dense = layer.ffn.dense();
        let linear = match matrix {
            Matrix::Q => Some(&layer.q),
            Matrix::K => Some(&layer.k),
            Matrix::V => Some(&layer.v),
            Matrix::O => Some(&layer.o),
            Matrix::Up => dense.map(|dense| &dense.up),
            Matrix::Down => dense.map(|dense| &dense.down),
            Matrix::Gate => dense.and_then(|dense| dense.gate.as_ref()),
            _ => None,
        };
        let linear = linear.ok_or_else(|| BoundsError::Missing { tensor: tensor.clone() })?;
        margins.push(check_linear(tensor, matrix, linear, tables, config)?);
    }
    structure::check_k_center(&names::k_center(index), &layer.k_center, config)?;
    let got = i32::from(layer.q.out_frac) + i32::from(layer.k.out_frac);
    let expected = score_frac_min(config);
    if got < expected {
        return Err(BoundsError::ScoreFrac { layer: index, got, expected });
    }
    Ok(())
}

/// The least F_q + F_k with which scores stay within 2^29 whatever q and k are: 19 for heads of 128, less
/// for narrower heads (their sums are shorter), 20 for heads of 256 (their codes have a bit less).
#[must_use]
pub fn score_frac_min(config: &ModelConfig) -> i32 {
    // |q| < 2^15.5 and |k - c| <= 2^15.5 + K_CENTER_MAX become codes at these shifts.
    let most_shift = |most: f64| {
        let bound = f64::from(config.qk_code_max());
        (0..32).find(|e| (most / f64::from(*e).exp2() + 0.5).floor() <= bound).unwrap_or(32)
    };
    let rotated = BOUND_I16 * std::f64::consts::SQRT_2 + 1.0;
    let shifts = most_shift(rotated) + most_shift(rotated + f64::from(K_CENTER_MAX));
    let score = f64::from(config.qk_code_max()).powi(2) * f64::from(config.head_dim);
    let room = (RESIDUAL_LIMIT / score).log2().floor() as i32;
    8 + shifts - room
}

fn check_linear(
    tensor: String,
    matrix: Matrix,
    linear: &Linear,
    tables: &Tables,
    config: &ModelConfig,
) -> Result<Margin, BoundsError> {
    let sums = structure::check_linear(&tensor, matrix, linear, tables, config)?;
    let most = sums.iter().map(|sums| sums.l1).max().unwrap_or(0);
    let expected = formats::pre_shift(most);
    if linear.pre_shift != expected {
        return Err(BoundsError::PreShift { tensor, got: linear.pre_shift, expected });
    }
    let bound = output_bound(matrix, config);
    let mut margin = Margin { tensor, accumulator: 0.0, output: bound.map(|_| 0.0) };
    for (row, sums) in sums.iter().enumerate() {
        let rescaled =
            (127 * sums.l1) as f64 / f64::from(expected).exp2() * 7.0 * f64::from(linear.multipliers[row]);
        margin.accumulator = margin.accumulator.max(rescaled / LIMIT as f64);
        let Some(bound) = bound else { continue };
        let scale = f64::from(linear.multipliers[row]) * (-f64::from(linear.shifts[row])).exp2();
        let unit = (-f64::from(linear.out_frac)).exp2();
        let bias = linear.bias.get(row).map_or(0.0, |bias| f64::from(*bias) * unit);
        let got = RowBound::new(config.d_model, scale, (sums.squares as f64).sqrt(), bias, linear.pre_shift)
            .in_units(linear.out_frac);
        if got > bound {
            return Err(BoundsError::Output { tensor: margin.tensor, row, got, bound });
        }
        margin.output = margin.output.map(|most| most.max(got / bound));
    }
    Ok(margin)
}

/// Bound of an output that is proved by Cauchy-Schwarz; `None` where the input has no bounded norm.
#[must_use]
pub fn output_bound(matrix: Matrix, config: &ModelConfig) -> Option<f64> {
    match matrix {
        Matrix::Q | Matrix::K | Matrix::V | Matrix::Gate | Matrix::ExpertGate | Matrix::Router => Some(BOUND_I16),
        Matrix::Up | Matrix::ExpertUp if config.feed_forward == FeedForward::Gated => Some(BOUND_UP),
        Matrix::Up | Matrix::ExpertUp => Some(BOUND_I16),
        Matrix::Head => Some(BOUND_LOGITS),
        Matrix::O | Matrix::Down | Matrix::ExpertDown => None,
    }
}

fn check_embeddings(weights: &ModelWeights) -> Result<(), BoundsError> {
    let config = &weights.config;
    let embed = weights.embed.as_ref().ok_or_else(|| BoundsError::Missing { tensor: names::EMBED.into() })?;
    let mut reach = 0.0;
    for (name, table) in
        [Some((names::EMBED, embed)), weights.positions.as_ref().map(|table| (names::POSITIONS, table))]
            .into_iter()
            .flatten()
    {
        if !EMBEDDING_FRACS.contains(&table.frac) {
            let (low, high) = (i64::from(*EMBEDDING_FRACS.start()), i64::from(*EMBEDDING_FRACS.end()));
            let error = StructureError::Tensor {
                tensor: name.into(),
                what: "fractional bits",
                got: table.frac.into(),
                low,
                high,
            };
            return Err(error.into());
        }
        let unit = f64::from(i32::from(config.residual_frac) - i32::from(table.frac)).exp2();
        let (row, most) = largest(table);
        reach += f64::from(most) * unit + 1.0;
        if reach >= RESIDUAL_LIMIT {
            return Err(BoundsError::Embedding {
                tensor: name.into(),
                row,
                got: reach,
                bound: RESIDUAL_LIMIT,
            });
        }
        if let Some((row, got)) =
            coarsest(table, unit).filter(|(_, got)| name == names::EMBED && *got < COARSE_MIN)
        {
            return Err(BoundsError::EmbeddingCoarse { tensor: name.into(), row, got, bound: COARSE_MIN });
        }
    }
    Ok(())
}

/// Smallest root mean square of an embedding row that is not zero, in units of the residual stream: 2^(8-R) in real units.
pub const COARSE_MIN: f64 = 256.0;

fn largest(table: &Embedding) -> (usize, u16) {
    let most = |row: usize| (0..table.cols).map(|col| table.code(row, col).unsigned_abs()).max().unwrap_or(0);
    (0..table.rows).map(|row| (row, most(row))).max_by_key(|(_, most)| *most).unwrap_or((0, 0))
}

fn coarsest(table: &Embedding, unit: f64) -> Option<(usize, f64)> {
    let rms = |row: usize| {
        let squares: f64 = (0..table.cols).map(|col| f64::from(table.code(row, col)).powi(2)).sum();
        (squares / table.cols as f64).sqrt() * unit
    };
    (0..table.rows)
        .map(|row| (row, rms(row)))
        .filter(|(_, rms)| *rms > 0.0)
        .min_by(|a, b| a.1.total_cmp(&b.1))
}
