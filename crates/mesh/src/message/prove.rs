//! What a gateway asks a stage to prove, and the proof that comes back.

use lockstep_base::Digest;
use lockstep_base::params::Parameters;
use minicbor::{Decode, Encode};

/// What a stage is to prove of a task that was closed: its layers' part in an answer.
///
/// The tokens and how they were chosen are in the statement of every stage (docs/spec/proofs.md, 1). Its `Debug` form is a length: contents never get into logs.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Prove {
    /// The task.
    #[n(0)]
    pub task: Digest,
    /// Prompt and answer.
    #[n(1)]
    pub tokens: Vec<u32>,
    /// How many of them are the answer.
    #[n(2)]
    pub generated: u32,
    /// How they were chosen.
    #[n(3)]
    pub parameters: Parameters,
    /// The root of the commitment to the stage's weights, where the verifier has a key and no weights.
    #[n(4)]
    pub weights: Option<Digest>,
}

impl core::fmt::Debug for Prove {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Prove {{ task: {}, {} tokens, .. }}", self.task, self.tokens.len())
    }
}

/// A page of the proof of one stage.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ProofPage {
    /// The task.
    #[n(0)]
    pub task: Digest,
    /// Which page.
    #[n(1)]
    pub page: u32,
    /// Pages of the proof.
    #[n(2)]
    pub pages: u32,
    /// Its bytes.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
}

impl core::fmt::Debug for ProofPage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let ProofPage { task, page, pages, bytes } = self;
        write!(f, "ProofPage {{ task: {task}, page {page} of {pages}, {} bytes }}", bytes.len())
    }
}
