//! A calibration text for models that cannot write one: stories by the embedded model.
//!
//! They are neither the language nor the matter of every encoder, and still closer to what it will read than
//! random tokens are (docs/claims/accuracy.md). All of it is integers, so the same stories come out everywhere; another
//! embedded model tells others.

use crate::bundles::EMBEDDED;
use lockstep_base::params::{ONE_Q16, Parameters, client_seed, draw};
use lockstep_base::part::Part;
use lockstep_model::bundle::Bundle;
use lockstep_model::quantise::calibration_texts;
use lockstep_model::source::Source;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::{Compute, Kernel};
use lockstep_runtime::observe::Silent;
use lockstep_runtime::pool::Pool;
use lockstep_runtime::sample::sample;
use std::error::Error;
use std::sync::Arc;

/// Bytes of stories for each token that calibration asks for: tokenizers make more of them.
const BYTES_PER_TOKEN: usize = 5;

/// Marks that end a sentence.
const ENDS: [char; 3] = ['.', '!', '?'];

/// Stories for about `tokens` tokens of an encoder; none for a decoder, which writes for itself, and none where the
/// vocabulary cannot say them.
pub(in crate::cli) fn for_encoder(source: &Source, tokens: usize) -> Result<Option<String>, Box<dyn Error>> {
    if tokens == 0 || source.model.head_matrix().is_some() {
        return Ok(None);
    }
    let text = write(tokens * BYTES_PER_TOKEN, Kernel::detect())?;
    let fits = calibration_texts(&text, source, tokens).is_ok_and(|texts| !texts.is_empty());
    Ok(fits.then_some(text))
}

/// At least `bytes` of stories, a paragraph each sentence: what encoders read is mostly short.
fn write(bytes: usize, kernel: Kernel) -> Result<String, Box<dyn Error>> {
    let bundle = Bundle::from_bytes(EMBEDDED)?;
    let tokenizer = bundle.tokenizer()?;
    let weights = bundle.load(&Part::whole(bundle.config().n_layers))?;
    let compute = Compute { kernel, pool: Pool::new(1) };
    let engine = Engine::new(Arc::new(weights), Arc::new(compute));
    let mut text = String::new();
    // A story has a word at least, so there are not more stories than bytes.
    for seed in 0..bytes as u64 {
        if text.len() >= bytes {
            break;
        }
        let story = tokenizer.decode(&story(&engine, seed)?);
        for word in story.split_whitespace() {
            text.push_str(word);
            text.push_str(if word.trim_end_matches('"').ends_with(ENDS) { "\n\n" } else { " " });
        }
        text.push_str("\n\n");
    }
    Ok(text)
}

/// One story at temperature 1, to its end or that of the context.
fn story(engine: &Engine, seed: u64) -> Result<Vec<u32>, Box<dyn Error>> {
    let config = &engine.weights.config;
    let head = engine.weights.head.as_ref().ok_or("the embedded model has no head")?;
    let parameters = Parameters { temperature_q16: ONE_Q16, ..Parameters::greedy(config.context) };
    let seed = client_seed(seed, 0);
    let (mut tokens, mut cache) = (Vec::new(), engine.new_cache());
    let mut token = config.bos.unwrap_or(0);
    for position in 0..config.context {
        let mut x = engine.embed(&[token], position as usize, &mut Silent)?;
        engine.layers(&mut x, &mut cache, &mut Silent)?;
        let logits = engine.logits(&x, &[position as usize], &mut Silent)?;
        let exp2 = &engine.weights.tables.exp2_sample;
        token = sample(&logits, head.out_frac.into(), &parameters, draw(&seed, position), exp2);
        if config.eos.contains(&token) || config.bos == Some(token) {
            break;
        }
        tokens.push(token);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough of them, the same with every kernel, and no two alike.
    #[test]
    fn stories_are_written_until_there_is_enough() {
        let text = write(1_500, Kernel::detect()).unwrap();
        assert_eq!(text, write(1_500, Kernel::Scalar).unwrap());
        let sentences: Vec<&str> = text.split("\n\n").filter(|sentence| !sentence.is_empty()).collect();
        assert!(text.len() >= 1_500 && sentences.len() > 20, "{text}");
        // Each ends where it should, but for one that the context cut off; and another story is another.
        let whole =
            sentences.iter().filter(|sentence| sentence.trim_end_matches('"').ends_with(ENDS)).count();
        assert!(whole >= sentences.len() * 9 / 10 && sentences.iter().all(|s| !s.contains(". ")), "{text}");
        assert_ne!(sentences[0], sentences[whole / 2], "{text}");
    }
}
