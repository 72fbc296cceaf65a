//! Folding: everything that is linear and free moves into a neighbour, before anything is rounded.
//!
//! | what | goes into |
//! |---|---|
//! | gain of a norm in front | columns of the matrices that read it |
//! | offset (beta) of a layer norm in front | biases of the matrices that read it |
//! | mean subtraction of a layer norm in front | everything that writes the residual stream (and a projection of what reads it) |
//! | log2(e) and the scale of scores | q, or the gains of its norm |
//! | log2(e) | the router |
//! | scale of the embedding | the embedding |
//! | bias of v | bias of o: the softmax weights sum to 1 |
//! | bias of k, where nothing rotates, norms or caps | nothing: softmax does not see it |
//! | rotation of the residual stream | embedding, positions, readers, writers, head (`super::stream`) |
//! | rotation of each value head | v and o |
//! | Hadamard/block | down, and what reads a stream that is rotated at run time; columns are padded with zeros |
//!
//! The result computes the same logits (tested to 3e-6: the rounding of the float reference and of the folded weights).

use super::folded::{FoldedDense, FoldedFfn, FoldedLayer, FoldedLinear, FoldedModel};
use super::hadamard::Rotation;
use super::linalg::{Dense, dot};
use super::stream::{Stream, dense, norm, transformed_cols, widened};
use crate::source::{
    DenseFfn, Ffn, FloatConfig, FloatLayer, FloatModel, Linear, NormPlace, NormWeights, Positions,
};
use lockstep_base::config::{DOWN_COLS_MULTIPLE, HADAMARD_BLOCK_MAX, padded};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::PANEL_ROWS;
use std::f64::consts::LOG2_E;

/// Which rotations to fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotations {
    /// The residual stream, where norms stand in front only.
    pub residual: bool,
    /// Each value head.
    pub values: bool,
}

impl Default for Rotations {
    fn default() -> Self {
        Rotations { residual: true, values: true }
    }
}

/// Width inside the feed-forward networks: the widest, and whole panels of rows in experts. Narrower ones are padded
/// with neurons that are silent, since every activation is zero at zero.
pub(super) fn ffn_width(config: &FloatConfig) -> usize {
    let Some(experts) = &config.experts else { return config.ffn_hidden };
    let dense = if experts.sparse.iter().all(|sparse| *sparse) { 0 } else { config.ffn_hidden };
    dense.max(experts.hidden).next_multiple_of(PANEL_ROWS)
}

/// Folds `model`; the rotations are drawn from `seed`.
#[must_use]
pub fn fold(model: &FloatModel, rotations: Rotations, seed: u64) -> FoldedModel {
    let config = &model.config;
    let basis = Basis::draw(config, rotations, seed);
    let stream = &basis.stream;
    let head = model.head_matrix().map(|weight| Linear { weight: weight.clone(), bias: None });
    FoldedModel {
        config: config.clone(),
        embed: stream.table(&model.embed, config.embed_scale).into(),
        positions: model.positions.as_ref().map(|table| stream.table(table, 1.0).into()),
        embed_norm: model.embed_norm.as_ref().map(norm),
        layers: model.layers.iter().enumerate().map(|(index, layer)| basis.layer(index, layer)).collect(),
        head: head.map(|head| stream.reader(&head, model.final_norm.as_ref(), 1.0)),
        online: stream.online,
        hadamard_block: basis.hadamard_block,
    }
}

/// All that folding chooses, before any weight is looked at.
pub(super) struct Basis<'a> {
    config: &'a FloatConfig,
    /// Of the residual stream.
    pub(super) stream: Stream,
    /// Of each value head, layer by layer.
    values: Vec<Vec<Rotation>>,
    /// Width inside the feed-forward networks.
    width: usize,
    down_cols: usize,
    hadamard_block: usize,
}

impl<'a> Basis<'a> {
    /// The basis of a model of `config`, with rotations from `seed`.
    pub(super) fn draw(config: &'a FloatConfig, rotations: Rotations, seed: u64) -> Basis<'a> {
        let mut rng = SplitMix64::new(seed);
        let stream = Stream::of(config, rotations.residual, &mut rng);
        let width = ffn_width(config);
        let down_cols = padded(width as u32, DOWN_COLS_MULTIPLE);
        let mut value_rotation = || match rotations.values {
            true => Rotation::random(config.head_dim, &mut rng),
            false => Rotation::identity(config.head_dim),
        };
        let mut values = |_| (0..config.n_kv_heads).map(|_| value_rotation()).collect();
        Basis {
            config,
            stream,
            values: (0..config.n_layers).map(&mut values).collect(),
            width,
            down_cols: down_cols as usize,
            hadamard_block: (1usize << down_cols.trailing_zeros()).min(HADAMARD_BLOCK_MAX as usize),
        }
    }

    /// log2(e) and the scale of scores, where queries are not normed.
    pub(super) fn query_factor(&self) -> f64 {
        if self.config.qk_norm { 1.0 } else { LOG2_E * self.config.attn_scale }
    }

    /// The norms in front of attention and of the feed-forward block.
    pub(super) fn fronts<'l>(&self, layer: &'l FloatLayer) -> [Option<&'l NormWeights>; 2] {
        let front = self.config.norm_place != NormPlace::Post;
        [front.then_some(&layer.attn_norm), front.then_some(&layer.ffn_norm)]
    }

    fn layer(&self, index: usize, layer: &FloatLayer) -> FoldedLayer {
        let (config, stream) = (self.config, &self.stream);
        let [attn_front, ffn_front] = self.fronts(layer);
        // The norm behind a block: one of its own between two, the only one where none stands in front.
        let behind = |only: &NormWeights, post: &Option<NormWeights>| match config.norm_place {
            NormPlace::Pre => None,
            NormPlace::PreAndPost => post.as_ref().map(norm),
            NormPlace::Post => Some(norm(only)),
        };
        let mut k = stream.reader(&layer.k, attn_front, 1.0);
        let rotates = matches!(config.positions, Positions::Rope(_));
        if !rotates && !config.qk_norm && config.attn_softcap.is_none() {
            k.bias = None;
        }
        let (v, o) = self.values(index, layer, attn_front);
        FoldedLayer {
            q: stream.reader(&layer.q, attn_front, self.query_factor()),
            k,
            v,
            o,
            k_center: vec![0.0; config.kv_dim()],
            q_norm: layer.q_norm.as_ref().map(|gain| scaled(gain, LOG2_E * config.attn_scale)),
            k_norm: layer.k_norm.as_ref().map(|gain| scaled(gain, 1.0)),
            attn_post: behind(&layer.attn_norm, &layer.attn_post_norm),
            ffn: match &layer.ffn {
                Ffn::Dense(network) => FoldedFfn::Dense(self.network(network, ffn_front)),
                Ffn::Experts { router, experts } => FoldedFfn::Experts {
                    router: stream.reader(router, ffn_front, LOG2_E),
                    experts: experts.iter().map(|network| self.network(network, ffn_front)).collect(),
                },
            },
            ffn_post: behind(&layer.ffn_norm, &layer.ffn_post_norm),
        }
    }

    /// v and o: rotated head by head, the bias of the one in that of the other.
    fn values(
        &self,
        index: usize,
        layer: &FloatLayer,
        front: Option<&NormWeights>,
    ) -> (FoldedLinear, FoldedLinear) {
        let mut v = self.stream.reader(&layer.v, front, 1.0);
        let mut o = dense(&layer.o.weight);
        let mut o_bias = layer.o.bias.as_ref().map(|bias| widened(bias));
        if let Some(mixed) = self.attended_bias(&mut v) {
            let o_bias = o_bias.get_or_insert_with(|| vec![0.0; o.rows]);
            o_bias.iter_mut().enumerate().for_each(|(row, bias)| *bias += dot(o.row(row), &mixed));
        }
        let mut weight = v.weight.padded_cols(v.weight.cols);
        self.turn_values(index, &mut weight);
        v.weight = weight.into();
        self.turn_attended(index, &mut o);
        (v, self.stream.writer(o, o_bias))
    }

    /// What the bias of values, which they lose here, adds to what o reads (not rotated).
    pub(super) fn attended_bias(&self, v: &mut FoldedLinear) -> Option<Vec<f64>> {
        let dim = self.config.head_dim;
        let bias = v.bias.take()?;
        let heads = (0..self.config.n_heads).map(|head| self.config.kv_head_of(head) * dim);
        Some(heads.flat_map(|from| &bias[from..from + dim]).copied().collect())
    }

    /// Rotates what makes values: each head of the rows.
    pub(super) fn turn_values(&self, index: usize, weight: &mut Dense) {
        let heads = self.config.head_dim;
        weight.for_cols(|col| {
            let heads = col.chunks_exact_mut(heads).zip(&self.values[index]);
            heads.for_each(|(head, rotation)| rotation.apply(head));
        });
    }

    /// Rotates what reads attended values: each head of the columns.
    pub(super) fn turn_attended(&self, index: usize, weight: &mut Dense) {
        let config = self.config;
        weight.for_rows(|row| {
            for (head, part) in row.chunks_exact_mut(config.head_dim).enumerate() {
                self.values[index][config.kv_head_of(head)].apply(part);
            }
        });
    }

    /// Of what reads hidden values: their Hadamard transform, over padded columns.
    pub(super) fn turn_hidden(&self, weight: &Dense) -> Dense {
        transformed_cols(weight, self.down_cols, self.hadamard_block)
    }

    fn network(&self, network: &DenseFfn, front: Option<&NormWeights>) -> FoldedDense {
        let reader = |linear: &Linear| self.padded_rows(self.stream.reader(linear, front, 1.0));
        let down = self.turn_hidden(&dense(&network.down.weight));
        FoldedDense {
            gate: network.gate.as_ref().map(reader),
            up: reader(&network.up),
            down: self.stream.writer(down, network.down.bias.as_ref().map(|bias| widened(bias))),
        }
    }

    /// With silent neurons up to the common width.
    pub(super) fn padded_rows(&self, mut linear: FoldedLinear) -> FoldedLinear {
        linear.weight.rows = self.width;
        linear.weight.data.resize(self.width * linear.weight.cols, 0.0);
        if let Some(bias) = &mut linear.bias {
            bias.resize(self.width, 0.0);
        }
        linear
    }
}

fn scaled(x: &[f32], factor: f64) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x) * factor).collect()
}
