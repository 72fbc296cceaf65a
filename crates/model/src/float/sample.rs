//! Choosing tokens: for tests, and to let a model write its own calibration text.

use super::{FloatError, Runner};
use crate::source::FloatModel;
pub use lockstep_base::rng::SplitMix64 as Rng;

/// Uniform in [0, 1).
fn uniform(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// The largest logit, the lowest index of equals.
    Greedy,
    /// Softmax of `logits / temperature`.
    Temperature(f64),
}

impl Sampling {
    /// Picks a token.
    pub fn pick(self, logits: &[f32], rng: &mut Rng) -> u32 {
        let Sampling::Temperature(temperature) = self else { return argmax(logits) };
        if temperature <= 0.0 {
            return argmax(logits);
        }
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let weights: Vec<f64> = logits.iter().map(|&x| ((f64::from(x) - max) / temperature).exp()).collect();
        let mut left = uniform(rng) * weights.iter().sum::<f64>();
        for (token, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return token as u32;
            }
        }
        argmax(logits)
    }
}

/// Index of the largest logit, the lowest of equals.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// `n_new` tokens after `prompt`. When one of `eos` appears or the context is full, the prompt begins anew: the result is
/// a stream of several texts, which is what calibration wants. Without `eos` and within the context it is one text.
///
/// # Errors
/// If the prompt is empty, too long for the context, or holds an unknown token.
pub fn generate(
    model: &FloatModel,
    prompt: &[u32],
    n_new: usize,
    eos: &[u32],
    sampling: Sampling,
    rng: &mut Rng,
) -> Result<Vec<u32>, FloatError> {
    let context = model.config.context;
    if prompt.is_empty() || prompt.len() >= context {
        return Err(FloatError::ContextFull { got: prompt.len(), context });
    }
    let mut runner = Runner::new(model);
    let mut tokens = Vec::with_capacity(n_new);
    let mut logits = Vec::new();
    while tokens.len() < n_new {
        let ended = tokens.last().is_some_and(|last| eos.contains(last));
        if runner.position() == 0 || ended || runner.position() >= context {
            runner.reset();
            for &token in prompt {
                logits = runner.step(token)?;
            }
        } else if let Some(&last) = tokens.last() {
            logits = runner.step(last)?;
        }
        tokens.push(sampling.pick(&logits, rng));
    }
    Ok(tokens)
}
