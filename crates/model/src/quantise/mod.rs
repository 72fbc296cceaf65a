//! From a float model to integers: the importer's half that computes.
//!
//! ```text
//! FloatModel -> fold -> FoldedModel -> (writes its calibration text, shows its second moments)
//!            -> K centre, equalisation -> GPTQ on exact row scales -> formats -> check -> ModelWeights
//! ```
//! Rules: docs/spec/arithmetic.md (the contract) and its section 9 (what is proved). Floats are fine
//! here: nothing in this module is reachable from serving. The same source, options and seed give the
//! same bytes, whatever the number of threads; between platforms the last bit of the mathematical
//! library's exp and sin may differ, which is why bundles, not sources, carry a root.

pub mod calibrate;
pub mod check;
mod equalise;
pub mod fold;
pub mod folded;
mod formats;
mod gptq;
pub mod hadamard;
mod import;
pub mod int4;
pub mod linalg;
mod pack;
mod progress;
mod report;
mod scale;
mod supported;
mod tables;

pub use check::{BoundsError, Margin, check};
pub use import::{ImportError, ImportOptions, Imported, import, import_source};
pub use lockstep_base::weights::WeightFormat;
pub use progress::{Progress, Stage, Update};
pub use report::{MatrixReport, Report};

use crate::bundle::names;
use crate::bundle::structure::Matrix;
use crate::source::{FloatConfig, FloatModel, Positions};
use calibrate::{CalibrationRun, LayerMoments};
use equalise::Rule;
use fold::Rotations;
use folded::{FoldedLayer, FoldedLinear, FoldedModel};
use formats::RowBound;
use gptq::{Factor, RoundedRow};
use int4::TableSearch;
use linalg::{Dense, dot};
use lockstep_base::config::{self, FeedForward, ModelConfig, OPSET};
use lockstep_base::limits::CONTEXT_MAX;
use lockstep_base::weights::{DenseWeights, FfnWeights, LayerWeights, Linear, ModelWeights};

/// Fractional bits of the residual stream unless the model asks for others.
const RESIDUAL_FRAC: i32 = 16;
/// Room for residual values that calibration did not see.
const RESIDUAL_ROOM: f64 = 8.0;
/// Room over the embedding where there was no calibration.
const RESIDUAL_ROOM_UNSEEN: f64 = 512.0;
/// Fewer fractional bits than this in a 16-bit format deserve a warning.
const FRAC_WARNING: i8 = 7;

/// How to quantise.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantiseOptions {
    /// Storage of the layers; the head is always int8, embeddings are i16.
    pub weights: WeightFormat,
    /// Seed of rotations and calibration text.
    pub seed: u64,
    /// Tokens of calibration text; 0 rounds to nearest and leaves keys uncentred.
    pub calibration_tokens: usize,
    /// Rotations to fold in.
    pub rotations: Rotations,
}

impl Default for QuantiseOptions {
    fn default() -> Self {
        QuantiseOptions {
            weights: WeightFormat::Int8,
            seed: 0,
            calibration_tokens: 2_000,
            rotations: Rotations::default(),
        }
    }
}

/// What a float model does not know about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// A name for people.
    pub name: String,
    /// Begin-of-sequence token.
    pub bos: Option<u32>,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
}

/// Why a model could not be quantised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantiseError {
    /// The integers do not know something that the model has.
    #[error("{feature} cannot be quantised yet")]
    Unsupported {
        /// What it is.
        feature: &'static str,
    },
    /// A row needs a larger scale than the grid has.
    #[error("{tensor}, row {row}: the largest weight is {got}, expected at most {bound}")]
    RowScale {
        /// The tensor.
        tensor: String,
        /// The row.
        row: usize,
        /// Largest magnitude of the row after folding.
        got: f64,
        /// Largest that the grid can hold.
        bound: f64,
    },
    /// No number of fractional bits keeps a format.
    #[error("{tensor}: outputs reach {got:.0}, expected at most {bound} in a format without fractional bits")]
    Format {
        /// The tensor.
        tensor: String,
        /// Bound by Cauchy-Schwarz.
        got: f64,
        /// Bound of the format.
        bound: f64,
    },
    /// The model's numbers exceed the specification's.
    #[error("config: {0}")]
    Config(#[from] config::ConfigError),
    /// A bound of the finished model does not hold.
    #[error("interval check: {0}")]
    Bounds(#[from] BoundsError),
}

/// Quantises `model`.
///
/// # Errors
/// [`QuantiseError`], naming the tensor and row.
pub fn quantise(
    model: &FloatModel,
    facts: &ModelFacts,
    options: &QuantiseOptions,
    progress: &mut Progress<'_>,
) -> Result<(ModelWeights, Report), QuantiseError> {
    supported::check(model)?;
    let mut config = integer_config(&model.config, facts);
    config.validate()?; // before any work: the shape is known
    let folded = fold::fold(model, options.rotations, options.seed);
    let text = calibrate::write_text(
        &folded,
        options.calibration_tokens,
        facts.bos,
        &facts.eos,
        options.seed ^ CALIBRATION_SEED,
        progress,
    );
    let mut report =
        Report { calibration_tokens: text.tokens(), residual_max: text.residual_max, ..Report::default() };
    config.residual_frac = residual_frac(&folded, &mut report);
    config.norm_eps = (f64::from(config.d_model)
        * model.config.norm_eps
        * f64::from(2 * i32::from(config.residual_frac)).exp2())
    .round() as u64;

    let mut run = (text.tokens() > 0).then(|| CalibrationRun::new(&folded, &text.texts));
    let mut rounder = Rounder {
        config: &config,
        format: options.weights,
        search: TableSearch::default(),
        report,
        progress,
        done: 0,
    };
    let mut layers = Vec::with_capacity(folded.layers.len());
    for index in 0..folded.layers.len() {
        let seen = run.as_mut().map(|run| run.layer(&folded, index));
        let layer = equalised(&folded.layers[index], seen.as_ref(), &model.config, &config);
        layers.push(rounder.layer(index, &layer, seen.as_ref())?);
    }
    let seen = run.map(|run| run.head(&folded));
    rounder.format = WeightFormat::Int8;
    let factor = Factor::new(seen.as_ref(), config.d_padded() as usize, WeightFormat::Int8);
    let head = rounder.matrix(names::HEAD.into(), Matrix::Head, &folded.head, seen.as_ref(), &factor)?;
    let mut report = rounder.report;

    let context = config.context as usize;
    let positions = folded.positions.as_ref().map(|table| Dense {
        rows: context,
        cols: table.cols,
        data: table.data[..context * table.cols].to_vec(),
    });
    let weights = ModelWeights {
        tables: tables::tables(&model.config, context, options.weights == WeightFormat::Int4),
        embed: Some(pack::embedding(&folded.embed)),
        positions: positions.as_ref().map(pack::embedding),
        embed_norm: None,
        first_layer: 0,
        layers,
        head: Some(head),
        config,
    };
    progress.report(Stage::Check, "bounds", 0, 1);
    report.margins = check(&weights)?;
    progress.report(Stage::Check, "bounds", 1, 1);
    Ok((weights, report))
}

/// Keeps the calibration text independent of the rotations.
const CALIBRATION_SEED: u64 = 0x6361_6c69_6272_6174;

/// The shape in integers; formats that depend on values are set later.
fn integer_config(config: &FloatConfig, facts: &ModelFacts) -> ModelConfig {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    ModelConfig {
        opset: OPSET.into(),
        name: facts.name.clone(),
        n_layers: small(config.n_layers),
        d_model: small(config.d_model),
        n_heads: small(config.n_heads),
        n_kv_heads: small(config.n_kv_heads),
        head_dim: small(config.head_dim),
        d_ffn: small(config.ffn_hidden),
        vocab: small(config.vocab),
        context: small(config.context).min(CONTEXT_MAX),
        residual_frac: RESIDUAL_FRAC as u8,
        norm_eps: 0,
        positions: match config.positions {
            Positions::Learned => config::Positions::Learned,
            Positions::Rope(_) | Positions::Alibi => config::Positions::Rope, // ALiBi was refused
        },
        feed_forward: if config.gated { FeedForward::Gated } else { FeedForward::Plain },
        bos: facts.bos,
        eos: facts.eos.clone(),
        rope_dim: if matches!(config.positions, Positions::Rope(_)) { small(config.head_dim) } else { 0 },
        rope_tables: matches!(config.positions, Positions::Rope(_)).into(),
        ..ModelConfig::decoder()
    }
}

/// R: 16, more if the smallest embedding would be coarse, less if the largest residual value would not fit.
fn residual_frac(folded: &FoldedModel, report: &mut Report) -> u8 {
    let rms =
        |row: usize| (dot(folded.embed.row(row), folded.embed.row(row)) / folded.embed.cols as f64).sqrt();
    let smallest = (0..folded.embed.rows).map(rms).filter(|rms| *rms > 0.0).fold(f64::INFINITY, f64::min);
    let wanted = if smallest.is_finite() {
        (1.02 * check::COARSE_MIN / smallest).log2().ceil() as i32
    } else {
        RESIDUAL_FRAC
    };
    let room = if report.calibration_tokens > 0 {
        RESIDUAL_ROOM
    } else {
        let tables = [Some(&folded.embed), folded.positions.as_ref()];
        report.residual_max = tables
            .into_iter()
            .flatten()
            .map(|table| table.data.iter().fold(0.0f64, |most, x| most.max(x.abs())))
            .sum();
        RESIDUAL_ROOM_UNSEEN
    };
    let most =
        (f64::from(1 << 29) / (room * report.residual_max).max(f64::MIN_POSITIVE)).log2().floor() as i32;
    let frac = wanted.max(RESIDUAL_FRAC).min(most).clamp(4, 24);
    if frac < wanted {
        report.warnings.push(format!("the smallest embedding (rms {smallest:.2e}) asks for {wanted} fractional bits of the residual stream, its largest value ({:.1}) allows {frac}", report.residual_max));
    }
    report.residual_frac = frac as u8;
    frac as u8
}

/// A layer with its K centre, and with scale moved between q and k: by the spread of the keys, or, where
/// the formats would have too few bits for the scores, by their bounds.
fn equalised(
    layer: &FoldedLayer,
    seen: Option<&LayerMoments>,
    float: &FloatConfig,
    config: &ModelConfig,
) -> FoldedLayer {
    let reach = |linear: &FoldedLinear, row: usize| float_reach(linear, row, config);
    let frac = |linear: &FoldedLinear| {
        let most = (0..linear.weight.rows).map(|row| reach(linear, row)).fold(0.0, f64::max);
        (formats::BOUND_I16 / most).log2().floor().min(14.0) as i32
    };
    let mut out = layer.clone();
    for rule in [Rule::Spread, Rule::Bound] {
        out = layer.clone();
        if let Some(seen) = seen {
            equalise::set_center(&mut out, seen);
            equalise::equalise(&mut out, seen, float, rule, reach);
        }
        equalise::balance(&mut out, float, formats::BOUND_I16, reach);
        if frac(&out.q) + frac(&out.k) >= check::score_frac_min(config) {
            break;
        }
    }
    out
}

/// Bound of one output row of a float linear that reads the normalised residual stream.
fn float_reach(linear: &FoldedLinear, row: usize, config: &ModelConfig) -> f64 {
    let l2 = dot(linear.weight.row(row), linear.weight.row(row)).sqrt();
    RowBound::new(config.d_model, 1.0, l2, linear.bias.as_ref().map_or(0.0, |bias| bias[row]), 0).in_units(0)
}

/// Rounds matrix after matrix and keeps the books.
struct Rounder<'a, 'p> {
    config: &'a ModelConfig,
    format: WeightFormat,
    search: TableSearch,
    report: Report,
    progress: &'a mut Progress<'p>,
    done: usize,
}

impl Rounder<'_, '_> {
    fn layer(
        &mut self,
        index: usize,
        layer: &FoldedLayer,
        seen: Option<&LayerMoments>,
    ) -> Result<LayerWeights, QuantiseError> {
        let config = self.config;
        let format = self.format;
        let factor = |moments: Option<&Dense>, cols: u32| Factor::new(moments, cols as usize, format);
        let name = |matrix: Matrix| names::layer(index, matrix.name());
        let attn = factor(seen.map(|seen| &seen.attn_in), config.d_padded());
        let o = factor(seen.map(|seen| &seen.o_in), config.o_cols());
        let ffn = factor(seen.map(|seen| &seen.ffn_in), config.d_padded());
        let down = factor(seen.map(|seen| &seen.down_in), config.down_cols());
        let attn_in = seen.map(|seen| &seen.attn_in);
        let ffn_in = seen.map(|seen| &seen.ffn_in);
        let q = self.matrix(name(Matrix::Q), Matrix::Q, &layer.q, attn_in, &attn)?;
        let k = self.matrix(name(Matrix::K), Matrix::K, &layer.k, attn_in, &attn)?;
        let v = self.matrix(name(Matrix::V), Matrix::V, &layer.v, attn_in, &attn)?;
        let o = self.matrix(name(Matrix::O), Matrix::O, &layer.o, seen.map(|seen| &seen.o_in), &o)?;
        let gate = layer
            .gate
            .as_ref()
            .map(|gate| self.matrix(name(Matrix::Gate), Matrix::Gate, gate, ffn_in, &ffn))
            .transpose()?;
        let up = self.matrix(name(Matrix::Up), Matrix::Up, &layer.up, ffn_in, &ffn)?;
        let down = self.matrix(
            name(Matrix::Down),
            Matrix::Down,
            &layer.down,
            seen.map(|seen| &seen.down_in),
            &down,
        )?;
        let unit = f64::from(k.out_frac).exp2();
        let k_center = layer.k_center.iter().map(|c| (c * unit).round() as i32).collect();
        Ok(LayerWeights {
            q,
            k,
            v,
            o,
            k_center,
            q_norm: None,
            k_norm: None,
            attn_post: None,
            ffn: FfnWeights::Dense(DenseWeights { gate, up, down }),
            ffn_post: None,
        })
    }

    fn matrix(
        &mut self,
        tensor: String,
        matrix: Matrix,
        linear: &FoldedLinear,
        moments: Option<&Dense>,
        factor: &Factor,
    ) -> Result<Linear, QuantiseError> {
        let total = (0..self.config.n_layers as usize)
            .map(|layer| Matrix::of_layer(self.config, layer).len())
            .sum::<usize>()
            + 1;
        self.progress.report(Stage::Quantise, &tensor, self.done, total);
        let weight = linear.weight.padded_cols(matrix.shape(self.config).1 as usize);
        let rounded = gptq::round(&weight, factor, self.format, &self.search);
        let mut rows = Vec::with_capacity(rounded.len());
        for (row, rounded) in rounded.into_iter().enumerate() {
            rows.push(rounded.ok_or_else(|| {
                let got = weight.row(row).iter().fold(0.0f64, |most, w| most.max(w.abs()));
                QuantiseError::RowScale { tensor: tensor.clone(), row, got, bound: 31.0 * 127.0 }
            })?);
        }
        let mut packed = pack::pack(&rows, weight.cols, self.format);
        let bias = linear.bias.as_deref();
        self.set_formats(&tensor, matrix, &mut packed, &rows, bias)?;
        let (weight_error, output_error) = errors(&weight, &rows, moments);
        self.report.matrices.push(MatrixReport {
            tensor,
            shape: (packed.rows, packed.cols),
            bits: crate::bundle::bits_of(self.format),
            weight_error,
            output_error,
            pre_shift: packed.pre_shift,
            out_frac: packed.out_frac,
        });
        self.done += 1;
        Ok(packed)
    }

    /// s1, F and the biases in F.
    fn set_formats(
        &mut self,
        tensor: &str,
        matrix: Matrix,
        packed: &mut Linear,
        rows: &[RoundedRow],
        bias: Option<&[f64]>,
    ) -> Result<(), QuantiseError> {
        let l1 = |row: &RoundedRow| row.weights.iter().map(|w| u64::from(w.unsigned_abs())).sum::<u64>();
        packed.pre_shift = formats::pre_shift(rows.iter().map(l1).max().unwrap_or(0));
        let allowed = matrix.out_fracs(self.config);
        packed.out_frac = match check::output_bound(matrix, self.config) {
            None => *allowed.end(),
            Some(bound) => {
                let bounds: Vec<RowBound> = rows
                    .iter()
                    .enumerate()
                    .map(|(at, row)| self.row_bound(row, bias.map_or(0.0, |bias| bias[at]), packed.pre_shift))
                    .collect();
                let frac = formats::fitting_frac(&bounds, bound, *allowed.end());
                if frac < *allowed.start() {
                    let got = bounds.iter().fold(0.0f64, |most, bound| most.max(bound.in_units(0)));
                    return Err(QuantiseError::Format { tensor: tensor.into(), got, bound });
                }
                if frac < FRAC_WARNING {
                    self.report.warnings.push(format!("{tensor} has only {frac} fractional bits"));
                }
                frac
            }
        };
        let unit = f64::from(packed.out_frac).exp2();
        packed.bias = bias.unwrap_or_default().iter().map(|b| (b * unit).round() as i32).collect();
        Ok(())
    }

    fn row_bound(&self, row: &RoundedRow, bias: f64, pre_shift: u8) -> RowBound {
        let squares: f64 = row.weights.iter().map(|w| f64::from(*w).powi(2)).sum();
        // One unit more than the bias covers its own rounding.
        RowBound::new(
            self.config.d_model,
            row.scale.map_or(0.0, scale::RowScale::value),
            squares.sqrt(),
            bias,
            pre_shift,
        )
    }
}

/// Relative root mean square errors of weights and, by the second moments, of outputs.
fn errors(weight: &Dense, rows: &[RoundedRow], moments: Option<&Dense>) -> (f64, Option<f64>) {
    let (mut error, mut total) = (0.0, 0.0);
    let (mut output_error, mut output_total) = (0.0, 0.0);
    for (at, row) in rows.iter().enumerate() {
        let exact = weight.row(at);
        let scale = row.scale.map_or(0.0, scale::RowScale::value);
        let difference: Vec<f64> =
            exact.iter().zip(&row.weights).map(|(w, code)| f64::from(*code) * scale - w).collect();
        error += dot(&difference, &difference);
        total += dot(exact, exact);
        if let Some(moments) = moments {
            output_error += quadratic(moments, &difference);
            output_total += quadratic(moments, exact);
        }
    }
    let relative = |error: f64, total: f64| if total > 0.0 { (error.max(0.0) / total).sqrt() } else { 0.0 };
    (relative(error, total), moments.map(|_| relative(output_error, output_total)))
}

/// `x^T M x` over the columns that M has.
fn quadratic(moments: &Dense, x: &[f64]) -> f64 {
    (0..moments.rows).map(|row| x[row] * dot(moments.row(row), &x[..moments.cols])).sum()
}
