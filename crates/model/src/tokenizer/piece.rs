//! The table that all tokenizers share: what a token stands for, in bytes.
//!
//! A token is a byte string, not a text: one character may span several tokens. So decoding is concatenation of bytes
//! and then UTF-8, the same for every kind, and a streaming decoder is exact by construction.

use super::TokenizerError;

/// Entries of a vocabulary at most.
pub const MAX_VOCAB: usize = 1 << 20;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// What decoding appends; empty for control tokens.
    pub(super) bytes: Vec<u8>,
    /// BOS, EOS, padding and the like: never made from text, never shown.
    pub(super) control: bool,
}

impl Piece {
    pub(super) fn text(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), control: false }
    }

    pub(super) fn control() -> Self {
        Self { bytes: Vec::new(), control: true }
    }
}

/// `<0x0A>` and its 255 siblings stand for one raw byte.
pub(super) fn byte_of_name(name: &[u8]) -> Option<u8> {
    let digits = name.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let hex = std::str::from_utf8(digits).ok().filter(|hex| hex.len() == 2 && !hex.starts_with('+'))?;
    u8::from_str_radix(hex, 16).ok()
}

/// Refuses vocabularies above [`MAX_VOCAB`].
pub(super) fn check_vocab_size(got: usize) -> Result<(), TokenizerError> {
    if got > MAX_VOCAB {
        return Err(TokenizerError::TooLarge { what: "entries of the vocabulary", got, max: MAX_VOCAB });
    }
    Ok(())
}
