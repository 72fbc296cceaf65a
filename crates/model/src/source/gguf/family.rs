//! What an architecture name of llama.cpp means, as far as the file does not say (`llama-model.cpp`, `load_hparams` and the
//! graphs).

use super::super::act::Act;
use super::super::config::{NormKind, NormPlace};
use super::GgufError;

/// Architectures that are imported. `llama` includes Mistral, Mixtral and SmolLM2.
pub const SUPPORTED_ARCHITECTURES: [&str; 10] =
    ["llama", "qwen2", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "phi3", "gpt2", "bloom"];

/// How positions enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A rotation; rows of q and k lie as adjacent pairs, the converter has reordered them (`LLAMA_ROPE_TYPE_NORM`).
    AdjacentPairs,
    /// A rotation; rows of q and k lie as halves (`LLAMA_ROPE_TYPE_NEOX`).
    Halves,
    /// `position_embd.weight`.
    Learned,
    /// Slopes.
    Alibi,
}

/// Which layers `attention.sliding_window` is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    /// None: a file that states a window is refused.
    None,
    /// All.
    Every,
    /// All but the last of so many.
    AllButEvery(usize),
}

/// What distinguishes an architecture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) norm: NormKind,
    pub(super) norm_place: NormPlace,
    pub(super) act: Act,
    pub(super) gated: bool,
    pub(super) positions: Place,
    pub(super) windows: Windows,
    /// q, k and v are one tensor.
    pub(super) fused_qkv: bool,
    /// gate and up are one tensor, `ffn_up`.
    pub(super) fused_gate: bool,
    pub(super) qk_norm: bool,
    /// The embedding is multiplied by the root of its width.
    pub(super) scaled_embed: bool,
    /// The embedding goes through a norm of its own.
    pub(super) embed_norm: bool,
    /// May have, or must have, a mixture of experts.
    pub(super) experts: bool,
    /// Layers of the size whose attention is scaled by `d_model / n_heads` instead of the head's width (27B of Gemma).
    pub(super) wide_scale_layers: Option<usize>,
    /// Soft caps of files that do not state them: of scores, of logits.
    pub(super) softcaps: Option<(f64, f64)>,
    /// Base of the rotation in windowed layers.
    pub(super) local_theta: Option<f64>,
}

const LLAMA: Family = Family {
    name: "llama",
    norm: NormKind::Rms,
    norm_place: NormPlace::Pre,
    act: Act::Silu,
    gated: true,
    positions: Place::AdjacentPairs,
    windows: Windows::Every,
    fused_qkv: false,
    fused_gate: false,
    qk_norm: false,
    scaled_embed: false,
    embed_norm: false,
    experts: true,
    wide_scale_layers: None,
    softcaps: None,
    local_theta: None,
};
const QWEN2: Family =
    Family { name: "qwen2", positions: Place::Halves, windows: Windows::None, experts: false, ..LLAMA };
const QWEN3: Family = Family { name: "qwen3", qk_norm: true, ..QWEN2 };
const GEMMA: Family = Family { name: "gemma", act: Act::GeluTanh, scaled_embed: true, ..QWEN2 };
const GEMMA2: Family = Family {
    name: "gemma2",
    norm_place: NormPlace::PreAndPost,
    windows: Windows::AllButEvery(2),
    wide_scale_layers: Some(46),
    softcaps: Some((50.0, 30.0)),
    ..GEMMA
};
const GPT2: Family = Family {
    name: "gpt2",
    norm: NormKind::Layer,
    act: Act::GeluTanh,
    gated: false,
    positions: Place::Learned,
    fused_qkv: true,
    ..QWEN2
};

const FAMILIES: [Family; 10] = [
    LLAMA,
    QWEN2,
    QWEN3,
    Family { name: "qwen3moe", experts: true, ..QWEN3 },
    GEMMA,
    GEMMA2,
    Family {
        name: "gemma3",
        qk_norm: true,
        windows: Windows::AllButEvery(6),
        wide_scale_layers: Some(62),
        softcaps: None,
        local_theta: Some(10_000.0),
        ..GEMMA2
    },
    Family { name: "phi3", windows: Windows::Every, fused_qkv: true, fused_gate: true, ..QWEN2 },
    GPT2,
    Family { name: "bloom", positions: Place::Alibi, embed_norm: true, ..GPT2 },
];

/// By `general.architecture`.
pub(super) fn find(name: &str) -> Result<&'static Family, GgufError> {
    let found = FAMILIES.iter().find(|family| family.name == name);
    found.ok_or_else(|| GgufError::Architecture { got: name.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_names_is_the_table() {
        assert_eq!(FAMILIES.map(|family| family.name), SUPPORTED_ARCHITECTURES);
    }
}
