//! The op graph of opset `lockstep-1`: the operations of one token, in execution order, with the
//! type of their output. Runtime, receipts, judge and proof take op ids from here and nowhere
//! else; `docs/spec/arithmetic.md` defines what each computes.

use crate::config::{Block, ModelConfig};
use core::fmt;

/// Layer number of ops that belong to no layer and come before all layers.
pub const LAYER_EMBED: u16 = 0xfffe;
/// Layer number of ops that belong to no layer and come after all layers.
pub const LAYER_HEAD: u16 = 0xffff;

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $text:literal, $kind:ident;)*) => {
        /// One operation of the graph.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Op { $($(#[$doc])* $name = $id,)* }

        impl Op {
            /// Every op, in execution order.
            pub const ALL: &'static [Op] = &[$(Op::$name,)*];

            /// The op with this id.
            #[must_use]
            pub fn from_id(id: u8) -> Option<Op> {
                match id { $($id => Some(Op::$name),)* _ => None }
            }

            /// The name in files and messages.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Op::$name => $text,)* }
            }

            /// What the op's output is made of.
            #[must_use]
            pub fn output(self) -> Output {
                match self { $(Op::$name => Output::$kind,)* }
            }
        }
    };
}

/// The encoding of an op's output for one token: little-endian elements, then a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// i32 elements.
    I32,
    /// i16 elements (values proved to fit 16 bits).
    I16,
    /// int8 codes, then the step: f as i16 and k as one byte.
    Codes8,
    /// i16 codes head by head, then one exponent byte a head.
    Codes16Heads,
    /// int8 codes head by head, then the byte of one step a head.
    Codes8Heads,
    /// One u32 token, or nothing.
    Token,
}

impl Output {
    /// Bytes of one element.
    #[must_use]
    pub fn element_bytes(self) -> usize {
        match self {
            Output::I32 | Output::Token => 4,
            Output::I16 | Output::Codes16Heads => 2,
            Output::Codes8 | Output::Codes8Heads => 1,
        }
    }
}

ops! {
    /// A token that enters the first stage.
    Token = 0, "token", Token;
    /// Embedding (plus learned position, normalised where the model does so): the first residual vector.
    Embed = 1, "embed", I32;
    /// RMS norm and quantisation in front of attention.
    AttnNorm = 2, "attn_norm", Codes8;
    /// Query projection.
    QProj = 3, "q_proj", I16;
    /// Key projection.
    KProj = 4, "k_proj", I16;
    /// Value projection.
    VProj = 5, "v_proj", I16;
    /// Queries after RoPE, as codes.
    QCodes = 6, "q_codes", Codes16Heads;
    /// Keys after RoPE and centring, as codes: what the cache holds.
    KCodes = 7, "k_codes", Codes16Heads;
    /// Values as codes: what the cache holds.
    VCodes = 8, "v_codes", Codes8Heads;
    /// Distances of the scores from their row's maximum, Q8 octaves, head by head, for every visible
    /// position.
    Scores = 9, "scores", I16;
    /// Row maximum, weight sum and exponent of the largest value step of each head.
    Softmax = 10, "softmax", I32;
    /// Weighted values of one block of 256 positions; one run of leaves for each block.
    AttnPartial = 11, "attn_partial", I32;
    /// Normalised attention output.
    Attn = 12, "attn", I32;
    /// Attention output as codes.
    AttnCodes = 13, "attn_codes", Codes8;
    /// Output projection.
    OProj = 14, "o_proj", I32;
    /// Norm behind the output projection, of models that have one there.
    AttnPostNorm = 15, "attn_post_norm", I32;
    /// Residual stream after attention (normalised, in post-norm models).
    AttnResidual = 16, "attn_residual", I32;
    /// RMS norm and quantisation in front of the feed-forward block.
    FfnNorm = 17, "ffn_norm", Codes8;
    /// Logits of the router in octaves.
    RouterLogits = 18, "router_logits", I32;
    /// For each chosen expert: its number, and the mantissa and shift of its weight.
    RouterChoice = 19, "router_choice", I32;
    /// Gate projection (one run of leaves an expert, in the order of the choice; so all ops to down_proj).
    GateProj = 20, "gate_proj", I16;
    /// Up projection.
    UpProj = 21, "up_proj", I16;
    /// Activation (times up), before the Hadamard transform.
    Hidden = 22, "hidden", I32;
    /// Hadamard transform and quantisation.
    HiddenCodes = 23, "hidden_codes", Codes8;
    /// Down projection.
    DownProj = 24, "down_proj", I32;
    /// Norm behind the down projection, of models that have one there.
    FfnPostNorm = 25, "ffn_post_norm", I32;
    /// Residual stream after the layer (normalised, in post-norm models).
    FfnResidual = 26, "ffn_residual", I32;
    /// Final norm and quantisation.
    FinalNorm = 27, "final_norm", Codes8;
    /// Logits.
    Logits = 28, "logits", I32;
    /// The vector of an encoder.
    Pooled = 29, "pooled", I32;
    /// The chosen token.
    Sample = 30, "sample", Token;
    /// A residual vector that crosses from one stage to the next.
    Boundary = 31, "boundary", I32;
    /// Codes between the two matrices of an adapter; one run of leaves for each adapted matrix. They come
    /// before the output of the matrix that they are added to.
    AdapterCodes = 32, "adapter_codes", Codes8;
}

impl Op {
    /// Whether the op's output in `layer` has leaves. What a judge recomputes cheaply from traced
    /// neighbours has none: codes of queries (from q_proj), what is between partial sums and codes,
    /// before the codes of the hidden vector, and differences of two residual rows. Keys and values
    /// are in the KV root, everything else in the trace root.
    #[must_use]
    pub fn traced(self, config: &ModelConfig, layer: u16) -> bool {
        let difference = config.block == Block::PreNorm;
        match self {
            Op::QCodes | Op::Attn | Op::Hidden | Op::AttnPostNorm | Op::FfnPostNorm => false,
            Op::OProj => !difference,
            Op::DownProj => !difference || config.layer_pattern(layer.into()).experts,
            _ => true,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A place in the trace: one token, one layer, one op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Absolute position of the token.
    pub position: u32,
    /// Layer, or [`LAYER_EMBED`], [`LAYER_HEAD`].
    pub layer: u16,
    /// The op.
    pub op: Op,
}

impl Place {
    /// The layer for people: `embed`, `head` or its number.
    #[must_use]
    pub fn layer_name(&self) -> alloc::string::String {
        match self.layer {
            LAYER_EMBED => "embed".into(),
            LAYER_HEAD => "head".into(),
            layer => alloc::format!("{layer}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {}, layer {}, op {}", self.position, self.layer_name(), self.op)
    }
}
