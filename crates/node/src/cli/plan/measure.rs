//! How fast this machine computes layers of a shape at their real width: a few of them with random weights, timed.
//!
//! As many layers are made as exceed the caches, so that weights are streamed as in a whole model.

use super::sizes::Sizes;
use crate::cli::bench::{available, median};
use lockstep_base::config::ModelConfig;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use lockstep_runtime::forward::{Engine, ForwardError, Segment};
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::kv::KvCache;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::synthetic;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

/// Weights that no cache holds.
const BYTES_MIN: u64 = 512 << 20;
/// Tokens of the measured prefill chunk.
pub(crate) const CHUNK: usize = 128;
/// Sequences of the measured batch.
pub(crate) const BATCH: usize = 8;
/// Tokens of the vocabulary: the block's input is embedded, the head is not measured.
const VOCAB: u32 = 64;
/// Repetitions of each figure.
const RUNS: usize = 5;

/// Seconds for one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speed {
    /// One token of one sequence.
    pub(crate) decode: f64,
    /// One token of each of [`BATCH`] sequences.
    pub(crate) batch: f64,
    /// A chunk of [`CHUNK`] tokens.
    pub(crate) prefill: f64,
    /// Layers that were made.
    pub(crate) layers: u32,
}

/// Measures layers of `config`.
pub(crate) fn measure(
    config: &ModelConfig,
    format: WeightFormat,
    sizes: &Sizes,
    compute: &Arc<Compute>,
) -> Result<Speed, Box<dyn Error>> {
    let layers = BYTES_MIN.div_ceil(sizes.layer.max(1)).clamp(1, config.n_layers.into()) as u32;
    let needed = u64::from(layers) * sizes.layer;
    if let Some(free) = available().filter(|free| *free < needed) {
        return Err(
            format!("one layer takes {needed} bytes, this machine has {free} free to measure it").into()
        );
    }
    let context = config.context.min(2048);
    let mut config = ModelConfig { n_layers: layers, vocab: VOCAB, context, ..config.clone() };
    config.bos = None;
    config.eos.clear();
    config.pattern.truncate(layers as usize);
    config.pattern.iter_mut().for_each(|kind| kind.window = kind.window.min(context));
    config.validate()?;
    let engine = Engine::new(Arc::new(synthetic::model(&config, format, 1)), compute.clone());
    let mut rng = SplitMix64::new(2);
    let chunk = CHUNK.min(context as usize / 2);
    let tokens: Vec<u32> = (0..chunk).map(|_| rng.below(VOCAB.into()) as u32).collect();

    let mut caches: Vec<KvCache> = (0..BATCH).map(|_| engine.new_cache()).collect();
    for cache in &mut caches {
        let mut x = engine.embed(&tokens[..1], 0, &mut Silent)?;
        engine.layers(&mut x, cache, &mut Silent)?;
    }
    let (mut prefill, mut decode, mut batch) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let mut cache = engine.new_cache();
        let mut x = engine.embed(&tokens, 0, &mut Silent)?;
        let began = Instant::now();
        engine.layers(&mut x, &mut cache, &mut Silent)?;
        prefill.push(began.elapsed().as_secs_f64() * CHUNK as f64 / chunk as f64);
        decode.push(step(&engine, &mut [&mut cache])?);
        batch.push(step(&engine, &mut caches.iter_mut().collect::<Vec<_>>())?);
    }
    let each = |seconds: &[f64]| median(seconds) / f64::from(layers);
    Ok(Speed { decode: each(&decode), batch: each(&batch), prefill: each(&prefill), layers })
}

/// Seconds of one more token for each sequence.
fn step(engine: &Engine, caches: &mut [&mut KvCache]) -> Result<f64, ForwardError> {
    let mut x = Vec::new();
    for (index, cache) in caches.iter().enumerate() {
        x.extend(engine.embed(&[index as u32 % VOCAB], cache.len(), &mut Silent)?);
    }
    let mut silent = vec![Silent; caches.len()];
    let mut segments: Vec<Segment<'_, Silent>> = caches
        .iter_mut()
        .zip(&mut silent)
        .map(|(cache, observer)| Segment { cache, rows: 1, observer })
        .collect();
    let began = Instant::now();
    engine.layers_batch(&mut x, &mut segments)?;
    Ok(began.elapsed().as_secs_f64())
}
