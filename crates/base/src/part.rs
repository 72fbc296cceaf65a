//! What one stage of a route serves.

use core::fmt;
use minicbor::{Decode, Encode};

/// A part of a model: (embed | layers a..b | head), and shard i of n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(array)]
pub struct Part {
    /// Token (and position) embedding included: input is tokens.
    #[n(0)]
    pub embed: bool,
    /// First layer.
    #[n(1)]
    pub first_layer: u32,
    /// One past the last layer.
    #[n(2)]
    pub end_layer: u32,
    /// Final norm, head and sampler included: output is tokens.
    #[n(3)]
    pub head: bool,
    /// Shard of the part (tensor parallelism).
    #[n(4)]
    pub shard: u16,
    /// Shards of the part.
    #[n(5)]
    pub shards: u16,
}

/// Why a list of parts is no route.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartError {
    /// No stage at all, or too many.
    #[error("a route has {got} stages, expected 1 to {}", crate::limits::STAGES_MAX)]
    Count {
        /// Stages of the route.
        got: usize,
    },
    /// A stage does not begin where the one before ends.
    #[error("stage {stage} begins at layer {got}, expected {expected}")]
    Gap {
        /// Index of the stage.
        stage: usize,
        /// Its first layer.
        got: u32,
        /// The end of the stage before.
        expected: u32,
    },
    /// The embedding is not (only) in the first stage or the head not (only) in the last.
    #[error(
        "stage {stage} has embed = {embed} and head = {head}, expected the embedding in the first stage only and the head in the last only"
    )]
    Ends {
        /// Index of the stage.
        stage: usize,
        /// Whether it embeds.
        embed: bool,
        /// Whether it has the head.
        head: bool,
    },
    /// The route does not end at the last layer, or a range is empty or backwards.
    #[error("stage {stage} ends at layer {got}, expected more than its first layer and at most {layers}")]
    End {
        /// Index of the stage.
        stage: usize,
        /// Its end.
        got: u32,
        /// Layers of the model.
        layers: u32,
    },
    /// Shards are named in the format and not served yet.
    #[error("stage {stage} is shard {shard} of {shards}, expected 0 of 1")]
    Shard {
        /// Index of the stage.
        stage: usize,
        /// The shard.
        shard: u16,
        /// Of so many.
        shards: u16,
    },
}

impl Part {
    /// All of a model with `n_layers` layers.
    #[must_use]
    pub fn whole(n_layers: u32) -> Part {
        Part { embed: true, first_layer: 0, end_layer: n_layers, head: true, shard: 0, shards: 1 }
    }

    /// Layers `range` of a model with `n_layers` layers; the first part embeds, the last has the head.
    #[must_use]
    pub fn layers(range: core::ops::Range<u32>, n_layers: u32) -> Part {
        Part {
            embed: range.start == 0,
            first_layer: range.start,
            end_layer: range.end,
            head: range.end == n_layers,
            shard: 0,
            shards: 1,
        }
    }

    /// A model of `n_layers` layers cut into `stages` parts as evenly as possible; fewer parts if
    /// there are not as many layers, and at most [`STAGES_MAX`](crate::limits::STAGES_MAX).
    #[must_use]
    pub fn split(n_layers: u32, stages: u32) -> alloc::vec::Vec<Part> {
        let stages = u64::from(stages.min(n_layers).clamp(1, crate::limits::STAGES_MAX as u32));
        let cut = |i: u64| (i * u64::from(n_layers) / stages) as u32;
        (0..stages).map(|i| Part::layers(cut(i)..cut(i + 1), n_layers)).collect()
    }

    /// Layers of the part.
    #[must_use]
    pub fn layer_count(&self) -> usize {
        self.end_layer.saturating_sub(self.first_layer) as usize
    }

    /// Checks that `parts` in order are one whole model of `n_layers` layers.
    ///
    /// # Errors
    /// The first stage that does not fit.
    pub fn check_route(parts: &[Part], n_layers: u32) -> Result<(), PartError> {
        if parts.is_empty() || parts.len() > crate::limits::STAGES_MAX {
            return Err(PartError::Count { got: parts.len() });
        }
        let mut expected = 0;
        for (stage, part) in parts.iter().enumerate() {
            let last = stage + 1 == parts.len();
            if part.first_layer != expected {
                return Err(PartError::Gap { stage, got: part.first_layer, expected });
            }
            if part.end_layer <= part.first_layer
                || part.end_layer > n_layers
                || (last && part.end_layer != n_layers)
            {
                return Err(PartError::End { stage, got: part.end_layer, layers: n_layers });
            }
            if part.embed != (stage == 0) || part.head != last {
                return Err(PartError::Ends { stage, embed: part.embed, head: part.head });
            }
            if part.shards != 1 || part.shard != 0 {
                return Err(PartError::Shard { stage, shard: part.shard, shards: part.shards });
            }
            expected = part.end_layer;
        }
        Ok(())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.embed {
            f.write_str("embed + ")?;
        }
        write!(f, "layers {}..{}", self.first_layer, self.end_layer)?;
        if self.head {
            f.write_str(" + head")?;
        }
        if self.shards != 1 {
            write!(f, ", shard {} of {}", self.shard, self.shards)?;
        }
        Ok(())
    }
}
