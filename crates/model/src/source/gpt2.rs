//! `GPT2LMHeadModel`.
//!
//! Its linears are `Conv1D`s, stored `(inputs, outputs)`: they are transposed. `c_attn` holds q, k and v side by side:
//! it is split. Some checkpoints carry the prefix `transformer.`, some do not.

use super::SourceError;
use super::act::Act;
use super::config::{FloatConfig, HeadKind, NormKind, Sizes};
use super::config_json::ConfigJson;
use super::model::{DenseFfn, Ffn, FloatLayer, FloatModel, Linear, NormWeights};
use super::positions::Positions;
use super::tensor_store::TensorStore;

/// Reads all weights.
pub(crate) fn load(json: &ConfigJson, store: &TensorStore) -> Result<FloatModel, SourceError> {
    let prefix = if store.contains("transformer.wte.weight") { "transformer." } else { "" };
    let config = config(json, store)?;
    let name = |part: &str| format!("{prefix}{part}");
    let embed = store.matrix(&name("wte.weight"), config.vocab, config.d_model)?;
    let positions = Some(store.matrix(&name("wpe.weight"), config.context, config.d_model)?);
    let layers = (0..config.n_layers)
        .map(|index| layer(&config, store, &name(&format!("h.{index}."))))
        .collect::<Result<_, _>>()?;
    let final_norm = Some(norm(&config, store, &name("ln_f"))?);
    let head = match config.head {
        HeadKind::Own => Some(store.matrix("lm_head.weight", config.vocab, config.d_model)?),
        HeadKind::Tied | HeadKind::Absent => None,
    };
    FloatModel { config, embed, positions, embed_norm: None, layers, final_norm, head }.checked()
}

fn config(json: &ConfigJson, store: &TensorStore) -> Result<FloatConfig, SourceError> {
    json.require_one_of(
        "activation_function",
        &["gelu_new", "gelu_pytorch_tanh"],
        "gelu_new (GELU by tanh)",
    )?;
    json.require_flag("scale_attn_weights", true, "true")?;
    json.require_flag("scale_attn_by_inverse_layer_idx", false, "false")?;
    json.require_flag("add_cross_attention", false, "false")?;
    let (d_model, n_heads) = (json.size("n_embd")?, json.size("n_head")?);
    if n_heads == 0 || !d_model.is_multiple_of(n_heads) {
        return Err(SourceError::NotDivisible {
            left: "n_head",
            left_value: n_heads,
            right: "n_embd",
            right_value: d_model,
        });
    }
    let tied_head = json.flag_or("tie_word_embeddings", true)? || !store.contains("lm_head.weight");
    let sizes = Sizes {
        n_layers: json.size("n_layer")?,
        d_model,
        n_heads,
        n_kv_heads: n_heads,
        head_dim: d_model / n_heads,
        ffn_hidden: json.size_or_none("n_inner")?.unwrap_or(d_model.saturating_mul(4)),
        vocab: json.size("vocab_size")?,
        context: json.size("n_positions")?,
    };
    FloatConfig {
        norm: NormKind::Layer,
        norm_eps: json.float_or("layer_norm_epsilon", 1e-5)?,
        activation: Act::GeluTanh,
        gated: false,
        positions: Positions::Learned,
        head: if tied_head { HeadKind::Tied } else { HeadKind::Own },
        qkv_bias: true,
        o_bias: true,
        ffn_bias: true,
        ..FloatConfig::llama(sizes)
    }
    .checked()
}

fn layer(c: &FloatConfig, store: &TensorStore, prefix: &str) -> Result<FloatLayer, SourceError> {
    let name = |part: &str| format!("{prefix}{part}");
    let (d, hidden) = (c.d_model, c.ffn_hidden);
    let attn = conv1d(store, &name("attn.c_attn"), d, 3 * d)?;
    let third = |i: usize| Linear {
        weight: attn.weight.row_range(i * d, d),
        bias: attn.bias.as_ref().map(|bias| bias[i * d..(i + 1) * d].to_vec()),
    };
    Ok(FloatLayer {
        attn_norm: norm(c, store, &name("ln_1"))?,
        q: third(0),
        k: third(1),
        v: third(2),
        o: conv1d(store, &name("attn.c_proj"), d, d)?,
        q_norm: None,
        k_norm: None,
        attn_post_norm: None,
        ffn_norm: norm(c, store, &name("ln_2"))?,
        ffn: Ffn::Dense(DenseFfn {
            gate: None,
            up: conv1d(store, &name("mlp.c_fc"), d, hidden)?,
            down: conv1d(store, &name("mlp.c_proj"), hidden, d)?,
        }),
        ffn_post_norm: None,
    })
}

fn conv1d(store: &TensorStore, name: &str, inputs: usize, outputs: usize) -> Result<Linear, SourceError> {
    let weight = store.matrix(&format!("{name}.weight"), inputs, outputs)?.transposed();
    Ok(Linear { weight, bias: Some(store.vector(&format!("{name}.bias"), outputs)?) })
}

fn norm(c: &FloatConfig, store: &TensorStore, name: &str) -> Result<NormWeights, SourceError> {
    Ok(NormWeights {
        gamma: store.vector(&format!("{name}.weight"), c.d_model)?,
        beta: Some(store.vector(&format!("{name}.bias"), c.d_model)?),
    })
}
