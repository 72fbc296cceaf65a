//! The numbers of a float model as the integers have them.

use super::fold::ffn_width;
use super::{ModelFacts, QuantiseError, tables};
use crate::source::{Act, FloatConfig, NormPlace, PoolKind, Positions};
use lockstep_base::config::{
    self, Activation, Block, Experts, FeedForward, LayerPattern, ModelConfig, OPSET, Pooling,
};
use lockstep_base::limits::CONTEXT_MAX;

/// Fractional bits of the residual stream until values are known.
pub(super) const RESIDUAL_FRAC: i32 = 16;

/// The shape in integers; formats that depend on values (R, the norm's epsilon, the cap of logits) are set later.
pub(super) fn integer_config(config: &FloatConfig, facts: &ModelFacts) -> Result<ModelConfig, QuantiseError> {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let score_cap = tables::score_cap(config).map(|cap| soft_cap("scores", cap)).transpose()?;
    let context = small(config.context).min(CONTEXT_MAX);
    Ok(ModelConfig {
        opset: OPSET.into(),
        name: facts.name.clone(),
        n_layers: small(config.n_layers),
        d_model: small(config.d_model),
        n_heads: small(config.n_heads),
        n_kv_heads: small(config.n_kv_heads),
        head_dim: small(config.head_dim),
        d_ffn: small(ffn_width(config)),
        vocab: small(config.vocab),
        context,
        residual_frac: RESIDUAL_FRAC as u8,
        norm_eps: 0,
        positions: match config.positions {
            Positions::Learned => config::Positions::Learned,
            Positions::Rope(_) => config::Positions::Rope,
            Positions::Alibi => config::Positions::Alibi,
        },
        feed_forward: if config.gated { FeedForward::Gated } else { FeedForward::Plain },
        bos: facts.bos,
        eos: facts.eos.clone(),
        block: match config.norm_place {
            NormPlace::Pre => Block::PreNorm,
            NormPlace::PreAndPost => Block::Sandwich,
            NormPlace::Post => Block::PostNorm,
        },
        activation: if config.activation == Act::Relu { Activation::Relu } else { Activation::Table },
        rope_dim: config.rope_of(0).map_or(0, |rope| small(rope.dim)),
        rope_tables: match (&config.positions, &config.local_rope) {
            (Positions::Rope(_), local) => 1 + u8::from(local.is_some()),
            _ => 0,
        },
        qk_norm: config.qk_norm,
        pattern: pattern(config, context),
        score_cap,
        logit_cap: None,
        experts: config.experts.as_ref().map(|experts| Experts {
            count: small(experts.count),
            per_token: small(experts.per_token),
            normalise: experts.normalise,
        }),
        pooling: (!config.causal).then(|| match config.pooling.map(|pooling| pooling.kind) {
            Some(PoolKind::Cls) => Pooling::First,
            Some(PoolKind::Mean) | None => Pooling::Mean,
        }),
    })
}

/// What padding networks to one width costs, where layers differ.
pub(super) fn padding(config: &FloatConfig) -> Option<String> {
    let experts = config.experts.as_ref()?;
    let (narrow, wide) = (experts.hidden, ffn_width(config));
    let mixed = experts.sparse.iter().any(|sparse| !*sparse);
    (mixed && narrow != config.ffn_hidden).then(|| {
        let dense = config.ffn_hidden;
        format!("experts of width {narrow} and dense blocks of width {dense} are all padded to {wide}")
    })
}

/// The step of a soft-capping table.
pub(super) fn soft_cap(what: &'static str, cap: f64) -> Result<u8, QuantiseError> {
    tables::soft_cap_shift(cap).ok_or(QuantiseError::SoftCap { what, got: cap })
}

/// The shortest sequence of kinds of layers that, repeated, describes them all.
fn pattern(config: &FloatConfig, context: u32) -> Vec<LayerPattern> {
    let kind = |layer: usize| {
        let window = config.windows[layer];
        LayerPattern {
            window: window.map_or(0, |w| u32::try_from(w).unwrap_or(u32::MAX)),
            rope: (window.is_some() && config.local_rope.is_some()).into(),
            experts: config.is_sparse(layer),
        }
    };
    let seen = |mut kind: LayerPattern| {
        kind.window = if kind.window >= context { 0 } else { kind.window }; // all of it
        kind
    };
    let kinds: Vec<LayerPattern> = (0..config.n_layers).map(|layer| seen(kind(layer))).collect();
    let repeats = |length: usize| kinds.iter().enumerate().all(|(at, kind)| *kind == kinds[at % length]);
    let length = (1..kinds.len()).find(|length| repeats(*length)).unwrap_or(kinds.len());
    kinds[..length].to_vec()
}
