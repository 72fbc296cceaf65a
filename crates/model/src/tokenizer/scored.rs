//! Vocabularies whose pieces carry scores: SentencePiece and llama2.c.

use std::collections::HashMap;

use super::normalise::Normaliser;
use super::piece::Piece;
use super::prefix::PrefixIndex;
use super::{TokenizerError, bpe, unigram};

/// Longest piece, in bytes: bounds the work per position of a text.
pub(super) const MAX_PIECE_BYTES: usize = 256;

/// How pieces are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// Merge the neighbours whose joined piece has the best score, again and again.
    Bpe,
    /// The split with the largest sum of scores.
    Unigram,
}

/// A scored vocabulary with its inverse.
#[derive(Debug, Clone)]
pub(super) struct ScoredTokenizer {
    normaliser: Normaliser,
    vocab: ScoredVocab,
    /// For the unigram algorithm; without it pieces are merged.
    lattice: Option<unigram::Lattice>,
    /// User-defined pieces by prefix.
    user_defined: PrefixIndex,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
}

/// The pieces; spaces are plain spaces.
#[derive(Debug, Clone, Default)]
pub(super) struct ScoredVocab {
    pub(super) pieces: Vec<Piece>,
    /// As written in the file, for templates and messages.
    pub(super) names: Vec<Vec<u8>>,
    pub(super) scores: Vec<f32>,
    /// The pieces that a text may become: no control, byte or unused ones.
    pub(super) index: HashMap<Vec<u8>, u32>,
    /// Ids of pieces that are cut out of a text before anything else.
    pub(super) user_defined: Vec<u32>,
    /// Id of each raw byte.
    pub(super) byte_ids: Option<Box<[u32; 256]>>,
    pub(super) unk: Option<u32>,
}

impl ScoredVocab {
    pub(super) fn id(&self, piece: &[u8]) -> Option<u32> {
        self.index.get(piece).copied()
    }

    pub(super) fn score(&self, id: u32) -> f32 {
        self.scores[id as usize]
    }

    /// The token of a segment; a segment without one becomes its bytes, or one unknown token per run.
    fn push(&self, text: &str, at: usize, end: usize, tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let segment = &text[at..end];
        if let Some(id) = self.id(segment.as_bytes()) {
            tokens.push(id);
            return Ok(());
        }
        if let Some(byte_ids) = &self.byte_ids {
            tokens.extend(segment.bytes().map(|byte| byte_ids[byte as usize]));
            return Ok(());
        }
        match (self.unk, segment.chars().next()) {
            (Some(unk), _) => {
                if tokens.last() != Some(&unk) {
                    tokens.push(unk);
                }
                Ok(())
            }
            (None, Some(character)) => Err(TokenizerError::Unrepresentable { character, at }),
            (None, None) => Ok(()),
        }
    }
}

impl ScoredTokenizer {
    /// Builds what encoding looks up.
    pub(super) fn new(
        algorithm: Algorithm,
        normaliser: Normaliser,
        vocab: ScoredVocab,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> Self {
        let lattice = (algorithm == Algorithm::Unigram).then(|| unigram::Lattice::new(&vocab));
        let user_defined = PrefixIndex::new(vocab.user_defined.clone(), &vocab.pieces);
        Self { normaliser, vocab, lattice, user_defined, bos, eos }
    }

    pub(super) fn encode(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let text = self.normaliser.apply(text)?;
        let ends = match &self.lattice {
            Some(lattice) => lattice.segment(&self.vocab, &text),
            None => bpe::segment(&self.vocab, &self.user_defined, &text),
        };
        let mut at = 0;
        let mut encoded = Vec::with_capacity(ends.len());
        for end in ends {
            self.vocab.push(&text, at, end, &mut encoded)?;
            at = end;
        }
        tokens.append(&mut encoded);
        Ok(())
    }

    pub(super) fn adds_dummy_prefix(&self) -> bool {
        self.normaliser.add_dummy_prefix
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.vocab.pieces
    }

    pub(super) fn name(&self, token: u32) -> Option<String> {
        let name = self.vocab.names.get(token as usize)?;
        Some(String::from_utf8_lossy(name).into_owned())
    }
}
