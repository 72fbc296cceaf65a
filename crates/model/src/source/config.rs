//! What kind of transformer the weights belong to, with the numbers already checked against each other.
//!
//! One description for every family: a model is a shape and a handful of choices. What a family does that can be moved
//! into weights (a gain of `1 + w`, a norm of the embedding, a token type) is moved there by its importer and not seen here.

use super::SourceError;
use super::act::Act;
use super::limits::{MAX_CONTEXT, MAX_EXPERTS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH};
use super::positions::{Positions, Rope, alibi_slopes};

/// How a vector is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `gamma * x / sqrt(mean(x^2) + eps)`, no beta.
    Rms,
    /// `gamma * (x - mean) / sqrt(var + eps) + beta`.
    Layer,
}

/// Where the norms of a layer stand; `f` is attention or the feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlace {
    /// `x + f(norm(x))`: nearly all decoders.
    Pre,
    /// `x + post_norm(f(norm(x)))`: Gemma 2 and 3.
    PreAndPost,
    /// `norm(x + f(x))`, no final norm: BERT.
    Post,
}

/// What turns the last vector into logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// The embedding.
    Tied,
    /// A matrix of its own.
    Own,
    /// Nothing: an encoder.
    Absent,
}

/// A mixture of experts: in sparse layers a router picks `per_token` of `count` feed-forward blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Experts {
    /// Experts of a layer.
    pub count: usize,
    /// Experts that a token runs through: the largest router probabilities, the lowest index of equals.
    pub per_token: usize,
    /// The probabilities of the chosen ones are divided by their sum.
    pub normalise: bool,
    /// Width inside one expert.
    pub hidden: usize,
    /// Which layers are sparse, `(n_layers,)`; the others have a dense block of `ffn_hidden`.
    pub sparse: Vec<bool>,
}

/// How the vectors of a text become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolKind {
    /// Their mean.
    Mean,
    /// The first one.
    Cls,
}

/// A sentence embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pooling {
    /// How the vectors of a text become one.
    pub kind: PoolKind,
    /// Divided by its length.
    pub normalise: bool,
}

/// The eight numbers that every transformer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Layers.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width inside a dense feed-forward block.
    pub ffn_hidden: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
}

/// The numbers of a transformer. Made by [`FloatConfig::checked`], so they fit together.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatConfig {
    /// Layers.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width inside a dense feed-forward block.
    pub ffn_hidden: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Kind of all norms but those of queries and keys, which are RMS norms.
    pub norm: NormKind,
    /// Where the norms stand.
    pub norm_place: NormPlace,
    /// Added to the variance.
    pub norm_eps: f64,
    /// The function inside the feed-forward block.
    pub activation: Act,
    /// `down(act(gate x) * up x)` instead of `down(act(up x))`.
    pub gated: bool,
    /// How positions enter.
    pub positions: Positions,
    /// The rotation of windowed layers where it differs from that of `positions`.
    pub local_rope: Option<Rope>,
    /// Sliding windows, `(n_layers,)`: position i sees j with i - window < j <= i; `None` sees all.
    pub windows: Vec<Option<usize>>,
    /// Query and key heads go through an RMS norm before the rotation.
    pub qk_norm: bool,
    /// Multiplies q . k.
    pub attn_scale: f64,
    /// Scores become `cap * tanh(score / cap)`.
    pub attn_softcap: Option<f64>,
    /// Logits become `cap * tanh(logit / cap)`.
    pub logit_softcap: Option<f64>,
    /// Multiplies the embedding on its way in (not in its part as tied head).
    pub embed_scale: f64,
    /// A mixture of experts.
    pub experts: Option<Experts>,
    /// A position sees itself and what came before; else all of its text.
    pub causal: bool,
    /// What makes logits.
    pub head: HeadKind,
    /// How an encoder makes one vector of a text.
    pub pooling: Option<Pooling>,
    /// q, k and v have biases.
    pub qkv_bias: bool,
    /// o has a bias.
    pub o_bias: bool,
    /// gate, up and down have biases.
    pub ffn_bias: bool,
}

impl FloatConfig {
    /// A Llama of these sizes: the plainest decoder, from which others differ. RMS norm (1e-5), rotation of whole heads
    /// (theta 10,000), gated SiLU, tied head, no biases.
    pub fn llama(sizes: Sizes) -> Self {
        let Sizes { n_layers, d_model, n_heads, n_kv_heads, head_dim, ffn_hidden, vocab, context } = sizes;
        Self {
            n_layers,
            d_model,
            n_heads,
            n_kv_heads,
            head_dim,
            ffn_hidden,
            vocab,
            context,
            norm: NormKind::Rms,
            norm_place: NormPlace::Pre,
            norm_eps: 1e-5,
            activation: Act::Silu,
            gated: true,
            positions: Positions::Rope(Rope::plain(10_000.0, head_dim)),
            local_rope: None,
            windows: vec![None; n_layers.min(MAX_LAYERS)],
            qk_norm: false,
            attn_scale: 1.0 / (head_dim as f64).sqrt(),
            attn_softcap: None,
            logit_softcap: None,
            embed_scale: 1.0,
            experts: None,
            causal: true,
            head: HeadKind::Tied,
            pooling: None,
            qkv_bias: false,
            o_bias: false,
            ffn_bias: false,
        }
    }

    /// Refuses numbers that are out of range or contradict each other.
    pub fn checked(self) -> Result<Self, SourceError> {
        for (what, got, max) in [
            ("n_layers", self.n_layers, MAX_LAYERS),
            ("d_model", self.d_model, MAX_WIDTH),
            ("n_heads", self.n_heads, MAX_WIDTH),
            ("n_kv_heads", self.n_kv_heads, MAX_WIDTH),
            ("head_dim", self.head_dim, MAX_WIDTH),
            ("ffn_hidden", self.ffn_hidden, MAX_WIDTH),
            ("vocab", self.vocab, MAX_VOCAB),
            ("context", self.context, MAX_CONTEXT),
            ("n_heads * head_dim", self.n_heads.saturating_mul(self.head_dim), MAX_WIDTH),
        ] {
            in_range(what, got, max)?;
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(SourceError::NotDivisible {
                left: "n_kv_heads",
                left_value: self.n_kv_heads,
                right: "n_heads",
                right_value: self.n_heads,
            });
        }
        self.check_attention()?;
        self.check_experts()?;
        self.check_encoder()?;
        positive("norm_eps", self.norm_eps)?;
        positive("embed_scale", self.embed_scale)?;
        self.logit_softcap.map_or(Ok(()), |cap| positive("final_logit_softcapping", cap))?;
        Ok(self)
    }

    fn check_attention(&self) -> Result<(), SourceError> {
        match &self.positions {
            Positions::Rope(rope) => rope.check(self.head_dim)?,
            Positions::Learned | Positions::Alibi if self.local_rope.is_some() => {
                return Err(unsupported("local rope", "a model without rotation", "none"));
            }
            Positions::Learned | Positions::Alibi => {}
        }
        self.local_rope.as_ref().map_or(Ok(()), |rope| rope.check(self.head_dim))?;
        one_per_layer("windows", self.windows.len(), self.n_layers)?;
        self.windows
            .iter()
            .flatten()
            .try_for_each(|&window| in_range("sliding window", window, MAX_CONTEXT))?;
        positive("attention scale", self.attn_scale)?;
        self.attn_softcap.map_or(Ok(()), |cap| positive("attn_logit_softcapping", cap))
    }

    fn check_experts(&self) -> Result<(), SourceError> {
        let Some(experts) = &self.experts else { return Ok(()) };
        in_range("experts", experts.count, MAX_EXPERTS)?;
        in_range("experts of a token", experts.per_token, experts.count)?;
        in_range("width of an expert", experts.hidden, MAX_WIDTH)?;
        one_per_layer("sparse layers", experts.sparse.len(), self.n_layers)
    }

    /// An encoder has no head, a decoder has one; pooling is an encoder's.
    fn check_encoder(&self) -> Result<(), SourceError> {
        if self.causal == (self.head == HeadKind::Absent) {
            return Err(unsupported(
                "head",
                &format!("{:?}", self.head),
                "a head exactly for a causal model",
            ));
        }
        if self.causal && self.pooling.is_some() {
            return Err(unsupported("pooling", "a causal model", "an encoder"));
        }
        if !self.causal && self.windows.iter().any(Option::is_some) {
            return Err(unsupported("sliding_window", "an encoder with windows", "none"));
        }
        Ok(())
    }

    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// The key head that query head `head` reads.
    pub fn kv_head_of(&self, head: usize) -> usize {
        head / (self.n_heads / self.n_kv_heads)
    }

    /// The rotation of a layer: the local one where there is one and the layer has a window.
    pub fn rope_of(&self, layer: usize) -> Option<&Rope> {
        let Positions::Rope(global) = &self.positions else { return None };
        let windowed = self.windows.get(layer).is_some_and(Option::is_some);
        Some(self.local_rope.as_ref().filter(|_| windowed).unwrap_or(global))
    }

    /// Radians per position of pair `i` of a head in layers without a local rotation, `(rope.dim / 2,)`.
    pub fn inv_freq(&self) -> Option<Vec<f64>> {
        let Positions::Rope(rope) = &self.positions else { return None };
        Some(rope.inv_freq(self.context))
    }

    /// Radians per position of pair `i` in windowed layers, where they differ.
    pub fn local_inv_freq(&self) -> Option<Vec<f64>> {
        self.local_rope.as_ref().map(|rope| rope.inv_freq(self.context))
    }

    /// ALiBi's slopes, `(n_heads,)`.
    pub fn alibi_slopes(&self) -> Option<Vec<f64>> {
        (self.positions == Positions::Alibi).then(|| alibi_slopes(self.n_heads))
    }

    /// Whether the feed-forward block of a layer is a mixture of experts.
    pub fn is_sparse(&self, layer: usize) -> bool {
        self.experts.as_ref().is_some_and(|experts| experts.sparse.get(layer) == Some(&true))
    }
}

pub(super) fn in_range(what: &str, got: usize, max: usize) -> Result<(), SourceError> {
    if (1..=max).contains(&got) {
        return Ok(());
    }
    Err(SourceError::OutOfRange { what: what.into(), got: got as u64, min: 1, max: max as u64 })
}

fn one_per_layer(name: &str, got: usize, n_layers: usize) -> Result<(), SourceError> {
    if got == n_layers {
        return Ok(());
    }
    Err(SourceError::Shape { name: name.into(), got: vec![got], expected: vec![n_layers] })
}

fn unsupported(field: &'static str, got: &str, expected: &'static str) -> SourceError {
    SourceError::Unsupported { field, got: got.into(), expected }
}

pub(super) fn positive(field: &'static str, value: f64) -> Result<(), SourceError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(SourceError::Unsupported { field, got: value.to_string(), expected: "a positive number" })
}
