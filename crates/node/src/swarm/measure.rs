//! How fast this machine computes its layers: what a node announces, measured when it starts.

use lockstep_base::Digest;
use lockstep_base::leaf::TaskSecret;
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::rng::SplitMix64;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::stage::{StageRun, StepInput, Task};
use lockstep_runtime::trace::TraceMode;
use std::time::{Duration, Instant};

/// Positions of the measured prefill.
const PREFILL_POSITIONS: usize = 32;
/// Steps of measured decoding.
const DECODE_STEPS: usize = 8;
/// No more steps are measured after this long.
const PATIENCE: Duration = Duration::from_secs(2);
/// Residual values that enter a stage without the embedding: of the size that embeddings have.
const ROW_VALUE_MAX: u64 = 1 << 12;

/// Milli-tokens per second through one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// One token at a time.
    pub decode_milli: u64,
    /// A prompt at once.
    pub prefill_milli: u64,
}

/// Measures `part`, computed by `engine` as it is in serving, receipts included; `None` if the part does not take what is put in.
#[must_use]
pub fn measure(engine: &Engine, part: Part) -> Option<Measured> {
    let config = &engine.weights.config;
    let (vocab, width) = (config.vocab, config.d_model as usize);
    let positions = PREFILL_POSITIONS.min(config.context as usize / 2).max(1);
    let steps = DECODE_STEPS.min(config.context as usize - positions);
    let task = Task {
        secrets: TaskSecret([0; 32]).stage(0),
        parameters: Parameters::greedy(1),
        sampler_seed: Digest::ZERO,
        mode: TraceMode::Boundary,
        keep_leaves: false,
        top_logprobs: None,
        adapter: None,
    };
    let mut run = StageRun::new(engine.clone(), part, task);
    let mut rng = SplitMix64::new(1);
    let mut step = |count: usize| {
        let tokens: Vec<u32> = (0..count).map(|_| rng.below(u64::from(vocab)) as u32).collect();
        let value = |_| rng.below(2 * ROW_VALUE_MAX) as i32 - ROW_VALUE_MAX as i32;
        let rows: Vec<i32> = if part.embed { Vec::new() } else { (0..count * width).map(value).collect() };
        let input = if part.embed { StepInput::Tokens(&tokens) } else { StepInput::Rows(&rows) };
        let last = run.position() + count as u32 - 1;
        let began = Instant::now();
        run.step(input, last, &mut Silent).ok().map(|_| began.elapsed())
    };
    // The first step finds nothing in the caches.
    let cold = step(positions)?;
    let mut decode = Vec::new();
    let began = Instant::now();
    while decode.len() < steps && (decode.is_empty() || began.elapsed() < PATIENCE) {
        decode.push(step(1)?);
    }
    decode.sort_unstable();
    let layers = part.layer_count();
    let median = decode.get(decode.len() / 2).copied().unwrap_or(cold);
    Some(Measured { decode_milli: rate(layers, median), prefill_milli: rate(layers * positions, cold) })
}

/// Layer-tokens in a time, in milli-tokens per second.
fn rate(layer_tokens: usize, time: Duration) -> u64 {
    let nanos = time.as_nanos().max(1);
    u64::try_from(layer_tokens.max(1) as u128 * 1_000_000_000_000 / nanos).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_base::weights::WeightFormat;
    use lockstep_runtime::kernels::Compute;
    use lockstep_runtime::synthetic;
    use std::sync::Arc;

    /// Every part of a model can be measured, with and without the ends.
    #[test]
    fn every_part_is_measured() {
        let weights = synthetic::model(&synthetic::small_config(), WeightFormat::Int8, 11);
        for part in Part::split(4, 3).into_iter().chain([Part::whole(4)]) {
            let engine = Engine::new(Arc::new(weights.clone().restrict(&part)), Arc::new(Compute::new(1)));
            let measured = measure(&engine, part).unwrap_or_else(|| panic!("{part}"));
            assert!(measured.decode_milli > 1 && measured.prefill_milli > 1, "{part}: {measured:?}");
        }
    }

    /// The unit: 4 layers in 2 milliseconds are 2,000 tokens a second through one layer.
    #[test]
    fn rates_have_their_unit() {
        assert_eq!(rate(4, Duration::from_millis(2)), 2_000_000);
        assert_eq!(rate(0, Duration::ZERO), 1_000_000_000_000);
    }
}
