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
//! | rotation of the residual stream | embedding, positions, readers, writers, head ([`super::stream`]) |
//! | rotation of each value head | v and o |
//! | Hadamard/block | down, and what reads a stream that is rotated at run time; columns are padded with zeros |
//!
//! The result computes the same logits (tested to 3e-6: the rounding of the float reference and of the folded weights).

use super::folded::{FoldedDense, FoldedFfn, FoldedLayer, FoldedLinear, FoldedModel};
use super::hadamard::Rotation;
use super::linalg::dot;
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
    let mut rng = SplitMix64::new(seed);
    let stream = Stream::of(config, rotations.residual, &mut rng);
    let width = ffn_width(config);
    let down_cols = padded(width as u32, DOWN_COLS_MULTIPLE);
    let hadamard_block = (1usize << down_cols.trailing_zeros()).min(HADAMARD_BLOCK_MAX as usize);
    let folder = Folder { config, stream, width, down_cols: down_cols as usize, hadamard_block };
    let layers = model
        .layers
        .iter()
        .map(|layer| {
            let mut value_rotation = || match rotations.values {
                true => Rotation::random(config.head_dim, &mut rng),
                false => Rotation::identity(config.head_dim),
            };
            let values: Vec<Rotation> = (0..config.n_kv_heads).map(|_| value_rotation()).collect();
            folder.layer(layer, &values)
        })
        .collect();
    let head = model.head_matrix().map(|weight| Linear { weight: weight.clone(), bias: None });
    FoldedModel {
        config: config.clone(),
        embed: folder.stream.table(&model.embed, config.embed_scale).into(),
        positions: model.positions.as_ref().map(|table| folder.stream.table(table, 1.0).into()),
        embed_norm: model.embed_norm.as_ref().map(norm),
        layers,
        head: head.map(|head| folder.stream.reader(&head, model.final_norm.as_ref(), 1.0)),
        online: folder.stream.online,
        hadamard_block,
    }
}

struct Folder<'a> {
    config: &'a FloatConfig,
    stream: Stream,
    width: usize,
    down_cols: usize,
    hadamard_block: usize,
}

impl Folder<'_> {
    fn layer(&self, layer: &FloatLayer, value_rotations: &[Rotation]) -> FoldedLayer {
        let config = self.config;
        let place = config.norm_place;
        let attn_front = (place != NormPlace::Post).then_some(&layer.attn_norm);
        let ffn_front = (place != NormPlace::Post).then_some(&layer.ffn_norm);
        // The norm behind a block: one of its own between two, the only one where none stands in front.
        let behind = |only: &NormWeights, post: &Option<NormWeights>| match place {
            NormPlace::Pre => None,
            NormPlace::PreAndPost => post.as_ref().map(norm),
            NormPlace::Post => Some(norm(only)),
        };
        let score_factor = LOG2_E * config.attn_scale;
        let q_factor = if config.qk_norm { 1.0 } else { score_factor };
        let mut k = self.stream.reader(&layer.k, attn_front, 1.0);
        let rotates = matches!(config.positions, Positions::Rope(_));
        if !rotates && !config.qk_norm && config.attn_softcap.is_none() {
            k.bias = None;
        }
        let (v, o) = self.values(layer, attn_front, value_rotations);
        FoldedLayer {
            q: self.stream.reader(&layer.q, attn_front, q_factor),
            k,
            v,
            o,
            k_center: vec![0.0; config.kv_dim()],
            q_norm: layer.q_norm.as_ref().map(|gain| scaled(gain, score_factor)),
            k_norm: layer.k_norm.as_ref().map(|gain| scaled(gain, 1.0)),
            attn_post: behind(&layer.attn_norm, &layer.attn_post_norm),
            ffn: match &layer.ffn {
                Ffn::Dense(network) => FoldedFfn::Dense(self.network(network, ffn_front)),
                Ffn::Experts { router, experts } => FoldedFfn::Experts {
                    router: self.stream.reader(router, ffn_front, LOG2_E),
                    experts: experts.iter().map(|network| self.network(network, ffn_front)).collect(),
                },
            },
            ffn_post: behind(&layer.ffn_norm, &layer.ffn_post_norm),
        }
    }

    /// v and o: rotated head by head, the bias of the one in that of the other.
    fn values(
        &self,
        layer: &FloatLayer,
        front: Option<&NormWeights>,
        rotations: &[Rotation],
    ) -> (FoldedLinear, FoldedLinear) {
        let (config, dim) = (self.config, self.config.head_dim);
        let mut v = self.stream.reader(&layer.v, front, 1.0);
        let mut o = dense(&layer.o.weight);
        let mut o_bias = layer.o.bias.as_ref().map(|bias| widened(bias));
        if let Some(v_bias) = v.bias.take() {
            let heads = (0..config.n_heads).map(|head| config.kv_head_of(head) * dim);
            let mixed: Vec<f64> = heads.flat_map(|from| &v_bias[from..from + dim]).copied().collect();
            let o_bias = o_bias.get_or_insert_with(|| vec![0.0; o.rows]);
            o_bias.iter_mut().enumerate().for_each(|(row, bias)| *bias += dot(o.row(row), &mixed));
        }
        let mut weight = v.weight.padded_cols(v.weight.cols);
        weight.for_cols(|col| {
            col.chunks_exact_mut(dim).zip(rotations).for_each(|(head, rotation)| rotation.apply(head));
        });
        v.weight = weight.into();
        o.for_rows(|row| {
            for (head, part) in row.chunks_exact_mut(dim).enumerate() {
                rotations[config.kv_head_of(head)].apply(part);
            }
        });
        (v, self.stream.writer(o, o_bias))
    }

    fn network(&self, network: &DenseFfn, front: Option<&NormWeights>) -> FoldedDense {
        let down = transformed_cols(&dense(&network.down.weight), self.down_cols, self.hadamard_block);
        let reader = |linear: &Linear| self.padded_rows(self.stream.reader(linear, front, 1.0));
        FoldedDense {
            gate: network.gate.as_ref().map(reader),
            up: reader(&network.up),
            down: self.stream.writer(down, network.down.bias.as_ref().map(|bias| widened(bias))),
        }
    }

    /// With silent neurons up to the common width.
    fn padded_rows(&self, mut linear: FoldedLinear) -> FoldedLinear {
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
