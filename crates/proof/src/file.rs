//! An answer with its proof as one file: whoever has the model needs nothing else.
//!
//! ```text
//! at   bytes
//! 0    8     "LSPROOF\n"
//! 8    2     version, 0
//! 10   1     kind, 1: a decoder's greedy answer
//! 11   1     0
//! 12   32    model root
//! 44   4     n: tokens of prompt and answer, 2 to 128
//! 48   4     how many of them, at the end, are the answer: 1 to n - 1
//! 52   4 n   the tokens
//!            what the prover said, to the end of the file
//! ```
//!
//! Integers are little-endian. There is no text in it: the verifier's own tokenizer says what the tokens mean. The version is that of the
//! protocol as well, for what the prover said has no other. A number of a file is compared with its limit and with the bytes
//! that are there before anything is allocated, and there is one encoding.

use crate::decoder;
use crate::decoder::statement::Answer;
use crate::error::VerifyError;
use crate::gadget::attention::TOKENS_MAX;
use crate::proof::{PROOF_BYTES_MAX, Proof};
use alloc::vec::Vec;
use lockstep_base::Digest;
use lockstep_base::weights::ModelWeights;

/// The first bytes of a file.
pub const MAGIC: &[u8; 8] = b"LSPROOF\n";
/// The version that is written and read.
pub const VERSION: u16 = 0;
/// Kind of a decoder's greedy answer.
pub const KIND_DECODER: u8 = 1;
/// Tokens of prompt and answer, at most: the last one is not fed back.
pub const FILE_TOKENS_MAX: usize = TOKENS_MAX + 1;
/// Bytes in front of the tokens.
const HEADER_BYTES: usize = 52;
/// Bytes of a file.
pub const FILE_BYTES_MAX: usize = HEADER_BYTES + 4 * FILE_TOKENS_MAX + PROOF_BYTES_MAX;

/// An answer and its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerFile {
    /// Root of the model that answered.
    pub root: Digest,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    /// How many of them, at the end, are the answer.
    pub generated: usize,
    /// The proof.
    pub proof: Proof,
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
    /// Another kind of statement.
    #[error("a proof of kind {got}, expected {KIND_DECODER}: an answer of a decoder")]
    Kind {
        /// Its kind.
        got: u8,
    },
    /// A byte that must be zero.
    #[error("byte 11 is {got}, expected 0")]
    Reserved {
        /// The byte.
        got: u8,
    },
    /// It ends too early.
    #[error("the file ends in the {what}: {got} bytes are left, expected {expected}")]
    Truncated {
        /// What was to be read.
        what: &'static str,
        /// Bytes that are left.
        got: usize,
        /// Bytes that were to be read.
        expected: usize,
    },
    /// Too few or too many tokens.
    #[error("{got} tokens, expected 2 to {FILE_TOKENS_MAX}")]
    Tokens {
        /// How many.
        got: u32,
    },
    /// An answer that is not part of the tokens, or has no prompt.
    #[error("an answer of {got} tokens, expected 1 to {limit}: {tokens} with the prompt")]
    Generated {
        /// How many.
        got: u32,
        /// The most that there can be.
        limit: u32,
        /// All tokens.
        tokens: u32,
    },
    /// Too large.
    #[error("a proof of {got} bytes, expected at most {limit}")]
    Size {
        /// Its bytes.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// A proof about another model.
    #[error("the proof is about model {got}, this is model {expected}")]
    Model {
        /// The proof's.
        got: Digest,
        /// The verifier's.
        expected: Digest,
    },
    /// The proof does not hold.
    #[error("the proof does not hold: {0}")]
    Refused(#[from] VerifyError),
}

impl AnswerFile {
    /// The file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let tokens: Vec<u8> = self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let counts = [self.tokens.len() as u32, self.generated as u32].map(u32::to_le_bytes);
        let version = VERSION.to_le_bytes();
        [MAGIC, &version[..], &[KIND_DECODER, 0], &self.root.0, &counts.concat(), &tokens, self.proof.body()]
            .concat()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`FileError`], the first check that fails. The proof is not checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<AnswerFile, FileError> {
        let mut rest = bytes;
        if bytes.len() > FILE_BYTES_MAX {
            return Err(FileError::Size { got: bytes.len(), limit: FILE_BYTES_MAX });
        }
        if !bytes.starts_with(MAGIC) {
            return Err(FileError::Magic { got: bytes[..bytes.len().min(MAGIC.len())].into() });
        }
        take::<8>(&mut rest, "magic")?;
        let version = u16::from_le_bytes(take(&mut rest, "version")?);
        if version != VERSION {
            return Err(FileError::Version { got: version });
        }
        let [kind, reserved] = take(&mut rest, "kind")?;
        if kind != KIND_DECODER {
            return Err(FileError::Kind { got: kind });
        }
        if reserved != 0 {
            return Err(FileError::Reserved { got: reserved });
        }
        let root = Digest(take(&mut rest, "model root")?);
        let got = u32::from_le_bytes(take(&mut rest, "number of tokens")?);
        if !(2..=FILE_TOKENS_MAX as u32).contains(&got) {
            return Err(FileError::Tokens { got });
        }
        let generated = u32::from_le_bytes(take(&mut rest, "length of the answer")?);
        if !(1..got).contains(&generated) {
            return Err(FileError::Generated { got: generated, limit: got - 1, tokens: got });
        }
        let count = got as usize;
        let ended = FileError::Truncated { what: "tokens", got: rest.len(), expected: 4 * count };
        let (tokens, body) = rest.split_at_checked(4 * count).ok_or(ended)?;
        if body.len() > PROOF_BYTES_MAX {
            return Err(FileError::Size { got: body.len(), limit: PROOF_BYTES_MAX });
        }
        let tokens = tokens.as_chunks::<4>().0.iter().map(|token| u32::from_le_bytes(*token)).collect();
        Ok(AnswerFile { root, tokens, generated: generated as usize, proof: Proof::new(body) })
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

    /// Whether the file is about the model with root `root`.
    ///
    /// # Errors
    /// [`FileError::Model`] if not.
    pub fn check_model(&self, root: Digest) -> Result<(), FileError> {
        if self.root != root {
            return Err(FileError::Model { got: self.root, expected: root });
        }
        Ok(())
    }

    /// Checks that the model with root `root`, whose weights the caller has verified, gives this answer greedily.
    ///
    /// # Errors
    /// The first check that fails; then nothing is known.
    pub fn verify(&self, weights: &ModelWeights, root: Digest) -> Result<(), FileError> {
        self.check_model(root)?;
        let answer = Answer { weights, root, tokens: &self.tokens, generated: self.generated };
        Ok(decoder::verify(&answer, &self.proof)?)
    }
}

/// The next `N` bytes.
fn take<const N: usize>(rest: &mut &[u8], what: &'static str) -> Result<[u8; N], FileError> {
    let ended = FileError::Truncated { what, got: rest.len(), expected: N };
    let (bytes, left) = rest.split_first_chunk::<N>().ok_or(ended)?;
    *rest = left;
    Ok(*bytes)
}
