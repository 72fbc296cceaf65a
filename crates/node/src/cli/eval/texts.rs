//! The text that a model is judged on, cut into windows.

use super::super::CommandResult;
use super::read;
use lockstep_base::config::ModelConfig;
use lockstep_model::float::{self, Rng, Sampling};
use lockstep_model::source::FloatModel;
use lockstep_model::tokenizer::{MAX_TEXT_BYTES, Tokenizer};
use std::error::Error;
use std::path::Path;

/// What separates documents in a text.
const SEPARATOR: &str = "<|endoftext|>";
/// Temperature of self-generated text: the model's own distribution.
const GENERATED_TEMPERATURE: f64 = 1.0;

/// Windows of tokens, and what they stand for.
#[derive(Default)]
pub(in crate::cli) struct TestSet {
    pub(in crate::cli) windows: Vec<Vec<u32>>,
    /// Tokens that are predicted, and the bytes that they stand for.
    pub(in crate::cli) predicted: usize,
    pub(in crate::cli) bytes: usize,
}

impl TestSet {
    pub(in crate::cli) fn read(
        path: &Path,
        tokenizer: &Tokenizer,
        config: &ModelConfig,
        limit: Option<usize>,
    ) -> Result<TestSet, Box<dyn Error>> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let bytes = read(path, MAX_TEXT_BYTES as u64)?;
        let text = String::from_utf8(bytes).map_err(|error| named(&error))?;
        let mut set = TestSet::default();
        for document in text.split(SEPARATOR).map(str::trim).filter(|document| !document.is_empty()) {
            let left = limit.map_or(usize::MAX, |limit| limit.saturating_sub(set.predicted));
            if left == 0 {
                break;
            }
            let tokens = tokenizer.encode(document, false).map_err(|error| named(&error))?;
            let kept = &tokens[..tokens.len().min(left)];
            let bytes = if kept.len() == tokens.len() { document.len() } else { byte_count(tokenizer, kept) };
            set.add(kept, bytes, tokenizer, config);
        }
        Ok(set)
    }

    /// One document.
    fn add(&mut self, tokens: &[u32], bytes: usize, tokenizer: &Tokenizer, config: &ModelConfig) {
        let bos = config.bos;
        let context = config.context as usize;
        self.bytes += bytes;
        for part in tokens.chunks((context - usize::from(bos.is_some())).max(1)) {
            let window: Vec<u32> = bos.into_iter().chain(part.iter().copied()).collect();
            self.predicted += window.len() - 1;
            if bos.is_none() {
                // Nothing predicts the first token of a window.
                self.bytes -= byte_count(tokenizer, &part[..1]).min(self.bytes);
            }
            if window.len() > 1 {
                self.windows.push(window);
            }
        }
    }

    /// `count` tokens in the float model's own words.
    pub(in crate::cli) fn add_generated(
        &mut self,
        float: &FloatModel,
        tokenizer: &Tokenizer,
        config: &ModelConfig,
        count: usize,
        seed: u64,
    ) -> CommandResult {
        let first = config.bos.or(config.eos.first().copied()).unwrap_or(0);
        let sampling = Sampling::Temperature(GENERATED_TEMPERATURE);
        let stream = float::generate(float, &[first], count, &config.eos, sampling, &mut Rng::new(seed))?;
        // A text ends with an end token, or where the context was full; see `float::generate`.
        let longest = float.config.context - 1;
        let mut rest = stream.as_slice();
        while !rest.is_empty() {
            let end =
                rest.iter().position(|token| config.eos.contains(token)).map_or(rest.len(), |at| at + 1);
            let (text, after) = rest.split_at(end.min(longest.max(1)));
            self.add(text, byte_count(tokenizer, text), tokenizer, config);
            rest = after;
        }
        Ok(())
    }
}

fn byte_count(tokenizer: &Tokenizer, tokens: &[u32]) -> usize {
    tokens.iter().filter_map(|token| tokenizer.token_bytes(*token)).map(<[u8]>::len).sum()
}
