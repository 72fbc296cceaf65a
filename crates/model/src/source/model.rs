//! The float model that every importer produces: one convention, no trace of the file format.

use super::SourceError;
use super::config::{Activation, FloatConfig, NormKind, Positions};
use super::matrix::{Matrix, checked_vector};

/// Gain and, for layer norm, offset: `(d_model,)` each.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeights {
    /// Multiplied.
    pub gamma: Vec<f32>,
    /// Added; present exactly for [`NormKind::Layer`].
    pub beta: Option<Vec<f32>>,
}

/// `y = weight x + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// `(outputs, inputs)`.
    pub weight: Matrix,
    /// `(outputs,)`.
    pub bias: Option<Vec<f32>>,
}

/// One decoder layer. q and k rows are ordered so that RoPE turns adjacent pairs `(2i, 2i+1)` of each head.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatLayer {
    /// In front of q, k and v.
    pub attn_norm: NormWeights,
    /// `(n_heads * head_dim, d_model)`.
    pub q: Linear,
    /// `(n_kv_heads * head_dim, d_model)`.
    pub k: Linear,
    /// `(n_kv_heads * head_dim, d_model)`.
    pub v: Linear,
    /// `(d_model, n_heads * head_dim)`.
    pub o: Linear,
    /// In front of gate and up.
    pub ffn_norm: NormWeights,
    /// `(ffn_hidden, d_model)`; present exactly for [`Activation::SiluGated`].
    pub gate: Option<Linear>,
    /// `(ffn_hidden, d_model)`.
    pub up: Linear,
    /// `(d_model, ffn_hidden)`.
    pub down: Linear,
}

/// Float weights of a pre-norm decoder, independent of where they came from.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatModel {
    /// The numbers.
    pub config: FloatConfig,
    /// `(vocab, d_model)`.
    pub embed: Matrix,
    /// `(context, d_model)`; present exactly for [`Positions::Learned`].
    pub positions: Option<Matrix>,
    /// In order.
    pub layers: Vec<FloatLayer>,
    /// In front of the head.
    pub final_norm: NormWeights,
    /// `(vocab, d_model)`; absent exactly when `config.tied_head`.
    pub head: Option<Matrix>,
}

impl FloatModel {
    /// The matrix that makes logits: the head, or the embedding where both are one.
    pub fn head_matrix(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// Number of weights.
    pub fn n_params(&self) -> u64 {
        let linear = |l: &Linear| l.weight.data().len() + l.bias.as_ref().map_or(0, Vec::len);
        let norm = |n: &NormWeights| n.gamma.len() + n.beta.as_ref().map_or(0, Vec::len);
        let layer = |l: &FloatLayer| {
            norm(&l.attn_norm)
                + norm(&l.ffn_norm)
                + l.linears().iter().map(|(_, linear_)| linear(linear_)).sum::<usize>()
        };
        let tables = [Some(&self.embed), self.positions.as_ref(), self.head.as_ref()];
        let tables: usize = tables.into_iter().flatten().map(|m| m.data().len()).sum();
        (tables + self.layers.iter().map(layer).sum::<usize>() + norm(&self.final_norm)) as u64
    }

    /// Every shape, presence and value against the config. Importers call it last; call it after editing weights.
    pub fn checked(self) -> Result<Self, SourceError> {
        let config = self.config.clone().checked()?;
        let (d, vocab) = (config.d_model, config.vocab);
        check_shape("embed", &self.embed, vocab, d)?;
        let learned = config.positions == Positions::Learned;
        present("positions", learned, self.positions.as_ref())?;
        if let Some(positions) = &self.positions {
            check_shape("positions", positions, config.context, d)?;
        }
        if self.layers.len() != config.n_layers {
            return Err(SourceError::Shape {
                name: "layers".into(),
                got: vec![self.layers.len()],
                expected: vec![config.n_layers],
            });
        }
        for (index, layer) in self.layers.iter().enumerate() {
            layer.check(index, &config)?;
        }
        check_norm("final_norm", &self.final_norm, &config)?;
        present("head", !config.tied_head, self.head.as_ref())?;
        if let Some(head) = &self.head {
            check_shape("head", head, vocab, d)?;
        }
        Ok(self)
    }
}

impl FloatLayer {
    /// The linears by name, in the order in which they run.
    pub fn linears(&self) -> Vec<(&'static str, &Linear)> {
        let mut all = vec![("q", &self.q), ("k", &self.k), ("v", &self.v), ("o", &self.o)];
        all.extend(self.gate.as_ref().map(|gate| ("gate", gate)));
        all.extend([("up", &self.up), ("down", &self.down)]);
        all
    }

    /// The same, to be changed.
    pub fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        let mut all = vec![("q", &mut self.q), ("k", &mut self.k), ("v", &mut self.v), ("o", &mut self.o)];
        all.extend(self.gate.as_mut().map(|gate| ("gate", gate)));
        all.extend([("up", &mut self.up), ("down", &mut self.down)]);
        all
    }

    fn check(&self, index: usize, config: &FloatConfig) -> Result<(), SourceError> {
        let name = |part: &str| format!("layers.{index}.{part}");
        present(&name("gate"), config.activation == Activation::SiluGated, self.gate.as_ref())?;
        check_norm(&name("attn_norm"), &self.attn_norm, config)?;
        check_norm(&name("ffn_norm"), &self.ffn_norm, config)?;
        let (d, hidden) = (config.d_model, config.ffn_hidden);
        for (part, linear) in self.linears() {
            let (rows, cols, bias) = match part {
                "q" => (config.q_dim(), d, config.qkv_bias),
                "k" | "v" => (config.kv_dim(), d, config.qkv_bias),
                "o" => (d, config.q_dim(), config.o_bias),
                "down" => (d, hidden, config.ffn_bias),
                _ => (hidden, d, config.ffn_bias),
            };
            check_shape(&name(part), &linear.weight, rows, cols)?;
            present(&name(&format!("{part}.bias")), bias, linear.bias.as_ref())?;
            if let Some(bias) = &linear.bias {
                check_vector(&name(&format!("{part}.bias")), bias, rows)?;
            }
        }
        Ok(())
    }
}

fn check_shape(name: &str, matrix: &Matrix, rows: usize, cols: usize) -> Result<(), SourceError> {
    if (matrix.rows(), matrix.cols()) == (rows, cols) {
        return Ok(());
    }
    Err(SourceError::Shape {
        name: name.into(),
        got: vec![matrix.rows(), matrix.cols()],
        expected: vec![rows, cols],
    })
}

fn check_vector(name: &str, vector: &[f32], len: usize) -> Result<(), SourceError> {
    checked_vector(name, len, vector.to_vec()).map(drop)
}

fn check_norm(name: &str, norm: &NormWeights, config: &FloatConfig) -> Result<(), SourceError> {
    check_vector(&format!("{name}.gamma"), &norm.gamma, config.d_model)?;
    let beta = format!("{name}.beta");
    present(&beta, config.norm == NormKind::Layer, norm.beta.as_ref())?;
    norm.beta.as_ref().map_or(Ok(()), |values| check_vector(&beta, values, config.d_model))
}

fn present<T>(name: &str, expected: bool, value: Option<&T>) -> Result<(), SourceError> {
    match (expected, value.is_some()) {
        (true, false) => Err(SourceError::MissingTensor { name: name.into() }),
        (false, true) => Err(SourceError::UnexpectedTensor { name: name.into() }),
        _ => Ok(()),
    }
}
