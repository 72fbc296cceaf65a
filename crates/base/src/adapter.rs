//! Low-rank adapters (LoRA, Hu et al. 2021) in integers: for each adapted matrix W of a base model two small
//! ones, `y = W x + B (A x)`. They are bundles of their own, bound to the base's model root, so a model can
//! be served with and without them, and to several users with different ones in one batch.

use crate::config::{COLS_MULTIPLE, ModelConfig, OPSET, padded};
use crate::digest::Digest;
use crate::part::Part;
use crate::weights::{LayerWeights, Linear};
use alloc::string::String;
use alloc::vec::Vec;
use minicbor::{Decode, Encode};

/// Largest rank of an adapter.
pub const RANK_MAX: u32 = 1024;

/// The matrices of a layer that an adapter may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Output projection.
    O,
    /// Gate.
    Gate,
    /// Up projection.
    Up,
    /// Down projection.
    Down,
}

impl Target {
    /// All, in execution order.
    pub const ALL: [Target; 7] =
        [Target::Q, Target::K, Target::V, Target::O, Target::Gate, Target::Up, Target::Down];

    /// The name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Target::Q => "q",
            Target::K => "k",
            Target::V => "v",
            Target::O => "o",
            Target::Gate => "gate",
            Target::Up => "up",
            Target::Down => "down",
        }
    }

    /// The matrix of `layer` that is adapted; `None` where the layer has no such one.
    #[must_use]
    pub fn of(self, layer: &LayerWeights) -> Option<&Linear> {
        let dense = layer.ffn.dense();
        match self {
            Target::Q => Some(&layer.q),
            Target::K => Some(&layer.k),
            Target::V => Some(&layer.v),
            Target::O => Some(&layer.o),
            Target::Gate => dense?.gate.as_ref(),
            Target::Up => Some(&dense?.up),
            Target::Down => Some(&dense?.down),
        }
    }
}

/// What an adapter says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct AdapterConfig {
    /// The opset that it was made for.
    #[n(0)]
    pub opset: String,
    /// A name for people.
    #[n(1)]
    pub name: String,
    /// Model root of the base.
    #[n(2)]
    pub base: Digest,
    /// Rows of every A, the same for all targets.
    #[n(3)]
    pub rank: u32,
}

/// Why an adapter cannot be used.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterError {
    /// Made for other arithmetic.
    #[error("adapter of opset {got:?}, expected {OPSET:?}")]
    Opset {
        /// Its opset.
        got: String,
    },
    /// Out of range.
    #[error("adapter of rank {got}, expected 1 to {RANK_MAX}")]
    Rank {
        /// Its rank.
        got: u32,
    },
    /// Made for another model.
    #[error("the adapter fits the model {expected}, not {got}")]
    Base {
        /// Root of the model at hand.
        got: Digest,
        /// Root of the model that it was made for.
        expected: Digest,
    },
    /// A matrix that the model does not have, or has in another shape or format.
    #[error("adapter, layer {layer}, {target}: {what} is {got}, expected {expected}")]
    Misfit {
        /// Absolute layer.
        layer: usize,
        /// Target's name.
        target: &'static str,
        /// Which number.
        what: &'static str,
        /// Its value.
        got: i64,
        /// What the model needs.
        expected: i64,
    },
}

impl AdapterConfig {
    /// Checks opset and rank.
    ///
    /// # Errors
    /// The first that is out of range.
    pub fn validate(&self) -> Result<(), AdapterError> {
        if self.opset != OPSET {
            return Err(AdapterError::Opset { got: self.opset.clone() });
        }
        if !(1..=RANK_MAX).contains(&self.rank) {
            return Err(AdapterError::Rank { got: self.rank });
        }
        Ok(())
    }

    /// Columns of every B.
    #[must_use]
    pub fn rank_padded(&self) -> u32 {
        padded(self.rank, COLS_MULTIPLE)
    }
}

/// `B (A x)` beside one matrix.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// A: `(rank, columns of the matrix)`, 16-bit outputs.
    pub a: Linear,
    /// B: `(rows of the matrix, rank padded)`, outputs in the matrix's format.
    pub b: Linear,
}

/// The adapted matrices of one layer.
#[derive(Clone, Debug, Default)]
pub struct LayerAdapter {
    /// By [`Target`], in its order.
    parts: [Option<LowRank>; 7],
}

impl LayerAdapter {
    /// What is added beside `target`.
    #[must_use]
    pub fn get(&self, target: Target) -> Option<&LowRank> {
        self.parts[target as usize].as_ref()
    }

    /// Sets what is added beside `target`.
    pub fn set(&mut self, target: Target, part: LowRank) {
        self.parts[target as usize] = Some(part);
    }
}

/// An adapter as the runtime reads it.
#[derive(Clone, Debug)]
pub struct AdapterWeights {
    /// What it says about itself.
    pub config: AdapterConfig,
    /// Commitment to all of it: what receipts name.
    pub root: Digest,
    /// The first layer that is held.
    pub first_layer: usize,
    /// From `first_layer` on.
    pub layers: Vec<LayerAdapter>,
}

impl AdapterWeights {
    /// Whether every matrix fits the one beside which it stands. `layers` are those of the model, the first
    /// of them being `first_layer`; `model_root` is the model's.
    ///
    /// # Errors
    /// [`AdapterError`], naming layer and target.
    pub fn check_fits(
        &self,
        model_root: Digest,
        config: &ModelConfig,
        first_layer: usize,
        layers: &[LayerWeights],
    ) -> Result<(), AdapterError> {
        self.config.validate()?;
        if self.config.base != model_root {
            return Err(AdapterError::Base { got: model_root, expected: self.config.base });
        }
        for (index, adapter) in (self.first_layer..).zip(&self.layers) {
            let layer = index.checked_sub(first_layer).and_then(|at| layers.get(at));
            for target in Target::ALL {
                let Some(part) = adapter.get(target) else { continue };
                let equal = |what, got: i64, expected: i64| {
                    let target = target.name();
                    if got == expected {
                        Ok(())
                    } else {
                        Err(AdapterError::Misfit { layer: index, target, what, got, expected })
                    }
                };
                equal("layers of the model", config.n_layers.min(index as u32).into(), index as i64)?;
                let Some(layer) = layer else { continue };
                let Some(matrix) = target.of(layer) else {
                    equal("adapted matrices", 1, 0)?;
                    continue;
                };
                equal("columns of A", part.a.cols as i64, matrix.cols as i64)?;
                equal("rows of A", part.a.rows as i64, self.config.rank.into())?;
                equal("columns of B", part.b.cols as i64, self.config.rank_padded().into())?;
                equal("rows of B", part.b.rows as i64, matrix.rows as i64)?;
                equal("fractional bits of B", part.b.out_frac.into(), matrix.out_frac.into())?;
            }
        }
        Ok(())
    }

    /// The layers of `part` among these.
    #[must_use]
    pub fn restrict(&self, part: &Part) -> AdapterWeights {
        let held = self.first_layer..self.first_layer + self.layers.len();
        let first = (part.first_layer as usize).clamp(held.start, held.end);
        let end = (part.end_layer as usize).clamp(first, held.end);
        AdapterWeights {
            config: self.config.clone(),
            root: self.root,
            first_layer: first,
            layers: self.layers[first - held.start..end - held.start].to_vec(),
        }
    }
}
