//! A low-rank adapter in floats (LoRA, arXiv 2106.09685): beside a linear stands `scale B (A x)`.
//!
//! Rows of B are in the order of the base's rows ([`super::FloatLayer`]), fused linears are split: an adapter fits the
//! [`FloatModel`] that its base became, whatever the base's file was like.

use lockstep_base::adapter::Target;

use super::config::FloatConfig;
use super::matrix::Matrix;
use super::model::{Ffn, FloatLayer, FloatModel, Linear};
use super::{SourceError, limits::MAX_ADAPTER_RANK};

/// `scale B (A x)`.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatLowRank {
    /// `(rank, inputs)`.
    pub a: Matrix,
    /// `(outputs, rank)`.
    pub b: Matrix,
    /// Multiplies the product.
    pub scale: f64,
}

/// What is added in one layer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FloatLayerAdapter {
    /// By [`Target`], in its order.
    parts: [Option<FloatLowRank>; 7],
}

impl FloatLayerAdapter {
    /// What stands beside a linear.
    pub fn get(&self, target: Target) -> Option<&FloatLowRank> {
        self.parts[target as usize].as_ref()
    }

    /// Puts something beside a linear.
    pub fn set(&mut self, target: Target, part: FloatLowRank) {
        self.parts[target as usize] = Some(part);
    }
}

/// An adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatAdapter {
    /// Rows of every A.
    pub rank: usize,
    /// One a layer of the base, in order.
    pub layers: Vec<FloatLayerAdapter>,
}

impl FloatAdapter {
    /// What stands beside a linear of a layer.
    pub fn get(&self, layer: usize, target: Target) -> Option<&FloatLowRank> {
        self.layers.get(layer)?.get(target)
    }

    /// Refuses an adapter that does not fit a model of this configuration.
    pub fn checked(self, config: &FloatConfig) -> Result<Self, SourceError> {
        if !(1..=MAX_ADAPTER_RANK).contains(&self.rank) {
            return Err(SourceError::OutOfRange {
                what: "rank of the adapter".into(),
                got: self.rank as u64,
                min: 1,
                max: MAX_ADAPTER_RANK as u64,
            });
        }
        if self.layers.len() != config.n_layers {
            return Err(SourceError::Shape {
                name: "layers of the adapter".into(),
                got: vec![self.layers.len()],
                expected: vec![config.n_layers],
            });
        }
        for (index, layer) in self.layers.iter().enumerate() {
            for target in Target::ALL {
                let Some(part) = layer.get(target) else { continue };
                let name = |half: &str| format!("adapter, layers.{index}.{}.{half}", target.name());
                let (rows, cols) = shape(target, index, config)
                    .ok_or_else(|| SourceError::UnexpectedTensor { name: name("a") })?;
                check_shape(name("a"), &part.a, self.rank, cols)?;
                check_shape(name("b"), &part.b, rows, self.rank)?;
                super::config::positive("scale of the adapter", part.scale.abs())?;
            }
        }
        Ok(self)
    }
}

/// Rows and columns of a linear; `None` where a layer has no such one.
fn shape(target: Target, layer: usize, config: &FloatConfig) -> Option<(usize, usize)> {
    let (d, hidden, dense) = (config.d_model, config.ffn_hidden, !config.is_sparse(layer));
    match target {
        Target::Q => Some((config.q_dim(), d)),
        Target::K | Target::V => Some((config.kv_dim(), d)),
        Target::O => Some((d, config.q_dim())),
        Target::Gate => (dense && config.gated).then_some((hidden, d)),
        Target::Up => dense.then_some((hidden, d)),
        Target::Down => dense.then_some((d, hidden)),
    }
}

fn check_shape(name: String, matrix: &Matrix, rows: usize, cols: usize) -> Result<(), SourceError> {
    let got = [matrix.rows(), matrix.cols()];
    if got == [rows, cols] {
        return Ok(());
    }
    Err(SourceError::Shape { name, got: got.into(), expected: vec![rows, cols] })
}

impl FloatLayer {
    /// The linear that a target means; `None` where the layer has no such one.
    pub fn linear_mut(&mut self, target: Target) -> Option<&mut Linear> {
        let dense = match &mut self.ffn {
            Ffn::Dense(dense) => Some(dense),
            Ffn::Experts { .. } => None,
        };
        match target {
            Target::Q => Some(&mut self.q),
            Target::K => Some(&mut self.k),
            Target::V => Some(&mut self.v),
            Target::O => Some(&mut self.o),
            Target::Gate => dense?.gate.as_mut(),
            Target::Up => Some(&mut dense?.up),
            Target::Down => Some(&mut dense?.down),
        }
    }
}

impl FloatModel {
    /// The model with an adapter in its weights: `W + scale B A`.
    ///
    /// # Errors
    /// If the adapter does not fit.
    pub fn merged(mut self, adapter: &FloatAdapter) -> Result<Self, SourceError> {
        let adapter = adapter.clone().checked(&self.config)?;
        for (layer, parts) in self.layers.iter_mut().zip(&adapter.layers) {
            for target in Target::ALL {
                let (Some(part), Some(linear)) = (parts.get(target), layer.linear_mut(target)) else {
                    continue;
                };
                linear.weight.for_rows_mut(|row, weights| {
                    let mut sum = vec![0f64; weights.len()];
                    for (rank, b) in part.b.row(row).iter().enumerate() {
                        let factor = part.scale * f64::from(*b);
                        sum.iter_mut()
                            .zip(part.a.row(rank))
                            .for_each(|(sum, a)| *sum += factor * f64::from(*a));
                    }
                    weights.iter_mut().zip(sum).for_each(|(w, sum)| *w = (f64::from(*w) + sum) as f32);
                });
            }
        }
        self.checked()
    }
}
