//! The key of a model: all that a verifier needs who does not hold the weights (tier B).
//!
//! It has the configuration, the tables, what rows of matrices have besides their weights (multiplier, shift, bias), the roots of the embeddings' rows, and for each
//! stage the root of the commitment to its weights ([`crate::decoder::weights`]). All of it follows from the model: whoever has the bundle makes the key again and
//! compares [`Key::digest`]. A verifier trusts a key as it trusts a model root: it says *which* model is meant.
//!
//! A key is one CBOR value in deterministic encoding ([`lockstep_base::cbor`]). A hostile one is refused: every count is compared with the configuration's.

mod adapter;
mod bounds;
mod parts;

#[cfg(feature = "prover")]
use crate::decoder::weights::Held;
use crate::error::PlanError;
#[cfg(feature = "prover")]
use crate::error::ProveError;
use crate::file::FILE_TOKENS_MAX;
use crate::gadget::attention::TOKENS_MAX;
use crate::transcript::Hash;
use adapter::AdapterKey;
use alloc::format;
use alloc::string::String;
#[cfg(feature = "prover")]
use alloc::string::ToString;
use alloc::vec::Vec;
#[cfg(feature = "prover")]
use core::ops::Range;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::cbor::{self, CborError};
use lockstep_base::config::{ConfigError, FeedForward, ModelConfig, Positions, SOFT_CAP_ENTRIES};
#[cfg(feature = "prover")]
use lockstep_base::manifest::embedding_root;
#[cfg(feature = "prover")]
use lockstep_base::weights::Embedding;
use lockstep_base::weights::{DenseWeights, FfnWeights, LayerWeights, ModelWeights, Slope, Tables};
use lockstep_base::{Digest, merkle};
use minicbor::{Decode, Encode};
use parts::{GainKey, LayerKey, MatrixKey, NetworkKey};

/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 256 << 20;
/// The first number of a key.
pub const VERSION: u16 = 2;
/// Rows of learned positions: the last token of an answer is not fed.
const POSITIONS_MAX: usize = FILE_TOKENS_MAX - 1;
/// Entries of the table of powers.
const EXP2_ENTRIES: usize = 4096;
/// Entries of the table of an activation.
const ACTIVATION_ENTRIES: usize = 8192;

/// Why bytes are no key, or a model has none.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// Too large.
    #[error("a key of {got} bytes, expected at most {limit}")]
    Size {
        /// Its bytes.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// Another version.
    #[error("a key of version {got}, expected {VERSION}")]
    Version {
        /// Its version.
        got: u16,
    },
    /// Not CBOR.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// A configuration that cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another number of something than the configuration says.
    #[error("{what}: {got}, expected {expected}")]
    Count {
        /// Of what.
        what: String,
        /// How many.
        got: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A number outside of its bounds.
    #[error("{what}: {got} is out of bounds")]
    Bounds {
        /// Which.
        what: String,
        /// The number.
        got: i64,
    },
    /// Encoded weights that cannot be kept.
    #[error("{message}")]
    Kept {
        /// Why.
        message: String,
    },
    /// Weights that cannot be committed to.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// One stage: some layers behind those of the stage in front of it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct StageKey {
    /// The first layer behind it.
    #[n(0)]
    pub end: u32,
    /// The root of the commitment to its weights.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub root: Hash,
}

/// A table of embeddings whose rows are opened.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct TableKey {
    /// Rows.
    #[n(0)]
    pub rows: u32,
    /// Fractional bits of its codes.
    #[n(1)]
    pub frac: i8,
    /// Root over its rows: that of the entry in the model's manifest.
    #[n(2)]
    pub root: Digest,
}

impl TableKey {
    /// The key of a table.
    #[cfg(feature = "prover")]
    #[must_use]
    pub fn new(table: &Embedding) -> TableKey {
        TableKey { rows: table.rows as u32, frac: table.frac, root: embedding_root(table) }
    }

    /// Whether `bytes` are row `row`.
    #[must_use]
    pub fn has(&self, row: usize, bytes: &[u8], path: &[Digest]) -> bool {
        merkle::root_of_path(merkle::leaf(bytes), row, self.rows as usize, path) == Some(self.root)
    }
}

/// The rows of learned positions that an answer in a file can have: they are the same for all answers, so the key has them.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct PositionsKey {
    /// Fractional bits of its codes.
    #[n(0)]
    pub frac: i8,
    /// i16 codes, little-endian, row by row.
    #[cbor(n(1), with = "minicbor::bytes")]
    codes: Vec<u8>,
}

impl PositionsKey {
    #[cfg(feature = "prover")]
    fn new(table: &Embedding) -> PositionsKey {
        let rows = table.rows.min(POSITIONS_MAX);
        PositionsKey {
            frac: table.frac,
            codes: (0..rows).flat_map(|row| table.row_bytes(row)).copied().collect(),
        }
    }

    /// The codes of a row of `width` values; none if there is no such row.
    #[must_use]
    pub fn row(&self, row: usize, width: usize) -> Option<&[u8]> {
        self.codes.get(2 * width * row..2 * width * (row + 1))
    }
}

fn count(what: &str, got: usize, expected: usize) -> Result<(), KeyError> {
    if got == expected { Ok(()) } else { Err(KeyError::Count { what: what.into(), got, expected }) }
}

/// What the bytes of a key say.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
struct Body {
    #[n(0)]
    version: u16,
    #[n(1)]
    root: Digest,
    #[n(2)]
    config: ModelConfig,
    /// Angles of the positions that a proof can have.
    #[cbor(n(3), decode_with = "crate::few::decode")]
    rope: Vec<Vec<i16>>,
    #[n(4)]
    exp2: Vec<u16>,
    #[n(5)]
    activation: Vec<i16>,
    #[cbor(n(6), decode_with = "crate::few::decode")]
    layers: Vec<LayerKey>,
    /// None of an encoder.
    #[n(7)]
    head: Option<MatrixKey>,
    #[n(8)]
    embed: TableKey,
    #[n(9)]
    positions: Option<PositionsKey>,
    #[cbor(n(10), decode_with = "crate::few::decode")]
    stages: Vec<StageKey>,
    #[n(11)]
    embed_norm: Option<GainKey>,
    /// Mantissas and shifts of ALiBi, head by head.
    #[n(12)]
    slopes: Vec<(u16, u8)>,
    #[n(13)]
    score_cap: Vec<i32>,
    #[n(14)]
    logit_cap: Vec<i32>,
    #[n(15)]
    exp2_sample: Vec<u32>,
    /// The adapter whose answers are verified with this key.
    #[n(16)]
    adapter: Option<AdapterKey>,
}

/// A model without its weights.
#[derive(Clone, Debug)]
pub struct Key {
    body: Body,
    weights: ModelWeights,
    adapter: Option<AdapterWeights>,
    digest: Digest,
}

impl Key {
    /// The key of the model `weights` with the root `root`, in stages whose layers end at `ends`.
    ///
    /// # Errors
    /// If a stage has no argument, or is too large.
    #[cfg(feature = "prover")]
    pub fn new(weights: &ModelWeights, root: Digest, ends: &[usize]) -> Result<Key, KeyError> {
        let commit = |layers| Ok(crate::decoder::weights::root(weights, layers)?);
        Key::with_roots((weights, None), root, ends, commit)
    }

    /// The key of answers of the same model with an adapter, which fits it.
    ///
    /// # Errors
    /// If a stage has no argument, or is too large, or the adapter does not fit.
    #[cfg(feature = "prover")]
    pub fn adapted(
        weights: &ModelWeights,
        adapter: &AdapterWeights,
        root: Digest,
        ends: &[usize],
    ) -> Result<Key, KeyError> {
        let held = Held { weights, root, adapter: Some(adapter) };
        let commit = |layers| Ok(crate::decoder::weights::root(held, layers)?);
        Key::with_roots((weights, Some(adapter)), root, ends, commit)
    }

    /// The same key; what provers need to open the commitments is kept in `folder`, about 16 bytes a weight.
    ///
    /// # Errors
    /// If a stage has no argument, or is too large, or a file cannot be written.
    #[cfg(feature = "prover")]
    pub fn keeping(
        weights: &ModelWeights,
        root: Digest,
        ends: &[usize],
        folder: &std::path::Path,
    ) -> Result<Key, KeyError> {
        let keep = |layers| {
            crate::decoder::weights::keep(weights, layers, folder).map_err(|error| match error {
                ProveError::Plan(error) => KeyError::Plan(error),
                error => KeyError::Kept { message: error.to_string() },
            })
        };
        Key::with_roots((weights, None), root, ends, keep)
    }

    #[cfg(feature = "prover")]
    fn with_roots(
        (weights, adapter): (&ModelWeights, Option<&AdapterWeights>),
        root: Digest,
        ends: &[usize],
        root_of: impl Fn(Range<usize>) -> Result<Hash, KeyError>,
    ) -> Result<Key, KeyError> {
        let config = &weights.config;
        let lacking = || PlanError::Layers { first: 0, end: config.n_layers as usize };
        let (mut stages, mut first) = (Vec::with_capacity(ends.len()), 0);
        for end in ends {
            stages.push(StageKey { end: *end as u32, root: root_of(first..*end)? });
            first = *end;
        }
        let angles = config.context.min(TOKENS_MAX as u32) as usize * config.rope_dim as usize;
        let rope = weights.tables.rope.iter().map(|table| table[..angles.min(table.len())].to_vec());
        let layer = |layer: &LayerWeights| {
            let router = match &layer.ffn {
                FfnWeights::Dense(_) => None,
                FfnWeights::Experts { router, .. } => Some(MatrixKey::new(router)),
            };
            LayerKey {
                q: MatrixKey::new(&layer.q),
                k: MatrixKey::new(&layer.k),
                v: MatrixKey::new(&layer.v),
                o: MatrixKey::new(&layer.o),
                networks: layer.ffn.networks().iter().map(NetworkKey::new).collect(),
                router,
                k_center: layer.k_center.clone(),
                q_norm: layer.q_norm.as_ref().map(GainKey::new),
                k_norm: layer.k_norm.as_ref().map(GainKey::new),
                attn_post: layer.attn_post.as_ref().map(GainKey::new),
                ffn_post: layer.ffn_post.as_ref().map(GainKey::new),
            }
        };
        let body = Body {
            version: VERSION,
            root,
            config: config.clone(),
            rope: rope.collect(),
            exp2: weights.tables.exp2.clone(),
            activation: weights.tables.activation.clone(),
            layers: weights.layers.iter().map(layer).collect(),
            head: weights.head.as_ref().map(MatrixKey::new),
            embed: TableKey::new(weights.embed.as_ref().ok_or_else(lacking)?),
            positions: weights.positions.as_ref().map(PositionsKey::new),
            stages,
            embed_norm: weights.embed_norm.as_ref().map(GainKey::new),
            slopes: weights.tables.alibi.iter().map(|slope| (slope.a, slope.b)).collect(),
            score_cap: weights.tables.score_cap.clone(),
            logit_cap: weights.tables.logit_cap.clone(),
            exp2_sample: weights.tables.exp2_sample.clone(),
            adapter: adapter.map(AdapterKey::new),
        };
        Key::from_body(body)
    }

    /// Reads a key.
    ///
    /// # Errors
    /// [`KeyError`], the first check that fails.
    pub fn from_bytes(bytes: &[u8]) -> Result<Key, KeyError> {
        if bytes.len() > KEY_BYTES_MAX {
            return Err(KeyError::Size { got: bytes.len(), limit: KEY_BYTES_MAX });
        }
        Key::from_body(cbor::decode("key of a model", bytes)?)
    }

    fn from_body(body: Body) -> Result<Key, KeyError> {
        let config = &body.config;
        if body.version != VERSION {
            return Err(KeyError::Version { got: body.version });
        }
        config.validate()?;
        let angles = config.context.min(TOKENS_MAX as u32) as usize * config.rope_dim as usize;
        let tables = if config.positions == Positions::Rope { config.rope_tables as usize } else { 0 };
        count("layers", body.layers.len(), config.n_layers as usize)?;
        count("tables of angles", body.rope.len(), tables)?;
        for table in &body.rope {
            count("angles", table.len(), angles)?;
        }
        let heads = if config.positions == Positions::Alibi { config.n_heads as usize } else { 0 };
        count("slopes of heads", body.slopes.len(), heads)?;
        let ends = |cap: Option<u8>| if cap.is_some() { SOFT_CAP_ENTRIES } else { 0 };
        count("ends of the cap of scores", body.score_cap.len(), ends(config.score_cap))?;
        count("ends of the cap of logits", body.logit_cap.len(), ends(config.logit_cap))?;
        count("heads", usize::from(body.head.is_some()), usize::from(config.pooling.is_none()))?;
        count("powers of 2", body.exp2.len(), EXP2_ENTRIES)?;
        count("powers of 2 of weights", body.exp2_sample.len(), EXP2_ENTRIES)?;
        count("values of the activation", body.activation.len(), ACTIVATION_ENTRIES)?;
        count("rows of the embedding", body.embed.rows as usize, config.vocab as usize)?;
        let learned = config.positions == Positions::Learned;
        count("tables of positions", usize::from(body.positions.is_some()), usize::from(learned))?;
        if let Some(positions) = &body.positions {
            let bytes = 2 * config.d_model as usize * POSITIONS_MAX.min(config.context as usize);
            count("bytes of the positions", positions.codes.len(), bytes)?;
        }
        let mut before = 0;
        for stage in &body.stages {
            if stage.end <= before || stage.end > config.n_layers {
                return Err(KeyError::Bounds { what: "the end of a stage".into(), got: stage.end.into() });
            }
            before = stage.end;
        }
        count("layers of all stages", before as usize, config.n_layers as usize)?;
        let weights = stripped(&body)?;
        bounds::check(&body)?;
        let digest = Digest::tagged("proof-key", &[&cbor::encode(&body)]);
        let adapter = body.adapter.as_ref().map(|key| key.adapter(&body, &weights.layers)).transpose()?;
        Ok(Key { body, weights, adapter, digest })
    }

    /// The bytes of the key.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(&self.body)
    }

    /// What a key is known by.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The root of the model.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.body.root
    }

    /// The model without its weights: matrices have no codes, and there are no embeddings.
    #[must_use]
    pub fn weights(&self) -> &ModelWeights {
        &self.weights
    }

    /// The adapter without its weights, where the key is one of answers with an adapter.
    #[must_use]
    pub fn adapter(&self) -> Option<&AdapterWeights> {
        self.adapter.as_ref()
    }

    /// The table of token embeddings.
    #[must_use]
    pub fn embed(&self) -> &TableKey {
        &self.body.embed
    }

    /// Learned positions.
    #[must_use]
    pub fn positions(&self) -> Option<&PositionsKey> {
        self.body.positions.as_ref()
    }

    /// The stages, in order.
    #[must_use]
    pub fn stages(&self) -> &[StageKey] {
        &self.body.stages
    }
}

/// The weights that a key has: none, but everything else.
fn stripped(body: &Body) -> Result<ModelWeights, KeyError> {
    let config = &body.config;
    let plain = config.feed_forward == FeedForward::Plain;
    let (d, ffn) = (config.d_model, config.d_ffn);
    let layer = |(number, key): (usize, &LayerKey)| -> Result<LayerWeights, KeyError> {
        let linear =
            |what: &str, key: &MatrixKey, shape| key.linear(&format!("layer {number}, {what}"), shape);
        let experts = config.experts.filter(|_| config.layer_pattern(number).experts);
        let networks = experts.map_or(1, |experts| experts.count as usize);
        count("networks", key.networks.len(), networks)?;
        count("routers", usize::from(key.router.is_some()), usize::from(experts.is_some()))?;
        let network = |key: &NetworkKey| -> Result<DenseWeights, KeyError> {
            count("gates", usize::from(key.gate.is_some()), usize::from(!plain))?;
            Ok(DenseWeights {
                gate: key.gate.as_ref().map(|gate| linear("gate", gate, (ffn, d))).transpose()?,
                up: linear("up", &key.up, (ffn, d))?,
                down: linear("down", &key.down, (d, config.down_cols()))?,
            })
        };
        let mut all = key.networks.iter().map(network).collect::<Result<Vec<_>, _>>()?;
        count("values of a centre", key.k_center.len(), config.kv_dim() as usize)?;
        Ok(LayerWeights {
            q: linear("q", &key.q, (config.q_dim(), d))?,
            k: linear("k", &key.k, (config.kv_dim(), d))?,
            v: linear("v", &key.v, (config.kv_dim(), d))?,
            o: linear("o", &key.o, (d, config.o_cols()))?,
            k_center: key.k_center.clone(),
            q_norm: key.q_norm.as_ref().map(GainKey::gain),
            k_norm: key.k_norm.as_ref().map(GainKey::gain),
            attn_post: key.attn_post.as_ref().map(GainKey::gain),
            ffn: match &key.router {
                None => FfnWeights::Dense(all.remove(0)),
                Some(router) => FfnWeights::Experts {
                    router: linear("router", router, (networks as u32, d))?,
                    experts: all,
                },
            },
            ffn_post: key.ffn_post.as_ref().map(GainKey::gain),
        })
    };
    Ok(ModelWeights {
        config: config.clone(),
        tables: Tables {
            rope: body.rope.clone(),
            exp2: body.exp2.clone(),
            activation: body.activation.clone(),
            alibi: body.slopes.iter().map(|(a, b)| Slope { a: *a, b: *b }).collect(),
            score_cap: body.score_cap.clone(),
            logit_cap: body.logit_cap.clone(),
            exp2_sample: body.exp2_sample.clone(),
            ..Tables::default()
        },
        embed: None,
        positions: None,
        embed_norm: body.embed_norm.as_ref().map(GainKey::gain),
        first_layer: 0,
        layers: body.layers.iter().enumerate().map(layer).collect::<Result<_, _>>()?,
        head: body.head.as_ref().map(|head| head.linear("head", (config.vocab, d))).transpose()?,
    })
}
