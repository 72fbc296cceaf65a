//! Many sequences decoded at once: weights are read once for all of them, so a batch costs little more than
//! one sequence until arithmetic, and no longer memory, is what takes the time.
//!
//! Every sequence of a batch is computed alone too, and the logits of every step are compared by
//! their digests: a benchmark of something that gives other bits would be worth nothing.

use super::median;
use crate::local::PREFILL_CHUNK;
use lockstep_base::Digest;
use lockstep_base::rng::SplitMix64;
use lockstep_runtime::forward::{Engine, ForwardError, HeadRows, Segment};
use lockstep_runtime::kv::KvCache;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::sample::greedy;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Why a batch could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum BatchError {
    /// The arithmetic.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// A sequence of a batch has other bits than alone.
    #[error(
        "sequence {sequence} of the batch differs at step {step} from computing it alone: this is a defect"
    )]
    Differs {
        /// The sequence.
        sequence: usize,
        /// The first step that differs.
        step: usize,
    },
}

/// Sequences after their prompts.
pub(crate) struct Sequences<'a> {
    engine: &'a Engine,
    caches: Vec<KvCache>,
    first: Vec<u32>,
    prompt: usize,
    generate: usize,
    /// Steps of each sequence alone: token and digest of the logits.
    alone: Vec<Vec<Step>>,
    seconds_alone: Vec<f64>,
    seconds: Vec<f64>,
}

/// What a sequence gets in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    token: u32,
    logits: Digest,
}

impl<'a> Sequences<'a> {
    /// Prefills `count` sequences of different prompts.
    pub(crate) fn new(
        engine: &'a Engine,
        count: usize,
        prompt: usize,
        generate: usize,
        seed: u64,
    ) -> Result<Sequences<'a>, BatchError> {
        let mut rng = SplitMix64::new(seed);
        let vocab = u64::from(engine.weights.config.vocab);
        let mut caches = Vec::with_capacity(count);
        let mut first = Vec::with_capacity(count);
        for _ in 0..count {
            let tokens: Vec<u32> = (0..prompt).map(|_| rng.below(vocab) as u32).collect();
            let mut cache = engine.new_cache();
            for chunk in tokens.chunks(PREFILL_CHUNK) {
                let mut x = engine.embed(chunk, cache.len(), &mut Silent)?;
                engine.layers(&mut x, &mut cache, &mut Silent)?;
            }
            caches.push(cache);
            first.push(rng.below(vocab) as u32);
        }
        Ok(Sequences {
            engine,
            caches,
            first,
            prompt,
            generate,
            alone: Vec::new(),
            seconds_alone: Vec::new(),
            seconds: Vec::new(),
        })
    }

    /// One round: a sequence alone (the first time all of them), then all at once.
    pub(crate) fn round(&mut self) -> Result<(), BatchError> {
        if self.alone.is_empty() {
            for sequence in 0..self.caches.len() {
                let (mut steps, seconds) = self.decode(&[sequence])?;
                self.alone.append(&mut steps);
                self.seconds_alone.push(seconds);
            }
        } else {
            let (_, seconds) = self.decode(&[0])?;
            self.seconds_alone.push(seconds);
        }
        let all: Vec<usize> = (0..self.caches.len()).collect();
        let (together, seconds) = self.decode(&all)?;
        self.seconds.push(seconds);
        for (sequence, (alone, together)) in self.alone.iter().zip(&together).enumerate() {
            if let Some(step) = alone.iter().zip(together).position(|(a, b)| a != b) {
                return Err(BatchError::Differs { sequence, step });
            }
        }
        Ok(())
    }

    /// Decodes some sequences together, greedily; their steps, and the seconds without hashing.
    fn decode(&mut self, which: &[usize]) -> Result<(Vec<Vec<Step>>, f64), BatchError> {
        let vocab = self.engine.weights.config.vocab as usize;
        let mut caches: Vec<&mut KvCache> = Vec::with_capacity(which.len());
        for (index, cache) in self.caches.iter_mut().enumerate() {
            if which.contains(&index) {
                cache.truncate(self.prompt);
                caches.push(cache);
            }
        }
        let mut tokens: Vec<u32> = which.iter().map(|index| self.first[*index]).collect();
        let mut steps: Vec<Vec<Step>> = vec![Vec::with_capacity(self.generate); which.len()];
        let mut spent = Duration::ZERO;
        for _ in 0..self.generate {
            let began = Instant::now();
            let logits = step(self.engine, &tokens, &mut caches)?;
            tokens = logits.chunks(vocab).map(greedy).collect();
            spent += began.elapsed();
            for ((steps, token), logits) in steps.iter_mut().zip(&tokens).zip(logits.chunks(vocab)) {
                let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
                steps.push(Step { token: *token, logits: Digest::of(&[&bytes]) });
            }
        }
        Ok((steps, spent.as_secs_f64()))
    }

    /// The figures.
    pub(crate) fn report(&self) -> Value {
        let (count, generate) = (self.caches.len() as f64, self.generate as f64);
        let (one, all) = (generate / median(&self.seconds_alone), count * generate / median(&self.seconds));
        json!({
            "sequences": self.caches.len(),
            "tokens_per_second": all,
            "one_sequence_tokens_per_second": one,
            "ratio_to_one_sequence": all / one,
            "bit_equal_to_alone": true,
            "seconds": self.seconds,
            "one_sequence_seconds": self.seconds_alone,
        })
    }
}

/// One token for each sequence; logits `(sequences, vocab)`.
pub(crate) fn step(
    engine: &Engine,
    tokens: &[u32],
    caches: &mut [&mut KvCache],
) -> Result<Vec<i32>, ForwardError> {
    let positions: Vec<usize> = caches.iter().map(|cache| cache.len()).collect();
    let mut x = Vec::with_capacity(tokens.len() * engine.width());
    for (token, position) in tokens.iter().zip(&positions) {
        x.extend(engine.embed(&[*token], *position, &mut Silent)?);
    }
    let mut silent = vec![Silent; tokens.len()];
    let mut segments: Vec<Segment<'_, Silent>> = caches
        .iter_mut()
        .zip(&mut silent)
        .map(|(cache, observer)| Segment { cache, rows: 1, observer })
        .collect();
    engine.layers_batch(&mut x, &mut segments)?;
    let mut silent = vec![Silent; tokens.len()];
    let mut rows: Vec<HeadRows<'_, Silent>> = positions
        .chunks(1)
        .zip(&mut silent)
        .map(|(positions, observer)| HeadRows { positions, observer })
        .collect();
    engine.logits_batch(&x, &mut rows)
}
