//! One variant per check of the tokenizers.

/// Why a tokenizer could not be read or a text not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A kind that this version does not know.
    #[error("tokenizer kind {got:?} is unknown (expected one of {expected})")]
    UnknownKind {
        /// The name found.
        got: String,
        /// The names known.
        expected: String,
    },
    /// No parser accepts the bytes.
    #[error(
        "not a tokenizer that Lockstep reads (expected tokenizer.json, a SentencePiece .model, a llama2.c tokenizer.bin \
         or a vocabulary with one character per line): {reason}"
    )]
    UnknownFormat {
        /// What the most likely parser said.
        reason: String,
    },
    /// The bytes are not of the format they claim.
    #[error("{kind} tokenizer, byte {at}: {reason}")]
    Malformed {
        /// Which parser.
        kind: &'static str,
        /// Where, in bytes from the start.
        at: usize,
        /// What is wrong.
        reason: String,
    },
    /// The `tokenizers` crate refuses the file.
    #[error("tokenizer.json: {reason}")]
    HuggingFace {
        /// Its words.
        reason: String,
    },
    /// A decoder step whose bytes per token are not known.
    #[error(
        "tokenizer.json: decoder {got:?} is not supported (expected ByteLevel, or Metaspace, Replace, ByteFallback, Fuse, Strip)"
    )]
    UnsupportedDecoder {
        /// Its type.
        got: String,
    },
    /// A SentencePiece model that is neither BPE nor unigram.
    #[error("SentencePiece model type {got} is not supported (expected 1, unigram, or 2, BPE)")]
    UnsupportedModelType {
        /// The number in the file.
        got: u64,
    },
    /// A number outside its limit.
    #[error("{what}: got {got}, expected at most {max}")]
    TooLarge {
        /// What was measured.
        what: &'static str,
        /// The value found.
        got: usize,
        /// Largest accepted value.
        max: usize,
    },
    /// A token id that the vocabulary does not have.
    #[error("token {got} is outside the vocabulary of {vocab_size}")]
    UnknownToken {
        /// The id.
        got: u32,
        /// Entries.
        vocab_size: usize,
    },
    /// `add_bos` on a vocabulary without one.
    #[error("the tokenizer has no BOS token")]
    NoBos,
    /// No piece, no byte token and no unknown token stands for a character.
    #[error("the vocabulary has no token for {character:?} (byte {at} of the text)")]
    Unrepresentable {
        /// The character.
        character: char,
        /// Where, in bytes.
        at: usize,
    },
}
