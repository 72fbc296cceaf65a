//! Receipts: what a stage says, signed, about every 32 tokens that it computed.
//!
//! A receipt is signed as EIP-712 typed data, so that any EVM chain can check it by `ecrecover`.
//! There are two forms: the stored form ([`SignedReceipt`]) is self-contained; the wire form
//! ([`WireReceipt`], 136 bytes, 168 with commitments) leaves out what the gateway knows already. What is left out is
//! still bound: the gateway fills it in and the signature holds only if both meant the same.
//! In particular the in root of a stage is the out root of the one before, so a signature that
//! verifies *is* the chaining of roots.

use crate::digest::Digest;
use crate::keys::{CompactSignature, NodeId, NodeKey, keccak256};
use crate::part::Part;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use minicbor::{Decode, Encode};

/// Version of receipts and receipt files.
pub const RECEIPT_VERSION: u8 = 1;
/// Bytes of the wire form.
pub const WIRE_BYTES: usize = 136;
/// Bytes of the wire form of a receipt with commitments ([`FLAG_PROVABLE`]).
pub const PROVABLE_WIRE_BYTES: usize = WIRE_BYTES + 32;

/// Flag: the last receipt of a stage for its task.
pub const FLAG_CLOSING: u8 = 1;
/// Flag: the trace root covers every op output (full trace), not only boundaries and KV.
pub const FLAG_FULL_TRACE: u8 = 2;
/// Flag of a closing receipt: it carries commitments for proofs, to what entered and left the stage at all positions of the task.
pub const FLAG_PROVABLE: u8 = 4;

const DOMAIN_TYPE: &str = "EIP712Domain(string name,string version)";
const PART_TYPE: &str =
    "Part(bool embed,uint32 firstLayer,uint32 endLayer,bool head,uint16 shard,uint16 shards)";
const RECEIPT_TYPE: &str = "Receipt(bytes32 task,bytes32 modelRoot,string opset,Part part,uint16 stage,uint32 firstToken,uint32 tokenCount,bytes32 parameters,bytes32 masks,bytes32 adapters,bytes32 samplerSeed,bytes32 inRoot,bytes32 outRoot,bytes32 stateRoot,bytes32 code,bytes32 previous,bytes32 auditClass,uint8 flags,bytes32 commitIn,bytes32 commitOut)";

/// The statement of one stage about one span of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Receipt {
    /// The task.
    #[n(0)]
    pub task: Digest,
    /// The model.
    #[n(1)]
    pub model_root: Digest,
    /// Its arithmetic.
    #[n(2)]
    pub opset: String,
    /// What the stage serves.
    #[n(3)]
    pub part: Part,
    /// Index of the stage in its route.
    #[n(4)]
    pub stage: u16,
    /// Absolute position of the first token.
    #[n(5)]
    pub first_token: u32,
    /// Tokens; at most 32, fewer (or none) only in the closing receipt.
    #[n(6)]
    pub token_count: u32,
    /// Digest of the sampling parameters.
    #[n(7)]
    pub parameters: Digest,
    /// Root of the grammar masks, zero without.
    #[n(8)]
    pub masks: Digest,
    /// Root of the adapters, zero without.
    #[n(9)]
    pub adapters: Digest,
    /// Seed of the sampler.
    #[n(10)]
    pub sampler_seed: Digest,
    /// Root over the leaves that entered.
    #[n(11)]
    pub in_root: Digest,
    /// Root over the leaves that left.
    #[n(12)]
    pub out_root: Digest,
    /// Digest of KV root and trace root, see [`state_root`].
    #[n(13)]
    pub state_root: Digest,
    /// Secret code of the stage, zero while codes are not used.
    #[n(14)]
    pub code: Digest,
    /// Struct hash of the stage's receipt before, zero for the first.
    #[n(15)]
    pub previous: Digest,
    /// Commitment to the audit class of the task, zero without.
    #[n(16)]
    pub audit_class: Digest,
    /// `FLAG_*`.
    #[n(17)]
    pub flags: u8,
    /// Commitment to the rows that entered, zero unless provable and in the stage that embeds.
    #[n(18)]
    pub commit_in: Digest,
    /// Commitment to the rows that left, zero unless provable and in the stage with the head.
    #[n(19)]
    pub commit_out: Digest,
}

/// What a stage's state root is made of: the cumulative KV root, then the trace root.
#[must_use]
pub fn state_root(kv_root: &Digest, trace_root: &Digest) -> Digest {
    Digest::tagged("lockstep/state", &[&kv_root.0, &trace_root.0])
}

fn word(value: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[24..].copy_from_slice(&value.to_be_bytes());
    bytes
}

impl Receipt {
    /// `hashStruct(receipt)` of EIP-712.
    #[must_use]
    pub fn struct_hash(&self) -> Digest {
        let part = keccak256(&[
            &keccak256(&[PART_TYPE.as_bytes()]).0,
            &word(self.part.embed.into()),
            &word(self.part.first_layer.into()),
            &word(self.part.end_layer.into()),
            &word(self.part.head.into()),
            &word(self.part.shard.into()),
            &word(self.part.shards.into()),
        ]);
        keccak256(&[
            &keccak256(&[RECEIPT_TYPE.as_bytes(), PART_TYPE.as_bytes()]).0,
            &self.task.0,
            &self.model_root.0,
            &keccak256(&[self.opset.as_bytes()]).0,
            &part.0,
            &word(self.stage.into()),
            &word(self.first_token.into()),
            &word(self.token_count.into()),
            &self.parameters.0,
            &self.masks.0,
            &self.adapters.0,
            &self.sampler_seed.0,
            &self.in_root.0,
            &self.out_root.0,
            &self.state_root.0,
            &self.code.0,
            &self.previous.0,
            &self.audit_class.0,
            &word(self.flags.into()),
            &self.commit_in.0,
            &self.commit_out.0,
        ])
    }

    /// The hash that is signed: `keccak256(0x1901 ‖ domain separator ‖ hashStruct)`.
    #[must_use]
    pub fn signing_hash(&self) -> Digest {
        keccak256(&[&[0x19, 0x01], &domain_separator().0, &self.struct_hash().0])
    }

    /// Signs the receipt.
    #[must_use]
    pub fn sign(self, key: &NodeKey) -> SignedReceipt {
        let signature = key.sign(&self.signing_hash());
        SignedReceipt { receipt: self, signature }
    }

    /// One past the last token.
    #[must_use]
    pub fn end_token(&self) -> u32 {
        self.first_token.saturating_add(self.token_count)
    }

    /// Whether it carries commitments for proofs.
    #[must_use]
    pub fn provable(&self) -> bool {
        self.flags & FLAG_PROVABLE != 0
    }

    /// Whether this is the stage's last receipt for the task.
    #[must_use]
    pub fn closing(&self) -> bool {
        self.flags & FLAG_CLOSING != 0
    }
}

/// The domain of receipts: name and version, no chain id, so that one receipt holds on any chain.
#[must_use]
pub fn domain_separator() -> Digest {
    keccak256(&[&keccak256(&[DOMAIN_TYPE.as_bytes()]).0, &keccak256(&[b"Lockstep"]).0, &keccak256(&[b"1"]).0])
}

/// The stored form: self-contained.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SignedReceipt {
    /// The statement.
    #[n(0)]
    pub receipt: Receipt,
    /// Its signature.
    #[n(1)]
    pub signature: CompactSignature,
}

impl SignedReceipt {
    /// Whoever signed; `None` if nobody can have.
    #[must_use]
    pub fn signer(&self) -> Option<NodeId> {
        self.signature.recover(&self.receipt.signing_hash())
    }

    /// The wire form.
    #[must_use]
    pub fn to_wire(&self) -> WireReceipt {
        WireReceipt {
            stage: self.receipt.stage,
            flags: self.receipt.flags,
            span: self.receipt.first_token / crate::limits::SPAN_TOKENS,
            out_root: self.receipt.out_root,
            state_root: self.receipt.state_root,
            commit_out: if self.receipt.provable() { self.receipt.commit_out } else { Digest::ZERO },
            signature: self.signature,
        }
    }
}

/// The 136 bytes that travel for 32 tokens and one stage: header 8 (version, flags, stage, span),
/// out root 32, state root 32, compact signature 64. With [`FLAG_PROVABLE`] the commitment to what
/// left the stage follows, 32: what entered is what left the stage before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireReceipt {
    /// Index of the stage.
    pub stage: u16,
    /// `FLAG_*`.
    pub flags: u8,
    /// First token / 32.
    pub span: u32,
    /// Root over the leaves that left.
    pub out_root: Digest,
    /// Digest of KV and trace root.
    pub state_root: Digest,
    /// Commitment to the rows that left; travels with [`FLAG_PROVABLE`] alone.
    pub commit_out: Digest,
    /// Signature over the whole receipt.
    pub signature: CompactSignature,
}

/// Why bytes are no wire receipt.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// Wrong length.
    #[error(
        "a wire receipt has {got} bytes, expected {WIRE_BYTES}, or {PROVABLE_WIRE_BYTES} with commitments"
    )]
    Length {
        /// Length of the input.
        got: usize,
    },
    /// Another version.
    #[error("receipt version {got}, expected {RECEIPT_VERSION}")]
    Version {
        /// Version of the input.
        got: u8,
    },
}

/// Bytes of the wire form of a receipt with these flags.
fn wire_bytes(flags: u8) -> usize {
    if flags & FLAG_PROVABLE == 0 { WIRE_BYTES } else { PROVABLE_WIRE_BYTES }
}

impl WireReceipt {
    /// The wire bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; wire_bytes(self.flags)];
        bytes[0] = RECEIPT_VERSION;
        bytes[1] = self.flags;
        bytes[2..4].copy_from_slice(&self.stage.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.span.to_be_bytes());
        bytes[8..40].copy_from_slice(&self.out_root.0);
        bytes[40..72].copy_from_slice(&self.state_root.0);
        bytes[72..WIRE_BYTES].copy_from_slice(&self.signature.0);
        if let Some(commitment) = bytes.get_mut(WIRE_BYTES..PROVABLE_WIRE_BYTES) {
            commitment.copy_from_slice(&self.commit_out.0);
        }
        bytes
    }

    /// Reads the wire bytes.
    ///
    /// # Errors
    /// [`WireError`] on another length or version.
    pub fn from_bytes(bytes: &[u8]) -> Result<WireReceipt, WireError> {
        let got = bytes.len();
        if ![WIRE_BYTES, PROVABLE_WIRE_BYTES].contains(&got) {
            return Err(WireError::Length { got });
        }
        if bytes[0] != RECEIPT_VERSION {
            return Err(WireError::Version { got: bytes[0] });
        }
        if got != wire_bytes(bytes[1]) {
            return Err(WireError::Length { got });
        }
        let digest = |at: usize| Digest(bytes[at..at + 32].try_into().expect("32 bytes"));
        Ok(WireReceipt {
            stage: u16::from_be_bytes([bytes[2], bytes[3]]),
            flags: bytes[1],
            span: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            out_root: digest(8),
            state_root: digest(40),
            commit_out: if got == WIRE_BYTES { Digest::ZERO } else { digest(WIRE_BYTES) },
            signature: CompactSignature(bytes[72..WIRE_BYTES].try_into().expect("64 bytes")),
        })
    }
}
