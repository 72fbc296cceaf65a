//! What the integers do not know of what a float model can have.

use super::QuantiseError;
use crate::source::{Ffn, FloatModel, NormKind, NormPlace, Positions};

/// Refuses by name what would be dropped in silence otherwise.
pub(super) fn check(model: &FloatModel) -> Result<(), QuantiseError> {
    let config = &model.config;
    let place = config.norm_place;
    let layer_norm = config.norm == NormKind::Layer;
    let other_dim = match (&config.positions, &config.local_rope) {
        (Positions::Rope(global), Some(local)) => global.dim != local.dim,
        _ => false,
    };
    let expert_bias = model.layers.iter().any(|layer| match &layer.ffn {
        Ffn::Dense(_) => false,
        Ffn::Experts { experts, .. } => {
            experts.iter().any(|expert| expert.down.bias.iter().flatten().any(|bias| *bias != 0.0))
        }
    });
    for (found, feature) in [
        (place == NormPlace::PreAndPost && layer_norm, "a layer norm on both sides of a block"),
        (place == NormPlace::Post && !layer_norm, "an RMS norm behind blocks only"),
        (place == NormPlace::Post && config.causal, "a decoder with norms behind blocks only"),
        (place != NormPlace::Post && !config.causal, "an encoder with norms in front of blocks"),
        (config.positions == Positions::Alibi && !config.causal, "ALiBi in an encoder"),
        (other_dim, "rotations of different parts of heads"),
        (expert_bias, "a bias behind experts"),
    ] {
        if found {
            return Err(QuantiseError::Unsupported { feature });
        }
    }
    Ok(())
}
