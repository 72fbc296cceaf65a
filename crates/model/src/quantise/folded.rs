//! The float model in the form that the integers will have, and its forward pass.
//!
//! Norms have no gain, every linear may have a bias, queries carry log2(e)/sqrt(head), values and
//! the residual stream are rotated, the down projection reads Hadamard-transformed hidden values:
//! exactly the graph of docs/spec/arithmetic.md, before any rounding. Running it in float is how
//! the folding is tested, and how the model writes and sees its own calibration text.
//!
//! ```text
//! x = embed[token] (+ positions[t])                                  (d_model,)
//! a = x / rms(x);  q, k, v = W a + b;  rope(q, k);  s_j = q . (k_j - centre)
//! p = 2^(s - max s);  x += W_o (p . V / sum p) + b_o
//! a = x / rms(x);  h = act(gate a) * up a   or   act(up a);  x += W_d hadamard(pad h) + b_d
//! logits = W_head (x / rms(x)) + b_head
//! ```

use super::hadamard::hadamard_blocks;
use super::linalg::{Dense, axpy, dot};
use crate::source::FloatConfig;

/// `y = weight x + bias`.
#[derive(Clone, Debug)]
pub struct FoldedLinear {
    /// `(outputs, inputs)`; the down projection has its padded inputs.
    pub weight: Dense,
    /// `(outputs,)`.
    pub bias: Option<Vec<f64>>,
}

/// One layer.
#[derive(Clone, Debug)]
pub struct FoldedLayer {
    /// Queries, times log2(e)/sqrt(head_dim).
    pub q: FoldedLinear,
    /// Keys.
    pub k: FoldedLinear,
    /// Values.
    pub v: FoldedLinear,
    /// Output projection.
    pub o: FoldedLinear,
    /// Subtracted from keys after RoPE, `(n_kv_heads * head_dim,)`.
    pub k_center: Vec<f64>,
    /// Gate of a gated block.
    pub gate: Option<FoldedLinear>,
    /// Up projection.
    pub up: FoldedLinear,
    /// Down projection on transformed hidden values.
    pub down: FoldedLinear,
}

/// A model after folding.
#[derive(Clone, Debug)]
pub struct FoldedModel {
    /// The numbers of the float model.
    pub config: FloatConfig,
    /// `(vocab, d_model)`.
    pub embed: Dense,
    /// `(context, d_model)`, with learned positions.
    pub positions: Option<Dense>,
    /// In order.
    pub layers: Vec<FoldedLayer>,
    /// `(vocab, d_model)`.
    pub head: FoldedLinear,
    /// Block of the Hadamard transform in front of the down projection.
    pub hadamard_block: usize,
}

/// Where a linear takes its input: what a Hessian belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// Input of q, k and v.
    AttnIn,
    /// Keys after RoPE and centring.
    Keys,
    /// Input of o.
    OIn,
    /// Input of gate and up.
    FfnIn,
    /// Input of down.
    DownIn,
    /// Input of the head.
    HeadIn,
}

/// Which sequence and position each row of a batch belongs to.
#[derive(Clone, Debug, Default)]
pub struct BatchRows {
    /// Sequence of each row.
    pub sequence: Vec<usize>,
    /// Position of each row in its sequence.
    pub position: Vec<usize>,
}

/// Keys and values of one layer, sequence by sequence.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    keys: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
}

impl LayerCache {
    /// Empty caches of `sequences` sequences.
    #[must_use]
    pub fn new(sequences: usize) -> LayerCache {
        LayerCache { keys: vec![Vec::new(); sequences], values: vec![Vec::new(); sequences] }
    }

    /// Forgets one sequence.
    pub fn clear(&mut self, sequence: usize) {
        self.keys[sequence].clear();
        self.values[sequence].clear();
    }
}

impl FoldedLinear {
    fn run(&self, inputs: &Dense) -> Dense {
        let mut out = self.weight.apply(inputs);
        if let Some(bias) = &self.bias {
            out.for_rows(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
        }
        out
    }
}

impl FoldedModel {
    /// Embeds one token a row.
    #[must_use]
    pub fn embed(&self, tokens: &[u32], rows: &BatchRows) -> Dense {
        let mut x = Dense::zeros(tokens.len(), self.config.d_model);
        for (i, (&token, &position)) in tokens.iter().zip(&rows.position).enumerate() {
            let row = x.row_mut(i);
            row.copy_from_slice(self.embed.row(token as usize));
            if let Some(positions) = &self.positions {
                axpy(row, 1.0, positions.row(position));
            }
        }
        x
    }

    /// `x / rms(x)` of every row.
    #[must_use]
    pub fn norm(&self, x: &Dense) -> Dense {
        let mut out = x.clone();
        out.for_rows(|row| {
            let mean = dot(row, row) / row.len() as f64;
            let scale = 1.0 / (mean + self.config.norm_eps).sqrt();
            row.iter_mut().for_each(|x| *x *= scale);
        });
        out
    }

    /// Runs layer `index` over `x` in place; `see` gets the inputs of every linear.
    pub fn layer(
        &self,
        index: usize,
        x: &mut Dense,
        rows: &BatchRows,
        cache: &mut LayerCache,
        see: &mut dyn FnMut(Site, &Dense),
    ) {
        let layer = &self.layers[index];
        let input = self.norm(x);
        see(Site::AttnIn, &input);
        let attended = self.attention(layer, &input, rows, cache, see);
        see(Site::OIn, &attended);
        axpy(&mut x.data, 1.0, &layer.o.run(&attended).data);

        let input = self.norm(x);
        see(Site::FfnIn, &input);
        let hidden = self.hidden(layer, &input);
        see(Site::DownIn, &hidden);
        axpy(&mut x.data, 1.0, &layer.down.run(&hidden).data);
    }

    /// Logits `(rows, vocab)` of residual rows.
    #[must_use]
    pub fn logits(&self, x: &Dense, see: &mut dyn FnMut(Site, &Dense)) -> Dense {
        let input = self.norm(x);
        see(Site::HeadIn, &input);
        self.head.run(&input)
    }

    /// Logits after each token of one text: `(tokens, vocab)`.
    #[must_use]
    pub fn logits_all(&self, tokens: &[u32]) -> Dense {
        let rows = BatchRows { sequence: vec![0; tokens.len()], position: (0..tokens.len()).collect() };
        let mut x = self.embed(tokens, &rows);
        for index in 0..self.layers.len() {
            self.layer(index, &mut x, &rows, &mut LayerCache::new(1), &mut |_, _| {});
        }
        self.logits(&x, &mut |_, _| {})
    }

    fn attention(
        &self,
        layer: &FoldedLayer,
        input: &Dense,
        rows: &BatchRows,
        cache: &mut LayerCache,
        see: &mut dyn FnMut(Site, &Dense),
    ) -> Dense {
        let config = &self.config;
        let (dim, kv_dim) = (config.head_dim, config.kv_dim());
        let mut q = layer.q.run(input);
        let mut k = layer.k.run(input);
        let v = layer.v.run(input);
        if let Some(inv_freq) = config.inv_freq() {
            for (row, &position) in rows.position.iter().enumerate() {
                q.row_mut(row).chunks_exact_mut(dim).for_each(|head| rope(head, &inv_freq, position));
                k.row_mut(row).chunks_exact_mut(dim).for_each(|head| rope(head, &inv_freq, position));
            }
        }
        k.for_rows(|row| axpy(row, -1.0, &layer.k_center));
        see(Site::Keys, &k);
        let mut out = Dense::zeros(input.rows, config.q_dim());
        for (row, &sequence) in rows.sequence.iter().enumerate() {
            let (keys, values) = (&mut cache.keys[sequence], &mut cache.values[sequence]);
            keys.extend_from_slice(k.row(row));
            values.extend_from_slice(v.row(row));
            for (head, out) in out.row_mut(row).chunks_exact_mut(dim).enumerate() {
                let from = config.kv_head_of(head) * dim;
                let query = &q.row(row)[head * dim..(head + 1) * dim];
                let scores: Vec<f64> =
                    keys.chunks_exact(kv_dim).map(|key| dot(query, &key[from..from + dim])).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp2()).collect();
                let total: f64 = weights.iter().sum();
                for (weight, value) in weights.iter().zip(values.chunks_exact(kv_dim)) {
                    axpy(out, weight / total, &value[from..from + dim]);
                }
            }
        }
        out
    }

    fn hidden(&self, layer: &FoldedLayer, input: &Dense) -> Dense {
        let up = layer.up.run(input);
        let mut hidden = match &layer.gate {
            Some(gate) => {
                let mut gate = gate.run(input);
                gate.data
                    .iter_mut()
                    .zip(&up.data)
                    .for_each(|(g, u)| *g = self.config.activation.apply(*g) * u);
                gate
            }
            None => {
                let mut up = up;
                up.data.iter_mut().for_each(|u| *u = self.config.activation.apply(*u));
                up
            }
        }
        .padded_cols(layer.down.weight.cols);
        hidden.for_rows(|row| hadamard_blocks(row, self.hadamard_block));
        hidden
    }
}

fn rope(head: &mut [f64], inv_freq: &[f64], position: usize) {
    for (pair, freq) in head.chunks_exact_mut(2).zip(inv_freq) {
        let (sin, cos) = (position as f64 * freq).sin_cos();
        let (a, b) = (pair[0], pair[1]);
        pair[0] = a * cos - b * sin;
        pair[1] = a * sin + b * cos;
    }
}
