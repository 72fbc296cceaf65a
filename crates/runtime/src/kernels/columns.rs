//! A `(tokens, rows)` output that several threads write at the same time, each at rows of its own.
//! A row is a column of memory here, which no slice can express.

use core::marker::PhantomData;
use core::ops::Range;

/// The whole output.
pub(super) struct Columns<'a> {
    start: *mut i32,
    rows: usize,
    tokens: usize,
    borrowed: PhantomData<&'a mut [i32]>,
}

// SAFETY: the pointer is reached through `claim` alone, whose callers claim disjoint rows.
unsafe impl Sync for Columns<'_> {}

/// Some rows of every token, for one thread.
pub(super) struct Claim<'a> {
    columns: &'a Columns<'a>,
    rows: Range<usize>,
}

impl<'a> Columns<'a> {
    /// The columns of `out`, which is `(tokens, rows)`.
    pub(super) fn new(out: &'a mut [i32], rows: usize) -> Columns<'a> {
        let tokens = out.len().checked_div(rows).unwrap_or(0);
        Columns { start: out.as_mut_ptr(), rows, tokens, borrowed: PhantomData }
    }

    /// The rows `rows` of every token.
    ///
    /// # Safety
    /// No other living claim has any of these rows.
    pub(super) unsafe fn claim(&'a self, rows: Range<usize>) -> Claim<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        Claim { columns: self, rows }
    }
}

impl Claim<'_> {
    /// Row `first` of the claim and those after it, `count` in all, of one token.
    #[inline(always)]
    pub(super) fn of_token(&mut self, token: usize, first: usize, count: usize) -> &mut [i32] {
        assert!(token < self.columns.tokens && first + count <= self.rows.len());
        let at = token * self.columns.rows + self.rows.start + first;
        // SAFETY: inside the `tokens * rows` outputs by the assertions here and in `claim`; ours
        // alone by the promise given to `claim`, and borrowed from `self` for the slice's life.
        unsafe { core::slice::from_raw_parts_mut(self.columns.start.add(at), count) }
    }
}
