//! Fetching the proof of one stage, page by page.

use crate::limits::{PROOF_PAGE_BYTES, STAGE_PROOF_BYTES_MAX};
use crate::message::{Message, ProofPage, Prove};
use lockstep_base::Digest;

/// Pages of a proof, at most.
const PAGES_MAX: u32 = (STAGE_PROOF_BYTES_MAX / PROOF_PAGE_BYTES) as u32;

/// Why a page of a proof was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProofPageError {
    /// Not the page that was asked for.
    #[error(
        "a page of a proof: task {task}, page {page}; expected task {expected_task}, page {expected_page}"
    )]
    Page {
        /// Task of the page.
        task: Digest,
        /// Its number.
        page: u32,
        /// The task asked for.
        expected_task: Digest,
        /// The page asked for.
        expected_page: u32,
    },
    /// The number of pages changed, is 0 or too large.
    #[error("{got} pages of a proof were announced, expected {expected}")]
    Pages {
        /// Pages now.
        got: u32,
        /// Pages before (at least 1, at most those of a proof).
        expected: u32,
    },
    /// A page that is not full, in front of the last one.
    #[error("a page of {got} bytes, expected {PROOF_PAGE_BYTES} in front of the last page, and some in it")]
    Short {
        /// Its bytes.
        got: usize,
    },
}

/// The fetch of one proof. Send [`request`](Self::request), give the answer to [`accept`](Self::accept), until it returns the proof.
#[derive(Debug)]
pub struct ProofFetch {
    prove: Prove,
    page: u32,
    pages: Option<u32>,
    bytes: Vec<u8>,
}

impl ProofFetch {
    /// The proof of what a stage is to prove.
    #[must_use]
    pub fn new(prove: Prove) -> ProofFetch {
        ProofFetch { prove, page: 0, pages: None, bytes: Vec::new() }
    }

    /// The message that asks for the proof, or for its next page.
    #[must_use]
    pub fn request(&self) -> Message {
        let task = self.prove.task;
        match self.page {
            0 => Message::Prove(Box::new(self.prove.clone())),
            page => Message::ProofRequest { task, page },
        }
    }

    /// Takes the page that was asked for; the proof once it was the last.
    ///
    /// # Errors
    /// [`ProofPageError`] for any other page. Whether the proof holds is for its verifier to say.
    pub fn accept(&mut self, page: ProofPage) -> Result<Option<Vec<u8>>, ProofPageError> {
        let (expected_task, expected_page) = (self.prove.task, self.page);
        if (page.task, page.page) != (expected_task, expected_page) {
            let ProofPage { task, page, .. } = page;
            return Err(ProofPageError::Page { task, page, expected_task, expected_page });
        }
        let expected = self.pages.unwrap_or(page.pages.clamp(1, PAGES_MAX));
        if page.pages != expected {
            return Err(ProofPageError::Pages { got: page.pages, expected });
        }
        let (got, last) = (page.bytes.len(), page.page + 1 == page.pages);
        if got > PROOF_PAGE_BYTES || got == 0 || (!last && got < PROOF_PAGE_BYTES) {
            return Err(ProofPageError::Short { got });
        }
        self.bytes.extend(page.bytes);
        self.pages = Some(page.pages);
        self.page += 1;
        Ok(last.then(|| core::mem::take(&mut self.bytes)))
    }
}
