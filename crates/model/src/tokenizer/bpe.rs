//! Scored byte-pair merging, as SentencePiece and llama2.c do it.
//!
//! Start from characters; of all neighbours whose joined text is a piece, merge the pair with the best score, the
//! leftmost of equals; repeat. A heap finds the best pair; entries that a merge has outdated are recognised by length.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::prefix::PrefixIndex;
use super::scored::{MAX_PIECE_BYTES, ScoredVocab};

/// Ends of the segments, ascending, in bytes.
pub(super) fn segment(vocab: &ScoredVocab, user_defined: &PrefixIndex, text: &str) -> Vec<usize> {
    let mut symbols = split(vocab, user_defined, text);
    let mut heap = BinaryHeap::new();
    for right in 1..symbols.len() {
        heap.extend(candidate(vocab, text, &symbols, right - 1, right));
    }
    while let Some(Candidate { left, right, len, .. }) = heap.pop() {
        let outdated = symbols[left].len == 0
            || symbols[right].len == 0
            || symbols[left].next != Some(right)
            || symbols[left].len + symbols[right].len != len;
        if outdated {
            continue;
        }
        let next = symbols[right].next;
        symbols[right].len = 0;
        symbols[left].len = len;
        symbols[left].next = next;
        if let Some(next) = next {
            symbols[next].previous = Some(left);
            heap.extend(candidate(vocab, text, &symbols, left, next));
        }
        if let Some(previous) = symbols[left].previous {
            heap.extend(candidate(vocab, text, &symbols, previous, left));
        }
    }
    symbols.iter().filter(|symbol| symbol.len > 0).map(|symbol| symbol.start + symbol.len).collect()
}

/// A run of the text in a doubly linked list; length 0 once it is merged into its left neighbour.
struct Symbol {
    start: usize,
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
    /// A user-defined piece: never merged.
    frozen: bool,
}

fn split(vocab: &ScoredVocab, user_defined: &PrefixIndex, text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::new();
    let mut start = 0;
    while let Some(first) = text[start..].chars().next() {
        let whole = user_defined.prefixes(&vocab.pieces, &text.as_bytes()[start..]).last();
        let len = whole.map_or(first.len_utf8(), |(len, _)| len);
        let index = symbols.len();
        symbols.push(Symbol {
            start,
            len,
            previous: index.checked_sub(1),
            next: Some(index + 1),
            frozen: whole.is_some(),
        });
        start += len;
    }
    if let Some(last) = symbols.last_mut() {
        last.next = None;
    }
    symbols
}

fn candidate(
    vocab: &ScoredVocab,
    text: &str,
    symbols: &[Symbol],
    left: usize,
    right: usize,
) -> Option<Candidate> {
    let (a, b) = (&symbols[left], &symbols[right]);
    if a.frozen || b.frozen {
        return None;
    }
    let len = a.len + b.len;
    // No piece is longer, and hashing a long text to learn that would cost as much as it is long.
    if len > MAX_PIECE_BYTES {
        return None;
    }
    let id = vocab.id(&text.as_bytes()[a.start..a.start + len])?;
    Some(Candidate { score: vocab.score(id), left, right, len })
}

struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left)).then(self.len.cmp(&other.len))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}
