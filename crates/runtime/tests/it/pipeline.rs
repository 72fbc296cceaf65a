//! A pipeline of stages in one process: what nodes and gateway do together, without a network.

use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::config::{ModelConfig, OPSET};
use lockstep_base::keys::NodeKey;
use lockstep_base::leaf::TaskSecret;
use lockstep_base::limits::SPAN_TOKENS;
use lockstep_base::params::{Parameters, client_seed};
use lockstep_base::part::Part;
use lockstep_base::receipt::{FLAG_CLOSING, FLAG_FULL_TRACE, RECEIPT_VERSION, Receipt, state_root};
use lockstep_base::receipt_file::{ReceiptFile, ServedSpan, StageRecord};
use lockstep_base::weights::{ModelWeights, WeightFormat};
use lockstep_runtime::drill::{Drill, Strike};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::{Compute, Kernel};
use lockstep_runtime::observe::{Observer, Silent};
use lockstep_runtime::pool::Pool;
use lockstep_runtime::stage::{StageRun, StepInput, StepOutput, Task};
use lockstep_runtime::synthetic;
use lockstep_runtime::trace::TraceMode;
use std::sync::Arc;

pub(crate) const MODEL_ROOT: Digest = Digest([7; 32]);

pub(crate) fn engine(config: &ModelConfig, format: WeightFormat, kernel: Kernel, threads: usize) -> Engine {
    let weights = synthetic::model(config, format, 42);
    engine_over(weights, kernel, threads)
}

pub(crate) fn engine_over(weights: ModelWeights, kernel: Kernel, threads: usize) -> Engine {
    Engine::new(Arc::new(weights), Arc::new(Compute { kernel, pool: Pool::new(threads) }))
}

/// How an answer is made.
pub(crate) struct Job {
    pub(crate) prompt: Vec<u32>,
    pub(crate) parameters: Parameters,
    pub(crate) seed: u64,
    pub(crate) mode: TraceMode,
    pub(crate) stages: u32,
    /// Positions of the prompt taken in one step.
    pub(crate) chunk: usize,
    /// The adapter of the answer.
    pub(crate) adapter: Option<Arc<AdapterWeights>>,
    /// A lie of one stage.
    pub(crate) drill: Option<(usize, Drill)>,
}

impl Job {
    pub(crate) fn new(prompt: &[u32], tokens: u32, stages: u32) -> Job {
        Job {
            prompt: prompt.to_vec(),
            parameters: Parameters { temperature_q16: 1 << 16, ..Parameters::greedy(tokens) },
            seed: 3,
            mode: TraceMode::Full,
            stages,
            chunk: 32,
            adapter: None,
            drill: None,
        }
    }
}

pub(crate) fn key(stage: usize) -> NodeKey {
    NodeKey::from_bytes(&[stage as u8 + 1; 32]).expect("a secret key")
}

/// Runs `job`: the receipt file with all leaves served, and where the drill struck.
pub(crate) fn answer(engine: &Engine, job: Job) -> (ReceiptFile, Option<Strike>) {
    let parts = Part::split(engine.weights.config.n_layers, job.stages);
    let secret = TaskSecret([9; 32]);
    let sampler_seed = client_seed(job.seed, 0);
    let adapter = job.adapter.as_ref().map_or(Digest::ZERO, |adapter| adapter.root);
    let mut runs: Vec<StageRun> = parts
        .iter()
        .enumerate()
        .map(|(stage, part)| {
            let weights = Arc::new(engine.weights.restrict(part));
            let task = Task {
                secrets: secret.stage(stage as u16),
                parameters: job.parameters.clone(),
                sampler_seed,
                mode: job.mode,
                keep_leaves: true,
                top_logprobs: None,
                adapter: job.adapter.clone(),
            };
            StageRun::new(Engine::new(weights, engine.compute.clone()), *part, task)
        })
        .collect();
    let mut file = ReceiptFile {
        version: RECEIPT_VERSION,
        model_root: MODEL_ROOT,
        task: Digest([1; 32]),
        secret,
        parameters: job.parameters.clone(),
        sampler_seed,
        prompt_tokens: job.prompt.len() as u32,
        tokens: job.prompt.clone(),
        stages: parts
            .iter()
            .enumerate()
            .map(|(stage, part)| StageRecord {
                part: *part,
                node: key(stage).id(),
                receipts: vec![],
                served: vec![],
            })
            .collect(),
        earlier: None,
    };
    let (liar, mut drill) = match job.drill {
        Some((stage, drill)) => (stage, Some(drill)),
        None => (usize::MAX, None),
    };
    let sample_from = file.prompt_tokens - 1;
    let mut done = 0usize;
    loop {
        // Steps end at span borders, so that spans close in order.
        let prompt_left = job.prompt.len().saturating_sub(done);
        let border = SPAN_TOKENS as usize - done % SPAN_TOKENS as usize;
        let count = prompt_left.max(1).min(job.chunk).min(border);
        let mut rows = Vec::new();
        for (stage, run) in runs.iter_mut().enumerate() {
            let tokens = &file.tokens[done..done + count];
            let input = if stage == 0 { StepInput::Tokens(tokens) } else { StepInput::Rows(&rows) };
            let mut honest = Silent;
            let output = match &mut drill {
                Some(drill) if stage == liar => run.step(input, sample_from, drill),
                _ => run.step(input, sample_from, &mut honest),
            };
            match output.expect("the model is in range") {
                StepOutput::Rows(next) => rows = next,
                StepOutput::Sampled(sampled) => file.tokens.extend(sampled.iter().map(|s| s.token)),
            }
        }
        done += count;
        let answered = file.tokens.len() - job.prompt.len();
        let last = answered >= job.parameters.max_tokens as usize;
        if done.is_multiple_of(SPAN_TOKENS as usize) {
            sign(&mut file, &mut runs, done as u32, (false, job.mode), adapter);
        }
        if last {
            sign(&mut file, &mut runs, done as u32, (true, job.mode), adapter);
            return (file, drill.and_then(|drill| drill.struck()));
        }
    }
}

fn sign(
    file: &mut ReceiptFile,
    runs: &mut [StageRun],
    end: u32,
    (closing, mode): (bool, TraceMode),
    adapter: Digest,
) {
    for (stage, run) in runs.iter_mut().enumerate() {
        let record = &mut file.stages[stage];
        let first = record.receipts.len() as u32 * SPAN_TOKENS;
        let summary = run.close_span(first..end);
        let full = if mode == TraceMode::Full { FLAG_FULL_TRACE } else { 0 };
        let receipt = Receipt {
            task: file.task,
            model_root: file.model_root,
            opset: OPSET.into(),
            part: record.part,
            stage: stage as u16,
            first_token: first,
            token_count: end - first,
            parameters: file.parameters.digest(),
            masks: Digest::ZERO,
            adapters: adapter,
            sampler_seed: file.sampler_seed,
            in_root: summary.in_root,
            out_root: summary.out_root,
            state_root: state_root(&summary.kv_root, &summary.trace_root),
            code: Digest::ZERO,
            previous: record.receipts.last().map_or(Digest::ZERO, |last| last.receipt.struct_hash()),
            audit_class: Digest::ZERO,
            flags: full | if closing { FLAG_CLOSING } else { 0 },
            commit_in: Digest::ZERO,
            commit_out: Digest::ZERO,
        };
        record.receipts.push(receipt.sign(&key(stage)));
        record.served.push(ServedSpan { first_token: first, leaves: summary.leaves });
    }
}

/// Logits of `tokens`, cut into steps of the given sizes.
pub(crate) fn logits<O: Observer>(
    engine: &Engine,
    tokens: &[u32],
    steps: &[usize],
    observer: &mut O,
) -> Vec<i32> {
    let mut cache = engine.new_cache();
    let mut all = Vec::new();
    let mut at = 0;
    for step in steps {
        let mut rows = engine.embed(&tokens[at..at + step], at, observer).unwrap();
        engine.layers(&mut rows, &mut cache, observer).unwrap();
        let positions: Vec<usize> = (at..at + step).collect();
        all.extend(engine.logits(&rows, &positions, observer).unwrap());
        at += step;
    }
    assert_eq!(at, tokens.len());
    all
}
