//! Tokens through the model, with a KV cache.
//!
//! ```text
//! x = embed_scale embed[token] (+ positions[t]),  normed where the norms stand behind
//! per layer:  a = norm(x);  q, k, v = a;  q, k = rope(head norm(q, k));  x += (norm) o(attention(q, K, V))
//!             f = norm(x);  x += (norm) ffn(f)                       (norms in front)
//!             x = norm(x + o(attention(x)));  x = norm(x + ffn(x))   (norms behind)
//! ffn(f) = down(act(gate f) * up f),  down(act(up f)),  or the routed sum of several such blocks
//! logits = cap(head norm(x))
//! ```
//! All tokens of one call go through a layer before the next: a causal model may be fed in any portions, an encoder
//! sees its whole text in one.

use super::ggml::round_activations;
use super::ggml_k::round_q8_k;
use super::hooks::{Hooks, Site};
use super::math::{activation, add, add_low_rank, dot, linear, norm, norm_head, rotate, soft_cap, softmax};
use crate::source::{
    DenseFfn, Ffn, FloatAdapter, FloatLayer, FloatModel, Linear, Matrix, NormPlace, NormWeights,
};
use lockstep_base::adapter::Target;

/// Why tokens could not be run.
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
    /// An encoder has no logits.
    #[error("the model is an encoder: it has no head")]
    NoHead,
    /// An encoder sees a text in one piece.
    #[error("the model is an encoder: {got} tokens were seen before, expected none")]
    TextInPortions {
        /// Tokens before.
        got: usize,
    },
    /// A text without tokens has no vector.
    #[error("the text has no tokens")]
    NoTokens,
    /// The model says nothing about how to make one vector of a text.
    #[error("the model has no pooling")]
    NoPooling,
}

/// What happens to a vector before it enters a linear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// Nothing.
    #[default]
    Float,
    /// Rounded to ggml's Q8_0 blocks, as llama.cpp does for quantised weights.
    Q8_0,
    /// Rounded to ggml's Q8_K super-blocks, as llama.cpp does for weights in Q4_K and Q6_K.
    Q8K,
}

/// A model with its KV cache.
#[derive(Debug, Clone)]
pub struct Runner<'m> {
    model: &'m FloatModel,
    adapter: Option<&'m FloatAdapter>,
    activations: Activations,
    /// Of layers without a window, or without a rotation of their own.
    inv_freq: Option<Vec<f64>>,
    local_inv_freq: Option<Vec<f64>>,
    alibi: Option<Vec<f64>>,
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
        Self {
            model,
            adapter: None,
            activations,
            inv_freq: model.config.inv_freq(),
            local_inv_freq: model.config.local_inv_freq(),
            alibi: model.config.alibi_slopes(),
            keys: empty.clone(),
            values: empty,
            position: 0,
        }
    }

    /// An empty context with an adapter beside the weights. The adapter was checked against the model's configuration.
    pub fn with_adapter(model: &'m FloatModel, adapter: &'m FloatAdapter) -> Self {
        Self { adapter: Some(adapter), ..Self::new(model) }
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
        let head = self.model.head_matrix().ok_or(FloatError::NoHead)?;
        let x = self.advance_observed(token, hooks)?; // (d_model,)
        Ok(self.logits(head, &x, hooks))
    }

    /// Runs one token without its logits (a prompt needs only the last); the residual stream `(d_model,)`.
    pub fn advance_observed(&mut self, token: u32, hooks: &mut Hooks<'_>) -> Result<Vec<f32>, FloatError> {
        Ok(self.run(&[token], hooks)?.concat())
    }

    /// A residual vector after the final norm, where there is one.
    pub(super) fn final_vector(&self, x: Vec<f32>) -> Vec<f32> {
        match &self.model.final_norm {
            Some(norm) => self.norm(norm, &x),
            None => x,
        }
    }

    /// Logits `(vocab,)` after a residual vector.
    fn logits(&self, head: &Matrix, x: &[f32], hooks: &mut Hooks<'_>) -> Vec<f32> {
        let normed = self.final_vector(x.to_vec());
        hooks.see_input(self.model.config.n_layers, Site::HeadIn, &normed);
        let normed = self.rounded(normed);
        let cap = self.model.config.logit_softcap;
        (0..head.rows()).map(|row| soft_cap(cap, dot(head.row(row), &normed)) as f32).collect()
    }

    /// Runs tokens through all layers; the residual stream after each, `(tokens, d_model)`.
    pub fn run(&mut self, tokens: &[u32], hooks: &mut Hooks<'_>) -> Result<Vec<Vec<f32>>, FloatError> {
        let model = self.model;
        let config = &model.config;
        if let Some(&got) = tokens.iter().find(|&&token| token as usize >= config.vocab) {
            return Err(FloatError::UnknownToken { got, vocab: config.vocab });
        }
        if tokens.len() > config.context - self.position {
            return Err(FloatError::ContextFull { got: config.context, context: config.context });
        }
        if !config.causal && self.position > 0 {
            return Err(FloatError::TextInPortions { got: self.position });
        }
        let places = tokens.iter().zip(self.position..);
        let mut rows: Vec<Vec<f32>> = places.map(|(&token, position)| self.embed(token, position)).collect();
        for (index, layer) in model.layers.iter().enumerate() {
            self.layer(index, layer, &mut rows, hooks);
        }
        self.position += tokens.len();
        Ok(rows)
    }

    fn embed(&self, token: u32, position: usize) -> Vec<f32> {
        let scale = self.model.config.embed_scale;
        let row = self.model.embed.row(token as usize);
        let mut x: Vec<f32> = row.iter().map(|&x| (f64::from(x) * scale) as f32).collect();
        if let Some(positions) = &self.model.positions {
            add(&mut x, positions.row(position));
        }
        match &self.model.embed_norm {
            Some(norm) => self.norm(norm, &x),
            None => x,
        }
    }

    fn layer(&mut self, index: usize, layer: &FloatLayer, rows: &mut [Vec<f32>], hooks: &mut Hooks<'_>) {
        let place = self.model.config.norm_place;
        let inputs: Vec<Vec<f32>> = rows.iter().map(|x| self.block_input(&layer.attn_norm, x)).collect();
        let attended = self.attention(index, layer, inputs, hooks);
        for (x, y) in rows.iter_mut().zip(attended) {
            self.add_block(place, &layer.attn_norm, layer.attn_post_norm.as_ref(), x, y);
            let input = self.block_input(&layer.ffn_norm, x);
            hooks.see_input(index, Site::FfnIn, &input);
            let y = self.ffn(index, &layer.ffn, input, hooks);
            self.add_block(place, &layer.ffn_norm, layer.ffn_post_norm.as_ref(), x, y);
        }
    }

    /// What a block reads.
    fn block_input(&self, front: &NormWeights, x: &[f32]) -> Vec<f32> {
        match self.model.config.norm_place {
            NormPlace::Pre | NormPlace::PreAndPost => self.norm(front, x),
            NormPlace::Post => x.to_vec(),
        }
    }

    /// Adds what a block computed.
    fn add_block(
        &self,
        place: NormPlace,
        norm: &NormWeights,
        post: Option<&NormWeights>,
        x: &mut Vec<f32>,
        mut y: Vec<f32>,
    ) {
        if let Some(post) = post {
            y = self.norm(post, &y);
        }
        add(x, &y);
        if place == NormPlace::Post {
            *x = self.norm(norm, x);
        }
    }

    /// The attention block of all `inputs` `(rows, d_model)`; the same shape.
    fn attention(
        &mut self,
        index: usize,
        layer: &FloatLayer,
        inputs: Vec<Vec<f32>>,
        hooks: &mut Hooks<'_>,
    ) -> Vec<Vec<f32>> {
        let head_dim = self.model.config.head_dim;
        let mut queries = Vec::with_capacity(inputs.len());
        for (position, input) in (self.position..).zip(inputs) {
            hooks.see_input(index, Site::AttnIn, &input);
            let input = self.rounded(input);
            let mut q = self.linear(index, Target::Q, &layer.q, &input); // (n_heads * head_dim,)
            let mut k = self.linear(index, Target::K, &layer.k, &input); // (n_kv_heads * head_dim,)
            self.place_heads(index, layer.q_norm.as_deref(), &mut q, position);
            self.place_heads(index, layer.k_norm.as_deref(), &mut k, position);
            for (kv_head, key) in k.chunks_exact(head_dim).enumerate() {
                hooks.see_key(index, kv_head, key);
            }
            self.keys[index].extend(k);
            let v = self.linear(index, Target::V, &layer.v, &input); // (n_kv_heads * head_dim,)
            self.values[index].extend(v);
            queries.push(q);
        }
        let mut out = Vec::with_capacity(queries.len());
        for (position, q) in (self.position..).zip(queries) {
            let attended = self.attend(index, &q, position);
            hooks.see_input(index, Site::OIn, &attended);
            out.push(self.linear(index, Target::O, &layer.o, &self.rounded(attended)));
        }
        out
    }

    /// Norm and rotation of all heads of a query or key.
    fn place_heads(&self, index: usize, gain: Option<&[f32]>, heads: &mut [f32], position: usize) {
        let config = &self.model.config;
        let local = self.local_inv_freq.as_ref().filter(|_| config.windows[index].is_some());
        for head in heads.chunks_exact_mut(config.head_dim) {
            if let Some(gain) = gain {
                norm_head(gain, config.norm_eps, head);
            }
            if let Some(inv_freq) = local.or(self.inv_freq.as_ref()) {
                rotate(head, inv_freq, position);
            }
        }
    }

    /// All heads of one query `(n_heads * head_dim,)` over the positions that it sees; the same shape.
    fn attend(&self, index: usize, q: &[f32], position: usize) -> Vec<f32> {
        let config = &self.model.config;
        let (head_dim, kv_dim) = (config.head_dim, config.kv_dim());
        let seen = self.keys[index].len() / kv_dim;
        let end = if config.causal { position + 1 } else { seen };
        let start = config.windows[index].map_or(0, |window| (position + 1).saturating_sub(window));
        let mut out = Vec::with_capacity(q.len());
        for (head, query) in q.chunks_exact(head_dim).enumerate() {
            let from = config.kv_head_of(head) * head_dim;
            let slope = self.alibi.as_ref().map_or(0.0, |slopes| slopes[head]);
            let score = |at: usize| {
                let key = &self.keys[index][at * kv_dim + from..][..head_dim];
                let score = soft_cap(config.attn_softcap, dot(query, key) * config.attn_scale);
                score - slope * (position as f64 - at as f64)
            };
            let mut weights: Vec<f64> = (start..end).map(score).collect();
            softmax(&mut weights); // (end - start,)
            let mut sum = vec![0f64; head_dim];
            for (at, weight) in (start..end).zip(&weights) {
                let value = &self.values[index][at * kv_dim + from..];
                sum.iter_mut().zip(value).for_each(|(sum, &value)| *sum += weight * f64::from(value));
            }
            out.extend(sum.into_iter().map(|sum| sum as f32));
        }
        out
    }

    fn ffn(&self, index: usize, ffn: &Ffn, input: Vec<f32>, hooks: &mut Hooks<'_>) -> Vec<f32> {
        let input = self.rounded(input);
        match ffn {
            Ffn::Dense(block) => self.dense(index, Site::DownIn, block, &input, hooks),
            Ffn::Experts { router, experts } => {
                let mut sum = vec![0f64; self.model.config.d_model];
                for (expert, weight) in self.route(router, &input) {
                    let site = Site::ExpertDownIn(expert);
                    let y = self.dense(index, site, &experts[expert], &input, hooks);
                    sum.iter_mut().zip(y).for_each(|(sum, y)| *sum += weight * f64::from(y));
                }
                sum.into_iter().map(|x| x as f32).collect()
            }
        }
    }

    /// The experts of a token with their weights, the most probable first.
    fn route(&self, router: &Linear, input: &[f32]) -> Vec<(usize, f64)> {
        let Some(experts) = &self.model.config.experts else { return Vec::new() };
        let logits = linear(router, input); // (experts,)
        let mut weights: Vec<f64> = logits.into_iter().map(f64::from).collect();
        softmax(&mut weights);
        let mut order: Vec<(usize, f64)> = weights.into_iter().enumerate().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        order.truncate(experts.per_token);
        if experts.normalise {
            let sum: f64 = order.iter().map(|(_, weight)| weight).sum();
            order.iter_mut().for_each(|(_, weight)| *weight /= sum);
        }
        order
    }

    fn dense(
        &self,
        index: usize,
        site: Site,
        block: &DenseFfn,
        input: &[f32],
        hooks: &mut Hooks<'_>,
    ) -> Vec<f32> {
        let act = |x: f32| activation(self.model.config.activation, x);
        let mut hidden = self.linear(index, Target::Up, &block.up, input); // (hidden,)
        match &block.gate {
            Some(gate) => {
                let gate = self.linear(index, Target::Gate, gate, input); // (hidden,)
                hidden.iter_mut().zip(gate).for_each(|(up, gate)| *up *= act(gate));
            }
            None => hidden.iter_mut().for_each(|up| *up = act(*up)),
        }
        hooks.see_input(index, site, &hidden);
        self.linear(index, Target::Down, &block.down, &self.rounded(hidden))
    }

    fn norm(&self, weights: &NormWeights, x: &[f32]) -> Vec<f32> {
        norm(self.model.config.norm, weights, self.model.config.norm_eps, x)
    }

    /// `weight x + bias`, plus what an adapter puts beside it (experts have none: their adapters are refused).
    fn linear(&self, layer: usize, target: Target, weights: &Linear, x: &[f32]) -> Vec<f32> {
        let mut y = linear(weights, x);
        if let Some(part) = self.adapter.and_then(|adapter| adapter.get(layer, target)) {
            add_low_rank(part, x, &mut y);
        }
        y
    }

    fn rounded(&self, mut x: Vec<f32>) -> Vec<f32> {
        match self.activations {
            Activations::Float => {}
            Activations::Q8_0 => round_activations(&mut x),
            Activations::Q8K => round_q8_k(&mut x),
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
    let head = model.head_matrix().ok_or(FloatError::NoHead)?;
    let mut runner = Runner::with_activations(model, activations);
    let rows = runner.run(tokens, &mut Hooks::default())?;
    Ok(rows.iter().map(|x| runner.logits(head, x, &mut Hooks::default())).collect())
}

impl FloatModel {
    /// Logits after each token: `(tokens, vocab)`.
    pub fn logits_all(&self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, FloatError> {
        logits_all(self, Activations::Float, tokens)
    }
}
