//! `LlamaForCausalLM`.

use super::SourceError;
use super::config::{FloatConfig, HeadKind, Sizes};
use super::config_json::ConfigJson;
use super::model::{DenseFfn, Ffn, FloatLayer, FloatModel, Linear, NormWeights};
use super::pairs::PairOrder;
use super::tensor_store::TensorStore;

/// Reads all weights.
pub(crate) fn load(json: &ConfigJson, store: &TensorStore) -> Result<FloatModel, SourceError> {
    let config = config(json, store)?;
    let embed = store.matrix("model.embed_tokens.weight", config.vocab, config.d_model)?;
    let layers = (0..config.n_layers).map(|index| layer(&config, store, index)).collect::<Result<_, _>>()?;
    let final_norm = Some(norm(&config, store, "model.norm")?);
    let head = match config.head {
        HeadKind::Own => Some(store.matrix("lm_head.weight", config.vocab, config.d_model)?),
        HeadKind::Tied | HeadKind::Absent => None,
    };
    FloatModel { config, embed, positions: None, embed_norm: None, layers, final_norm, head }.checked()
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
    FloatConfig {
        norm_eps: json.float_or("rms_norm_eps", 1e-6)?,
        positions: json.rope(head_dim)?,
        head: if tied_head { HeadKind::Tied } else { HeadKind::Own },
        qkv_bias: attn_bias,
        o_bias: attn_bias,
        ffn_bias: json.flag_or("mlp_bias", false)?,
        ..FloatConfig::llama(sizes)
    }
    .checked()
}

fn layer(c: &FloatConfig, store: &TensorStore, index: usize) -> Result<FloatLayer, SourceError> {
    let name = |part: &str| format!("model.layers.{index}.{part}");
    let (d, q, kv, hidden) = (c.d_model, c.q_dim(), c.kv_dim(), c.ffn_hidden);
    let attn =
        |part: &str, rows, cols| linear(store, &name(&format!("self_attn.{part}")), rows, cols, c.qkv_bias);
    let ffn = |part: &str, rows, cols| linear(store, &name(&format!("mlp.{part}")), rows, cols, c.ffn_bias);
    let pairs = PairOrder { head_dim: c.head_dim, dim: c.head_dim };
    Ok(FloatLayer {
        attn_norm: norm(c, store, &name("input_layernorm"))?,
        q: pairs.linear(attn("q_proj", q, d)?),
        k: pairs.linear(attn("k_proj", kv, d)?),
        v: attn("v_proj", kv, d)?,
        o: attn("o_proj", d, q)?,
        q_norm: None,
        k_norm: None,
        attn_post_norm: None,
        ffn_norm: norm(c, store, &name("post_attention_layernorm"))?,
        ffn: Ffn::Dense(DenseFfn {
            gate: Some(ffn("gate_proj", hidden, d)?),
            up: ffn("up_proj", hidden, d)?,
            down: ffn("down_proj", d, hidden)?,
        }),
        ffn_post_norm: None,
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
