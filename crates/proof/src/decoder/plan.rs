//! Which models can be proved: all decoders and encoders of the arithmetic, but for the narrowest. What is refused is refused by name: so is whatever does not fit its
//! configuration, or could wrap.

use crate::error::PlanError;
use crate::gadget::attention::Axes;
use crate::gadget::cap::Cap;
use crate::gadget::gain;
use crate::gadget::linear::{Layer, Part};
use crate::integer::log2_ceil;
use crate::matmul::Matrix;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::{Range, RangeInclusive};
use lockstep_base::adapter::{AdapterWeights, LowRank, Target};
use lockstep_base::config::{Activation, Block, FeedForward, ModelConfig, Positions};
use lockstep_base::weights::{DenseWeights, FfnWeights, Gain, LayerWeights, Linear, ModelWeights};

/// Largest magnitude of a bias of the head: differences of logits stay below 2^30.
const HEAD_BIAS_MAX: i64 = 1 << 20;
/// Largest |cosine| + |sine|, in 2^-14; on the unit circle it is 23,170. With it a rotated value is at most 32,767 times as much before its shift, and 2^30 more is below the
/// order of the field.
const ANGLE_MAX: i64 = 24_576;
/// Fractional bits of what a router gives.
const ROUTER_FRACS: RangeInclusive<i8> = 0..=12;
/// Fractional bits of what is between the matrices of an adapter.
const ADAPTER_FRACS: RangeInclusive<i8> = 0..=14;
/// Largest mantissa of a slope.
const SLOPE_MAX: i64 = 4095;
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
    /// Who chooses among the networks, where they are experts.
    pub router: Option<Layer<'a>>,
    /// One network, or the experts.
    pub networks: Vec<Network<'a>>,
    /// What is added to them.
    pub adapters: Adapters<'a>,
}

/// What an adapter adds to one matrix: B times the codes of A times what the matrix reads.
#[derive(Clone, Debug)]
pub struct Adapted<'a> {
    /// A.
    pub a: Layer<'a>,
    /// B, a layer for each part of the matrix's rows.
    pub b: Vec<Layer<'a>>,
    /// Fractional bits of what A gives.
    pub frac: i64,
    /// log2 of its rows.
    pub log_rank: usize,
}

/// What an adapter adds to the matrices of a layer.
#[derive(Clone, Debug, Default)]
pub struct Adapters<'a> {
    /// Queries.
    pub q: Option<Adapted<'a>>,
    /// Keys.
    pub k: Option<Adapted<'a>>,
    /// Values.
    pub v: Option<Adapted<'a>>,
    /// Output.
    pub o: Option<Adapted<'a>>,
    /// Gate.
    pub gate: Option<Adapted<'a>>,
    /// Up projection.
    pub up: Option<Adapted<'a>>,
    /// Down projection.
    pub down: Option<Adapted<'a>>,
}

/// The matrices of a feed-forward network.
#[derive(Clone, Debug)]
pub struct Network<'a> {
    /// Gate, where there is one, a layer for each part of the block.
    pub gate: Option<Vec<Layer<'a>>>,
    /// Up projection.
    pub up: Vec<Layer<'a>>,
    /// Down projection, a layer for each part of the stream.
    pub down: Vec<Layer<'a>>,
    /// Fractional bits of what the down projection reads, before its step.
    pub fracs: Fracs,
}

/// Fractional bits of what a network computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fracs {
    /// Of the gate.
    pub gate: i32,
    /// Of the up projection.
    pub up: i32,
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
    /// Channels of the residual stream, in parts.
    pub stream: Vec<Part>,
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
    /// Whether the model ends with these layers.
    pub ends: bool,
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

    /// The plan of the layers `range` over so many positions; `weights` and `adapter` may hold more than these.
    ///
    /// # Errors
    /// If something of it has no argument yet, or an identity could wrap.
    pub fn new(
        weights: &'a ModelWeights,
        adapter: Option<&'a AdapterWeights>,
        positions: usize,
        range: Range<usize>,
    ) -> Result<Plan<'a>, PlanError> {
        let config = &weights.config;
        supported(config)?;
        let layers = held(weights, &range)?;
        turning(weights)?;
        tables(weights)?;
        let heads = Plan::heads(config, positions);
        let (dim, grouped) = (config.head_dim as usize, (config.n_heads / config.n_kv_heads) as usize);
        let (queries, keys) = (of_heads(&heads, grouped, dim), of_heads(&heads, 1, dim));
        // What is added by a rotation has no rows, but columns.
        let read = match config.rotates_online() {
            true => in_parts(config.d_padded() as usize, log2_ceil(config.stream_block() as usize)),
            false => in_parts(config.d_model as usize, 0),
        };
        let cols = in_parts(config.down_cols() as usize, log2_ceil(config.hadamard_block() as usize));
        let inner = |part: &Part, end: u32| Part {
            places: part.places.iter().copied().filter(|at| part.first as u32 + at < end).collect(),
            ..part.clone()
        };
        let stream: Vec<Part> = read.iter().map(|part| inner(part, config.d_model)).collect();
        let rows: Vec<Part> = cols.iter().map(|part| inner(part, config.d_ffn)).collect();
        let vocab = log2_ceil(config.vocab as usize);
        let tables = &weights.tables.int4;
        let matrix = |weights: &'a Linear| Matrix { weights, tables };
        let layer = |(number, layer): (usize, &'a LayerWeights)| -> Result<_, PlanError> {
            let name = |what: &str| format!("layer {number}, {what}");
            let parts = |what: &str, weights: &'a Linear, rows: &[Part], cols: &[Part]| {
                let part = |rows: &Part| Layer::new(&name(what), matrix(weights), rows, cols);
                rows.iter().map(part).collect::<Result<Vec<_>, _>>()
            };
            let network = |dense: &'a DenseWeights| -> Result<_, PlanError> {
                let gate = |gate: &'a Linear| parts("gate", gate, &rows, &read);
                Ok(Network {
                    gate: dense.gate.as_ref().map(gate).transpose()?,
                    up: parts("up", &dense.up, &rows, &read)?,
                    down: parts("down", &dense.down, &stream, &cols)?,
                    fracs: Fracs {
                        gate: dense.gate.as_ref().map_or(0, |gate| gate.out_frac.into()),
                        up: dense.up.out_frac.into(),
                    },
                })
            };
            let router = match &layer.ffn {
                FfnWeights::Dense(_) => None,
                FfnWeights::Experts { router, .. } => {
                    let places: Vec<u32> = (0..router.rows as u32).collect();
                    let part = Part { first: 0, log: log2_ceil(router.rows), places };
                    Some(Layer::new(&name("router"), matrix(router), &part, &read)?)
                }
            };
            // What an adapter adds to a matrix.
            let adapted = |target: Target, rows: &[Part], cols: &[Part]| -> Result<_, PlanError> {
                let of_layer = adapter.and_then(|adapter| {
                    let at = number.checked_sub(adapter.first_layer)?;
                    adapter.layers.get(at)?.get(target)
                });
                let Some(LowRank { a, b }) = of_layer else { return Ok(None) };
                let rank = [Part { first: 0, log: log2_ceil(a.rows), places: (0..a.rows as u32).collect() }];
                let of = |what: &str| format!("{} of the adapter of {}", what, target.name());
                if !ADAPTER_FRACS.contains(&a.out_frac) {
                    let (place, what, got) = (name(&of("A")), "fractional bits", a.out_frac.into());
                    return Err(PlanError::CouldWrap {
                        place,
                        what,
                        got,
                        limit: (*ADAPTER_FRACS.end()).into(),
                    });
                }
                let frac = i64::from(a.out_frac);
                let (a, b) = (parts(&of("A"), a, &rank, cols)?.remove(0), parts(&of("B"), b, rows, &rank)?);
                Ok(Some(Adapted { a, b, frac, log_rank: rank[0].log }))
            };
            let matrices = Matrices {
                adapters: Adapters {
                    q: adapted(Target::Q, &queries, &read)?,
                    k: adapted(Target::K, &keys, &read)?,
                    v: adapted(Target::V, &keys, &read)?,
                    o: adapted(Target::O, &stream, &queries)?,
                    gate: adapted(Target::Gate, &rows, &read)?,
                    up: adapted(Target::Up, &rows, &read)?,
                    down: adapted(Target::Down, &stream, &cols)?,
                },
                weights: layer,
                q: parts("q", &layer.q, &queries, &read)?,
                k: parts("k", &layer.k, &keys, &read)?,
                v: parts("v", &layer.v, &keys, &read)?,
                o: parts("o", &layer.o, &stream, &queries)?,
                router,
                networks: layer.ffn.networks().iter().map(network).collect::<Result<_, _>>()?,
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
            Layer::new("head", matrix(head), &Part { first: 0, places, log: vocab }, &read)
        };
        let last = range.end == config.n_layers as usize;
        let head = weights.head.as_ref().filter(|_| last).map(of_head).transpose()?;
        let ffn = cols.iter().map(|part| part.log).collect();
        Ok(Plan { stream, ffn, heads, vocab, layers, head, ends: last })
    }
}

/// The layers `range`, if everything is there that they need, and nothing that has no argument.
fn held<'a>(weights: &'a ModelWeights, range: &Range<usize>) -> Result<&'a [LayerWeights], PlanError> {
    let config = &weights.config;
    let plain = config.feed_forward == FeedForward::Plain;
    let gates = |layer: &LayerWeights| layer.ffn.networks().iter().any(|dense| dense.gate.is_some() == plain);
    let last = range.end == config.n_layers as usize;
    let there = |range: &Range<usize>| {
        let first = range.start.checked_sub(weights.first_layer)?;
        weights.layers.get(first..range.end.checked_sub(weights.first_layer)?)
    };
    let missing = || PlanError::Layers { first: range.start, end: range.end };
    let layers = there(range).filter(|layers| !layers.is_empty()).ok_or_else(missing)?;
    if range.end > config.n_layers as usize || (last && weights.head.is_none() == config.pooling.is_none()) {
        return Err(missing());
    }
    let refused = [
        (layers.iter().any(gates), "a gate where there should be none, or none where there should be"),
        (
            !experts(weights, range, layers),
            "experts where there should be none, or none where there should be",
        ),
        // Filling behind a plain activation is 0 only then.
        (
            plain
                && config.activation == Activation::Table
                && weights.tables.activation.get(ZERO) != Some(&0),
            "an activation of 0 that is not 0",
        ),
    ];
    if let Some((_, op)) = refused.into_iter().find(|(refused, _)| *refused) {
        return Err(unsupported(op));
    }
    gains(weights, range, layers)?;
    Ok(layers)
}

/// Whether experts are where the configuration has them, as many as it says.
fn experts(weights: &ModelWeights, range: &Range<usize>, layers: &[LayerWeights]) -> bool {
    let config = &weights.config;
    let fits = |(number, layer): (usize, &LayerWeights)| {
        let expected = config.experts.filter(|_| config.layer_pattern(number).experts);
        match (&layer.ffn, expected) {
            (FfnWeights::Dense(_), None) => true,
            (FfnWeights::Experts { router, experts }, Some(expected)) => {
                let count = expected.count as usize;
                (router.rows, experts.len()) == (count, count) && ROUTER_FRACS.contains(&router.out_frac)
            }
            _ => false,
        }
    };
    range.clone().zip(layers).all(fits)
}

/// Norms with gains are where the configuration has them, and cannot wrap.
fn gains(weights: &ModelWeights, range: &Range<usize>, layers: &[LayerWeights]) -> Result<(), PlanError> {
    let config = &weights.config;
    let (head, width) = (config.head_dim as usize, config.d_model as usize);
    let (behind, centred) = (config.block != Block::PreNorm, config.block == Block::PostNorm);
    let check = |name: String, gain: &Option<Gain>, expected: bool, width: usize, centred: bool| match gain {
        Some(gain) if expected => gain::check(&name, gain, width, centred),
        None if !expected => Ok(()),
        _ => {
            let expected = "norms with gains where the configuration has them";
            Err(PlanError::Unsupported { place: name, op: "a norm with gains, or none", expected })
        }
    };
    for (number, layer) in range.clone().zip(layers) {
        let name = |what: &str| format!("layer {number}, {what}");
        check(name("norm of queries"), &layer.q_norm, config.qk_norm, head, false)?;
        check(name("norm of keys"), &layer.k_norm, config.qk_norm, head, false)?;
        check(name("norm behind attention"), &layer.attn_post, behind, width, centred)?;
        check(name("norm behind the block"), &layer.ffn_post, behind, width, centred)?;
    }
    // Whoever has some later layers alone has no embedding.
    let embeds = centred && (range.start == 0 || weights.embed_norm.is_some());
    check("norm behind the embedding".into(), &weights.embed_norm, embeds, width, centred)
}

/// Angles are on the unit circle, or near: then what is rotated cannot wrap.
fn turning(weights: &ModelWeights) -> Result<(), PlanError> {
    let angles = weights.tables.rope.iter().flat_map(|table| table.as_chunks::<2>().0);
    let got = angles.map(|[c, s]| i64::from(*c).abs() + i64::from(*s).abs()).max().unwrap_or(0);
    let (place, what) = ("tables/rope".into(), "|cosine| + |sine|");
    if got > ANGLE_MAX { Err(PlanError::CouldWrap { place, what, got, limit: ANGLE_MAX }) } else { Ok(()) }
}

/// Caps and slopes are those of the configuration, and nothing of them wraps.
fn tables(weights: &ModelWeights) -> Result<(), PlanError> {
    let ModelWeights { config, tables, .. } = weights;
    for cap in [score_cap(weights), logit_cap(weights)].into_iter().flatten() {
        cap.check()?;
    }
    let heads = if config.positions == Positions::Alibi { config.n_heads as usize } else { 0 };
    if tables.alibi.len() != heads {
        return Err(unsupported("slopes of heads where there should be none, or none where there should be"));
    }
    let got = tables.alibi.iter().map(|slope| i64::from(slope.a)).max().unwrap_or(0);
    let (place, what, limit) = ("tables/alibi".into(), "a slope", SLOPE_MAX);
    if got > limit { Err(PlanError::CouldWrap { place, what, got, limit }) } else { Ok(()) }
}

/// What caps scores.
pub fn score_cap(weights: &ModelWeights) -> Option<Cap<'_>> {
    let shift = u32::from(weights.config.score_cap?);
    Some(Cap { name: "cap of scores", table: &weights.tables.score_cap, shift })
}

/// What caps logits.
pub fn logit_cap(weights: &ModelWeights) -> Option<Cap<'_>> {
    let shift = u32::from(weights.config.logit_cap?);
    Some(Cap { name: "cap of logits", table: &weights.tables.logit_cap, shift })
}

fn unsupported(op: &'static str) -> PlanError {
    PlanError::Unsupported { place: "the model".into(), op, expected: "a model that fits its configuration" }
}

fn supported(config: &ModelConfig) -> Result<(), PlanError> {
    let refused = [
        (config.rotates_online() && config.d_model <= 16, "a rotated stream of at most 16 channels"),
        (config.d_model < 2, "a stream of one channel"),
    ];
    match refused.into_iter().find(|(refused, _)| *refused) {
        Some((_, op)) => Err(unsupported(op)),
        None => Ok(()),
    }
}
