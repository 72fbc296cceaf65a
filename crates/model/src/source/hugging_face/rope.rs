//! The rotation of a config: `rope_theta` and `rope_scaling` (before transformers 5) or `rope_parameters` (since).

use super::super::SourceError;
use super::super::config_json::ConfigJson;
use super::super::positions::{Rope, RopeScaling};

/// A rotation, and what q and k are multiplied by with it (LongRoPE).
pub(super) struct Rotation {
    pub rope: Rope,
    pub gain: f64,
}

/// Which rotation of a config is meant.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// Its name where a config has one for each kind of layer.
    pub kind: &'static str,
    /// Theta where the config is silent.
    pub theta: f64,
    /// Width of a head.
    pub head_dim: usize,
}

/// Reads a rotation.
pub(super) fn rotation(json: &ConfigJson, wanted: Wanted) -> Result<Rotation, SourceError> {
    let section = json.section_or_empty("rope_parameters", "rope_scaling");
    let section = match section.get(wanted.kind) {
        Some(_) => section.section(wanted.kind)?,
        None => section,
    };
    let theta = section.float_or("rope_theta", json.float_or("rope_theta", wanted.theta)?)?;
    let share = json.float_or("partial_rotary_factor", 1.0)?;
    let share = section.float_or("partial_rotary_factor", share)?;
    let dim = (wanted.head_dim as f64 * share) as usize; // rounds down, as Python's int()
    let field = if section.get("rope_type").is_some() { "rope_type" } else { "type" };
    let plain = |scaling| Ok(Rotation { rope: Rope { theta, scaling, dim }, gain: 1.0 });
    match section.text_or(field, "default")? {
        "default" => plain(RopeScaling::None),
        "linear" => plain(RopeScaling::Linear { factor: section.float("factor")? }),
        "llama3" => plain(RopeScaling::Llama3 {
            factor: section.float("factor")?,
            low_freq_factor: section.float("low_freq_factor")?,
            high_freq_factor: section.float("high_freq_factor")?,
            original_context: section.float("original_max_position_embeddings")?,
        }),
        "longrope" | "su" => {
            let (scaling, gain) = long_rope(json, &section)?;
            Ok(Rotation { rope: Rope { theta, scaling, dim }, gain })
        }
        other => Err(SourceError::Unsupported {
            field: "rope_type",
            got: other.into(),
            expected: "default, linear, llama3 or longrope",
        }),
    }
}

/// The gain is sqrt(1 + ln(context / original) / ln(original)), unless the config states it (LongRoPE, section 3.3, as
/// Phi-3 uses it).
fn long_rope(json: &ConfigJson, section: &ConfigJson) -> Result<(RopeScaling, f64), SourceError> {
    let original = match json.size_or_none("original_max_position_embeddings")? {
        Some(original) => original,
        None => section
            .size_or_none("original_max_position_embeddings")?
            .unwrap_or(json.size("max_position_embeddings")?),
    };
    let ratio = json.size("max_position_embeddings")? as f64 / original as f64;
    let usual = if ratio > 1.0 { (1.0 + ratio.ln() / (original as f64).ln()).sqrt() } else { 1.0 };
    let gain = section.float_or("attention_factor", usual)?;
    if !(gain.is_finite() && gain > 0.0) {
        return Err(SourceError::Unsupported {
            field: "attention_factor",
            got: gain.to_string(),
            expected: "a positive number",
        });
    }
    let scaling = RopeScaling::LongRope {
        short: section.floats("short_factor")?,
        long: section.floats("long_factor")?,
        original_context: original,
    };
    Ok((scaling, gain))
}
