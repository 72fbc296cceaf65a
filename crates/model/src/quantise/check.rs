//! The interval checker: what docs/spec/arithmetic.md, section 9, asks the importer to prove.
//!
//! Given integer weights alone (no float model, no calibration) it proves that every accumulator
//! fits the field and that every 16-bit output fits its format for *any* input, or names the first
//! tensor and row where it cannot, with what was got and the bound.

use super::formats::{self, BOUND_I16, BOUND_LOGITS, BOUND_UP, RowBound};
use super::{gains, scale};
use crate::bundle::names;
use crate::bundle::structure::{self, EMBEDDING_FRACS, K_CENTER_MAX, LIMIT, Matrix, StructureError};
use lockstep_base::config::{Block, ConfigError, FeedForward, ModelConfig};
use lockstep_base::limits::STEP_MANTISSA_MAX;
use lockstep_base::weights::{
    Embedding, FfnWeights, Gain, LayerWeights, Linear, ModelWeights, Tables, WeightFormat,
};
use serde::Serialize;

/// Residual values are below this.
const RESIDUAL_LIMIT: f64 = (1u64 << 28) as f64;
/// Scores are at most this whatever q and k are.
const SCORE_LIMIT: f64 = (1u64 << 29) as f64;

/// What was proved for one matrix.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// A number that even the runtime refuses, among them `rsh(127 L1, s1) * 31 m`.
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
        /// The smallest with `rsh(127 max L1, s1) < 2^19`.
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
    /// A norm with gains can leave its format.
    #[error("{tensor}: outputs reach {got:.1}, expected at most {bound}")]
    Gain {
        /// The tensor.
        tensor: String,
        /// The largest output, in output units.
        got: f64,
        /// Bound of the format.
        bound: f64,
    },
    /// Experts share an entry, hence its formats.
    #[error("{tensor} has other formats than {first}")]
    Formats {
        /// The tensor.
        tensor: String,
        /// The first of its kind in the layer.
        first: String,
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
    let mut checker = Checker {
        config,
        tables: &weights.tables,
        norm: formats::input_norm(config, None),
        margins: Vec::new(),
    };
    if config.block == Block::PostNorm {
        checker.post_norm(names::EMBED_NORM.into(), weights.embed_norm.as_ref())?;
    }
    for (index, layer) in weights.layers.iter().enumerate() {
        checker.layer(weights.first_layer + index, layer)?;
    }
    if config.pooling.is_none() {
        let head = weights.head.as_ref().ok_or_else(|| missing(names::HEAD))?;
        checker.linears(&[names::HEAD.into()], Matrix::Head, &[head])?;
    }
    Ok(checker.margins)
}

fn missing(tensor: &str) -> BoundsError {
    BoundsError::Missing { tensor: tensor.into() }
}

/// The name of one expert's part of an entry.
pub(super) fn expert_name(entry: &str, expert: usize) -> String {
    format!("{entry}[{expert}]")
}

struct Checker<'a> {
    config: &'a ModelConfig,
    tables: &'a Tables,
    /// N: bound of what the next readers of the residual stream multiply.
    norm: f64,
    margins: Vec<Margin>,
}

impl Checker<'_> {
    fn layer(&mut self, index: usize, layer: &LayerWeights) -> Result<(), BoundsError> {
        let name = |part: &str| names::layer(index, part);
        for (matrix, linear) in [(Matrix::Q, &layer.q), (Matrix::K, &layer.k), (Matrix::V, &layer.v)] {
            self.linears(&[name(matrix.name())], matrix, &[linear])?;
        }
        let (mut q_frac, mut k_frac) = (layer.q.out_frac, layer.k.out_frac);
        if self.config.qk_norm {
            q_frac = self.head_norm(name("q_norm"), layer.q_norm.as_ref())?;
            k_frac = self.head_norm(name("k_norm"), layer.k_norm.as_ref())?;
        }
        structure::check_k_center(&names::k_center(index), &layer.k_center, self.config)?;
        let got = i32::from(q_frac) + i32::from(k_frac);
        let expected = score_frac_min(self.config);
        if got < expected {
            return Err(BoundsError::ScoreFrac { layer: index, got, expected });
        }
        self.linears(&[name(Matrix::O.name())], Matrix::O, &[&layer.o])?;
        let behind = self.config.block != Block::PreNorm;
        if behind {
            self.post_norm(name("attn_post"), layer.attn_post.as_ref())?;
        }
        self.ffn(index, &layer.ffn)?;
        if behind {
            self.post_norm(name("ffn_post"), layer.ffn_post.as_ref())?;
        }
        Ok(())
    }

    fn ffn(&mut self, index: usize, ffn: &FfnWeights) -> Result<(), BoundsError> {
        let sparse = self.config.experts.filter(|_| self.config.layer_pattern(index).experts);
        let name = |matrix: Matrix| names::layer(index, matrix.name());
        let names = |all: Matrix, one: Matrix| match sparse {
            Some(experts) => (0..experts.count as usize).map(|at| expert_name(&name(all), at)).collect(),
            None => vec![name(one)],
        };
        match (ffn, sparse) {
            (FfnWeights::Dense(_), None) => {}
            (FfnWeights::Experts { router, experts }, Some(expected)) => {
                self.linears(&[name(Matrix::Router)], Matrix::Router, &[router])?;
                if experts.len() != expected.count as usize {
                    let (got, expected) = (experts.len(), expected.count as usize);
                    let tensor = name(Matrix::ExpertUp);
                    return Err(StructureError::Count { tensor, what: "experts", got, expected }.into());
                }
            }
            (FfnWeights::Dense(_), Some(_)) => return Err(missing(&name(Matrix::Router))),
            (FfnWeights::Experts { .. }, None) => return Err(missing(&name(Matrix::Up))),
        }
        let networks = ffn.networks();
        if self.config.feed_forward == FeedForward::Gated {
            let gates: Vec<&Linear> = networks.iter().filter_map(|network| network.gate.as_ref()).collect();
            if gates.len() != networks.len() {
                return Err(missing(&name(if sparse.is_some() { Matrix::ExpertGate } else { Matrix::Gate })));
            }
            self.linears(&names(Matrix::ExpertGate, Matrix::Gate), Matrix::Gate, &gates)?;
        }
        let ups: Vec<&Linear> = networks.iter().map(|network| &network.up).collect();
        self.linears(&names(Matrix::ExpertUp, Matrix::Up), Matrix::Up, &ups)?;
        let downs: Vec<&Linear> = networks.iter().map(|network| &network.down).collect();
        self.linears(&names(Matrix::ExpertDown, Matrix::Down), Matrix::Down, &downs)
    }

    /// A norm that makes the residual stream, or what is added to it.
    fn post_norm(&mut self, tensor: String, gain: Option<&Gain>) -> Result<(), BoundsError> {
        let centred = self.config.block == Block::PostNorm;
        let gain = gain.ok_or_else(|| missing(&tensor))?;
        structure::check_gain(&tensor, gain, self.config.d_model as usize, centred)?;
        let frac = i64::from(self.config.residual_frac);
        let got = i64::from(gain.out_frac);
        if got != frac {
            let what = "fractional bits of the output";
            return Err(StructureError::Tensor { tensor, what, got, low: frac, high: frac }.into());
        }
        reach(tensor, gain, post_bound(self.config))?;
        if centred {
            self.norm = formats::input_norm(self.config, Some(gain));
        }
        Ok(())
    }

    /// The norm of query or key heads; its fractional bits.
    fn head_norm(&self, tensor: String, gain: Option<&Gain>) -> Result<i8, BoundsError> {
        let gain = gain.ok_or_else(|| missing(&tensor))?;
        structure::check_gain(&tensor, gain, self.config.head_dim as usize, false)?;
        reach(tensor, gain, BOUND_I16)?;
        Ok(gain.out_frac)
    }

    /// Linears that share their formats: one, or those of all experts.
    fn linears(
        &mut self,
        tensors: &[String],
        matrix: Matrix,
        linears: &[&Linear],
    ) -> Result<(), BoundsError> {
        let mut most = 0;
        for (tensor, linear) in tensors.iter().zip(linears) {
            let sums = structure::check_linear(tensor, matrix, linear, self.tables, self.config)?;
            most = sums.iter().map(|sums| sums.l1).fold(most, u64::max);
        }
        let pre_shift = formats::pre_shift(most);
        for (tensor, linear) in tensors.iter().zip(linears) {
            let got = (linear.out_frac, linear.format, linear.bias.is_empty());
            let first = (linears[0].out_frac, linears[0].format, linears[0].bias.is_empty());
            if got != first {
                return Err(BoundsError::Formats { tensor: tensor.clone(), first: tensors[0].clone() });
            }
            self.margins.push(self.linear(tensor.clone(), matrix, linear, pre_shift)?);
        }
        Ok(())
    }

    fn linear(
        &self,
        tensor: String,
        matrix: Matrix,
        linear: &Linear,
        expected: u8,
    ) -> Result<Margin, BoundsError> {
        if linear.pre_shift != expected {
            return Err(BoundsError::PreShift { tensor, got: linear.pre_shift, expected });
        }
        let bound = output_bound(matrix, self.config);
        let mut margin = Margin { tensor, accumulator: 0.0, output: bound.map(|_| 0.0) };
        let unit = (-f64::from(linear.out_frac)).exp2();
        let rounding = formats::rounding_units(linear.format, expected);
        for row in 0..linear.rows {
            let sums = row_meaning(linear, row, self.tables);
            let rescaled = (127 * sums.l1) as f64 / f64::from(expected).exp2()
                * f64::from(STEP_MANTISSA_MAX)
                * f64::from(linear.multipliers[row]);
            margin.accumulator = margin.accumulator.max(rescaled / LIMIT as f64);
            let Some(bound) = bound else { continue };
            let bias = linear.bias.get(row).map_or(0.0, |bias| f64::from(*bias) * unit);
            let got = RowBound::new(self.norm, scale::value(linear, row), sums.l2, bias, rounding)
                .in_units(linear.out_frac);
            if got > bound {
                return Err(BoundsError::Output { tensor: margin.tensor, row, got, bound });
            }
            margin.output = margin.output.map(|most| most.max(got / bound));
        }
        Ok(margin)
    }
}

/// Outputs of a norm with gains stay within `bound`.
fn reach(tensor: String, gain: &Gain, bound: f64) -> Result<(), BoundsError> {
    let got = gains::reach(gain);
    if got <= bound { Ok(()) } else { Err(BoundsError::Gain { tensor, got, bound }) }
}

/// Bound of what a norm behind a block gives: of the residual stream where it makes it.
pub(super) fn post_bound(config: &ModelConfig) -> f64 {
    if config.block == Block::PostNorm { RESIDUAL_LIMIT - 1.0 } else { LIMIT as f64 }
}

/// What a row of weights adds up to, in units of its scale.
pub(super) struct RowMeaning {
    /// Bound on the sum of magnitudes: exact for one plane.
    pub(super) l1: u64,
    /// L2 norm.
    pub(super) l2: f64,
}

/// Sums of one row. Table ids must be in range.
pub(super) fn row_meaning(linear: &Linear, row: usize, tables: &Tables) -> RowMeaning {
    let sums = structure::row_sums(linear, row, tables);
    let l2 = match linear.format {
        WeightFormat::Int16 => row_values(linear, row, tables).into_iter().map(|w| w * w).sum::<f64>(),
        WeightFormat::Int8 | WeightFormat::Int4 => sums.squares as f64,
    };
    RowMeaning { l1: sums.l1, l2: l2.sqrt() }
}

/// What the weights of a row mean, in units of its scale.
pub(super) fn row_values(linear: &Linear, row: usize, tables: &Tables) -> Vec<f64> {
    let mut values: Vec<f64> = linear.row_weights(row, &tables.int4).into_iter().map(f64::from).collect();
    values.iter_mut().zip(linear.row_low_parts(row)).for_each(|(w, low)| *w += f64::from(low) / 128.0);
    values
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
    let room = (SCORE_LIMIT / score).log2().floor() as i32;
    8 + shifts - room
}

/// Bound of an output that is proved by Cauchy-Schwarz; `None` where the input has no bounded norm.
#[must_use]
pub fn output_bound(matrix: Matrix, config: &ModelConfig) -> Option<f64> {
    match matrix {
        Matrix::Q | Matrix::K | Matrix::V | Matrix::Gate | Matrix::ExpertGate | Matrix::Router => {
            Some(BOUND_I16)
        }
        Matrix::Up | Matrix::ExpertUp if config.feed_forward == FeedForward::Gated => Some(BOUND_UP),
        Matrix::Up | Matrix::ExpertUp => Some(BOUND_I16),
        Matrix::Head => Some(BOUND_LOGITS),
        Matrix::O | Matrix::Down | Matrix::ExpertDown => None,
    }
}

fn check_embeddings(weights: &ModelWeights) -> Result<(), BoundsError> {
    let config = &weights.config;
    let embed = weights.embed.as_ref().ok_or_else(|| missing(names::EMBED))?;
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
