//! The families as a table: what differs between them is data.
//!
//! Names follow the modules of PyPI `transformers`. A name without a dot at its end gets `.weight` and `.bias`; the layer's
//! names follow `prefix + layers + index + "."`.

use super::super::SourceError;
use super::super::config_json::ConfigJson;
use super::describe::{self, Described};
use super::{encoder, gemma, mixture};

/// One entry of `architectures`.
pub(crate) struct Family {
    /// As `config.json` names it.
    pub architecture: &'static str,
    /// Where the numbers of the text model are, if not at the top.
    pub section: Option<&'static str>,
    /// What the config means.
    pub describe: fn(&ConfigJson) -> Result<Described, SourceError>,
    /// What the tensors are called.
    pub names: Names,
}

/// How queries, keys and values are stored.
#[derive(Clone, Copy)]
pub(crate) enum Qkv {
    /// Three linears.
    Separate([&'static str; 3]),
    /// One, all queries first, then keys, then values.
    Stacked(&'static str),
    /// One, head by head: a query, a key, a value.
    PerHead(&'static str),
}

/// How the way up is stored.
#[derive(Clone, Copy)]
pub(crate) enum Up {
    /// No gate.
    Plain(&'static str),
    /// Gate and up.
    Gated([&'static str; 2]),
    /// One, the gate first.
    Stacked(&'static str),
}

/// What a mixture of experts is called.
#[derive(Clone, Copy)]
pub(crate) struct ExpertNames {
    /// The router.
    pub router: &'static str,
    /// In front of an expert's index.
    pub experts: &'static str,
    /// Gate, up, down of one expert.
    pub parts: [&'static str; 3],
}

/// What the tensors of a family are called and how they are stored.
#[derive(Clone, Copy)]
pub(crate) struct Names {
    /// In front of all names but the head's; the first with which the embedding exists.
    pub prefixes: &'static [&'static str],
    /// Token table.
    pub embed: &'static str,
    /// Position table and the rows at its beginning that no position reads.
    pub positions: Option<(&'static str, usize)>,
    /// Token types; a text is of type 0, whose row goes into the position table.
    pub token_types: Option<&'static str>,
    /// Norm of the embedding; where norms stand in front of blocks it goes into the token table.
    pub embed_norm: Option<&'static str>,
    /// In front of a layer's index.
    pub layers: &'static str,
    /// Norm of attention.
    pub attn_norm: &'static str,
    /// Queries, keys, values.
    pub qkv: Qkv,
    /// Output of attention.
    pub o: &'static str,
    /// Norms of query and key heads.
    pub qk_norms: [&'static str; 2],
    /// Norm on what attention adds.
    pub attn_post_norm: &'static str,
    /// Norm of the feed-forward block.
    pub ffn_norm: &'static str,
    /// The way up.
    pub up: Up,
    /// The way down.
    pub down: &'static str,
    /// Norm on what the feed-forward block adds.
    pub ffn_post_norm: &'static str,
    /// Mixture of experts.
    pub experts: Option<ExpertNames>,
    /// Norm in front of the head.
    pub final_norm: &'static str,
    /// Linears are stored `(inputs, outputs)`.
    pub transposed: bool,
    /// Gains of norms are stored less 1.
    pub gain_less_one: bool,
    /// Beginnings (with the prefix) and ends of names without meaning here.
    pub ignored: &'static [&'static str],
}

const LLAMA: Names = Names {
    prefixes: &["model.", ""],
    embed: "embed_tokens",
    positions: None,
    token_types: None,
    embed_norm: None,
    layers: "layers.",
    attn_norm: "input_layernorm",
    qkv: Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    o: "self_attn.o_proj",
    qk_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    attn_post_norm: "",
    ffn_norm: "post_attention_layernorm",
    up: Up::Gated(["mlp.gate_proj", "mlp.up_proj"]),
    down: "mlp.down_proj",
    ffn_post_norm: "",
    experts: None,
    final_norm: "norm",
    transposed: false,
    gain_less_one: false,
    ignored: &[".rotary_emb.inv_freq"],
};

const MIXTRAL: Names = Names {
    experts: Some(ExpertNames {
        router: "block_sparse_moe.gate",
        experts: "block_sparse_moe.experts.",
        parts: ["w1", "w3", "w2"],
    }),
    ..LLAMA
};

const QWEN3_MOE: Names = Names {
    experts: Some(ExpertNames {
        router: "mlp.gate",
        experts: "mlp.experts.",
        parts: ["gate_proj", "up_proj", "down_proj"],
    }),
    ..LLAMA
};

const PHI3: Names =
    Names { qkv: Qkv::Stacked("self_attn.qkv_proj"), up: Up::Stacked("mlp.gate_up_proj"), ..LLAMA };

const GEMMA: Names = Names {
    attn_post_norm: "post_attention_layernorm",
    ffn_norm: "pre_feedforward_layernorm",
    ffn_post_norm: "post_feedforward_layernorm",
    gain_less_one: true,
    ..LLAMA
};

const GEMMA3_WITH_IMAGES: Names = Names {
    prefixes: &["model.language_model.", "language_model.model."],
    ignored: &[
        "model.vision_tower.",
        "model.multi_modal_projector.",
        "vision_tower.",
        "multi_modal_projector.",
    ],
    ..GEMMA
};

const GPT2: Names = Names {
    prefixes: &["transformer.", ""],
    embed: "wte",
    positions: Some(("wpe", 0)),
    layers: "h.",
    attn_norm: "ln_1",
    qkv: Qkv::Stacked("attn.c_attn"),
    o: "attn.c_proj",
    ffn_norm: "ln_2",
    up: Up::Plain("mlp.c_fc"),
    down: "mlp.c_proj",
    final_norm: "ln_f",
    transposed: true,
    ignored: &[".attn.bias", ".attn.masked_bias"],
    ..LLAMA
};

const BLOOM: Names = Names {
    prefixes: &["transformer.", ""],
    embed: "word_embeddings",
    embed_norm: Some("word_embeddings_layernorm"),
    layers: "h.",
    attn_norm: "input_layernorm",
    qkv: Qkv::PerHead("self_attention.query_key_value"),
    o: "self_attention.dense",
    ffn_norm: "post_attention_layernorm",
    up: Up::Plain("mlp.dense_h_to_4h"),
    down: "mlp.dense_4h_to_h",
    final_norm: "ln_f",
    ignored: &[],
    ..LLAMA
};

const OPT: Names = Names {
    prefixes: &["model.decoder.", "decoder."],
    positions: Some(("embed_positions", 2)),
    attn_norm: "self_attn_layer_norm",
    o: "self_attn.out_proj",
    ffn_norm: "final_layer_norm",
    up: Up::Plain("fc1"),
    down: "fc2",
    final_norm: "final_layer_norm",
    ignored: &[],
    ..LLAMA
};

const BERT: Names = Names {
    prefixes: &["", "bert."],
    embed: "embeddings.word_embeddings",
    positions: Some(("embeddings.position_embeddings", 0)),
    token_types: Some("embeddings.token_type_embeddings"),
    embed_norm: Some("embeddings.LayerNorm"),
    layers: "encoder.layer.",
    attn_norm: "attention.output.LayerNorm",
    qkv: Qkv::Separate(["attention.self.query", "attention.self.key", "attention.self.value"]),
    o: "attention.output.dense",
    ffn_norm: "output.LayerNorm",
    up: Up::Plain("intermediate.dense"),
    down: "output.dense",
    final_norm: "",
    ignored: &["pooler.", "bert.pooler.", "embeddings.position_ids"], // the pooler is for pairs of sentences
    ..LLAMA
};

const fn family(
    architecture: &'static str,
    describe: fn(&ConfigJson) -> Result<Described, SourceError>,
    names: Names,
) -> Family {
    Family { architecture, section: None, describe, names }
}

/// Every architecture that is read.
pub(crate) const FAMILIES: [Family; 14] = [
    family("LlamaForCausalLM", describe::llama, LLAMA),
    family("MistralForCausalLM", describe::mistral, LLAMA),
    family("Qwen2ForCausalLM", describe::qwen2, LLAMA),
    family("Qwen3ForCausalLM", describe::qwen3, LLAMA),
    family("Phi3ForCausalLM", describe::phi3, PHI3),
    family("MixtralForCausalLM", mixture::mixtral, MIXTRAL),
    family("Qwen3MoeForCausalLM", mixture::qwen3_moe, QWEN3_MOE),
    family("Gemma2ForCausalLM", gemma::gemma2, GEMMA),
    family("Gemma3ForCausalLM", gemma::gemma3, GEMMA),
    Family {
        section: Some("text_config"),
        ..family("Gemma3ForConditionalGeneration", gemma::gemma3, GEMMA3_WITH_IMAGES)
    },
    family("GPT2LMHeadModel", describe::gpt2, GPT2),
    family("BloomForCausalLM", describe::bloom, BLOOM),
    family("OPTForCausalLM", describe::opt, OPT),
    family("BertModel", encoder::bert, BERT),
];
