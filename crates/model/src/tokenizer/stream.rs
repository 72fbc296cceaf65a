//! Tokens to text, one token at a time, never splitting a character.

use super::Tokenizer;

/// Emits only whole UTF-8 sequences. The pushes joined, then [`DecodeStream::finish`], equal [`Tokenizer::decode`] of all
/// tokens. Bytes that can never become a character turn into U+FFFD as soon as that is certain.
#[derive(Debug, Clone)]
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    /// At most 3 bytes: the beginning of a character.
    pending: Vec<u8>,
    /// The space that encoding put in front of the text is still to come.
    strip_space: bool,
}

impl<'t> DecodeStream<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, strip_space: bool) -> Self {
        Self { tokenizer, pending: Vec::new(), strip_space }
    }

    /// The text that this token completes. An id outside the vocabulary adds nothing.
    pub fn push(&mut self, token: u32) -> String {
        let mut bytes = self.tokenizer.token_bytes(token).unwrap_or_default();
        if self.strip_space && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.strip_space = false;
        }
        self.pending.extend_from_slice(bytes);
        take_whole(&mut self.pending)
    }

    /// What is left: U+FFFD if the last character never became whole.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Removes everything that is decided from the front of `pending`; keeps an unfinished character.
fn take_whole(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut done = 0;
    for chunk in pending.utf8_chunks() {
        text.push_str(chunk.valid());
        done += chunk.valid().len();
        let invalid = chunk.invalid();
        let at_end = done + invalid.len() == pending.len();
        let unfinished = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if invalid.is_empty() || (at_end && unfinished) {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        done += invalid.len();
    }
    pending.drain(..done);
    text
}
