//! Folding: everything that is linear and free moves into a neighbour, before anything is rounded.
//!
//! | what | goes into |
//! |---|---|
//! | gain of a norm | columns of the matrices that read it |
//! | offset (beta) of a layer norm | biases of the matrices that read it |
//! | mean subtraction of a layer norm | everything that writes the residual stream (and a projection of what reads it) |
//! | log2(e)/sqrt(head_dim) | q |
//! | bias of v | bias of o: the softmax weights sum to 1 |
//! | bias of k without RoPE | nothing: softmax does not see it |
//! | rotation of the residual stream | embedding, positions, readers, writers, head |
//! | rotation of each value head | v and o |
//! | Hadamard/block | down, whose columns are padded with zeros |
//!
//! The result computes the same logits (tested to 1e-9 relative to the source's rounding).

use super::folded::{FoldedLayer, FoldedLinear, FoldedModel};
use super::hadamard::{Rotation, hadamard_blocks};
use super::linalg::{Dense, dot};
use crate::source::{Ffn, FloatLayer, FloatModel, Linear, Matrix, NormKind, NormWeights, Positions};
use lockstep_base::config::{DOWN_COLS_MULTIPLE, HADAMARD_BLOCK_MAX, padded};
use lockstep_base::rng::SplitMix64;

/// Which rotations to fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotations {
    /// The residual stream.
    pub residual: bool,
    /// Each value head.
    pub values: bool,
}

impl Default for Rotations {
    fn default() -> Self {
        Rotations { residual: true, values: true }
    }
}

/// Why a model has what folding needs.
const CHECKED: &str = "refused before folding: see supported.rs";

/// Folds `model`; the rotations are drawn from `seed`.
///
/// # Panics
/// If the model has what [`super::quantise`] refuses.
#[must_use]
pub fn fold(model: &FloatModel, rotations: Rotations, seed: u64) -> FoldedModel {
    let config = &model.config;
    let mut rng = SplitMix64::new(seed);
    let rotation = if rotations.residual {
        Rotation::random(config.d_model, &mut rng)
    } else {
        Rotation::identity(config.d_model)
    };
    let stream = Stream { rotation, centred: config.norm == NormKind::Layer };
    let down_cols = padded(config.ffn_hidden as u32, DOWN_COLS_MULTIPLE);
    let hadamard_block = (1usize << down_cols.trailing_zeros()).min(HADAMARD_BLOCK_MAX as usize);
    let layers = model
        .layers
        .iter()
        .map(|layer| {
            let values = (0..config.n_kv_heads)
                .map(|_| {
                    if rotations.values {
                        Rotation::random(config.head_dim, &mut rng)
                    } else {
                        Rotation::identity(config.head_dim)
                    }
                })
                .collect::<Vec<_>>();
            fold_layer(model, layer, &stream, &values, down_cols as usize, hadamard_block)
        })
        .collect();
    let table = |matrix: &Matrix| {
        let mut table = dense(matrix);
        table.for_rows(|row| stream.enter(row));
        table
    };
    let head = model.head_matrix().map(|weight| Linear { weight: weight.clone(), bias: None });
    FoldedModel {
        config: config.clone(),
        embed: table(&model.embed),
        positions: model.positions.as_ref().map(table),
        layers,
        head: match (&head, &model.final_norm) {
            (Some(head), Some(norm)) => stream.reader(head, norm),
            _ => unreachable!("{CHECKED}"),
        },
        hadamard_block,
    }
}

/// The basis of the residual stream.
struct Stream {
    rotation: Rotation,
    /// Layer norm: the stream has mean zero, so that its norm is an RMS norm.
    centred: bool,
}

impl Stream {
    /// A residual vector in the new basis.
    fn enter(&self, x: &mut [f64]) {
        if self.centred {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            x.iter_mut().for_each(|x| *x -= mean);
        }
        self.rotation.apply(x);
    }

    /// A linear that reads the stream through `norm`.
    fn reader(&self, linear: &Linear, norm: &NormWeights) -> FoldedLinear {
        let mut weight = dense(&linear.weight);
        let mut bias = linear.bias.as_ref().map(|bias| widened(bias));
        if let Some(beta) = &norm.beta {
            let beta = widened(beta);
            let bias = bias.get_or_insert_with(|| vec![0.0; weight.rows]);
            bias.iter_mut().enumerate().for_each(|(row, bias)| *bias += dot(weight.row(row), &beta));
        }
        weight.for_rows(|row| {
            row.iter_mut().zip(&norm.gamma).for_each(|(w, gain)| *w *= f64::from(*gain));
            self.enter(row); // the centring is a symmetric projection that the normalised vector does not see
        });
        FoldedLinear { weight, bias }
    }

    /// A linear that writes into the stream.
    fn writer(&self, mut weight: Dense, mut bias: Option<Vec<f64>>) -> FoldedLinear {
        weight.for_cols(|col| self.enter(col));
        if let Some(bias) = &mut bias {
            self.enter(bias);
        }
        FoldedLinear { weight, bias }
    }
}

fn fold_layer(
    model: &FloatModel,
    layer: &FloatLayer,
    stream: &Stream,
    value_rotations: &[Rotation],
    down_cols: usize,
    hadamard_block: usize,
) -> FoldedLayer {
    let config = &model.config;
    let dim = config.head_dim;

    let mut q = stream.reader(&layer.q, &layer.attn_norm);
    let factor = std::f64::consts::LOG2_E / (dim as f64).sqrt();
    q.weight.data.iter_mut().for_each(|w| *w *= factor);
    q.bias.iter_mut().flatten().for_each(|b| *b *= factor);

    let mut k = stream.reader(&layer.k, &layer.attn_norm);
    if config.positions == Positions::Learned {
        k.bias = None;
    }

    let mut v = stream.reader(&layer.v, &layer.attn_norm);
    let mut o = dense(&layer.o.weight);
    let mut o_bias = layer.o.bias.as_ref().map(|bias| widened(bias));
    if let Some(v_bias) = v.bias.take() {
        let mixed: Vec<f64> = (0..config.n_heads)
            .flat_map(|head| head_of(&v_bias, config.kv_head_of(head), dim))
            .copied()
            .collect();
        let o_bias = o_bias.get_or_insert_with(|| vec![0.0; o.rows]);
        o_bias.iter_mut().enumerate().for_each(|(row, bias)| *bias += dot(o.row(row), &mixed));
    }
    v.weight.for_cols(|col| {
        col.chunks_exact_mut(dim).zip(value_rotations).for_each(|(head, rotation)| rotation.apply(head));
    });
    o.for_rows(|row| {
        for (head, part) in row.chunks_exact_mut(dim).enumerate() {
            value_rotations[config.kv_head_of(head)].apply(part);
        }
    });

    let Ffn::Dense(ffn) = &layer.ffn else { unreachable!("{CHECKED}") };
    let mut down = dense(&ffn.down.weight).padded_cols(down_cols);
    down.for_rows(|row| {
        hadamard_blocks(row, hadamard_block);
        row.iter_mut().for_each(|w| *w /= hadamard_block as f64);
    });
    FoldedLayer {
        q,
        k,
        v,
        o: stream.writer(o, o_bias),
        k_center: vec![0.0; config.kv_dim()],
        gate: ffn.gate.as_ref().map(|gate| stream.reader(gate, &layer.ffn_norm)),
        up: stream.reader(&ffn.up, &layer.ffn_norm),
        down: stream.writer(down, ffn.down.bias.as_ref().map(|bias| widened(bias))),
    }
}

fn head_of(x: &[f64], head: usize, dim: usize) -> &[f64] {
    &x[head * dim..(head + 1) * dim]
}

fn dense(matrix: &Matrix) -> Dense {
    Dense::from_f32(matrix.rows(), matrix.cols(), matrix.data())
}

fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}
