//! Which models can be proved: pre-norm decoders with RoPE or learned positions, dense feed-forward blocks, int8 or int4 weights. Everything else is
//! refused by name.

use crate::error::PlanError;
use crate::gadget::attention::Axes;
use crate::gadget::linear::{Layer, Part};
use crate::integer::log2_ceil;
use crate::matmul::Matrix;
use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::config::{Activation, Block, FeedForward, ModelConfig, Positions};
use lockstep_base::weights::{LayerWeights, Linear, ModelWeights};

/// Largest magnitude of a bias of the head: differences of logits stay below 2^30.
const HEAD_BIAS_MAX: i64 = 1 << 20;
/// Largest |cosine| + |sine|, in 2^-14; on the unit circle it is 23,170. With it a rotated value is at most 32,767 times as much before its shift, and 2^30 more is below the
/// order of the field.
const ANGLE_MAX: i64 = 24_576;
/// Where a table of the activation has 0.
const ZERO: usize = 4096;

/// The matrices of one layer.
#[derive(Clone, Debug)]
pub struct Matrices<'a> {
    /// What is not a matrix.
    pub weights: &'a LayerWeights,
    /// Queries, a layer for each part of the heads.
    pub q: Vec<Layer<'a>>,
    /// Keys.
    pub k: Vec<Layer<'a>>,
    /// Values.
    pub v: Vec<Layer<'a>>,
    /// Output, a layer for each part of the stream.
    pub o: Vec<Layer<'a>>,
    /// Gate, where there is one, a layer for each part of the block.
    pub gate: Option<Vec<Layer<'a>>>,
    /// Up projection.
    pub up: Vec<Layer<'a>>,
    /// Down projection, a layer for each part of the stream.
    pub down: Vec<Layer<'a>>,
}

/// Some heads of keys and values, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadPart {
    /// The first of them.
    pub first: usize,
    /// How many they are.
    pub count: usize,
    /// Their axes.
    pub axes: Axes,
}

/// Some layers of a model as matrices, with the axes of its vectors as logarithms. The first layers embed, the last ones have the head.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Residual stream, in parts, as logarithms.
    pub stream: Vec<usize>,
    /// Feed-forward block.
    pub ffn: Vec<usize>,
    /// Heads, in parts.
    pub heads: Vec<HeadPart>,
    /// Vocabulary.
    pub vocab: usize,
    /// The number of each layer, and its matrices.
    pub layers: Vec<(usize, Matrices<'a>)>,
    /// Its head, where it is part of it.
    pub head: Option<Layer<'a>>,
}

/// `n` places in order: a power of two, or a half and a quarter of one, of at least `2^least`, if that is enough.
fn in_parts(n: usize, least: usize) -> Vec<Part> {
    let log = log2_ceil(n);
    let part = |first: usize, count: usize, log| Part { first, places: (0..count as u32).collect(), log };
    match log.checked_sub(2) {
        Some(quarter) if n <= 3 << quarter && quarter >= least => {
            let half = 2 << quarter;
            [part(0, half, quarter + 1), part(half, n - half, quarter)].into()
        }
        _ => [part(0, n, log)].into(),
    }
}

/// Those of whole heads: `channels` rows or columns each, `group` heads behind one another for each head of keys.
fn of_heads(heads: &[HeadPart], group: usize, channels: usize) -> Vec<Part> {
    let part = |heads: &HeadPart| {
        let Axes { kv, group: log_group, channels: log_channels, .. } = heads.axes;
        let log_group = if group == 1 { 0 } else { log_group };
        let head = move |at: usize| ((at / group) << log_group) + at % group;
        let places = (0..heads.count * group)
            .flat_map(|at| (0..channels).map(move |c| ((head(at) << log_channels) + c) as u32));
        Part {
            first: heads.first * group * channels,
            places: places.collect(),
            log: kv + log_group + log_channels,
        }
    };
    heads.iter().map(part).collect()
}

impl<'a> Plan<'a> {
    /// The heads, with the axes of attention over `tokens` tokens.
    fn heads(config: &ModelConfig, tokens: usize) -> Vec<HeadPart> {
        let axes = |kv: usize| Axes {
            tokens: log2_ceil(tokens),
            kv,
            group: log2_ceil((config.n_heads / config.n_kv_heads) as usize),
            channels: log2_ceil(config.head_dim as usize),
        };
        let parts = in_parts(config.n_kv_heads as usize, 0).into_iter();
        parts
            .map(|part| HeadPart { first: part.first, count: part.places.len(), axes: axes(part.log) })
            .collect()
    }

    /// The plan of the layers `range`; `weights` may hold more than these.
    ///
    /// # Errors
    /// If something of it has no argument yet, or an identity could wrap.
    pub fn new(weights: &'a ModelWeights, tokens: usize, range: Range<usize>) -> Result<Plan<'a>, PlanError> {
        let config = &weights.config;
        supported(config, tokens)?;
        let layers = held(weights, &range)?;
        turning(weights)?;
        let heads = Plan::heads(config, tokens);
        let (dim, grouped) = (config.head_dim as usize, (config.n_heads / config.n_kv_heads) as usize);
        let (queries, keys) = (of_heads(&heads, grouped, dim), of_heads(&heads, 1, dim));
        let stream = in_parts(config.d_model as usize, 0);
        // Of the block, what is added has no rows, but columns.
        let cols = in_parts(config.down_cols() as usize, log2_ceil(config.hadamard_block() as usize));
        let inner = |part: &Part| Part {
            places: part
                .places
                .iter()
                .copied()
                .filter(|at| part.first + (*at as usize) < config.d_ffn as usize)
                .collect(),
            ..part.clone()
        };
        let rows: Vec<Part> = cols.iter().map(inner).collect();
        let vocab = log2_ceil(config.vocab as usize);
        let tables = &weights.tables.int4;
        let matrix = |weights: &'a Linear| Matrix { weights, tables };
        let layer = |(number, layer): (usize, &'a LayerWeights)| -> Result<_, PlanError> {
            let name = |what: &str| format!("layer {number}, {what}");
            let dense = layer.ffn.dense().ok_or_else(|| unsupported("a mixture of experts"))?;
            let parts = |what: &str, weights: &'a Linear, rows: &[Part], cols: &[Part]| {
                let part = |rows: &Part| Layer::new(&name(what), matrix(weights), rows, cols);
                rows.iter().map(part).collect::<Result<Vec<_>, _>>()
            };
            let gate = |gate: &'a Linear| parts("gate", gate, &rows, &stream);
            let matrices = Matrices {
                weights: layer,
                q: parts("q", &layer.q, &queries, &stream)?,
                k: parts("k", &layer.k, &keys, &stream)?,
                v: parts("v", &layer.v, &keys, &stream)?,
                o: parts("o", &layer.o, &stream, &queries)?,
                gate: dense.gate.as_ref().map(gate).transpose()?,
                up: parts("up", &dense.up, &rows, &stream)?,
                down: parts("down", &dense.down, &stream, &cols)?,
            };
            Ok((number, matrices))
        };
        let layers = range.clone().zip(layers).map(layer).collect::<Result<_, _>>()?;
        let of_head = |head: &'a Linear| -> Result<_, PlanError> {
            let bias = head.bias.iter().map(|bias| i64::from(*bias).abs()).max().unwrap_or(0);
            if bias > HEAD_BIAS_MAX {
                let (place, what) = ("head".into(), "a bias");
                return Err(PlanError::CouldWrap { place, what, got: bias, limit: HEAD_BIAS_MAX });
            }
            let places = (0..config.vocab).collect();
            Layer::new("head", matrix(head), &Part { first: 0, places, log: vocab }, &stream)
        };
        let last = range.end == config.n_layers as usize;
        let head = weights.head.as_ref().filter(|_| last).map(of_head).transpose()?;
        let logs = |parts: &[Part]| parts.iter().map(|part| part.log).collect();
        Ok(Plan { stream: logs(&stream), ffn: logs(&cols), heads, vocab, layers, head })
    }
}

/// The layers `range`, if everything is there that they need, and nothing that has no argument.
fn held<'a>(weights: &'a ModelWeights, range: &Range<usize>) -> Result<&'a [LayerWeights], PlanError> {
    let config = &weights.config;
    let plain = config.feed_forward == FeedForward::Plain;
    let gained = |layer: &LayerWeights| {
        [&layer.q_norm, &layer.k_norm, &layer.attn_post, &layer.ffn_post].into_iter().any(Option::is_some)
    };
    let gates = |layer: &LayerWeights| layer.ffn.dense().is_some_and(|dense| dense.gate.is_some() == plain);
    let last = range.end == config.n_layers as usize;
    let there = |range: &Range<usize>| {
        let first = range.start.checked_sub(weights.first_layer)?;
        weights.layers.get(first..range.end.checked_sub(weights.first_layer)?)
    };
    let missing = || PlanError::Layers { first: range.start, end: range.end };
    let layers = there(range).filter(|layers| !layers.is_empty()).ok_or_else(missing)?;
    if range.end > config.n_layers as usize || (last && weights.head.is_none()) {
        return Err(missing());
    }
    let refused = [
        (weights.embed_norm.is_some() || layers.iter().any(gained), "a norm with gains"),
        (layers.iter().any(gates), "a gate where there should be none, or none where there should be"),
        // Filling behind a plain activation is 0 only then.
        (
            plain
                && config.activation == Activation::Table
                && weights.tables.activation.get(ZERO) != Some(&0),
            "an activation of 0 that is not 0",
        ),
    ];
    match refused.into_iter().find(|(refused, _)| *refused) {
        Some((_, op)) => Err(unsupported(op)),
        None => Ok(layers),
    }
}

/// Angles are on the unit circle, or near: then what is rotated cannot wrap.
fn turning(weights: &ModelWeights) -> Result<(), PlanError> {
    let angles = weights.tables.rope.iter().flat_map(|table| table.as_chunks::<2>().0);
    let got = angles.map(|[c, s]| i64::from(*c).abs() + i64::from(*s).abs()).max().unwrap_or(0);
    let (place, what) = ("tables/rope".into(), "|cosine| + |sine|");
    if got > ANGLE_MAX { Err(PlanError::CouldWrap { place, what, got, limit: ANGLE_MAX }) } else { Ok(()) }
}

fn unsupported(op: &'static str) -> PlanError {
    PlanError::Unsupported {
        place: "the model".into(),
        op,
        expected: "a pre-norm decoder with RoPE or learned positions and dense blocks",
    }
}

fn supported(config: &ModelConfig, tokens: usize) -> Result<(), PlanError> {
    let windowed =
        |kind: &lockstep_base::config::LayerPattern| kind.window > 0 && (kind.window as usize) < tokens;
    let refused = [
        (config.block != Block::PreNorm, "norms behind sublayers"),
        (config.positions == Positions::Alibi, "ALiBi"),
        (config.qk_norm, "norms of queries and keys"),
        (config.score_cap.is_some(), "capped scores"),
        (config.logit_cap.is_some(), "capped logits"),
        (config.experts.is_some(), "a mixture of experts"),
        (config.pooling.is_some(), "an encoder"),
        (config.head_dim > 128, "heads of more than 128 channels"),
        (config.d_model < 2, "a stream of one channel"),
        (config.pattern.iter().any(windowed), "a window that is shorter than the tokens"),
    ];
    match refused.into_iter().find(|(refused, _)| *refused) {
        Some((_, op)) => Err(unsupported(op)),
        None => Ok(()),
    }
}
