//! Metadata and family to a [`FloatConfig`]. Keys: `gguf.md` of the documentation of ggml; `{arch}.` stands in front of all of them.

use std::fmt::Display;

use super::super::SourceError;
use super::super::config::{Experts, FloatConfig, HeadKind, Sizes};
use super::super::limits::MAX_LAYERS;
use super::super::positions::{Positions, Rope, RopeScaling};
use super::GgufError;
use super::family::{Family, Place, Windows};
use super::store::Gguf;
use super::value::{Number, Value};

/// Keys that change a forward pass in a way that is not followed here.
const REFUSED: [&str; 10] = [
    "attention.clamp_kqv",
    "attention.output_scale",
    "attention.temperature_length",
    "attention.temperature_scale",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
    "expert_shared_count",
    "leading_dense_block_count",
    "nextn_predict_layers",
];
/// Window of a Gemma 2 that does not state one.
const DEFAULT_WINDOW: usize = 4_096;

/// One architecture's keys.
pub(super) struct Keys<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) family: &'static Family,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.family.name)
    }

    fn wrap<T>(&self, result: Result<T, GgufError>) -> Result<T, SourceError> {
        result.map_err(|error| self.gguf.error(error))
    }

    fn size_or_none(&self, key: &str) -> Result<Option<usize>, SourceError> {
        let key = self.key(key);
        let Some(got) = self.wrap(self.gguf.metadata().unsigned(&key))? else { return Ok(None) };
        let too_large = || GgufError::TooLarge { what: "a size in the metadata", got, max: u32::MAX.into() };
        self.wrap(u32::try_from(got).map(|size| Some(size as usize)).map_err(|_| too_large()))
    }

    fn size(&self, key: &str) -> Result<usize, SourceError> {
        let size = self.size_or_none(key)?;
        self.wrap(size.ok_or(GgufError::MissingKey { key: self.key(key) }))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, SourceError> {
        self.wrap(self.gguf.metadata().float(&self.key(key)))
    }

    fn text(&self, key: &str) -> Result<Option<&str>, SourceError> {
        self.wrap(self.gguf.metadata().text(&self.key(key)))
    }

    fn refused<T>(&self, key: &str, got: impl Display, expected: &'static str) -> Result<T, SourceError> {
        Err(self.gguf.error(GgufError::Value { key: self.key(key), got: got.to_string(), expected }))
    }

    /// All numbers of the model.
    pub(super) fn config(&self) -> Result<FloatConfig, SourceError> {
        self.refuse_what_is_not_followed()?;
        let sizes = self.sizes()?;
        let family = self.family;
        let head = if self.gguf.contains("output.weight") { HeadKind::Own } else { HeadKind::Tied };
        // The head of a model whose embedding goes through a norm is what the embedding was before.
        let head = if family.embed_norm { HeadKind::Own } else { head };
        let eps = if family.norm == super::super::config::NormKind::Rms {
            "attention.layer_norm_rms_epsilon"
        } else {
            "attention.layer_norm_epsilon"
        };
        let eps = self.float(eps)?.ok_or(GgufError::MissingKey { key: self.key(eps) });
        let has = |name: &str| self.gguf.contains(&format!("blk.0.{name}.bias"));
        let caps = |key, default: Option<f64>| Ok::<_, SourceError>(self.float(key)?.or(default));
        let config = FloatConfig {
            norm: family.norm,
            norm_place: family.norm_place,
            norm_eps: self.wrap(eps)?,
            activation: family.act,
            gated: family.gated,
            positions: self.positions(&sizes)?,
            local_rope: family.local_theta.map(|theta| self.local_rope(theta, &sizes)).transpose()?,
            windows: self.windows(&sizes)?,
            qk_norm: family.qk_norm,
            attn_scale: self.attn_scale(&sizes)?,
            attn_softcap: caps("attn_logit_softcapping", family.softcaps.map(|caps| caps.0))?,
            logit_softcap: caps("final_logit_softcapping", family.softcaps.map(|caps| caps.1))?,
            embed_scale: if family.scaled_embed { (sizes.d_model as f64).sqrt() } else { 1.0 },
            experts: self.experts(&sizes)?,
            head,
            qkv_bias: has("attn_qkv") || has("attn_q"),
            o_bias: has("attn_output"),
            ffn_bias: has("ffn_up"),
            ..FloatConfig::llama(sizes)
        };
        config.checked()
    }

    fn refuse_what_is_not_followed(&self) -> Result<(), SourceError> {
        for key in REFUSED {
            if let Some(value) = self.gguf.metadata().get(&self.key(key)) {
                let neutral = matches!(value, Value::Number(Number::Unsigned(0) | Number::Signed(0)));
                if !neutral {
                    return self.refused(key, "a value", "none: it is not supported");
                }
            }
        }
        match self.wrap(self.gguf.metadata().flag(&self.key("attention.causal")))? {
            Some(false) => self.refused("attention.causal", "false", "true"),
            _ => Ok(()),
        }
    }

    fn sizes(&self) -> Result<Sizes, SourceError> {
        let (d_model, n_heads) = (self.size("embedding_length")?, self.size("attention.head_count")?);
        let head_dim = match self.size_or_none("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if n_heads > 0 && d_model.is_multiple_of(n_heads) => d_model / n_heads,
            None => {
                return Err(SourceError::NotDivisible {
                    left: "head_count",
                    left_value: n_heads,
                    right: "embedding_length",
                    right_value: d_model,
                });
            }
        };
        match self.size_or_none("attention.value_length")? {
            Some(got) if got != head_dim => {
                return self.refused("attention.value_length", got, "the same as attention.key_length");
            }
            _ => {}
        }
        let embed = "token_embd.weight";
        let vocab = self.gguf.tensors().find(|tensor| tensor.name == embed).map(|tensor| tensor.shape[0]);
        let n_layers = self.size("block_count")?;
        super::super::config::in_range("n_layers", n_layers, MAX_LAYERS)?;
        Ok(Sizes {
            n_layers,
            d_model,
            n_heads,
            n_kv_heads: self.size_or_none("attention.head_count_kv")?.unwrap_or(n_heads),
            head_dim,
            ffn_hidden: self.size("feed_forward_length")?,
            vocab: vocab.ok_or(SourceError::MissingTensor { name: embed.into() })?,
            context: self.size("context_length")?,
        })
    }

    fn positions(&self, sizes: &Sizes) -> Result<Positions, SourceError> {
        match self.family.positions {
            Place::Learned => return Ok(Positions::Learned),
            Place::Alibi => return Ok(Positions::Alibi),
            Place::AdjacentPairs | Place::Halves => {}
        }
        let dim = self.size_or_none("rope.dimension_count")?.unwrap_or(sizes.head_dim);
        let theta = self.float("rope.freq_base")?.unwrap_or(10_000.0);
        Ok(Positions::Rope(Rope { theta, scaling: self.scaling(dim, sizes.context)?, dim }))
    }

    /// Factors per pair lie in tensors: one set (`rope_freqs`, Llama 3.1) or two (`rope_factors_*`, LongRoPE).
    fn scaling(&self, dim: usize, context: usize) -> Result<RopeScaling, SourceError> {
        let factors = |name: &str| -> Result<Option<Vec<f64>>, SourceError> {
            if !self.gguf.contains(name) {
                return Ok(None);
            }
            Ok(Some(self.gguf.vector(name, dim / 2)?.into_iter().map(f64::from).collect()))
        };
        if let Some(same) = factors("rope_freqs.weight")? {
            return Ok(RopeScaling::LongRope { short: same.clone(), long: same, original_context: context });
        }
        let (short, long) = (factors("rope_factors_short.weight")?, factors("rope_factors_long.weight")?);
        if let (Some(short), Some(long)) = (short, long) {
            let original = self.size_or_none("rope.scaling.original_context_length")?;
            return Ok(RopeScaling::LongRope { short, long, original_context: original.unwrap_or(context) });
        }
        let key = "rope.scaling.type";
        match self.text(key)? {
            None | Some("none") => Ok(match self.float("rope.scale_linear")? {
                Some(factor) if factor != 1.0 => RopeScaling::Linear { factor },
                _ => RopeScaling::None,
            }),
            Some("linear") => Ok(match self.float("rope.scaling.factor")? {
                Some(factor) if factor != 1.0 => RopeScaling::Linear { factor },
                _ => RopeScaling::None,
            }),
            Some(other) => self.refused(key, format!("{other:?}"), "none, linear, or factors in tensors"),
        }
    }

    fn local_rope(&self, theta: f64, sizes: &Sizes) -> Result<Rope, SourceError> {
        let theta = self.float("rope.freq_base_swa")?.unwrap_or(theta);
        let dim = self.size_or_none("rope.dimension_count")?.unwrap_or(sizes.head_dim);
        Ok(Rope { theta, scaling: RopeScaling::None, dim })
    }

    /// What q and k are multiplied by, each, where they turn (LongRoPE).
    pub(super) fn rope_gain(&self) -> Result<f64, SourceError> {
        let key = "rope.scaling.attn_factor";
        match self.float(key)? {
            Some(gain) if !(gain.is_finite() && gain > 0.0) => self.refused(key, gain, "a positive number"),
            gain => Ok(gain.unwrap_or(1.0)),
        }
    }

    fn windows(&self, sizes: &Sizes) -> Result<Vec<Option<usize>>, SourceError> {
        let stated = self.size_or_none("attention.sliding_window")?.filter(|&window| window > 0);
        let all = |window| vec![window; sizes.n_layers];
        match (self.family.windows, stated) {
            (Windows::None, Some(got)) => {
                self.refused("attention.sliding_window", got, "none in this architecture")
            }
            (Windows::None, None) | (Windows::Every, None) => Ok(all(None)),
            // A window as long as the longest text sees everything.
            (Windows::Every, Some(window)) => Ok(all(Some(window).filter(|&window| window < sizes.context))),
            (Windows::AllButEvery(every), stated) => {
                let every = self.pattern(every, sizes.n_layers)?;
                let window = stated.unwrap_or(DEFAULT_WINDOW);
                Ok((0..sizes.n_layers).map(|layer| every(layer).then_some(window)).collect())
            }
        }
    }

    /// Whether a layer has a window: all but the last of so many, or layer by layer.
    fn pattern(&self, every: usize, n_layers: usize) -> Result<Box<dyn Fn(usize) -> bool>, SourceError> {
        let key = "attention.sliding_window_pattern";
        let metadata = self.gguf.metadata();
        if let Some(Value::Numbers { .. }) = metadata.get(&self.key(key)) {
            let flag = |number| if let Number::Bool(flag) = number { Some(flag) } else { None };
            let flags =
                self.wrap(metadata.numbers(&self.key(key), "true or false", flag))?.unwrap_or_default();
            if flags.len() != n_layers {
                return self.refused(key, format!("{} layers", flags.len()), "one entry a layer");
            }
            return Ok(Box::new(move |layer| flags[layer]));
        }
        let every = self.size_or_none(key)?.unwrap_or(every).max(1);
        Ok(Box::new(move |layer| layer % every + 1 < every))
    }

    fn attn_scale(&self, sizes: &Sizes) -> Result<f64, SourceError> {
        if let Some(scale) = self.float("attention.scale")? {
            return Ok(scale);
        }
        let wide = self.family.wide_scale_layers == Some(sizes.n_layers);
        let width = if wide { sizes.d_model / sizes.n_heads.max(1) } else { sizes.head_dim };
        Ok(1.0 / (width as f64).sqrt())
    }

    /// Softmax over all experts, the best few, divided by their sum: Mixtral and Qwen3-MoE.
    fn experts(&self, sizes: &Sizes) -> Result<Option<Experts>, SourceError> {
        let count = self.size_or_none("expert_count")?.unwrap_or(0);
        if count == 0 {
            return Ok(None);
        }
        if !self.family.experts {
            return self.refused("expert_count", count, "0 in this architecture");
        }
        match self.float("expert_weights_scale")? {
            Some(scale) if scale != 1.0 && scale != 0.0 => {
                return self.refused("expert_weights_scale", scale, "1");
            }
            _ => {}
        }
        // 1 is softmax (`llama_expert_gating_func_type`).
        match self.size_or_none("expert_gating_func")? {
            None | Some(0 | 1) => {}
            Some(other) => return self.refused("expert_gating_func", other, "1, softmax"),
        }
        let normalise = self.wrap(self.gguf.metadata().flag(&self.key("expert_weights_norm")))?;
        Ok(Some(Experts {
            count,
            per_token: self.size("expert_used_count")?,
            normalise: normalise.unwrap_or(true),
            hidden: self.size_or_none("expert_feed_forward_length")?.unwrap_or(sizes.ffn_hidden),
            sparse: vec![true; sizes.n_layers],
        }))
    }
}
