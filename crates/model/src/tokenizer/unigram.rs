//! The most probable split of a text under independent pieces (Viterbi), as SentencePiece's unigram model does it.
//!
//! `best[e] = max over pieces s..e of best[s] + score`, in f32 and in SentencePiece's order of comparison, so that ties
//! fall the same way. A character without a piece costs the worst score minus 10.

use super::scored::ScoredVocab;

/// What an unknown character costs below the worst piece.
const UNKNOWN_PENALTY: f32 = 10.0;
/// SentencePiece prefers a user-defined piece to any split of the same text.
const USER_DEFINED_MALUS: f32 = 0.1;

/// Ends of the segments, ascending, in bytes.
pub(super) fn segment(vocab: &ScoredVocab, text: &str) -> Vec<usize> {
    let costs = Costs::of(vocab);
    let longest = vocab.longest_piece_bytes();
    let mut best: Vec<Option<Arrival>> = vec![None; text.len() + 1];
    best[0] = Some(Arrival { score: 0.0, from: 0 });
    for (start, first) in text.char_indices() {
        let Some(Arrival { score: before, .. }) = best[start] else { continue };
        let single_end = start + first.len_utf8();
        let mut single_found = false;
        for end in start + 1..=text.len().min(start + longest) {
            if !text.is_char_boundary(end) {
                continue;
            }
            let Some(id) = vocab.id(&text.as_bytes()[start..end]) else { continue };
            single_found |= end == single_end;
            arrive(&mut best[end], before + costs.piece(vocab, id, end - start), start);
        }
        if !single_found {
            arrive(&mut best[single_end], before + costs.unknown, start);
        }
    }
    let mut ends = Vec::new();
    let mut end = text.len();
    while end > 0 {
        ends.push(end);
        end = best[end].map_or(0, |arrival| arrival.from);
    }
    ends.reverse();
    ends
}

#[derive(Clone, Copy)]
struct Arrival {
    score: f32,
    from: usize,
}

fn arrive(place: &mut Option<Arrival>, score: f32, from: usize) {
    if place.is_none_or(|old| score > old.score) {
        *place = Some(Arrival { score, from });
    }
}

struct Costs {
    unknown: f32,
    max: f32,
}

impl Costs {
    fn of(vocab: &ScoredVocab) -> Self {
        let normal =
            vocab.index.values().filter(|id| !vocab.user_defined.contains(id)).map(|&id| vocab.score(id));
        let (min, max) = normal.fold((f32::MAX, f32::MIN_POSITIVE), |(min, max), s| (min.min(s), max.max(s)));
        Self { unknown: min - UNKNOWN_PENALTY, max }
    }

    fn piece(&self, vocab: &ScoredVocab, id: u32, len: usize) -> f32 {
        match vocab.user_defined.contains(&id) {
            true => len as f32 * self.max - USER_DEFINED_MALUS,
            false => vocab.score(id),
        }
    }
}
