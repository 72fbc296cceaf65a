//! What a `config.json` means: the decoders without experts.
//!
//! Values that a config leaves out are those of the family's configuration class in PyPI `transformers`.

use super::super::SourceError;
use super::super::act::Act;
use super::super::config::{FloatConfig, HeadKind, NormKind, Sizes};
use super::super::config_json::ConfigJson;
use super::super::limits::MAX_LAYERS;
use super::super::positions::Positions;
use super::rope::{Wanted, rotation};

/// A config, and what is left to do to the weights.
pub(crate) struct Described {
    /// The numbers.
    pub config: FloatConfig,
    /// Multiplies those rows of q and k that rotate.
    pub rotated_gain: f64,
}

impl Described {
    /// The same with another config.
    pub(super) fn with(self, change: impl FnOnce(FloatConfig) -> FloatConfig) -> Self {
        Self { config: change(self.config), ..self }
    }
}

impl From<FloatConfig> for Described {
    fn from(config: FloatConfig) -> Self {
        Self { config, rotated_gain: 1.0 }
    }
}

/// What a family's configuration class says where a config is silent.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    /// Width of a head; else `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// Base of the frequencies.
    pub theta: f64,
    /// The head is the embedding.
    pub tied: bool,
    /// Which field names the activation.
    pub act: &'static str,
}

pub(super) const USUAL: Defaults =
    Defaults { head_dim: None, theta: 10_000.0, tied: false, act: "hidden_act" };

pub(super) fn llama(json: &ConfigJson) -> Result<Described, SourceError> {
    let bias = json.flag_or("attention_bias", false)?;
    let ffn_bias = json.flag_or("mlp_bias", false)?;
    Ok(gated(json, USUAL)?.with(|config| FloatConfig { qkv_bias: bias, o_bias: bias, ffn_bias, ..config }))
}

pub(super) fn mistral(json: &ConfigJson) -> Result<Described, SourceError> {
    let window = json.size_unless_null("sliding_window", 4_096)?;
    Ok(gated(json, USUAL)?.with(|config| all_windowed(config, window)))
}

pub(super) fn qwen2(json: &ConfigJson) -> Result<Described, SourceError> {
    let described = gated(json, USUAL)?;
    let windows = qwen_windows(json, described.config.n_layers)?;
    Ok(described.with(|config| FloatConfig { qkv_bias: true, windows, ..config }))
}

pub(super) fn qwen3(json: &ConfigJson) -> Result<Described, SourceError> {
    let described = gated(json, Defaults { head_dim: Some(128), ..USUAL })?;
    let bias = json.flag_or("attention_bias", false)?;
    let windows = qwen_windows(json, described.config.n_layers)?;
    Ok(described.with(|config| FloatConfig {
        qk_norm: true,
        qkv_bias: bias,
        o_bias: bias,
        windows,
        ..config
    }))
}

pub(super) fn phi3(json: &ConfigJson) -> Result<Described, SourceError> {
    let window = json.size_or_none("sliding_window")?;
    Ok(gated(json, USUAL)?.with(|config| all_windowed(config, window)))
}

pub(super) fn gpt2(json: &ConfigJson) -> Result<Described, SourceError> {
    json.require_flag("scale_attn_weights", true, "true")?;
    json.require_flag("scale_attn_by_inverse_layer_idx", false, "false")?;
    json.require_flag("add_cross_attention", false, "false")?;
    let (d_model, n_heads) = (json.size("n_embd")?, json.size("n_head")?);
    let sizes = Sizes {
        n_layers: json.size("n_layer")?,
        d_model,
        n_heads,
        n_kv_heads: n_heads,
        head_dim: even_heads(d_model, n_heads)?,
        ffn_hidden: json.size_or_none("n_inner")?.unwrap_or(d_model.saturating_mul(4)),
        vocab: json.size("vocab_size")?,
        context: json.size("n_positions")?,
    };
    let config = plain(json, sizes, "layer_norm_epsilon", 1e-5)?;
    Ok(FloatConfig {
        activation: activation(json, "activation_function", Act::GeluTanh)?,
        positions: Positions::Learned,
        ..config
    }
    .into())
}

/// BLOOM has no longest sequence of its own; its training had 2,048 tokens.
pub(super) fn bloom(json: &ConfigJson) -> Result<Described, SourceError> {
    json.require_flag("apply_residual_connection_post_layernorm", false, "false")?;
    let d_model = json.size_named("hidden_size", "n_embed")?;
    let n_heads = json.size_named("n_head", "num_attention_heads")?;
    let sizes = Sizes {
        n_layers: json.size_named("n_layer", "num_hidden_layers")?,
        d_model,
        n_heads,
        n_kv_heads: n_heads,
        head_dim: even_heads(d_model, n_heads)?,
        ffn_hidden: d_model.saturating_mul(4),
        vocab: json.size("vocab_size")?,
        context: json.size_or_none("seq_length")?.unwrap_or(2_048),
    };
    let config = plain(json, sizes, "layer_norm_epsilon", 1e-5)?;
    Ok(FloatConfig { activation: Act::GeluTanh, positions: Positions::Alibi, ..config }.into())
}

pub(super) fn opt(json: &ConfigJson) -> Result<Described, SourceError> {
    json.require_flag("do_layer_norm_before", true, "true (norms in front)")?;
    json.require_flag("_remove_final_layer_norm", false, "false")?;
    json.require_flag("layer_norm_elementwise_affine", true, "true")?;
    let (d_model, n_heads) = (json.size("hidden_size")?, json.size("num_attention_heads")?);
    if let Some(got) = json.size_or_none("word_embed_proj_dim")?.filter(|&width| width != d_model) {
        return Err(SourceError::Unsupported {
            field: "word_embed_proj_dim",
            got: got.to_string(),
            expected: "hidden_size (no projection of the embedding)",
        });
    }
    let sizes = Sizes {
        n_layers: json.size("num_hidden_layers")?,
        d_model,
        n_heads,
        n_kv_heads: n_heads,
        head_dim: even_heads(d_model, n_heads)?,
        ffn_hidden: json.size("ffn_dim")?,
        vocab: json.size("vocab_size")?,
        context: json.size("max_position_embeddings")?,
    };
    let bias = json.flag_or("enable_bias", true)?;
    let config = plain(json, sizes, "layer_norm_eps", 1e-5)?;
    Ok(FloatConfig {
        activation: activation(json, "activation_function", Act::Relu)?,
        positions: Positions::Learned,
        qkv_bias: bias,
        o_bias: bias,
        ffn_bias: bias,
        ..config
    }
    .into())
}

/// RMS norm, rotation, gated block: the numbers that Llama's descendants share.
pub(super) fn gated(json: &ConfigJson, defaults: Defaults) -> Result<Described, SourceError> {
    let (d_model, n_heads) = (json.size("hidden_size")?, json.size("num_attention_heads")?);
    let head_dim = match json.size_or_none("head_dim")?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None => even_heads(d_model, n_heads)?,
    };
    let sizes = Sizes {
        n_layers: json.size("num_hidden_layers")?,
        d_model,
        n_heads,
        n_kv_heads: json.size_or_none("num_key_value_heads")?.unwrap_or(n_heads),
        head_dim,
        ffn_hidden: json.size("intermediate_size")?,
        vocab: json.size("vocab_size")?,
        context: json.size("max_position_embeddings")?,
    };
    let rotation = rotation(json, Wanted { kind: "full_attention", theta: defaults.theta, head_dim })?;
    let config = FloatConfig {
        norm_eps: json.float_or("rms_norm_eps", 1e-6)?,
        activation: activation(json, defaults.act, Act::Silu)?,
        positions: Positions::Rope(rotation.rope),
        head: head(json, defaults.tied)?,
        ..FloatConfig::llama(sizes)
    };
    Ok(Described { config, rotated_gain: rotation.gain })
}

/// The same window in every layer.
pub(super) fn all_windowed(config: FloatConfig, window: Option<usize>) -> FloatConfig {
    FloatConfig { windows: vec![window; config.windows.len()], ..config }
}

/// Layer norm, no gate, biases everywhere: the numbers that the older families share.
pub(super) fn plain(
    json: &ConfigJson,
    sizes: Sizes,
    eps_field: &'static str,
    eps: f64,
) -> Result<FloatConfig, SourceError> {
    Ok(FloatConfig {
        norm: NormKind::Layer,
        norm_eps: json.float_or(eps_field, eps)?,
        gated: false,
        head: head(json, true)?,
        qkv_bias: true,
        o_bias: true,
        ffn_bias: true,
        ..FloatConfig::llama(sizes)
    })
}

/// A checkpoint saved as tied may still hold the head; the config decides, as in transformers.
fn head(json: &ConfigJson, tied: bool) -> Result<HeadKind, SourceError> {
    Ok(if json.flag_or("tie_word_embeddings", tied)? { HeadKind::Tied } else { HeadKind::Own })
}

pub(super) fn even_heads(d_model: usize, n_heads: usize) -> Result<usize, SourceError> {
    if n_heads > 0 && d_model.is_multiple_of(n_heads) {
        return Ok(d_model / n_heads);
    }
    Err(SourceError::NotDivisible {
        left: "number of heads",
        left_value: n_heads,
        right: "width",
        right_value: d_model,
    })
}

pub(super) fn activation(json: &ConfigJson, field: &'static str, default: Act) -> Result<Act, SourceError> {
    match json.get(field).map(|value| value.as_str().unwrap_or_default()) {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Act::Silu),
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Act::GeluTanh),
        Some("gelu") => Ok(Act::GeluErf),
        Some("relu") => Ok(Act::Relu),
        Some(got) => Err(SourceError::Unsupported {
            field,
            got: got.into(),
            expected: "silu, gelu_new, gelu_pytorch_tanh, gelu or relu",
        }),
    }
}

/// `layer_types` where the config has them, else a rule: whether layer `i` has a window.
pub(super) fn windows(
    json: &ConfigJson,
    n_layers: usize,
    window: Option<usize>,
    rule: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, SourceError> {
    let n_layers = n_layers.min(MAX_LAYERS); // more are refused by the config's own check
    let Some(types) = json.texts("layer_types")? else {
        return Ok((0..n_layers).map(|layer| window.filter(|_| rule(layer))).collect());
    };
    let window_of = |kind: &String| match kind.as_str() {
        "full_attention" => Ok(None),
        "sliding_attention" if window.is_some() => Ok(window),
        other => Err(SourceError::Unsupported {
            field: "layer_types",
            got: other.into(),
            expected: "full_attention, or sliding_attention with a sliding_window",
        }),
    };
    types.iter().map(window_of).collect()
}

fn qwen_windows(json: &ConfigJson, n_layers: usize) -> Result<Vec<Option<usize>>, SourceError> {
    let first = json.size_or_none("max_window_layers")?.unwrap_or(28);
    windows(json, n_layers, qwen_window(json)?, |layer| layer >= first)
}

/// Qwen's configs state a window even where it is off.
pub(super) fn qwen_window(json: &ConfigJson) -> Result<Option<usize>, SourceError> {
    if !json.flag_or("use_sliding_window", false)? {
        return Ok(None);
    }
    json.size_unless_null("sliding_window", 4_096)
}
