//! What the integers know of what a float model can have.

use super::QuantiseError;
use crate::source::{Act, FloatModel, HeadKind, NormPlace, Positions};

/// Refuses by name what would be dropped in silence otherwise.
pub(super) fn check(model: &FloatModel) -> Result<(), QuantiseError> {
    let config = &model.config;
    let act = (config.activation, config.gated);
    let part_of_head = config.rope_of(0).is_some_and(|rope| rope.dim != config.head_dim);
    let plain_scale = 1.0 / (config.head_dim as f64).sqrt();
    for (found, feature) in [
        (!matches!(act, (Act::Silu, true) | (Act::GeluTanh, false)), "the activation"),
        (config.norm_place != NormPlace::Pre, "a norm behind a block"),
        (config.positions == Positions::Alibi, "ALiBi"),
        (part_of_head, "rotation of a part of each head"),
        (config.local_rope.is_some(), "a rotation of its own in some layers"),
        (config.windows.iter().any(Option::is_some), "a sliding window"),
        (config.qk_norm, "a norm of queries and keys"),
        ((config.attn_scale / plain_scale - 1.0).abs() > 1e-12, "a scale of the scores"),
        (config.attn_softcap.is_some() || config.logit_softcap.is_some(), "a soft cap"),
        (config.embed_scale != 1.0, "a scale of the embedding"),
        (config.experts.is_some(), "a mixture of experts"),
        (!config.causal || config.head == HeadKind::Absent, "an encoder"),
    ] {
        if found {
            return Err(QuantiseError::Unsupported { feature });
        }
    }
    Ok(())
}
