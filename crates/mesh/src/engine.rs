//! A stage that computes with the exact runtime.

use crate::compute::{ComputeError, ComputeFactory, Output, Sampled, StageCompute};
use crate::data::Values;
use crate::message::{Alternative, Logprobs, Open};
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_runtime::forward::{Engine, ForwardError};
use lockstep_runtime::observe::{Observer, Silent};
use lockstep_runtime::sample::Distribution;
use lockstep_runtime::stage::{SpanSummary, StageRun, StepInput, StepOutput, Task};
use lockstep_runtime::trace::TraceMode;
use std::sync::Arc;

/// Makes the observer of a task that may change op outputs: a fault drill.
pub type DrillFactory = Box<dyn Fn(&Open) -> Box<dyn Observer + Send> + Send>;

/// Serves `part` with one engine.
pub struct EngineFactory {
    /// Weights of the part, kernel and threads.
    pub engine: Engine,
    /// What the weights are.
    pub part: Part,
    /// Adapters that tasks may ask for by their root; they fit the model and hold the layers of the part.
    pub adapters: Vec<Arc<AdapterWeights>>,
    /// Whether the bytes under the leaves are kept, to serve them on request.
    pub keep_leaves: bool,
    /// Sees every op output of every task before the trace does.
    pub drill: Option<DrillFactory>,
}

impl core::fmt::Debug for EngineFactory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EngineFactory").field("part", &self.part).finish_non_exhaustive()
    }
}

impl ComputeFactory for EngineFactory {
    fn open(&self, open: &Open) -> Result<Box<dyn StageCompute>, ComputeError> {
        if open.part != self.part {
            return Err(ComputeError::Input(format!("part {}, expected {}", open.part, self.part)));
        }
        let adapter = self.adapters.iter().find(|adapter| adapter.root == open.adapter).cloned();
        if adapter.is_none() && open.adapter != Digest::ZERO {
            let count = self.adapters.len();
            let text = format!("adapter {}, expected none or one of the {count} served here", open.adapter);
            return Err(ComputeError::Input(text));
        }
        let task = Task {
            secrets: open.secrets.clone(),
            // Only the stage with the head is told the parameters, and only it reads them.
            parameters: open.parameters.clone().unwrap_or_else(|| Parameters::greedy(0)),
            sampler_seed: open.sampler_seed,
            mode: if open.full_trace { TraceMode::Full } else { TraceMode::Boundary },
            keep_leaves: self.keep_leaves,
            top_logprobs: open.logprobs.map(u32::from),
            adapter,
        };
        let run = StageRun::new(self.engine.clone(), self.part, task);
        let drill = self.drill.as_ref().map(|make| make(open));
        Ok(Box::new(EngineCompute { run, drill }))
    }
}

struct EngineCompute {
    run: StageRun,
    drill: Option<Box<dyn Observer + Send>>,
}

impl StageCompute for EngineCompute {
    fn forward(&mut self, start: u32, values: &Values, sample_from: u32) -> Result<Output, ComputeError> {
        if start != self.run.position() {
            let expected = self.run.position();
            return Err(ComputeError::Input(format!("position {start}, expected {expected}")));
        }
        let input = match values {
            Values::Tokens(tokens) => StepInput::Tokens(tokens),
            Values::Rows(rows) => StepInput::Rows(rows),
        };
        let output = match &mut self.drill {
            None => self.run.step(input, sample_from, &mut Silent),
            Some(drill) => self.run.step(input, sample_from, &mut &mut **drill),
        };
        Ok(match output.map_err(|error| refuse(&error))? {
            StepOutput::Rows(rows) => Output::Rows(rows),
            StepOutput::Sampled(sampled) => Output::Sampled(
                sampled
                    .into_iter()
                    .map(|sampled| Sampled {
                        token: sampled.token,
                        logprobs: sampled.distribution.map(logprobs),
                    })
                    .collect(),
            ),
        })
    }

    fn close_span(&mut self, positions: Range<u32>) -> SpanSummary {
        self.run.close_span(positions)
    }

    fn truncate(&mut self, position: u32) {
        self.run.truncate(position);
    }
}

fn refuse(error: &ForwardError) -> ComputeError {
    match error {
        ForwardError::Range { .. } => ComputeError::Range(error.to_string()),
        _ => ComputeError::Input(error.to_string()),
    }
}

fn logprobs(distribution: Distribution) -> Logprobs {
    let top = distribution.top.into_iter();
    Logprobs {
        chosen: distribution.chosen,
        max: distribution.largest,
        weight_sum: distribution.weight_sum,
        frac: distribution.frac,
        top: top.map(|(token, logit)| Alternative { token, logit }).collect(),
    }
}
