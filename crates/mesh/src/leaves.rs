//! Fetching the leaves of one span from the stage that signed it, page by page.

use crate::limits::{SPAN_LEAVES_BYTES_MAX, SPAN_LEAVES_PAGES_MAX};
use crate::message::{Leaves, Message};
use lockstep_base::Digest;
use lockstep_base::limits::SPAN_TOKENS;
use lockstep_base::receipt_file::{ServedLeaf, ServedSpan};

/// Why a page of leaves was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeavesError {
    /// Not the page that was asked for.
    #[error(
        "a page of leaves: task {task}, token {first_token}, page {page} of {pages}; expected task {expected_task}, token {expected_token}, page {expected_page}"
    )]
    Page {
        /// Task of the page.
        task: Digest,
        /// Span of the page.
        first_token: u32,
        /// Its number.
        page: u32,
        /// Pages that it announces.
        pages: u32,
        /// The task asked for.
        expected_task: Digest,
        /// The span asked for.
        expected_token: u32,
        /// The page asked for.
        expected_page: u32,
    },
    /// The number of pages changed, is 0 or too large.
    #[error("{got} pages of leaves were announced, expected {expected}")]
    Pages {
        /// Pages now.
        got: u32,
        /// Pages before (at least 1).
        expected: u32,
    },
    /// A leaf of another span.
    #[error("a leaf at position {got}, expected {first} to {last}")]
    Position {
        /// Its position.
        got: u32,
        /// First position of the span.
        first: u32,
        /// Last position of the span.
        last: u32,
    },
    /// Too much.
    #[error("{got} bytes of leaves for one span, expected at most {SPAN_LEAVES_BYTES_MAX}")]
    TooMuch {
        /// Bytes so far.
        got: usize,
    },
}

/// The fetch of one span. Send [`request`](Self::request), give the answer to
/// [`accept`](Self::accept), until it returns the span.
#[derive(Debug)]
pub struct LeavesFetch {
    task: Digest,
    first_token: u32,
    page: u32,
    pages: Option<u32>,
    bytes: usize,
    leaves: Vec<ServedLeaf>,
}

impl LeavesFetch {
    /// The leaves of the span at `first_token`.
    #[must_use]
    pub fn new(task: Digest, first_token: u32) -> LeavesFetch {
        LeavesFetch { task, first_token, page: 0, pages: None, bytes: 0, leaves: Vec::new() }
    }

    /// The message that asks for the next page.
    #[must_use]
    pub fn request(&self) -> Message {
        Message::LeavesRequest { task: self.task, first_token: self.first_token, page: self.page }
    }

    /// Takes the page that was asked for; the span once it was the last.
    ///
    /// # Errors
    /// [`LeavesError`] for any other page. Whether the leaves lead to the signed roots is for
    /// re-execution to say.
    pub fn accept(&mut self, page: Leaves) -> Result<Option<ServedSpan>, LeavesError> {
        if (page.task, page.first_token, page.page) != (self.task, self.first_token, self.page) {
            return Err(LeavesError::Page {
                task: page.task,
                first_token: page.first_token,
                page: page.page,
                pages: page.pages,
                expected_task: self.task,
                expected_token: self.first_token,
                expected_page: self.page,
            });
        }
        let expected = self.pages.unwrap_or(page.pages.clamp(1, SPAN_LEAVES_PAGES_MAX));
        if page.pages != expected {
            return Err(LeavesError::Pages { got: page.pages, expected });
        }
        let (first, last) = (self.first_token, self.first_token.saturating_add(SPAN_TOKENS - 1));
        if let Some(leaf) = page.leaves.iter().find(|leaf| !(first..=last).contains(&leaf.position)) {
            return Err(LeavesError::Position { got: leaf.position, first, last });
        }
        self.bytes +=
            page.leaves.iter().map(|leaf| leaf.bytes.len() + size_of::<ServedLeaf>()).sum::<usize>();
        if self.bytes > SPAN_LEAVES_BYTES_MAX {
            return Err(LeavesError::TooMuch { got: self.bytes });
        }
        self.leaves.extend(page.leaves);
        self.pages = Some(page.pages);
        self.page += 1;
        if self.page < page.pages {
            return Ok(None);
        }
        Ok(Some(ServedSpan { first_token: self.first_token, leaves: core::mem::take(&mut self.leaves) }))
    }
}
