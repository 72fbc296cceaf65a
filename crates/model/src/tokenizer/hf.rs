//! Hugging Face `tokenizer.json` by the `tokenizers` crate.
//!
//! Encoding is the crate's. Decoding is ours: the crate decodes whole token lists to text, we need the bytes of one token,
//! so the decoder section is translated into "bytes of a token" plus "drop the first space". Truncation, padding and the
//! post-processor are settings of somebody's training script and are switched off; dropout is refused.
//!
//! The file is checked by [`super::hf_check`] before the crate sees it. What the crate still panics on (it indexes and
//! unwraps freely) is caught and becomes an error. The process's panic hook is left alone, so such a panic also prints its
//! message to stderr: a library must not silence other people's panics. A build with `panic = "abort"` has no such net.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use super::TokenizerError;
use super::hf_check::{self, MAX_NAME_BYTES};
use super::piece::{Piece, byte_of_name, check_vocab_size};

/// Names under which a BOS is known, best first.
const BOS_NAMES: [&str; 5] = ["<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>", "[CLS]"];
/// Names under which an EOS is known, best first.
const EOS_NAMES: [&str; 7] =
    ["</s>", "<|end_of_text|>", "<|eot_id|>", "<eos>", "<|im_end|>", "<|endoftext|>", "[SEP]"];

/// What a step of the decoder may put in the place of something else, in bytes.
const MAX_REPLACEMENT_BYTES: usize = 64;

/// The crate's tokenizer and the bytes of its tokens.
#[derive(Clone)]
pub(super) struct HfTokenizer {
    inner: tokenizers::Tokenizer,
    pieces: Vec<Piece>,
    strips_space: bool,
    max_text_bytes: usize,
}

impl HfTokenizer {
    pub(super) fn parse(file: &[u8]) -> Result<Self, TokenizerError> {
        let checked = hf_check::check(file)?;
        let decoder = Decoder::parse(&checked.decoder)?;
        let mut inner =
            guarded(|| tokenizers::Tokenizer::from_bytes(file).map_err(|error| error.to_string()))?;
        inner.with_truncation(None).map_err(|error| refused(&error.to_string()))?;
        inner.with_padding(None);
        inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        let pieces = pieces(&inner, &decoder)?;
        let (strips_space, max_text_bytes) = (decoder.strips_space, checked.max_text_bytes);
        Ok(Self { inner, pieces, strips_space, max_text_bytes })
    }

    pub(super) fn encode(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if text.len() > self.max_text_bytes {
            let what = "bytes of the text (with the regular expression of this tokenizer.json)";
            return Err(TokenizerError::TooLarge { what, got: text.len(), max: self.max_text_bytes });
        }
        let encoding = guarded(|| self.inner.encode_fast(text, false).map_err(|error| error.to_string()))?;
        tokens.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    pub(super) fn strips_space(&self) -> bool {
        self.strips_space
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(super) fn name(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// bos and eos by name: the file does not say which they are.
    pub(super) fn conventional_special(&self) -> (Option<u32>, Option<u32>) {
        let find = |names: &[&str]| {
            let ids = names.iter().filter_map(|name| self.inner.token_to_id(name));
            ids.into_iter().find(|&id| self.pieces.get(id as usize).is_some_and(|piece| piece.control))
        };
        (find(&BOS_NAMES), find(&EOS_NAMES))
    }
}

/// Bytes of every id; ids that nobody uses are control tokens without bytes.
fn pieces(inner: &tokenizers::Tokenizer, decoder: &Decoder) -> Result<Vec<Piece>, TokenizerError> {
    let vocab = inner.get_vocab(true);
    let size = vocab.values().max().map_or(0, |&id| id as usize + 1);
    check_vocab_size(size)?;
    let mut pieces = vec![Piece::control(); size];
    let mut taken = vec![false; size];
    for (name, id) in vocab {
        // Which of two names a decoder shows would depend on the order of a hash map.
        if std::mem::replace(&mut taken[id as usize], true) {
            return Err(refused(&format!("token {id} has two names, one is {name:?}")));
        }
        pieces[id as usize] = Piece::text(decoder.bytes_of(&name)?);
    }
    for (id, token) in inner.get_added_tokens_decoder() {
        let piece = if token.special { Piece::control() } else { Piece::text(token.content) };
        if let Some(place) = pieces.get_mut(id as usize) {
            *place = piece;
        }
    }
    Ok(pieces)
}

/// The decoder section, reduced to what happens to one token.
#[derive(Default)]
struct Decoder {
    steps: Vec<Step>,
    strips_space: bool,
}

enum Step {
    /// GPT-2's map from bytes to printable characters, backwards.
    ByteLevel,
    /// `<0x0A>` is one byte.
    ByteFallback,
    Replace {
        from: String,
        to: String,
    },
    /// A piece without the mark begins a word. (The crate also takes spaces in front of punctuation away; that is a
    /// matter of two tokens, and nobody shows the tokens of an encoder.)
    WordPiece {
        mark: String,
    },
}

impl Decoder {
    fn parse(json: &Value) -> Result<Self, TokenizerError> {
        let mut decoder = Self::default();
        decoder.add(json)?;
        Ok(decoder)
    }

    fn add(&mut self, json: &Value) -> Result<(), TokenizerError> {
        let kind = json["type"].as_str().unwrap_or("none");
        let unsupported = || TokenizerError::UnsupportedDecoder { got: kind.into() };
        match kind {
            "Sequence" => {
                let parts = json["decoders"].as_array().ok_or_else(unsupported)?;
                // A sequence inside a sequence says nothing new and could be nested without end.
                if parts.iter().any(|part| part["type"] == "Sequence") {
                    return Err(unsupported());
                }
                parts.iter().try_for_each(|part| self.add(part))
            }
            "ByteLevel" => {
                self.steps.push(Step::ByteLevel);
                Ok(())
            }
            "ByteFallback" => {
                self.steps.push(Step::ByteFallback);
                Ok(())
            }
            "Fuse" => Ok(()),
            "Replace" => {
                let (from, to) = (json["pattern"]["String"].as_str(), json["content"].as_str());
                let (Some(from), Some(to)) = (from, to) else { return Err(unsupported()) };
                if from.is_empty() || to.len() > MAX_REPLACEMENT_BYTES {
                    return Err(unsupported());
                }
                self.steps.push(Step::Replace { from: from.into(), to: to.into() });
                Ok(())
            }
            "Metaspace" => {
                let marker = json["replacement"].as_str().filter(|marker| !marker.is_empty());
                let marker = marker.ok_or_else(unsupported)?;
                self.steps.push(Step::Replace { from: marker.into(), to: " ".into() });
                let never = json["prepend_scheme"] == "never" || json["add_prefix_space"] == false;
                self.strips_space |= !never;
                Ok(())
            }
            "WordPiece" => {
                let mark = json["prefix"].as_str().filter(|mark| !mark.is_empty()).ok_or_else(unsupported)?;
                self.steps.push(Step::WordPiece { mark: mark.into() });
                self.strips_space = true;
                Ok(())
            }
            "Strip" if json["content"] == " " && json["start"] == 1 && json["stop"] == 0 => {
                self.strips_space = true;
                Ok(())
            }
            _ => Err(unsupported()),
        }
    }

    fn bytes_of(&self, name: &str) -> Result<Vec<u8>, TokenizerError> {
        let mut text = name.to_owned();
        for step in &self.steps {
            match step {
                Step::ByteLevel => {
                    let bytes: Option<Vec<u8>> = text.chars().map(byte_of_char).collect();
                    return Ok(bytes.unwrap_or_else(|| text.into_bytes()));
                }
                Step::ByteFallback => {
                    if let Some(byte) = byte_of_name(text.as_bytes()) {
                        return Ok(vec![byte]);
                    }
                }
                Step::Replace { from, to } => text = text.replace(from, to),
                Step::WordPiece { mark } => {
                    text = text.strip_prefix(mark.as_str()).map_or_else(|| format!(" {text}"), str::to_owned);
                }
            }
            if text.len() > MAX_NAME_BYTES {
                let what = "bytes of a decoded token";
                return Err(TokenizerError::TooLarge { what, got: text.len(), max: MAX_NAME_BYTES });
            }
        }
        Ok(text.into_bytes())
    }
}

/// GPT-2 shows printable Latin-1 as itself and the 68 other bytes as U+0100 onwards.
fn byte_of_char(character: char) -> Option<u8> {
    let code = character as u32;
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8), // 0x00 to 0x20
        0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8), // 0x7f to 0xa0
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The crate is not written for hostile files: a panic inside it becomes an error here. Nothing of it is used after a panic
/// while parsing; after one while encoding only its cache may be poisoned, and the crate then does without it.
fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, TokenizerError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|reason| refused(&reason)),
        Err(_) => Err(refused("the tokenizers crate panicked")),
    }
}

fn refused(reason: &str) -> TokenizerError {
    TokenizerError::HuggingFace { reason: reason.into() }
}
