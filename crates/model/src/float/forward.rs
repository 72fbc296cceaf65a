//! One token through the model, with a KV cache.
//!
//! ```text
//! x = embed[token] (+ positions[t])
//! per layer:  a = norm(x);  q, k, v = a;  rope(q, k);  x += o(attention(q, K, V))
//!             f = norm(x);  x += down(silu(gate f) * up f)    or    down(gelu(up f))
//! logits = head norm(x)
//! ```

use super::ggml::round_activations;
use super::hooks::{Hooks, Site};
use super::math::{add, dot, gelu_tanh, linear, norm, rotate, silu, softmax};
use crate::source::{Activation, FloatLayer, FloatModel, Linear, NormWeights};

/// Why a token could not be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FloatError {
    /// The token has no embedding.
    #[error("token {got} is outside the vocabulary of {vocab}")]
    UnknownToken {
        /// The token.
        got: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// The context is full.
    #[error("position {got} is outside the context of {context}")]
    ContextFull {
        /// The position.
        got: usize,
        /// Positions of the model.
        context: usize,
    },
}

/// What happens to a vector before it enters a linear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// Nothing.
    #[default]
    Float,
    /// Rounded to ggml's Q8_0 blocks, as llama.cpp does for quantised weights.
    Q8_0,
}

/// A model with its KV cache.
#[derive(Debug, Clone)]
pub struct Runner<'m> {
    model: &'m FloatModel,
    activations: Activations,
    inv_freq: Option<Vec<f64>>,
    /// Per layer `(position, n_kv_heads * head_dim)`.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    position: usize,
}

impl<'m> Runner<'m> {
    /// An empty context.
    pub fn new(model: &'m FloatModel) -> Self {
        Self::with_activations(model, Activations::Float)
    }

    /// The same with rounded linear inputs.
    pub fn with_activations(model: &'m FloatModel, activations: Activations) -> Self {
        let empty = vec![Vec::new(); model.config.n_layers];
        let inv_freq = model.config.inv_freq();
        Self { model, activations, inv_freq, keys: empty.clone(), values: empty, position: 0 }
    }

    /// Tokens seen.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Forgets all tokens.
    pub fn reset(&mut self) {
        self.keys.iter_mut().chain(&mut self.values).for_each(Vec::clear);
        self.position = 0;
    }

    /// Runs one token; logits `(vocab,)` of the next.
    pub fn step(&mut self, token: u32) -> Result<Vec<f32>, FloatError> {
        self.step_observed(token, &mut Hooks::default())
    }

    /// Runs one token under observation.
    pub fn step_observed(&mut self, token: u32, hooks: &mut Hooks<'_>) -> Result<Vec<f32>, FloatError> {
        let x = self.advance_observed(token, hooks)?; // (d_model,)
        let normed = self.norm(&self.model.final_norm, &x);
        hooks.see_input(self.model.config.n_layers, Site::HeadIn, &normed);
        let normed = self.rounded(normed);
        let head = self.model.head_matrix(); // (vocab, d_model)
        Ok((0..head.rows()).map(|row| dot(head.row(row), &normed) as f32).collect())
    }

    /// Runs one token without its logits (a prompt needs only the last); the residual stream `(d_model,)`.
    pub fn advance_observed(&mut self, token: u32, hooks: &mut Hooks<'_>) -> Result<Vec<f32>, FloatError> {
        let config = &self.model.config;
        if token as usize >= config.vocab {
            return Err(FloatError::UnknownToken { got: token, vocab: config.vocab });
        }
        if self.position >= config.context {
            return Err(FloatError::ContextFull { got: self.position, context: config.context });
        }
        let mut x = self.model.embed.row(token as usize).to_vec();
        if let Some(positions) = &self.model.positions {
            add(&mut x, positions.row(self.position));
        }
        let model = self.model;
        for (index, layer) in model.layers.iter().enumerate() {
            let attention = self.attention(index, layer, &x, hooks);
            add(&mut x, &attention);
            let ffn = self.ffn(index, layer, &x, hooks);
            add(&mut x, &ffn);
        }
        self.position += 1;
        Ok(x)
    }

    fn attention(&mut self, index: usize, layer: &FloatLayer, x: &[f32], hooks: &mut Hooks<'_>) -> Vec<f32> {
        let config = &self.model.config;
        let (head_dim, kv_dim) = (config.head_dim, config.kv_dim());
        let input = self.norm(&layer.attn_norm, x);
        hooks.see_input(index, Site::AttnIn, &input);
        let input = self.rounded(input);
        let mut q = linear(&layer.q, &input); // (n_heads * head_dim,)
        let mut k = linear(&layer.k, &input); // (n_kv_heads * head_dim,)
        let v = linear(&layer.v, &input); // (n_kv_heads * head_dim,)
        if let Some(inv_freq) = &self.inv_freq {
            let heads = q.chunks_exact_mut(head_dim).chain(k.chunks_exact_mut(head_dim));
            heads.for_each(|head| rotate(head, inv_freq, self.position));
        }
        for (kv_head, key) in k.chunks_exact(head_dim).enumerate() {
            hooks.see_key(index, kv_head, key);
        }
        self.keys[index].extend(k);
        self.values[index].extend(v);

        let mut out = Vec::with_capacity(q.len()); // (n_heads * head_dim,)
        for (head, query) in q.chunks_exact(head_dim).enumerate() {
            let from = config.kv_head_of(head) * head_dim;
            let rows = self.keys[index].chunks_exact(kv_dim).map(|row| &row[from..from + head_dim]);
            let mut weights: Vec<f64> = rows.map(|key| dot(query, key) / (head_dim as f64).sqrt()).collect();
            softmax(&mut weights); // (position + 1,)
            let mut sum = vec![0f64; head_dim];
            for (row, weight) in self.values[index].chunks_exact(kv_dim).zip(&weights) {
                sum.iter_mut().zip(&row[from..]).for_each(|(sum, &value)| *sum += weight * f64::from(value));
            }
            out.extend(sum.into_iter().map(|sum| sum as f32));
        }
        hooks.see_input(index, Site::OIn, &out);
        self.linear(&layer.o, out)
    }

    fn ffn(&self, index: usize, layer: &FloatLayer, x: &[f32], hooks: &mut Hooks<'_>) -> Vec<f32> {
        let input = self.norm(&layer.ffn_norm, x);
        hooks.see_input(index, Site::FfnIn, &input);
        let input = self.rounded(input);
        let mut hidden = linear(&layer.up, &input); // (ffn_hidden,)
        match (&layer.gate, self.model.config.activation) {
            (Some(gate), Activation::SiluGated) => {
                let gate = linear(gate, &input); // (ffn_hidden,)
                hidden.iter_mut().zip(gate).for_each(|(up, gate)| *up *= silu(gate));
            }
            _ => hidden.iter_mut().for_each(|up| *up = gelu_tanh(*up)),
        }
        hooks.see_input(index, Site::DownIn, &hidden);
        self.linear(&layer.down, hidden)
    }

    fn norm(&self, weights: &NormWeights, x: &[f32]) -> Vec<f32> {
        norm(self.model.config.norm, weights, self.model.config.norm_eps, x)
    }

    fn linear(&self, weights: &Linear, x: Vec<f32>) -> Vec<f32> {
        linear(weights, &self.rounded(x))
    }

    fn rounded(&self, mut x: Vec<f32>) -> Vec<f32> {
        match self.activations {
            Activations::Float => {}
            Activations::Q8_0 => round_activations(&mut x),
        }
        x
    }
}

/// Logits after each token: `(tokens, vocab)`.
pub fn logits_all(
    model: &FloatModel,
    activations: Activations,
    tokens: &[u32],
) -> Result<Vec<Vec<f32>>, FloatError> {
    let mut runner = Runner::with_activations(model, activations);
    tokens.iter().map(|&token| runner.step(token)).collect()
}

impl FloatModel {
    /// Logits after each token: `(tokens, vocab)`.
    pub fn logits_all(&self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, FloatError> {
        logits_all(self, Activations::Float, tokens)
    }
}
