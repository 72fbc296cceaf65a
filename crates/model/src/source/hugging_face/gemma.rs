//! What a `config.json` means: Gemma 2 and 3, text.
//!
//! ```text
//! x = sqrt(d) embed;  x += norm(attention(norm x));  x += norm(ffn(norm x));  gains are stored less 1
//! Gemma 2: scores and logits soft-capped; every other layer, the first included, has a window
//! Gemma 3: norms of q and k; all layers but every sixth have a window and their own theta
//! ```

use super::super::SourceError;
use super::super::act::Act;
use super::super::config::{FloatConfig, NormPlace};
use super::super::config_json::ConfigJson;
use super::super::positions::Rope;
use super::describe::{Defaults, Described, USUAL, activation, gated, windows};
use super::rope::{Wanted, rotation};

const GEMMA: Defaults = Defaults { head_dim: Some(256), tied: true, act: "hidden_activation", ..USUAL };

pub(super) fn gemma2(json: &ConfigJson) -> Result<Described, SourceError> {
    let described = gemma(json, GEMMA)?;
    let window = json.size_unless_null("sliding_window", 4_096)?;
    let windows = windows(json, described.config.n_layers, window, |layer| layer % 2 == 0)?;
    let attn_softcap = cap(json, "attn_logit_softcapping", Some(50.0))?;
    let logit_softcap = cap(json, "final_logit_softcapping", Some(30.0))?;
    Ok(described.with(|config| FloatConfig { windows, attn_softcap, logit_softcap, ..config }))
}

pub(super) fn gemma3(json: &ConfigJson) -> Result<Described, SourceError> {
    json.require_flag("use_bidirectional_attention", false, "false")?;
    // Configs of the larger models state only what differs from the class.
    let json = &json.with_defaults(&[
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("max_position_embeddings", 131_072),
        ("vocab_size", 262_208),
    ]);
    let described = gemma(json, Defaults { theta: 1e6, ..GEMMA })?;
    let (n_layers, head_dim) = (described.config.n_layers, described.config.head_dim);
    let window = json.size_unless_null("sliding_window", 4_096)?;
    let every = json.size_or_none("sliding_window_pattern")?.unwrap_or(6).max(1);
    // Before transformers 5 the local rotation has a field of its own and is never scaled.
    let theta = json.float_or("rope_local_base_freq", 10_000.0)?;
    let wanted = Wanted { kind: "sliding_attention", theta, head_dim };
    let local = match json.section_or_empty("rope_parameters", "").get("sliding_attention") {
        Some(_) => rotation(json, wanted)?.rope,
        None => Rope::plain(theta, head_dim),
    };
    let windows = windows(json, n_layers, window, |layer| !(layer + 1).is_multiple_of(every))?;
    let attn_softcap = cap(json, "attn_logit_softcapping", None)?;
    let logit_softcap = cap(json, "final_logit_softcapping", None)?;
    Ok(described.with(|config| FloatConfig {
        windows,
        local_rope: Some(local),
        qk_norm: true,
        attn_softcap,
        logit_softcap,
        ..config
    }))
}

fn gemma(json: &ConfigJson, defaults: Defaults) -> Result<Described, SourceError> {
    let bias = json.flag_or("attention_bias", false)?;
    let activation = activation(json, defaults.act, Act::GeluTanh)?;
    let attn_scale = 1.0 / json.float_or("query_pre_attn_scalar", 256.0)?.sqrt();
    Ok(gated(json, defaults)?.with(|config| FloatConfig {
        norm_place: NormPlace::PreAndPost,
        activation,
        embed_scale: (config.d_model as f64).sqrt(),
        attn_scale,
        qkv_bias: bias,
        o_bias: bias,
        ..config
    }))
}

/// Written as null where there is none.
fn cap(json: &ConfigJson, field: &'static str, default: Option<f64>) -> Result<Option<f64>, SourceError> {
    if json.get(field).is_none() {
        return Ok(default.filter(|_| !json.names(field)));
    }
    json.float(field).map(Some)
}
