//! What a `tokenizer.json` must look like before the `tokenizers` crate sees it.
//!
//! The crate is written for files that one trusts: it allocates what a file asks for, runs any regular expression with
//! backtracking, and lets a normaliser replace one character by a megabyte. So the file is read here first, without building
//! anything: entries are counted and the longest string of each section measured; then the few sections that steer
//! the work per text are checked by kind. Duplicate fields are refused, so that both readers see the same file.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::piece::MAX_VOCAB;
use super::{MAX_TEXT_BYTES, TokenizerError};

/// Longest name of a token, in bytes. (GPT-2 has one of 256.)
pub(super) const MAX_NAME_BYTES: usize = 1_024;
/// Added tokens: each is searched for in every text.
const MAX_ADDED_TOKENS: usize = 1 << 16;
/// Values in the normaliser, the pre-tokeniser and the decoder together with all that they contain.
const MAX_SECTION_VALUES: usize = 10_000;
/// How many times longer the normaliser may make a text, all replacements together.
const MAX_GROWTH: usize = 64;
/// Longest text for a regular expression that is not one of [`KNOWN_REGEXES`], in bytes: even without backtracking a search
/// for all matches may take quadratic time.
const MAX_TEXT_BYTES_UNKNOWN_REGEX: usize = 64 << 10;
/// Longest word that WordPiece takes apart, in characters. (BERT has 100.)
const MAX_WORD_PIECE_CHARS: u64 = 200;
/// Splitting expressions that take time in proportion to the text: GPT-2, Llama 3, Qwen 2.
const KNOWN_REGEXES: [&str; 3] = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// What the rest of the reader needs.
pub(super) struct Checked {
    pub(super) decoder: Value,
    /// Longest text that this file is allowed to split, in bytes.
    pub(super) max_text_bytes: usize,
}

/// Reads sizes, then kinds.
pub(super) fn check(file: &[u8]) -> Result<Checked, TokenizerError> {
    let sizes: Sizes = parse(file)?;
    let limits = [
        ("values in the normalizer", sizes.normalizer.values, MAX_SECTION_VALUES),
        ("values in the pre_tokenizer", sizes.pre_tokenizer.values, MAX_SECTION_VALUES),
        ("values in the decoder", sizes.decoder.values, MAX_SECTION_VALUES),
        ("values in added_tokens", sizes.added_tokens.values, 10 * MAX_ADDED_TOKENS),
        ("bytes of an added token", sizes.added_tokens.longest, MAX_NAME_BYTES),
        // A list of [name, score], or a map from names to ids.
        ("values in the vocabulary", sizes.model.vocab.values, 3 * MAX_VOCAB + 1),
        ("bytes of a token's name", sizes.model.vocab.longest, MAX_NAME_BYTES),
        ("values in the merges", sizes.model.merges.values, 6 * MAX_VOCAB + 1),
        ("bytes of a merge", sizes.model.merges.longest, 2 * MAX_NAME_BYTES + 1),
    ];
    for (what, got, max) in limits {
        if got > max {
            return Err(TokenizerError::TooLarge { what, got, max });
        }
    }
    let sections: Sections = parse(file)?;
    sections.model.check(sizes.model.merges.values > 0)?;
    let mut walk = Walk { growth: 1, max_text_bytes: MAX_TEXT_BYTES };
    walk.section(&sections.normalizer)?;
    walk.section(&sections.pre_tokenizer)?;
    Ok(Checked { decoder: sections.decoder, max_text_bytes: walk.max_text_bytes })
}

fn parse<'a, T: serde::Deserialize<'a>>(file: &'a [u8]) -> Result<T, TokenizerError> {
    serde_json::from_slice(file).map_err(|error| refused(error.to_string()))
}

fn refused(reason: String) -> TokenizerError {
    TokenizerError::HuggingFace { reason }
}

#[derive(serde::Deserialize)]
struct Sizes {
    #[serde(default)]
    normalizer: Size,
    #[serde(default)]
    pre_tokenizer: Size,
    #[serde(default)]
    decoder: Size,
    #[serde(default)]
    added_tokens: Size,
    model: ModelSizes,
}

#[derive(serde::Deserialize)]
struct ModelSizes {
    vocab: Size,
    #[serde(default)]
    merges: Size,
}

#[derive(serde::Deserialize)]
struct Sections {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    model: Model,
}

#[derive(serde::Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f64>,
    max_input_chars_per_word: Option<u64>,
}

impl Model {
    /// WordPiece takes quadratic time for a word, so the file must say that long words are unknown; no supported
    /// architecture uses the kinds that are left.
    fn check(&self, has_merges: bool) -> Result<(), TokenizerError> {
        match self.kind.as_deref() {
            Some("BPE" | "Unigram") => {}
            Some("WordPiece") => match self.max_input_chars_per_word {
                Some(1..=MAX_WORD_PIECE_CHARS) => {}
                got => {
                    let expected = format!("expected 1 to {MAX_WORD_PIECE_CHARS}");
                    return Err(refused(format!("max_input_chars_per_word: got {got:?}, {expected}")));
                }
            },
            None if has_merges => {}
            other => {
                let expected = "expected BPE, Unigram or WordPiece";
                return Err(refused(format!("model type: got {other:?}, {expected}")));
            }
        }
        match self.dropout {
            None | Some(0.0) => Ok(()),
            Some(got) => Err(refused(format!("dropout: got {got}, expected 0 (it makes encoding random)"))),
        }
    }
}

/// Values that a piece of JSON consists of, and its longest string (keys included).
#[derive(Default)]
struct Size {
    values: usize,
    longest: usize,
}

impl Size {
    fn scalar(longest: usize) -> Self {
        Self { values: 1, longest }
    }

    fn add(&mut self, other: &Self) {
        self.values = self.values.saturating_add(other.values);
        self.longest = self.longest.max(other.longest);
    }
}

/// Counts without keeping anything; depth is bounded by the JSON parser.
struct SizeVisitor;

impl<'de> Visitor<'de> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Size, E> {
        Ok(Size::scalar(0))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Size, E> {
        Ok(Size::scalar(0))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Size, E> {
        Ok(Size::scalar(0))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Size, E> {
        Ok(Size::scalar(0))
    }

    fn visit_unit<E>(self) -> Result<Size, E> {
        Ok(Size::default())
    }

    fn visit_str<E>(self, text: &str) -> Result<Size, E> {
        Ok(Size::scalar(text.len()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Size, A::Error> {
        let mut total = Size::scalar(0);
        while let Some(element) = list.next_element::<Size>()? {
            total.add(&element);
            total.values = total.values.saturating_add(1);
        }
        Ok(total)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Size, A::Error> {
        let mut total = Size::scalar(0);
        while let Some((key, value)) = map.next_entry::<String, Size>()? {
            total.add(&value);
            total.longest = total.longest.max(key.len());
        }
        Ok(total)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

/// What the normaliser and the pre-tokeniser together allow.
struct Walk {
    growth: usize,
    max_text_bytes: usize,
}

impl Walk {
    fn section(&mut self, value: &Value) -> Result<(), TokenizerError> {
        match value {
            Value::Array(parts) => parts.iter().try_for_each(|part| self.section(part)),
            Value::Object(fields) => {
                self.step(value)?;
                fields.values().try_for_each(|field| self.section(field))
            }
            _ => Ok(()),
        }
    }

    /// One normaliser or pre-tokeniser.
    fn step(&mut self, step: &Value) -> Result<(), TokenizerError> {
        let pattern = match (&step["pattern"]["String"], &step["pattern"]["Regex"]) {
            (Value::String(text), _) => text.len(),
            (_, Value::String(regex)) => {
                self.regex(regex)?;
                1
            }
            _ => 1,
        };
        match step["type"].as_str() {
            Some("Precompiled") => {
                let reason = "normalizer Precompiled is not read from tokenizer.json; give the SentencePiece .model instead";
                Err(refused(reason.into()))
            }
            Some("Replace") => {
                let content = step["content"].as_str().map_or(0, str::len);
                // An expression may match the empty text at every place: then nothing is taken away.
                let factor = match step["pattern"]["String"].is_string() {
                    true if pattern == 0 => return Err(refused("Replace: got an empty pattern".into())),
                    true => content.div_ceil(pattern).max(1),
                    false => content.saturating_add(1),
                };
                self.grow(factor)
            }
            Some("Prepend") => self.grow(step["prepend"].as_str().map_or(0, str::len).saturating_add(1)),
            _ => Ok(()),
        }
    }

    fn grow(&mut self, factor: usize) -> Result<(), TokenizerError> {
        self.growth = self.growth.saturating_mul(factor);
        if self.growth > MAX_GROWTH {
            let what = "times that the normalizer may lengthen a text";
            return Err(TokenizerError::TooLarge { what, got: self.growth, max: MAX_GROWTH });
        }
        Ok(())
    }

    fn regex(&mut self, pattern: &str) -> Result<(), TokenizerError> {
        if KNOWN_REGEXES.contains(&pattern) {
            return Ok(());
        }
        // The regex crate has no backtracking, and so neither look-around nor back-references.
        regex::Regex::new(pattern).map_err(|_| {
            let known =
                "expected that of GPT-2, Llama 3 or Qwen 2, or one without look-around and back-references";
            refused(format!("regular expression: got {pattern:?}, {known}"))
        })?;
        self.max_text_bytes = MAX_TEXT_BYTES_UNKNOWN_REGEX;
        Ok(())
    }
}
