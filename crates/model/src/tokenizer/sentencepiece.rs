//! SentencePiece `.model` files (github.com/google/sentencepiece, `sentencepiece_model.proto`).
//!
//! Fields read: `1 pieces {1 piece, 2 score, 3 type}`, `2 trainer {3 model_type, 35 byte_fallback, 40 unk_id, 41 bos_id,
//! 42 eos_id}`, `3 normalizer {2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces}`.

use super::TokenizerError;
use super::normalise::{CharMap, Normaliser, SPACE_MARKER};
use super::piece::{Piece, byte_of_name, check_vocab_size};
use super::scored::{Algorithm, MAX_PIECE_BYTES, ScoredTokenizer, ScoredVocab};
use crate::protobuf::{Fields, WireError};

/// `SentencePiece.Type`.
const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;
const BYTE: u64 = 6;
/// `TrainerSpec.ModelType`.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;
/// What an unknown token decodes to (`TrainerSpec.unk_surface` by default).
const UNKNOWN_SURFACE: &str = " \u{2047} ";

/// Parses a whole model.
pub(super) fn parse(bytes: &[u8]) -> Result<ScoredTokenizer, TokenizerError> {
    let mut vocab = ScoredVocab::default();
    let mut trainer = Trainer::default();
    let mut normaliser = Normaliser { add_dummy_prefix: true, squeeze_spaces: true, ..Normaliser::default() };
    let mut fields = Fields::new(bytes);
    let mut byte_pieces = Vec::new();
    while let Some((number, value)) = fields.next_field()? {
        match number {
            1 => add_piece(&mut vocab, value.bytes()?, &mut byte_pieces)?,
            2 => trainer = Trainer::parse(value.bytes()?)?,
            3 => parse_normaliser(&mut normaliser, value.bytes()?)?,
            _ => {}
        }
    }
    if vocab.pieces.is_empty() {
        return Err(malformed("no pieces"));
    }
    let algorithm = match trainer.model_type {
        UNIGRAM => Algorithm::Unigram,
        BPE => Algorithm::Bpe,
        got => return Err(TokenizerError::UnsupportedModelType { got }),
    };
    if trainer.byte_fallback {
        vocab.byte_ids = Some(all_bytes(&byte_pieces)?);
    }
    normaliser.marker_is_space = !trainer.byte_fallback;
    let existing = |id: Option<u32>| id.filter(|&id| (id as usize) < vocab.pieces.len());
    let (bos, eos) = (existing(trainer.bos), existing(trainer.eos));
    Ok(ScoredTokenizer::new(algorithm, normaliser, vocab, bos, eos))
}

fn add_piece(
    vocab: &mut ScoredVocab,
    message: &[u8],
    bytes: &mut Vec<(u8, u32)>,
) -> Result<(), TokenizerError> {
    let (mut name, mut score, mut kind) = ("", 0.0f32, NORMAL);
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next_field()? {
        match number {
            1 => name = std::str::from_utf8(value.bytes()?).map_err(|_| malformed("a piece is not UTF-8"))?,
            2 => score = value.float()?,
            3 => kind = value.number()?,
            _ => {}
        }
    }
    if name.is_empty() || name.len() > MAX_PIECE_BYTES || !score.is_finite() {
        let reason = format!("piece {}: {} bytes, score {score}", vocab.pieces.len(), name.len());
        return Err(malformed(&reason));
    }
    check_vocab_size(vocab.pieces.len() + 1)?;
    let id = vocab.pieces.len() as u32;
    let text = name.replace(SPACE_MARKER, " ").into_bytes();
    let piece = match kind {
        NORMAL | USER_DEFINED => {
            if kind == USER_DEFINED {
                vocab.user_defined.push(id);
            }
            if vocab.index.insert(text.clone(), id).is_some() {
                return Err(malformed(&format!("piece {name:?} occurs twice")));
            }
            Piece::text(text)
        }
        UNUSED => Piece::text(text),
        CONTROL => Piece::control(),
        UNKNOWN => {
            vocab.unk = Some(id);
            Piece::text(UNKNOWN_SURFACE)
        }
        BYTE => {
            let byte =
                byte_of_name(name.as_bytes()).ok_or_else(|| malformed(&format!("byte piece {name:?}")))?;
            bytes.push((byte, id));
            Piece::text([byte])
        }
        other => return Err(malformed(&format!("piece type {other} is unknown"))),
    };
    vocab.pieces.push(piece);
    vocab.names.push(name.into());
    vocab.scores.push(score);
    Ok(())
}

fn all_bytes(pieces: &[(u8, u32)]) -> Result<Box<[u32; 256]>, TokenizerError> {
    let mut ids = [None; 256];
    for &(byte, id) in pieces {
        ids[byte as usize] = Some(id);
    }
    let mut all = Box::new([0; 256]);
    for (byte, id) in ids.into_iter().enumerate() {
        all[byte] = id.ok_or_else(|| malformed(&format!("byte fallback without <0x{byte:02X}>")))?;
    }
    Ok(all)
}

struct Trainer {
    model_type: u64,
    byte_fallback: bool,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Default for Trainer {
    fn default() -> Self {
        Self { model_type: UNIGRAM, byte_fallback: false, bos: Some(1), eos: Some(2) }
    }
}

impl Trainer {
    fn parse(message: &[u8]) -> Result<Self, TokenizerError> {
        let mut trainer = Self::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next_field()? {
            match number {
                3 => trainer.model_type = value.number()?,
                35 => trainer.byte_fallback = value.flag()?,
                41 => trainer.bos = value.id()?,
                42 => trainer.eos = value.id()?,
                _ => {}
            }
        }
        Ok(trainer)
    }
}

fn parse_normaliser(normaliser: &mut Normaliser, message: &[u8]) -> Result<(), TokenizerError> {
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next_field()? {
        match number {
            2 => {
                let map = value.bytes()?;
                normaliser.map = if map.is_empty() { None } else { Some(CharMap::parse(map)?) };
            }
            3 => normaliser.add_dummy_prefix = value.flag()?,
            4 => normaliser.squeeze_spaces = value.flag()?,
            _ => {}
        }
    }
    Ok(())
}

impl From<WireError> for TokenizerError {
    fn from(error: WireError) -> TokenizerError {
        TokenizerError::Malformed { kind: "sentencepiece", at: error.at, reason: error.reason }
    }
}

fn malformed(reason: &str) -> TokenizerError {
    TokenizerError::Malformed { kind: "sentencepiece", at: 0, reason: reason.into() }
}
