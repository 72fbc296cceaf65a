//! A scored vocabulary as a SentencePiece `.model`: what the vocabulary was before it was put into the GGUF file.
//!
//! Fields are those that [`crate::tokenizer`] reads: `1 pieces {1 piece, 2 score, 3 type}`,
//! `2 trainer {3 model_type, 35 byte_fallback, 40 unk_id, 41 bos_id, 42 eos_id}`,
//! `3 normalizer {2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces}`.

use super::GgufError;
use super::value::{Number, Value};
use super::vocabulary::{Vocabulary, token_type};

/// `TrainerSpec.ModelType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram = 1,
    Bpe = 2,
}

/// Writes the model.
pub(super) fn write(vocabulary: &Vocabulary<'_>, algorithm: Algorithm) -> Result<Vec<u8>, GgufError> {
    let scores = scores(vocabulary)?;
    let mut file = Vec::new();
    for (index, ((name, kind), score)) in vocabulary.iter().zip(scores).enumerate() {
        let mut piece = Vec::new();
        bytes_field(&mut piece, 1, &named(name, kind, index));
        float_field(&mut piece, 2, score);
        number_field(&mut piece, 3, kind.into());
        bytes_field(&mut file, 1, &piece);
    }
    let mut trainer = Vec::new();
    number_field(&mut trainer, 3, algorithm as u64);
    number_field(&mut trainer, 35, vocabulary.has_all_bytes().into());
    bytes_field(&mut file, 2, &trainer);
    bytes_field(&mut file, 3, &normaliser(vocabulary)?);
    Ok(file)
}

/// Unused entries that pad a vocabulary may share an empty name; nothing is ever made of them.
fn named(name: &[u8], kind: u32, index: usize) -> Vec<u8> {
    if name.is_empty() && kind == token_type::UNUSED {
        format!("<unused {index}>").into()
    } else {
        name.into()
    }
}

/// One finite score a token.
pub(super) fn scores(vocabulary: &Vocabulary<'_>) -> Result<Vec<f32>, GgufError> {
    let key = "tokenizer.ggml.scores";
    let float = |number: Number| number.float().map(|score| score as f32).filter(|score| score.is_finite());
    let scores = vocabulary.metadata.numbers(key, "finite numbers", float)?;
    let scores = scores.ok_or(GgufError::MissingKey { key: key.into() })?;
    match vocabulary.tokens.len() {
        expected if scores.len() != expected => {
            Err(GgufError::VocabularyLength { key, got: scores.len(), expected })
        }
        _ => Ok(scores),
    }
}

fn normaliser(vocabulary: &Vocabulary<'_>) -> Result<Vec<u8>, GgufError> {
    let flag = |key: &str, default| Ok::<_, GgufError>(vocabulary.metadata.flag(key)?.unwrap_or(default));
    let mut message = Vec::new();
    if let Some(Value::Numbers { kind, bytes }) =
        vocabulary.metadata.get("tokenizer.ggml.precompiled_charsmap")
        && kind.bytes() == 1
    {
        bytes_field(&mut message, 2, bytes);
    }
    number_field(&mut message, 3, flag("tokenizer.ggml.add_space_prefix", true)?.into());
    number_field(&mut message, 4, flag("tokenizer.ggml.remove_extra_whitespaces", false)?.into());
    Ok(message)
}

fn varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn number_field(to: &mut Vec<u8>, field: u64, number: u64) {
    varint(to, field << 3);
    varint(to, number);
}

fn float_field(to: &mut Vec<u8>, field: u64, number: f32) {
    varint(to, field << 3 | 5);
    to.extend(number.to_le_bytes());
}

fn bytes_field(to: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(to, field << 3 | 2);
    varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}
