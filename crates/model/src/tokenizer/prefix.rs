//! All pieces that a text begins with, without a trie.
//!
//! Pieces in byte order share prefixes in runs: one binary search per byte narrows the run, and it stops at the first byte
//! that no piece goes on with. 4 bytes per piece; work per place at most the longest piece times the logarithm of the run.

use super::piece::Piece;

/// Ids in the order of their bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct PrefixIndex {
    ids: Vec<u32>,
    /// Where the run of each first byte begins; one more for the end.
    first: Vec<u32>,
}

impl PrefixIndex {
    /// Index of `ids`, none of which is empty and no two of which have the same bytes.
    pub(super) fn new(mut ids: Vec<u32>, pieces: &[Piece]) -> Self {
        ids.sort_unstable_by(|&a, &b| pieces[a as usize].bytes.cmp(&pieces[b as usize].bytes));
        let begins =
            |byte: usize| ids.partition_point(|&id| usize::from(pieces[id as usize].bytes[0]) < byte);
        let first = (0..=256).map(|byte| begins(byte) as u32).collect();
        Self { ids, first }
    }

    /// Length and id of every piece that `text` begins with, shortest first.
    pub(super) fn prefixes<'a>(
        &'a self,
        pieces: &'a [Piece],
        text: &'a [u8],
    ) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut run: &[u32] = match text.first() {
            Some(&byte) => {
                &self.ids[self.first[usize::from(byte)] as usize..self.first[usize::from(byte) + 1] as usize]
            }
            None => &[],
        };
        text.iter()
            .enumerate()
            .map_while(move |(depth, &byte)| {
                let bytes = |id: u32| pieces[id as usize].bytes.get(depth);
                if depth > 0 {
                    // A piece that ends here sorts in front of all that go on.
                    let from = run.partition_point(|&id| bytes(id).is_none_or(|&b| b < byte));
                    let to = run.partition_point(|&id| bytes(id).is_none_or(|&b| b <= byte));
                    run = &run[from..to];
                }
                let &shortest = run.first()?;
                Some((pieces[shortest as usize].bytes.len() == depth + 1).then_some((depth + 1, shortest)))
            })
            .flatten()
    }
}
