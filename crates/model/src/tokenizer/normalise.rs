//! What happens to a text before it is split into scored pieces.
//!
//! SentencePiece writes a space as U+2581; here pieces are kept with plain spaces, so normalising is: replace by the
//! model's character map (NFKC and the like, a table in the file), squeeze spaces, put one space in front.

use super::{MAX_TEXT_BYTES, TokenizerError};

/// How many times longer a text may become (NFKC makes at most 11 bytes of one).
const MAX_GROWTH: usize = 16;
/// Longest text that a character map replaces, in bytes: bounds the walk at every place, even through a trie with a cycle.
const MAX_KEY_BYTES: usize = 256;
/// Longest replacement, in bytes.
const MAX_REPLACEMENT_BYTES: usize = 256;

/// The settings of a model.
#[derive(Debug, Clone, Default)]
pub(super) struct Normaliser {
    pub(super) map: Option<CharMap>,
    pub(super) add_dummy_prefix: bool,
    pub(super) squeeze_spaces: bool,
    /// Without byte tokens U+2581 in a text can only mean a space, as in SentencePiece. With them it stays itself, so
    /// that every text comes back as it was.
    pub(super) marker_is_space: bool,
}

/// How SentencePiece writes a space.
pub(super) const SPACE_MARKER: &str = "\u{2581}";

impl Normaliser {
    pub(super) fn apply(&self, text: &str) -> Result<String, TokenizerError> {
        let mut mapped = match &self.map {
            Some(map) => map.apply(text)?,
            None => text.to_owned(),
        };
        if self.marker_is_space {
            mapped = mapped.replace(SPACE_MARKER, " ");
        }
        if self.squeeze_spaces {
            mapped = mapped.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        }
        if self.add_dummy_prefix && !mapped.is_empty() {
            mapped.insert(0, ' ');
        }
        Ok(mapped)
    }
}

/// `precompiled_charsmap`: u32 length, a double-array trie (Darts) of source strings, then NUL-terminated replacements.
/// The longest match at each place is replaced. A trie that points outside itself, or to a replacement without end, simply
/// does not match.
#[derive(Debug, Clone)]
pub(super) struct CharMap {
    trie: Vec<u32>,
    replacements: String,
}

impl CharMap {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let malformed =
            |reason: String| TokenizerError::Malformed { kind: "sentencepiece character map", at: 0, reason };
        let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let Some((head, rest)) = bytes.split_at_checked(4) else {
            return Err(malformed(format!("got {} bytes, expected at least 4", bytes.len())));
        };
        let trie_bytes = word(head) as usize;
        if trie_bytes > rest.len() || !trie_bytes.is_multiple_of(4) {
            return Err(malformed(format!("trie of {trie_bytes} bytes in {}", rest.len())));
        }
        let (trie, replacements) = rest.split_at(trie_bytes);
        let replacements = std::str::from_utf8(replacements).map_err(|error| malformed(error.to_string()))?;
        Ok(Self { trie: trie.chunks_exact(4).map(word).collect(), replacements: replacements.into() })
    }

    fn apply(&self, text: &str) -> Result<String, TokenizerError> {
        let max = MAX_GROWTH * MAX_TEXT_BYTES;
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (len, replacement) = match self.longest_match(rest) {
                Some((len, replacement)) => (len, replacement),
                None => (first.len_utf8(), &rest[..first.len_utf8()]),
            };
            out.push_str(replacement);
            rest = &rest[len..];
            if out.len() > max {
                return Err(TokenizerError::TooLarge {
                    what: "bytes of the normalised text",
                    got: out.len(),
                    max,
                });
            }
        }
        Ok(out)
    }

    /// Units as in darts-clone: label in bits 0..8, leaf flag bit 8, offset in bits 10.. (shifted by 8 more if bit 9).
    fn longest_match(&self, text: &str) -> Option<(usize, &str)> {
        let offset = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let mut best = None;
        let mut place = offset(*self.trie.first()?);
        for (index, byte) in text.bytes().enumerate().take(MAX_KEY_BYTES) {
            place ^= u32::from(byte);
            let Some(&unit) = self.trie.get(place as usize) else { break };
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            place ^= offset(unit);
            if unit & (1 << 8) != 0 && text.is_char_boundary(index + 1) {
                let value = self.trie.get(place as usize).map(|leaf| (leaf & 0x7fff_ffff) as usize);
                best = value
                    .and_then(|value| self.replacement(value))
                    .map(|replacement| (index + 1, replacement))
                    .or(best);
            }
        }
        best
    }

    /// From `start` to the next NUL.
    fn replacement(&self, start: usize) -> Option<&str> {
        let window = self.replacements.as_bytes().get(start..)?;
        let window = &window[..window.len().min(MAX_REPLACEMENT_BYTES + 1)];
        let len = window.iter().position(|&byte| byte == 0)?;
        self.replacements.get(start..start + len)
    }
}
