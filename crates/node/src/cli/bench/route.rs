//! A route of stages in one process, with everything that receipts cost: hashing, trees, signatures.

use super::{Times, Trace, run_timed};
use crate::p2p::random_key;
use lockstep_base::Digest;
use lockstep_base::config::OPSET;
use lockstep_base::keys::NodeKey;
use lockstep_base::leaf::TaskSecret;
use lockstep_base::limits::SPAN_TOKENS;
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::receipt::{FLAG_FULL_TRACE, Receipt, SignedReceipt, state_root};
use lockstep_runtime::forward::{Engine, ForwardError};
use lockstep_runtime::observe::Silent;
use lockstep_runtime::stage::{StageRun, StepInput, StepOutput, Task};
use lockstep_runtime::trace::TraceMode;
use std::sync::Arc;

/// A route in one process: every stage hashes and signs as a node does.
pub(super) struct Stages {
    stages: Vec<(Part, Engine, NodeKey)>,
    mode: TraceMode,
}

impl Stages {
    pub(super) fn new(engine: &Engine, trace: Trace, count: u32) -> Stages {
        let stage = |part: Part| {
            let weights = Arc::new(engine.weights.restrict(&part));
            (part, Engine::new(weights, engine.compute.clone()), random_key())
        };
        let stages = Part::split(engine.weights.config.n_layers, count).into_iter().map(stage).collect();
        Stages { stages, mode: if trace == Trace::Full { TraceMode::Full } else { TraceMode::Boundary } }
    }

    /// The answer, and the receipts that were signed.
    pub(super) fn run(
        &self,
        prompt: &[u32],
        generate: usize,
        times: &mut Times,
    ) -> Result<(Vec<u32>, usize), ForwardError> {
        let parameters = Parameters::greedy(generate as u32);
        let secret = TaskSecret(Digest::of(&[b"bench"]).0);
        let mut route: Vec<Signer<'_>> = (0u16..)
            .zip(&self.stages)
            .map(|(index, stage)| Signer::new(index, stage, self.mode, &secret, &parameters))
            .collect();
        let sample_from = prompt.len() as u32 - 1;
        let answer =
            run_timed(prompt, generate, times, &mut |tokens, _| step(&mut route, tokens, sample_from))?;
        Ok((answer, route.iter().map(|signer| signer.receipts.len()).sum()))
    }
}

/// One step through all stages; the sampled token, if one was.
fn step(route: &mut [Signer<'_>], tokens: &[u32], sample_from: u32) -> Result<u32, ForwardError> {
    let mut rows = Vec::new();
    for signer in route {
        let input = if signer.run.part().embed { StepInput::Tokens(tokens) } else { StepInput::Rows(&rows) };
        let output = signer.run.step(input, sample_from, &mut Silent)?;
        signer.sign_spans();
        match output {
            StepOutput::Rows(next) => rows = next,
            StepOutput::Sampled(sampled) => return Ok(sampled.last().map_or(0, |last| last.token)),
        }
    }
    Ok(0)
}

/// A stage that signs each span of 32 tokens when it is full.
struct Signer<'a> {
    run: StageRun,
    key: &'a NodeKey,
    blank: Receipt,
    closed: u32,
    receipts: Vec<SignedReceipt>,
}

impl<'a> Signer<'a> {
    fn new(
        index: u16,
        stage: &'a (Part, Engine, NodeKey),
        mode: TraceMode,
        secret: &TaskSecret,
        parameters: &Parameters,
    ) -> Signer<'a> {
        let (part, engine, key) = stage;
        let task = Task {
            secrets: secret.stage(index),
            parameters: parameters.clone(),
            sampler_seed: Digest::ZERO,
            mode,
            keep_leaves: false,
            top_logprobs: None,
            adapter: None,
        };
        let blank = Receipt {
            task: Digest::of(&[b"bench task"]),
            model_root: Digest::ZERO,
            opset: OPSET.into(),
            part: *part,
            stage: index,
            first_token: 0,
            token_count: 0,
            parameters: parameters.digest(),
            masks: Digest::ZERO,
            adapters: Digest::ZERO,
            sampler_seed: Digest::ZERO,
            in_root: Digest::ZERO,
            out_root: Digest::ZERO,
            state_root: Digest::ZERO,
            code: Digest::ZERO,
            previous: Digest::ZERO,
            audit_class: Digest::ZERO,
            flags: if mode == TraceMode::Full { FLAG_FULL_TRACE } else { 0 },
            commit_in: Digest::ZERO,
            commit_out: Digest::ZERO,
        };
        Signer {
            run: StageRun::new(engine.clone(), *part, task),
            key,
            blank,
            closed: 0,
            receipts: Vec::new(),
        }
    }

    fn sign_spans(&mut self) {
        while self.run.position() - self.closed >= SPAN_TOKENS {
            let span = self.closed..self.closed + SPAN_TOKENS;
            let roots = self.run.close_span(span.clone());
            self.receipts.push(
                Receipt {
                    first_token: span.start,
                    token_count: SPAN_TOKENS,
                    in_root: roots.in_root,
                    out_root: roots.out_root,
                    state_root: state_root(&roots.kv_root, &roots.trace_root),
                    previous: self.receipts.last().map_or(Digest::ZERO, |last| last.receipt.struct_hash()),
                    ..self.blank.clone()
                }
                .sign(self.key),
            );
            self.closed = span.end;
        }
    }
}
