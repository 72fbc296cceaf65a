//! What a `config.json` means: mixtures of experts. Shared experts have tensors that nobody reads here, so a checkpoint
//! with them is refused by their name.

use super::super::SourceError;
use super::super::config::{Experts, FloatConfig};
use super::super::config_json::ConfigJson;
use super::describe::{Defaults, Described, USUAL, all_windowed, gated, qwen_window};

/// Every layer is a mixture; the weights of the chosen experts sum to one.
pub(super) fn mixtral(json: &ConfigJson) -> Result<Described, SourceError> {
    let described = gated(json, Defaults { theta: 1e6, ..USUAL })?;
    let layers = described.config.windows.len();
    let experts = Experts {
        count: json.size_or_none("num_local_experts")?.unwrap_or(8),
        per_token: json.size_or_none("num_experts_per_tok")?.unwrap_or(2),
        normalise: true,
        hidden: described.config.ffn_hidden,
        sparse: vec![true; layers],
    };
    let window = json.size_or_none("sliding_window")?;
    Ok(described.with(|config| FloatConfig { experts: Some(experts), ..all_windowed(config, window) }))
}

/// Layer i is a mixture unless `mlp_only_layers` names it or i + 1 is no multiple of `decoder_sparse_step`.
pub(super) fn qwen3_moe(json: &ConfigJson) -> Result<Described, SourceError> {
    let described = gated(json, USUAL)?;
    let layers = described.config.windows.len();
    let dense = json.sizes("mlp_only_layers")?;
    let step = json.size_or_none("decoder_sparse_step")?.unwrap_or(1);
    if step == 0 {
        return Err(SourceError::Unsupported {
            field: "decoder_sparse_step",
            got: "0".into(),
            expected: "1 or more",
        });
    }
    let sparse = |layer: usize| !dense.contains(&layer) && (layer + 1).is_multiple_of(step);
    let experts = Experts {
        count: json.size_or_none("num_experts")?.unwrap_or(128),
        per_token: json.size_or_none("num_experts_per_tok")?.unwrap_or(8),
        normalise: json.flag_or("norm_topk_prob", false)?,
        hidden: json.size_or_none("moe_intermediate_size")?.unwrap_or(768),
        sparse: (0..layers).map(sparse).collect(),
    };
    let bias = json.flag_or("attention_bias", false)?;
    let window = qwen_window(json)?;
    Ok(described.with(|config| FloatConfig {
        qk_norm: true,
        qkv_bias: bias,
        o_bias: bias,
        experts: Some(experts),
        ..all_windowed(config, window)
    }))
}
