//! The gateway's check of receipts.
//!
//! A wire receipt leaves out what the gateway knows: the in root of a stage is the out root of the
//! stage before; the first in root and the last out root follow from the tokens. The gateway
//! fills them in and recovers the signer: it is the stage's node only if both meant the same
//! bytes, the same parameters, and the same receipts before. So a signature that verifies *is*
//! the chaining of roots, and one that does not names the first stage and span where it breaks.

use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use lockstep_base::leaf::TaskSecret;
use lockstep_base::limits::SPAN_TOKENS;
use lockstep_base::merkle;
use lockstep_base::part::Part;
use lockstep_base::receipt::{
    FLAG_CLOSING, FLAG_FULL_TRACE, FLAG_PROVABLE, Receipt, SignedReceipt, WireReceipt,
};
use lockstep_base::receipt_file::StageRecord;
use lockstep_runtime::trace::Edge;
use std::collections::VecDeque;

/// Why a stage's receipts are refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReceiptError {
    /// The receipt is of another stage.
    #[error("stage {stage} sent a receipt of stage {got}")]
    Stage {
        /// Who sent it.
        stage: u16,
        /// The stage that it names.
        got: u16,
    },
    /// Not the next span.
    #[error("stage {stage} sent the receipt of span {got}, expected span {expected}")]
    Span {
        /// Who sent it.
        stage: u16,
        /// The span that it names.
        got: u32,
        /// The next span.
        expected: u32,
    },
    /// A span that was not asked for (yet).
    #[error("stage {stage} signed positions to {got}, but only {sent} were sent")]
    Early {
        /// Who sent it.
        stage: u16,
        /// End of the span.
        got: u32,
        /// Positions sent.
        sent: u32,
    },
    /// Other flags than the task's.
    #[error("stage {stage}, span {span}: flags {got:#04x}, expected {expected:#04x}")]
    Flags {
        /// Who sent it.
        stage: u16,
        /// The span.
        span: u32,
        /// Flags of the receipt.
        got: u8,
        /// Flags of the task.
        expected: u8,
    },
    /// A receipt after the closing one.
    #[error("stage {stage} sent a receipt of span {span} after its closing receipt")]
    AfterClosing {
        /// Who sent it.
        stage: u16,
        /// The span.
        span: u32,
    },
    /// The last stage signed other tokens than it sent.
    #[error(
        "stage {stage}, span {span}: out root {got}, expected {expected} from the tokens that the stage sent"
    )]
    OutRoot {
        /// The last stage.
        stage: u16,
        /// The span.
        span: u32,
        /// Root of the receipt.
        got: Digest,
        /// Root over the tokens.
        expected: Digest,
    },
    /// A commitment to rows that do not leave, or none to rows that do.
    #[error(
        "stage {stage}, span {span}: the commitment to what leaves is {got}, expected one that is not zero, and zero of the last stage"
    )]
    Commitment {
        /// Who sent it.
        stage: u16,
        /// The span.
        span: u32,
        /// The commitment.
        got: Digest,
    },
    /// No key gives this signature.
    #[error("stage {stage}, span {span}: the signature is not valid under any key")]
    Signature {
        /// Who sent it.
        stage: u16,
        /// The span.
        span: u32,
    },
    /// Signed by another key, or about other data.
    #[error(
        "stage {stage}, span {span}: the signature is by {got}, expected {expected}: another key, or another statement than what was sent (in root, out root, state root, parameters or earlier receipts)"
    )]
    Signer {
        /// Who sent it.
        stage: u16,
        /// The span.
        span: u32,
        /// Whose signature it would be.
        got: NodeId,
        /// The stage's node.
        expected: NodeId,
    },
    /// Two nodes computed one span of a stage, and not the same.
    #[error(
        "stage {stage}, span {span}: {node} signed other roots than {earlier}, whose place it took: one of them is wrong"
    )]
    Diverged {
        /// Which stage.
        stage: u16,
        /// The span.
        span: u32,
        /// Who serves the stage.
        node: NodeId,
        /// Who served it before.
        earlier: NodeId,
    },
    /// Closed without having signed everything.
    #[error("stage {stage} closed the task without a valid receipt of span {span}")]
    Missing {
        /// Which stage.
        stage: u16,
        /// The first span without receipt.
        span: u32,
    },
}

impl ReceiptError {
    /// The stage whose receipt it is.
    #[must_use]
    pub fn stage(&self) -> u16 {
        match *self {
            ReceiptError::Stage { stage, .. }
            | ReceiptError::Span { stage, .. }
            | ReceiptError::Early { stage, .. }
            | ReceiptError::Flags { stage, .. }
            | ReceiptError::AfterClosing { stage, .. }
            | ReceiptError::OutRoot { stage, .. }
            | ReceiptError::Commitment { stage, .. }
            | ReceiptError::Signature { stage, .. }
            | ReceiptError::Signer { stage, .. }
            | ReceiptError::Diverged { stage, .. }
            | ReceiptError::Missing { stage, .. } => stage,
        }
    }
}

/// What all receipts of a task have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskTerms {
    /// The task.
    pub task: Digest,
    /// Its secret.
    pub secret: TaskSecret,
    /// The model.
    pub model_root: Digest,
    /// Its arithmetic.
    pub opset: String,
    /// Digest of the sampling parameters.
    pub parameters: Digest,
    /// Seed of the sampler.
    pub sampler_seed: Digest,
    /// Commitment to the audit class, zero without.
    pub audit_class: Digest,
    /// Root of the adapter, zero without.
    pub adapter: Digest,
    /// Whether trace roots cover every op.
    pub full_trace: bool,
    /// Whether closing receipts carry commitments for proofs.
    pub provable: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
}

#[derive(Debug)]
struct StageReceipts {
    stage: u16,
    part: Part,
    node: NodeId,
    /// In order, not verified yet.
    pending: VecDeque<WireReceipt>,
    verified: Vec<SignedReceipt>,
    previous: Digest,
    closing_seen: bool,
}

impl StageReceipts {
    fn new(stage: u16, part: Part, node: NodeId) -> StageReceipts {
        StageReceipts {
            stage,
            part,
            node,
            pending: VecDeque::new(),
            verified: Vec::new(),
            previous: Digest::ZERO,
            closing_seen: false,
        }
    }

    fn take(&mut self, signed: SignedReceipt) {
        self.previous = signed.receipt.struct_hash();
        self.verified.push(signed);
    }

    fn into_record(self) -> StageRecord {
        StageRecord { part: self.part, node: self.node, receipts: self.verified, served: Vec::new() }
    }

    fn next_span(&self) -> u32 {
        (self.verified.len() + self.pending.len()) as u32
    }
}

/// The receipts of one task.
#[derive(Debug)]
pub struct ReceiptBook {
    terms: TaskTerms,
    stages: Vec<StageReceipts>,
    /// Of nodes whose place others took.
    earlier: Vec<StageReceipts>,
}

/// How far a task is, for checks: `tokens` are the prompt and what was sampled; positions below
/// `sent` were sent; `end` is known once the task is closed.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    /// Prompt and answer so far.
    pub tokens: &'a [u32],
    /// Positions that were sent to the first stage.
    pub sent: u32,
    /// Positions of the closed task.
    pub end: Option<u32>,
}

impl ReceiptBook {
    /// A book for stages in route order.
    #[must_use]
    pub fn new(terms: TaskTerms, stages: impl IntoIterator<Item = (Part, NodeId)>) -> ReceiptBook {
        let stages = (0..).zip(stages).map(|(stage, (part, node))| StageReceipts::new(stage, part, node));
        ReceiptBook { terms, stages: stages.collect(), earlier: Vec::new() }
    }

    /// Another node serves `stage` from now on, and signs all of it from the first span on. What the one before it signed is kept, and must be the same.
    pub fn replace(&mut self, stage: usize, node: NodeId) {
        let book = &mut self.stages[stage];
        let fresh = StageReceipts::new(book.stage, book.part, node);
        self.earlier.push(core::mem::replace(book, fresh));
    }

    /// Positions that `stage` has signed, verified or not.
    #[must_use]
    pub fn signed(&self, stage: usize) -> u32 {
        self.stages[stage].next_span() * SPAN_TOKENS
    }

    /// Verified receipts of `stage`.
    #[must_use]
    pub fn verified(&self, stage: usize) -> &[SignedReceipt] {
        &self.stages[stage].verified
    }

    /// Whether `stage` has a verified closing receipt.
    #[must_use]
    pub fn complete(&self, stage: usize) -> bool {
        let stage = &self.stages[stage];
        stage.closing_seen && stage.pending.is_empty()
    }

    /// Takes a receipt from `stage` and verifies all that can be verified now.
    ///
    /// # Errors
    /// [`ReceiptError`] on the first that does not fit.
    pub fn push(&mut self, stage: u16, receipt: WireReceipt, extent: Extent<'_>) -> Result<(), ReceiptError> {
        let book = &mut self.stages[usize::from(stage)];
        let span = receipt.span;
        if receipt.stage != stage {
            return Err(ReceiptError::Stage { stage, got: receipt.stage });
        }
        if book.closing_seen {
            return Err(ReceiptError::AfterClosing { stage, span });
        }
        if span != book.next_span() {
            return Err(ReceiptError::Span { stage, got: span, expected: book.next_span() });
        }
        let whole_end = (span + 1) * SPAN_TOKENS;
        let closing = extent.end.is_some_and(|end| end < whole_end);
        if !closing && whole_end > extent.sent {
            return Err(ReceiptError::Early { stage, got: whole_end, sent: extent.sent });
        }
        let full_trace = if self.terms.full_trace { FLAG_FULL_TRACE } else { 0 };
        let provable = if self.terms.provable { FLAG_PROVABLE } else { 0 };
        let expected = full_trace | if closing { FLAG_CLOSING | provable } else { 0 };
        if receipt.flags != expected {
            return Err(ReceiptError::Flags { stage, span, got: receipt.flags, expected });
        }
        book.closing_seen = closing;
        book.pending.push_back(receipt);
        self.advance(extent)
    }

    /// Verifies all receipts whose neighbours and tokens are there.
    ///
    /// # Errors
    /// [`ReceiptError`] on the first that does not fit.
    pub fn advance(&mut self, extent: Extent<'_>) -> Result<(), ReceiptError> {
        for at in 0..self.stages.len() {
            while let Some(entrance) = self.next_entrance(&self.stages[at], extent) {
                let signed = verify(&self.terms, &mut self.stages[at], &entrance, extent)?;
                self.compare(at, &signed)?;
                self.stages[at].take(signed);
            }
        }
        for at in 0..self.earlier.len() {
            while let Some(entrance) = self.next_entrance(&self.earlier[at], extent) {
                // What does not hold was not needed.
                let Ok(signed) = verify(&self.terms, &mut self.earlier[at], &entrance, extent) else {
                    continue;
                };
                self.earlier[at].take(signed);
            }
        }
        Ok(())
    }

    /// What the next receipt of `book` must speak of, as soon as that is known.
    fn next_entrance(&self, book: &StageReceipts, extent: Extent<'_>) -> Option<Entrance> {
        let span = book.pending.front()?.span;
        let last = usize::from(book.stage) + 1 == self.stages.len();
        // What leaves the stage before enters this one: its root, and the commitment to it.
        let (in_root, commit_in) = match usize::from(book.stage).checked_sub(1) {
            None => (self.token_root(span, extent)?, Digest::ZERO),
            Some(before) => {
                let signed = self.stages[before].verified.get(span as usize)?;
                (signed.receipt.out_root, signed.receipt.commit_out)
            }
        };
        let tokens_root = if last { Some(self.sample_root(span, extent)?) } else { None };
        Some(Entrance { in_root, commit_in, tokens_root, last })
    }

    /// What another node signed before about the same span must be the same.
    fn compare(&self, at: usize, signed: &SignedReceipt) -> Result<(), ReceiptError> {
        let receipt = &signed.receipt;
        let roots = |receipt: &Receipt| (receipt.token_count, receipt.out_root, receipt.state_root);
        for before in self.earlier.iter().filter(|earlier| usize::from(earlier.stage) == at) {
            let span = receipt.first_token / SPAN_TOKENS;
            let other = before.verified.get(span as usize);
            if other.is_some_and(|other| roots(&other.receipt) != roots(receipt)) {
                let (node, earlier) = (self.stages[at].node, before.node);
                return Err(ReceiptError::Diverged { stage: before.stage, span, node, earlier });
            }
        }
        Ok(())
    }

    /// The error for a stage that closed too early.
    ///
    /// # Errors
    /// [`ReceiptError::Missing`] unless [`complete`](Self::complete).
    pub fn check_closed(&self, stage: u16) -> Result<(), ReceiptError> {
        let book = &self.stages[usize::from(stage)];
        if book.closing_seen {
            return Ok(());
        }
        Err(ReceiptError::Missing { stage, span: book.next_span() })
    }

    /// Every stage's verified receipts, in route order, and those of nodes whose place others took.
    #[must_use]
    pub fn into_verified(self) -> (Vec<StageRecord>, Vec<StageRecord>) {
        let records = |books: Vec<StageReceipts>| books.into_iter().map(StageReceipts::into_record);
        let earlier = records(self.earlier).filter(|record| !record.receipts.is_empty());
        (records(self.stages).collect(), earlier.collect())
    }

    /// Root over the tokens that entered in `span`, once all are known.
    fn token_root(&self, span: u32, extent: Extent<'_>) -> Option<Digest> {
        let positions = span_positions(span, extent.end);
        if (extent.tokens.len() as u64) < u64::from(positions.end) {
            return None;
        }
        let secrets = self.terms.secret.stage(0);
        let leaf = |position: u32| {
            Edge::token(&secrets, position).token_leaf(Some(extent.tokens[position as usize]))
        };
        Some(merkle::root(&positions.map(leaf).collect::<Vec<_>>()))
    }

    /// Root over the tokens that were sampled in `span`, once all are known.
    fn sample_root(&self, span: u32, extent: Extent<'_>) -> Option<Digest> {
        let positions = span_positions(span, extent.end);
        let secrets = self.terms.secret.stage(self.stages.len() as u16 - 1);
        let mut leaves = Vec::with_capacity(SPAN_TOKENS as usize);
        for position in positions {
            let sampled = position + 1 >= self.terms.prompt_tokens;
            let token = if sampled { Some(*extent.tokens.get(position as usize + 1)?) } else { None };
            leaves.push(Edge::sample(&secrets, position).token_leaf(token));
        }
        Some(merkle::root(&leaves))
    }
}

/// What a receipt must speak of.
struct Entrance {
    in_root: Digest,
    commit_in: Digest,
    /// Where the head is: the root over what was sampled.
    tokens_root: Option<Digest>,
    last: bool,
}

/// The next receipt of `book`, if it holds.
fn verify(
    terms: &TaskTerms,
    book: &mut StageReceipts,
    entrance: &Entrance,
    extent: Extent<'_>,
) -> Result<SignedReceipt, ReceiptError> {
    let wire = book.pending.pop_front().expect("the caller looked at it");
    let (stage, span) = (wire.stage, wire.span);
    let out_root = entrance.tokens_root.unwrap_or(wire.out_root);
    if wire.out_root != out_root {
        return Err(ReceiptError::OutRoot { stage, span, got: wire.out_root, expected: out_root });
    }
    // Nothing leaves the last stage but tokens.
    let committed = wire.commit_out != Digest::ZERO;
    if wire.flags & FLAG_PROVABLE != 0 && committed == entrance.last {
        return Err(ReceiptError::Commitment { stage, span, got: wire.commit_out });
    }
    let positions = span_positions(span, extent.end);
    let receipt = Receipt {
        task: terms.task,
        model_root: terms.model_root,
        opset: terms.opset.clone(),
        part: book.part,
        stage,
        first_token: positions.start,
        token_count: positions.end - positions.start,
        parameters: terms.parameters,
        masks: Digest::ZERO,
        adapters: terms.adapter,
        sampler_seed: terms.sampler_seed,
        in_root: entrance.in_root,
        out_root,
        state_root: wire.state_root,
        code: Digest::ZERO,
        previous: book.previous,
        audit_class: terms.audit_class,
        flags: wire.flags,
        commit_in: entrance.commit_in,
        commit_out: wire.commit_out,
    };
    let signed = SignedReceipt { receipt, signature: wire.signature };
    match signed.signer() {
        None => Err(ReceiptError::Signature { stage, span }),
        Some(got) if got != book.node => Err(ReceiptError::Signer { stage, span, got, expected: book.node }),
        Some(_) => Ok(signed),
    }
}

/// Positions of a span, cut at the end of the task.
fn span_positions(span: u32, end: Option<u32>) -> core::ops::Range<u32> {
    let first = span * SPAN_TOKENS;
    let whole = first + SPAN_TOKENS;
    first..end.map_or(whole, |end| end.clamp(first, whole))
}
