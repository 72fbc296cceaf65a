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

mod adapter;
pub mod calibrate;
mod centre;
pub mod check;
mod equalise;
pub mod fold;
pub mod folded;
pub(crate) mod formats;
mod gains;
mod gptq;
pub mod hadamard;
mod import;
pub mod int4;
pub mod linalg;
mod pack;
mod progress;
mod report;
mod rounder;
mod scale;
mod shape;
mod stream;
mod supported;
mod tables;
mod text;
pub mod weights;

pub use adapter::{AdapterImportError, AdapterOptions, ImportedAdapter, import_adapter};
pub use check::{BoundsError, Margin, check};
pub use import::{ImportError, ImportOptions, Imported, import, import_source};
pub use lockstep_base::weights::WeightFormat;
pub use progress::{Progress, Stage, Update};
pub use report::{ContextLimit, ContextReport, KindReport, MatrixReport, Report, SiteReport};
pub use text::calibration_texts;

use crate::bundle::names;
use crate::bundle::structure::Matrix;
use crate::source::FloatModel;
use calibrate::CalibrationRun;
use fold::Rotations;
use folded::{FoldedFfn, FoldedModel};
use lockstep_base::config::{self, ModelConfig};
use lockstep_base::weights::ModelWeights;
use rounder::{Rounder, Seen};
use shape::RESIDUAL_FRAC;

/// Room for residual values that calibration did not see.
const RESIDUAL_ROOM: f64 = 8.0;
/// Room over the embedding where there was no calibration.
const RESIDUAL_ROOM_UNSEEN: f64 = 512.0;
/// Room over what is proved of norms that make the residual stream: their gains are rounded.
const RESIDUAL_ROOM_PROVED: f64 = 1.01;

/// How to quantise.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantiseOptions {
    /// Storage of the layers; embeddings are i16. Experts stay int8 where this is int16, routers and the keys
    /// of grouped heads where it is int4.
    pub weights: WeightFormat,
    /// Storage of the head.
    pub head: WeightFormat,
    /// Seed of rotations and calibration text.
    pub seed: u64,
    /// Tokens of calibration text; 0 rounds to nearest and leaves keys uncentred.
    pub calibration_tokens: usize,
    /// Texts to calibrate by, instead of those that the model writes.
    pub calibration_texts: Vec<Vec<u32>>,
    /// Rotations to fold in.
    pub rotations: Rotations,
    /// Bits left free in the 16-bit formats of q, k, v, gate and up and in the residual stream, for what adapters may add.
    /// Models that are wide have room enough: what is proved is `sqrt(width)` times what is usual.
    pub adapter_bits: u8,
}

impl Default for QuantiseOptions {
    fn default() -> Self {
        QuantiseOptions {
            weights: WeightFormat::Int8,
            head: WeightFormat::Int8,
            seed: 0,
            calibration_tokens: 2_000,
            calibration_texts: Vec::new(),
            rotations: Rotations::default(),
            adapter_bits: 0,
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
    /// A gain is beyond its grid, or its outputs beyond their format.
    #[error("{tensor}, row {row}: the gain is {got}, which takes outputs beyond {bound}")]
    Gain {
        /// The tensor.
        tensor: String,
        /// The row.
        row: usize,
        /// The gain after folding.
        got: f64,
        /// Bound of the outputs.
        bound: f64,
    },
    /// No table covers a soft cap.
    #[error("the soft cap of {what} is {got:.0} units, expected at most 9586980")]
    SoftCap {
        /// Of what.
        what: &'static str,
        /// The cap in integer units.
        got: f64,
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
    let mut config = shape::integer_config(&model.config, facts)?;
    config.validate()?; // before any work: the shape is known
    let folded = fold::fold(model, options.rotations, options.seed);
    let text = match options.calibration_texts.is_empty() {
        false => calibrate::given_text(&folded, options.calibration_texts.clone(), progress),
        true => calibrate::write_text(
            &folded,
            options.calibration_tokens,
            facts.bos,
            &facts.eos,
            options.seed ^ CALIBRATION_SEED,
            progress,
        ),
    };
    let mut report =
        Report { calibration_tokens: text.tokens(), residual_max: text.residual_max, ..Report::default() };
    if folded.head.is_none() && text.tokens() > 0 && options.calibration_texts.is_empty() {
        report.warnings.push(RANDOM_TOKENS.into());
    }
    config.residual_frac = residual_frac(&folded, options.adapter_bits, &mut report);
    report.warnings.extend(shape::padding(&model.config));
    config.norm_eps = (f64::from(config.d_model)
        * model.config.norm_eps
        * f64::from(2 * i32::from(config.residual_frac)).exp2())
    .round() as u64;

    let mut run = (text.tokens() > 0).then(|| CalibrationRun::new(&folded, &text.texts));
    let formats = (options.weights, options.head);
    let mut rounder =
        Rounder::new(&config, &model.config, formats, matrices_of(&folded, &config), report, progress);
    rounder.adapter_bits = options.adapter_bits;
    let embed_norm = folded.embed_norm.as_ref();
    let embed_norm = embed_norm.map(|norm| rounder.post_norm(names::EMBED_NORM.into(), norm)).transpose()?;
    let mut layers = Vec::with_capacity(folded.layers.len());
    for (index, layer) in folded.layers.iter().enumerate() {
        let seen = run.as_mut().map(|run| run.layer(&folded, index));
        rounder.report.sites.extend(seen.iter().flat_map(|seen| SiteReport::of_layer(index, seen)));
        layers.push(rounder.layer(index, layer, seen.as_ref())?);
    }
    let head = match &folded.head {
        Some(head) => {
            let seen = run.map(|run| run.head(&folded));
            rounder.report.sites.extend(seen.iter().map(|seen| SiteReport::new("head_in".into(), seen)));
            let seen = Seen::new(seen.as_ref(), config.d_padded(), options.head);
            Some(rounder.matrix(names::HEAD, Matrix::Head, head, &seen)?)
        }
        None => None,
    };
    let mut report = rounder.report;
    report.context = Some(ContextReport::of_model(model.config.context));
    let logit_cap = head
        .as_ref()
        .zip(model.config.logit_softcap)
        .map(|(head, cap)| cap * f64::from(head.out_frac).exp2());
    config.logit_cap = logit_cap.map(|cap| shape::soft_cap("logits", cap)).transpose()?;

    let context = config.context as usize;
    let positions = folded.positions.as_ref().map(|table| weights::Weights {
        rows: context,
        cols: table.cols,
        data: table.data[..context * table.cols].to_vec(),
    });
    let with_int4 = [options.weights, options.head].contains(&WeightFormat::Int4);
    let weights = ModelWeights {
        tables: tables::tables(&model.config, &config, logit_cap, with_int4),
        embed: Some(pack::embedding(&folded.embed)),
        positions: positions.as_ref().map(pack::embedding),
        embed_norm,
        first_layer: 0,
        layers,
        head,
        config,
    };
    progress.report(Stage::Check, "bounds", 0, 1);
    report.margins = check(&weights)?;
    progress.report(Stage::Check, "bounds", 1, 1);
    Ok((weights, report))
}

/// What an encoder without a calibration text is told.
const RANDOM_TOKENS: &str = "an encoder writes no text to be calibrated by, so it saw random tokens; a calibration text brings int4 much closer";

/// Keeps the calibration text independent of the rotations.
const CALIBRATION_SEED: u64 = 0x6361_6c69_6272_6174;

/// Linear layers to be rounded.
fn matrices_of(folded: &FoldedModel, config: &ModelConfig) -> usize {
    let gates = usize::from(folded.config.gated);
    let of_layer = |layer: &folded::FoldedLayer| {
        let router = usize::from(matches!(layer.ffn, FoldedFfn::Experts { .. }));
        4 + router + layer.ffn.networks().len() * (2 + gates)
    };
    folded.layers.iter().map(of_layer).sum::<usize>() + usize::from(config.pooling.is_none())
}

/// R: 16, more if the smallest embedding would be coarse, less if the largest residual value would not fit.
fn residual_frac(folded: &FoldedModel, adapter_bits: u8, report: &mut Report) -> u8 {
    let root = (folded.embed.cols as f64).sqrt();
    let smallest = (0..folded.embed.rows)
        .map(|row| folded.embed.row_norm(row) / root)
        .filter(|rms| *rms > 0.0)
        .fold(f64::INFINITY, f64::min);
    let wanted = if smallest.is_finite() {
        (1.02 * check::COARSE_MIN / smallest).log2().ceil() as i32
    } else {
        RESIDUAL_FRAC
    };
    let proved = proved_reach(folded);
    let room = if report.calibration_tokens > 0 {
        RESIDUAL_ROOM
    } else if proved > 0.0 {
        report.residual_max = proved;
        RESIDUAL_ROOM
    } else {
        let tables = [Some(&folded.embed), folded.positions.as_ref()];
        report.residual_max = tables
            .into_iter()
            .flatten()
            .map(|table| table.data.iter().fold(0.0f64, |most, x| most.max(f64::from(x.abs()))))
            .sum();
        RESIDUAL_ROOM_UNSEEN
    };
    let room = room * f64::from(adapter_bits).exp2();
    let largest = (room * report.residual_max).max(RESIDUAL_ROOM_PROVED * proved).max(f64::MIN_POSITIVE);
    let most = (f64::from(1 << 28) / largest).log2().floor() as i32;
    let frac = wanted.max(RESIDUAL_FRAC).min(most).clamp(4, 24);
    if frac < wanted {
        report.warnings.push(format!("the smallest embedding (rms {smallest:.2e}) asks for {wanted} fractional bits of the residual stream, its largest value ({:.1}) allows {frac}", report.residual_max));
    }
    report.residual_frac = frac as u8;
    frac as u8
}

/// What norms behind blocks can put into the residual stream at most; 0 where they do not make it.
fn proved_reach(folded: &FoldedModel) -> f64 {
    let of_layers = folded.layers.iter().flat_map(|layer| [&layer.attn_post, &layer.ffn_post]);
    let Some(first) = &folded.embed_norm else { return 0.0 };
    std::iter::once(first)
        .chain(of_layers.flatten())
        .flat_map(|norm| {
            let size = gains::normalised(norm.gain.len());
            let offsets = norm.offset.iter().flatten().chain(std::iter::repeat(&0.0));
            norm.gain.iter().zip(offsets).map(move |(gain, offset)| gain.abs() * size + offset.abs())
        })
        .fold(0.0, f64::max)
}
