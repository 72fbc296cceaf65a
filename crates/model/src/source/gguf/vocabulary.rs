//! The tokenizer of a GGUF file, written as a file of one of the kinds that a bundle stores.
//!
//! | `tokenizer.ggml.model` | becomes |
//! |---|---|
//! | `llama` with byte tokens | a Hugging Face `tokenizer.json` ([`super::scored_bpe`]) |
//! | `llama` | a SentencePiece model of kind BPE ([`super::spm`]) |
//! | `t5` | a SentencePiece model of kind unigram |
//! | `gpt2` | a Hugging Face `tokenizer.json` ([`super::bpe`]) |
//!
//! Keys: `gguf.md` of the documentation of ggml; what is meant where a key is absent: `llama-vocab.cpp` of llama.cpp.

use super::store::Gguf;
use super::value::{Metadata, Number, Texts};
use super::{GgufError, bpe, scored_bpe, spm};
use crate::chat::MAX_TEMPLATE_BYTES;
use crate::tokenizer::{MAX_VOCAB, Tokenizer, TokenizerKind};

/// `llama_token_type`; the numbers are those of SentencePiece.
pub(super) mod token_type {
    pub(crate) const NORMAL: u32 = 1;
    pub(crate) const UNKNOWN: u32 = 2;
    pub(crate) const CONTROL: u32 = 3;
    pub(crate) const USER_DEFINED: u32 = 4;
    pub(crate) const UNUSED: u32 = 5;
    pub(crate) const BYTE: u32 = 6;
    pub(crate) const MAX: u32 = 6;
}

/// Control tokens by which chat models end their turn, where no key says so (`llama_vocab::load`, EOT by name).
const END_OF_TURN: [&[u8]; 5] =
    [b"<|eot_id|>", b"<|im_end|>", b"<|end|>", b"<end_of_turn>", b"<|endoftext|>"];

/// Pieces with their types.
pub(super) struct Vocabulary<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) tokens: &'a Texts,
    /// As many as tokens.
    pub(super) types: Vec<u32>,
}

impl Vocabulary<'_> {
    /// Every token with its type.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.tokens.iter().zip(self.types.iter().copied())
    }

    /// Whether every text can be expressed: one token for each byte.
    pub(super) fn has_all_bytes(&self) -> bool {
        self.types.iter().filter(|&&kind| kind == token_type::BYTE).count() == 256
    }

    fn id(&self, key: &str) -> Result<Option<u32>, GgufError> {
        let Some(got) = self.metadata.unsigned(key)? else { return Ok(None) };
        match u32::try_from(got) {
            // Written by converters for "none".
            Ok(u32::MAX) => Ok(None),
            Ok(id) if (id as usize) < self.tokens.len() => Ok(Some(id)),
            _ => Err(GgufError::Value {
                key: key.into(),
                got: got.to_string(),
                expected: "a token of the vocabulary",
            }),
        }
    }

    /// The end of a text, and of a turn in a chat.
    fn ends(&self) -> Result<Vec<u32>, GgufError> {
        let keys = ["eos_token_id", "eot_token_id", "eom_token_id"];
        let mut ends = Vec::new();
        for key in keys {
            ends.extend(self.id(&format!("tokenizer.ggml.{key}"))?);
        }
        if self.metadata.get("tokenizer.ggml.eot_token_id").is_none() {
            let control = |(_, (name, kind)): &(u32, (&[u8], u32))| {
                *kind == token_type::CONTROL && END_OF_TURN.contains(name)
            };
            ends.extend((0..).zip(self.iter()).filter(control).map(|(id, _)| id));
        }
        let mut seen = std::collections::BTreeSet::new();
        ends.retain(|id| seen.insert(*id));
        Ok(ends)
    }
}

/// Whether the file brings a vocabulary.
pub(super) fn is_there(gguf: &Gguf) -> bool {
    gguf.metadata().get("tokenizer.ggml.tokens").is_some()
}

/// The tokenizer, with the bos and eos that the file states.
pub(super) fn tokenizer(metadata: &Metadata) -> Result<Tokenizer, GgufError> {
    let key = "tokenizer.ggml.model";
    let model = metadata.text(key)?.ok_or(GgufError::MissingKey { key: key.into() })?;
    let key = "tokenizer.ggml.tokens";
    let tokens = metadata.texts(key)?.ok_or(GgufError::MissingKey { key: key.into() })?;
    if tokens.len() > MAX_VOCAB {
        let (what, got) = ("entries of tokenizer.ggml.tokens", tokens.len() as u64);
        return Err(GgufError::TooLarge { what, got, max: MAX_VOCAB as u64 });
    }
    let vocabulary = Vocabulary { metadata, tokens, types: types(metadata, tokens.len())? };
    let (kind, file, adds_bos) = match model {
        "llama" => match scored_bpe::write(&vocabulary)? {
            Some(json) => (TokenizerKind::HfJson, json, true),
            None => (TokenizerKind::SentencePiece, spm::write(&vocabulary, spm::Algorithm::Bpe)?, true),
        },
        "t5" => (TokenizerKind::SentencePiece, spm::write(&vocabulary, spm::Algorithm::Unigram)?, false),
        "gpt2" => {
            let written = bpe::write(&vocabulary)?;
            (TokenizerKind::HfJson, written.json, written.adds_bos)
        }
        other => return Err(GgufError::TokenizerModel { got: other.into() }),
    };
    let adds_bos = metadata.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
    let bos = if adds_bos { vocabulary.id("tokenizer.ggml.bos_token_id")? } else { None };
    let ends = vocabulary.ends()?;
    Ok(Tokenizer::from_bytes(kind, &file)?.with_special(bos, ends)?)
}

/// All are normal where the file does not say.
fn types(metadata: &Metadata, expected: usize) -> Result<Vec<u32>, GgufError> {
    let key = "tokenizer.ggml.token_type";
    let known = |number: Number| {
        let kind = number.unsigned().and_then(|kind| u32::try_from(kind).ok());
        kind.filter(|kind| (1..=token_type::MAX).contains(kind))
    };
    let Some(types) = metadata.numbers(key, "token types, 1 to 6", known)? else {
        return Ok(vec![token_type::NORMAL; expected]);
    };
    if types.len() != expected {
        return Err(GgufError::VocabularyLength { key, got: types.len(), expected });
    }
    Ok(types)
}

/// `tokenizer.chat_template`.
pub(super) fn chat_template(metadata: &Metadata) -> Result<Option<String>, GgufError> {
    let template = metadata.text("tokenizer.chat_template")?;
    match template {
        Some(text) if text.len() > MAX_TEMPLATE_BYTES => Err(GgufError::TooLarge {
            what: "bytes of the chat template",
            got: text.len() as u64,
            max: MAX_TEMPLATE_BYTES as u64,
        }),
        other => Ok(other.map(String::from)),
    }
}
