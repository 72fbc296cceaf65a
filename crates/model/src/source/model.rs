//! The float model that every importer produces: one convention, no trace of the file format.

use super::SourceError;
use super::config::{FloatConfig, HeadKind, NormKind, NormPlace};
use super::matrix::{Matrix, check_finite};
use super::positions::Positions;

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

/// One feed-forward block: `down(act(gate x) * up x)`, or `down(act(up x))`.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseFfn {
    /// `(hidden, d_model)`; present exactly in gated models.
    pub gate: Option<Linear>,
    /// `(hidden, d_model)`.
    pub up: Linear,
    /// `(d_model, hidden)`.
    pub down: Linear,
}

/// What follows attention in a layer.
#[derive(Debug, Clone, PartialEq)]
pub enum Ffn {
    /// One block.
    Dense(DenseFfn),
    /// The sum of the blocks that the router picks, weighted by their softmax probabilities.
    Experts {
        /// `(experts, d_model)`, no bias.
        router: Linear,
        /// In the order of the router's rows.
        experts: Vec<DenseFfn>,
    },
}

/// One layer. Rows of q and k (and gains of their norms) are ordered so that the rotation turns adjacent pairs
/// `(2i, 2i+1)` of each head; channels that do not turn come last.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatLayer {
    /// In front of q, k and v; with [`NormPlace::Post`] after attention was added.
    pub attn_norm: NormWeights,
    /// `(n_heads * head_dim, d_model)`.
    pub q: Linear,
    /// `(n_kv_heads * head_dim, d_model)`.
    pub k: Linear,
    /// `(n_kv_heads * head_dim, d_model)`.
    pub v: Linear,
    /// `(d_model, n_heads * head_dim)`.
    pub o: Linear,
    /// Gain of the RMS norm of every query head before the rotation, `(head_dim,)`; present exactly for `qk_norm`.
    pub q_norm: Option<Vec<f32>>,
    /// The same for key heads.
    pub k_norm: Option<Vec<f32>>,
    /// On what attention adds; present exactly for [`NormPlace::PreAndPost`].
    pub attn_post_norm: Option<NormWeights>,
    /// In front of the feed-forward block; with [`NormPlace::Post`] after it was added.
    pub ffn_norm: NormWeights,
    /// The feed-forward block.
    pub ffn: Ffn,
    /// On what the feed-forward block adds; present exactly for [`NormPlace::PreAndPost`].
    pub ffn_post_norm: Option<NormWeights>,
}

/// Float weights of a transformer, independent of where they came from.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatModel {
    /// The numbers.
    pub config: FloatConfig,
    /// `(vocab, d_model)`.
    pub embed: Matrix,
    /// `(context, d_model)`; present exactly for [`Positions::Learned`].
    pub positions: Option<Matrix>,
    /// On embedding plus position; present exactly for [`NormPlace::Post`].
    pub embed_norm: Option<NormWeights>,
    /// In order.
    pub layers: Vec<FloatLayer>,
    /// In front of the head; absent exactly for [`NormPlace::Post`].
    pub final_norm: Option<NormWeights>,
    /// `(vocab, d_model)`; present exactly for [`HeadKind::Own`].
    pub head: Option<Matrix>,
}

impl FloatModel {
    /// The matrix that makes logits: the head, or the embedding where both are one; none in an encoder.
    pub fn head_matrix(&self) -> Option<&Matrix> {
        match self.config.head {
            HeadKind::Tied => Some(&self.embed),
            HeadKind::Own => self.head.as_ref(),
            HeadKind::Absent => None,
        }
    }

    /// The same model with a shorter longest sequence (which may choose other frequencies: LongRoPE). A longer one is
    /// not possible and leaves it as it is.
    #[must_use]
    pub fn with_context(mut self, context: usize) -> Self {
        if (1..self.config.context).contains(&context) {
            self.config.context = context;
            self.positions = self.positions.map(|table| table.row_range(0, context));
        }
        self
    }

    /// Number of weights.
    pub fn n_params(&self) -> u64 {
        let norm = |n: &NormWeights| n.gamma.len() + n.beta.as_ref().map_or(0, Vec::len);
        let layers: usize = self.layers.iter().map(FloatLayer::n_params).sum();
        let tables = [Some(&self.embed), self.positions.as_ref(), self.head.as_ref()];
        let tables: usize = tables.into_iter().flatten().map(|m| m.data().len()).sum();
        let norms: usize = [&self.embed_norm, &self.final_norm].into_iter().flatten().map(norm).sum();
        (tables + layers + norms) as u64
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
        let post = config.norm_place == NormPlace::Post;
        check_norm_if("embed_norm", post, self.embed_norm.as_ref(), &config)?;
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
        check_norm_if("final_norm", !post, self.final_norm.as_ref(), &config)?;
        present("head", config.head == HeadKind::Own, self.head.as_ref())?;
        if let Some(head) = &self.head {
            check_shape("head", head, vocab, d)?;
        }
        Ok(self)
    }
}

impl Linear {
    fn n_params(&self) -> usize {
        self.weight.data().len() + self.bias.as_ref().map_or(0, Vec::len)
    }
}

impl DenseFfn {
    /// The linears by name, in the order in which they run.
    pub fn linears(&self) -> Vec<(&'static str, &Linear)> {
        let gate = self.gate.as_ref().map(|gate| ("gate", gate));
        gate.into_iter().chain([("up", &self.up), ("down", &self.down)]).collect()
    }

    /// The same, to be changed.
    pub fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        let gate = self.gate.as_mut().map(|gate| ("gate", gate));
        gate.into_iter().chain([("up", &mut self.up), ("down", &mut self.down)]).collect()
    }

    fn check(&self, name: &str, hidden: usize, config: &FloatConfig) -> Result<(), SourceError> {
        present(&format!("{name}gate"), config.gated, self.gate.as_ref())?;
        for (part, linear) in self.linears() {
            let (rows, cols) =
                if part == "down" { (config.d_model, hidden) } else { (hidden, config.d_model) };
            check_linear(&format!("{name}{part}"), linear, rows, cols, config.ffn_bias)?;
        }
        Ok(())
    }
}

impl Ffn {
    /// The block of a layer that is not a mixture.
    pub fn dense(&self) -> Option<&DenseFfn> {
        match self {
            Ffn::Dense(dense) => Some(dense),
            Ffn::Experts { .. } => None,
        }
    }

    fn linears(&self) -> Vec<(String, &Linear)> {
        match self {
            Ffn::Dense(dense) => dense.linears().into_iter().map(|(part, l)| (part.into(), l)).collect(),
            Ffn::Experts { router, experts } => {
                let blocks = experts.iter().enumerate().flat_map(|(expert, dense)| {
                    dense.linears().into_iter().map(move |(part, l)| (format!("experts.{expert}.{part}"), l))
                });
                std::iter::once(("router".into(), router)).chain(blocks).collect()
            }
        }
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        match self {
            Ffn::Dense(dense) => dense.linears_mut().into_iter().map(|(part, l)| (part.into(), l)).collect(),
            Ffn::Experts { router, experts } => {
                let blocks = experts.iter_mut().enumerate().flat_map(|(expert, dense)| {
                    dense
                        .linears_mut()
                        .into_iter()
                        .map(move |(part, l)| (format!("experts.{expert}.{part}"), l))
                });
                std::iter::once(("router".into(), router)).chain(blocks).collect()
            }
        }
    }

    fn check(&self, index: usize, config: &FloatConfig) -> Result<(), SourceError> {
        let name = |part: &str| format!("layers.{index}.{part}");
        let sparse = config.experts.as_ref().filter(|_| config.is_sparse(index));
        match (self, sparse) {
            (Ffn::Dense(dense), None) => dense.check(&name(""), config.ffn_hidden, config),
            (Ffn::Experts { router, experts }, Some(expected)) => {
                check_linear(&name("router"), router, expected.count, config.d_model, false)?;
                if experts.len() != expected.count {
                    return Err(SourceError::Shape {
                        name: name("experts"),
                        got: vec![experts.len()],
                        expected: vec![expected.count],
                    });
                }
                let mut blocks = experts.iter().enumerate();
                blocks.try_for_each(|(expert, dense)| {
                    dense.check(&name(&format!("experts.{expert}.")), expected.hidden, config)
                })
            }
            (Ffn::Dense(_), Some(_)) => Err(SourceError::MissingTensor { name: name("router") }),
            (Ffn::Experts { .. }, None) => Err(SourceError::UnexpectedTensor { name: name("router") }),
        }
    }
}

impl FloatLayer {
    /// The linears by name (`q`, `k`, `v`, `o`, `gate`, `up`, `down`, `router`, `experts.3.gate`), in the order in which
    /// they run.
    pub fn linears(&self) -> Vec<(String, &Linear)> {
        let attention = [("q", &self.q), ("k", &self.k), ("v", &self.v), ("o", &self.o)];
        attention.into_iter().map(|(part, l)| (part.into(), l)).chain(self.ffn.linears()).collect()
    }

    /// The same, to be changed.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let attention = [("q", &mut self.q), ("k", &mut self.k), ("v", &mut self.v), ("o", &mut self.o)];
        attention.into_iter().map(|(part, l)| (part.into(), l)).chain(self.ffn.linears_mut()).collect()
    }

    fn n_params(&self) -> usize {
        let linears: usize = self.linears().iter().map(|(_, linear)| linear.n_params()).sum();
        let norms = [Some(&self.attn_norm), Some(&self.ffn_norm)]
            .into_iter()
            .chain([self.attn_post_norm.as_ref(), self.ffn_post_norm.as_ref()])
            .flatten();
        let norms: usize = norms.map(|n| n.gamma.len() + n.beta.as_ref().map_or(0, Vec::len)).sum();
        let heads: usize = [&self.q_norm, &self.k_norm].into_iter().flatten().map(Vec::len).sum();
        linears + norms + heads
    }

    fn check(&self, index: usize, config: &FloatConfig) -> Result<(), SourceError> {
        let name = |part: &str| format!("layers.{index}.{part}");
        let post = config.norm_place == NormPlace::PreAndPost;
        check_norm_if(&name("attn_norm"), true, Some(&self.attn_norm), config)?;
        check_norm_if(&name("attn_post_norm"), post, self.attn_post_norm.as_ref(), config)?;
        check_norm_if(&name("ffn_norm"), true, Some(&self.ffn_norm), config)?;
        check_norm_if(&name("ffn_post_norm"), post, self.ffn_post_norm.as_ref(), config)?;
        let (d, q, kv, bias) = (config.d_model, config.q_dim(), config.kv_dim(), config.qkv_bias);
        check_linear(&name("q"), &self.q, q, d, bias)?;
        check_linear(&name("k"), &self.k, kv, d, bias)?;
        check_linear(&name("v"), &self.v, kv, d, bias)?;
        check_linear(&name("o"), &self.o, d, q, config.o_bias)?;
        for (part, gain) in [("q_norm", &self.q_norm), ("k_norm", &self.k_norm)] {
            present(&name(part), config.qk_norm, gain.as_ref())?;
            gain.as_ref().map_or(Ok(()), |gain| check_vector(&name(part), gain, config.head_dim))?;
        }
        self.ffn.check(index, config)
    }
}

fn check_linear(
    name: &str,
    linear: &Linear,
    rows: usize,
    cols: usize,
    bias: bool,
) -> Result<(), SourceError> {
    check_shape(name, &linear.weight, rows, cols)?;
    let bias_name = format!("{name}.bias");
    present(&bias_name, bias, linear.bias.as_ref())?;
    linear.bias.as_ref().map_or(Ok(()), |bias| check_vector(&bias_name, bias, rows))
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
    if vector.len() != len {
        return Err(SourceError::Shape { name: name.into(), got: vec![vector.len()], expected: vec![len] });
    }
    check_finite(name, vector)
}

fn check_norm_if(
    name: &str,
    expected: bool,
    norm: Option<&NormWeights>,
    config: &FloatConfig,
) -> Result<(), SourceError> {
    present(name, expected, norm)?;
    let Some(norm) = norm else { return Ok(()) };
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
