//! Re-execution of a receipt file: "verified", or exactly where it differs.
//!
//! The auditor needs the bundle's weights and the file, nothing else. Span by span and stage by
//! stage it computes what an honest stage would have signed and compares 32-byte roots. At the
//! first difference it names the stage and the span; where the file holds that span's leaves it
//! goes on to the token, layer, op and row.

use crate::forward::{Engine, ForwardError};
use crate::observe::Silent;
use crate::stage::{Checkpoint, Sampled, SpanSummary, StageRun, StepInput, StepOutput, Task};
use crate::trace::TraceMode;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use lockstep_base::leaf;
use lockstep_base::limits::{LEAF_BYTES_MAX, SPAN_TOKENS};
use lockstep_base::merkle::{self, Accumulator};
use lockstep_base::op::{Op, Place};
use lockstep_base::params::ParametersError;
use lockstep_base::part::{Part, PartError};
use lockstep_base::receipt::{FLAG_FULL_TRACE, Receipt, state_root};
use lockstep_base::receipt_file::{ReceiptFile, ServedLeaf, StageRecord};

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
    /// The root over what entered the stage.
    InRoot,
    /// The root over what left the stage.
    OutRoot,
    /// The root over KV cache and trace.
    StateRoot,
    /// The leaves that were served are not those that the receipt commits to.
    ServedLeaves,
    /// A token of the answer is not the one that the model and the seed give.
    Token,
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
            What::InRoot => "in root",
            What::OutRoot => "out root",
            What::StateRoot => "root of KV cache and trace",
            What::ServedLeaves => "served leaves (they are not those of the receipt)",
            What::Token => "sampled token",
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
    /// The model refuses the tokens.
    #[error("re-execution failed: {0}")]
    Forward(#[from] ForwardError),
}

/// Audits `file` against the model with root `model_root`, all of whose weights `engine` holds.
/// `progress` is called with (tokens done, tokens in all).
///
/// # Errors
/// [`AuditError`] where the file is not a consistent set of receipts of this model.
pub fn audit(
    file: &ReceiptFile,
    model_root: &Digest,
    engine: &Engine,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Verdict, AuditError> {
    let positions = check_statements(file, model_root, engine)?;
    let mut runs: Vec<StageRun> =
        file.stages.iter().enumerate().map(|(stage, record)| start(file, engine, stage, record)).collect();
    let receipts = file.stages.iter().map(|record| record.receipts.len()).sum();
    for index in 0..file.stages[0].receipts.len() {
        let first = index as u32 * SPAN_TOKENS;
        let span = first..positions.min(first + SPAN_TOKENS);
        if let Some(fault) = audit_span(file, &mut runs, index, span.clone())? {
            return Ok(Verdict::Fault(fault));
        }
        progress(span.end as usize, positions as usize);
    }
    Ok(Verdict::Verified { receipts, tokens: positions as usize })
}

fn start(file: &ReceiptFile, engine: &Engine, stage: usize, record: &StageRecord) -> StageRun {
    let full = record.receipts.iter().any(|r| r.receipt.flags & FLAG_FULL_TRACE != 0);
    let task = Task {
        secrets: file.secret.stage(stage as u16),
        parameters: file.parameters.clone(),
        sampler_seed: file.sampler_seed,
        mode: if full { TraceMode::Full } else { TraceMode::Boundary },
        keep_leaves: false,
        top_logprobs: None,
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
    let checks: [(&'static str, bool, String, String); 12] = [
        ("task", receipt.task == file.task, text(&receipt.task), text(&file.task)),
        (
            "model root",
            receipt.model_root == file.model_root,
            text(&receipt.model_root),
            text(&file.model_root),
        ),
        ("opset", receipt.opset == opset, receipt.opset.clone(), opset.into()),
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
        (
            "masks and adapters",
            receipt.masks == Digest::ZERO && receipt.adapters == Digest::ZERO,
            "set".into(),
            "none".into(),
        ),
        ("previous receipt", receipt.previous == *previous, text(&receipt.previous), text(previous)),
        ("closing flag", receipt.closing() == last, text(&receipt.closing()), text(&last)),
    ];
    match checks.into_iter().find(|check| !check.1) {
        Some((name, _, got, expected)) => {
            Err(AuditError::Receipt { stage, index, field: name, got, expected })
        }
        None => Ok(()),
    }
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

/// Re-executes one span through all stages; the first fault, if there is one.
fn audit_span(
    file: &ReceiptFile,
    runs: &mut [StageRun],
    index: usize,
    span: Range<u32>,
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
        if receipt.in_root != summary.in_root {
            return Ok(Some(fault(What::InRoot, None)));
        }
        let state_differs = receipt.state_root != state_root(&summary.kv_root, &summary.trace_root);
        let out_differs = receipt.out_root != summary.out_root;
        if state_differs || out_differs {
            let what = if state_differs { What::StateRoot } else { What::OutRoot };
            let served = record.served.iter().find(|served| served.first_token == span.start);
            let Some(served) = served else { return Ok(Some(fault(what, None))) };
            if !served_match(&served.leaves, &before, receipt, &span, file, stage) {
                return Ok(Some(fault(What::ServedLeaves, None)));
            }
            let honest = honest_leaves(run, before, input, &span, file.prompt_tokens - 1)?;
            return Ok(Some(fault(what, first_difference(&served.leaves, &honest.leaves))));
        }
        match output {
            StepOutput::Rows(next) => rows = next,
            StepOutput::Sampled(sampled) => {
                if let Some((position, got, expected)) = wrong_token(file, &sampled) {
                    let place = Place { position, layer: lockstep_base::op::LAYER_HEAD, op: Op::Sample };
                    let located = Located {
                        place,
                        row: 0,
                        got: got.to_le_bytes().to_vec(),
                        expected: expected.to_le_bytes().to_vec(),
                    };
                    return Ok(Some(fault(What::Token, Some(located))));
                }
            }
        }
    }
    Ok(None)
}

fn wrong_token(file: &ReceiptFile, sampled: &[Sampled]) -> Option<(u32, u32, u32)> {
    sampled.iter().find_map(|s| {
        let got = file.tokens[s.position as usize + 1];
        (got != s.token).then_some((s.position, got, s.token))
    })
}

/// The same span again, keeping the bytes under its leaves.
fn honest_leaves(
    run: &mut StageRun,
    before: Checkpoint,
    input: StepInput<'_>,
    span: &Range<u32>,
    sample_from: u32,
) -> Result<SpanSummary, AuditError> {
    run.restore(before);
    run.keep_leaves(true);
    if !span.is_empty() {
        run.step(input, sample_from, &mut Silent)?;
    }
    Ok(run.close_span(span.clone()))
}

/// Whether the served leaves hash to the state root that the receipt commits to.
fn served_match(
    served: &[ServedLeaf],
    before: &Checkpoint,
    receipt: &Receipt,
    span: &Range<u32>,
    file: &ReceiptFile,
    stage: usize,
) -> bool {
    let secret = file.secret.stage(stage as u16).own;
    let mut kv = before.kv_accumulator().clone();
    let mut trace = Accumulator::default();
    let mut rest = served;
    for position in span.clone() {
        let count = rest.iter().take_while(|leaf| leaf.position == position).count();
        let (here, after) = rest.split_at(count);
        rest = after;
        let mut kv_leaves = Vec::new();
        for served in here {
            let Some(index) = served.index() else { return false };
            if served.bytes.len() > LEAF_BYTES_MAX {
                return false;
            }
            let hash = leaf::leaf_hash(&secret, &index, &served.bytes);
            match index.place.op {
                Op::KCodes | Op::VCodes => kv_leaves.push(hash),
                _ => trace.push(hash),
            }
        }
        kv.push(merkle::root(&kv_leaves));
    }
    rest.is_empty() && receipt.state_root == state_root(&kv.root(), &trace.root())
}

/// The first place where two lists of leaves of the same span differ.
fn first_difference(served: &[ServedLeaf], honest: &[ServedLeaf]) -> Option<Located> {
    let (got, expected) = served.iter().zip(honest).find(|(got, expected)| got != expected)?;
    let place = expected.index()?.place;
    let size = place.op.output().element_bytes();
    let first = got.bytes.iter().zip(&expected.bytes).position(|(a, b)| a != b).unwrap_or(0) / size;
    let element = |bytes: &[u8]| bytes.chunks(size).nth(first).map(<[u8]>::to_vec).unwrap_or_default();
    Some(Located {
        place,
        row: expected.chunk as usize * LEAF_BYTES_MAX / size + first,
        got: element(&got.bytes),
        expected: element(&expected.bytes),
    })
}
