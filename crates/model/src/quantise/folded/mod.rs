//! The float model in the form that the integers will have.
//!
//! Norms in front of blocks have no gain, every linear may have a bias, scores are in octaves, values and (with norms in
//! front only) the residual stream are rotated, the down projection reads Hadamard-transformed hidden values: exactly the
//! graph of docs/spec/arithmetic.md, before any rounding. Running it in float ([`FoldedModel::layer`]) is how the folding
//! is tested, and how a decoder writes, and any model sees, its calibration text.

mod attention;
mod ffn;
mod run;

pub use attention::LayerCache;
pub use run::BatchRows;

use super::linalg::Dense;
use super::weights::Weights;
use crate::source::FloatConfig;

/// `y = weight x + bias`.
#[derive(Clone, Debug)]
pub struct FoldedLinear {
    /// `(outputs, inputs)`; readers of a stream that is rotated online, and the down projection, have their padded inputs.
    pub weight: Weights,
    /// `(outputs,)`.
    pub bias: Option<Vec<f64>>,
}

/// A norm whose gains nothing can absorb.
#[derive(Clone, Debug)]
pub struct FoldedNorm {
    /// Multiplied.
    pub gain: Vec<f64>,
    /// Added, by layer norms; they subtract the mean first.
    pub offset: Option<Vec<f64>>,
}

/// One feed-forward network.
#[derive(Clone, Debug)]
pub struct FoldedDense {
    /// Gate of a gated block.
    pub gate: Option<FoldedLinear>,
    /// Up projection.
    pub up: FoldedLinear,
    /// Down projection on transformed hidden values.
    pub down: FoldedLinear,
}

/// What follows attention.
#[derive(Clone, Debug)]
pub enum FoldedFfn {
    /// One network.
    Dense(FoldedDense),
    /// Networks of which a router picks some.
    Experts {
        /// Logits in octaves: times log2(e).
        router: FoldedLinear,
        /// In the order of the router's rows.
        experts: Vec<FoldedDense>,
    },
}

impl FoldedFfn {
    /// All networks: one, or the experts.
    #[must_use]
    pub fn networks(&self) -> &[FoldedDense] {
        match self {
            FoldedFfn::Dense(dense) => std::slice::from_ref(dense),
            FoldedFfn::Experts { experts, .. } => experts,
        }
    }
}

/// One layer.
#[derive(Clone, Debug)]
pub struct FoldedLayer {
    /// Queries, times log2(e) and the scale of the scores (unless `q_norm` has them).
    pub q: FoldedLinear,
    /// Keys.
    pub k: FoldedLinear,
    /// Values.
    pub v: FoldedLinear,
    /// Output projection.
    pub o: FoldedLinear,
    /// Subtracted from keys after RoPE, `(n_kv_heads * head_dim,)`.
    pub k_center: Vec<f64>,
    /// Gains of each query head, times log2(e) and the scale of the scores, `(head_dim,)`.
    pub q_norm: Option<Vec<f64>>,
    /// Gains of each key head, `(head_dim,)`.
    pub k_norm: Option<Vec<f64>>,
    /// Norm behind attention.
    pub attn_post: Option<FoldedNorm>,
    /// The feed-forward block.
    pub ffn: FoldedFfn,
    /// Norm behind the feed-forward block.
    pub ffn_post: Option<FoldedNorm>,
}

/// The Hadamard transform in front of blocks whose stream no rotation was folded into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnlineRotation {
    /// Padded width.
    pub cols: usize,
    /// Block of the transform.
    pub block: usize,
}

/// A model after folding.
#[derive(Clone, Debug)]
pub struct FoldedModel {
    /// The numbers of the float model.
    pub config: FloatConfig,
    /// `(vocab, d_model)`.
    pub embed: Weights,
    /// `(context, d_model)`, with learned positions.
    pub positions: Option<Weights>,
    /// Norm behind the embedding, where norms stand behind blocks.
    pub embed_norm: Option<FoldedNorm>,
    /// In order.
    pub layers: Vec<FoldedLayer>,
    /// `(vocab, d_model)`; none in an encoder.
    pub head: Option<FoldedLinear>,
    /// What is rotated at run time.
    pub online: Option<OnlineRotation>,
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
    /// Values.
    Values,
    /// Input of o.
    OIn,
    /// Input of gate and up, and of the router.
    FfnIn,
    /// Input of down of one network; experts see theirs times their weights.
    DownIn(usize),
    /// Input of the head.
    HeadIn,
}

impl FoldedLinear {
    /// Of every row of `inputs`.
    #[must_use]
    pub fn run(&self, inputs: &Dense) -> Dense {
        let mut out = self.weight.apply(inputs);
        if let Some(bias) = &self.bias {
            out.for_rows(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
        }
        out
    }
}

impl FoldedNorm {
    /// Of one row, in place.
    fn run(&self, eps: f64, row: &mut [f64]) {
        let n = row.len() as f64;
        if self.offset.is_some() {
            let mean = row.iter().sum::<f64>() / n;
            row.iter_mut().for_each(|x| *x -= mean);
        }
        run::normalise(eps, row);
        row.iter_mut().zip(&self.gain).for_each(|(x, gain)| *x *= gain);
        row.iter_mut().zip(self.offset.iter().flatten()).for_each(|(x, offset)| *x += offset);
    }
}
