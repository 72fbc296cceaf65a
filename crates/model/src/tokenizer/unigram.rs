//! The most probable split of a text under independent pieces (Viterbi), as SentencePiece's unigram model does it.
//!
//! `best[e] = max over pieces s..e of best[s] + score`, in f32 and in SentencePiece's order of comparison, so that ties
//! fall the same way. A character without a piece costs the worst score minus 10.

use std::collections::HashSet;

use super::prefix::PrefixIndex;
use super::scored::ScoredVocab;

/// What an unknown character costs below the worst piece.
const UNKNOWN_PENALTY: f32 = 10.0;
/// SentencePiece prefers a user-defined piece to any split of the same text.
const USER_DEFINED_MALUS: f32 = 0.1;

/// The pieces by prefix, with what each adds to a sum.
#[derive(Debug, Clone)]
pub(super) struct Lattice {
    prefixes: PrefixIndex,
    /// By token id.
    gains: Vec<f32>,
    unknown: f32,
}

impl Lattice {
    pub(super) fn new(vocab: &ScoredVocab) -> Self {
        let user_defined: HashSet<u32> = vocab.user_defined.iter().copied().collect();
        let normal = vocab.index.values().filter(|id| !user_defined.contains(id)).map(|&id| vocab.score(id));
        let (min, max) = normal.fold((f32::MAX, f32::MIN_POSITIVE), |(min, max), s| (min.min(s), max.max(s)));
        let mut gains = vocab.scores.clone();
        for &id in &vocab.user_defined {
            gains[id as usize] = vocab.pieces[id as usize].bytes.len() as f32 * max - USER_DEFINED_MALUS;
        }
        let prefixes = PrefixIndex::new(vocab.index.values().copied().collect(), &vocab.pieces);
        Self { prefixes, gains, unknown: min - UNKNOWN_PENALTY }
    }

    /// Ends of the segments, ascending, in bytes.
    pub(super) fn segment(&self, vocab: &ScoredVocab, text: &str) -> Vec<usize> {
        let mut best: Vec<Option<Arrival>> = vec![None; text.len() + 1];
        best[0] = Some(Arrival { score: 0.0, from: 0 });
        for (start, first) in text.char_indices() {
            let Some(Arrival { score: before, .. }) = best[start] else { continue };
            let mut single_found = false;
            for (len, id) in self.prefixes.prefixes(&vocab.pieces, &text.as_bytes()[start..]) {
                single_found |= len == first.len_utf8();
                arrive(&mut best[start + len], before + self.gains[id as usize], start);
            }
            if !single_found {
                arrive(&mut best[start + first.len_utf8()], before + self.unknown, start);
            }
        }
        let mut ends = Vec::new();
        let mut end = text.len();
        while end > 0 {
            ends.push(end);
            end = best[end].map_or(0, |arrival| arrival.from as usize);
        }
        ends.reverse();
        ends
    }
}

#[derive(Clone, Copy)]
struct Arrival {
    score: f32,
    /// A normalised text has at most some 64 MiB.
    from: u32,
}

fn arrive(place: &mut Option<Arrival>, score: f32, from: usize) {
    if place.is_none_or(|old| score > old.score) {
        *place = Some(Arrival { score, from: from as u32 });
    }
}
