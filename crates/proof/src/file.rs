//! An answer with its proof as one file: whoever has the model, or its key ([`crate::key`]), needs nothing else.
//!
//! ```text
//! at   bytes
//! 0    8     "LSPROOF\n"
//! 8    2     version, 6, little-endian
//! 10         one CBOR value in deterministic encoding: the answer, its stages and their proofs ([`AnswerFile`], field by field)
//! ```
//!
//! A proof is what its prover said, declarations first. There is no text in it: the verifier's own tokenizer says what the tokens mean. The version is that of the protocol as well, for what a prover
//! said has no other. A number of a file is compared with its limit before anything is made of it, and there is one encoding.
//!
//! A model is proved in *stages* of some layers each, one or more. The root of what leaves a stage is what enters the next one, so proofs of all stages are a proof of
//! the answer. A *sampled* file has the proofs of only some stages, which a beacon chose that is younger than all the roots ([`Sample`]): a prover that is wrong in
//! one stage is found out with a probability of as many as were chosen in all, and the verifier says so.

mod check;
mod claimed;
#[cfg(feature = "prover")]
pub mod make;

pub use claimed::Claimed;

use crate::decoder::statement::Answer;
use crate::error::VerifyError;
use crate::gadget::attention::TOKENS_MAX;
use crate::key::KeyError;
use crate::proof::{PROOF_BYTES_MAX, Proof};
use crate::transcript::Hash;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::cbor::{self, CborError};
use lockstep_base::weights::ModelWeights;
use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};

/// The first bytes of a file.
pub const MAGIC: &[u8; 8] = b"LSPROOF\n";
/// The version that is written and read.
pub const VERSION: u16 = 6;
/// Tokens of prompt and answer, at most: the last one of an answer is not fed. What a stage has room for may be less, and depends on the model.
pub const FILE_TOKENS_MAX: usize = TOKENS_MAX + 1;
/// Stages of a file.
pub const STAGES_MAX: usize = 64;
/// Bytes of a file.
pub const FILE_BYTES_MAX: usize = 256 << 20;
/// Bytes in front of the CBOR.
const HEADER_BYTES: usize = 10;

/// What is proved of one stage: layers behind those of the stage in front of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageProof {
    /// The first layer behind it.
    pub end: u32,
    /// The root of what leaves it; none of the last one.
    pub leaving: Option<Hash>,
    /// The proof; none where others were drawn.
    pub proof: Option<Proof>,
}

/// Which stages are proved, where not all are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Sample {
    /// How many.
    #[n(0)]
    pub stages: u32,
    /// What chose them: a number that nobody knew or could move when the roots were fixed. The verifier must know where it is from.
    #[n(1)]
    pub beacon: Digest,
}

/// A row of a table of embeddings, with its place in the model.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct OpenedRow {
    /// i16 codes, little-endian.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub codes: Vec<u8>,
    /// The siblings up to the root of the table.
    #[cbor(n(1), decode_with = "crate::few::decode")]
    pub path: Vec<Digest>,
}

/// What a verifier needs besides a key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Keyed {
    /// [`crate::key::Key::digest`].
    #[n(0)]
    pub digest: Digest,
    /// Rows of the distinct tokens of all positions, in ascending order.
    #[cbor(n(1), decode_with = "crate::few::decode")]
    pub tokens: Vec<OpenedRow>,
}

/// An answer and its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerFile {
    /// Root of the model that answered.
    pub root: Digest,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    /// How many of them, at the end, are the answer; none of an encoder's.
    pub generated: usize,
    /// What is claimed of it.
    pub claimed: Claimed,
    /// The adapter that it was computed with.
    pub adapter: Option<Digest>,
    /// The stages, in order.
    pub stages: Vec<StageProof>,
    /// Which of them are proved; all of them if nothing is said.
    pub sample: Option<Sample>,
    /// For verifiers that do not hold the weights (tier B). Such a proof is another one.
    pub keyed: Option<Keyed>,
}

/// A file as CBOR.
#[derive(Debug, Encode, Decode)]
#[cbor(array)]
struct Body {
    #[n(0)]
    root: Digest,
    #[n(1)]
    tokens: Vec<u32>,
    #[n(2)]
    generated: u32,
    #[n(3)]
    claimed: Claimed,
    #[n(4)]
    adapter: Option<Digest>,
    #[cbor(n(5), decode_with = "crate::few::decode")]
    stages: Vec<BodyStage>,
    #[n(6)]
    sample: Option<Sample>,
    #[n(7)]
    keyed: Option<Keyed>,
}

#[derive(Debug, Encode, Decode)]
#[cbor(array)]
struct BodyStage {
    #[n(0)]
    end: u32,
    #[n(1)]
    leaving: Option<ByteArray<32>>,
    #[n(2)]
    proof: Option<ByteVec>,
}

/// Why a file is no proof of an answer, or the proof does not hold.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileError {
    /// Other first bytes.
    #[error("not a proof of an answer: it begins with {got:02x?}, expected {MAGIC:02x?}")]
    Magic {
        /// Its first bytes.
        got: Vec<u8>,
    },
    /// Another version.
    #[error("a proof of version {got}, expected {VERSION}")]
    Version {
        /// Its version.
        got: u16,
    },
    /// No CBOR of an answer.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Too few or too many tokens.
    #[error("{got} tokens, expected {least} to {limit}")]
    Tokens {
        /// How many.
        got: usize,
        /// The fewest that there can be.
        least: usize,
        /// The most.
        limit: usize,
    },
    /// An answer that is not part of the tokens, or has no prompt; or one of an encoder.
    #[error("an answer of {got} tokens, expected {least} to {limit}: {tokens} with the prompt")]
    Generated {
        /// How many.
        got: u32,
        /// The fewest that there can be.
        least: u32,
        /// The most that there can be.
        limit: u32,
        /// All tokens.
        tokens: u32,
    },
    /// No stages, too many, or not in order.
    #[error(
        "stage {stage} of {stages} ends in front of layer {end}: expected 1 to {STAGES_MAX} stages, each with layers, and a root behind each but the last"
    )]
    Stages {
        /// The first that is wrong.
        stage: usize,
        /// All.
        stages: usize,
        /// Where it ends.
        end: u32,
    },
    /// Proofs of other stages than were drawn.
    #[error("stage {stage} has {}, expected {}", if *.proved { "a proof" } else { "no proof" }, if *.proved { "none" } else { "one" })]
    Drawn {
        /// The first that is wrong.
        stage: usize,
        /// Whether it has a proof.
        proved: bool,
    },
    /// A draw of none, or of all.
    #[error("a draw of {got} stages, expected 1 to {limit}")]
    Sample {
        /// How many.
        got: u32,
        /// One less than there are.
        limit: usize,
    },
    /// Too large.
    #[error("a proof of {got} bytes, expected at most {limit}")]
    Size {
        /// Its bytes.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// A proof about another adapter, or none.
    #[error("the proof is about {}, expected {}", adapter_named(got), adapter_named(expected))]
    Adapter {
        /// The proof's.
        got: Option<Digest>,
        /// The verifier's.
        expected: Option<Digest>,
    },
    /// A proof about another model.
    #[error("the proof is about model {got}, this is model {expected}")]
    Model {
        /// The proof's.
        got: Digest,
        /// The verifier's.
        expected: Digest,
    },
    /// A proof for another key, or for who holds the model.
    #[error("the proof is for {}, expected {expected}", got.map_or("who holds the model".into(), |key| alloc::format!("key {key}")))]
    Key {
        /// The proof's.
        got: Option<Digest>,
        /// The verifier's.
        expected: Digest,
    },
    /// A proof that needs a key, where there is a model.
    #[error("the proof is for key {got}: expected that key, not the model alone")]
    NeedsKey {
        /// The proof's.
        got: Digest,
    },
    /// Layers that are not those of the model.
    #[error("the stages end in front of layers {got:?}, expected {expected:?}")]
    Layers {
        /// The proof's.
        got: Vec<u32>,
        /// The verifier's.
        expected: Vec<u32>,
    },
    /// A row that is not the model's.
    #[error("row {row} of the {table} is not the model's")]
    Row {
        /// Which table.
        table: &'static str,
        /// Which row.
        row: usize,
    },
    /// A key that cannot be made.
    #[error(transparent)]
    KeyMade(#[from] KeyError),
    /// The proof does not hold.
    #[error("the proof of stage {stage} does not hold: {error}")]
    Refused {
        /// Which stage.
        stage: usize,
        /// The first check that failed.
        error: VerifyError,
    },
}

fn adapter_named(root: &Option<Digest>) -> String {
    root.map_or("the model without an adapter".into(), |root| format!("adapter {root}"))
}

impl AnswerFile {
    /// A greedy answer of a model that is one stage of `layers` layers.
    #[must_use]
    pub fn whole(root: Digest, tokens: Vec<u32>, generated: usize, layers: u32, proof: Proof) -> AnswerFile {
        let stages = [StageProof { end: layers, leaving: None, proof: Some(proof) }].into();
        let claimed = Claimed::Greedy;
        AnswerFile { root, tokens, generated, claimed, adapter: None, stages, sample: None, keyed: None }
    }

    /// The file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let stage = |stage: &StageProof| BodyStage {
            end: stage.end,
            leaving: stage.leaving.map(ByteArray::from),
            proof: stage.proof.as_ref().map(|proof| ByteVec::from(proof.body().to_vec())),
        };
        let body = Body {
            root: self.root,
            tokens: self.tokens.clone(),
            generated: self.generated as u32,
            claimed: self.claimed.clone(),
            adapter: self.adapter,
            stages: self.stages.iter().map(stage).collect(),
            sample: self.sample,
            keyed: self.keyed.clone(),
        };
        [MAGIC, &VERSION.to_le_bytes()[..], &cbor::encode(&body)].concat()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`FileError`], the first check that fails. The proof is not checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<AnswerFile, FileError> {
        if bytes.len() > FILE_BYTES_MAX {
            return Err(FileError::Size { got: bytes.len(), limit: FILE_BYTES_MAX });
        }
        let (Some(head), true) = (bytes.first_chunk::<HEADER_BYTES>(), bytes.starts_with(MAGIC)) else {
            return Err(FileError::Magic { got: bytes[..bytes.len().min(MAGIC.len())].into() });
        };
        let got = u16::from_le_bytes([head[8], head[9]]);
        if got != VERSION {
            return Err(FileError::Version { got });
        }
        let body: Body = cbor::decode("proof of an answer", &bytes[HEADER_BYTES..])?;
        let mut stages = Vec::with_capacity(body.stages.len());
        for stage in body.stages {
            let proof = stage.proof.map(|bytes| Proof::new(&bytes));
            if let Some(got) = proof.as_ref().map(|proof| proof.as_bytes().len())
                && got > PROOF_BYTES_MAX
            {
                return Err(FileError::Size { got, limit: PROOF_BYTES_MAX });
            }
            stages.push(StageProof { end: stage.end, leaving: stage.leaving.map(|root| *root), proof });
        }
        let Body { root, tokens, generated, claimed, adapter, sample, keyed, .. } = body;
        let generated = generated as usize;
        let file = AnswerFile { root, tokens, generated, claimed, adapter, stages, sample, keyed };
        file.check_parts()?;
        Ok(file)
    }

    /// There are tokens and an answer, stages are in order, and exactly those are proved that were drawn. Checked by whoever reads a file, and by whoever
    /// verifies one: its fields may have been set in between.
    fn check_parts(&self) -> Result<(), FileError> {
        let got = self.tokens.len();
        let pooled = matches!(self.claimed, Claimed::Pooled(_));
        let (tokens, generated) = match pooled {
            true => (1..=FILE_TOKENS_MAX - 1, 0..=0),
            false => (2..=FILE_TOKENS_MAX, 1..=got.saturating_sub(1)),
        };
        if !tokens.contains(&got) {
            return Err(FileError::Tokens { got, least: *tokens.start(), limit: *tokens.end() });
        }
        if !generated.contains(&self.generated) {
            let (least, limit) = (*generated.start() as u32, *generated.end() as u32);
            let got = u32::try_from(self.generated).unwrap_or(u32::MAX);
            return Err(FileError::Generated { got, least, limit, tokens: self.tokens.len() as u32 });
        }
        let stages = self.stages.len();
        let mut before = 0;
        for (stage, StageProof { end, leaving, .. }) in self.stages.iter().enumerate() {
            if *end <= before || leaving.is_none() != (stage + 1 == stages) || stages > STAGES_MAX {
                return Err(FileError::Stages { stage, stages, end: *end });
            }
            before = *end;
        }
        if stages == 0 {
            return Err(FileError::Stages { stage: 0, stages, end: 0 });
        }
        if let Some(Sample { stages: got, .. }) = self.sample
            && !(1..stages).contains(&(got as usize))
        {
            return Err(FileError::Sample { got, limit: stages - 1 });
        }
        let drawn = self.drawn();
        let wrong = |stage: &usize| self.stages[*stage].proof.is_some() != drawn[*stage];
        match (0..stages).find(wrong) {
            Some(stage) => Err(FileError::Drawn { stage, proved: self.stages[stage].proof.is_some() }),
            None => Ok(()),
        }
    }

    /// Which stages are to be proved: all, or those with the smallest hashes of beacon, number and everything that is fixed before the beacon is known.
    #[must_use]
    pub fn drawn(&self) -> Vec<bool> {
        let Some(sample) = self.sample else {
            return self.stages.iter().map(|_| true).collect();
        };
        let fixed = self.commitment();
        let ticket = |stage: usize| {
            let number = (stage as u32).to_be_bytes();
            Digest::tagged("proof-draw", &[&fixed.0, &sample.beacon.0, &number])
        };
        let mut tickets: Vec<(Digest, usize)> =
            (0..self.stages.len()).map(|stage| (ticket(stage), stage)).collect();
        tickets.sort_unstable_by_key(|(ticket, stage)| (ticket.0, *stage));
        let mut drawn: Vec<bool> = self.stages.iter().map(|_| false).collect();
        tickets.iter().take(sample.stages as usize).for_each(|(_, stage)| drawn[*stage] = true);
        drawn
    }

    /// What must be fixed before the beacon is known: the model, the tokens, what is claimed of them, and the root behind every stage.
    #[must_use]
    pub fn commitment(&self) -> Digest {
        let tokens: Vec<u8> = self.tokens.iter().flat_map(|token| token.to_be_bytes()).collect();
        let stages: Vec<u8> = self
            .stages
            .iter()
            .flat_map(|stage| stage.end.to_be_bytes().into_iter().chain(stage.leaving.unwrap_or_default()))
            .collect();
        let key = self.keyed.as_ref().map_or([0; 32], |keyed| keyed.digest.0);
        let counts = [self.tokens.len() as u32, self.generated as u32].map(u32::to_be_bytes).concat();
        let claim = cbor::encode(&(&self.claimed, &self.adapter));
        let lengths = [tokens.len(), stages.len()].map(|length| (length as u32).to_be_bytes()).concat();
        Digest::tagged("proof-commitment", &[&self.root.0, &key, &counts, &lengths, &tokens, &stages, &claim])
    }

    /// The statement, about a model and an adapter with these roots.
    #[must_use]
    pub fn answer_of<'a>(
        &'a self,
        weights: &'a ModelWeights,
        adapter: Option<&'a AdapterWeights>,
    ) -> Answer<'a> {
        let AnswerFile { root, tokens, generated, claimed, .. } = self;
        Answer { weights, root: *root, tokens, generated: *generated, claim: claimed.claim(), adapter }
    }

    /// The prompt.
    #[must_use]
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - self.generated]
    }

    /// The answer.
    #[must_use]
    pub fn answer(&self) -> &[u32] {
        &self.tokens[self.tokens.len() - self.generated..]
    }

    /// The ends of all stages.
    #[must_use]
    pub fn ends(&self) -> Vec<u32> {
        self.stages.iter().map(|stage| stage.end).collect()
    }

    /// How many stages are proved.
    #[must_use]
    pub fn proved(&self) -> usize {
        self.stages.iter().filter(|stage| stage.proof.is_some()).count()
    }
}
