//! llama2.c `tokenizer.bin` (github.com/karpathy/llama2.c, `tokenizer.py`).
//!
//! ```text
//! i32 longest piece; then per token: f32 score, i32 length, bytes
//! ```
//! The number of tokens is not stored: the file ends with the last one. Ids 0, 1, 2 are unknown, BOS and EOS; raw bytes
//! are named `<0x0A>`; spaces are plain spaces. Encoding is SentencePiece's scored BPE with a space in front of the text.

use super::TokenizerError;
use super::normalise::Normaliser;
use super::piece::{Piece, byte_of_name, check_vocab_size};
use super::scored::{Algorithm, MAX_PIECE_BYTES, ScoredTokenizer, ScoredVocab};

const UNK: u32 = 0;
const BOS: u32 = 1;
const EOS: u32 = 2;

/// Parses a whole file.
pub(super) fn parse(file: &[u8]) -> Result<ScoredTokenizer, TokenizerError> {
    let mut reader = Reader { file, at: 0 };
    let longest = reader.length()?;
    let mut vocab = ScoredVocab::default();
    let mut bytes: [Option<u32>; 256] = [None; 256];
    while reader.at < file.len() {
        let id = vocab.pieces.len() as u32;
        check_vocab_size(id as usize + 1)?;
        let score = f32::from_le_bytes(reader.word()?);
        let len = reader.length()?;
        let name = reader.take(len)?;
        if !score.is_finite() || len == 0 || len > longest {
            return Err(
                reader.malformed(format!("token {id}: score {score}, {len} bytes, expected 1 to {longest}"))
            );
        }
        let piece = match (id, byte_of_name(name)) {
            (UNK, _) => Piece::text(char::REPLACEMENT_CHARACTER.to_string()),
            (BOS | EOS, _) => Piece::control(),
            (_, Some(byte)) => {
                bytes[byte as usize].get_or_insert(id);
                Piece::text([byte])
            }
            _ => {
                vocab.index.entry(name.to_vec()).or_insert(id);
                Piece::text(name)
            }
        };
        vocab.pieces.push(piece);
        vocab.names.push(name.trim_ascii().to_vec());
        vocab.scores.push(score);
    }
    if vocab.pieces.len() <= EOS as usize {
        return Err(reader.malformed(format!("got {} tokens, expected at least 3", vocab.pieces.len())));
    }
    vocab.unk = Some(UNK);
    let all: Option<Vec<u32>> = bytes.into_iter().collect();
    vocab.byte_ids = all.and_then(|ids| Box::<[u32; 256]>::try_from(ids).ok());
    let marker_is_space = vocab.byte_ids.is_none();
    let normaliser = Normaliser { add_dummy_prefix: true, marker_is_space, ..Normaliser::default() };
    Ok(ScoredTokenizer::new(Algorithm::Bpe, normaliser, vocab, Some(BOS), Some(EOS)))
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], TokenizerError> {
        let rest = &self.file[self.at..];
        if len > rest.len() {
            return Err(self.malformed(format!("got {} bytes, expected {len}", rest.len())));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn word(&mut self) -> Result<[u8; 4], TokenizerError> {
        let bytes = self.take(4)?;
        Ok([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn length(&mut self) -> Result<usize, TokenizerError> {
        let got = i32::from_le_bytes(self.word()?);
        match usize::try_from(got) {
            Ok(length) if length <= MAX_PIECE_BYTES => Ok(length),
            _ => Err(self.malformed(format!("length: got {got}, expected 0 to {MAX_PIECE_BYTES}"))),
        }
    }

    fn malformed(&self, reason: String) -> TokenizerError {
        TokenizerError::Malformed { kind: "llama2c", at: self.at, reason }
    }
}
