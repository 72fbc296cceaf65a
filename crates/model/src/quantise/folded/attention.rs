//! Attention of a folded model, scores in octaves.
//!
//! ```text
//! q, k, v = W a + b;  q, k = rope(head norm(q, k));  s_j = cap(q . (k_j - centre)) - slope (i - j)
//! p = 2^(s - max s);  out = p . V / sum p
//! ```

use super::super::linalg::{Dense, axpy, dot};
use super::run::{BatchRows, normalise};
use super::{FoldedModel, Site};
use crate::source::FloatConfig;
use std::f64::consts::LOG2_E;

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

impl FoldedModel {
    pub(super) fn attention(
        &self,
        index: usize,
        input: &Dense,
        rows: &BatchRows,
        cache: &mut LayerCache,
        see: &mut dyn FnMut(Site, &Dense),
    ) -> Dense {
        let (config, layer) = (&self.config, &self.layers[index]);
        let mut q = layer.q.run(input);
        let mut k = layer.k.run(input);
        let v = layer.v.run(input);
        let inv_freq = inv_freq(config, index);
        for (row, &position) in rows.position.iter().enumerate() {
            place_heads(config, layer.q_norm.as_deref(), &inv_freq, q.row_mut(row), position);
            place_heads(config, layer.k_norm.as_deref(), &inv_freq, k.row_mut(row), position);
        }
        k.for_rows(|row| axpy(row, -1.0, &layer.k_center));
        see(Site::Keys, &k);
        see(Site::Values, &v);
        for (row, &sequence) in rows.sequence.iter().enumerate() {
            cache.keys[sequence].extend_from_slice(k.row(row));
            cache.values[sequence].extend_from_slice(v.row(row));
        }
        let slopes = config.alibi_slopes();
        let mut out = Dense::zeros(input.rows, config.q_dim());
        for (row, &sequence) in rows.sequence.iter().enumerate() {
            let (keys, values) = (&cache.keys[sequence], &cache.values[sequence]);
            let place = Place { index, position: rows.position[row], slopes: slopes.as_deref() };
            attend(config, &place, q.row(row), keys, values, out.row_mut(row));
        }
        out
    }
}

/// Radians per position of each rotated pair in one layer; empty without rotation.
fn inv_freq(config: &FloatConfig, index: usize) -> Vec<f64> {
    config.rope_of(index).map_or(Vec::new(), |rope| rope.inv_freq(config.context))
}

/// Norm and rotation of all heads of a query or key.
fn place_heads(
    config: &FloatConfig,
    gain: Option<&[f64]>,
    inv_freq: &[f64],
    heads: &mut [f64],
    position: usize,
) {
    for head in heads.chunks_exact_mut(config.head_dim) {
        if let Some(gain) = gain {
            normalise(config.norm_eps, head);
            head.iter_mut().zip(gain).for_each(|(x, gain)| *x *= gain);
        }
        for (pair, freq) in head.chunks_exact_mut(2).zip(inv_freq) {
            let (sin, cos) = (position as f64 * freq).sin_cos();
            let (a, b) = (pair[0], pair[1]);
            pair[0] = a * cos - b * sin;
            pair[1] = a * sin + b * cos;
        }
    }
}

/// Where a query stands.
struct Place<'a> {
    index: usize,
    position: usize,
    slopes: Option<&'a [f64]>,
}

/// All heads of one query over the positions that it sees.
fn attend(
    config: &FloatConfig,
    place: &Place<'_>,
    query: &[f64],
    keys: &[f64],
    values: &[f64],
    out: &mut [f64],
) {
    let (dim, kv_dim) = (config.head_dim, config.kv_dim());
    let end = if config.causal { place.position + 1 } else { keys.len() / kv_dim };
    let start = config.windows[place.index].map_or(0, |window| (place.position + 1).saturating_sub(window));
    let cap = config.attn_softcap.map(|cap| cap * LOG2_E);
    for (head, (query, out)) in query.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
        let from = config.kv_head_of(head) * dim;
        let slope = place.slopes.map_or(0.0, |slopes| slopes[head] * LOG2_E);
        let score = |at: usize| {
            let score = dot(query, &keys[at * kv_dim + from..][..dim]);
            let score = cap.map_or(score, |cap| cap * (score / cap).tanh());
            score - slope * (place.position as f64 - at as f64)
        };
        let scores: Vec<f64> = (start..end).map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp2()).collect();
        let total: f64 = weights.iter().sum();
        for (at, weight) in (start..end).zip(&weights) {
            axpy(out, weight / total, &values[at * kv_dim + from..][..dim]);
        }
    }
}
