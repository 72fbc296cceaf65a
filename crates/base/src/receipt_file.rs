//! A receipt file: all that re-execution needs besides the bundle, on any machine, from files
//! alone. It holds the prompt and the answer (as tokens) and the task secret: whoever has the
//! file can read them.

use crate::cbor::{self, CborError};
use crate::digest::Digest;
use crate::keys::NodeId;
use crate::leaf::{LeafIndex, TaskSecret};
use crate::op::{Op, Place};
use crate::params::Parameters;
use crate::part::Part;
use crate::receipt::{RECEIPT_VERSION, SignedReceipt};
use alloc::vec::Vec;
use minicbor::{Decode, Encode};

/// First bytes of a receipt file.
pub const MAGIC: &[u8; 8] = b"LSRCPT\x01\n";

/// Receipts of one answer with everything they speak about.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ReceiptFile {
    /// [`RECEIPT_VERSION`].
    #[n(0)]
    pub version: u8,
    /// The model.
    #[n(1)]
    pub model_root: Digest,
    /// The task.
    #[n(2)]
    pub task: Digest,
    /// The secret that salts come from.
    #[n(3)]
    pub secret: TaskSecret,
    /// Sampling parameters.
    #[n(4)]
    pub parameters: Parameters,
    /// Seed of the sampler.
    #[n(5)]
    pub sampler_seed: Digest,
    /// Tokens of the prompt among `tokens`.
    #[n(6)]
    pub prompt_tokens: u32,
    /// Prompt and answer. The last one was sampled and not fed back.
    #[n(7)]
    pub tokens: Vec<u32>,
    /// The stages in route order.
    #[n(8)]
    pub stages: Vec<StageRecord>,
    /// What nodes signed that were lost before the end, and whose place others took: as many whole spans as they came to.
    #[n(9)]
    pub earlier: Option<Vec<StageRecord>>,
}

/// What one stage signed, and the leaves that it served on request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct StageRecord {
    /// What the stage serves.
    #[n(0)]
    pub part: Part,
    /// Who served.
    #[n(1)]
    pub node: NodeId,
    /// Its receipts, first span first.
    #[n(2)]
    pub receipts: Vec<SignedReceipt>,
    /// Spans whose leaves were asked for.
    #[n(3)]
    pub served: Vec<ServedSpan>,
}

/// The leaves of one span as the stage served them.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ServedSpan {
    /// First token of the span.
    #[n(0)]
    pub first_token: u32,
    /// Leaves of KV cache and trace together, token by token in execution order.
    #[n(1)]
    pub leaves: Vec<ServedLeaf>,
}

/// One leaf with its content.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ServedLeaf {
    /// Absolute position.
    #[n(0)]
    pub position: u32,
    /// Layer, or `LAYER_EMBED`, `LAYER_HEAD` of [`crate::op`].
    #[n(1)]
    pub layer: u16,
    /// Op id.
    #[n(2)]
    pub op: u8,
    /// Which 2,048 bytes.
    #[n(3)]
    pub chunk: u32,
    /// The bytes under the leaf.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
}

impl ServedLeaf {
    /// The index under which the leaf was hashed; `None` for an unknown op.
    #[must_use]
    pub fn index(&self) -> Option<LeafIndex> {
        let place = Place { position: self.position, layer: self.layer, op: Op::from_id(self.op)? };
        Some(LeafIndex { place, chunk: self.chunk })
    }
}

/// Why bytes are no receipt file.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReceiptFileError {
    /// Other magic bytes.
    #[error("not a receipt file: it begins with {got:02x?}, expected {MAGIC:02x?}")]
    Magic {
        /// First bytes of the input.
        got: Vec<u8>,
    },
    /// Another version.
    #[error("receipt file version {got}, expected {RECEIPT_VERSION}")]
    Version {
        /// Version of the input.
        got: u8,
    },
    /// The content is malformed.
    #[error(transparent)]
    Cbor(#[from] CborError),
}

impl ReceiptFile {
    /// The bytes of the file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&cbor::encode(self));
        bytes
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`ReceiptFileError`] if they are not exactly one receipt file.
    pub fn from_bytes(bytes: &[u8]) -> Result<ReceiptFile, ReceiptFileError> {
        let Some(content) = bytes.strip_prefix(MAGIC.as_slice()) else {
            return Err(ReceiptFileError::Magic { got: bytes[..bytes.len().min(8)].to_vec() });
        };
        let file: ReceiptFile = cbor::decode("receipt file", content)?;
        if file.version != RECEIPT_VERSION {
            return Err(ReceiptFileError::Version { got: file.version });
        }
        Ok(file)
    }
}
