//! Which models can be proved: pre-norm decoders with RoPE or learned positions, dense feed-forward blocks, int8 or int4 weights. Everything else is
//! refused by name.

use crate::error::PlanError;
use crate::gadget::attention::Axes;
use crate::gadget::linear::Layer;
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
    /// Queries.
    pub q: Layer<'a>,
    /// Keys.
    pub k: Layer<'a>,
    /// Values.
    pub v: Layer<'a>,
    /// Output.
    pub o: Layer<'a>,
    /// Gate, where there is one.
    pub gate: Option<Layer<'a>>,
    /// Up projection.
    pub up: Layer<'a>,
    /// Down projection.
    pub down: Layer<'a>,
}

/// Some layers of a model as matrices, with the axes of its vectors as logarithms. The first layers embed, the last ones have the head.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Residual stream.
    pub stream: usize,
    /// Feed-forward block.
    pub ffn: usize,
    /// Vocabulary.
    pub vocab: usize,
    /// The number of each layer, and its matrices.
    pub layers: Vec<(usize, Matrices<'a>)>,
    /// Its head, where it is part of it.
    pub head: Option<Layer<'a>>,
}

/// Where `n` rows or columns lie that are in order.
fn in_order(n: usize, log: usize) -> (Vec<u32>, usize) {
    ((0..n as u32).collect(), log)
}

impl<'a> Plan<'a> {
    /// The axes of attention over `tokens` tokens.
    #[must_use]
    pub fn axes(config: &ModelConfig, tokens: usize) -> Axes {
        Axes {
            tokens: log2_ceil(tokens),
            kv: log2_ceil(config.n_kv_heads as usize),
            group: log2_ceil((config.n_heads / config.n_kv_heads) as usize),
            channels: log2_ceil(config.head_dim as usize),
        }
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
        let Axes { kv, group, channels, .. } = Plan::axes(config, tokens);
        let (heads, dim) = (config.n_kv_heads as usize, config.head_dim as usize);
        let grouped = (config.n_heads / config.n_kv_heads) as usize;
        let place = |head: usize, channel: usize| {
            let (of, within) = (head / grouped, head % grouped);
            ((((of << group) + within) << channels) + channel) as u32
        };
        let queries: Vec<u32> =
            (0..heads * grouped).flat_map(|head| (0..dim).map(move |c| place(head, c))).collect();
        let keys: Vec<u32> =
            (0..heads).flat_map(|head| (0..dim).map(move |c| ((head << channels) + c) as u32)).collect();
        let (stream, ffn) = (log2_ceil(config.d_model as usize), log2_ceil(config.down_cols() as usize));
        let vocab = log2_ceil(config.vocab as usize);
        let tables = &weights.tables.int4;
        let from_stream = || in_order(config.d_model as usize, stream);
        let wide = |n| in_order(n, ffn);
        let matrix = |weights: &'a Linear| Matrix { weights, tables };
        let layer = |(number, layer): (usize, &'a LayerWeights)| -> Result<_, PlanError> {
            let name = |what: &str| format!("layer {number}, {what}");
            let dense = layer.ffn.dense().ok_or_else(|| unsupported("a mixture of experts"))?;
            let inner = config.d_ffn as usize;
            let matrices = Matrices {
                weights: layer,
                q: Layer::new(
                    &name("q"),
                    matrix(&layer.q),
                    (queries.clone(), kv + group + channels),
                    from_stream(),
                )?,
                k: Layer::new(&name("k"), matrix(&layer.k), (keys.clone(), kv + channels), from_stream())?,
                v: Layer::new(&name("v"), matrix(&layer.v), (keys.clone(), kv + channels), from_stream())?,
                o: Layer::new(
                    &name("o"),
                    matrix(&layer.o),
                    from_stream(),
                    (queries.clone(), kv + group + channels),
                )?,
                gate: dense
                    .gate
                    .as_ref()
                    .map(|gate| Layer::new(&name("gate"), matrix(gate), wide(inner), from_stream()))
                    .transpose()?,
                up: Layer::new(&name("up"), matrix(&dense.up), wide(inner), from_stream())?,
                down: Layer::new(
                    &name("down"),
                    matrix(&dense.down),
                    from_stream(),
                    wide(config.down_cols() as usize),
                )?,
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
            Layer::new("head", matrix(head), in_order(config.vocab as usize, vocab), from_stream())
        };
        let last = range.end == config.n_layers as usize;
        let head = weights.head.as_ref().filter(|_| last).map(of_head).transpose()?;
        Ok(Plan { stream, ffn, vocab, layers, head })
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
