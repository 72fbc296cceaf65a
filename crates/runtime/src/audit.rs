//! Re-execution of a receipt file: "verified", or exactly where it differs.
//!
//! The auditor needs the bundle's weights and the file, nothing else. Span by span and stage by
//! stage it computes what an honest stage would have signed and compares 32-byte roots. At the
//! first difference it names the stage and the span; where the file holds that span's leaves it
//! goes on to the token, layer, op and row.
//!
//! Who may be blamed? The tokens, the prompt's length and the task secret are the word of whoever
//! made the file: nobody signed them. So before anything is computed, the roots must chain: the
//! file's tokens into the first in root, each out root into the next in root, the last out root
//! into the file's tokens. A gateway refuses an answer whose roots do not, so such a file was
//! changed (or made up) and convicts nobody: an [`AuditError`]. Only what a stage signed about an
//! input that chained, and that re-execution contradicts, is a [`Fault`] of that stage.
//!
//! What is *not* seen here: rows that a stage sent but did not sign (the next stage signs what it
//! got, the roots do not chain, the gateway ends the request and cannot know which of the two
//! lied); log-probabilities, which no receipt covers; and a gateway that gave a stage other salts
//! than those of the task secret in the file: receipts do not bind the secret, so an accusation
//! by a gateway that may have done so is worth as much as that gateway.

mod chain;
mod earlier;
mod leaves;

use crate::forward::{Engine, ForwardError};
use crate::observe::Silent;
use crate::stage::{Sampled, StageRun, StepInput, StepOutput, Task};
use crate::trace::TraceMode;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::keys::NodeId;
use lockstep_base::limits::SPAN_TOKENS;
use lockstep_base::op::{Op, Place};
use lockstep_base::params::ParametersError;
use lockstep_base::part::{Part, PartError};
use lockstep_base::receipt::{FLAG_CLOSING, FLAG_FULL_TRACE, FLAG_PROVABLE, Receipt, state_root};
use lockstep_base::receipt_file::{ReceiptFile, StageRecord};

/// The result of an audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every receipt says what an honest stage computes.
    Verified {
        /// Receipts checked.
        receipts: usize,
        /// Tokens re-executed.
        tokens: usize,
    },
    /// A stage signed something else.
    Fault(Fault),
}

/// What a stage did wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Index of the stage.
    pub stage: usize,
    /// Who signed.
    pub node: NodeId,
    /// First token of the span.
    pub first_token: u32,
    /// One past the last token of the span.
    pub end_token: u32,
    /// Which statement is wrong.
    pub what: What,
    /// The exact place, where leaves were served.
    pub located: Option<Located>,
}

/// The statement that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// The root over what left the stage.
    OutRoot,
    /// The root over KV cache and trace.
    StateRoot,
    /// The leaves that were served are not those that the receipt commits to.
    ServedLeaves,
    /// The last stage signed a token that is not the one that the model and the seed give.
    Token,
    /// The commitment for proofs is not to the rows that left the stage.
    Commitment,
}

/// One differing value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Token, layer and op.
    pub place: Place,
    /// Index of the first differing element in the op's output.
    pub row: usize,
    /// Its bytes as served.
    pub got: Vec<u8>,
    /// Its bytes as re-executed.
    pub expected: Vec<u8>,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            What::OutRoot => "out root",
            What::StateRoot => "root of KV cache and trace",
            What::ServedLeaves => "served leaves (they are not those of the receipt)",
            What::Token => "sampled token",
            What::Commitment => "commitment to what left it",
        })
    }
}

/// Why a file cannot be audited at all.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditError {
    /// Receipts of another model.
    #[error("the receipts are for model {got}, expected {expected}")]
    Model {
        /// Root in the file.
        got: Digest,
        /// Root of the bundle.
        expected: Digest,
    },
    /// Receipts of an answer under another adapter, or under one where none is at hand.
    #[error(
        "the receipts were signed under {}, expected {}",
        named(.got),
        named(.expected)
    )]
    Adapter {
        /// Root that the receipts name, zero without.
        got: Digest,
        /// Root of the adapter at hand, zero without.
        expected: Digest,
    },
    /// The stages are no route.
    #[error(transparent)]
    Route(#[from] PartError),
    /// Parameters that no sampler takes.
    #[error(transparent)]
    Parameters(#[from] ParametersError),
    /// No answer, or no prompt.
    #[error("{tokens} tokens of which {prompt} are the prompt, expected at least one of each")]
    Tokens {
        /// All tokens.
        tokens: usize,
        /// Tokens of the prompt.
        prompt: u32,
    },
    /// A receipt does not say what its place in the file says.
    #[error("stage {stage}, receipt {index}: {field} is {got}, expected {expected}")]
    Receipt {
        /// Index of the stage.
        stage: usize,
        /// Index of the receipt.
        index: usize,
        /// Which field.
        field: &'static str,
        /// Its value.
        got: String,
        /// What it should be.
        expected: String,
    },
    /// What a node signed whose place another one took is not what that one signed.
    #[error("receipt {index} of {node}, whose place was taken: {field} is {got}, expected {expected}")]
    Earlier {
        /// Who signed.
        node: NodeId,
        /// Index of the receipt.
        index: usize,
        /// Which field.
        field: &'static str,
        /// Its value.
        got: String,
        /// What it should be.
        expected: String,
    },
    /// More positions than the model has.
    #[error("{got} positions, expected at most {context}, the context of the model")]
    Context {
        /// Positions of the answer.
        got: usize,
        /// The model's longest sequence.
        context: u32,
    },
    /// A token that the model does not have.
    #[error("token {got} at position {position}, expected below {vocab}")]
    Token {
        /// The token.
        got: u32,
        /// Its position.
        position: usize,
        /// Size of the vocabulary.
        vocab: u32,
    },
    /// The signed roots are not those of this file's tokens and secret, or not of one chain. No
    /// gateway takes such receipts: whoever made the file changed it, and no stage is convicted.
    #[error(
        "stage {stage}, tokens {first_token}..{end_token}: the signed {root} root is {got}, expected {expected}, that of {of}; whoever made this file changed it"
    )]
    Chain {
        /// Index of the stage.
        stage: usize,
        /// First token of the span.
        first_token: u32,
        /// One past the last token of the span.
        end_token: u32,
        /// "in" or "out".
        root: &'static str,
        /// The signed root.
        got: Digest,
        /// The root that would chain.
        expected: Digest,
        /// What it is the root of.
        of: &'static str,
    },
    /// Receipts with commitments, and nobody here who can compute them.
    #[error("the receipts carry commitments for proofs, expected none: they cannot be checked here")]
    Commitments,
    /// The model refuses the tokens.
    #[error("re-execution failed: {0}")]
    Forward(#[from] ForwardError),
}

/// The adapter that the receipts of a file name; zero without, or without receipts.
#[must_use]
pub fn adapter_of(file: &ReceiptFile) -> Digest {
    let first = file.stages.first().and_then(|record| record.receipts.first());
    first.map_or(Digest::ZERO, |signed| signed.receipt.adapters)
}

/// Audits `file` against the model with root `model_root`, all of whose weights `engine` holds.
/// `progress` is called with (tokens done, tokens in all).
///
/// # Errors
/// [`AuditError`] where the file is not a consistent set of receipts of this model, without an adapter.
pub fn audit(
    file: &ReceiptFile,
    model_root: &Digest,
    engine: &Engine,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Verdict, AuditError> {
    audit_adapted(file, model_root, engine, None, progress)
}

/// The commitment to residual rows, `(positions, d_model)`, that provable receipts carry (docs/spec/proofs.md, 1): this crate does not know its protocol.
pub type Commit<'a> = &'a dyn Fn(&[i32]) -> Digest;

/// The same for an answer under an adapter, which holds all layers and fits the model
/// (`AdapterWeights::check_fits`).
///
/// # Errors
/// As [`audit`], and where the receipts were not signed under exactly this adapter.
pub fn audit_adapted(
    file: &ReceiptFile,
    model_root: &Digest,
    engine: &Engine,
    adapter: Option<&Arc<AdapterWeights>>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Verdict, AuditError> {
    audit_committed(file, model_root, engine, (adapter, None), progress)
}

/// The same of receipts that may be provable, by whoever can `commit` to rows.
///
/// # Errors
/// As [`audit_adapted`], and where receipts carry commitments and there is no `commit`.
pub fn audit_committed(
    file: &ReceiptFile,
    model_root: &Digest,
    engine: &Engine,
    (adapter, commit): (Option<&Arc<AdapterWeights>>, Option<Commit<'_>>),
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Verdict, AuditError> {
    let (got, expected) = (adapter_of(file), adapter.map_or(Digest::ZERO, |adapter| adapter.root));
    let positions = check_statements(file, model_root, engine)?;
    if got != expected {
        return Err(AuditError::Adapter { got, expected });
    }
    chain::check(file, positions)?;
    earlier::check(file)?;
    let commit = match (provable(file), commit) {
        (true, None) => return Err(AuditError::Commitments),
        (provable, commit) => commit.filter(|_| provable),
    };
    // What left each stage, where it was committed to.
    let mut left: Vec<Vec<i32>> = vec![Vec::new(); file.stages.len()];
    let stages = file.stages.iter().enumerate();
    let mut runs: Vec<StageRun> =
        stages.map(|(stage, record)| start(file, engine, adapter, stage, record)).collect();
    let receipts = file.stages.iter().map(|record| record.receipts.len()).sum();
    for index in 0..file.stages[0].receipts.len() {
        let first = index as u32 * SPAN_TOKENS;
        let span = first..positions.min(first + SPAN_TOKENS);
        let mut keep = |stage: usize, rows: &[i32]| {
            if commit.is_some() {
                left[stage].extend_from_slice(rows);
            }
        };
        if let Some(fault) = audit_span(file, &mut runs, index, span.clone(), &mut keep)? {
            return Ok(Verdict::Fault(fault));
        }
        progress(span.end as usize, positions as usize);
    }
    let fault = commit.and_then(|commit| wrong_commitment(file, &left, commit));
    Ok(fault.map_or(Verdict::Verified { receipts, tokens: positions as usize }, Verdict::Fault))
}

/// Whether the closing receipts of a file carry commitments.
fn provable(file: &ReceiptFile) -> bool {
    let closing = file.stages.first().and_then(|record| record.receipts.last());
    closing.is_some_and(|signed| signed.receipt.provable())
}

/// The first stage that committed to other rows than left it. What entered a stage is what the one before committed to: that was checked.
fn wrong_commitment(file: &ReceiptFile, left: &[Vec<i32>], commit: Commit<'_>) -> Option<Fault> {
    let stages = file.stages.iter().zip(left).enumerate().take(file.stages.len() - 1);
    stages.into_iter().find_map(|(stage, (record, rows))| {
        let receipt = &record.receipts.last()?.receipt;
        (receipt.commit_out != commit(rows)).then(|| Fault {
            stage,
            node: record.node,
            first_token: receipt.first_token,
            end_token: receipt.end_token(),
            what: What::Commitment,
            located: None,
        })
    })
}

fn start(
    file: &ReceiptFile,
    engine: &Engine,
    adapter: Option<&Arc<AdapterWeights>>,
    stage: usize,
    record: &StageRecord,
) -> StageRun {
    // All receipts of a stage have the same mode: that was checked.
    let full = record.receipts.iter().any(|r| r.receipt.flags & FLAG_FULL_TRACE != 0);
    let task = Task {
        secrets: file.secret.stage(stage as u16),
        parameters: file.parameters.clone(),
        sampler_seed: file.sampler_seed,
        mode: if full { TraceMode::Full } else { TraceMode::Boundary },
        keep_leaves: false,
        top_logprobs: None,
        adapter: adapter.cloned(),
    };
    let weights = engine.weights.restrict(&record.part);
    StageRun::new(Engine::new(Arc::new(weights), engine.compute.clone()), record.part, task)
}

/// Everything that can be checked without computing: the number of positions, if all is well.
fn check_statements(file: &ReceiptFile, model_root: &Digest, engine: &Engine) -> Result<u32, AuditError> {
    if file.model_root != *model_root {
        return Err(AuditError::Model { got: file.model_root, expected: *model_root });
    }
    let parts: Vec<Part> = file.stages.iter().map(|record| record.part).collect();
    Part::check_route(&parts, engine.weights.config.n_layers)?;
    if file.prompt_tokens == 0 || file.tokens.len() <= file.prompt_tokens as usize {
        return Err(AuditError::Tokens { tokens: file.tokens.len(), prompt: file.prompt_tokens });
    }
    file.parameters.validate()?;
    let config = &engine.weights.config;
    if file.tokens.len() - 1 > config.context as usize {
        return Err(AuditError::Context { got: file.tokens.len() - 1, context: config.context });
    }
    if let Some(position) = file.tokens.iter().position(|token| *token >= config.vocab) {
        let got = file.tokens[position];
        return Err(AuditError::Token { got, position, vocab: config.vocab });
    }
    // The last token was sampled and not fed back.
    let positions = (file.tokens.len() - 1) as u32;
    for (stage, record) in file.stages.iter().enumerate() {
        let count = positions as usize / SPAN_TOKENS as usize + 1;
        if record.receipts.len() != count {
            return Err(field(stage, 0, "number of receipts", &record.receipts.len(), &count));
        }
        let mut previous = Digest::ZERO;
        for (index, signed) in record.receipts.iter().enumerate() {
            let last = index + 1 == count;
            check_receipt(file, stage, index, last, positions, &previous, &signed.receipt)?;
            if signed.signer() != Some(record.node) {
                let got = signed.signer().map_or("nobody's".into(), |id| alloc::format!("{id}"));
                return Err(field(stage, index, "signature", &got, &record.node));
            }
            previous = signed.receipt.struct_hash();
        }
    }
    Ok(positions)
}

fn check_receipt(
    file: &ReceiptFile,
    stage: usize,
    index: usize,
    last: bool,
    positions: u32,
    previous: &Digest,
    receipt: &Receipt,
) -> Result<(), AuditError> {
    let first = index as u32 * SPAN_TOKENS;
    let count = if last { positions - first } else { SPAN_TOKENS };
    let opset = lockstep_base::config::OPSET;
    let first_receipt = &file.stages[stage].receipts[0].receipt;
    let with_commitments = if provable(file) { FLAG_PROVABLE } else { 0 };
    let flags =
        (first_receipt.flags & FLAG_FULL_TRACE) | if last { FLAG_CLOSING | with_commitments } else { 0 };
    let (audit_class, adapter) = (file.stages[0].receipts[0].receipt.audit_class, adapter_of(file));
    let entered = entering_commitment(file, stage, receipt);
    let leaves = receipt.provable() && stage + 1 < file.stages.len();
    let checks: [(&'static str, bool, String, String); 18] = [
        ("task", receipt.task == file.task, text(&receipt.task), text(&file.task)),
        (
            "model root",
            receipt.model_root == file.model_root,
            text(&receipt.model_root),
            text(&file.model_root),
        ),
        ("opset", receipt.opset == opset, alloc::format!("{:?}", receipt.opset), opset.into()),
        (
            "part",
            receipt.part == file.stages[stage].part,
            text(&receipt.part),
            text(&file.stages[stage].part),
        ),
        ("stage", usize::from(receipt.stage) == stage, text(&receipt.stage), text(&stage)),
        ("first token", receipt.first_token == first, text(&receipt.first_token), text(&first)),
        ("token count", receipt.token_count == count, text(&receipt.token_count), text(&count)),
        (
            "parameters",
            receipt.parameters == file.parameters.digest(),
            text(&receipt.parameters),
            text(&file.parameters.digest()),
        ),
        (
            "sampler seed",
            receipt.sampler_seed == file.sampler_seed,
            text(&receipt.sampler_seed),
            text(&file.sampler_seed),
        ),
        ("masks", receipt.masks == Digest::ZERO, "set".into(), "none".into()),
        ("adapter", receipt.adapters == adapter, named(&receipt.adapters), named(&adapter)),
        ("code", receipt.code == Digest::ZERO, "set".into(), "none: this version cannot check it".into()),
        (
            "commitment to what entered",
            receipt.commit_in == entered,
            text(&receipt.commit_in),
            text(&entered),
        ),
        (
            "commitment to what left",
            (receipt.commit_out != Digest::ZERO) == leaves,
            text(&receipt.commit_out),
            if leaves { "one" } else { "none" }.into(),
        ),
        ("audit class", receipt.audit_class == audit_class, text(&receipt.audit_class), text(&audit_class)),
        ("previous receipt", receipt.previous == *previous, text(&receipt.previous), text(previous)),
        ("closing flag", receipt.closing() == last, text(&receipt.closing()), text(&last)),
        (
            "flags",
            receipt.flags == flags,
            alloc::format!("{:#04x}", receipt.flags),
            alloc::format!("{flags:#04x}"),
        ),
    ];
    match checks.into_iter().find(|check| !check.1) {
        Some((name, _, got, expected)) => {
            Err(AuditError::Receipt { stage, index, field: name, got, expected })
        }
        None => Ok(()),
    }
}

/// What a receipt should say that entered its stage: what left the one before; nothing without commitments.
fn entering_commitment(file: &ReceiptFile, stage: usize, receipt: &Receipt) -> Digest {
    let before = stage.checked_sub(1).filter(|_| receipt.provable());
    let closing = before.and_then(|before| file.stages[before].receipts.last());
    closing.map_or(Digest::ZERO, |signed| signed.receipt.commit_out)
}

/// An adapter for people.
fn named(adapter: &Digest) -> String {
    if *adapter == Digest::ZERO { "no adapter".into() } else { alloc::format!("adapter {adapter}") }
}

fn text(value: &dyn fmt::Display) -> String {
    alloc::format!("{value}")
}

fn field(
    stage: usize,
    index: usize,
    field: &'static str,
    got: &dyn fmt::Display,
    expected: &dyn fmt::Display,
) -> AuditError {
    AuditError::Receipt { stage, index, field, got: text(got), expected: text(expected) }
}

/// Re-executes one span through all stages; the first fault, if there is one. What enters a stage
/// is what it signed: its in root chains, and the stage before was found right.
fn audit_span(
    file: &ReceiptFile,
    runs: &mut [StageRun],
    index: usize,
    span: Range<u32>,
    keep: &mut dyn FnMut(usize, &[i32]),
) -> Result<Option<Fault>, AuditError> {
    let tokens = &file.tokens[span.start as usize..span.end as usize];
    let mut rows: Vec<i32> = Vec::new();
    for (stage, run) in runs.iter_mut().enumerate() {
        let record = &file.stages[stage];
        let receipt = &record.receipts[index].receipt;
        let input = if run.part().embed { StepInput::Tokens(tokens) } else { StepInput::Rows(&rows) };
        let before = run.checkpoint();
        let output = if span.is_empty() {
            StepOutput::Rows(Vec::new())
        } else {
            run.step(input, file.prompt_tokens - 1, &mut Silent)?
        };
        let summary = run.close_span(span.clone());
        let fault = |what, located| Fault {
            stage,
            node: record.node,
            first_token: span.start,
            end_token: span.end,
            what,
            located,
        };
        if receipt.state_root != state_root(&summary.kv_root, &summary.trace_root) {
            let mut served =
                record.served.iter().filter(|served| served.first_token == span.start).peekable();
            if served.peek().is_none() {
                return Ok(Some(fault(What::StateRoot, None)));
            }
            let secret = file.secret.stage(stage as u16).own;
            let Some(served) = served.find(|served| {
                leaves::lead_to(&served.leaves, &secret, before.kv_accumulator(), &span, &receipt.state_root)
            }) else {
                return Ok(Some(fault(What::ServedLeaves, None)));
            };
            let honest = leaves::honest(run, before, input, &span, file.prompt_tokens - 1)?;
            return Ok(Some(fault(What::StateRoot, leaves::first_difference(&served.leaves, &honest))));
        }
        if receipt.out_root != summary.out_root {
            let wrong = match &output {
                StepOutput::Rows(_) => None,
                StepOutput::Sampled(sampled) => wrong_token(file, sampled),
            };
            let what = if wrong.is_some() { What::Token } else { What::OutRoot };
            return Ok(Some(fault(what, wrong)));
        }
        if let StepOutput::Rows(next) = output {
            keep(stage, &next);
            rows = next;
        }
    }
    Ok(None)
}

/// The first token of the answer (which the last stage signed) that is not the sampled one.
fn wrong_token(file: &ReceiptFile, sampled: &[Sampled]) -> Option<Located> {
    sampled.iter().find_map(|sampled| {
        let got = file.tokens[sampled.position as usize + 1];
        let layer = lockstep_base::op::LAYER_HEAD;
        (got != sampled.token).then(|| Located {
            place: Place { position: sampled.position, layer, op: Op::Sample },
            row: 0,
            got: got.to_le_bytes().to_vec(),
            expected: sampled.token.to_le_bytes().to_vec(),
        })
    })
}
