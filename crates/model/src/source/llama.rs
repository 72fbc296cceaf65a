//! `LlamaForCausalLM`.
//!
//! Hugging Face rotates the halves of a head against each other, `(i, i + head_dim/2)`; Lockstep rotates adjacent pairs.
//! The two differ by a fixed order of the rows of q and k, which leaves every score `q . k` unchanged:
//! new row `2i` is old row `i`, new row `2i + 1` is old row `i + head_dim/2`, head by head.

use super::SourceError;
use super::config::{Activation, FloatConfig, NormKind};
use super::config_json::ConfigJson;
use super::model::{FloatLayer, FloatModel, Linear, NormWeights};
use super::tensor_store::TensorStore;

/// Reads all weights.
pub(crate) fn load(json: &ConfigJson, store: &TensorStore) -> Result<FloatModel, SourceError> {
    let config = config(json, store)?;
    let embed = store.matrix("model.embed_tokens.weight", config.vocab, config.d_model)?;
    let layers = (0..config.n_layers).map(|index| layer(&config, store, index)).collect::<Result<_, _>>()?;
    let final_norm = norm(&config, store, "model.norm")?;
    let head = match config.tied_head {
        true => None,
        false => Some(store.matrix("lm_head.weight", config.vocab, config.d_model)?),
    };
    FloatModel { config, embed, positions: None, layers, final_norm, head }.checked()
}

fn config(json: &ConfigJson, store: &TensorStore) -> Result<FloatConfig, SourceError> {
    json.require_one_of("hidden_act", &["silu", "swish"], "silu")?;
    if json.float_or("partial_rotary_factor", 1.0)? != 1.0 {
        let got = json.get("partial_rotary_factor").map_or_else(String::new, ToString::to_string);
        return Err(SourceError::Unsupported { field: "partial_rotary_factor", got, expected: "1" });
    }
    let (d_model, n_heads) = (json.size("hidden_size")?, json.size("num_attention_heads")?);
    let head_dim = match json.size_or_none("head_dim")? {
        Some(head_dim) => head_dim,
        None if n_heads > 0 && d_model.is_multiple_of(n_heads) => d_model / n_heads,
        None => {
            return Err(SourceError::NotDivisible {
                left: "num_attention_heads",
                left_value: n_heads,
                right: "hidden_size",
                right_value: d_model,
            });
        }
    };
    let attn_bias = json.flag_or("attention_bias", false)?;
    // A checkpoint saved as tied may still hold the head; then the config decides, as in transformers.
    let tied_head = json.flag_or("tie_word_embeddings", false)? || !store.contains("lm_head.weight");
    FloatConfig {
        n_layers: json.size("num_hidden_layers")?,
        d_model,
        n_heads,
        n_kv_heads: json.size_or_none("num_key_value_heads")?.unwrap_or(n_heads),
        head_dim,
        ffn_hidden: json.size("intermediate_size")?,
        vocab: json.size("vocab_size")?,
        context: json.size("max_position_embeddings")?,
        norm: NormKind::Rms,
        norm_eps: json.float_or("rms_norm_eps", 1e-6)?,
        activation: Activation::SiluGated,
        positions: json.rope()?,
        tied_head,
        qkv_bias: attn_bias,
        o_bias: attn_bias,
        ffn_bias: json.flag_or("mlp_bias", false)?,
    }
    .checked()
}

fn layer(c: &FloatConfig, store: &TensorStore, index: usize) -> Result<FloatLayer, SourceError> {
    let name = |part: &str| format!("model.layers.{index}.{part}");
    let (d, q, kv, hidden) = (c.d_model, c.q_dim(), c.kv_dim(), c.ffn_hidden);
    let attn =
        |part: &str, rows, cols| linear(store, &name(&format!("self_attn.{part}")), rows, cols, c.qkv_bias);
    let ffn = |part: &str, rows, cols| linear(store, &name(&format!("mlp.{part}")), rows, cols, c.ffn_bias);
    Ok(FloatLayer {
        attn_norm: norm(c, store, &name("input_layernorm"))?,
        q: adjacent_pairs(attn("q_proj", q, d)?, c.head_dim),
        k: adjacent_pairs(attn("k_proj", kv, d)?, c.head_dim),
        v: attn("v_proj", kv, d)?,
        o: attn("o_proj", d, q)?,
        ffn_norm: norm(c, store, &name("post_attention_layernorm"))?,
        gate: Some(ffn("gate_proj", hidden, d)?),
        up: ffn("up_proj", hidden, d)?,
        down: ffn("down_proj", d, hidden)?,
    })
}

fn linear(
    store: &TensorStore,
    name: &str,
    rows: usize,
    cols: usize,
    bias: bool,
) -> Result<Linear, SourceError> {
    let bias_name = format!("{name}.bias");
    // A bias that the config does not announce must not be dropped in silence.
    if !bias && store.contains(&bias_name) {
        return Err(SourceError::UnexpectedTensor { name: bias_name });
    }
    let weight = store.matrix(&format!("{name}.weight"), rows, cols)?;
    let bias = if bias { Some(store.vector(&bias_name, rows)?) } else { None };
    Ok(Linear { weight, bias })
}

fn norm(c: &FloatConfig, store: &TensorStore, name: &str) -> Result<NormWeights, SourceError> {
    Ok(NormWeights { gamma: store.vector(&format!("{name}.weight"), c.d_model)?, beta: None })
}

/// From the order of halves to the order of adjacent pairs, bias included.
fn adjacent_pairs(linear: Linear, head_dim: usize) -> Linear {
    let order = |row: usize| {
        let (head, place) = (row / head_dim, row % head_dim);
        head * head_dim + place / 2 + (place % 2) * (head_dim / 2)
    };
    let bias = linear.bias.map(|bias| (0..bias.len()).map(|row| bias[order(row)]).collect());
    Linear { weight: linear.weight.with_row_order(order), bias }
}
